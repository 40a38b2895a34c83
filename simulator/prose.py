"""Generation of readable English text for simulated answers, deterministic by seed and marked as simulated."""

import random
from functools import cache

_OPENING_TOKENS = ("[sim", "ulat", "ed]")
_SUBJECTS = ("a steady stream", "every small piece", "the next word", "a quiet reader", "this simulated text")
_VERBS = ("arrives", "waits its turn", "moves on", "keeps its time", "finds its place")
_ADVERBIALS = ("on a set schedule", "after a short pause", "one step at a time", "as the clock allows", "in good order")
_REMARKS = ("No model wrote it", "Nothing here was thought up", "The clock is the point", "Only its timing matters")
_FILLER_TEXT = (
    " And so it runs on, word by word, step by step, at its own set pace, time and time again, from the top to the end,"
    " and then once more for who came late, as it was, no more and no less"
)


def make_tokens(rng: random.Random, count: int) -> tuple[str, ...]:
    """Return `count` tokens of about four characters that form prose ending with a full stop."""
    tokens = list(_OPENING_TOKENS[:count])
    while len(tokens) < count:
        pieces = [piece for word in _make_sentence(rng).split() for piece in _split_word(word)]
        tokens += pieces if len(pieces) <= count - len(tokens) else _filler_tokens(count - len(tokens))
    return tuple(tokens)


def _make_sentence(rng: random.Random) -> str:
    what, does, when = rng.choice(_SUBJECTS), rng.choice(_VERBS), rng.choice(_ADVERBIALS)
    match rng.randrange(4):
        case 0:
            return f"In this text {what} {does} {when}."
        case 1:
            return f"{rng.choice(_REMARKS)}, and {what} {does} {when}."
        case 2:
            return f"So {what} {does}, and then {rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {when}."
        case _:
            return f"{rng.choice(_REMARKS)}; still {what} {does}."


@cache
def _split_word(word: str) -> tuple[str, ...]:
    """Split a word and its leading space into even parts of about four characters, like a model's tokens."""
    text = " " + word
    parts = max(1, round(len(text) / 4))
    return tuple(text[len(text) * part // parts : len(text) * (part + 1) // parts] for part in range(parts))


@cache
def _filler_tokens(count: int) -> tuple[str, ...]:
    """Return filler of one short word per token for a space too short for a sentence, ending with a full stop."""
    words = [" " + word for word in _FILLER_TEXT.split()]
    return (*words[: count - 1], words[count - 1].rstrip(",") + ".")

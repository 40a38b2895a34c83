"""Readable texts without end, different for each seed, and the cut of a text to a number of tokens."""

import random
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle, islice

from evaluation.prompts.prompt_file import BodyStyle

_ADJECTIVES = (
    "amber", "ancient", "bitter", "bright", "broken", "calm", "cheap", "clean", "cold", "common", "copper", "curved",
    "dark", "deep", "distant", "double", "dry", "early", "empty", "even", "famous", "fast", "final", "flat", "foreign",
    "fresh", "frozen", "gentle", "golden", "green", "heavy", "hidden", "hollow", "iron", "large", "late", "light",
    "local", "loud", "modern", "narrow", "northern", "open", "orange", "pale", "plain", "quiet", "rapid", "rare", "red",
    "rough", "round", "sharp", "silent", "silver", "slow", "small", "smooth", "solid", "southern", "steep", "strong",
    "sweet", "tall", "thin", "upper", "violet", "warm", "western", "white", "wide", "wild", "winter", "wooden",
    "yellow",
)  # fmt: skip
_NOUNS = (
    "anchor", "archive", "barrel", "basket", "bell", "bottle", "bridge", "bucket", "cable", "candle", "canvas", "chain",
    "clock", "coat", "engine", "ferry", "fence", "field", "filter", "garden", "gate", "glass", "hammer", "harbor",
    "horse", "kettle", "ladder", "lamp", "letter", "library", "machine", "map", "market", "mill", "mirror", "mountain",
    "needle", "orchard", "paper", "pencil", "piano", "pipe", "plate", "pump", "quarry", "radio", "railway", "river",
    "road", "roof", "rope", "school", "ship", "shop", "signal", "spring", "stage", "station", "stone", "stove", "table",
    "tower", "train", "tunnel", "valley", "village", "wagon", "wall", "water", "wheel", "window", "workshop",
)  # fmt: skip
_VERBS = (
    "carried", "changed", "checked", "cleaned", "closed", "counted", "covered", "crossed", "drew", "filled", "found",
    "kept", "lifted", "measured", "moved", "opened", "painted", "passed", "repaired", "replaced", "showed", "sold",
    "stored", "tested", "used", "watched", "weighed",
)  # fmt: skip
_PEOPLE = (
    "the captain", "the carpenter", "the clerk", "the driver", "the engineer", "the farmer", "the gardener",
    "the guard", "the judge", "the keeper", "the miller", "the nurse", "the painter", "the pilot", "the printer",
    "the sailor", "the teacher", "the visitors", "the weaver", "two neighbors", "our guide", "a stranger",
)  # fmt: skip
_TIMES = (
    "in the morning", "after the rain", "before noon", "every week", "in spring", "during the storm", "at night",
    "for a year", "since autumn", "on market days", "once a month", "in the end",
)  # fmt: skip
CLOSINGS: dict[BodyStyle, str] = {
    "prose": "\n\nContinue this text at length, in the same manner and without any remark of your own.",
    "code": "\n\nExplain this code at length, function by function and line by line.",
}
SEPARATORS: dict[BodyStyle, str] = {"prose": " ", "code": "\n"}
"""Between a shared prefix and what follows: short, since it is shared as well."""
MIN_CLOSING_TOKENS = 50
"""A shorter text has no room for a request at its end."""
_FILLERS = (" now", " too", " yet")
"""Short words, one token each in every common encoding and by the estimate, where no whole word fits any more."""
_SENTENCES_PER_PARAGRAPH = 5


def iter_pieces(seed: str, style: BodyStyle) -> Iterator[str]:
    """Yield words with the white space before them, without end. Texts of different seeds differ from the first on."""
    rng = random.Random(f"text {seed}")
    while True:
        block = _make_function(rng) if style == "code" else _make_paragraph(rng)
        yield from _split_words(f"\n\n{block}")


def _split_words(text: str) -> Iterator[str]:
    """Yield the words of a text, each with the white space before it."""
    start, in_word = 0, False
    for place, character in enumerate(text):
        if character.isspace() and in_word:
            yield text[start:place]
            start, in_word = place, False
        in_word = in_word or not character.isspace()
    yield text[start:]


def _make_paragraph(rng: random.Random) -> str:
    title = f"{rng.choice(_ADJECTIVES).capitalize()} {rng.choice(_NOUNS)}, {_thing(rng)}"
    sentences = " ".join(_make_sentence(rng) for _ in range(_SENTENCES_PER_PARAGRAPH))
    return f"{title}\n\n{sentences}"


def _make_sentence(rng: random.Random) -> str:
    who, does, when = rng.choice(_PEOPLE), rng.choice(_VERBS), rng.choice(_TIMES)
    match rng.randrange(4):
        case 0:
            text = f"{who} {does} the {_thing(rng)} {when}."
        case 1:
            text = f"{when}, {who} {does} {rng.randint(2, 99)} of them near the {_thing(rng)}."
        case 2:
            text = f"{who} {does} the {_thing(rng)}, and {rng.choice(_PEOPLE)} {rng.choice(_VERBS)} the {_thing(rng)}."
        case _:
            text = f"the {_thing(rng)} stood beside the {_thing(rng)} until {who} {does} it {when}."
    return text[0].upper() + text[1:]


def _thing(rng: random.Random) -> str:
    return f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}"


def _make_function(rng: random.Random) -> str:
    result, item, field = rng.choice(_ADJECTIVES), rng.choice(_NOUNS), rng.choice(_NOUNS)
    constant, name = (f"{rng.choice(_ADJECTIVES)}_{rng.choice(_NOUNS)}" for _ in range(2))
    factor, limit = rng.randint(2, 9), rng.randint(10, 99)
    return (
        f"{constant} = {limit}\n\n\ndef {name}({item}s):\n"
        f'    """Return the {result} {field} of the {item}s."""\n'
        f"    {result} = 0\n    for {item} in {item}s:\n        if {item}.{field} > {limit}:\n"
        f"            {result} += {item}.{field} * {factor}\n    return {result}"
    )


class TextFitter:
    """Cuts texts to a number of tokens by `count`, and learns how many pieces a token takes."""

    def __init__(self, count: Callable[[str], Awaitable[int]]) -> None:
        self.count = count
        self._pieces_per_token = 0.75

    async def fit(self, pieces: Iterator[str], tokens: int, *, opening: str = "", closing: str = "") -> str:
        """Return the opening, as many pieces as fit, filled up to `tokens` tokens in all, and the closing."""
        text, count = await self._fit(pieces, tokens, opening, closing)
        return text + "".join(islice(cycle(_FILLERS), max(tokens - count, 0))) + closing

    async def fit_prefix(self, pieces: Iterator[str], tokens: int) -> str:
        """Return as many whole pieces as fit into `tokens` tokens."""
        text, _ = await self._fit(pieces, tokens, "", "")
        return text

    async def _fit(self, pieces: Iterator[str], tokens: int, opening: str, closing: str) -> tuple[str, int]:
        """Return the longest text that fits, without its closing, and its tokens with the closing.

        The size is guessed from the tokens of the last guess, between one that fits and one that does not.
        """
        taken: list[str] = []
        low, low_count, high = 0, 0, None
        size = round(tokens * self._pieces_per_token) or 1
        while high is None or high - low > 1:
            taken += islice(pieces, max(size - len(taken), 0))
            count = await self.count(_join(opening, taken[:size]) + closing)
            if count <= tokens:
                low, low_count = size, count
            else:
                high = size
            if count == tokens:
                break
            guess = size + round((tokens - count) * size / max(count, 1))
            size = max(low + 1, guess if high is None else min(guess, high - 1))
        if not opening and low_count:
            self._pieces_per_token = low / low_count
        text = _join(opening, taken[:low])
        return text, low_count or await self.count(text + closing)


def _join(opening: str, pieces: list[str]) -> str:
    return opening + "".join(pieces).lstrip()

"""The options `--timeouts` and `--reader`: numbers by name, such as `first=120,total=900`."""

import math
from collections.abc import Collection
from dataclasses import replace

from evaluation.metrics.experience import ReaderModel, TokenDeadlines
from streaming.errors import UsageError
from streaming.session import Timeouts

TIMEOUT_NAMES = {"connect": "connect_s", "first": "first_content_s", "idle": "idle_s", "total": "total_s"}
"""connect: to an open connection. first: to the first content. idle: between two chunks. total: the whole answer."""
READER_NAMES = ("first", "tokens", "chars")
"""first: seconds until the first text is due. tokens: per second, due after it. chars: per second that are read."""


def parse_timeouts(text: str) -> Timeouts:
    """Return the timeouts, with the defaults for those not named. Raises UsageError when one is invalid."""
    given = _parse_numbers("timeouts", text, TIMEOUT_NAMES, "first=120,total=900")
    named = {TIMEOUT_NAMES[name]: seconds for name, seconds in given.items()}
    timeouts = replace(Timeouts(), **named)
    longest_s = max(timeouts.first_content_s, timeouts.idle_s)
    return timeouts if "total_s" in named else replace(timeouts, total_s=max(timeouts.total_s, longest_s))


def parse_reader(text: str) -> tuple[TokenDeadlines, ReaderModel]:
    """Return the deadlines and the reader of fluidity and QoE. Raises UsageError when a number is invalid."""
    given = _parse_numbers("reader", text, READER_NAMES, "first=2,tokens=20,chars=40")
    deadlines, reader = TokenDeadlines(), ReaderModel()
    first_s = given.get("first", deadlines.first_s)
    token_s = 1 / given["tokens"] if "tokens" in given else deadlines.token_s
    return TokenDeadlines(first_s, token_s), ReaderModel(given.get("chars", reader.chars_per_s), first_s)


def _parse_numbers(option: str, text: str, names: Collection[str], example: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in names or not 0 < value < math.inf:
            raise UsageError(f"{option}: {part.strip()!r} is not NAME=NUMBER (use {', '.join(names)}, as in {example})")
        found[name] = value
    return found

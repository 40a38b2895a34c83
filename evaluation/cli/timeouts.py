"""The option `--timeouts`: seconds by name, such as `first=120,total=900`."""

import math
from dataclasses import replace

from streaming.errors import UsageError
from streaming.session import Timeouts

TIMEOUT_NAMES = {"connect": "connect_s", "first": "first_content_s", "idle": "idle_s", "total": "total_s"}
"""connect: to an open connection. first: to the first content. idle: between two chunks. total: the whole answer."""


def parse_timeouts(text: str) -> Timeouts:
    """Return the timeouts, with the defaults for those not named. Raises UsageError when one is invalid."""
    result: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        try:
            seconds = float(number)
        except ValueError:
            seconds = math.nan
        if name not in TIMEOUT_NAMES or not 0 < seconds < math.inf:
            names = ", ".join(TIMEOUT_NAMES)
            raise UsageError(f"timeouts: {part.strip()!r} is not NAME=SECONDS (use {names}, as in first=120,total=900)")
        result[TIMEOUT_NAMES[name]] = seconds
    timeouts = replace(Timeouts(), **result)
    longest_s = max(timeouts.first_content_s, timeouts.idle_s)
    return timeouts if "total_s" in result else replace(timeouts, total_s=max(timeouts.total_s, longest_s))

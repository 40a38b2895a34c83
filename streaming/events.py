"""Events of one streamed answer: a closed union of frozen dataclasses, and the grammar they obey.

Grammar: any number of deltas, usage and notices, then exactly one `Finish` or `Failed`, last.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

FinishReason = Literal["stop", "length", "content_filter", "tool", "error", "other"]
TokenSource = Literal["reported", "counted", "estimated"]
NoticeKind = Literal[
    "connected", "loading", "retry", "fallback", "served_by", "non_streamed", "trimmed", "budget", "timings",
    "dropped_settings", "retiring",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer, never empty; a delta is not a token and not a word."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """A piece of the model's thinking (what OpenAI calls reasoning), never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of the whole answer so far; a later one replaces an earlier one; None is unknown.

    `output_tokens` includes thinking; `input_tokens` includes those read from a cache (`cached_tokens`) and those
    written to one (`cache_write_tokens`). `billed_usd` is the vendor's own bill, where the answer carries one.
    `is_lower_bound`: the vendor used tokens that its report does not explain.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    thinking_tokens: int | None = None
    cached_tokens: int | None = None
    source: TokenSource = "reported"
    cache_write_tokens: int | None = None
    billed_usd: Decimal | None = None
    is_lower_bound: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """Something told beside the answer: a retry (`delay_s` in `detail`), a fallback, a server's own timings.

    `dropped_settings`: settings were left out of the request (`settings` in `detail`, separated by commas).
    """

    kind: NoticeKind
    message: str
    detail: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer is complete. `raw` is the provider's own word for `reason`; `refused`: the model declined."""

    reason: FinishReason
    raw: str | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer broke; what was delivered stands. `kind` is a `StreamError.kind`, `message` says what to do."""

    kind: str
    message: str
    http_status: int | None = None


Event = TextDelta | ThinkingDelta | Usage | Notice | Finish | Failed
TERMINAL = (Finish, Failed)


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event and its moment in seconds, on whichever monotonic clock the holder says."""

    at_s: float
    event: Event


def dropped_settings_of(events: Iterable[Event]) -> tuple[str, ...]:
    """Return the settings that notices among the events say were left out, each once."""
    notices = (event for event in events if isinstance(event, Notice) and event.kind == "dropped_settings")
    return tuple(dict.fromkeys(name for notice in notices for name in str(notice.detail["settings"]).split(",")))


class GrammarError(Exception):
    """A stream of events broke the grammar: a defect of an adapter or of this project, never of the reader."""


class Grammar:
    """Checks a stream as it passes; `end` says that no more will come."""

    def __init__(self) -> None:
        self.terminal: Finish | Failed | None = None

    def feed(self, event: Event) -> None:
        if self.terminal is not None:
            raise GrammarError(f"{event!r} came after the end, {self.terminal!r}")
        if isinstance(event, TERMINAL):
            self.terminal = event
        elif isinstance(event, (TextDelta, ThinkingDelta)) and not event.text:
            raise GrammarError("an empty delta")

    def end(self) -> None:
        if self.terminal is None:
            raise GrammarError("the stream ended with neither Finish nor Failed")

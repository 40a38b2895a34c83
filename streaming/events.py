"""The events of one streamed answer: a closed union of frozen dataclasses, and the grammar that they obey.

Grammar: any number of deltas, usage reports and notices, then exactly one `Finish` or `Failed` as the last event.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

FinishReason = Literal["stop", "length", "content_filter", "tool", "error", "other"]
TokenSource = Literal["reported", "counted", "estimated"]
NoticeKind = Literal[
    "connected", "loading", "retry", "fallback", "served_by", "non_streamed", "trimmed", "budget", "timings",
    "dropped_settings", "retiring", "answered_by",
]  # fmt: skip
ServerTiming = Literal["queue_s", "load_s", "prefill_s", "decode_s", "total_s"]
"""The names of a server's own timings in seconds: waiting, loading, the prompt, generating, all of it."""


@dataclass(frozen=True, slots=True, init=False)
class TextDelta:
    """A piece of the answer's text, never empty. A delta is neither a token nor a word."""

    text: str

    def __init__(self, text: str) -> None:
        _set_text(self, text)  # one is built per chunk: `object.__setattr__`, as dataclasses call it, takes longer


_set_text: Callable[[TextDelta, str], None] = TextDelta.__dict__["text"].__set__


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """A piece of the model's thinking (OpenAI's term is reasoning), never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of the whole answer so far. A later report replaces an earlier one; None is unknown.

    `output_tokens` includes thinking. `input_tokens` includes the tokens read from a cache (`cached_tokens`) and those
    written to one (`cache_write_tokens`; `cache_write_1h_tokens` of them for an hour, which costs more). `billed_usd`
    is the amount that the vendor says it charges, if the answer contains one. `is_lower_bound`: the vendor used more
    tokens than its report accounts for. `service_tier` is the tier in which the vendor served the request, which
    changes the price.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    thinking_tokens: int | None = None
    cached_tokens: int | None = None
    source: TokenSource = "reported"
    cache_write_tokens: int | None = None
    billed_usd: Decimal | None = None
    is_lower_bound: bool = False
    service_tier: str | None = None
    cache_write_1h_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Information about the answer's progress: a retry (`delay_s` in `detail`), a fallback.

    `dropped_settings`: settings were left out of the request (`settings` in `detail`, separated by commas).
    `answered_by`: who produced the answer; `timings`: the server's own timings (`streaming.origin` has their fields).
    """

    kind: NoticeKind
    message: str
    detail: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer is complete. `raw` is the provider's own finish reason; `refused`: the model declined to answer."""

    reason: FinishReason
    raw: str | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer failed; text that was delivered stays valid. `kind` is a `StreamError.kind`.

    `message` says what to do.
    """

    kind: str
    message: str
    http_status: int | None = None


Event = TextDelta | ThinkingDelta | Usage | Notice | Finish | Failed
TERMINAL = (Finish, Failed)


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event and its timestamp in seconds; the context defines the monotonic clock and its zero."""

    at_s: float
    event: Event


def text_of(events: Iterable[TimedEvent]) -> str:
    """Return the text of the text deltas among the events."""
    return "".join([timed.event.text for timed in events if type(timed.event) is TextDelta])


def notices_of(events: Iterable[TimedEvent]) -> list[Notice]:
    """Return the notices among the events, in their order."""
    return [timed.event for timed in events if type(timed.event) is Notice]


def dropped_settings_of(events: Iterable[Event]) -> tuple[str, ...]:
    """Return the settings that the `dropped_settings` notices among the events list, without duplicates."""
    notices = [event for event in events if type(event) is Notice and event.kind == "dropped_settings"]
    listed = [str(notice.detail["settings"]) for notice in notices]
    return tuple(dict.fromkeys(name for settings in listed for name in settings.split(",")))


class GrammarError(Exception):
    """A stream of events broke the grammar: a defect of an adapter or of this project, never of the caller."""


class Grammar:
    """A check of one stream, event by event; `end` checks that the stream had a terminal event."""

    def __init__(self) -> None:
        self.terminal: Finish | Failed | None = None

    def feed(self, event: Event) -> None:
        """Check the next event. Raises GrammarError."""
        if self.terminal is not None:
            raise GrammarError(f"{event!r}: came after the terminal event {self.terminal!r}")
        if isinstance(event, (TextDelta, ThinkingDelta)):
            if not event.text:
                raise GrammarError(f"{event!r}: empty text")
        elif isinstance(event, TERMINAL):
            self.terminal = event

    def end(self) -> None:
        """Check that the stream had a terminal event. Raises GrammarError."""
        if self.terminal is None:
            raise GrammarError("stream: ended with neither Finish nor Failed")

"""The position of a client in a stream, and the backoff between its connection attempts. Does no I/O."""

import random
from dataclasses import dataclass

from clients.errors import ClientError, InvalidResponseError, MissingEventsError
from clients.events import OUTCOME_EVENTS, TERMINAL_EVENTS

RETRYABLE_STATUSES = (429, 500, 502, 503, 504)
"""The HTTP statuses of a service or proxy after which a retry may succeed."""


@dataclass(slots=True)
class StreamPosition:
    """A client's position in a stream.

    `stream_id` is None until the first event, and `seq` is the number of the last event received. `resumable`: the
    service buffers the stream. `ended`: the outcome has been received. `over`: no more events follow. `cancelling`: the
    reader has requested a stop.
    """

    resumable: bool
    stream_id: str | None = None
    seq: int = 0
    connected: bool = False
    ended: bool = False
    over: bool = False
    cancelling: bool = False

    @classmethod
    def from_last_id(cls, stream_id: str, last_id: str | None) -> "StreamPosition":
        """Return the position after `last_id`, or at the start. Raises ClientError when it is no id of the stream."""
        if last_id is None:
            return cls(resumable=True, stream_id=stream_id)
        owner, _, number = last_id.rpartition(":")
        if owner != stream_id or not (number.isascii() and number.isdigit()):
            raise ClientError(f"last id: {last_id!r} is invalid (use {stream_id}:NUMBER)")
        return cls(resumable=True, stream_id=stream_id, seq=int(number))

    @property
    def last_id(self) -> str | None:
        """The id of the last event received; None before the first."""
        return None if self.stream_id is None or self.seq == 0 else f"{self.stream_id}:{self.seq}"

    @property
    def can_resume(self) -> bool:
        """Whether the rest of the stream can be read on another connection."""
        return self.resumable and self.stream_id is not None

    def advance(self, id: str, name: str) -> bool:
        """Advance to an event; return False for one that was received before.

        Raises MissingEventsError when events are missing, and InvalidResponseError when the event belongs to another
        stream.
        """
        stream_id, _, number = id.rpartition(":")
        if not stream_id or not (number.isascii() and number.isdigit()):
            raise InvalidResponseError(f"event {name!r}: invalid id {id!r}")
        if self.stream_id is None:
            self.stream_id = stream_id
        if stream_id != self.stream_id:
            raise InvalidResponseError(f"event {name!r}: belongs to another stream, {stream_id}")
        seq = int(number)
        if seq <= self.seq:
            return False
        if seq != self.seq + 1:
            raise MissingEventsError(f"event {seq}: follows event {self.seq}, so events are missing")
        self.seq = seq
        self.ended = self.ended or name in OUTCOME_EVENTS
        self.over = name in TERMINAL_EVENTS
        return True


class Backoff:
    """Exponential backoff with jitter: `first_s`, doubled up to `longest_s`, at most `max_retries` times in a row.

    Each delay is drawn between half and all of its value, so that many clients do not reconnect together.
    """

    def __init__(
        self, max_retries: int, first_s: float = 1.0, longest_s: float = 30.0, rng: random.Random | None = None
    ) -> None:
        self.first_s = first_s
        self._max_retries = max_retries
        self._longest_s = longest_s
        self._rng = rng or random.Random()
        self._retries = 0

    def reset(self) -> None:
        """Restart the count of retries after an event was received."""
        self._retries = 0

    def next_delay_s(self, retry_after_s: float | None = None) -> float | None:
        """Return the delay before the next attempt; None to give up.

        `retry_after_s` is the delay that the service requests. It is used as it is, unless it exceeds `longest_s`, when
        this returns None.
        """
        if self._retries >= self._max_retries or (retry_after_s or 0.0) > self._longest_s:
            return None
        wait_s = min(self._longest_s, self.first_s * 2.0 ** min(self._retries, 60))
        self._retries += 1
        return wait_s * self._rng.uniform(0.5, 1.0) if retry_after_s is None else retry_after_s

"""How far an answer has come to its reader, and how long to wait before reading on: pure."""

import random
from dataclasses import dataclass

from clients.errors import ClientError, InvalidResponseError
from clients.events import OUTCOME_EVENTS, TERMINAL_EVENTS

RETRYABLE_STATUSES = (429, 500, 502, 503, 504)
"""What a service, or a proxy before it, says to who comes back, and that may pass."""


@dataclass(slots=True)
class StreamPosition:
    """The place in a stream: `stream_id` is None until its first frame, `seq` the number of the last one that came.

    `resumable`: the service keeps the stream for who comes back. `ended`: how it ended has come; `over`: nothing more
    will. `cancelling`: its reader wants it stopped.
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
        """Give the place after `last_id`, or at the start. Raises ClientError when it is no id of that stream."""
        if last_id is None:
            return cls(resumable=True, stream_id=stream_id)
        owner, _, number = last_id.rpartition(":")
        if owner != stream_id or not (number.isascii() and number.isdigit()):
            raise ClientError(f"the last id must be {stream_id}:NUMBER, not {last_id!r}")
        return cls(resumable=True, stream_id=stream_id, seq=int(number))

    @property
    def last_id(self) -> str | None:
        """The id to go on after; None before the first frame."""
        return None if self.stream_id is None or self.seq == 0 else f"{self.stream_id}:{self.seq}"

    @property
    def can_resume(self) -> bool:
        """Whether what is left can still be had after a cut."""
        return self.resumable and self.stream_id is not None

    def advance(self, id: str, name: str) -> bool:
        """Count a frame in; False for one that had come before. Raises WireError when one is missing or foreign."""
        stream_id, _, number = id.rpartition(":")
        if not stream_id or not (number.isascii() and number.isdigit()):
            raise InvalidResponseError(f"the service sent a {name!r} without a usable id: {id!r}")
        if self.stream_id is None:
            self.stream_id = stream_id
        if stream_id != self.stream_id:
            raise InvalidResponseError(f"the service sent a {name!r} of another stream, {stream_id}")
        seq = int(number)
        if seq <= self.seq:
            return False
        if seq != self.seq + 1:
            raise InvalidResponseError(f"the service went from event {self.seq} to {seq}: something is lost")
        self.seq = seq
        self.ended = self.ended or name in OUTCOME_EVENTS
        self.over = name in TERMINAL_EVENTS
        return True


class Backoff:
    """The waits between attempts: `first_s`, twice that, and so on to `longest_s`, at most `max_retries` in a row.

    Each is drawn between half and all of it, so that many clients do not return together.
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
        """Something came: count from the start again."""
        self._retries = 0

    def next_delay_s(self, asked_s: float | None = None) -> float | None:
        """Give the next wait; None to give up. `asked_s` is what the service asks for, waited for if not too long."""
        if self._retries >= self._max_retries or (asked_s or 0.0) > self._longest_s:
            return None
        wait_s = min(self._longest_s, self.first_s * 2.0 ** min(self._retries, 60))
        self._retries += 1
        return wait_s * self._rng.uniform(0.5, 1.0) if asked_s is None else asked_s

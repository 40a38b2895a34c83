"""Response plans: the bytes to send on a socket with their timestamps. Faults modify the plan. Performs no I/O.

A stream sends its headers immediately and its opening events halfway to the first token, which exposes clients that
mistake the role event for the first token. Tokens follow their schedule, and the end comes one gap after the last
token. A non-streamed answer is sent as a whole when its stream would have ended; error responses are sent immediately.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Literal, NamedTuple

from simulator import http1
from simulator.faults import Fault
from simulator.schedules import Step, StepKind
from simulator.wires.base import Encoder, EncodingContext, StreamPart, Wire

ConnectionEnding = Literal["complete", "cut", "reset", "hang"]
_KEEPALIVE_GAP_S = 0.5
_ENDING_BY_HALF_FAULT: dict[str, ConnectionEnding] = {
    "stall": "hang",
    "cut": "cut",
    "reset-mid-stream": "reset",
    "truncated": "complete",
    "error-in-stream": "complete",
}
_FAULT_BY_ENDING = {"cut": "cut", "error": "error-in-stream", "finish": ""}


class ScheduledWrite(NamedTuple):
    """The bytes to send `due_s` seconds after the request's arrival. `mark` is the log's `seq` or `kind` field."""

    due_s: float
    data: bytes
    mark: str


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """The scheduled writes of a response, with its ending.

    `ending` takes place `end_s` seconds after the request's arrival. After `complete`, the connection stays open if
    `keep_open` is set.
    """

    sends: Iterator[ScheduledWrite]
    ending: ConnectionEnding
    end_s: float
    keep_open: bool = True


@dataclass(frozen=True, slots=True)
class HttpFraming:
    """The HTTP framing of a response. `chunked` and `keep_open` depend on what the client supports and requests."""

    headers: tuple[tuple[str, str], ...]
    chunked: bool
    keep_open: bool

    def encode_part(self, data: bytes) -> bytes:
        return http1.encode_chunk(data) if self.chunked else data

    def whole(self, status: int, media_type: str, body: bytes, *extra: tuple[str, str]) -> bytes:
        fields = (
            ("content-type", media_type),
            ("content-length", str(len(body))),
            *extra,
            *self._common_headers(self.keep_open),
        )
        return http1.encode_head(status, fields) + body

    def opening(self, media_type: str) -> bytes:
        framing = (("transfer-encoding", "chunked"),) if self.chunked else ()
        fields = (
            ("content-type", media_type),
            ("cache-control", "no-cache"),
            *framing,
            *self._common_headers(self.keeps_connection),
        )
        return http1.encode_head(200, fields)

    @property
    def keeps_connection(self) -> bool:
        """Whether a streamed answer leaves the connection open. Without chunks, closing it marks the body's end."""
        return self.keep_open and self.chunked

    def _common_headers(self, stays: bool) -> Iterator[tuple[str, str]]:
        yield from self.headers
        yield "x-simulated", "true"
        yield "connection", "keep-alive" if stays else "close"


def plan_single(
    envelope: HttpFraming, status: int, media_type: str, body: bytes, *extra: tuple[str, str]
) -> ResponsePlan:
    """Plan a response that is sent immediately and in one piece."""
    data = envelope.whole(status, media_type, body, *extra)
    return ResponsePlan(iter([ScheduledWrite(0.0, data, '"kind":"body"')]), "complete", 0.0, envelope.keep_open)


def plan_stream(answer: EncodingContext, dialect: Wire, envelope: HttpFraming, fault: Fault | None) -> ResponsePlan:
    """Plan a streamed answer."""
    stream = _FaultyStream(answer, dialect.encoder(answer), fault)
    media_type = "text/html" if stream.fault == "wrong-content-type" else dialect.media_type
    head = ScheduledWrite(0.0, envelope.opening(media_type), '"kind":"head"')
    if stream.fault == "keepalive-only":
        return ResponsePlan(_schedule_writes(stream.iter_keepalives(), envelope, head), "hang", 0.0)
    ending = _ENDING_BY_HALF_FAULT.get(stream.fault, "complete")
    sends = _schedule_writes(stream.iter_parts(), envelope, head)
    if ending == "complete" and envelope.chunked:
        sends = _append_last_chunk(sends, stream.end_s)
    return ResponsePlan(sends, ending, stream.end_s, envelope.keeps_connection)


def plan_body(answer: EncodingContext, dialect: Wire, envelope: HttpFraming, fault: Fault | None) -> ResponsePlan:
    """Plan a non-streamed answer. If its schedule ends early, plan a closed connection or an error response instead."""
    schedule = answer.schedule
    name = fault.name if fault else ""
    end_s = schedule.end_at_s + _first_token_shift_s(answer, fault)
    if not name and schedule.ending == "cut":
        return ResponsePlan(iter(()), "cut", end_s)
    if not name and schedule.ending == "error":
        body = dialect.error(500, "simulated server error", answer.serial)
        data = envelope.whole(500, "application/json", body)
        return ResponsePlan(
            iter([ScheduledWrite(end_s, data, '"kind":"error"')]), "complete", end_s, envelope.keep_open
        )
    media_type = "text/html" if name == "wrong-content-type" else "application/json"
    healthy = dialect.encoder(answer).body()
    body = _corrupt_body(name, healthy)
    data = envelope.whole(200, media_type, body)
    ending = _ENDING_BY_HALF_FAULT.get(name, "complete")
    if ending != "complete":
        data = data[: len(data) - len(body) // 2]
    mark = '"seq":0' if body == healthy and ending == "complete" else '"kind":"fault"'
    return ResponsePlan(iter([ScheduledWrite(end_s, data, mark)]), ending, end_s, envelope.keep_open)


def _corrupt_body(fault: str, body: bytes) -> bytes:
    if fault == "malformed-json":
        return body[:-2]
    if fault == "bad-utf8":
        return body.replace(b"[simulated]", b"[simulated \xff\xfe]", 1)
    return body


def _first_token_shift_s(answer: EncodingContext, fault: Fault | None) -> float:
    if fault is not None and fault.name == "slow-first-token" and fault.number is not None:
        return fault.number - answer.schedule.profile.ttft_s
    return 0.0


class _FaultyStream:
    """The timed parts of a stream, modified by its fault. A fault overrides the profile's ending."""

    def __init__(self, answer: EncodingContext, encoder: Encoder, fault: Fault | None) -> None:
        schedule = answer.schedule
        self.fault = fault.name if fault else _FAULT_BY_ENDING[schedule.ending]
        self._millions = int(fault.number or 0) if fault else 0
        self._encoder = encoder
        self._shift_s = _first_token_shift_s(answer, fault)
        self._opening_s = (schedule.profile.ttft_s + self._shift_s) / 2
        self._half = max(1, len(schedule.steps) // 2)
        self._hides_thinking = schedule.profile.hides_thinking
        self._steps = schedule.steps
        if fault and self.fault in _ENDING_BY_HALF_FAULT:
            self._steps = schedule.steps[: self._half]
        last_s = self._steps[-1].at_s if self._steps else schedule.profile.ttft_s
        self.end_s = last_s + schedule.profile.gap_s + self._shift_s

    def iter_keepalives(self) -> Iterator[tuple[float, list[StreamPart]]]:
        for number in count():
            yield number * _KEEPALIVE_GAP_S, [self._encoder.keepalive()]

    def iter_parts(self) -> Iterator[tuple[float, list[StreamPart]]]:
        yield self._opening_s, self._encoder.opening()
        for index, step in enumerate(self._steps):
            yield (
                step.at_s + self._shift_s,
                (self._fault_parts(step) if index == self._half else []) + self._delta_parts(step),
            )
        yield self.end_s, self._closing_parts()

    def _delta_parts(self, step: Step) -> list[StreamPart]:
        if step.kind == "thinking" and self._hides_thinking:
            return []
        return self._encoder.delta(step.kind, _encode_literal(step.text))

    def _fault_parts(self, step: Step) -> list[StreamPart]:
        literals = _FAULT_LITERALS.get(self.fault)
        if literals is None:
            return []
        parts = [part for literal in literals(self._millions) for part in self._encoder.delta(step.kind, literal)]
        return [part._replace(kind="fault") for part in parts] if self.fault in _UNREADABLE_FAULTS else parts

    def _closing_parts(self) -> list[StreamPart]:
        if self.fault == "error-in-stream":
            return [self._encoder.error("simulated error inside the stream")]
        if self.fault in _ENDING_BY_HALF_FAULT:
            return []
        parts = self._encoder.closing(marked=self.fault != "missing-end-marker")
        if self.fault == "doubled-finish":
            parts = [part for part in parts for _ in range(2 if part.kind == "finish" else 1)]
        if self.fault == "text-after-end":
            kind: StepKind = "text"
            parts += [*self._encoder.delta(kind, b'" after"'), *self._encoder.delta(kind, b'" all"')]
        return parts


@lru_cache(maxsize=4096)
def _encode_literal(text: str) -> bytes:
    return json.dumps(text).encode()


_UNREADABLE_FAULTS = ("malformed-json", "bad-utf8")
_FAULT_LITERALS: dict[str, Callable[[int], list[bytes]]] = {
    "malformed-json": lambda _: [b'"a string without an end'],
    "bad-utf8": lambda _: [b'" \xff\xfe"'],
    "split-surrogate": lambda _: [rb'" \ud83c"', rb'"\udf0d"'],
    "big-event": lambda millions: [b'"' + b" big" * (millions * 250_000) + b'"'],
}


def _schedule_writes(
    timed: Iterable[tuple[float, list[StreamPart]]], envelope: HttpFraming, head: ScheduledWrite
) -> Iterator[ScheduledWrite]:
    yield head
    seq = count()
    for due_s, parts in timed:
        for part in parts:
            mark = f'"seq":{next(seq)}' if part.kind == "content" else f'"kind":"{part.kind}"'
            yield ScheduledWrite(due_s, envelope.encode_part(part.data), mark)


def _append_last_chunk(sends: Iterator[ScheduledWrite], end_s: float) -> Iterator[ScheduledWrite]:
    yield from sends
    yield ScheduledWrite(end_s, http1.LAST_CHUNK, '"kind":"last-chunk"')

"""Helpers that feed a decoder in pieces and return its events and the error that ended them."""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from providers.decoding.decoder import StreamDecoder
from streaming.errors import StreamError
from streaming.events import Event

Outcome = tuple[list[Event], tuple[type[StreamError], str] | None]


def decode(decoder: StreamDecoder, pieces: Iterable[bytes]) -> Outcome:
    """Feed all pieces and flush the decoder. Stop at the first error."""
    events: list[Event] = []
    try:
        for piece in pieces:
            for event in decoder.feed(piece):
                events.append(event)
        for event in decoder.flush():
            events.append(event)
    except StreamError as error:
        return events, (type(error), error.message)
    return events, None


def decode_both_ways(make: Callable[[], StreamDecoder], data: bytes) -> Outcome:
    """Feed the bytes at once and one by one, and check that the outcome is the same."""
    whole = decode(make(), [data])
    assert decode(make(), [data[i : i + 1] for i in range(len(data))]) == whole
    return whole


def assert_ends(outcome: Outcome, error: type[StreamError], *before: Event) -> str:
    """Check the error and the events before it, and return the error's message."""
    events, result = outcome
    assert events == list(before)
    assert result is not None
    assert result[0] is error
    return result[1]


def cut_bytes(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut the bytes at these offsets, taken modulo the length."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


def encode_sse(*events: Any, end: str = "\n") -> bytes:
    """Return an SSE stream. Strings are used as data unchanged; other values are encoded as JSON."""
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {text}{end}{end}" for text in texts).encode()


def encode_ndjson(*lines: Any) -> bytes:
    """Return lines of NDJSON. Strings are used unchanged; other values are encoded as JSON."""
    return "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines).encode()

"""The one reader of an answer's events on this service's own transports: for clients, evaluation and load tests.

It needs the standard library alone, so that it also runs under gevent, and does no I/O.
"""

import json
from dataclasses import dataclass

from clients.errors import InvalidResponseError
from clients.events import Event, WireEvent, parse_event
from clients.position import StreamPosition
from streaming.sse import ServerSentEvent

START_EVENT, END_EVENT, STRAY_END_EVENT = "start", "done", "ended"
"""The names of the first event, of the last one after success, and of the frame after a resume with nothing left."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that was not received before. `event` is None for names without one, such as `start` and `done`."""

    name: str
    event: Event | None


class AnswerReader:
    """A reader of one answer, over as many connections as it takes. `position` is how far it has read."""

    def __init__(self, position: StreamPosition) -> None:
        self.position = position

    def read(self, id: str, wire_event: WireEvent) -> NewEvent | None:
        """Return the parsed event, or None when it was received before.

        Raises MissingEventsError when events before it are missing, and InvalidResponseError when it does not follow
        the protocol.
        """
        name = wire_event[0]
        if not self.position.advance(id, name):
            return None
        return NewEvent(name, parse_event(wire_event))

    def read_sse(self, event: ServerSentEvent) -> NewEvent | None:
        """Return the event of a Server-Sent Event; see `read`."""
        return self.read(event.id, decode_sse_event(event))


def decode_sse_event(event: ServerSentEvent) -> WireEvent:
    """Return the name and fields of a Server-Sent Event. Raises InvalidResponseError when its data is not JSON."""
    if event.event == "message" and event.data == "[DONE]":
        return END_EVENT, {}
    try:
        fields = json.loads(event.data)
    except ValueError:
        raise InvalidResponseError(f"event {event.event!r}: not JSON") from None
    return "chunk" if event.event == "message" else event.event, fields


def decode_frame(message: str | bytes) -> tuple[str | None, WireEvent]:
    """Return the id of a WebSocket frame, None if it belongs to no stream, and its name and fields.

    Raises InvalidResponseError when it is not a JSON object with a type.
    """
    try:
        fields = json.loads(message)
        return fields.pop("id", None), (fields.pop("type"), fields)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InvalidResponseError("frame: not a JSON object with a type") from None

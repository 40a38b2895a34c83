"""The origin of an answer: the model, the upstream provider and the server that produced it, and the server's timings.

A gateway may route a request to another provider, a vendor may serve an alias by another model, and both say so in
their responses. Adapters report it in the `detail` of notices of the kinds `connected` (the request id), `answered_by`
and `timings`. Performs no I/O.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import get_args

from streaming.events import Event, Notice, ServerTiming

SERVER_TIMINGS: tuple[str, ...] = get_args(ServerTiming)


@dataclass(frozen=True, slots=True)
class ResponseOrigin:
    """Who produced an answer, in the provider's own words. None is unknown.

    `upstream` is the provider to which a gateway routed the request, `service_tier` the tier that was billed,
    `fingerprint` identifies the server's configuration, and `request_id` the request in the provider's logs.
    """

    model: str | None = None
    upstream: str | None = None
    service_tier: str | None = None
    fingerprint: str | None = None
    request_id: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in _FIELDS}


_FIELDS = tuple(field.name for field in fields(ResponseOrigin))


class OriginRecord:
    """The origin and the server's own timings of the latest attempt, collected from the events of an answer."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._timings: dict[str, float] = {}

    def feed(self, event: Event) -> None:
        """Process an event. A new attempt, which begins with `connected`, replaces the record of the last one."""
        if not isinstance(event, Notice):
            return
        if event.kind == "connected":
            self._known, self._timings = {}, {}
        if event.kind in ("connected", "answered_by"):
            found = {name: str(event.detail[name]) for name in _FIELDS if name in event.detail}
            # A request id in the head of a response is the one that the provider's support asks for.
            self._known = {**self._known, **found, **{k: v for k, v in self._known.items() if k == "request_id"}}
        elif event.kind == "timings":
            self._timings |= {name: float(event.detail[name]) for name in SERVER_TIMINGS if name in event.detail}

    @property
    def origin(self) -> ResponseOrigin | None:
        """What the provider said about the origin of the answer, None if it said nothing."""
        return ResponseOrigin(**self._known) if self._known else None

    @property
    def timings(self) -> Mapping[str, float]:
        """The server's own timings in seconds by name (`SERVER_TIMINGS`); a missing one is unknown."""
        return self._timings


def origin_record_of(events: Iterable[Event]) -> OriginRecord:
    """Return the record of the origin of an answer with these events."""
    record = OriginRecord()
    for event in events:
        record.feed(event)
    return record

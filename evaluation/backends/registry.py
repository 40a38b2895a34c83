"""The backends of every transport, and the choice between them: the one place where a run sends a trial's request."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from evaluation.backends import interference
from evaluation.backends.base import Backend, RequestHeldError, RunResources, TimedResponse, TrialRequest
from evaluation.backends.in_process import InProcessBackend
from evaluation.backends.vendor_http import VendorBackend
from evaluation.scenario import transport_name
from evaluation.transports import BROWSER, IN_PROCESS, transport_kind
from streaming.clock import Clock, utc_now
from streaming.http.timed_exchange import Gate
from streaming.os_limits import realtime_priority

BackendFactory = Callable[[RunResources], Backend]


# Imported on first use, before the load: most runs need neither the service's clients nor a browser.
def _open_service_http(resources: RunResources) -> Backend:
    from evaluation.backends.service import ServiceHTTPBackend

    return ServiceHTTPBackend(resources)


def _open_service_websocket(resources: RunResources) -> Backend:
    from evaluation.backends.service import ServiceWebSocketBackend

    return ServiceWebSocketBackend(resources)


def _open_browser(resources: RunResources) -> Backend:
    from evaluation.backends.browser.backend import BrowserBackend

    return BrowserBackend(resources)


BACKENDS: dict[str, tuple[BackendFactory, ...]] = {
    IN_PROCESS: (VendorBackend, InProcessBackend),
    "sse": (_open_service_http,),
    "websocket": (_open_service_websocket,),
    "openai": (_open_service_http,),
    BROWSER: (_open_browser,),
}
"""The backends of each transport of `evaluation.transports`. The first that can prepare a request sends it."""


MIN_LEAD_S = 0.05
MAX_LEAD_S = 2.0
_BUSY = frozenset(("pipeline", "browser"))


class _Start:
    """The start of one request, which waits for its gate once.

    `at` is its date and time in UTC, `at_s` that on the run's clock.
    """

    def __init__(self, gate: Gate | None, clock: Clock) -> None:
        self.at, self.at_s = utc_now(), clock()
        self.gate = None if gate is None else self.wait
        self._gate, self._clock = gate, clock

    async def wait(self) -> None:
        """Return when the gate has."""
        if self._gate is not None:
            await self._gate()
            self.at, self.at_s, self._gate = utc_now(), self._clock(), None


class RunBackends:
    """Sends the requests of one run: prepares them before the load, chooses the backend of each, and times it.

    A request that its first backend cannot prepare is sent by the next one, and the manifest says why.
    """

    def __init__(self, resources: RunResources) -> None:
        self._resources = resources
        self._backends: dict[BackendFactory, Backend] = {}
        self._chosen: dict[TrialRequest, Backend] = {}
        self._errors: dict[TrialRequest, Exception] = {}
        self._reasons: dict[str, str] = {}
        self._attention = ExitStack()

    async def prepare(self, call: TrialRequest) -> None:
        """Prepare a request under any request id. A failure is the outcome of its trials."""
        await self._prepare(call, call.key)

    @property
    def lead_s(self) -> float:
        """How long before a request is due to call `send`, in seconds: enough to open its connection, and no longer.

        A server may reserve a thread for each connection.
        """
        return min(MIN_LEAD_S + 2 * self._resources.slowest_connect_s, MAX_LEAD_S)

    async def send(self, call: TrialRequest, gate: Gate | None = None) -> TimedResponse:
        """Send one request when `gate` returns, and return the response.

        Any exception, even from a defect, becomes its outcome. Raises RequestHeldError if the gate does.
        """
        key, start = call.key, _Start(gate, self._resources.clock)
        await self._prepare(call, key)
        error = self._errors.get(key)
        if error is None:
            try:
                response = await self._chosen[key].send(call, start.gate)
            except RequestHeldError:
                raise
            except Exception as raised:
                error = raised
        await start.wait()
        if error is not None:
            response = TimedResponse.from_error(error, start.at_s, has_source=call.transport == IN_PROCESS)
        self._resources.note_connect(response.instrument.connect_s)
        ending = response.ending
        if message := ending.get("error_message"):
            ending = ending | {"error_message": self._resources.mask(message)}
        return replace(response, started_at=start.at, ending=ending)

    def start(self) -> dict[str, Any]:
        """Freeze the garbage collector, take real-time priority if possible; return the manifest's instrument entry.

        Real-time priority suits a process that mostly waits: it is not taken if any answers are generated in this one,
        or read by a browser, which needs the processor.
        """
        timings: dict[str, set[str]] = {}
        for call, backend in self._chosen.items():
            timings.setdefault(transport_name(call.provider, call.transport), set()).add(backend.timing)
        self._attention.enter_context(interference.frozen_gc())
        waits_only = bool(timings) and all(entry.isdisjoint(_BUSY) for entry in timings.values())
        return self._resources.facts | {
            "stamped_sockets": [name for name, entry in timings.items() if entry == {"sockets"}],
            "measured_otherwise": dict(self._reasons),
            "real_time_priority": waits_only and self._attention.enter_context(realtime_priority()),
        }

    async def aclose(self) -> None:
        """Close all that is open and restore the priority and the garbage collector. Safe to call twice."""
        self._attention.close()
        await self._resources.aclose()

    async def _prepare(self, call: TrialRequest, key: TrialRequest) -> None:
        if key not in self._chosen and key not in self._errors:
            try:
                self._chosen[key] = await self._choose(call)
            except Exception as error:
                self._errors[key] = error

    async def _choose(self, call: TrialRequest) -> Backend:
        *preferred, last = BACKENDS[transport_kind(call.transport)]
        for factory in preferred:
            backend = self._open(factory)
            unprepared = await backend.prepare(call)
            if unprepared is None:
                return backend
            self._reasons[transport_name(call.provider, call.transport)] = unprepared.reason
        backend = self._open(last)
        if (unprepared := await backend.prepare(call)) is not None:
            raise RuntimeError(f"{call.transport}: no backend sends this request ({unprepared.reason})")
        return backend

    def _open(self, factory: BackendFactory) -> Backend:
        if factory not in self._backends:
            self._backends[factory] = factory(self._resources)
        return self._backends[factory]

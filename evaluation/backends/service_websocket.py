"""Backend for this project's own service over WebSocket, with timestamps taken as its client yields each event."""

import asyncio
from dataclasses import dataclass, field

from clients.errors import ClientError, ConnectionLostError, RequestRejectedError, StreamGoneError
from clients.websocket import WebSocketClient
from evaluation.backends.base import Instrument, RunResources, TimedResponse, Timing, TrialRequest, elapsed_s
from evaluation.backends.service import chat_params
from evaluation.backends.service_decoder import ServiceOutcome, ending_columns, receipt_from_service
from evaluation.metrics.trial_metrics import TimedEvents
from providers.http.transport import REQUEST_ID_HEADER
from streaming.clock import Clock
from streaming.errors import NetworkError, ProtocolError, StreamError, TotalTimeout, TruncatedStreamError
from streaming.events import Event, Failed, TimedEvent


class ServiceWebSocketBackend:
    """Sends each request over a new WebSocket. It is not retried, and a lost connection is not resumed."""

    timing: Timing = "client"

    def __init__(self, resources: RunResources) -> None:
        self._resources = resources
        self._target = resources.service

    async def prepare(self, call: TrialRequest) -> None:
        """Do nothing: a WebSocket has no single request."""

    async def send(self, call: TrialRequest) -> TimedResponse:
        """Send a request to the service once; return the response as the client yields it."""
        resources = self._resources
        mark, recorder = resources.lag.mark(), _WebSocketRecorder(resources.clock)
        try:
            async with asyncio.timeout(self._target.total_s):
                await self._read_events(call, recorder)
        except RequestRejectedError as rejection:
            recorder.record(Failed(rejection.kind, str(rejection), rejection.status))
        except StreamGoneError as fault:
            recorder.record(Failed(fault.kind, str(fault), 404))
        except (TimeoutError, ClientError) as fault:
            error = self._map_error(fault, begun=recorder.begun)
            recorder.record(Failed(error.kind, error.message))
        lag_s = resources.lag_since(mark)
        stamps, outcome = recorder.stamps(), recorder.outcome
        receipt = receipt_from_service(call, stamps, outcome, resources.access.cost_model(call.provider))
        return TimedResponse(
            stamps,
            receipt.outcome,
            receipt.reading.usage,
            ending_columns(receipt, outcome),
            recorder.instrument(lag_s),
        )

    async def _read_events(self, call: TrialRequest, recorder: "_WebSocketRecorder") -> None:
        headers = {REQUEST_ID_HEADER: call.request_id}
        key, clock = self._target.config.key, self._resources.clock
        async with WebSocketClient(self._target.url, key=key, headers=headers, reconnect=False) as client:
            recorder.connected_s = clock()
            answer = client.stream(**chat_params(call))
            recorder.sent_s = clock()
            async with answer:
                recorder.begun = True
                async for received in answer:
                    event = recorder.outcome.record_event(received)
                    if event is not None:
                        recorder.record(event)

    def _map_error(self, fault: Exception, *, begun: bool) -> StreamError:
        """Map a client's error to the error that the other transports report for the same fault.

        `begun`: the service had accepted the request.
        """
        if isinstance(fault, TimeoutError):
            return TotalTimeout(f"the answer was not complete within {self._target.total_s:g} s")
        if isinstance(fault, ConnectionLostError):
            return TruncatedStreamError(str(fault)) if begun else NetworkError(str(fault))
        return ProtocolError(str(fault))


@dataclass(slots=True)
class _WebSocketRecorder:
    """Records the events of one WebSocket answer with their timestamps, in seconds on `clock`."""

    clock: Clock
    outcome: ServiceOutcome = field(default_factory=ServiceOutcome)
    events: list[TimedEvent] = field(default_factory=list)
    begun: bool = False
    connected_s: float | None = None
    sent_s: float | None = None
    asked_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.asked_s = self.clock()

    def record(self, event: Event) -> None:
        self.events.append(TimedEvent(self.clock(), event))

    def stamps(self) -> TimedEvents:
        """Return the events with their timestamps."""
        sent_s = self.asked_s if self.sent_s is None else self.sent_s
        return TimedEvents(sent_s, None, self.events, sent=self.sent_s is not None)

    def instrument(self, lag_s: float) -> Instrument:
        """Return how the answer was timed; `lag_s` is the event loop's worst lag while it ran, in seconds."""
        source = None if self.connected_s is None else "callback"
        return Instrument(source, elapsed_s(self.asked_s, self.connected_s), loop_lag_max_s=lag_s)

"""Backend for vendors' services over timestamping sockets, with the results that the pipeline would have produced.

The adapter's own decoder decodes the events; the strategy is replayed over them and the meter reads them, each at the
kernel's timestamp of its arrival. What this process does meanwhile therefore affects no metric.
"""

from dataclasses import replace

from evaluation.backends.base import (
    RunResources,
    TimedResponse,
    Timing,
    TrialRequest,
    instrument_of,
    receipt_from_events,
    sent_at,
)
from evaluation.metrics.trial_metrics import TimedEvents, outcome_columns
from streaming import strategies
from streaming.adapter import PreparedRequest, UnpreparableRequest
from streaming.http.timed_exchange import Gate
from streaming.replay import replay
from streaming.retry import NO_RETRY


class VendorBackend:
    """Sends requests whose bytes the provider's adapter can prepare."""

    timing: Timing = "sockets"

    def __init__(self, resources: RunResources) -> None:
        self._resources = resources
        self._prepared: dict[TrialRequest, PreparedRequest | UnpreparableRequest] = {}

    async def prepare(self, call: TrialRequest) -> UnpreparableRequest | None:
        """Prepare a request once for all strategies. The first one for a vendor imports the vendor's SDK."""
        key = _prepared_key(call)
        if key not in self._prepared:
            session = self._resources.access.new_session([call.provider], clock=self._resources.clock, policy=NO_RETRY)
            request = replace(key.request, model=session.route.model)
            self._prepared[key] = await session.route.adapter.prepare_request(request)
        result = self._prepared[key]
        return result if isinstance(result, UnpreparableRequest) else None

    async def send(self, call: TrialRequest, gate: Gate | None = None) -> TimedResponse:
        """Send a request to its vendor and return the response, with the text as the strategy would have delivered it.

        A request is sent again only without the settings that the vendor rejects; the response is the last one.
        """
        prepared = self._prepared[_prepared_key(call)]
        assert not isinstance(prepared, UnpreparableRequest)  # `prepare` has said so
        resources = self._resources
        mark = resources.lag.mark()
        answer = await prepared.send(resources.sockets, call.request_id, gate)
        lag_s = resources.lag_since(mark)
        await resources.sockets.wait_turn()
        sent_s, events = sent_at(answer.exchange), answer.events
        delivered = list(replay(events, strategies.parse(call.strategy).build()))
        await resources.sockets.wait_turn()
        receipt = receipt_from_events(call, events, delivered, sent_s, resources.access.cost_model(call.provider))
        return TimedResponse(
            TimedEvents(sent_s, events, delivered, sent=answer.exchange.sent_s is not None),
            receipt.outcome,
            receipt.reading.usage,
            outcome_columns(receipt),
            instrument_of(answer, lag_s),
            answer.error.retry_after_s if answer.error else None,
        )


def _prepared_key(call: TrialRequest) -> TrialRequest:
    """Return the request without the parts that its bytes do not depend on: the request id and the strategy."""
    return replace(call, strategy="", request=replace(call.request, request_id=None))

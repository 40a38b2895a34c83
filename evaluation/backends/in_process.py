"""Backend for answers of the pipeline in this process, timed by a probe at both of its ends."""

from contextlib import aclosing

from evaluation.backends.base import Instrument, RunResources, TimedResponse, Timing, TrialRequest
from evaluation.metrics.trial_metrics import TimedEvents, outcome_columns
from streaming import pipeline, strategies
from streaming.http.timed_exchange import Gate
from streaming.retry import NO_RETRY
from streaming.trace import Probe


class InProcessBackend:
    """Runs `streaming.pipeline` and records when an event arrives from the provider and leaves the strategy."""

    timing: Timing = "pipeline"

    def __init__(self, resources: RunResources) -> None:
        self._resources = resources

    async def prepare(self, call: TrialRequest) -> None:
        """Do nothing: the session builds each request when it sends it."""

    async def send(self, call: TrialRequest, gate: Gate | None = None) -> TimedResponse:
        """Run one answer to its end, without retries: they are the run's."""
        resources = self._resources
        session = resources.access.new_session([call.provider], clock=resources.clock, policy=NO_RETRY)
        strategy, mark = strategies.parse(call.strategy).build(), resources.lag.mark()
        if gate is not None:
            await gate()
        probe = Probe(resources.clock)
        answer = pipeline.stream_answer(
            call.request,
            session,
            strategy,
            clock=resources.clock,
            cost_model=resources.access.cost_model,
            probe=probe,
        )
        async with aclosing(answer) as events:
            async for _ in events:
                pass
        receipt, lag_s = answer.receipt(), resources.lag_since(mark)
        return TimedResponse(
            TimedEvents(probe.called_s, probe.source, probe.delivered),
            receipt.outcome,
            receipt.reading.usage,
            outcome_columns(receipt),
            Instrument("in-process", loop_lag_max_s=lag_s),
        )

"""Trials on virtual time: exact metrics, and failed answers that do not stop the run."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest

from evaluation.backends.base import RunResources
from evaluation.backends.registry import RunBackends
from evaluation.metrics import METRICS
from evaluation.metrics.trial_metrics import MeasuredAnswer
from evaluation.prompts.prompt_file import Prompt
from evaluation.runner.trial import (
    STEP_S,
    TrialContext,
    TrialSender,
    compute_in_steps,
    describe_outcome,
    trial_request,
    trial_rows,
    warm_up,
)
from evaluation.scenario import PlannedTrial, Scenario
from evaluation.schema import EventRow, Trial
from streaming.clock import Clock
from streaming.errors import ServerError, TruncatedStreamError, UsageError
from streaming.events import Event, Finish, TextDelta, Usage
from streaming.messages import ChatRequest
from streaming.meter import CostModel
from streaming.retry import RetryPolicy
from streaming.session import Route, Session
from tests.scripted_adapter import InProcessAdapter
from tests.virtual_time import count_loop_turns, loop_clock, run_on_virtual_time

PROMPT = Prompt("p", "Why?")


class SteadyAdapter(InProcessAdapter):
    """Sends 64 tokens of 4 characters, the first after 0.2 s, then every 20 ms; raises `fails` before token `after`."""

    def __init__(self, fails: Exception | None = None, after: int = 0) -> None:
        self.requests: list[ChatRequest] = []
        self._fails = fails
        self._after = after

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        for number in range(64):
            if self._fails is not None and number == self._after:
                raise self._fails
            await asyncio.sleep(0.02 if number else 0.2)
            yield TextDelta("four")
        yield Usage(3, 64, 0)
        yield Finish("stop", "stop")


class FakeAccess:
    """Provider access that returns one adapter for any name; names that start with `?` are unknown."""

    def __init__(self, adapter: SteadyAdapter) -> None:
        self.adapter = adapter
        self.policies: list[RetryPolicy | None] = []

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session:
        if names[0].startswith("?"):
            raise UsageError("no such provider")
        self.policies.append(policy)
        return Session([Route(name, self.adapter, "m") for name in names], clock, policy=policy)

    def cost_model(self, name: str) -> CostModel:
        return CostModel()


@asynccontextmanager
async def open_context(scenario: Scenario, access: FakeAccess) -> AsyncIterator[TrialContext]:
    """Yield a context whose error messages do not show `s3cret`."""
    resources = RunResources(access, loop_clock(), mask=lambda text: text.replace("s3cret", "[KEY]"))
    async with aclosing(RunBackends(resources)) as backends:
        sender = TrialSender(backends.send, resources.clock, RetryPolicy(max_retries=scenario.retries))
        yield TrialContext("run", scenario, access, resources.clock, backends, sender)


def measure_trial(
    adapter: SteadyAdapter, strategy: str = "direct", provider: str = "sim:steady", retries: int = 0
) -> tuple[Trial, list[EventRow], FakeAccess]:
    access = FakeAccess(adapter)
    scenario = Scenario((provider,), (strategy,), (PROMPT,), retries=retries, max_tokens=99)

    async def main() -> tuple[Trial, list[EventRow]]:
        async with open_context(scenario, access) as context:
            planned = PlannedTrial(7, 2, 1, PROMPT, provider, strategy)
            trial, events = await trial_rows(
                context, planned, await context.sender.send(trial_request(context, planned))
            )
            return trial, list(events)

    return *run_on_virtual_time(main(), start_s=1000.0), access


def test_steady_stream_metrics_are_exact() -> None:
    trial, events, _ = measure_trial(SteadyAdapter())
    assert trial.ttft_s == trial.ttfot_s == pytest.approx(0.2, abs=1e-9)
    assert trial.icl_p50_s == trial.icl_max_s == pytest.approx(0.02, abs=1e-9)
    assert trial.output_tps == pytest.approx(50) and trial.itl_s == pytest.approx(0.02)
    assert trial.updates_per_s == pytest.approx(50) and trial.delay_max_s == 0.0
    assert trial.e2e_s == pytest.approx(0.2 + 63 * 0.02) and trial.outcome == "completed"
    assert (trial.chunks, trial.delivered_chunks, trial.stalls) == (64, 64, 0)
    assert len(events) == 2 * 66


@pytest.mark.parametrize(("steps", "turns"), [(1.0, len(METRICS)), (0.0, 0)])
def test_metrics_of_an_answer_are_computed_in_steps_between_which_the_event_loop_runs(steps: float, turns: int) -> None:
    seconds = itertools.count(0.0, steps * STEP_S)

    async def main() -> int:
        async with open_context(
            Scenario(("sim:steady",), ("direct",), (PROMPT,)), FakeAccess(SteadyAdapter())
        ) as context:
            planned = PlannedTrial(7, 2, 1, PROMPT, "sim:steady", "direct")
            response = await context.sender.send(trial_request(context, planned))
            answer = MeasuredAnswer(response.stamps, response.outcome, response.usage)
            return await count_loop_turns(compute_in_steps(answer, lambda: next(seconds)))

    assert run_on_virtual_time(main()) - turns in (0, 1)


def test_batch_strategy_delay_and_updates_stay_within_bounds() -> None:
    trial, _, _ = measure_trial(SteadyAdapter(), "batch:100ms")
    assert trial.updates_per_s is not None and trial.updates_per_s <= 11
    assert trial.delay_max_s is not None and 0.05 < trial.delay_max_s <= 0.1 + 1e-9
    assert trial.delivered_ttft_s == trial.ttft_s == pytest.approx(0.2, abs=1e-9)


def test_trial_records_its_cell_and_unknown_values() -> None:
    trial, events, _ = measure_trial(SteadyAdapter())
    assert (trial.provider, trial.model, trial.strategy, trial.prompt_id) == ("sim", "steady", "direct", "p")
    assert (trial.run_id, trial.trial_id, trial.block, trial.repeat) == ("run", "run-00007", 2, 1)
    assert trial.stamp_source == "in-process" and trial.sent_monotonic_s == 1000.0
    for name in ("connect_s", "headers_s", "queue_s", "intended_start_s", "ttft_total_s", "merged_reads"):
        assert getattr(trial, name) is None, name
    assert trial.cost_usd is None and trial.price_source is None and trial.disturbed is False
    assert {row.trial_id for row in events} == {"run-00007"}


def test_request_has_trial_id_and_limits() -> None:
    adapter = SteadyAdapter()
    measure_trial(adapter)
    (request,) = adapter.requests
    assert (request.request_id, request.max_tokens, request.streamed) == ("run-00007", 99, True)
    assert request.messages[0].content == "Why?"


def test_failed_trial_has_no_times_and_no_retry() -> None:
    adapter = SteadyAdapter(ServerError("down", http_status=500))
    trial, _, _ = measure_trial(adapter)
    assert (trial.outcome, trial.error_type, trial.http_status) == ("failed", "server_error", 500)
    assert trial.attempts == 1 and len(adapter.requests) == 1
    assert trial.ttft_s is None and trial.e2e_s is None and trial.cost_usd is None and trial.output_tokens is None


def test_requested_retries_are_made_without_fallback() -> None:
    adapter = SteadyAdapter(ServerError("down", http_status=500))
    trial, _, _ = measure_trial(adapter, retries=2)
    assert trial.outcome == "failed" and trial.attempts == 3
    assert all(request.streamed for request in adapter.requests)


def test_truncated_stream_keeps_measured_values() -> None:
    trial, _, _ = measure_trial(SteadyAdapter(TruncatedStreamError("cut"), after=10))
    assert trial.outcome == "truncated" and trial.chunks == 10
    assert trial.ttft_s == pytest.approx(0.2, abs=1e-9) and trial.e2e_s is None and trial.qoe is None


def test_unknown_provider_gives_failed_trial() -> None:
    trial, events, _ = measure_trial(SteadyAdapter(), provider="?nobody")
    assert (trial.outcome, trial.error_type, trial.chunks, events) == ("failed", "usage", 0, [])
    assert trial.ttft_s is None and trial.error_message == "UsageError: no such provider"


def test_error_message_masks_secrets() -> None:
    trial, _, _ = measure_trial(SteadyAdapter(ServerError("the key s3cret is over its limit")))
    assert trial.error_message == "the key [KEY] is over its limit"


def test_warm_up_describes_its_outcome() -> None:
    async def main(adapter: SteadyAdapter) -> str:
        async with open_context(Scenario(("sim:x",), ("direct",), (PROMPT,)), FakeAccess(adapter)) as context:
            return describe_outcome(await warm_up(context, "sim:x"))

    adapter = SteadyAdapter()
    assert run_on_virtual_time(main(adapter)) == "completed" and adapter.requests[0].max_tokens == 16
    assert run_on_virtual_time(main(SteadyAdapter(ServerError("too many")))) == "failed: too many"


def test_cancelled_trial_closes_provider_stream() -> None:
    ended = []

    class EndlessAdapter(SteadyAdapter):
        async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
            try:
                while True:
                    await asyncio.sleep(1)
                    yield TextDelta("on")
            finally:
                ended.append(True)

    async def main() -> None:
        scenario = Scenario(("a",), ("direct",), (PROMPT,))
        async with open_context(scenario, FakeAccess(EndlessAdapter())) as context:
            task = asyncio.create_task(
                context.sender.send(trial_request(context, PlannedTrial(1, 1, 1, PROMPT, "a", "direct")))
            )
            await asyncio.sleep(5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run_on_virtual_time(main())
    assert ended == [True]

"""One trial on virtual time: exact figures, and that nothing which breaks an answer breaks the run."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from evaluation.record import EventRow, Trial
from evaluation.scenario import Planned, Prompt, Scenario
from evaluation.trial import Bench, ask_trial, in_words, rows_of, warm_up
from streaming.clock import Clock
from streaming.errors import RateLimited, TruncatedStream, UsageError
from streaming.events import Event, Finish, TextDelta, Usage
from streaming.messages import ChatRequest
from streaming.meter import Rates
from streaming.retry import Policy
from streaming.session import Route, Session
from tests.virtual_time import clock, run_virtual

PROMPT = Prompt("p", "Why?")


class Steady:
    """64 tokens of 4 characters, the first after 200 ms, then every 20 ms; `fails` breaks it before or after text."""

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

    async def aclose(self) -> None: ...


class Access:
    """Hands out one adapter under any name; names that start with `?` are unknown."""

    def __init__(self, adapter: Steady) -> None:
        self.adapter = adapter
        self.policies: list[Policy | None] = []

    def session(self, names: Sequence[str], *, clock: Clock, policy: Policy | None = None) -> Session:
        if names[0].startswith("?"):
            raise UsageError("no such provider")
        self.policies.append(policy)
        return Session([Route(name, self.adapter, "m") for name in names], clock, policy=policy)

    def rates(self, name: str) -> Rates:
        return Rates()


def measure(
    adapter: Steady, strategy: str = "direct", provider: str = "sim:steady", retries: int = 0
) -> tuple[Trial, list[EventRow], Access]:
    access = Access(adapter)
    scenario = Scenario((provider,), (strategy,), (PROMPT,), retries=retries, max_tokens=99)

    async def main() -> tuple[Trial, list[EventRow]]:
        bench = Bench("run", scenario, access, clock(), mask=lambda text: text.replace("s3cret", "[KEY]"))
        planned = Planned(7, 2, 1, PROMPT, provider, strategy)
        return rows_of(bench, planned, await ask_trial(bench, planned))

    return *run_virtual(main(), start_s=1000.0), access


def test_a_steady_stream_is_measured_as_it_is() -> None:
    trial, events, _ = measure(Steady())
    assert trial.ttft_s == trial.ttfot_s == pytest.approx(0.2, abs=1e-9)
    assert trial.icl_p50_s == trial.icl_max_s == pytest.approx(0.02, abs=1e-9)
    assert trial.output_tps == pytest.approx(50) and trial.itl_s == pytest.approx(0.02)
    assert trial.updates_per_s == pytest.approx(50) and trial.delay_max_s == 0.0
    assert trial.e2e_s == pytest.approx(0.2 + 63 * 0.02) and trial.outcome == "completed"
    assert (trial.chunks, trial.delivered_chunks, trial.stalls) == (64, 64, 0)
    assert len(events) == 2 * 66


def test_batching_costs_delay_and_saves_updates_within_what_it_declares() -> None:
    trial, _, _ = measure(Steady(), "batch:100ms")
    assert trial.updates_per_s is not None and trial.updates_per_s <= 11
    assert trial.delay_max_s is not None and 0.05 < trial.delay_max_s <= 0.1 + 1e-9
    assert trial.delivered_ttft_s == trial.ttft_s == pytest.approx(0.2, abs=1e-9)


def test_a_trial_says_what_it_was_and_what_it_does_not_know() -> None:
    trial, events, _ = measure(Steady())
    assert (trial.provider, trial.model, trial.strategy, trial.prompt_id) == ("sim", "steady", "direct", "p")
    assert (trial.run_id, trial.trial_id, trial.block, trial.repeat) == ("run", "run-00007", 2, 1)
    assert trial.stamp_source == "in-process" and trial.sent_monotonic_s == 1000.0
    for name in ("connect_s", "headers_s", "queue_s", "intended_start_s", "ttft_total_s", "merged_reads"):
        assert getattr(trial, name) is None, name
    assert trial.cost_usd is None and trial.price_source is None and trial.disturbed is False
    assert {row.trial_id for row in events} == {"run-00007"}


def test_the_request_carries_the_trials_name_and_the_limits() -> None:
    adapter = Steady()
    measure(adapter)
    (request,) = adapter.requests
    assert (request.request_id, request.max_tokens, request.streamed) == ("run-00007", 99, True)
    assert request.messages[0].content == "Why?"


def test_a_failure_is_a_row_without_times_and_is_tried_once() -> None:
    adapter = Steady(RateLimited("too many", http_status=429))
    trial, _, _ = measure(adapter)
    assert (trial.outcome, trial.error_type, trial.http_status) == ("failed", "rate_limited", 429)
    assert trial.attempts == 1 and len(adapter.requests) == 1
    assert trial.ttft_s is None and trial.e2e_s is None and trial.cost_usd is None and trial.output_tokens is None


def test_retries_are_made_when_they_are_asked_for_and_there_is_no_fallback() -> None:
    adapter = Steady(RateLimited("too many", http_status=429))
    trial, _, _ = measure(adapter, retries=2)
    assert trial.outcome == "failed" and trial.attempts == 3
    assert all(request.streamed for request in adapter.requests)


def test_a_cut_stream_is_truncated_and_keeps_what_was_measured() -> None:
    trial, _, _ = measure(Steady(TruncatedStream("cut"), after=10))
    assert trial.outcome == "truncated" and trial.chunks == 10
    assert trial.ttft_s == pytest.approx(0.2, abs=1e-9) and trial.e2e_s is None and trial.qoe is None


def test_what_cannot_even_be_asked_is_a_row_too() -> None:
    trial, events, _ = measure(Steady(), provider="?nobody")
    assert (trial.outcome, trial.error_type, trial.chunks, events) == ("failed", "usage", 0, [])
    assert trial.ttft_s is None and trial.error_message == "UsageError: no such provider"


def test_errors_are_written_without_secrets() -> None:
    trial, _, _ = measure(Steady(RateLimited("the key s3cret is over its limit")))
    assert trial.error_message == "the key [KEY] is over its limit"


def test_a_warm_up_says_how_it_went() -> None:
    async def main(adapter: Steady) -> str:
        bench = Bench("run", Scenario(("sim:x",), ("direct",), (PROMPT,)), Access(adapter), clock())
        return in_words(await warm_up(bench, "sim:x"))

    adapter = Steady()
    assert run_virtual(main(adapter)) == "completed" and adapter.requests[0].max_tokens == 16
    assert run_virtual(main(Steady(RateLimited("too many")))) == "failed: too many"


def test_a_cancelled_trial_ends_the_providers_work() -> None:
    ended = []

    class Endless(Steady):
        async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
            try:
                while True:
                    await asyncio.sleep(1)
                    yield TextDelta("on")
            finally:
                ended.append(True)

    async def main() -> None:
        bench = Bench("run", Scenario(("a",), ("direct",), (PROMPT,)), Access(Endless()), clock())
        task = asyncio.create_task(ask_trial(bench, Planned(1, 1, 1, PROMPT, "a", "direct")))
        await asyncio.sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(main())
    assert ended == [True]

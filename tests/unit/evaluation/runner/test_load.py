"""Closed and open loops: start times, queueing by the instrument, and loads that were not reached."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import manifest, schema, tables
from evaluation.prompts.prompt_file import Prompt
from evaluation.reports.provenance import describe_run
from evaluation.runner.load import LoadMonitor, arrival_offsets_s
from evaluation.runner.runner import RunSummary, run
from evaluation.runner.writer import DiskAccess
from evaluation.scenario import Scenario
from evaluation.workloads.request_trace import RequestTrace
from streaming.adapter import PreparedRequest, TimedAnswer
from streaming.errors import UsageError
from streaming.events import Finish, TextDelta, TimedEvent
from streaming.http.connection import Origin
from streaming.http.timed_exchange import ExchangeTimeouts, Gate, TimedExchange
from streaming.http.timestamped_sockets import TimestampingSelector
from streaming.messages import ChatRequest
from tests.unit.evaluation import factories
from tests.unit.evaluation.fake_backend import PricedAdapter
from tests.virtual_time import loop_clock, run_on_virtual_time


async def run_in_loop(work: Callable[[], None]) -> None:
    """Run the call in the event loop: a thread takes real time, and virtual time would run ahead of it."""
    work()


def measure(folder: Path, expected: Scenario, adapter: PricedAdapter) -> RunSummary:
    async def main() -> RunSummary:
        return await run(expected, adapter, folder, clock=loop_clock(), disk=DiskAccess(run_in_thread=run_in_loop))

    return run_on_virtual_time(main(), start_s=100.0)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert arrival_offsets_s(factories.make_scenario(rate=4.0), 4) == [0.0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_are_seeded_and_match_rate_on_average() -> None:
    expected = factories.make_scenario(rate=5.0, arrivals="poisson")
    result = arrival_offsets_s(expected, 20_000)
    gaps_s = np.diff(result)
    other = factories.make_scenario(rate=5.0, arrivals="poisson", seed=4)
    assert result == arrival_offsets_s(expected, 20_000) != arrival_offsets_s(other, 20_000)
    assert gaps_s.mean() == pytest.approx(0.2, rel=0.03) and gaps_s.std() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_arrivals_have_the_rate_and_the_variation_of_their_burstiness(burstiness: float) -> None:
    expected = factories.make_scenario(rate=5.0, arrivals="gamma", burstiness=burstiness)
    gaps_s = np.diff(arrival_offsets_s(expected, 40_000))
    assert gaps_s.mean() == pytest.approx(0.2, rel=0.03)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(burstiness**-0.5, rel=0.05)
    assert arrival_offsets_s(expected, 5) == arrival_offsets_s(expected, 40_000)[:5]


def test_open_loop_starts_answers_on_time_regardless_of_load(tmp_path: Path) -> None:
    adapter = PricedAdapter(takes_s=10.0)
    expected = factories.make_scenario(("m",), rate=2.0, warm_up=0)
    summary = measure(tmp_path, expected, adapter)
    trials = sorted(schema.read_trials(tmp_path), key=lambda trial: trial.trial_id)
    starts_s = [trial.intended_start_s or 0.0 for trial in trials]
    assert np.diff(starts_s) == pytest.approx([0.5] * 7) and adapter.most == 8
    assert all(t.queue_s == pytest.approx(0, abs=1e-6) and t.ttft_s == pytest.approx(10, abs=1e-6) for t in trials)
    assert all(t.ttft_total_s == pytest.approx(10, abs=1e-6) for t in trials) and summary.shortfall is None
    (load,) = manifest.read(tmp_path)["loads"]
    assert load["starts_per_s"] == load["drawn_rate_per_s"] == 2.0 and load["concurrency_max"] == 8


class ConnectingRequest:
    """A prepared request whose connection takes 40 ms to open, and whose answer takes 10 s."""

    async def send(self, sockets: TimestampingSelector, request_id: str, gate: Gate | None = None) -> TimedAnswer:
        now_s, exchange = loop_clock(), TimedExchange(sockets, Origin("host", 80), b"", ExchangeTimeouts())
        await asyncio.sleep(0.04)
        exchange.connected_s, exchange.connect_s = now_s(), 0.04
        if gate is not None:
            await gate()
        exchange.begun_s = exchange.sent_s = now_s()
        await asyncio.sleep(10.0)
        return TimedAnswer(exchange, [TimedEvent(now_s(), TextDelta("Yes.")), TimedEvent(now_s(), Finish("stop"))])


class ConnectingAdapter(PricedAdapter):
    async def prepare_request(self, request: ChatRequest) -> PreparedRequest:  # type: ignore[override] # another answer of the protocol
        return ConnectingRequest()


def test_requests_of_a_trace_are_sent_when_they_are_due_however_long_connecting_takes(tmp_path: Path) -> None:
    due_s = [0.0, 0.0004, 0.0008, 0.5, 0.5, 0.5002]
    prompts = tuple(Prompt(f"p{number}", f"Why {number}?", start_s=at_s) for number, at_s in enumerate(due_s))
    trace = RequestTrace("trace.jsonl")
    expected = Scenario(("m",), ("direct",), prompts, rate=10.0, trace=trace, warm_up=0)
    measure(tmp_path, expected, ConnectingAdapter())
    trials = sorted(schema.read_trials(tmp_path), key=lambda trial: trial.trial_id)
    sent_s = [trial.sent_monotonic_s or 0.0 for trial in trials]
    assert [at_s - sent_s[0] for at_s in sent_s] == pytest.approx(due_s)
    for trial in trials:
        assert trial.start_delay_s == pytest.approx(0, abs=1e-6) and trial.queue_s == pytest.approx(0, abs=1e-6)
        assert trial.connect_s == pytest.approx(0.04) and trial.connect_ahead_s == pytest.approx(0.04)
        assert trial.ttft_s == pytest.approx(10) and trial.ttft_total_s == pytest.approx(10.04)
    delays = "0.00 ms after they were due (p99 0.00, at most 0.00 ms)"
    assert f"- requests sent {delays}; 6 of 6 had their connection opened before" in list(
        describe_run(tables.from_journal(tmp_path))
    )


def test_closed_loop_reaching_concurrency_reports_no_shortfall(tmp_path: Path) -> None:
    summary = measure(tmp_path, factories.make_scenario(("m",), concurrency=4, warm_up=0), PricedAdapter(takes_s=1.0))
    assert summary.shortfall is None and manifest.read(tmp_path)["loads"][0]["concurrency_mean"] == pytest.approx(4)
    assert all(trial.queue_s == 0 for trial in schema.read_trials(tmp_path))


def test_unreached_concurrency_is_reported_as_shortfall(tmp_path: Path) -> None:
    summary = measure(tmp_path, factories.make_scenario(("m",), concurrency=50, warm_up=0), PricedAdapter(takes_s=1.0))
    assert summary.shortfall == "concurrency 50 requested, at most 8 reached"


def test_closed_loop_keeps_its_concurrency_at_each_provider(tmp_path: Path) -> None:
    expected = factories.make_scenario(("m", "n"), concurrency=3, warm_up=0)
    adapter = PricedAdapter(takes_s=1.0)
    summary = measure(tmp_path, expected, adapter)
    assert adapter.most == 6 and summary.shortfall is None
    (tmp_path / "more").mkdir()
    short = measure(
        tmp_path / "more", factories.make_scenario(("m", "n"), concurrency=9, warm_up=0), PricedAdapter(1.0)
    )
    assert short.shortfall == "m: concurrency 9 requested, at most 8 reached"


async def reach_concurrency_late() -> dict[str, object]:
    """Start four answers one after the other that then all run at the same time."""
    watch = LoadMonitor(loop_clock())
    for _ in range(4):
        watch.on_start(0.0, "m")
        await asyncio.sleep(0.001)
    return watch.summary(factories.make_scenario(("m",), concurrency=4))


def test_closed_loop_ramp_up_is_not_a_shortfall() -> None:
    result = run_on_virtual_time(reach_concurrency_late())
    assert (result["concurrency_max"], result["concurrency_mean"], result["shortfall"]) == (4, None, None)


async def start_late() -> dict[str, object]:
    """Start ten answers 0.2 s apart that were due 0.1 s apart."""
    watch = LoadMonitor(loop_clock())
    for number in range(10):
        watch.on_start(number * 0.1, "m")
        watch.on_end("m")
        await asyncio.sleep(0.2)
    return watch.summary(factories.make_scenario(rate=10.0))


def test_unreached_rate_is_reported_as_shortfall() -> None:
    result = run_on_virtual_time(start_late())
    assert result["shortfall"] == "10 requests/s requested (10/s scheduled), 5/s started"
    assert result["latest_start_s"] == pytest.approx(0.9)


def test_burst_that_starts_within_milliseconds_has_no_shortfall() -> None:
    async def start_burst() -> dict[str, object]:
        watch = LoadMonitor(loop_clock())
        for number in range(10):
            watch.on_start(number * 0.0001, "m")
            await asyncio.sleep(0.0002)
        return watch.summary(factories.make_scenario(rate=10.0))

    result = run_on_virtual_time(start_burst())
    assert (result["drawn_rate_per_s"], result["starts_per_s"]) == (pytest.approx(10_000), pytest.approx(5_000))
    assert result["shortfall"] is None and result["latest_start_s"] == pytest.approx(0.0009)


@pytest.mark.parametrize(("starts", "words"), [(1, "fewer than two were started"), (3, None)])
def test_rate_of_requests_that_were_all_due_at_once_has_no_shortfall(starts: int, words: str | None) -> None:
    async def start_at_once() -> dict[str, object]:
        watch = LoadMonitor(loop_clock())
        for _ in range(starts):
            watch.on_start(0.0, "m")
        return watch.summary(factories.make_scenario(rate=10.0))

    shortfall = run_on_virtual_time(start_at_once())["shortfall"]
    assert shortfall == (f"10 requests/s requested, {words}" if words else None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": 0.0}, "rate: out of range"),
        ({"rate": 5000.0}, "at most 1000"),
        ({"rate": 1.0, "concurrency": 2}, "both are set"),
        ({"arrivals": "sometimes"}, "arrivals: 'sometimes'"),
        ({"rate": 1.0, "arrivals": "gamma"}, "arrivals: gamma needs a burstiness"),
        ({"rate": 1.0, "burstiness": 2.0}, "burstiness: belongs to gamma arrivals, not to constant"),
        ({"rate": 1.0, "arrivals": "gamma", "burstiness": 1e9}, "burstiness: out of range"),
    ],
)
def test_invalid_load_is_rejected(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        factories.make_scenario(**changes)


def test_load_summary_reports_cpu_and_memory() -> None:
    used_s = iter([10.0, 12.0])
    watch = LoadMonitor(lambda: 0.0, cpu=lambda: next(used_s))
    watch.on_start(0.0, "m")
    watch.on_start(0.0, "m")
    watch.count_chunks(300)
    watch.count_chunks(200)
    result = watch.summary(factories.make_scenario(concurrency=2))
    assert (result["cpu_s"], result["cpu_s_per_1000_chunks"]) == (2.0, 4.0) and result["peak_memory_bytes"] > 5_000_000


def test_load_that_never_started_has_unknown_cpu() -> None:
    result = LoadMonitor(lambda: 0.0).summary(factories.make_scenario())
    assert result["cpu_s"] is None and result["cpu_s_per_1000_chunks"] is None

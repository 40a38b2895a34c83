"""Sweeps on virtual time against a simulated server of known capacity: throughput, knee, goodput, waiting, resuming."""

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import manifest, schema, tables
from evaluation.analysis.knee import find_knees
from evaluation.analysis.throughput import LoadLevel, load_levels
from evaluation.levels import find_knee, next_level, parse_levels
from evaluation.metrics.load import LOAD_METRIC_BY_NAME, LoadAnswer, add_slices, measure_load
from evaluation.reports.charts import build_charts
from evaluation.reports.markdown import markdown
from evaluation.runner import resume
from evaluation.runner.budget import LEDGER_FILE, CostCeiling, read_ledger_total
from evaluation.runner.runner import RunSummary, run
from evaluation.runner.writer import DiskAccess
from evaluation.scenario import Scenario
from providers.offline.simulated import SimAdapter
from simulator.schedules import Profile
from streaming.clock import Clock
from streaming.errors import UsageError
from streaming.events import Event
from streaming.messages import ChatRequest
from streaming.meter import CostModel
from streaming.retry import RetryPolicy
from streaming.session import Route, Session
from tests.scripted_adapter import InProcessAdapter
from tests.unit.evaluation import factories
from tests.unit.evaluation.fake_backend import price_usage
from tests.virtual_time import loop_clock, run_on_virtual_time

TTFT_S, GAP_S, TOKENS = 0.08, 0.005, 4
SERVICE_S = TTFT_S + TOKENS * GAP_S


class SlotServer(InProcessAdapter):
    """The simulated provider with `slots` answers at a time, each of `SERVICE_S`."""

    def __init__(self, slots: int, clock: Clock) -> None:
        profile = Profile("m", ttft_s=TTFT_S, gap_s=GAP_S, tokens=TOKENS, slots=slots)
        self._simulated = SimAdapter(clock, profiles={"m": profile})

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        return self._simulated.stream(request)

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session:
        return Session([Route(name, self, name) for name in names], clock, policy=policy)

    def cost_model(self, name: str) -> CostModel:
        return CostModel(price=price_usage)


async def run_in_loop(work: Callable[[], None]) -> None:
    """Run the call in the event loop: a thread takes real time, and virtual time would run ahead of it."""
    work()


def measure(
    folder: Path,
    slots: int,
    *,
    start: resume.RunState | None = None,
    budget: CostCeiling | None = None,
    **changes: Any,
) -> RunSummary:
    expected = make_scenario(**changes)

    async def main() -> RunSummary:
        disk = DiskAccess(run_in_thread=run_in_loop)
        server, clock = SlotServer(slots, loop_clock()), loop_clock()
        return await run(expected, server, folder, start=start, clock=clock, disk=disk, budget=budget)

    return run_on_virtual_time(main(), start_s=100.0)


def make_scenario(**changes: Any) -> Scenario:
    return factories.make_scenario(("m",), **{"repeats": 1, "warm_up": 0, **changes})


def levels_of(folder: Path, slo: str = "") -> dict[float, LoadLevel]:
    facts = manifest.read(folder)
    manifest.write(folder, facts | {"slo": slo.split(",") if slo else []})
    return {level.level or 0.0: level for level in load_levels(tables.from_journal(folder))}


def test_throughput_of_each_level_is_that_of_the_server_within_one_percent(tmp_path: Path) -> None:
    summary = measure(tmp_path, 3, levels=(1.0, 2.0, 3.0, 6.0))
    levels = levels_of(tmp_path, f"ttft_p95<{TTFT_S * 1200:g}ms")
    assert list(levels) == [1.0, 2.0, 3.0, 6.0] and summary.shortfall is None
    for level, found in levels.items():
        expected = min(level, 3) / SERVICE_S
        assert found.value("throughput") == pytest.approx(expected, rel=0.01)
        assert found.value("output_throughput") == pytest.approx(expected * TOKENS, rel=0.01)
        assert found.value("goodput") == pytest.approx(expected if level <= 3 else 0.0, rel=0.01)
    run_tables = tables.from_journal(tmp_path)
    (knee,) = find_knees(load_levels(run_tables))
    assert (knee.level, knee.high, knee.is_passed, knee.metric) == (3.0, 3.0, True, "goodput")
    assert knee.low is not None and knee.low >= 2.0
    assert f"goodput no longer grows after 3 \\[{knee.low:g}, 3\\] at a time" in markdown(run_tables)
    assert [chart.id for chart in build_charts(run_tables)][:2] == ["goodput", "latency-throughput"]


def test_search_doubles_until_saturated_and_bisects_to_the_knee(tmp_path: Path) -> None:
    summary = measure(tmp_path, 3, sweep_to=64)
    levels = levels_of(tmp_path)
    assert sorted(levels) == [1.0, 2.0, 3.0, 4.0, 8.0] and find_knees([*levels.values()])[0].level == 3.0
    facts = manifest.read(tmp_path)
    assert facts["complete"] and summary.trials == summary.planned == facts["trials_planned"] == len(facts["order"])
    assert [load["level"] for load in facts["loads"]] == [1.0, 2.0, 4.0, 8.0, 3.0]


def test_search_resumed_inside_a_level_repeats_nothing_and_finds_the_same_knee(tmp_path: Path) -> None:
    measure(tmp_path, 2, sweep_to=64)
    whole = [trial.trial_id for trial in schema.read_trials(tmp_path)]
    path = tmp_path / schema.TRIALS_FILE
    lines = path.read_text().splitlines(keepends=True)[:50]  # within the third level
    path.write_text("".join(lines))
    facts = manifest.read(tmp_path)
    manifest.write(
        tmp_path, facts | {"order": facts["order"][:80], "trials_planned": 80, "complete": False, "loads": []}
    )
    start = resume.inspect_run(tmp_path, make_scenario(sweep_to=64))
    assert len(start.left) == 30 and {trial.level for trial in start.left} == {4.0}
    measure(tmp_path, 2, start=start, sweep_to=64)
    ids = [trial.trial_id.removesuffix("-r1") for trial in schema.read_trials(tmp_path)]
    assert sorted(id_[-5:] for id_ in ids) == sorted(id_[-5:] for id_ in whole) and len(set(ids)) == len(ids)
    assert find_knees([*levels_of(tmp_path).values()])[0].level == 2.0


def test_search_stops_at_the_maximum_cost_and_keeps_its_levels(tmp_path: Path) -> None:
    for name in ("whole", "run"):
        (tmp_path / name).mkdir()
    measure(tmp_path / "whole", 3, sweep_to=64, max_tokens=TOKENS)
    whole_usd = sum((trial.cost_usd or Decimal(0) for trial in schema.read_trials(tmp_path / "whole")), Decimal(0))
    ceiling_usd = whole_usd / 2
    budget = CostCeiling(ceiling_usd, tmp_path / LEDGER_FILE)
    summary = measure(tmp_path / "run", 3, budget=budget, sweep_to=64, max_tokens=TOKENS)
    assert summary.out_of_budget and summary.trials < summary.planned
    spent_usd = sum((trial.cost_usd or Decimal(0) for trial in schema.read_trials(tmp_path / "run")), Decimal(0))
    assert Decimal("0.8") * ceiling_usd < spent_usd == read_ledger_total(tmp_path) <= ceiling_usd
    facts = manifest.read(tmp_path / "run")
    assert facts["out_of_budget"] and not facts["complete"]
    finished = [load["level"] for load in facts["loads"]]
    assert finished and finished == [1.0, 2.0, 4.0, 8.0, 3.0][: len(finished)]


def test_search_of_a_server_that_delivers_nothing_ends_at_the_first_level() -> None:
    assert next_level({1: 0.0}, 512) is None


def test_open_loop_waits_as_an_m_d_1_queue(tmp_path: Path) -> None:
    measure(tmp_path, 1, rate=7.0, arrivals="poisson", level_answers=None, repeats=100)
    trials = sorted(schema.read_trials(tmp_path), key=lambda trial: trial.intended_start_s or 0.0)
    starts_s = np.array([trial.intended_start_s for trial in trials])
    wait_s, free_s = [], 0.0
    for start_s in starts_s:
        wait_s.append(max(free_s - start_s, 0.0))
        free_s = start_s + wait_s[-1] + SERVICE_S
    assert [trial.ttft_total_s for trial in trials] == pytest.approx([TTFT_S + one for one in wait_s], abs=1e-6)
    assert max(wait_s) > SERVICE_S


def test_m_d_1_formula_holds_for_the_arrivals_of_the_open_loop() -> None:
    from evaluation.runner.load import arrival_offsets_s

    rate, service_s = 7.0, 0.1
    free_s, waits_s = 0.0, []
    for start_s in arrival_offsets_s(make_scenario(rate=rate, arrivals="poisson"), 200_000):
        waits_s.append(max(free_s - start_s, 0.0))
        free_s = start_s + waits_s[-1] + service_s
    load = rate * service_s
    assert np.mean(waits_s) == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.03)


def serve_noisily(streams: int, slots: int, seed: int) -> list[LoadAnswer]:
    """Return answers of a closed loop at a server whose answers differ by a fifth."""
    rng = random.Random(f"{seed} {streams}")
    free_s, ready_s = [0.0] * slots, [0.0] * streams
    answers = []
    for _ in range(max(10 * streams, 20)):
        stream = ready_s.index(min(ready_s))
        slot = free_s.index(min(free_s))
        start_s, began_s = ready_s[stream], max(free_s[slot], ready_s[stream])
        free_s[slot] = ready_s[stream] = began_s + rng.lognormvariate(0, 0.2)
        answers.append(LoadAnswer(start_s, began_s + 0.2, ready_s[stream]))
    return answers


def test_knee_is_at_the_slots_in_19_of_20_seeds() -> None:
    slots, right = 8, 0
    for seed in range(20):
        rates: dict[float, float] = {}
        while (level := next_level(rates, 64)) is not None:
            total = add_slices(measure_load(serve_noisily(level, slots, seed), level)[0])
            rates[level] = LOAD_METRIC_BY_NAME["throughput"].function(total) or 0.0
        right += abs(find_knee(rates) - slots) <= 1
    assert right >= 19


def test_level_has_as_many_answers_as_requested(tmp_path: Path) -> None:
    assert measure(tmp_path, 3, levels=(1.0, 4.0), level_answers=6).trials == 12


@pytest.mark.parametrize(
    ("text", "levels"), [("8", (8,)), ("1,2,4", (1, 2, 4)), ("1:20:5", (1, 6, 11, 16)), ("0.5:1.5:0.5", (0.5, 1, 1.5))]
)
def test_levels_are_parsed(text: str, levels: tuple[float, ...]) -> None:
    assert parse_levels(text, "--rate") == levels


@pytest.mark.parametrize(
    "text", ["", "many", "1:2", "5:1:1", "1:9:0", "1:1e9:1", "nan", "inf", "1,inf", "1:2:nan", "1:2:inf"]
)
def test_invalid_levels_are_rejected(text: str) -> None:
    with pytest.raises(UsageError, match=r"--rate: .* is no load"):
        parse_levels(text, "--rate")


def test_search_ends_at_the_most_streams_if_the_server_is_never_saturated() -> None:
    rates: dict[float, float] = {}
    while (level := next_level(rates, 20)) is not None:
        rates[level] = float(level)
    assert sorted(rates)[:6] == [1, 2, 4, 8, 16, 18] and max(rates) == 20 and find_knee(rates) == 19

"""Whole runs with adapters that answer at once: order, concurrency, warm-up, failing providers, a full disk."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path

import pytest

from evaluation import manifest, schema
from evaluation.runner.runner import RunSummary, run
from evaluation.runner.writer import DEFAULT_DISK_ACCESS, DiskAccess
from evaluation.scenario import Scenario, plan
from evaluation.schema import EventRow, Journal, Trial
from streaming.clock import Clock
from streaming.errors import ServerError, UsageError
from streaming.events import Event, Finish, TextDelta
from streaming.messages import ChatRequest
from streaming.meter import CostModel
from streaming.retry import RetryPolicy
from streaming.session import Route, Session
from tests.scripted_adapter import InProcessAdapter
from tests.unit.evaluation import factories


class QuickAdapter(InProcessAdapter):
    """An adapter that answers at once, or fails for `broken:…`, and counts concurrent answers."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.requests: list[tuple[str, str | None]] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.running += 1
        self.most = max(self.most, self.running)
        self.requests.append((request.model, request.request_id))
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            if request.model.startswith("broken"):
                raise ServerError("down", http_status=503)
            yield TextDelta("Yes.")
            yield Finish("stop")
        finally:
            self.running -= 1

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session:
        return Session([Route(name, self, name) for name in names], clock, policy=policy)

    def cost_model(self, name: str) -> CostModel:
        return CostModel()


def run_to_end(
    folder: Path, expected: Scenario, disk: DiskAccess = DEFAULT_DISK_ACCESS
) -> tuple[RunSummary, QuickAdapter]:
    quick = QuickAdapter()
    return asyncio.run(run(expected, quick, folder, disk=disk)), quick


def test_run_executes_trials_in_planned_order_after_warm_up(tmp_path: Path) -> None:
    expected = factories.make_scenario()
    summary, quick = run_to_end(tmp_path, expected)
    names = [model for model, _ in quick.requests]
    assert names == ["sim:a", "b:c", *(planned.provider for planned in plan(expected))]
    ids = [request_id for _, request_id in quick.requests]
    assert [trial.trial_id for trial in schema.read_trials(tmp_path)] == ids[2:] and len(set(ids[2:])) == 16
    assert summary.trials == summary.planned == 16 and not summary.interrupted


def test_run_completes_manifest_with_warm_up_outcomes(tmp_path: Path) -> None:
    run_to_end(tmp_path, factories.make_scenario(("sim:a", "broken:x"), repeats=1))
    facts = manifest.read(tmp_path)
    assert facts["complete"] and not facts["interrupted"] and facts["trials_finished"] == 4
    assert facts["warm_up"] == {"sim:a": ["completed"], "broken:x": ["failed: down"]}
    assert facts["finished_at"] >= facts["started_at"]


def test_failing_provider_does_not_stop_others(tmp_path: Path) -> None:
    summary, _ = run_to_end(tmp_path, factories.make_scenario(("sim:a", "broken:x")))
    assert summary.outcomes == {"completed": 8, "failed": 8}
    failed = [trial for trial in schema.read_trials(tmp_path) if trial.outcome == "failed"]
    assert all(
        (t.provider, t.error_type, t.http_status, t.ttft_s) == ("broken", "server_error", 503, None) for t in failed
    )


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_run_never_exceeds_concurrency(tmp_path: Path, concurrency: int) -> None:
    summary, quick = run_to_end(tmp_path, factories.make_scenario(concurrency=concurrency))
    assert summary.trials == 16
    streams = 1 if concurrency == 1 else 2 * concurrency  # of two providers
    assert quick.most <= min(streams, 16) and (quick.most > 1) == (concurrency > 1)


def test_run_without_warm_up_sends_only_trials(tmp_path: Path) -> None:
    _, quick = run_to_end(tmp_path, factories.make_scenario(warm_up=0))
    assert len(quick.requests) == 16 and manifest.read(tmp_path)["warm_up"] == {}


class FullDiskJournal(Journal):
    """A journal on a disk that is full at the third trial."""

    def add(self, trial: Trial, events: Iterable[EventRow] = ()) -> None:
        if trial.trial_id.endswith("00003"):
            raise OSError(28, "No space left on device")
        super().add(trial, events)


def test_full_disk_ends_run_with_message_and_keeps_trials(tmp_path: Path) -> None:
    disk = DiskAccess(open_journal=FullDiskJournal)
    with pytest.raises(UsageError, match="No space left on device"):
        run_to_end(tmp_path, factories.make_scenario(), disk=disk)
    kept = [trial.trial_id[-5:] for trial in schema.read_trials(tmp_path)]
    assert {"00001", "00002"} <= set(kept) and "00003" not in kept and len(kept) < 16
    assert manifest.read(tmp_path)["complete"] is False

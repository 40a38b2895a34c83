"""The run as a whole, with adapters that answer at once: order, concurrency, warm-up, broken providers, a full disk."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path

import pytest

from evaluation import manifest, record
from evaluation.record import EventRow, Journal, Trial
from evaluation.run import Summary, run
from evaluation.scenario import Scenario, plan
from streaming.clock import Clock
from streaming.errors import ServerError, UsageError
from streaming.events import Event, Finish, TextDelta
from streaming.messages import ChatRequest
from streaming.meter import Rates
from streaming.retry import Policy
from streaming.session import Route, Session
from tests.unit.evaluation import made


class Quick:
    """Answers at once under every name, but under `broken:…` never; counts how many answers run at a time."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.asked: list[tuple[str, str | None]] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.running += 1
        self.most = max(self.most, self.running)
        self.asked.append((request.model, request.request_id))
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            if request.model.startswith("broken"):
                raise ServerError("down", http_status=503)
            yield TextDelta("Yes.")
            yield Finish("stop")
        finally:
            self.running -= 1

    async def aclose(self) -> None: ...

    def session(self, names: Sequence[str], *, clock: Clock, policy: Policy | None = None) -> Session:
        return Session([Route(name, self, name) for name in names], clock, policy=policy)

    def rates(self, name: str) -> Rates:
        return Rates()


def done(folder: Path, wanted: Scenario) -> tuple[Summary, Quick]:
    quick = Quick()
    return asyncio.run(run(wanted, quick, folder)), quick


def test_trials_run_in_the_planned_order_after_the_warm_up(tmp_path: Path) -> None:
    wanted = made.scenario()
    summary, quick = done(tmp_path, wanted)
    names = [model for model, _ in quick.asked]
    assert names == ["sim:a", "b:c", *(planned.provider for planned in plan(wanted))]
    ids = [request_id for _, request_id in quick.asked]
    assert [trial.trial_id for trial in record.read_trials(tmp_path)] == ids[2:] and len(set(ids[2:])) == 16
    assert summary.trials == summary.planned == 16 and not summary.interrupted


def test_the_manifest_is_completed_and_tells_of_the_warm_up(tmp_path: Path) -> None:
    done(tmp_path, made.scenario(("sim:a", "broken:x"), repeats=1))
    facts = manifest.read(tmp_path)
    assert facts["complete"] and not facts["interrupted"] and facts["trials_finished"] == 4
    assert facts["warm_up"] == {"sim:a": ["completed"], "broken:x": ["failed: down"]}
    assert facts["finished_at"] >= facts["started_at"]


def test_a_broken_provider_stops_nobody_else(tmp_path: Path) -> None:
    summary, _ = done(tmp_path, made.scenario(("sim:a", "broken:x")))
    assert summary.outcomes == {"completed": 8, "failed": 8}
    failed = [trial for trial in record.read_trials(tmp_path) if trial.outcome == "failed"]
    assert all(
        (t.provider, t.error_type, t.http_status, t.ttft_s) == ("broken", "server_error", 503, None) for t in failed
    )


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_no_more_answers_run_at_a_time_than_asked_for(tmp_path: Path, concurrency: int) -> None:
    summary, quick = done(tmp_path, made.scenario(concurrency=concurrency))
    assert summary.trials == 16
    assert quick.most <= min(concurrency, 16) and (quick.most > 1) == (concurrency > 1)


def test_without_warm_up_every_request_is_a_trial(tmp_path: Path) -> None:
    _, quick = done(tmp_path, made.scenario(warm_up=0))
    assert len(quick.asked) == 16 and manifest.read(tmp_path)["warm_up"] == {}


def test_a_full_disk_ends_the_run_in_words_and_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Journal.add

    def full(self: Journal, trial: Trial, events: Iterable[EventRow] = ()) -> None:
        if trial.trial_id.endswith("00003"):
            raise OSError(28, "No space left on device")
        add(self, trial, events)

    monkeypatch.setattr(Journal, "add", full)
    with pytest.raises(UsageError, match="No space left on device"):
        done(tmp_path, made.scenario())
    assert len(record.read_trials(tmp_path)) == 2 and manifest.read(tmp_path)["complete"] is False

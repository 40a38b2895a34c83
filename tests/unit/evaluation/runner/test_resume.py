"""Resuming an unfinished run: finished trials are not repeated, and partial lines are removed."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evaluation import manifest, schema, tables
from evaluation.analysis import summary
from evaluation.prompts.prompt_file import Prompt
from evaluation.runner import resume
from evaluation.runner.runner import RunSummary, run
from evaluation.scenario import Scenario, plan
from evaluation.schema import EVENTS_FILE, TRIALS_FILE
from streaming.errors import UsageError
from streaming.session import Session
from tests.unit.evaluation import factories
from tests.unit.evaluation.fake_backend import PricedAdapter

SCENARIO = factories.make_scenario(("m", "n"))


def kill_after(folder: Path, count: int) -> None:
    """Create the files that remain when the process is killed while it writes a trial."""
    asyncio.run(run(SCENARIO, PricedAdapter(), folder))
    trials = (folder / TRIALS_FILE).read_text().splitlines(keepends=True)
    events = (folder / EVENTS_FILE).read_text().splitlines(keepends=True)
    own = len(events) // len(trials)
    (folder / TRIALS_FILE).write_text("".join(trials[:count]) + trials[count][:20])
    (folder / EVENTS_FILE).write_text("".join(events[: own * count + 2]) + '{"run_id": "br')
    manifest.write(folder, manifest.read(folder) | {"complete": False, "finished_at": None, "loads": []})


def resume_run(folder: Path, expected: Scenario = SCENARIO) -> tuple[RunSummary, PricedAdapter]:
    adapter = PricedAdapter()
    start = resume.inspect_run(folder, expected)
    return asyncio.run(run(expected, adapter, folder, start=start)), adapter


@pytest.mark.parametrize("count", [0, 1, 9, 15])
def test_resumed_run_sends_only_remaining_trials(tmp_path: Path, count: int) -> None:
    kill_after(tmp_path, count)
    before = (tmp_path / TRIALS_FILE).read_text().splitlines()[:count]
    summary, adapter = resume_run(tmp_path)
    requests = [request_id or "" for _, request_id in adapter.requests if "warm-up" not in (request_id or "")]
    assert len(requests) == 16 - count and summary.trials == summary.planned == 16
    assert (tmp_path / TRIALS_FILE).read_text().splitlines()[:count] == before
    result = tables.from_journal(tmp_path)
    cells = result.trials[["block", "prompt_id", "provider", "strategy"]].drop_duplicates()
    assert len(cells) == len(result.trials) == 16 and result.trials["trial_id"].is_unique
    assert (result.events.groupby("trial_id").size() == 6).all() and result.events["trial_id"].nunique() == 16
    assert set(result.trials["repeat"]) == {p.repeat for p in plan(SCENARIO)}
    assert result.manifest["complete"] and result.manifest["resumed"] == 1 and result.manifest["trials_finished"] == 16


def test_remaining_trials_are_distinguished_by_transport(tmp_path: Path) -> None:
    expected = factories.make_scenario(("m",), transport=("in-process", "sse"))
    planned = plan(expected)
    done = [p for p in planned if p.transport == "sse"]
    rows = [(factories.make_trial(p, transport="sse"), list[schema.EventRow]()) for p in done]
    factories.write_run(tmp_path, expected, rows, complete=False)
    start = resume.inspect_run(tmp_path, expected)
    assert start.left == tuple(p for p in planned if p.transport == "in-process") and len(start.left) == 8


def test_resumed_request_has_new_request_id(tmp_path: Path) -> None:
    kill_after(tmp_path, 9)
    _, adapter = resume_run(tmp_path)
    assert all(
        (request_id or "").endswith("-r1") for _, request_id in adapter.requests if "warm" not in (request_id or "")
    )


def test_resumed_run_skips_warm_up_of_finished_provider(tmp_path: Path) -> None:
    expected = factories.make_scenario(("m", "n"), prompts=factories.PROMPTS[:1], repeats=1)
    asyncio.run(run(expected, PricedAdapter(), tmp_path))
    (tmp_path / TRIALS_FILE).write_text((tmp_path / TRIALS_FILE).read_text().splitlines(keepends=True)[0])
    first = schema.read_trials(tmp_path)[0].provider
    _, adapter = resume_run(tmp_path, expected)
    assert {model for model, _ in adapter.requests} == {"m", "n"} - {first}


def test_inspect_run_writes_nothing(tmp_path: Path) -> None:
    kill_after(tmp_path, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(resume.inspect_run(tmp_path, SCENARIO).left) == 13
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_resume_with_other_scenario_is_rejected_naming_differences(tmp_path: Path) -> None:
    kill_after(tmp_path, 3)
    with pytest.raises(UsageError, match="another scenario: max_tokens 128, not 99, repeats 4, not 3"):
        resume.inspect_run(tmp_path, factories.make_scenario(("m", "n"), repeats=3, max_tokens=99))
    fewer = factories.make_scenario(("m", "n"), prompts=factories.PROMPTS[:1])
    with pytest.raises(UsageError, match="another scenario: prompts"):
        resume.inspect_run(tmp_path, fewer)


@pytest.mark.parametrize("count", [9, 16])
def test_resumed_run_may_add_repeats_and_prompts(tmp_path: Path, count: int) -> None:
    if count == 16:
        asyncio.run(run(SCENARIO, PricedAdapter(), tmp_path))
    else:
        kill_after(tmp_path, count)
    before = (tmp_path / TRIALS_FILE).read_text().splitlines()[:count]
    more = factories.make_scenario(("m", "n"), repeats=5, prompts=(*factories.PROMPTS, Prompt("three", "Three?")))
    summary, adapter = resume_run(tmp_path, more)
    requests = [request_id for _, request_id in adapter.requests if "warm-up" not in (request_id or "")]
    assert len(requests) == 30 - count and summary.trials == summary.planned == 30
    assert (tmp_path / TRIALS_FILE).read_text().splitlines()[:count] == before
    result = tables.from_journal(tmp_path)
    assert len(result.trials[["block", "prompt_id", "provider"]].drop_duplicates()) == 30
    assert (result.trials.groupby("block")["provider"].nunique() == 2).all(), "each block has its pair"
    assert result.manifest["complete"] and len(result.manifest["scenario"]["prompts"]) == 3
    assert resume.inspect_run(tmp_path, more).left == ()


def test_retry_of_failed_trials_replaces_their_rows_and_keeps_them_aside(tmp_path: Path) -> None:
    expected = factories.make_scenario(("m", "broken"))
    asyncio.run(run(expected, PricedAdapter(), tmp_path))
    failed = [trial.trial_id for trial in schema.read_trials(tmp_path) if trial.outcome == "failed"]
    assert len(failed) == 8 and resume.inspect_run(tmp_path, expected).left == ()
    start = resume.inspect_run(tmp_path, expected, retry_failed=True)
    assert len(start.left) == 8 and {trial.trial_id for trial in start.again} == set(failed)

    class Repaired(PricedAdapter):
        def new_session(self, names: Sequence[str], **options: Any) -> Session:
            return super().new_session(["repaired" for _ in names], **options)

    summary = asyncio.run(run(expected, Repaired(), tmp_path, start=start))
    assert summary.outcomes == {"completed": 16}
    result = tables.from_journal(tmp_path)
    assert (result.trials["outcome"] == "completed").all() and len(result.trials) == 16
    assert set(result.events["trial_id"]) == set(result.trials["trial_id"])
    kept = [json.loads(line)["trial_id"] for line in (tmp_path / resume.RETRIED_FILE).read_text().splitlines()]
    assert kept == failed


def test_damaged_order_in_manifest_is_rejected(tmp_path: Path) -> None:
    kill_after(tmp_path, 3)
    facts = manifest.read(tmp_path)
    manifest.write(tmp_path, facts | {"order": [[1, 1, 1, "another", "m", "direct", "in-process", None]]})
    with pytest.raises(UsageError, match="cannot be resumed"):
        resume.inspect_run(tmp_path, SCENARIO)


def test_resume_of_empty_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no run"):
        resume.inspect_run(tmp_path, SCENARIO)


def test_duplicate_journal_line_counts_as_one_trial(tmp_path: Path) -> None:
    kill_after(tmp_path, 9)
    whole = (tmp_path / TRIALS_FILE).read_text().splitlines(keepends=True)[:9]
    (tmp_path / TRIALS_FILE).write_text("".join([*whole, *whole[3:5]]))
    summary, _ = resume_run(tmp_path)
    assert summary.trials == summary.planned == 16 and len(tables.from_journal(tmp_path).trials) == 16


def test_resume_recognizes_trials_of_named_local_model(tmp_path: Path) -> None:
    expected = factories.make_scenario(("local",), prompts=factories.PROMPTS[:1])
    asyncio.run(run(expected, PricedAdapter(), tmp_path, models={"local": "SmolLM2"}))
    assert {trial.model for trial in schema.read_trials(tmp_path)} == {"SmolLM2"}
    assert resume.inspect_run(tmp_path, expected).left == ()
    assert summary.groups(tables.from_journal(tmp_path))[0].name == "local"


def test_resume_of_older_manifest_without_effort_continues(tmp_path: Path) -> None:
    scenario = Scenario(("sim:steady",), ("direct",), (Prompt("p", "P"),))
    facts = resume.new_run("run-1", scenario).facts
    del facts["scenario"]["effort"]
    manifest.write(tmp_path, facts)
    assert len(resume.inspect_run(tmp_path, scenario).left) == 1

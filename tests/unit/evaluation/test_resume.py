"""A run that was broken off goes on: nothing finished is asked again, nothing half-written is left."""

import asyncio
from pathlib import Path

import pytest

from evaluation import manifest, record, resume, summary, tables
from evaluation.record import EVENTS, TRIALS
from evaluation.run import Summary, run
from evaluation.scenario import Prompt, Scenario, plan
from streaming.errors import UsageError
from tests.unit.evaluation import made
from tests.unit.evaluation.asking import Priced

WANTED = made.scenario(("m", "n"))


def killed_after(folder: Path, count: int) -> None:
    """Leave what a kill in the middle of writing a trial leaves."""
    asyncio.run(run(WANTED, Priced(), folder))
    trials = (folder / TRIALS).read_text().splitlines(keepends=True)
    events = (folder / EVENTS).read_text().splitlines(keepends=True)
    own = len(events) // len(trials)
    (folder / TRIALS).write_text("".join(trials[:count]) + trials[count][:20])
    (folder / EVENTS).write_text("".join(events[: own * count + 2]) + '{"run_id": "br')
    manifest.write(folder, manifest.read(folder) | {"complete": False, "finished_at": None, "loads": []})


def resumed(folder: Path, wanted: Scenario = WANTED) -> tuple[Summary, Priced]:
    adapter = Priced()
    start = resume.look(folder, wanted)
    return asyncio.run(run(wanted, adapter, folder, start=start)), adapter


@pytest.mark.parametrize("count", [0, 1, 9, 15])
def test_only_what_is_left_is_asked_and_the_tables_are_whole(tmp_path: Path, count: int) -> None:
    killed_after(tmp_path, count)
    before = (tmp_path / TRIALS).read_text().splitlines()[:count]
    summary, adapter = resumed(tmp_path)
    asked = [request_id or "" for _, request_id in adapter.asked if "warm-up" not in (request_id or "")]
    assert len(asked) == 16 - count and summary.trials == summary.planned == 16
    assert (tmp_path / TRIALS).read_text().splitlines()[:count] == before
    found = tables.from_journal(tmp_path)
    cells = found.trials[["block", "prompt_id", "provider", "strategy"]].drop_duplicates()
    assert len(cells) == len(found.trials) == 16 and found.trials["trial_id"].is_unique
    assert (found.events.groupby("trial_id").size() == 6).all() and found.events["trial_id"].nunique() == 16
    assert set(found.trials["repeat"]) == {p.repeat for p in plan(WANTED)}
    assert found.manifest["complete"] and found.manifest["resumed"] == 1 and found.manifest["trials_finished"] == 16


def test_what_is_left_is_told_apart_by_its_transport_too(tmp_path: Path) -> None:
    wanted = made.scenario(("m",), transport=("in-process", "sse"))
    planned = plan(wanted)
    done = [p for p in planned if p.transport == "sse"]
    rows = [(made.trial(p, transport="sse"), list[record.EventRow]()) for p in done]
    made.write(tmp_path, wanted, rows, complete=False)
    start = resume.look(tmp_path, wanted)
    assert start.left == tuple(p for p in planned if p.transport == "in-process") and len(start.left) == 8


def test_a_question_that_goes_out_again_has_another_name(tmp_path: Path) -> None:
    killed_after(tmp_path, 9)
    _, adapter = resumed(tmp_path)
    assert all(
        (request_id or "").endswith("-r1") for _, request_id in adapter.asked if "warm" not in (request_id or "")
    )


def test_who_has_nothing_left_to_answer_is_not_warmed_up(tmp_path: Path) -> None:
    wanted = made.scenario(("m", "n"), prompts=made.PROMPTS[:1], repeats=1)
    asyncio.run(run(wanted, Priced(), tmp_path))
    (tmp_path / TRIALS).write_text((tmp_path / TRIALS).read_text().splitlines(keepends=True)[0])
    first = record.read_trials(tmp_path)[0].provider
    _, adapter = resumed(tmp_path, wanted)
    assert {model for model, _ in adapter.asked} == {"m", "n"} - {first}


def test_looking_writes_nothing(tmp_path: Path) -> None:
    killed_after(tmp_path, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(resume.look(tmp_path, WANTED).left) == 13
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_scenario_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    killed_after(tmp_path, 3)
    with pytest.raises(UsageError, match="another scenario: it has max_tokens 128, not 99, repeats 4, not 5"):
        resume.look(tmp_path, made.scenario(("m", "n"), repeats=5, max_tokens=99))


def test_an_empty_folder_holds_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        resume.look(tmp_path, WANTED)


def test_a_line_that_stands_twice_is_one_trial(tmp_path: Path) -> None:
    killed_after(tmp_path, 9)
    whole = (tmp_path / TRIALS).read_text().splitlines(keepends=True)[:9]
    (tmp_path / TRIALS).write_text("".join([*whole, *whole[3:5]]))
    summary, _ = resumed(tmp_path)
    assert summary.trials == summary.planned == 16 and len(tables.from_journal(tmp_path).trials) == 16


def test_a_model_that_was_not_in_its_providers_name_is_not_asked_again(tmp_path: Path) -> None:
    wanted = made.scenario(("local",), prompts=made.PROMPTS[:1])
    asyncio.run(run(wanted, Priced(), tmp_path, models={"local": "SmolLM2"}))
    assert {trial.model for trial in record.read_trials(tmp_path)} == {"SmolLM2"}
    assert resume.look(tmp_path, wanted).left == ()
    assert summary.groups(tables.from_journal(tmp_path))[0].name == "local"


def test_a_run_from_before_there_was_an_effort_is_resumed(tmp_path: Path) -> None:
    scenario = Scenario(("sim:steady",), ("direct",), (Prompt("p", "P"),))
    facts = resume.begin("run-1", scenario).facts
    del facts["scenario"]["effort"]
    manifest.write(tmp_path, facts)
    assert len(resume.look(tmp_path, scenario).left) == 1

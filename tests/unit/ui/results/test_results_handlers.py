"""Tests of the results tab's events: one run, two runs, and runs that cannot be shown."""

import json
import re
from functools import partial
from pathlib import Path

import pytest

from evaluation.analysis import slo
from evaluation.load_test import judge
from evaluation.scenario import plan
from tests.unit.evaluation import factories
from tests.unit.locustfiles.answer_factories import make_answer, write_answers
from tests.unit.ui.results.result_fixtures import TABLES, copy_sample, id_of, make_handlers, show, show_run
from ui import strings
from ui.results.run_list import SAMPLE, SAMPLE_ID


def is_named(name: str, folder: Path) -> bool:
    return folder.name == name


def test_sample_run_shows_headline_decision_table_charts_and_report(tmp_path: Path) -> None:
    handlers, _ = make_handlers(tmp_path, SAMPLE)
    shown = show(handlers, SAMPLE_ID)
    assert (
        shown.headline.startswith("**") and "Failed: sim:flaky (simulated) 14 of 48" in shown.headline.splitlines()[0]
    )
    assert shown.lead.startswith("## Decision") and "## Objectives" in shown.lead
    assert "## Provenance" in shown.texts[-1] and "## Decision" not in shown.texts[-1]
    assert "Objectives missed" in shown.head and "144 trials" in shown.head and "2026-11-29 08:19 UTC" in shown.head
    assert shown.charts >= 4 and not shown.error
    assert strings.SAMPLE_NOTE in shown.head, "a visitor is told that it is an example"
    links = re.findall(r'href="runs/([\w-]{22})/sample/([a-z.]+)" download', shown.head)
    assert [name for _, name in links] == ["trials.csv", "trials.parquet", "events.parquet", "report.html"]


def test_newest_run_is_chosen_at_each_visit(tmp_path: Path) -> None:
    handlers, runs = make_handlers(tmp_path, SAMPLE)
    first, other, note = handlers.open_newest()
    assert (first["value"], other["value"], note) == (SAMPLE_ID, "", strings.NO_RUNS)
    for number in (1, 2):
        name = f"run-{number}"
        copy_sample(tmp_path, name, started_at=f"2026-11-28T23:0{number}:00+00:00")
        first, _, note = handlers.open_newest()
        assert first["value"] == id_of(runs, partial(is_named, name)) and note == ""
    assert len(first["choices"]) == 3


def test_refresh_keeps_chosen_runs_that_exist(tmp_path: Path) -> None:
    handlers, runs = make_handlers(tmp_path, SAMPLE)
    run = copy_sample(tmp_path, "a")
    newest = id_of(runs, lambda folder: folder == run)
    first, other, _ = handlers.refresh(SAMPLE_ID, newest)
    assert (first["value"], other["value"]) == (SAMPLE_ID, newest)
    first, other, _ = handlers.refresh("0" * 16, "1" * 16)
    assert (first["value"], other["value"]) == (newest, "")


def test_broken_run_is_not_chosen_by_itself_and_is_one_line(tmp_path: Path) -> None:
    handlers, runs = make_handlers(tmp_path, SAMPLE)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    assert handlers.open_newest()[0]["value"] == SAMPLE_ID
    shown = show(handlers, id_of(runs, lambda folder: folder.name == "broken"))
    (line,) = shown.error.splitlines()
    assert 'role="alert"' in line and "broken: manifest.json: not JSON" in line and str(tmp_path) not in line
    assert not shown.headline and not shown.charts


@pytest.mark.parametrize("chosen", ["../docs/sample-run", "/etc", "nothing", "0" * 16])
def test_unknown_run_is_rejected(tmp_path: Path, chosen: str) -> None:
    handlers, _ = make_handlers(tmp_path, SAMPLE)
    assert strings.NO_RUN in show(handlers, chosen).error
    assert strings.NO_RUN in show(handlers, SAMPLE_ID, chosen).error


def test_empty_folder_without_sample_says_what_to_run(tmp_path: Path) -> None:
    handlers, _ = make_handlers(tmp_path / "none")
    first, _, note = handlers.open_newest()
    assert first["value"] is None and "python -m evaluation run" in note
    assert show(handlers, None).texts[:4] == ["", "", "", ""]


@pytest.mark.parametrize(("finished", "words"), [(54, "54 trials were run; their rows are"), (1, "1 trial was run;")])
def test_run_whose_rows_are_lost_says_so(tmp_path: Path, finished: int, words: str) -> None:
    run = copy_sample(tmp_path, "lost", drop=TABLES, trials_finished=finished)
    shown = show_run(run)
    assert words in shown.headline and "missing" in shown.headline and not shown.error
    assert strings.ROWS_MISSING in shown.head and "href=" not in shown.head and "Objectives" not in shown.lead


def test_run_with_some_rows_lost_shows_the_others(tmp_path: Path) -> None:
    shown = show_run(copy_sample(tmp_path, "some", trials_finished=150))
    assert "150 trials were run; the rows of 6 are missing" in shown.headline and "## Decision" in shown.lead


def test_run_that_is_being_written_shows_its_trials_so_far(tmp_path: Path) -> None:
    scenario = factories.make_scenario()
    planned = plan(scenario)
    rows = [(factories.make_trial(p), factories.make_gap_events(p, 0.1)) for p in planned]
    run = tmp_path / "now"
    run.mkdir()
    factories.write_run(run, scenario, rows[:1], complete=False, trials_finished=None)
    handlers, runs = make_handlers(tmp_path)
    run_id = id_of(runs, lambda folder: folder == run)
    first = show(handlers, run_id)
    assert strings.RUN_STATES["open"] in first.head and f"1 of {len(planned)} trials so far" in first.head
    factories.write_run(run, scenario, rows[1:2], complete=False, trials_finished=None)
    with (run / "trials.jsonl").open("a", encoding="utf-8") as journal:
        journal.write(json.dumps({"trial_id": "cut off"})[:9])
    second = show(handlers, run_id)
    assert f"2 of {len(planned)} trials so far" in second.head and not second.error, "a cut last line is no trial"


def test_two_runs_are_shown_side_by_side_with_claims(tmp_path: Path) -> None:
    earlier = copy_sample(tmp_path, "earlier", started_at="2026-01-01T00:00:00+00:00")
    handlers, runs = make_handlers(tmp_path, SAMPLE)
    shown = show(handlers, SAMPLE_ID, id_of(runs, lambda folder: folder == earlier))
    assert all(
        side.startswith(f"## {letter}") and "### Decision" in side
        for letter, side in zip("AB", shown.sides, strict=True)
    )
    assert shown.comparison.startswith(f"## {strings.COMPARISON_TITLE}") and "A and B are equal" in shown.comparison
    assert shown.head.count("<b>A</b>") == shown.head.count("<b>B</b>") == 1 and not shown.charts
    assert shown.texts[-1].startswith("# Comparison") and "earlier" in shown.texts[-1]
    assert str(tmp_path) not in "".join(shown.texts)


def test_load_test_shows_users_rate_errors_and_verdict(tmp_path: Path) -> None:
    run = tmp_path / "load"
    run.mkdir()
    answers = [
        make_answer(number, started_at=f"2026-01-01T00:00:{number:02d}.000+00:00", asked_s=float(number),
                    sent_s=number + 0.1, headers_s=number + 0.2,
                    events=[[number + 0.3, "text", 4, None], [number + 2.0, "finish", None, None]])
        for number in range(1, 10)
    ]  # fmt: skip
    answers.append(make_answer(10, outcome="failed", finish_reason=None, error_type="network", events=[]))
    write_answers(run, *answers)
    judge.judge_load_test(run, slo.parse_slo("failed<1%,ttft_max<1s"))
    shown = show_run(run)
    assert strings.RUN_KINDS["load"] in shown.head and strings.OBJECTIVES["missed"] in shown.head
    captions = "\n".join(shown.texts)
    assert "At most 2 answers under way at once, of 2 users requested" in captions
    assert "9 answers completed" in captions and "1 failed" in captions
    judge.judge_load_test(run, ())
    assert strings.OBJECTIVES["missed"] in show_run(run).head, "a rebuilt report keeps the objectives"


def test_error_of_a_trial_has_no_path_of_this_machine(tmp_path: Path) -> None:
    scenario = factories.make_scenario()
    run = tmp_path / "r"
    run.mkdir()
    message = f"OSError: cannot open {tmp_path}/key.pem"
    trials = [
        factories.make_trial(p, outcome="failed", error_type="network", error_message=message) for p in plan(scenario)
    ]
    factories.write_run(run, scenario, [(trial, []) for trial in trials], complete=True)
    shown = show_run(run)
    assert "key" in "".join(shown.texts) and str(tmp_path) not in "".join(shown.texts)

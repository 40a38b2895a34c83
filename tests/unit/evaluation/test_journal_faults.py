"""What is missing or damaged in a run's folder is told by commands and reports; a whole run has no such words."""

from pathlib import Path

import pytest

from evaluation import tables
from evaluation.__main__ import main
from evaluation.journal_faults import find_journal_faults
from evaluation.scenario import plan
from tests.unit.evaluation import factories


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    wanted = factories.make_scenario(repeats=1)
    rows = ((factories.make_trial(p), factories.make_gap_events(p, 0.02, 0.02)) for p in plan(wanted))
    factories.write_run(tmp_path, wanted, rows)
    return tmp_path


def _cut_last_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def test_whole_run_has_no_faults(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_journal_faults(folder) == []
    assert main(["report", str(folder), "--no-plots"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert "Damaged" not in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: _cut_last_line(folder / "trials.jsonl"), "last line of trials.jsonl is incomplete"),
        (lambda folder: _cut_last_line(folder / "events.jsonl"), "last line of events.jsonl is incomplete"),
        (lambda folder: (folder / "events.jsonl").unlink(), "events.jsonl is missing: gaps are those of the tables"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json does not describe the run"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    ],
)
def test_damage_is_told_by_the_command_and_in_the_report(
    folder: Path, damage: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(damage)
    damage(folder)
    assert main(["report", str(folder), "--no-plots"]) == 0
    assert words in capsys.readouterr().err
    assert f"**Damaged: {words.partition('.')[0]}" in (folder / "report.md").read_text().replace("the last", "last")


def test_tables_outlive_lost_events(folder: Path) -> None:
    main(["report", str(folder), "--no-plots"])
    events = len(tables.load(folder).events)
    (folder / "events.jsonl").unlink()
    assert main(["report", str(folder), "--no-plots"]) == 0
    assert len(tables.load(folder).events) == events > 0


def test_report_without_plots_leaves_no_page_of_an_earlier_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "plots").mkdir()
    for name in ("report.html", "plots/ttft.png", "plots/mine.txt"):
        (folder / name).write_text("old")
    assert main(["report", str(folder), "--no-plots"]) == 0
    assert "report.html" not in capsys.readouterr().out
    assert sorted(path.name for path in (folder / "plots").iterdir()) == ["mine.txt"]

"""Tests of the list of runs: order, labels, ids, and folders that hold no run."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ui.results.run_list import SAMPLE, SAMPLE_ID, RunList


def make_run(folder: Path, name: str, **facts: Any) -> Path:
    run = folder / name
    run.mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")
    return run


def list_names(folder: Path) -> list[str]:
    return [entry.folder.name for entry in RunList(folder, folder / "none").entries()]


def test_runs_are_listed_newest_first_by_their_own_dates_and_sample_last(tmp_path: Path) -> None:
    for name, hour in (("b", 2), ("c", 3), ("a", 1)):
        make_run(tmp_path, name, started_at=f"2026-01-01T0{hour}:00:00+00:00")
    entries = RunList(tmp_path, SAMPLE).entries()
    assert [entry.folder.name for entry in entries] == ["c", "b", "a", "sample-run"]
    assert entries[-1].id == SAMPLE_ID and entries[-1].is_sample


def test_label_has_date_providers_and_number_of_trials(tmp_path: Path) -> None:
    scenario = {"providers": ["local", "sim:a", "openai:gpt", "ollama:x", "azure:y"]}
    make_run(tmp_path, "first", started_at="2026-01-01T01:02:03+02:00", scenario=scenario, trials_finished=54)
    (entry,) = RunList(tmp_path, tmp_path).entries()
    assert entry.label == "2025-12-31 23:02 · local, sim:a, openai:gpt +2 · 54 trials · first"


def test_run_of_the_future_is_dated_now(tmp_path: Path) -> None:
    make_run(tmp_path, "future", started_at="9999-01-01T00:00:00+00:00")
    (entry,) = RunList(tmp_path, tmp_path).entries()
    assert entry.started_at - datetime.now(UTC) < timedelta(seconds=1)


def test_run_made_or_changed_since_is_listed_anew(tmp_path: Path) -> None:
    runs = RunList(tmp_path, tmp_path)
    assert runs.entries() == []
    run = make_run(tmp_path, "one", trials_planned=9)
    assert "9 trials planned" in runs.entries()[0].label
    (run / "manifest.json").write_text(json.dumps({"trials_finished": 9, "trials_planned": 9}), encoding="utf-8")
    assert runs.entries()[0].label.endswith("9 trials · one")


def test_steps_of_a_capacity_search_are_listed(tmp_path: Path) -> None:
    make_run(tmp_path / "capacity", "01-8-streams", kind="load", trials_finished=3)
    assert list_names(tmp_path) == ["01-8-streams"]


def test_folder_of_other_things_or_a_link_is_no_run(tmp_path: Path) -> None:
    elsewhere = make_run(tmp_path / "elsewhere", "run")
    runs = tmp_path / "runs"
    (runs / "plots").mkdir(parents=True)
    (runs / "notes.txt").write_text("manifest.json")
    (runs / "link").symlink_to(elsewhere)
    assert list_names(runs) == []


def test_missing_runs_folder_has_no_runs(tmp_path: Path) -> None:
    assert list_names(tmp_path / "none") == []


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", '"x"', "[" * 100_000, '{"scenario": 5, "started_at": 5, "trials_finished": "x"}',
     '{"scenario": {"providers": [1, {"a": 1}]}, "started_at": "yesterday"}', '{"started_at": "9999999-01-01"}'],
)  # fmt: skip
def test_run_with_damaged_manifest_is_listed_by_its_folder(tmp_path: Path, content: str) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "manifest.json").write_text(content, encoding="utf-8")
    (entry,) = RunList(tmp_path, tmp_path).entries()
    assert entry.label.endswith("· odd") and len(entry.label.splitlines()) == 1


def test_providers_in_a_label_have_no_path_of_this_machine(tmp_path: Path) -> None:
    make_run(tmp_path, "r", scenario={"providers": [f"replay:{tmp_path}/trace.jsonl"]})
    (entry,) = RunList(tmp_path, tmp_path).entries()
    assert str(tmp_path) not in entry.label and "trace.jsonl" in entry.label


def test_ids_are_short_whatever_the_name(tmp_path: Path) -> None:
    for name in ("x" * 250, "\x01" * 80, "..run", "a b", "東京", os.fsdecode(b"c\xff")):
        make_run(tmp_path, name)
    ids = [entry.id for entry in RunList(tmp_path, tmp_path).entries()]
    assert len(set(ids)) == 6 and all(len(one) == 16 and one.isalnum() for one in ids)


def test_labels_of_unchanged_runs_are_not_read_again(tmp_path: Path) -> None:
    runs = RunList(tmp_path, tmp_path)
    made = [make_run(tmp_path, f"run-{number}", trials_finished=number) for number in range(50)]
    before = runs.entries()
    for run in made:
        stat = (run / "manifest.json").stat()
        (run / "manifest.json").write_text(" " * stat.st_size, encoding="utf-8")
        os.utime(run / "manifest.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert runs.entries() == before, "same time and size: not read"

"""Run folders, which are never overwritten, and the manifest that describes a run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation import manifest
from evaluation.scenario import plan
from streaming.errors import UsageError
from tests.unit.evaluation import factories


def test_create_run_folder_makes_new_or_accepts_empty_folder(tmp_path: Path) -> None:
    manifest.create_run_folder(tmp_path / "deep" / "new")
    manifest.create_run_folder(tmp_path / "deep" / "new")
    assert list((tmp_path / "deep" / "new").iterdir()) == []


def test_foreign_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and not a run"):
        manifest.create_run_folder(tmp_path)


@pytest.mark.parametrize(("complete", "words"), [(True, "a finished run"), (False, "an unfinished run")])
def test_existing_run_is_never_overwritten(tmp_path: Path, complete: bool, words: str) -> None:
    factories.write_run(tmp_path, factories.make_scenario(), [], complete=complete)
    with pytest.raises(UsageError, match=f"contains {words} .choose another folder"):
        manifest.create_run_folder(tmp_path)


def test_folder_blocked_by_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose a folder that can be written"):
        manifest.create_run_folder(tmp_path / "file" / "run")


def test_manifest_records_scenario_order_machine_and_constants(tmp_path: Path) -> None:
    expected = factories.make_scenario()
    manifest.write(tmp_path, manifest.new_manifest("run", expected, plan(expected)))
    result = manifest.read(tmp_path)
    assert result["scenario"]["providers"] == ["sim:a", "b:c"] and result["scenario"]["seed"] == 3
    assert [row[0] for row in result["order"]] == list(range(1, expected.trials + 1))
    assert result["measures"] == {
        "fluidity": {"first_s": 1.0, "token_s": 0.1},
        "qoe": {"chars_per_s": 23.8, "first_s": 1.0},
    }
    assert result["complete"] is False and result["finished_at"] is None and result["instrument_error"] is None
    assert result["versions"]["python"].startswith("3.") and result["versions"]["pandas"]
    assert result["machine"]["cpu_count"] >= 1 and os.uname().nodename not in str(result["machine"])


def test_manifest_rewrite_leaves_no_other_file(tmp_path: Path) -> None:
    manifest.write(tmp_path, {"run_id": "a"})
    manifest.write(tmp_path, {"run_id": "b"})
    assert manifest.read(tmp_path) == {"run_id": "b"} and [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_unreadable_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{oops")
    with pytest.raises(UsageError, match=r"manifest\.json"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"manifest": 99}, "version 99 is not supported (this program reads version 1"),
        ({"loads": {}}, "loads cannot be {}"),
        ({"loads": [3]}, "loads.0 cannot be 3"),
        ({"complete": "yes"}, "complete cannot be 'yes'"),
        ({"scenario": []}, "scenario cannot be []"),
        ({"scenario": {"providers": ["a"], "strategies": ["direct"]}}, "scenario.transport is missing"),
        ({"scenario": {"providers": "a"}}, "scenario.providers cannot be 'a'"),
        ({"measures": {"qoe": {"chars_per_s": "fast"}}}, "measures.qoe.chars_per_s cannot be 'fast'"),
    ],
)
def test_invalid_manifest_is_rejected_with_reason(tmp_path: Path, facts: dict[str, object], words: str) -> None:
    manifest.write(tmp_path, facts)
    with pytest.raises(UsageError, match=re.escape(words)):
        manifest.read(tmp_path)


def test_manifest_with_single_transport_is_read_as_list(tmp_path: Path) -> None:
    facts = manifest.new_manifest("run", factories.make_scenario(), ())
    manifest.write(tmp_path, facts | {"scenario": facts["scenario"] | {"transport": "in-process"}})
    assert manifest.read(tmp_path)["scenario"]["transport"] == ["in-process"]


def test_deeply_nested_manifest_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"a":' + "[" * 100_000)
    with pytest.raises(UsageError, match=r"manifest\.json"):
        manifest.read(tmp_path)


def test_run_is_written_by_one_at_a_time_and_free_again_afterwards(tmp_path: Path) -> None:
    with manifest.lock_run(tmp_path), pytest.raises(UsageError) as error, manifest.lock_run(tmp_path):
        pass
    assert str(error.value).endswith(": another process writes this run (wait until it has ended, or stop it)")
    with manifest.lock_run(tmp_path), manifest.lock_run(tmp_path / "none"):
        pass


HOLD = """
import os, pathlib, sys
from evaluation.manifest import lock_run
lock = lock_run(pathlib.Path(sys.argv[1]))
lock.__enter__()
os._exit(9)
"""


def test_run_of_a_dead_process_is_free(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", HOLD, str(tmp_path)], check=False).returncode == 9
    with manifest.lock_run(tmp_path):
        pass

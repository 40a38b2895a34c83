"""The command line as a program: files, the last line, exit codes, a stop and a kill in the middle."""

import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluation
from evaluation import record, statistics
from evaluation.__main__ import main

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0


async def program(*arguments: str) -> tuple[int, str, str]:
    """Run `python -m evaluation` to its end: exit code, stdout, stderr."""
    async with running(*arguments) as process:
        out, errors = await asyncio.wait_for(process.communicate(), WAIT_S)
    return process.returncode or 0, out.decode(), errors.decode()


@contextlib.asynccontextmanager
async def running(*arguments: str) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "evaluation"),
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def trials_on_disk(folder: Path, count: int) -> None:
    """Wait until the journal holds so many whole lines."""
    path = folder / record.TRIALS
    async with asyncio.timeout(WAIT_S):
        while not path.exists() or path.read_bytes().count(b"\n") < count:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.05)


def many(folder: Path) -> list[str]:
    """Give the arguments of a run that takes minutes unless it is stopped."""
    options = "run --providers sim:steady --strategies direct --repeats 200 --prompt-count 1 --max-tokens 8"
    return [*options.split(), "--concurrency", "4", "--no-plots", "--out", str(folder)]


def last_line(out: str) -> dict[str, Any]:
    found = json.loads(out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run over a steady provider, one that breaks, and two strategies; its folder, stdout and stderr."""
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    options = "run --providers sim:steady,sim:cut --strategies direct,batch:100ms --repeats 2 --prompt-count 1 --seed 5"
    code, out, errors = asyncio.run(program(*options.split(), "--out", str(folder)))
    assert code == 0, errors
    return folder, out, errors


def test_a_run_leaves_all_its_files_and_says_so_in_the_last_line(finished: tuple[Path, str, str]) -> None:
    folder, out, errors = finished
    said = last_line(out)
    assert (said["trials"], said["completed"], said["failed"], said["interrupted"]) == (8, 4, 4, False)
    assert said["outcomes"] == {"completed": 4, "truncated": 4} and said["folder"] == str(folder)
    assert sorted(said["files"]) == sorted(path.name for path in folder.iterdir())
    assert {"trials.parquet", "trials.csv", "events.parquet", "report.md", "manifest.json"} <= set(said["files"])
    assert "sim:steady (simulated)" in out and "warming up sim:steady" in errors and "Traceback" not in errors


def test_every_cell_was_tried_and_named(finished: tuple[Path, str, str]) -> None:
    run = evaluation.load(finished[0])
    cells = Counter(zip(run.trials["model"], run.trials["strategy"], run.trials["repeat"], strict=True))
    assert len(cells) == 8 and set(cells.values()) == {1}
    assert run.manifest["complete"] and run.manifest["trials_finished"] == 8
    assert run.manifest["warm_up"]["sim:steady"] == ["completed"]
    assert run.trials["trial_id"].is_unique and set(run.events["trial_id"]) == set(run.trials["trial_id"])


def test_a_steady_provider_is_measured_as_steady(finished: tuple[Path, str, str]) -> None:
    run = evaluation.load(finished[0])
    steady = run.trials[run.trials["model"] == "steady"]
    assert steady["ttft_s"].median() == pytest.approx(0.2, abs=0.03)
    gaps = statistics.gaps(run.events[run.events["trial_id"].isin(steady["trial_id"])])["gap_s"]
    assert np.median(gaps) == pytest.approx(0.02, abs=0.005) and (steady["chunks"] == 64).all()
    assert (steady["token_source"] == "reported").all() and steady["output_tps"].median() == pytest.approx(50, rel=0.1)
    batched = steady[steady["strategy"] == "batch:100ms"]
    assert batched["updates_per_s"].median() < 13 and 0.05 < batched["delay_max_s"].median() < 0.2
    assert steady[steady["strategy"] == "direct"]["delay_mean_s"].median() < 0.02


def test_a_cut_answer_is_not_a_finished_one(finished: tuple[Path, str, str]) -> None:
    cut = evaluation.load(finished[0]).trials.query("model == 'cut'")
    assert (cut["outcome"] == "truncated").all() and cut["e2e_s"].isna().all() and cut["qoe"].isna().all()
    assert (cut["error_type"] == "truncated").all() and cut["ttft_s"].notna().all()


def test_the_report_is_made_anew_from_the_journal(
    finished: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished[0]
    before = (folder / "report.md").read_text()
    for name in ("report.md", "trials.parquet", "trials.csv", "events.parquet"):
        (folder / name).unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.md").read_text() == before and last_line(capsys.readouterr().out)["trials"] == 8


def test_a_second_run_into_the_same_folder_is_refused(
    finished: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished[0].iterdir()}
    assert main(many(finished[0])) == 2
    out, errors = capsys.readouterr()
    assert out == "" and "holds a finished run" in errors and len(errors.splitlines()) == 1
    assert {path.name: path.stat().st_mtime_ns for path in finished[0].iterdir()} == before


def test_what_cannot_be_run_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    code, out, errors = asyncio.run(program("run", "--providers", "nobody:x", "--out", str(tmp_path / "out")))
    assert code == 2 and out == "" and not (tmp_path / "out").exists()
    assert "nobody" in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_what_is_there_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    async def stopped() -> tuple[int, str, str]:
        async with running(*many(tmp_path / "run")) as process:
            await trials_on_disk(tmp_path / "run", 3)
            process.send_signal(number)
            out, errors = await asyncio.wait_for(process.communicate(), WAIT_S)
        return process.returncode or 0, out.decode(), errors.decode()

    code, out, errors = asyncio.run(stopped())
    said, run = last_line(out), evaluation.load(tmp_path / "run")
    assert code == 130 and "stopped: " in errors and "Traceback" not in errors
    assert said["interrupted"] and 3 <= said["trials"] == len(run.trials) < 200
    assert run.manifest["interrupted"] and not run.manifest["complete"]
    assert "the run was stopped" in (tmp_path / "run" / "report.md").read_text()


def test_a_killed_run_leaves_readable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def killed() -> None:
        async with running(*many(tmp_path / "run")) as process:
            await trials_on_disk(tmp_path / "run", 3)
            process.kill()
            await process.wait()

    asyncio.run(killed())
    run = evaluation.load(tmp_path / "run")
    assert len(run.trials) >= 3 and set(run.events["trial_id"]) == set(run.trials["trial_id"])
    assert run.manifest["complete"] is False and run.manifest["finished_at"] is None
    assert main(["report", str(tmp_path / "run")]) == 0
    assert last_line(capsys.readouterr().out)["trials"] == len(run.trials)
    assert "the run has not reached its end" in (tmp_path / "run" / "report.md").read_text()

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

import pytest

import evaluation
from evaluation import schema
from evaluation.__main__ import main
from evaluation.analysis import statistics

ROOT = Path(__file__).parents[2]
WAIT_TIMEOUT_S = 200.0


async def run_evaluation(*arguments: str) -> tuple[int, str, str]:
    """Run `python -m evaluation` to its end: exit code, stdout, stderr."""
    async with start_evaluation(*arguments) as process:
        out, errors = await asyncio.wait_for(process.communicate(), WAIT_TIMEOUT_S)
    return process.returncode or 0, out.decode(), errors.decode()


@contextlib.asynccontextmanager
async def start_evaluation(*arguments: str) -> AsyncGenerator[asyncio.subprocess.Process, None]:
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


async def wait_for_trials(folder: Path, count: int) -> None:
    """Wait until the journal has this number of complete lines."""
    path = folder / schema.TRIALS_FILE
    async with asyncio.timeout(WAIT_TIMEOUT_S):
        while not path.exists() or path.read_bytes().count(b"\n") < count:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.05)


def long_run_arguments(folder: Path) -> list[str]:
    """Return the arguments of a run that takes minutes unless it is stopped."""
    options = "run --providers sim:steady --strategies direct --repeats 200 --prompt-count 1 --max-tokens 8"
    return [*options.split(), "--concurrency", "4", "--no-plots", "--out", str(folder)]


def parse_last_line(out: str) -> dict[str, Any]:
    data = json.loads(out.splitlines()[-1])
    assert isinstance(data, dict)
    return data


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Start a run over a steady provider, one that breaks, and two strategies; its folder, stdout and stderr."""
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    options = "run --providers sim:steady,sim:cut --strategies direct,batch:100ms --repeats 2 --prompt-count 1 --seed 5"
    options += " --max-failures 100%"
    code, out, errors = asyncio.run(run_evaluation(*options.split(), "--out", str(folder)))
    assert code == 0, errors
    return folder, out, errors


def test_run_writes_all_files_and_summarizes_them_in_last_line(finished_run: tuple[Path, str, str]) -> None:
    folder, out, errors = finished_run
    output = parse_last_line(out)
    assert (output["trials"], output["completed"], output["failed"], output["interrupted"]) == (8, 4, 4, False)
    assert output["outcomes"] == {"completed": 4, "truncated": 4} and output["folder"] == str(folder)
    assert sorted(output["files"]) == sorted(path.name for path in folder.iterdir())
    assert {"trials.parquet", "trials.csv", "events.parquet", "report.md", "manifest.json"} <= set(output["files"])
    assert "sim:steady (simulated)" in out and "warming up sim:steady" in errors and "Traceback" not in errors


def test_run_records_every_cell_once(finished_run: tuple[Path, str, str]) -> None:
    run = evaluation.load(finished_run[0])
    cells = Counter(zip(run.trials["model"], run.trials["strategy"], run.trials["repeat"], strict=True))
    assert len(cells) == 8 and set(cells.values()) == {1}
    assert run.manifest["complete"] and run.manifest["trials_finished"] == 8
    assert run.manifest["warm_up"]["sim:steady"] == ["completed"]
    assert run.trials["trial_id"].is_unique and set(run.events["trial_id"]) == set(run.trials["trial_id"])


def test_steady_provider_metrics_match_its_schedule(finished_run: tuple[Path, str, str]) -> None:
    """The provider is never earlier than its schedule; how much later it is depends on the machine."""
    run = evaluation.load(finished_run[0])
    steady = run.trials[run.trials["model"] == "steady"]
    early_s = 0.001
    assert (steady["ttft_s"] >= 0.2 - early_s).all() and (steady["e2e_s"] >= 0.2 + 63 * 0.02 - early_s).all()
    gaps = statistics.chunk_gaps(run.events[run.events["trial_id"].isin(steady["trial_id"])], steady)["gap_s"]
    assert len(gaps) == 63 * len(steady) and (steady["chunks"] == 64).all()
    tokens_per_s = 63 / (steady["e2e_s"] - steady["ttft_s"])
    assert (steady["token_source"] == "reported").all()
    assert (steady["output_tps"] / tokens_per_s).between(0.9, 1.1).all()
    batched = steady[steady["strategy"] == "batch:100ms"]
    direct = steady[steady["strategy"] == "direct"]
    assert batched["updates_per_s"].max() < direct["updates_per_s"].min() and (batched["delay_max_s"] > 0.05).all()
    assert direct["delay_mean_s"].median() < batched["delay_mean_s"].median()


def test_truncated_answer_has_no_completion_metrics(finished_run: tuple[Path, str, str]) -> None:
    cut = evaluation.load(finished_run[0]).trials.query("model == 'cut'")
    assert (cut["outcome"] == "truncated").all() and cut["e2e_s"].isna().all() and cut["qoe"].isna().all()
    assert (cut["error_type"] == "truncated").all() and cut["ttft_s"].notna().all()


def test_report_command_rebuilds_deleted_files_from_journal(
    finished_run: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished_run[0]
    before = (folder / "report.md").read_text()
    for name in ("report.md", "trials.parquet", "trials.csv", "events.parquet"):
        (folder / name).unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.md").read_text() == before and parse_last_line(capsys.readouterr().out)["trials"] == 8


def test_run_into_existing_run_folder_is_rejected_without_changes(
    finished_run: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished_run[0].iterdir()}
    assert main(long_run_arguments(finished_run[0])) == 2
    out, errors = capsys.readouterr()
    assert out == "" and "contains a finished run" in errors and len(errors.splitlines()) == 1
    assert {path.name: path.stat().st_mtime_ns for path in finished_run[0].iterdir()} == before


def test_invalid_run_exits_with_2_and_one_line(tmp_path: Path) -> None:
    code, out, errors = asyncio.run(run_evaluation("run", "--providers", "nobody:x", "--out", str(tmp_path / "out")))
    assert code == 2 and out == "" and not (tmp_path / "out").exists()
    assert "nobody" in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_stopped_by_signal_keeps_trials_and_reports_stop(tmp_path: Path, number: signal.Signals) -> None:
    async def stop_run() -> tuple[int, str, str]:
        async with start_evaluation(*long_run_arguments(tmp_path / "run")) as process:
            await wait_for_trials(tmp_path / "run", 3)
            process.send_signal(number)
            out, errors = await asyncio.wait_for(process.communicate(), WAIT_TIMEOUT_S)
        return process.returncode or 0, out.decode(), errors.decode()

    code, out, errors = asyncio.run(stop_run())
    output, run = parse_last_line(out), evaluation.load(tmp_path / "run")
    assert code == 130 and "stopped: " in errors and "Traceback" not in errors
    assert output["interrupted"] and 3 <= output["trials"] == len(run.trials) < 200
    assert run.manifest["interrupted"] and not run.manifest["complete"]
    assert "the run was stopped" in (tmp_path / "run" / "report.md").read_text()


def test_killed_run_leaves_readable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def kill_run() -> None:
        async with start_evaluation(*long_run_arguments(tmp_path / "run")) as process:
            await wait_for_trials(tmp_path / "run", 3)
            process.kill()
            await process.wait()

    asyncio.run(kill_run())
    run = evaluation.load(tmp_path / "run")
    assert len(run.trials) >= 3 and set(run.events["trial_id"]) == set(run.trials["trial_id"])
    assert run.manifest["complete"] is False and run.manifest["finished_at"] is None
    assert main(["report", str(tmp_path / "run")]) == 0
    assert parse_last_line(capsys.readouterr().out)["trials"] == len(run.trials)
    assert "the run has not reached its end" in (tmp_path / "run" / "report.md").read_text()

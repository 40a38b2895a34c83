"""Commands on unusual machines, as in `benchmarks.machines`: each works, or says in a line what it needs."""

import sys
from pathlib import Path

import pytest

from benchmarks.machines import COMMANDS, CONDITIONS, RUNS, SERVERS, Condition, try_command, try_run, try_server


@pytest.mark.parametrize("condition", ["C locale", "64 files", "no TMPDIR"])
def test_simulator_starts(condition: str) -> None:
    result = try_server(CONDITIONS[condition], SERVERS["simulator"])
    assert (result.is_right, result.text) == (True, "starts")


@pytest.mark.parametrize("condition", ["C locale", "no home", "strange variables"])
def test_services_are_listed(condition: str) -> None:
    assert try_command(CONDITIONS[condition], COMMANDS["providers"]).text == "runs"


def test_evaluation_runs_with_64_files(tmp_path: Path) -> None:
    result = try_run(CONDITIONS["64 files"], (*RUNS["evaluation"], "--max-tokens", "2"), tmp_path / "run")
    assert (result.is_right, result.text) == (True, "runs")


def test_evaluation_with_too_few_files_says_how_many_it_needs(tmp_path: Path) -> None:
    few = Condition(("sh", "-c", 'ulimit -n 40; exec "$@"', "sh"))
    result = try_run(few, RUNS["evaluation"], tmp_path / "run")
    assert result.is_right and "need 49, this system allows 40 (raise the limit" in result.text


def test_command_that_fails_with_a_traceback_is_wrong(tmp_path: Path) -> None:
    broken = Condition((sys.executable, "-c", "raise RuntimeError('broken')"))
    assert not try_server(broken, SERVERS["simulator"]).is_right
    assert not try_command(broken, COMMANDS["providers"]).is_right
    assert not try_run(broken, RUNS["evaluation"], tmp_path / "run").is_right

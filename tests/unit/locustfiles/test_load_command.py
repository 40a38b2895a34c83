"""The load-test command: its arguments, the Locust command that it builds, and the verdict of a soak test."""

import ast
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation.load_test import locust_run, soak
from evaluation.load_test.__main__ import main
from evaluation.load_test.locust_run import LocustOptions
from evaluation.load_test.soak import ProcessStats
from streaming.errors import UsageError
from tests.unit.locustfiles.answer_factories import make_answer

ROOT = Path(__file__).parents[3]
LOAD = LocustOptions(250, 60, ("sse", "websocket"), more=("--provider", "local"))


@pytest.mark.parametrize(("text", "seconds"), [("60", 60), ("60s", 60), ("2m", 120), ("1h30m", 5400), ("1m5s", 65)])
def test_duration_text_is_parsed_to_seconds(text: str, seconds: int) -> None:
    assert locust_run.parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "-5s", "1.5m", "99h99h", "9999h"])
def test_invalid_duration_is_rejected(text: str) -> None:
    with pytest.raises(UsageError, match="--duration"):
        locust_run.parse_duration_s(text)


def test_user_kinds_are_parsed() -> None:
    assert locust_run.parse_kinds("sse, websocket,sse") == ("sse", "websocket")
    for text in ("", "carrier-pigeon", "sse,carrier-pigeon"):
        with pytest.raises(UsageError, match="--kind"):
            locust_run.parse_kinds(text)


def test_every_user_kind_has_a_locustfile() -> None:
    assert {path.stem for path in (ROOT / "locustfiles").glob("*_user.py")} == {
        *(f"{kind}_user" for kind in locust_run.USER_KINDS),
        "base_user",
    }


def test_worker_count_is_one_per_hundred_users_up_to_cpu_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert [LocustOptions(users, 1).workers for users in (1, 100, 101, 1000)] == [1, 1, 2, 2]
    assert LocustOptions(1, 1, processes=4).workers == 4


def test_locust_command_contains_requested_options(tmp_path: Path) -> None:
    command = locust_run.locust_command(LOAD, "http://127.0.0.1:1", tmp_path)
    options = dict(itertools.pairwise(command))
    assert [Path(name).stem for name in options["-f"].split(",")] == ["sse_user", "websocket_user"]
    assert (options["--users"], options["--run-time"], options["--host"]) == ("250", "60s", "http://127.0.0.1:1")
    assert options["--provider"] == "local"
    assert options["--master-bind-port"] == options["--master-port"], "the workers find their master"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--duration", "soon"],
        ["run", "--kind", "carrier-pigeon"],
        ["run", "--users", "0"],
        ["run", "--slo", "quick"],
        ["run", "--url", "localhost:80"],
        ["run", "--levels", "nan"],
        ["run", "--levels", "1:20:1", "--duration", "10s"],
        ["run", "--workload", ""],
        ["run", "--workload", "1000"],
        ["run", "--workload", "10/5", "--prompt-count", "0"],
        ["run", "--workload", "10/5", "--shared-prefix", "nan"],
        ["run", "--shared-prefix", "0.5"],
        ["run", "--spread", "normal"],
        ["capacity", "--slo", "failed<1%", "--users", "9", "--most", "8"],
        ["capacity"],
        ["capacity", "--sweep", "--users", "4"],
        ["capacity", "--sweep", "--levels", "1,2"],
        ["capacity", "--sweep", "--workload", "0/0"],
        ["soak", "--minutes", "0"],
        ["calibrate", "--streams", "0"],
        ["report", "nowhere"],
    ],
)
def test_invalid_command_exits_with_2_and_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    output = capsys.readouterr().err.strip().splitlines()
    assert len(output) == 1 and output[0].startswith("error: ")


def test_locustfiles_import_no_asyncio() -> None:
    allowed = {*sys.stdlib_module_names, "gevent", "locust", "websocket", "configargparse", "flask"} - {"asyncio"}
    own = {path.stem for path in (ROOT / "locustfiles").glob("*.py")}
    assert not own & {*sys.stdlib_module_names, "locust", "websocket", "gevent", "gradio", "openai"}, "named alike"
    rooms = set()
    for path in (ROOT / "locustfiles").glob("*.py"):
        for name in imported_modules(path):
            if name.partition(".")[0] in {"streaming", "providers", "clients", "evaluation", "ui"}:
                rooms.add(name)
            else:
                assert name.partition(".")[0] in allowed | own, path.name
    assert {"streaming.sse", "clients.answer_reader", "providers.decoding.chat_completions"} <= rooms
    code = f"import sys, {', '.join(sorted(rooms))}; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", "nor may what they import import it"


def imported_modules(path: Path) -> Iterator[str]:
    """Return the modules that a file imports; modules of a package have the package's name as prefix."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (f"{module}.{each.name}" for each in node.names) if module == "providers.decoding" else (module,)


def make_stats(**changes: int) -> ProcessStats:
    return ProcessStats(**({"memory_bytes": 200 * 2**20, "descriptors": 40, "threads": 10, "streams": 5} | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory_bytes": 400 * 2**20}, "memory: 200 MiB, then 400 MiB"),
        ({"descriptors": 60}, "descriptors: 40, then 60"),
        ({"threads": 30}, "threads: 10, then 30"),
        ({"streams": 1}, "streams: 1 answers are still under way after the last request has ended"),
    ],
)
def test_find_leaks_reports_growth(changes: dict[str, int], words: str) -> None:
    assert soak.find_leaks(make_stats(), make_stats(**({"streams": 0} | changes))) == [words]


def test_find_leaks_without_growth_is_empty() -> None:
    assert soak.find_leaks(make_stats(), make_stats(memory_bytes=210 * 2**20, descriptors=38, streams=0)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outcome": "failed", "error_type": "lost", "error_message": "event 4: came after event 2"}, "lost"),
        ({"outcome": "failed", "error_type": "twice", "error_message": "event 2: came after event 2"}, "twice"),
        ({"outcome": "truncated", "error_type": "truncated"}, "truncated"),
        ({"provider": "sim:cut"}, "reported as completed, although its provider failed"),
        ({"provider": "openai:sim:error"}, "reported as completed, although its provider failed"),
        ({"provider": "sim:cut", "outcome": "failed", "error_type": "lost"}, "lost"),
    ],
)
def test_find_wrong_answers_reports_failures(changes: dict[str, Any], words: str) -> None:
    result = soak.find_wrong_answers([make_answer(), make_answer(2, **changes)])
    assert len(result) == 1 and words in result[0]


def test_find_unfinished_reports_open_answers() -> None:
    assert soak.find_unfinished(0) == []
    assert soak.find_unfinished(2) == ["answers: 2 had not ended long after the last request"]


def test_find_wrong_answers_ignores_intended_failures() -> None:
    broken = make_answer(3, provider="sim:cut", outcome="truncated", error_type="truncated")
    assert soak.find_wrong_answers([make_answer(), make_answer(2, outcome="cancelled"), broken]) == []

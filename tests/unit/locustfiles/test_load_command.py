"""What is asked of the command, what it asks of Locust, and the verdict of a soak."""

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
from evaluation.load_test.locust_run import Load
from evaluation.load_test.soak import Size
from streaming.errors import UsageError
from tests.unit.locustfiles.heard import answer

ROOT = Path(__file__).parents[3]
LOAD = Load(250, 60, ("sse", "websocket"), more=("--provider", "local"))


@pytest.mark.parametrize(("text", "seconds"), [("60", 60), ("60s", 60), ("2m", 120), ("1h30m", 5400), ("1m5s", 65)])
def test_durations(text: str, seconds: int) -> None:
    assert locust_run.parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "-5s", "1.5m", "99h99h", "9999h"])
def test_what_is_no_duration_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="--duration"):
        locust_run.parse_duration_s(text)


def test_kinds_of_users() -> None:
    assert locust_run.parse_kinds("sse, websocket,sse") == ("sse", "websocket")
    for text in ("", "carrier-pigeon", "sse,carrier-pigeon"):
        with pytest.raises(UsageError, match="--kind"):
            locust_run.parse_kinds(text)


def test_every_kind_has_its_file() -> None:
    assert {path.stem for path in (ROOT / "locustfiles").glob("*_user.py")} == {
        *(f"{kind}_user" for kind in locust_run.KINDS),
        "load_user",
    }


def test_one_process_for_a_hundred_users_as_far_as_there_are_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert [Load(users, 1).workers for users in (1, 100, 101, 1000)] == [1, 1, 2, 2]
    assert Load(1, 1, processes=4).workers == 4


def test_locust_gets_what_was_asked_for(tmp_path: Path) -> None:
    command = locust_run.command(LOAD, "http://127.0.0.1:1", tmp_path)
    asked = dict(itertools.pairwise(command))
    assert [Path(name).stem for name in asked["-f"].split(",")] == ["sse_user", "websocket_user"]
    assert (asked["--users"], asked["--run-time"], asked["--host"]) == ("250", "60s", "http://127.0.0.1:1")
    assert asked["--provider"] == "local"
    assert asked["--master-bind-port"] == asked["--master-port"], "the workers find their master"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--duration", "soon"],
        ["run", "--kind", "carrier-pigeon"],
        ["run", "--users", "0"],
        ["run", "--slo", "quick"],
        ["run", "--url", "localhost:80"],
        ["capacity", "--slo", "failed<1%", "--users", "9", "--most", "8"],
        ["soak", "--minutes", "0"],
        ["calibrate", "--streams", "0"],
        ["report", "nowhere"],
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ")


def test_the_users_import_neither_asyncio_nor_what_needs_it() -> None:
    allowed = {*sys.stdlib_module_names, "gevent", "locust", "websocket", "configargparse"} - {"asyncio"}
    own = {path.stem for path in (ROOT / "locustfiles").glob("*.py")}
    assert not own & {*sys.stdlib_module_names, "locust", "websocket", "gevent", "gradio", "openai"}, "named alike"
    rooms = set()
    for path in (ROOT / "locustfiles").glob("*.py"):
        for name in imported(path):
            if name.partition(".")[0] in {"streaming", "providers"}:
                rooms.add(name)
            else:
                assert name.partition(".")[0] in allowed | own, path.name
    assert {"streaming.sse", "providers.chat_completions_wire"} <= rooms
    code = f"import sys, {', '.join(sorted(rooms))}; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", "nor may what they import import it"


def imported(path: Path) -> Iterator[str]:
    """Give the modules that a file imports, those of a room with the room's name before them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (f"{module}.{each.name}" for each in node.names) if module == "providers" else (module,)


def size(**changes: int) -> Size:
    return Size(**({"memory_bytes": 200 * 2**20, "descriptors": 40, "threads": 10, "streams": 5} | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory_bytes": 400 * 2**20}, "memory: 200 MiB, then 400 MiB"),
        ({"descriptors": 60}, "descriptors: 40, then 60"),
        ({"threads": 30}, "threads: 10, then 30"),
        ({"streams": 1}, "1 answers are still under way when nobody asks any more"),
    ],
)
def test_what_has_grown_is_told(changes: dict[str, int], words: str) -> None:
    assert soak.grown(size(), size(**({"streams": 0} | changes))) == [words]


def test_nothing_grew() -> None:
    assert soak.grown(size(), size(memory_bytes=210 * 2**20, descriptors=38, streams=0)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outcome": "failed", "error_type": "lost", "error_message": "event 4 came after event 2"}, "lost"),
        ({"outcome": "failed", "error_type": "twice", "error_message": "event 2 came after event 2"}, "twice"),
        ({"outcome": "truncated", "error_type": "truncated"}, "truncated"),
        ({"provider": "sim:cut"}, "completed, though its provider broke it off"),
        ({"provider": "openai:sim:error"}, "completed, though its provider broke it off"),
        ({"provider": "sim:cut", "outcome": "failed", "error_type": "lost"}, "lost"),
    ],
)
def test_what_went_wrong_is_told(changes: dict[str, Any], words: str) -> None:
    found = soak.wrong([answer(), answer(2, **changes)])
    assert len(found) == 1 and words in found[0]


def test_an_answer_that_never_ended_is_told() -> None:
    assert soak.late_ones(0) == []
    assert soak.late_ones(2) == ["2 answers had not ended long after the last question"]


def test_what_was_meant_to_happen_is_not_wrong() -> None:
    broken = answer(3, provider="sim:cut", outcome="truncated", error_type="truncated")
    assert soak.wrong([answer(), answer(2, outcome="cancelled"), broken]) == []

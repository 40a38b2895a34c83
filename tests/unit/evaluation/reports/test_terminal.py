"""Tables in terminals of any width: which columns stay, whole names, and the line of JSON."""

import json
import os
import pty
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from evaluation.__main__ import main
from evaluation.reports import terminal
from evaluation.scenario import plan
from tests.unit.evaluation import factories

NAMES = ("openrouter:meta-llama/llama-3.3-70b-instruct", "openrouter:meta-llama/llama-3.3-70b-instruct-turbo", "m")
ROOT = Path(__file__).parents[4]


def make_table() -> Table:
    table = Table(title="Run")
    table.add_column("provider")
    table.add_column("strategy")
    for heading in ("completed", "answer text ms", "tokens/s", "gap p50/p95/p99 ms", "USD"):
        table.add_column(heading, justify="right")
    for name in NAMES:
        table.add_row(name, "debounce:100ms", "24/24", "200 [197, 205]", "48.8", "20.0/20.1/20.3", "0.0001")
    return table


def draw(table: Table, width: int) -> list[str]:
    written = StringIO()
    Console(file=written, width=width, markup=False, emoji=False, highlight=False).print(table)
    return written.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (160, []),
        (110, ["USD"]),
        (80, ["tokens/s", "gap p50/p95/p99 ms", "USD"]),
        (60, ["answer text ms", "tokens/s", "gap p50/p95/p99 ms", "USD"]),
    ],
)
def test_columns_that_matter_first_stay_and_the_others_are_named(width: int, left_out: list[str]) -> None:
    table, others = terminal.fit_table(make_table(), width)
    lines = draw(table, width)
    assert others == left_out
    assert all(len(line) <= width for line in lines)
    assert "…" not in "".join(lines), "no cell is cut"


@pytest.mark.parametrize("width", [60, 80, 110])
def test_names_are_folded_and_never_cut(width: int) -> None:
    table, _ = terminal.fit_table(make_table(), width)
    cells = [line.split("\u2502")[1].strip() for line in draw(table, width) if line.startswith("\u2502")]
    assert "".join(cells) == "".join(NAMES)


def test_compare_in_narrow_terminal_has_no_json_and_no_long_table_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = factories.make_scenario(("sim:steady", "x:y"))
    for name in "ab":
        (tmp_path / name).mkdir()
        factories.write_run(tmp_path / name, scenario, [(factories.make_trial(p), []) for p in plan(scenario)])
    options = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    main(options)
    assert {"changes", "worse"} <= json.loads(capsys.readouterr().out.splitlines()[-1]).keys()
    command = [sys.executable, "-m", "evaluation", *options]
    controller, terminal_end = pty.openpty()
    narrow = {**os.environ, "COLUMNS": "80", "TERM": "xterm-256color"}
    with subprocess.Popen(command, cwd=ROOT, env=narrow, stdout=terminal_end, stderr=subprocess.STDOUT) as process:
        os.close(terminal_end)
        output = read_terminal(controller)
        process.wait(60)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output).splitlines()
    drawn = [line for line in lines if line[:1] in "\u2502\u250f\u2521\u2514"]
    assert drawn and max(map(len, drawn)) <= 80
    assert not any(line.startswith("{") for line in lines)


def read_terminal(descriptor: int) -> str:
    """Return everything that is written to a terminal; its end is an error on Linux."""
    found = b""
    try:
        while data := os.read(descriptor, 65_536):
            found += data
    except OSError:
        pass
    os.close(descriptor)
    return found.decode()

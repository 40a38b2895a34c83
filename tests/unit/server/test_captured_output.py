"""Captured output: libraries' prints become JSON lines, without their text once it may come from callers."""

import json
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from server.captured_output import OutputReader, is_exception

ROOT = Path(__file__).parents[3]


def read(text: str, *, trusted: bool = False) -> dict[str, Any]:
    reader = OutputReader()
    for line in text.splitlines():
        reader.feed(line, trusted=trusted)
    return reader.take().fields()


def test_traceback_is_summarized_by_places_and_error_types() -> None:
    try:
        json.loads("CANARY")
    except ValueError:
        text = traceback.format_exc()
    result = read(text)
    assert result["errors"] == ["json.decoder.JSONDecodeError"]
    assert any(place.startswith(f"{json.decoder.__file__}:") for place in result["places"])
    assert "CANARY" not in str(result)


@pytest.mark.parametrize(
    "text",
    [
        "CANARY",
        "CANARY: CANARY",
        "Traceback (most recent call last):\nCANARY: x",
        'Traceback (most recent call last):\n  File "/CANARY.py", line 1, in CANARY\nCANARY.Error: CANARY',
        'Traceback (most recent call last):\n  File "x", line 1\n    CANARY()\nValueError: CANARY\nCANARY',
        "\x1b[31mCANARY\r\n\0CANARY",
        "CANARY" * 50_000,
    ],
)
def test_untrusted_text_is_not_quoted(text: str) -> None:
    result = read(text)
    assert "CANARY" not in str(result) and result["lines"] >= 1


def test_trusted_text_is_quoted() -> None:
    assert read("cannot load the model\n\n", trusted=True)["text"] == ["cannot load the model"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ValueError", True),
        ("json.decoder.JSONDecodeError", True),
        ("os.path", False),
        ("print", False),
        ("a.B", False),
    ],
)
def test_is_exception_accepts_only_exception_classes(name: str, expected: bool) -> None:
    assert is_exception(name) is expected


SCRIPT = """
import logging
import os
import sys
import traceback
import warnings

from server import logging_config
from server.captured_output import CapturedOutput

with CapturedOutput() as output:
    logging_config.configure_logging(str, output.error, lambda: output.trusted)
    output.distrust()
    output.print_line("it is at CANARY-FREE")
    print("CANARY out")
    os.write(2, b"CANARY raw, no line end")
    try:
        raise ValueError("CANARY")
    except ValueError:
        traceback.print_exc()
    warnings.warn("CANARY", stacklevel=1)
    logging.getLogger("uvicorn.error").error("broke", exc_info=ValueError("CANARY"))
    logging.getLogger("lib").warning("CANARY %s", "CANARY")
    sys.stdout.flush()
print("after", flush=True)
"""


def test_process_prints_only_json_lines_while_output_is_captured() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout == "it is at CANARY-FREE\nafter\n"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert "CANARY" not in done.stderr
    assert {line["event"] for line in lines} == {
        "output of a library", "warning of a library", "broke",
        "log record of a library (its place is in the field `place`)",
    }  # fmt: skip
    printed = [line for line in lines if line["event"] == "output of a library"]
    assert any(line.get("errors") == ["ValueError"] for line in printed)

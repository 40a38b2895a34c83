"""A start of the service that fails, in the tests' own process: one of its own takes a second to import the service."""

import os
from dataclasses import dataclass
from unittest.mock import patch

import pytest

import app


@dataclass(frozen=True)
class FailedStart:
    """What `python app.py` returned and wrote."""

    returncode: int | str | None
    stdout: str
    stderr: str


def start_and_fail(capfd: pytest.CaptureFixture[str], *arguments: str, **variables: str) -> FailedStart:
    """Run `python app.py` with these arguments and more variables, which must end it before it serves."""
    capfd.readouterr()
    with patch.dict(os.environ, variables):
        try:
            code: int | str | None = app.main(arguments)
        except SystemExit as ended:  # argparse ends the process itself
            code = ended.code
    written = capfd.readouterr()
    return FailedStart(code, written.out, written.err)

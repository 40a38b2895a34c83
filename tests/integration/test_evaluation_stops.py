"""A run that is stopped while it starts, and a disk that takes no more: one line, and no traceback."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = "run --providers sim:steady --prompt-count 3 --concurrency 3 --no-warm-up --no-plots"


def start_run(folder: Path, package: str = "evaluation") -> "subprocess.Popen[str]":
    words = WORDS if package == "evaluation" else "run --users 1"
    command = [sys.executable, "-X", "importtime", "-m", package, *words.split(), "--out", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=1)


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("evaluation", "evaluation.cli"),
        ("evaluation", "evaluation.cli.commands"),
        ("evaluation.load_test", "subprocess"),
        ("evaluation.load_test", "evaluation.load_test.commands"),
    ],
)
def test_interrupt_while_starting_ends_in_one_line(tmp_path: Path, package: str, module: str) -> None:
    """Interrupt when the interpreter has imported a module: the first is early, the other the last before the run."""
    with start_run(tmp_path / "run", package) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("import time:") and line.rpartition("|")[2].strip() == module:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    output = [line for line in errors.splitlines() if not line.startswith("import time:")]
    assert process.returncode == 130 and len(output) <= 3, output
    assert "Traceback" not in errors and output[-1].startswith("stopped")


@pytest.mark.parametrize("most_bytes", [2_000, 20_000, 40_000])
def test_full_disk_ends_in_one_line(tmp_path: Path, most_bytes: int) -> None:
    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, "-m", "evaluation", *WORDS.split(), "--out", str(tmp_path / "run")]
    ended = subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, preexec_fn=limit_files, timeout=300, check=False
    )
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'run'}: cannot be written")

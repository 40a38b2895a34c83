"""The service as users start it, in a process of its own."""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 200.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ServiceUnderTest:
    """A running `app.py` process."""

    address: str
    process: "subprocess.Popen[str]"

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads in seconds, from Linux's /proc at 100 ticks per second."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@contextmanager
def run_service(log: Path, variables: Mapping[str, str], *options: str) -> Iterator[ServiceUnderTest]:
    """Start `app.py` with more variables and options; its standard error goes to `log`.

    The local model is loaded with its first request, for most tests ask another one.
    """
    with log.open("w") as stderr:
        command = [sys.executable, "app.py", "--port", "0", *options]
        environment = {**os.environ, "PRELOAD_MODEL": "off", **variables}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            yield ServiceUnderTest(_read_address(process, log), process)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                pytest.fail(f"the service had to be killed {STOP_TIMEOUT_S:g} s after it was told to stop")
            finally:
                assert process.stdout is not None
                process.stdout.close()


def _read_address(process: "subprocess.Popen[str]", log: Path) -> str:
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True).start()
    output = []
    while True:
        try:
            line = lines.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            line = ""
        output.append(line)
        if "http://" in line:
            return line[line.index("http://") :].strip()
        if not line:
            pytest.fail(
                f"app.py did not come up in {START_TIMEOUT_S:g} s.\n{''.join(output)}\n{log.read_text()}", pytrace=False
            )


def _read_lines(stdout: IO[str], lines: "queue.Queue[str]") -> None:
    for line in stdout:
        lines.put(line)
    lines.put("")

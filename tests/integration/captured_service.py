"""The service as a process whose output is captured: address, log, workers and exit."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class RunningService:
    """A service that runs; `port` is where."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path, address: str) -> None:
        self.process = process
        self.address = address
        self.port = int(address.rpartition(":")[2])
        self._log = log

    def stderr_text(self) -> str:
        """Return what the process wrote to stderr."""
        return self._log.read_text()

    def printed(self) -> str:
        """Return what the process wrote to stdout after its address; waits for its end."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the log's records; each line must be a JSON object."""
        return [json.loads(line) for line in self.stderr_text().splitlines()]

    def workers(self) -> list[int]:
        """Return the worker processes, oldest first."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in _read_command_line(child)]

    async def wait_port_closed(self) -> None:
        """Wait until no process listens on the port. Raises TimeoutError after a minute."""
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except ConnectionRefusedError:
                    return
                except ConnectionResetError:  # it was closed in this moment
                    continue
                writer.transport.abort()
                await asyncio.sleep(0.02)

    def stop_and_wait(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the process to stop, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(120)


def _read_command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def run_service(*arguments: str, **variables: str) -> Iterator[RunningService]:
    """Run `python app.py --no-ui` on a free port, without a rate limit unless `variables` set one."""
    with started_with_page("--no-ui", *arguments, **variables) as running:
        yield running


@contextmanager
def started_with_page(*arguments: str, **variables: str) -> Iterator[RunningService]:
    """Run `python app.py` on a free port, without a rate limit unless `variables` set one."""
    command = [sys.executable, "app.py", "--port", "0", *arguments]
    environment = {**os.environ, "RATE_LIMIT": "off", **variables}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "stderr")
        with (
            log.open("w") as sink,
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=sink, text=True
            ) as process,
        ):
            assert process.stdout is not None
            try:
                match = re.search(r"http://\S+", process.stdout.readline())
                assert match, log.read_text()
                yield RunningService(process, log, match[0])
            finally:
                if process.poll() is None:
                    process.terminate()
                    try:
                        process.wait(120)
                    finally:
                        process.kill()

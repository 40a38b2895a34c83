"""A real Redis on a free port, which a test may kill and start again on the same one, empty."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PATIENT_S = "30"
"""REDIS_TIMEOUT_S of the services under test: one that gets no processor for the default second would go on alone."""


class RedisProcess:
    """A Redis server without persistence."""

    def __init__(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.fail("the tests need Redis: install the package redis-server (make test does, as root)")
        self._program = program
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([self._program, *options], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None  # it is a pipe
        output = []
        for line in self._process.stdout:
            output.append(line)
            if "Ready to accept connections" in line:
                return
        pytest.fail("Redis did not start: " + "".join(output))

    def kill(self) -> None:
        """Kill it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @contextmanager
    def suspend(self) -> Iterator[None]:
        """Suspend the process while its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def run_redis() -> Iterator[RedisProcess]:
    """Run a Redis for a test."""
    server = RedisProcess()
    try:
        yield server
    finally:
        server.kill()

"""Upstreams whose answers can be stopped in a known state, and that tell when their client has left."""

import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from simulator.server import read_log

PATIENCE_S = 60.0


@dataclass(slots=True)
class StoppableRequest:
    """When a request came, and when its client left before the end of the answer, on the monotonic clock."""

    received_s: float
    left_s: float | None = None


class StopUpstream(Protocol):
    """An upstream that records its requests."""

    url: str

    def requests(self, model: str) -> list[StoppableRequest]:
        """Return the requests for a model, in order."""


def wait_request(upstream: StopUpstream, model: str, index: int, pause: Callable[[], object]) -> None:
    """Wait for the model's request number `index`. Raises TimeoutError after a minute."""
    _wait(lambda: len(upstream.requests(model)) > index or None, pause)


def wait_left(upstream: StopUpstream, model: str, index: int, pause: Callable[[], object]) -> float:
    """Return when the client of the model's request number `index` has left. Raises TimeoutError after a minute."""
    return _wait(lambda: upstream.requests(model)[index].left_s, pause)


def _wait(find: Callable[[], float | None], pause: Callable[[], object]) -> float:
    give_up_s = time.monotonic() + PATIENCE_S
    while (found := find()) is None:
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"the upstream did not see what was expected in {PATIENCE_S:g} s")
        pause()
    return found


class Simulator:
    """A running simulator and the log of its requests."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log

    def requests(self, model: str) -> list[StoppableRequest]:
        found: dict[object, StoppableRequest] = {}
        for entry in self._entries():
            if entry["event"] == "received" and entry.get("model") == model:
                found[entry["request_id"]] = StoppableRequest(entry["at_s"])
            elif entry["event"] == "closed" and entry["by"] == "client" and entry["request_id"] in found:
                found[entry["request_id"]].left_s = entry["at_s"]
        return [*found.values()]

    def last_sent_s(self) -> float:
        """Return when the last piece of text was sent."""
        return float(max(entry["at_s"] for entry in self._entries() if "seq" in entry))

    def _entries(self) -> list[dict[str, Any]]:
        return read_log(str(self._log))


@contextmanager
def run_simulator(*options: str) -> Iterator[Simulator]:
    """Run a simulator on a free port, with 20 ms between tokens, and yield it."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log.jsonl")
        command = [sys.executable, "-m", "simulator", "--port", "0", "--log", str(log), "--ttft-ms", "100", *options]
        with subprocess.Popen([*command, "--gap-ms", "20"], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None  # it is a pipe
            try:
                yield Simulator(process.stdout.readline().split()[-1], log)
            finally:
                process.send_signal(signal.SIGTERM)


class SilentHost:
    """A TLS host that accepts connections and never answers a handshake; whoever asks it stays connecting."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}"
        self._connections: list[StoppableRequest] = []

    def requests(self, model: str) -> list[StoppableRequest]:
        """Return all connections: a host that has read nothing knows no model."""
        return self._connections

    def accept(self) -> None:
        """Accept connections until `close`."""
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                self._connections.append(StoppableRequest(time.monotonic()))
                threading.Thread(target=_read, args=(client, self._connections[-1]), daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _read(client: socket.socket, connection: StoppableRequest) -> None:
    """Read until the client leaves."""
    with client, suppress(OSError):
        while client.recv(65536):
            pass
    connection.left_s = time.monotonic()


@contextmanager
def run_silent_host() -> Iterator[SilentHost]:
    """Run a silent host on a free port, and yield it."""
    host = SilentHost()
    thread = threading.Thread(target=host.accept, daemon=True)
    thread.start()
    yield host
    host.close()
    thread.join()

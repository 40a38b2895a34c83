"""The simulator's server, which accepts connections and serves them on one thread with one event loop."""

import errno
import itertools
import json
import socket
import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from selectors import EVENT_READ
from threading import Thread

from simulator.connection import Connection
from simulator.event_loop import EventLoop
from simulator.faults import parse_fault
from simulator.http1 import InvalidRequestError, Request
from simulator.request_handler import Defaults, PlannedResponse, RequestHandler
from simulator.truth_log import TruthLog
from streaming.errors import UsageError

_BACKLOG = 2048
_MAX_ACCEPTS_PER_PASS = 8
_LIMIT_FAULT = parse_fault("429-retry-after")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of a server. Port 0 selects a free port. `tls` holds the paths of a certificate chain and a key."""

    host: str = "127.0.0.1"
    port: int = 0
    choices: Defaults = field(default_factory=Defaults)
    tls: tuple[str, str] | None = None
    log: str | None = None
    max_streams: int | None = None
    """Answers at a time; a request beyond them is rejected with status 429 and `Retry-After: 1`. None is no limit."""
    slots: int | None = None
    """Answers given at a time; requests beyond them wait in order until one ends. None is no limit."""


class SimulatorServer:
    """A server that listens from its construction on. Raises UsageError when an option is unusable."""

    def __init__(self, options: ServerOptions) -> None:
        self._context = _load_tls_context(options.tls) if options.tls else None
        self._listener = _listen(options.host, options.port)
        try:
            self.log = _open_log(options.log)
        except UsageError:
            self._listener.close()
            raise
        self.loop = EventLoop(self.log.write)
        self._service = RequestHandler(options.choices)
        self._max_streams = options.max_streams
        self._slots = options.slots or options.choices.profile.slots
        self._holders: set[Connection] = set()
        self._waiting: deque[Connection] = deque()
        self._connections: set[Connection] = set()
        self._serials = itertools.count(1)
        self.loop.register(self._listener, self, EVENT_READ)

    @property
    def url(self) -> str:
        """The base URL of all wire formats' paths, without a trailing slash."""
        host, port = self._listener.getsockname()[:2]
        return f"{'https' if self._context else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def run(self) -> None:
        """Serve until `stop` is called, then close all connections and flush the log."""
        try:
            self.loop.run()
        finally:
            for connection in list(self._connections):
                connection.abort()
            self.loop.unregister(self._listener)
            self._listener.close()
            self.loop.close()
            self.log.close()

    def stop(self) -> None:
        """Stop `run`. May be called from any thread or from a signal handler."""
        self.loop.stop()

    def ready(self, mask: int) -> None:
        """Accept a few connections per call, so that running answers keep their schedule."""
        for _ in range(_MAX_ACCEPTS_PER_PASS):
            try:
                sock, _ = self._listener.accept()
            except OSError:  # no pending connection, a client that disconnected, or too many open files
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            self._connections.add(Connection(self, sock))

    def reply(self, request: Request | InvalidRequestError) -> tuple[str, PlannedResponse]:
        serial = f"{next(self._serials):06d}"
        if isinstance(request, InvalidRequestError):
            return f"sim-{serial}", self._service.reject(request, serial)
        answering = sum(connection.is_answering for connection in self._connections)
        forced = _LIMIT_FAULT if self._max_streams is not None and answering >= self._max_streams else None
        return request.headers.get("x-client-request-id", f"sim-{serial}"), self._service.reply(request, serial, forced)

    def take_slot(self, connection: Connection) -> bool:
        """Return whether an answer may start now; if not, it is started when those before it have ended."""
        if self._slots is not None and len(self._holders) >= self._slots:
            self._waiting.append(connection)
            return False
        self._holders.add(connection)
        return True

    def release_slot(self, connection: Connection) -> None:
        """Pass the connection's slot on; a connection that was still waiting waits no longer."""
        if connection in self._waiting:
            self._waiting.remove(connection)
        self._holders.discard(connection)
        while self._waiting and self._slots is not None and len(self._holders) < self._slots:
            first = self._waiting.popleft()
            self._holders.add(first)
            first.start_waiting_answer()

    def on_closed(self, connection: Connection) -> None:
        self._connections.discard(connection)


@contextmanager
def run_in_thread(options: ServerOptions) -> Iterator[SimulatorServer]:
    """Run a server in a thread of this process and yield it. For precise measurements, use a separate process."""
    server = SimulatorServer(options)
    thread = Thread(target=server.run, name="simulator", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


def read_log(path: str) -> list[dict[str, object]]:
    """Return the parsed complete lines of a log."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = "the port is in use" if number == errno.EADDRINUSE else str(error)
        raise UsageError(f"--port: cannot listen on {host}:{port}, {reason} (choose another port)") from None
    listener.setblocking(False)
    return listener


def _load_tls_context(files: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(*files)
    except (OSError, ValueError) as error:
        raise UsageError(f"--tls-cert: cannot read {files[0]} with the key {files[1]} ({error})") from None
    return context


def _open_log(path: str | None) -> TruthLog:
    try:
        return TruthLog(path)
    except OSError as error:
        raise UsageError(f"--log {path}: {error.strerror} (choose a file that can be written)") from None

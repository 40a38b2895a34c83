"""llama.cpp's own server, in this process, on a port of 127.0.0.1 that only who knows its key can use.

Four oddities are deliberate, each against something that was seen:

- Prompts are read in batches of 8 tokens. llama.cpp notices between batches only that a client has left: it kept
  computing for 0.4 s with batches of 8, for 0.7 s with 16, for 1.7 s with 64, and for more than 12 s with its default
  of 2048. A batch of 8 costs about a third more CPU for each token of a prompt than one of 2048.
- One token is generated before the server is handed out: a server that is closed before its loop runs never ends.
- Closing cuts every connection first: the server waits for its connections, while nothing of this process can run
  that could end them, and at the process's exit its threads would crash on what is already gone.
- Building one holds the interpreter's lock for one to two seconds: xllamacpp does not release it.
"""

import os
import secrets
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from providers.local.model_file import ModelFileError
from streaming.errors import UsageError

SLOTS = 4
"""Answers at once, by continuous batching; further ones wait."""
CONTEXT_TOKENS = 4096
"""Question and answer together, for each slot."""

_BATCH_TOKENS = 8
_HTTP_THREADS = 64
_PING_INTERVAL_S = 1


class LlamaServer:
    """A loaded model that answers at `base_url` (`/v1` included) to who sends `key` as a bearer token."""

    def __init__(self, path: Path) -> None:
        """Load; blocks. Raises UsageError when llama.cpp is missing, ModelFileError when it cannot load the file."""
        try:
            import xllamacpp
        except ModuleNotFoundError:
            raise UsageError("the local model needs llama.cpp: pip install xllamacpp") from None
        except ImportError as error:  # a shared library that the system lacks: libgomp.so.1, on slim ones
            raise UsageError(
                f"llama.cpp cannot be used here: {error}; install the system's library, such as libgomp1"
            ) from None
        self.key = secrets.token_urlsafe(24)
        try:
            self._server: Any = xllamacpp.Server(_set_params(xllamacpp.CommonParams(), path, self.key))
            self._server.handle_chat_completions({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
        except Exception as error:  # whatever C++ threw
            raise ModelFileError(
                f"llama.cpp cannot load {path.name}: the file is damaged, incomplete, or of a kind that it does not "
                f"know ({str(error).strip().rstrip('.')}); install it again, or set STREAMGAUGE_MODEL to another"
            ) from None
        self.base_url = f"{self._server.listening_address}/v1"

    def close(self) -> None:
        """End it, with every answer that is on its way; blocks for up to about a second. Again is harmless."""
        if self._server is not None:
            _shut_down_sockets(urlsplit(self.base_url).port or 0)
            self._server = None


class ServerSlot:
    """Holds one server; whoever closes waits for one that is being built, and none is built afterwards."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: LlamaServer | None = None
        self._closed = False

    def open(self, path: Path) -> LlamaServer:
        """Build the server; blocks. Raises UsageError when it cannot be, or after `close`."""
        with self._lock:
            if self._closed:
                raise UsageError("the local model has been closed")
            self._server = LlamaServer(path)
            return self._server

    def close(self) -> None:
        """End the server, if there is one."""
        with self._lock:
            self._closed = True
            server, self._server = self._server, None
            if server is not None:
                server.close()


def _set_params(params: Any, path: Path, key: str) -> Any:
    threads = max(1, (os.cpu_count() or 1) - 1)
    params.model.path = str(path)
    params.model_alias = {path.stem}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.cors_origins = ""
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT_TOKENS
    params.n_batch = params.n_ubatch = _BATCH_TOKENS
    params.n_threads_http = _HTTP_THREADS
    # One core is left to the web server: on two busy cores two threads were seven times slower than one.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.sse_ping_interval = _PING_INTERVAL_S
    # Answers that are over are not kept outside their slot: up to 8 GB of them by default.
    params.cache_ram_mib = 0
    params.fit_params = params.warmup = params.ui = False
    params.verbosity = 0
    return params


def _shut_down_sockets(port: int) -> None:
    """Shut down this process's sockets on `port`, both ends of each connection, and the listening one."""
    for name in os.listdir("/dev/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:  # closed meanwhile
            continue
        try:
            connection = socket.socket(fileno=copy)
        except OSError:  # no socket
            os.close(copy)
            continue
        with closing(connection):
            if ("127.0.0.1", port) in _socket_endpoints(connection):
                with suppress(OSError):  # its other end has gone meanwhile
                    connection.shutdown(socket.SHUT_RDWR)


def _socket_endpoints(connection: socket.socket) -> list[tuple[str, int]]:
    if connection.family != socket.AF_INET:
        return []
    ends = []
    for address in (connection.getsockname, connection.getpeername):
        try:
            ends.append(address())
        except OSError:  # a listening socket has no peer
            continue
    return ends

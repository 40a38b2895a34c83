"""llama.cpp's own server in this process, on a port of 127.0.0.1, protected by a random key.

Four unusual choices are deliberate; each one has a measured or observed reason:

- Prompts are processed in batches of 8 tokens. llama.cpp checks only between batches whether the client has
  disconnected: it kept computing for 0.4 s with batches of 8, 0.7 s with 16, 1.7 s with 64, and more than 12 s with its
  default of 2048. A batch of 8 needs about a third more CPU time per prompt token than a batch of 2048.
- One token is generated before the server is returned, because a server that is closed before its loop runs never
  stops.
- Closing shuts down every connection first. The server waits for its connections while it blocks all Python code that
  could close them, and its threads would crash at the exit of the process.
- Creating a server blocks the process for one to two seconds, because xllamacpp does not release the interpreter lock.
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
from streaming.os_limits import usable_cpu_count

SLOTS = 4
"""The number of concurrent answers (continuous batching); further requests wait."""
CONTEXT_TOKENS = 4096
"""The context of each slot in tokens, for prompt and answer together."""

_BATCH_TOKENS = 8
_HTTP_THREADS = 64
_PING_INTERVAL_S = 1


class LlamaServer:
    """A loaded model with an API at `base_url`, which includes `/v1`. Requests must send `key` as a bearer token."""

    def __init__(self, path: Path) -> None:
        """Load the model. Blocks.

        Raises UsageError when llama.cpp is missing, and ModelFileError when llama.cpp cannot load the file.
        """
        try:
            import xllamacpp
        except ModuleNotFoundError:
            raise UsageError("local: llama.cpp is not installed (run pip install xllamacpp)") from None
        except ImportError as error:  # a missing system library, such as libgomp.so.1 in slim images
            raise UsageError(
                f"local: llama.cpp cannot be loaded, {error} (install the system library, such as libgomp1)"
            ) from None
        self.key = secrets.token_urlsafe(24)
        try:
            self._server: Any = xllamacpp.Server(_set_params(xllamacpp.CommonParams(), path, self.key))
            self._server.handle_chat_completions({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
        except Exception as error:  # whatever C++ threw
            raise ModelFileError(
                f"local: llama.cpp cannot load {path.name}, which is damaged, incomplete or of an unknown format: "
                f"{str(error).strip().rstrip('.')} (install it again, or set STREAMGAUGE_MODEL to another file)"
            ) from None
        self.base_url = f"{self._server.listening_address}/v1"

    def close(self) -> None:
        """Stop the server and abort its running answers. Blocks for up to about a second. Safe to call twice."""
        if self._server is not None:
            _shut_down_sockets(urlsplit(self.base_url).port or 0)
            self._server = None


class ServerSlot:
    """A holder of one server. `close` waits for a server that is being created and prevents further ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: LlamaServer | None = None
        self._closed = False

    def open(self, path: Path) -> LlamaServer:
        """Create and return the server. Blocks. Raises UsageError when that fails or after `close`."""
        with self._lock:
            if self._closed:
                raise UsageError("local: the model has been closed")
            self._server = LlamaServer(path)
            return self._server

    def close(self) -> None:
        """Stop the server if there is one, and prevent further ones."""
        with self._lock:
            self._closed = True
            server, self._server = self._server, None
            if server is not None:
                server.close()


def _set_params(params: Any, path: Path, key: str) -> Any:
    threads = max(1, usable_cpu_count() - 1)
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
    # One core is left for the web server: on two busy cores, two threads were seven times slower than one.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.sse_ping_interval = _PING_INTERVAL_S
    # No cache of ended answers in memory, which would take up to 8 GB by default.
    params.cache_ram_mib = 0
    params.fit_params = params.warmup = params.ui = False
    params.endpoint_metrics = True
    params.verbosity = 0
    return params


def _shut_down_sockets(port: int) -> None:
    """Shut down all of this process's sockets on `port`: both ends of each connection, and the listening socket."""
    for name in os.listdir("/dev/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:  # the file descriptor has been closed meanwhile
            continue
        try:
            connection = socket.socket(fileno=copy)
        except OSError:  # not a socket
            os.close(copy)
            continue
        with closing(connection):
            if ("127.0.0.1", port) in _socket_endpoints(connection):
                with suppress(OSError):  # the peer has closed the connection meanwhile
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

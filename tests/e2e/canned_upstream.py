"""A service that says what a test wants said, hostile words to any other question, and keeps what it was asked."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOSTILE_TEXT = (
    "Begin <script>window.hacked = 1</script> <img src=x onerror='window.hacked = 2'> "
    "![pixel](http://192.0.2.1/pixel.png) [click](javascript:window.hacked=3) <iframe srcdoc='<b>x</b>'></iframe> "
    "</div></div><style>body { display: none }</style> <a href='data:text/html,x'>go</a> "
    "$\\href{javascript:hacked}{x}$ end."
)
"""What no page may act on, and every reader may read."""


@dataclass(frozen=True)
class ReceivedRequest:
    """One request: the key that came with it, and the messages, the question last."""

    key: str
    messages: list[dict[str, str]]


class CannedUpstream(ThreadingHTTPServer):
    """Speaks chat completions on a free port. `words` are the deltas of an answer, by its question."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _CannedHandler)
        self.words: dict[str, Sequence[dict[str, str]]] = {}
        self.asked: list[ReceivedRequest] = []
        self.go_on = threading.Event()
        self.go_on.set()

    @contextmanager
    def hold_answers(self) -> Iterator[None]:
        """Let answers wait after their first delta meanwhile."""
        self.go_on.clear()
        try:
            yield
        finally:
            self.go_on.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _CannedHandler(BaseHTTPRequestHandler):
    server: CannedUpstream

    def do_POST(self) -> None:  # the name is the library's
        messages = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"]
        self.server.asked.append(ReceivedRequest(self.headers["authorization"].removeprefix("Bearer "), messages))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        first, *rest = self.server.words.get(messages[-1]["content"], [{"content": HOSTILE_TEXT}])
        self._send_chunk(first)
        self.server.go_on.wait()
        for delta in rest:
            self._send_chunk(delta)
        self._send_chunk({}, "stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def _send_chunk(self, delta: dict[str, str], reason: str | None = None) -> None:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""

"""A fake provider with canned answers by message, hostile text for any other, two models, and a record of requests."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = ("canned-large", "canned-small")
HOSTILE_TEXT = (
    "Begin <script>window.hacked = 1</script> <img src=x onerror='window.hacked = 2'> "
    "![pixel](http://192.0.2.1/pixel.png) [click](javascript:window.hacked=3) <iframe srcdoc='<b>x</b>'></iframe> "
    "</div></div><style>body { display: none }</style> <a href='data:text/html,x'>go</a> "
    "$\\href{javascript:hacked}{x}$ end."
)
"""Hostile text that the page must show but never execute."""


@dataclass(frozen=True)
class ReceivedRequest:
    """One request: its API key, its messages, the latest last, and its model."""

    key: str
    messages: list[dict[str, str]]
    model: str


class CannedUpstream(ThreadingHTTPServer):
    """A chat completions server on a free port. `words` are the deltas of an answer, by user message."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _CannedHandler)
        self.words: dict[str, Sequence[dict[str, str]]] = {}
        self.requests: list[ReceivedRequest] = []
        self.go_on = threading.Event()
        self.go_on.set()

    @contextmanager
    def hold_answers(self) -> Iterator[None]:
        """Pause answers after their first delta inside this context."""
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

    def do_GET(self) -> None:  # http.server requires this name
        send_model_list(self, MODELS)

    def do_POST(self) -> None:  # http.server requires this name
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key, messages = self.headers["authorization"].removeprefix("Bearer "), body["messages"]
        self.server.requests.append(ReceivedRequest(key, messages, body["model"]))
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
        """Discard the log message."""


def send_model_list(handler: BaseHTTPRequestHandler, models: Sequence[str]) -> None:
    """Send the list of models, whatever was requested."""
    body = json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in models]}).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)

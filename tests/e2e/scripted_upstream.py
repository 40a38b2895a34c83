"""A fake provider whose behaviour depends on the model's name; records requests and disconnects."""

import json
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.e2e.canned_upstream import send_model_list

LONG_TEXT = "So it runs on, word by word. " * 600
"""A long answer of 17,400 characters."""
SHORT_TEXT = "Aye."


class ScriptedUpstream(ThreadingHTTPServer):
    """A chat completions server on a free port.

    Model `thinker` sends thinking and never an answer; `whole-only` answers a streaming request with an HTML page and
    never answers others; `long` sends a long answer at once; any other sends one word. `left_s` are the timestamps of
    client disconnects, in seconds on the monotonic clock; `keys` are the values of the authorization headers.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ScriptedHandler)
        self.bodies: list[dict[str, Any]] = []
        self.left_s: list[float] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _ScriptedHandler(BaseHTTPRequestHandler):
    server: ScriptedUpstream

    def do_GET(self) -> None:  # http.server requires this name
        send_model_list(self, ("long", "thinker", "whole-only"))

    def do_POST(self) -> None:  # http.server requires this name
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers["authorization"])
        model = body["model"]
        if model == "whole-only" and not body.get("stream"):
            self._wait_for_disconnect()
            return
        self.send_response(200)
        self.send_header("content-type", "text/html" if model == "whole-only" else "text/event-stream")
        self.end_headers()
        if model == "whole-only":
            self.wfile.write(b"<p>Welcome</p>")
        elif model == "thinker":
            self._send_chunk({"reasoning_content": "Well"})
            self._wait_for_disconnect()
        else:
            self._send_chunk({"content": LONG_TEXT if model == "long" else SHORT_TEXT})
            self._send_chunk({}, "stop")
            self.wfile.write(b"data: [DONE]\n\n")

    def _send_chunk(self, delta: dict[str, str], reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def _wait_for_disconnect(self) -> None:
        """Wait until the client disconnects."""
        with suppress(ConnectionResetError):
            self.connection.recv(1)
        self.server.left_s.append(time.monotonic())
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Discard the log message."""

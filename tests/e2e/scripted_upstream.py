"""A service that does what the model's name says, and keeps what it was asked and when it was left."""

import json
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LONG_TEXT = "So it runs on, word by word. " * 600
"""An answer of 17,400 characters."""
SHORT_TEXT = "Aye."


class ScriptedUpstream(ThreadingHTTPServer):
    """Speaks chat completions on a free port.

    thinker thinks and never answers; whole-only has an HTML page for what is to be streamed, and never answers the
    rest; long says much at once; any other model says one word. `left_s`: when a client left it waiting.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ScriptedHandler)
        self.bodies: list[dict[str, Any]] = []
        self.left_s: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _ScriptedHandler(BaseHTTPRequestHandler):
    server: ScriptedUpstream

    def do_POST(self) -> None:  # the name is the library's
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
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
        """Wait until the client leaves."""
        with suppress(ConnectionResetError):
            self.connection.recv(1)
        self.server.left_s.append(time.monotonic())
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""

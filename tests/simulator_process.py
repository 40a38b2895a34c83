"""The simulator as a process, and a plain client that records every received byte."""

import json
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

QUESTION: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "What time is it?"}]}
PATHS = {
    "openai": "/v1/chat/completions",
    "azure": "/openai/deployments/any/chat/completions?api-version=2024-10-21",
    "anthropic": "/v1/messages",
    "ollama": "/api/chat",
}


@contextmanager
def run_simulator_process(*arguments: str) -> Iterator[str]:
    """Start `python -m simulator` on a free port, yield its URL, and stop it with SIGINT.

    It applies the vendors' rules (`--rules strict`) unless the arguments say otherwise.
    """
    command = [sys.executable, "-m", "simulator", "--port", "0", "--rules", "strict", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        try:
            match = re.search(r"https?://\S+", line)
            assert match, f"no address in {line!r}: {process.stderr.read()}"
            yield match[0]
        finally:
            process.send_signal(signal.SIGTERM)
            code, problems = process.wait(60), process.stderr.read()
    assert (code, problems) == (0, "")


@dataclass(frozen=True)
class RawResponse:
    """All bytes of one connection; `how` it ended: closed, reset, or silent for longer than the listener waited."""

    raw: bytes
    how: str

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.raw.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def complete(self) -> bool:
        """Whether the body reached the end that its framing announced."""
        body = self.raw.partition(b"\r\n\r\n")[2]
        if "content-length" in self.headers:
            return len(body) == int(self.headers["content-length"])
        return body.endswith(b"0\r\n\r\n")

    @property
    def chunks(self) -> list[bytes]:
        """The chunks of the body, or the whole body if it has a length."""
        start = self.raw.index(b"\r\n\r\n") + 4
        if "content-length" in self.headers:
            return [self.raw[start:]]
        result = []
        while start < len(self.raw):
            line_end = self.raw.index(b"\r\n", start)
            size = int(self.raw[start:line_end], 16)
            start = line_end + 2 + size + 2
            result.append(self.raw[line_end + 2 : start - 2])
        return result[:-1] if result and not result[-1] else result

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json_objects(self) -> list[Any]:
        """Return the JSON objects of a stream's events, without the end marker."""
        lines = [line.removeprefix(b"data: ") for line in self.body.split(b"\n")]
        return [json.loads(line) for line in lines if line.startswith(b"{")]


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


def encode_request(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    fields = {"host": "simulator", "content-length": str(len(body)), "connection": "close", **(headers or {})}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def question_body(wire: str, streamed: bool = True, **fields: Any) -> bytes:
    """Return the request body of a wire format."""
    limit = {"max_tokens": 1000} if wire == "anthropic" else {}
    return json.dumps({**QUESTION, **limit, "stream": streamed, **fields}).encode()


def ask_simulator(
    url: str, wire: str = "openai", fault: str = "", *, streamed: bool = True, silence_s: float = 60.0, **fields: Any
) -> RawResponse:
    """Send one request on its own connection, and read to the end."""
    headers = {"x-simulator-fault": fault} if fault else {}
    with connect(url) as sock:
        sock.sendall(encode_request(PATHS[wire], question_body(wire, streamed, **fields), headers))
        return read_response(sock, silence_s)


def read_response(sock: socket.socket, silence_s: float = 60.0) -> RawResponse:
    """Read until the server closes the connection or sends nothing for `silence_s`."""
    raw = bytearray()
    while select.select([sock], [], [], silence_s)[0]:
        try:
            data = sock.recv(1_000_000)
        except ConnectionResetError:
            return RawResponse(bytes(raw), "reset")
        if not data:
            return RawResponse(bytes(raw), "closed")
        raw += data
    return RawResponse(bytes(raw), "silent")

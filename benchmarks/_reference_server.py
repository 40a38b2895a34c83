"""An independent server of OpenAI streams that logs every send in the simulator's format.

It shares no code with the instrument that is checked against it. After reading a request it sends the response head and
the role, the first token 200 ms later, then one token every 20 ms, each with a separate system call whose timestamp is
taken directly before it. `python -m benchmarks._reference_server LOG TOKENS` prints its URL.
"""

import heapq
import itertools
import json
import os
import re
import select
import signal
import socket
import sys
import time
from contextlib import suppress

TTFT_S = 0.2
GAP_S = 0.02
_RESPONSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
)


def _encode_token_chunk(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
    event = {"id": "truth", "object": "chat.completion.chunk", "created": 0, "model": "steady"}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return _encode_http_chunk(b"data: " + json.dumps({**event, "choices": choices, **more}).encode() + b"\n\n")


def _encode_http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class ReferenceServer:
    """A single-threaded server on a free port; `lines` is its log as JSON lines."""

    def __init__(self, tokens: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.lines: list[str] = []
        self._tokens = tokens
        self._poll = select.epoll()
        self._poll.register(self.listener, select.EPOLLIN)
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}
        self._due: list[tuple[float, int, socket.socket, int, str]] = []
        self._order = itertools.count()
        usage = {"prompt_tokens": 6, "completion_tokens": tokens, "total_tokens": tokens + 6}
        self._last = (
            _encode_token_chunk({}, "stop", usage=usage) + _encode_http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        )
        self._token = _encode_token_chunk({"content": "word "})

    def serve(self) -> None:
        while True:
            while self._due and self._due[0][0] <= time.monotonic():
                self._send_token(*heapq.heappop(self._due)[2:])
            wait_s = self._due[0][0] - time.monotonic() if self._due else 1.0
            # The timeout of epoll has a resolution of 1 ms, that of select 1 µs.
            select.select([self._poll], [], [], max(wait_s, 0.0))
            for number, _ in self._poll.poll(0):
                self._accept() if number == self.listener.fileno() else self._read_request(number)

    def _accept(self) -> None:
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clients[sock.fileno()] = (sock, bytearray())
        self._poll.register(sock, select.EPOLLIN)

    def _read_request(self, number: int) -> None:
        sock, data = self._clients[number]
        now_s = time.monotonic()
        try:
            part = sock.recv(65_536)
        except OSError:
            part = b""
        if not part:
            self._drop_client(number)
            return
        data += part
        head, blank, body = bytes(data).partition(b"\r\n\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if not blank or len(body) < int(headers.get(b"content-length", b"0")):
            return
        name = next(re.finditer(rb"(?im)^x-client-request-id: (.*?)\r?$", head))[1].decode()
        self.lines.append(json.dumps({"request_id": name, "event": "received", "at_s": now_s}))
        sock.send(_RESPONSE_HEAD + _encode_token_chunk({"role": "assistant", "content": ""}))
        heapq.heappush(self._due, (now_s + TTFT_S, next(self._order), sock, 0, name))

    def _send_token(self, sock: socket.socket, seq: int, name: str) -> None:
        if sock.fileno() < 0:  # the client has disconnected
            return
        over = seq == self._tokens
        at_s = time.monotonic()
        with suppress(OSError):  # the next read notices a client that has disconnected
            sock.send(self._last if over else self._token)
        if over:
            self._drop_client(sock.fileno())
            return
        self.lines.append(json.dumps({"request_id": name, "event": "sent", "seq": seq, "at_s": at_s}))
        heapq.heappush(self._due, (at_s + GAP_S, next(self._order), sock, seq + 1, name))

    def _drop_client(self, number: int) -> None:
        sock, _ = self._clients.pop(number)
        self._poll.unregister(sock)
        sock.close()


def main() -> None:
    """Serve until SIGTERM, then write the log."""
    path, tokens = sys.argv[1:]
    truth = ReferenceServer(int(tokens))
    with suppress(PermissionError, AttributeError):  # like the simulator, so that it does not wait for a processor
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"truth: http://127.0.0.1:{truth.listener.getsockname()[1]}", flush=True)
    try:
        truth.serve()
    finally:
        with open(path, "w", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in truth.lines))


if __name__ == "__main__":
    main()

"""One client's connection: reads its requests, one at a time, and carries out the plan of each answer.

A client that closes its side has left, at whatever moment; so has one that closes only its sending half.
"""

import json
import socket
import ssl
import struct
from collections import deque
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE
from typing import NamedTuple, Protocol

from simulator.http1 import CONTINUE, BadRequest, Request, RequestReader
from simulator.log import Log
from simulator.loop import Loop
from simulator.plans import Ending, Plan, Send
from simulator.service import Reply

_READ_BYTES = 65_536
_EARLY_BYTES = 1_000_000
_RESET = struct.pack("ii", 1, 0)
_BUSY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Host(Protocol):
    """What a connection needs of the server."""

    loop: Loop
    log: Log

    def reply(self, request: Request | BadRequest) -> tuple[str, Reply]:
        """Give the request's id and what it is answered with."""

    def gone(self, connection: "Connection") -> None: ...


class Batch(NamedTuple):
    """What goes out in one call: `marks` has one entry for each event in `data`."""

    due_s: float
    data: bytes
    marks: tuple[str, ...]


class Connection:
    """Lives from accept to close."""

    def __init__(self, host: Host, sock: socket.socket) -> None:
        self._host = host
        self._sock = sock
        self._now = host.loop.now
        self._reader = RequestReader()
        self._early = b""
        self._outbox: deque[tuple[memoryview, Batch]] = deque()
        self._answer: _Answer | None = None
        self._ending: tuple[Ending, bool] | None = None
        self._closed = False
        self._writing = False
        host.loop.watch(sock, self, EVENT_READ)

    def ready(self, mask: int) -> None:
        if mask & EVENT_WRITE:
            self._flush()
        if mask & EVENT_READ and not self._closed:
            self._read()

    def send(self, batch: Batch) -> None:
        """Send now if what went before is out, else in its turn."""
        if self._outbox:
            self._outbox.append((memoryview(batch.data), batch))
        elif (rest := self._push(batch.data, batch)) and not self._closed:
            self._outbox.append((memoryview(batch.data)[-rest:], batch))
            self._watch_writing(True)

    def end(self, ending: Ending, keep_open: bool) -> None:
        """End the answer as its plan says, after the last of its bytes."""
        self._ending = (ending, keep_open)
        self._flush()

    def shut(self) -> None:
        """End at once, because the server stops."""
        self._over("server", "shutdown")
        self._close()

    def _read(self) -> None:
        while not self._closed:
            try:
                data = self._sock.recv(_READ_BYTES)
            except _BUSY:
                return
            except OSError:
                data = b""
            if not data:
                self._over("client", "left")
                self._close()
                return
            self._take(data)
            if len(data) < _READ_BYTES and not isinstance(self._sock, ssl.SSLSocket):
                return  # a TLS socket may hold more that no selector tells of

    def _take(self, data: bytes) -> None:
        """Go on with a request; while an answer is under way its bytes wait."""
        arrived_s = self._now()
        self._early += data
        if self._answer is not None:
            if len(self._early) > _EARLY_BYTES:
                self._over("client", "left")
                self._close()
            return
        data, self._early = self._early, b""
        try:
            request = self._reader.feed(data)
        except BadRequest as error:
            self._begin(error, arrived_s)
            return
        if request is not None:
            self._begin(request, arrived_s)
        elif self._reader.take_continue():
            with suppress(OSError):  # of a client that has gone the next read tells
                self._sock.send(CONTINUE)

    def _begin(self, request: Request | BadRequest, arrived_s: float) -> None:
        request_id, reply = self._host.reply(request)
        self._host.log.received(request_id, arrived_s, **reply.facts)
        self._answer = _Answer(self, self._host.loop, reply.plan, request_id, arrived_s)
        self._answer.start()

    def _flush(self) -> None:
        while self._outbox:
            data, batch = self._outbox[0]
            if rest := self._push(data, batch):
                if self._outbox:
                    self._outbox[0] = (data[-rest:], batch)
                return
            self._outbox.popleft()
        self._watch_writing(False)
        if self._ending is not None:
            (ending, keep_open), self._ending = self._ending, None
            self._finish(ending, keep_open)

    def _push(self, data: bytes | memoryview, batch: Batch) -> int:
        """Hand bytes to the kernel; give how many it did not take. Its errors close the connection."""
        at_s = self._now()
        try:
            rest = len(data) - self._sock.send(data)
        except _BUSY:
            return len(data)
        except OSError:
            self._over("client", "left")
            self._close()
            return len(data)
        if not rest:
            self._note(batch, at_s, self._now() - at_s)
        return rest

    def _note(self, batch: Batch, at_s: float, took_s: float) -> None:
        answer = self._answer
        if answer is not None:
            for mark in batch.marks:
                self._host.log.sent(answer.id_json, mark, at_s, batch.due_s, took_s)

    def _watch_writing(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            self._host.loop.watch(self._sock, self, EVENT_READ | EVENT_WRITE if wanted else EVENT_READ)

    def _finish(self, ending: Ending, keep_open: bool) -> None:
        self._over("server", ending)
        if ending == "complete" and keep_open:
            self._take(b"")
            return
        if ending == "reset":
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        elif ending == "complete" and isinstance(self._sock, ssl.SSLSocket):
            with suppress(OSError):
                self._sock.unwrap()  # says goodbye; the client's own goodbye is not waited for
        self._close()

    def _over(self, by: str, how: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.over = True
            self._host.log.closed(answer.request_id, self._now(), by, how)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._outbox.clear()
            self._host.loop.forget(self._sock)
            self._sock.close()
            self._host.gone(self)


class _Answer:
    """Carries out one plan on the loop's timers. The next batch is made ready right after the one before it."""

    def __init__(self, connection: Connection, loop: Loop, plan: Plan, request_id: str, zero_s: float) -> None:
        self.request_id = request_id
        self.id_json = json.dumps(request_id)
        self.over = False
        self._connection = connection
        self._loop = loop
        self._plan = plan
        self._zero_s = zero_s
        self._sends = plan.sends
        self._ahead: Send | None = None
        self._batch: Batch | None = None

    def start(self) -> None:
        self._ahead = next(self._sends, None)
        self._next()

    def _next(self) -> None:
        self._batch = self._prepare()
        if self._batch is not None:
            self._loop.at(self._batch.due_s, self._send)
        elif self._plan.ending != "hang":
            self._loop.at(self._zero_s + self._plan.end_s, self._end)

    def _prepare(self) -> Batch | None:
        first = self._ahead
        if first is None:
            return None
        data, marks = [first.data], [first.mark]
        while (ahead := next(self._sends, None)) is not None and ahead.due_s == first.due_s:
            data.append(ahead.data)
            marks.append(ahead.mark)
        self._ahead = ahead
        return Batch(self._zero_s + first.due_s, b"".join(data), tuple(marks))

    def _send(self) -> None:
        if not self.over and self._batch is not None:
            self._connection.send(self._batch)
        if not self.over:
            self._next()

    def _end(self) -> None:
        if not self.over:
            self._connection.end(self._plan.ending, self._plan.keep_open)

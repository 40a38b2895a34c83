"""A client connection, which reads one request at a time and executes the response plan of each.

A client that closes its side counts as disconnected, even if it closes only its sending half.
"""

import json
import socket
import ssl
import struct
from collections import deque
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE
from typing import NamedTuple, Protocol

from simulator.event_loop import EventLoop
from simulator.http1 import CONTINUE_RESPONSE, InvalidRequestError, Request, RequestReader
from simulator.request_handler import PlannedResponse
from simulator.response_plans import ConnectionEnding, ResponsePlan, ScheduledWrite
from simulator.truth_log import TruthLog

_READ_SIZE = 65_536
_MAX_EARLY_BYTES = 1_000_000
_LINGER_RESET = struct.pack("ii", 1, 0)
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ConnectionHost(Protocol):
    """The server interface that a connection depends on."""

    loop: EventLoop
    log: TruthLog

    def reply(self, request: Request | InvalidRequestError) -> tuple[str, PlannedResponse]:
        """Return the request's ID and its planned response."""

    def take_slot(self, connection: "Connection") -> bool:
        """Return whether the answer may start now; if not, `start_waiting_answer` is called when it may."""

    def release_slot(self, connection: "Connection") -> None:
        """Note that the connection's answer has ended."""

    def on_closed(self, connection: "Connection") -> None: ...


class WriteBatch(NamedTuple):
    """The bytes of one socket write. `marks` has one entry for each event in `data`."""

    due_s: float
    data: bytes
    marks: tuple[str, ...]


class Connection:
    """A client connection, from accept to close."""

    def __init__(self, host: ConnectionHost, sock: socket.socket) -> None:
        self._host = host
        self._sock = sock
        self._now = host.loop.now
        self._reader = RequestReader()
        self._early = b""
        self._outbox: deque[tuple[memoryview, WriteBatch]] = deque()
        self._answer: _PlanRunner | None = None
        self._ending: tuple[ConnectionEnding, bool] | None = None
        self._closed = False
        self._writing = False
        host.loop.register(sock, self, EVENT_READ)

    def ready(self, mask: int) -> None:
        if mask & EVENT_WRITE:
            self._flush_outbox()
        if mask & EVENT_READ and not self._closed:
            self._read()

    def send(self, batch: WriteBatch) -> None:
        """Send a batch immediately, or queue it if earlier batches are still waiting to be written."""
        if self._outbox:
            self._outbox.append((memoryview(batch.data), batch))
        elif (rest := self._send_bytes(batch.data, batch)) and not self._closed:
            self._outbox.append((memoryview(batch.data)[-rest:], batch))
            self._set_writing(True)

    def end(self, ending: ConnectionEnding, keep_open: bool) -> None:
        """End the answer with its planned ending once all of its bytes are written."""
        self._ending = (ending, keep_open)
        self._flush_outbox()

    def abort(self) -> None:
        """Close the connection immediately because the server is shutting down."""
        self._log_closed("server", "shutdown")
        self._close()

    def _read(self) -> None:
        while not self._closed:
            try:
                data = self._sock.recv(_READ_SIZE)
            except _WOULD_BLOCK:
                return
            except OSError:
                data = b""
            if not data:
                self._log_closed("client", "left")
                self._close()
                return
            self._receive(data)
            if len(data) < _READ_SIZE and not isinstance(self._sock, ssl.SSLSocket):
                return  # a TLS socket may have decrypted data buffered that the selector does not report

    def _receive(self, data: bytes) -> None:
        """Parse received bytes, or buffer them while an answer is in progress."""
        arrived_s = self._now()
        self._early += data
        if self._answer is not None:
            if len(self._early) > _MAX_EARLY_BYTES:
                self._log_closed("client", "left")
                self._close()
            return
        data, self._early = self._early, b""
        try:
            request = self._reader.feed(data)
        except InvalidRequestError as error:
            self._start_answer(error, arrived_s)
            return
        if request is not None:
            self._start_answer(request, arrived_s)
        elif self._reader.take_continue():
            with suppress(OSError):  # the next read detects a disconnected client
                self._sock.send(CONTINUE_RESPONSE)

    @property
    def is_answering(self) -> bool:
        """Whether an answer is under way."""
        return self._answer is not None and not self._answer.over and not self._closed

    def _start_answer(self, request: Request | InvalidRequestError, arrived_s: float) -> None:
        request_id, reply = self._host.reply(request)
        self._host.log.log_received(request_id, arrived_s, **reply.facts)
        self._answer = _PlanRunner(self, self._host.loop, reply.plan, request_id)
        if self._host.take_slot(self):
            self._answer.start_sending(arrived_s)

    def start_waiting_answer(self) -> None:
        """Start an answer that had to wait for a slot: its schedule begins now."""
        if self._answer is not None:
            self._answer.start_sending(self._now())

    def _flush_outbox(self) -> None:
        while self._outbox:
            data, batch = self._outbox[0]
            if rest := self._send_bytes(data, batch):
                if self._outbox:
                    self._outbox[0] = (data[-rest:], batch)
                return
            self._outbox.popleft()
        self._set_writing(False)
        if self._ending is not None:
            (ending, keep_open), self._ending = self._ending, None
            self._finish_answer(ending, keep_open)

    def _send_bytes(self, data: bytes | memoryview, batch: WriteBatch) -> int:
        """Send bytes and return how many the kernel did not accept. Close the connection on an error."""
        at_s = self._now()
        try:
            rest = len(data) - self._sock.send(data)
        except _WOULD_BLOCK:
            return len(data)
        except OSError:
            self._log_closed("client", "left")
            self._close()
            return len(data)
        if not rest:
            self._log_sent(batch, at_s, self._now() - at_s)
        return rest

    def _log_sent(self, batch: WriteBatch, at_s: float, took_s: float) -> None:
        answer = self._answer
        if answer is not None:
            for mark in batch.marks:
                self._host.log.log_sent(answer.id_json, mark, at_s, batch.due_s, took_s)

    def _set_writing(self, expected: bool) -> None:
        if expected != self._writing:
            self._writing = expected
            self._host.loop.register(self._sock, self, EVENT_READ | EVENT_WRITE if expected else EVENT_READ)

    def _finish_answer(self, ending: ConnectionEnding, keep_open: bool) -> None:
        self._log_closed("server", ending)
        if ending == "complete" and keep_open:
            self._receive(b"")
            return
        if ending == "reset":
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        elif ending == "complete" and isinstance(self._sock, ssl.SSLSocket):
            with suppress(OSError):
                self._sock.unwrap()  # send close_notify without waiting for the client's
        self._close()

    def _log_closed(self, by: str, how: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.over = True
            self._host.log.log_closed(answer.request_id, self._now(), by, how)
            self._host.release_slot(self)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._outbox.clear()
            self._host.loop.unregister(self._sock)
            self._sock.close()
            self._host.on_closed(self)


class _PlanRunner:
    """A runner that executes a response plan with the event loop's timers.

    It prepares each batch right after sending the previous one.
    """

    def __init__(self, connection: Connection, loop: EventLoop, plan: ResponsePlan, request_id: str) -> None:
        self.request_id = request_id
        self.id_json = json.dumps(request_id)
        self.over = False
        self._connection = connection
        self._loop = loop
        self._plan = plan
        self._zero_s = 0.0
        self._sends = plan.sends
        self._ahead: ScheduledWrite | None = None
        self._batch: WriteBatch | None = None

    def start_sending(self, zero_s: float) -> None:
        """Begin the plan, whose times count from `zero_s`."""
        self._zero_s = zero_s
        self._ahead = next(self._sends, None)
        self._schedule_next()

    def _schedule_next(self) -> None:
        self._batch = self._next_batch()
        if self._batch is not None:
            self._loop.call_at(self._batch.due_s, self._send_batch)
        elif self._plan.ending != "hang":
            self._loop.call_at(self._zero_s + self._plan.end_s, self._end_answer)

    def _next_batch(self) -> WriteBatch | None:
        first = self._ahead
        if first is None:
            return None
        data, marks = [first.data], [first.mark]
        while (ahead := next(self._sends, None)) is not None and ahead.due_s == first.due_s:
            data.append(ahead.data)
            marks.append(ahead.mark)
        self._ahead = ahead
        return WriteBatch(self._zero_s + first.due_s, b"".join(data), tuple(marks))

    def _send_batch(self) -> None:
        if not self.over and self._batch is not None:
            self._connection.send(self._batch)
        if not self.over:
            self._schedule_next()

    def _end_answer(self) -> None:
        if not self.over:
            self._connection.end(self._plan.ending, self._plan.keep_open)

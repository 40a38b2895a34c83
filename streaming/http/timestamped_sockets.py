"""Sockets whose arrivals are stamped by the kernel, or, where it gives no stamp, in the lowest callback.

All sockets of one event loop stand in a selector of their own, which the loop watches as one file. So one pass of the
loop reads all that is ready, and it is known when each socket was last seen empty: what a read holds came after that
moment, and its last byte at the stamp. Between the two further sends may hide, whose own stamps are lost.
"""

import asyncio
import selectors
import socket
import time
from collections import deque
from typing import Literal, Protocol

from streaming.clock import monotonic
from streaming.http.kernel_timestamps import ANCDATA_SIZE, RealtimeOffset, enable_rx_timestamps, rx_timestamp_ns
from streaming.http.resolver import Resolver

TimestampSource = Literal["kernel", "callback"]

POLL_INTERVAL_S = 0.002
"""How often all sockets are looked at when nothing else wakes the loop, so that a blocked loop can be told."""

_BUFFER_BYTES = 262_144
_MAX_ROUNDS = 8
_MANY_READY = 8
_MAX_CLOCK_ERROR_S = 0.001


def _read_clocks() -> tuple[int, int, int]:
    return time.monotonic_ns(), time.time_ns(), time.monotonic_ns()


class SocketProtocol(Protocol):
    """Who is told what a socket says; neither call may raise, nor take long."""

    def data_received(self, data: bytes, at_s: float, unread_s: float) -> None:
        """Take bytes. The last came at `at_s`, the first up to `unread_s` earlier; CLOCK_MONOTONIC."""

    def connection_lost(self, error: OSError | None) -> None:
        """No more will come: the other side closed (None), or the connection broke."""


class TimestampingSelector:
    """The stamped sockets of one event loop, made while it runs; `close` closes them all.

    `worst_look_s` is the longest time between two looks at the sockets while any was open: what merges hide in.
    `kernel_stamps=False` stamps in the callback, as on a system that knows no better.
    """

    def __init__(self, *, kernel_stamps: bool = True) -> None:
        self._loop = asyncio.get_running_loop()
        self._selector = selectors.DefaultSelector()
        self._watched = self._selector.fileno()
        self.addresses = Resolver()
        self.buffer = bytearray(_BUFFER_BYTES)
        self.buffers = [memoryview(self.buffer)]
        self.looked_s = monotonic()
        self.worst_look_s = 0.0
        self._beat: asyncio.TimerHandle | None = None
        self._turns: deque[asyncio.Future[None]] = deque()
        # The kernel begins to stamp some time after the first socket asked for it: this one has, before all others.
        self._lamp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.kernel = RealtimeOffset(_read_clocks) if kernel_stamps and enable_rx_timestamps(self._lamp) else None
        self._stepped = False
        self._loop.add_reader(self._watched, self._poll_ready)

    def close(self) -> None:
        """Close everything; safe to call twice."""
        for key in list(self._selector.get_map().values() if self._selector.get_map() else ()):
            key.data.close()
        if self._beat is not None:
            self._beat.cancel()
        if self._watched >= 0:
            self._loop.remove_reader(self._watched)
            self._watched = -1
        self.addresses.close()
        self._selector.close()
        self._lamp.close()
        while self._turns:
            self._turns.popleft().cancel()

    async def wait_turn(self) -> None:
        """Wait until one may do something long, such as opening: one may in each pass of the loop, reading between."""
        mine = self._loop.create_future()
        self._turns.append(mine)
        if len(self._turns) == 1:
            self._loop.call_soon(self._grant_turn)
        await mine

    def register(self, found: "TimestampedSocket", sock: socket.socket, mask: int) -> None:
        """Have `found.ready` called from now on."""
        if sock.fileno() in self._selector.get_map():
            self._selector.modify(sock, mask, found)
            return
        if not self._selector.get_map():
            self.looked_s = monotonic()
            self._beat = self._loop.call_later(POLL_INTERVAL_S, self._on_poll_timer)
        self._selector.register(sock, mask, found)

    def unregister(self, sock: socket.socket) -> None:
        """Call back no more."""
        self._selector.unregister(sock)
        if not self._selector.get_map() and self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def to_monotonic(self, realtime_ns: int | None) -> float | None:
        """Give a kernel stamp on CLOCK_MONOTONIC; None without one, and when its clock was set just now."""
        if self.kernel is None or realtime_ns is None or self._stepped:
            return None
        return self.kernel.to_monotonic_s(realtime_ns)

    def _grant_turn(self) -> None:
        while self._turns:
            mine = self._turns[0]
            if not mine.done():
                mine.set_result(None)
                self._loop.call_soon(self._end_turn)
                return
            self._turns.popleft()

    def _end_turn(self) -> None:
        if self._turns:
            self._turns.popleft()
        if self._turns:
            self._loop.call_soon(self._grant_turn)

    def _on_poll_timer(self) -> None:
        self._beat = self._loop.call_later(POLL_INTERVAL_S, self._on_poll_timer)
        self._stepped = self.kernel is not None and self.kernel.measure()
        self._poll_ready()
        self._stepped = False

    def _poll_ready(self) -> None:
        """Read all that is ready; where that took long, again, which costs a tenth of a pass of the event loop."""
        for _ in range(_MAX_ROUNDS):
            now_s = monotonic()
            ready = self._selector.select(0)
            self.worst_look_s = max(self.worst_look_s, now_s - self.looked_s)
            for key, mask in ready:
                key.data.on_ready(mask)
            self.looked_s = now_s
            if len(ready) < _MANY_READY or not self._selector.get_map():
                return


class TimestampedSocket:
    """One connected, non-blocking TCP socket, owned by this object; its arrivals go to the sink."""

    def __init__(self, sockets: TimestampingSelector, sock: socket.socket, sink: SocketProtocol) -> None:
        self._sockets, self._sock, self._sink = sockets, sock, sink
        self._closed = False
        self._last_s = monotonic()
        self._unsent = memoryview(b"")
        self._drained: asyncio.Future[None] | None = None
        self.taken_s = 0.0
        """Read directly before the system call that took the last byte so far."""
        self.stamp_source: TimestampSource = (
            "callback" if sockets.kernel is None or not enable_rx_timestamps(sock) else "kernel"
        )
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets.register(self, sock, selectors.EVENT_READ)

    async def send(self, data: bytes) -> float:
        """Hand bytes to the kernel; give the moment directly before the call that took the last. Raises OSError."""
        self.write(data)
        if self._unsent:
            self._drained = asyncio.get_running_loop().create_future()
            try:
                await self._drained
            finally:
                self._drained = None
        return self.taken_s

    def write(self, data: bytes) -> None:
        """Hand over what the kernel takes now; the rest follows by itself. Raises OSError."""
        if self._closed:
            raise ConnectionAbortedError("closed on this side")
        if self._unsent:
            self._unsent = memoryview(bytes(self._unsent) + data)
            return
        self._unsent = memoryview(data)
        self._send_pending()
        if self._unsent:
            self._sockets.register(self, self._sock, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def close(self) -> None:
        """Close at once, sent or not; nothing is told to the sink. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._sockets.unregister(self._sock)
        self._sock.close()
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(ConnectionAbortedError("closed on this side"))

    def on_ready(self, mask: int) -> None:
        """The selector's call."""
        if mask & selectors.EVENT_READ and not self._closed:
            self._read()
        if mask & selectors.EVENT_WRITE and not self._closed:
            self._on_writable()

    def _read(self) -> None:
        sockets = self._sockets
        try:
            size, ancillary, _, _ = self._sock.recvmsg_into(sockets.buffers, ANCDATA_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._report_closed(error)
            return
        if size == 0:
            self._report_closed(None)
            return
        at_s = self._timestamp_read(rx_timestamp_ns(ancillary))
        self._sink.data_received(bytes(sockets.buffers[0][:size]), at_s, max(0.0, at_s - sockets.looked_s))

    def _timestamp_read(self, realtime_ns: int | None) -> float:
        """Give the moment of arrival; the callback's where the kernel's is missing or cannot be."""
        now_s = monotonic()
        at_s = self._sockets.to_monotonic(realtime_ns)
        if at_s is None or not self._last_s - _MAX_CLOCK_ERROR_S <= at_s <= now_s + _MAX_CLOCK_ERROR_S:
            self.stamp_source = "callback"
            at_s = now_s
        self._last_s = max(self._last_s, min(at_s, now_s))
        return self._last_s

    def _report_closed(self, error: OSError | None) -> None:
        self.close()
        self._sink.connection_lost(error)

    def _send_pending(self) -> None:
        self.taken_s = monotonic()
        try:
            sent = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        self._unsent = self._unsent[sent:]

    def _on_writable(self) -> None:
        try:
            self._send_pending()
        except OSError as error:
            if self._drained is not None and not self._drained.done():
                self._drained.set_exception(error)
            self._unsent = memoryview(b"")
        if not self._unsent:
            self._sockets.register(self, self._sock, selectors.EVENT_READ)
            if self._drained is not None and not self._drained.done():
                self._drained.set_result(None)

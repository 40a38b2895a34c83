"""Sockets whose reads have the kernel's receive timestamps, or timestamps from the lowest callback where it has none.

All sockets of one event loop are registered with a separate selector, which the loop watches as one file. One pass of
the loop therefore reads all sockets that are ready, and the time at which each socket was last empty is known: the
bytes of a read arrived after that time, and the last of them at the read's timestamp. Further sends may lie between the
two, and their timestamps are lost.
"""

import asyncio
import selectors
import socket
import time
from collections import deque
from typing import Literal, Protocol

from streaming.clock import monotonic
from streaming.http.addresses import peer_address
from streaming.http.kernel_timestamps import ANCDATA_SIZE, RealtimeOffset, enable_rx_timestamps, rx_timestamp_ns
from streaming.http.resolver import Resolver

TimestampSource = Literal["kernel", "callback"]

POLL_INTERVAL_S = 0.002
"""How often all sockets are polled when nothing else wakes the event loop, so that a blocked loop is recognized."""

_BUFFER_BYTES = 262_144
_MAX_ROUNDS = 8
_MANY_READY = 8
_MAX_CLOCK_ERROR_S = 0.001


def _read_clocks() -> tuple[int, int, int]:
    return time.monotonic_ns(), time.time_ns(), time.monotonic_ns()


class SocketProtocol(Protocol):
    """The receiver of a socket's data. Neither method may raise or block."""

    def data_received(self, data: bytes, at_s: float, unread_s: float) -> None:
        """Process bytes. The last one arrived at `at_s` on CLOCK_MONOTONIC, the first up to `unread_s` earlier."""

    def connection_lost(self, error: OSError | None) -> None:
        """Process the end of the connection: the peer closed it (None), or it failed with `error`."""


class TimestampingSelector:
    """The timestamped sockets of the running event loop; `close` closes them all.

    `max_poll_gap_s` is the longest time between two polls while any socket was open, a bound on the time in which reads
    may have been merged. `kernel_timestamps=False` takes the timestamps in the callback, as on a system without kernel
    timestamps.
    """

    def __init__(self, *, kernel_timestamps: bool = True, resolver: Resolver | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._selector = selectors.DefaultSelector()
        self._watched = self._selector.fileno()
        self.addresses = resolver or Resolver()
        self.buffer = bytearray(_BUFFER_BYTES)
        self.buffers = [memoryview(self.buffer)]
        self.polled_s = monotonic()
        self.max_poll_gap_s = 0.0
        self._poll_timer: asyncio.TimerHandle | None = None
        self._turns: deque[asyncio.Future[None]] = deque()
        # The kernel starts to take timestamps some time after the first socket enables them. This socket does so early.
        self._timestamping_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.kernel = (
            RealtimeOffset(_read_clocks)
            if kernel_timestamps and enable_rx_timestamps(self._timestamping_socket)
            else None
        )
        self._stepped = False
        self._loop.add_reader(self._watched, self._poll_ready)

    def close(self) -> None:
        """Close all sockets and the selector. Safe to call twice."""
        for key in list(self._selector.get_map().values() if self._selector.get_map() else ()):
            key.data.close()
        if self._poll_timer is not None:
            self._poll_timer.cancel()
        if self._watched >= 0:
            self._loop.remove_reader(self._watched)
            self._watched = -1
        self.addresses.close()
        self._selector.close()
        self._timestamping_socket.close()
        while self._turns:
            self._turns.popleft().cancel()

    async def wait_turn(self) -> None:
        """Wait for permission to do something slow, such as opening a connection.

        Each pass of the event loop permits one caller, so that the sockets are read in between.
        """
        turn = self._loop.create_future()
        self._turns.append(turn)
        if len(self._turns) == 1:
            self._loop.call_soon(self._grant_turn)
        await turn

    def register(self, timestamped_socket: "TimestampedSocket", sock: socket.socket, mask: int) -> None:
        """Call `found.on_ready` from now on when `sock` is ready for `mask`."""
        if sock.fileno() in self._selector.get_map():
            self._selector.modify(sock, mask, timestamped_socket)
            return
        if not self._selector.get_map():
            self.polled_s = monotonic()
            self._poll_timer = self._loop.call_later(POLL_INTERVAL_S, self._on_poll_timer)
        self._selector.register(sock, mask, timestamped_socket)

    def unregister(self, sock: socket.socket) -> None:
        """Stop calling `on_ready` for this socket."""
        self._selector.unregister(sock)
        if not self._selector.get_map() and self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None

    def to_monotonic(self, realtime_ns: int | None) -> float | None:
        """Return a kernel timestamp in seconds on CLOCK_MONOTONIC; None without one, or if its clock was just set."""
        if self.kernel is None or realtime_ns is None or self._stepped:
            return None
        return self.kernel.to_monotonic_s(realtime_ns)

    def _grant_turn(self) -> None:
        while self._turns:
            turn = self._turns[0]
            if not turn.done():
                turn.set_result(None)
                self._loop.call_soon(self._end_turn)
                return
            self._turns.popleft()

    def _end_turn(self) -> None:
        if self._turns:
            self._turns.popleft()
        if self._turns:
            self._loop.call_soon(self._grant_turn)

    def _on_poll_timer(self) -> None:
        self._poll_timer = self._loop.call_later(POLL_INTERVAL_S, self._on_poll_timer)
        self._stepped = self.kernel is not None and self.kernel.measure()
        self._poll_ready()
        self._stepped = False

    def _poll_ready(self) -> None:
        """Read all sockets that are ready, and poll again if there were many.

        Polling again costs a tenth of a pass of the event loop.
        """
        for _ in range(_MAX_ROUNDS):
            now_s = monotonic()
            ready = self._selector.select(0)
            self.max_poll_gap_s = max(self.max_poll_gap_s, now_s - self.polled_s)
            for key, mask in ready:
                key.data.on_ready(mask)
            self.polled_s = now_s
            if len(ready) < _MANY_READY or not self._selector.get_map():
                return


class TimestampedSocket:
    """One connected, non-blocking TCP socket, owned by this object; the sink receives its data."""

    def __init__(self, sockets: TimestampingSelector, sock: socket.socket, sink: SocketProtocol) -> None:
        self._sockets, self._sock, self._sink = sockets, sock, sink
        self._closed = False
        self._last_s = monotonic()
        self._unsent = memoryview(b"")
        self._drained: asyncio.Future[None] | None = None
        self.taken_s = 0.0
        """The timestamp directly before the system call that took the last byte sent so far."""
        self.stamp_source: TimestampSource = (
            "callback" if sockets.kernel is None or not enable_rx_timestamps(sock) else "kernel"
        )
        self.peer_address = peer_address(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets.register(self, sock, selectors.EVENT_READ)

    async def send(self, data: bytes) -> float:
        """Pass bytes to the kernel and return the timestamp directly before the system call that took the last one.

        Raises OSError.
        """
        self.write(data)
        if self._unsent:
            self._drained = asyncio.get_running_loop().create_future()
            try:
                await self._drained
            finally:
                self._drained = None
        return self.taken_s

    def write(self, data: bytes) -> None:
        """Pass the kernel as many bytes as it takes now; the rest is sent in the background. Raises OSError."""
        if self._closed:
            raise ConnectionAbortedError("connection: closed by this process")
        if self._unsent:
            self._unsent = memoryview(bytes(self._unsent) + data)
            return
        self._unsent = memoryview(data)
        self._send_pending()
        if self._unsent:
            self._sockets.register(self, self._sock, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def close(self) -> None:
        """Close at once and discard unsent bytes; the sink is not called. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._sockets.unregister(self._sock)
        self._sock.close()
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(ConnectionAbortedError("connection: closed by this process"))

    def on_ready(self, mask: int) -> None:
        """Read and write according to the selector's event mask."""
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
        self._sink.data_received(bytes(sockets.buffers[0][:size]), at_s, max(0.0, at_s - sockets.polled_s))

    def _timestamp_read(self, realtime_ns: int | None) -> float:
        """Return the arrival timestamp: the kernel's, or the callback's if the kernel's is missing or implausible."""
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

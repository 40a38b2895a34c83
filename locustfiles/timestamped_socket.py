"""A gevent socket with the kernel's receive timestamps, so that greenlet scheduling does not add to any latency.

All timestamps are seconds on CLOCK_MONOTONIC, as in the simulator's log.
"""

import atexit
import socket
import ssl
import time
from functools import cache
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult

from streaming.http.addresses import peer_address
from streaming.http.blocking_connector import BlockingConnector
from streaming.http.kernel_timestamps import ANCDATA_SIZE, RealtimeOffset, enable_rx_timestamps, rx_timestamp_ns
from streaming.limits import LimitExceededError, size_text

_BUFFER_BYTES = 262_144
_MAX_CLOCK_ERROR_S = 0.001


_connector = BlockingConnector()


def _read_clocks() -> tuple[int, int, int]:
    return time.monotonic_ns(), time.time_ns(), time.monotonic_ns()


@cache
def _enable_kernel_timestamps() -> tuple[RealtimeOffset, socket.socket] | None:
    """Enable kernel timestamps once per process; return None where the system does not support them.

    The returned socket must stay open: the kernel takes timestamps while any socket has them enabled.
    """
    enabling_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if enable_rx_timestamps(enabling_socket):
        atexit.register(enabling_socket.close)
        return RealtimeOffset(_read_clocks), enabling_socket
    enabling_socket.close()
    return None


def _wrap_tls(sock: socket.socket, host: str) -> ssl.SSLSocket:
    return ssl.create_default_context().wrap_socket(sock, server_hostname=host)


class GeventTimestampedSocket:
    """One TCP connection, with TLS for `https` and `wss`.

    `at_s` is the timestamp of the last byte read. `sent_s` is the timestamp directly before the call that took the last
    byte sent. `stamp_source` becomes `callback` when any timestamp does not come from the kernel, which is always the
    case with TLS. Raises OSError, and TimeoutError when nothing arrives for `idle_s`.
    """

    def __init__(
        self,
        url: SplitResult,
        *,
        idle_s: float,
        receive_bytes: int | None = None,
        connector: BlockingConnector | None = None,
    ) -> None:
        self.idle_s = idle_s
        self._allowed = self._allowed_left = 0
        secure = url.scheme in ("https", "wss")
        kernel = None if secure else _enable_kernel_timestamps()
        begun_s = time.monotonic()
        address = (url.hostname or "", url.port or (443 if secure else 80))
        connection = (connector or _connector).connect(*address, idle_s)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_bytes is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            stamped = kernel is not None and enable_rx_timestamps(connection)
            self._sock = _wrap_tls(connection, address[0]) if secure else connection
        except OSError:
            connection.close()
            raise
        self._time = kernel[0] if kernel is not None and stamped else None
        self.stamp_source = "callback" if self._time is None else "kernel"
        self.sent_s = self.at_s = time.monotonic()
        self.connect_s = self.sent_s - begun_s
        self.peer_address = peer_address(connection)

    def sendall(self, data: bytes) -> None:
        """Pass all bytes to the kernel."""
        left = memoryview(data)
        while left:
            self.sent_s = time.monotonic()
            left = left[self._sock.send(left) :]

    def send(self, data: bytes) -> int:
        """Pass all bytes to the kernel and return their number, as the WebSocket library expects."""
        self.sendall(data)
        return len(data)

    def allow(self, size: int) -> None:
        """Allow at most `size` bytes to be read until the next call. The WebSocket library itself has no limit."""
        self._allowed = self._allowed_left = size

    def recv(self, size: int = _BUFFER_BYTES) -> bytes:
        """Return the next bytes and set `at_s`; empty when the peer has closed. Raises LimitExceededError."""
        if self._allowed:
            if self._allowed_left <= 0:
                raise LimitExceededError(f"message: larger than {size_text(self._allowed)}")
            size = min(size, self._allowed_left)
        data = self._receive(size)
        self._allowed_left -= len(data)
        return data

    def _receive(self, size: int) -> bytes:
        if self._time is None:
            data = self._sock.recv(size)
            self.at_s = time.monotonic()
            return data
        data, ancillary, _, _ = self._sock.recvmsg(size, ANCDATA_SIZE)
        if data:
            self._timestamp_read(self._time, rx_timestamp_ns(ancillary))
        return data

    def _timestamp_read(self, kernel_time: RealtimeOffset, realtime_ns: int | None) -> None:
        """Set `at_s` to the kernel's timestamp, or to now if that is missing or implausible after a clock step."""
        now_s = time.monotonic()
        kernel_time.measure()
        at_s = None if realtime_ns is None else kernel_time.to_monotonic_s(realtime_ns)
        if at_s is None or not self.at_s - _MAX_CLOCK_ERROR_S <= at_s <= now_s + _MAX_CLOCK_ERROR_S:
            self.stamp_source = "callback"
            at_s = now_s
        self.at_s = max(self.at_s, min(at_s, now_s))

    def fileno(self) -> int:
        """Return the socket's file descriptor, which the WebSocket library needs."""
        return self._sock.fileno()

    def settimeout(self, timeout_s: float | None) -> None:
        """Set the timeout of a read or a write in seconds."""
        self._sock.settimeout(timeout_s)

    def gettimeout(self) -> float | None:
        """Return the timeout of a read or a write in seconds."""
        return self._sock.gettimeout()

    def shutdown(self, how: int) -> None:
        """Shut down one direction; the WebSocket library calls it before `close`."""
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close at once. Safe to call twice."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

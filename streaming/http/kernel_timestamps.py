"""The kernel's receive stamps: asked for by SO_TIMESTAMPING, read from a message's ancillary data, put on our clock.

The kernel stamps with CLOCK_REALTIME, which can be set; CLOCK_MONOTONIC cannot. Their difference is constant but for
such steps, so that of many measurements of it the narrowest is kept, until one cannot be true together with it.
Source: Documentation/networking/timestamping.rst of the Linux kernel.
"""

import socket
import struct
import sys
from collections.abc import Callable, Sequence

ClockReader = Callable[[], tuple[int, int, int]]
"""CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_MONOTONIC, read one after the other, in nanoseconds."""

# The numbers of Linux on all processors that people run this on; Python 3.11 has no names for them.
_SO_TIMESTAMPING = 37
_RX_SOFTWARE = 1 << 3
_REPORT_SOFTWARE = 1 << 4
_TIMESTAMP_STRUCT = struct.Struct("@ll")

ANCDATA_SIZE = 128
"""Room for the one message that is asked for: three times, of which the first is the software stamp."""

_MAX_TRIES = 3
_GOOD_SPREAD_NS = 2_000
_SLACK_NS = 1_000


def enable_rx_timestamps(sock: socket.socket) -> bool:
    """Have arrivals on this socket stamped by the kernel; False where it does not know how."""
    if sys.platform != "linux":
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _REPORT_SOFTWARE)
    except OSError:
        return False
    return True


def rx_timestamp_ns(ancillary: Sequence[tuple[int, int, bytes]]) -> int | None:
    """Give the stamp of a message's last bytes in ns on CLOCK_REALTIME; None when the kernel gave none."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPING and len(data) >= _TIMESTAMP_STRUCT.size:
            seconds, nanoseconds = _TIMESTAMP_STRUCT.unpack_from(data)
            return seconds * 1_000_000_000 + nanoseconds or None
    return None


class RealtimeOffset:
    """Turns CLOCK_REALTIME into CLOCK_MONOTONIC; `measure` often, since a stamp from before a step cannot be told."""

    def __init__(self, read_clocks: ClockReader) -> None:
        self._read_clocks = read_clocks
        self._offset_ns, self._spread_ns = self._best_sample()

    def measure(self) -> bool:
        """Measure the difference again; True when CLOCK_REALTIME was set since the last time."""
        offset_ns, spread_ns = self._best_sample()
        stepped = abs(offset_ns - self._offset_ns) > (spread_ns + self._spread_ns) // 2 + _SLACK_NS
        if stepped or spread_ns < self._spread_ns:
            self._offset_ns, self._spread_ns = offset_ns, spread_ns
        return stepped

    def to_monotonic_s(self, realtime_ns: int) -> float:
        """Give a moment of CLOCK_REALTIME in seconds on CLOCK_MONOTONIC."""
        return (realtime_ns - self._offset_ns) / 1e9

    def _best_sample(self) -> tuple[int, int]:
        """Give the difference and how wide apart the two readings were that it lies between."""
        best = self._sample_once()
        for _ in range(_MAX_TRIES - 1):
            if best[1] <= _GOOD_SPREAD_NS:
                break
            best = min(best, self._sample_once(), key=lambda sample: sample[1])
        return best

    def _sample_once(self) -> tuple[int, int]:
        before_ns, real_ns, after_ns = self._read_clocks()
        return real_ns - (before_ns + after_ns) // 2, after_ns - before_ns

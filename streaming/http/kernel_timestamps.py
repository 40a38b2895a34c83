"""Receive timestamps from the kernel: enabled by SO_TIMESTAMPING, read from ancillary data, converted to our clock.

The kernel's timestamps are on CLOCK_REALTIME, which can be set, unlike CLOCK_MONOTONIC. The difference between the two
clocks is constant except for such steps. Of many measurements the most precise one is kept, until a new measurement
contradicts it. Source: Documentation/networking/timestamping.rst of the Linux kernel.
"""

import socket
import struct
import sys
from collections.abc import Callable, Sequence

ClockReader = Callable[[], tuple[int, int, int]]
"""Returns CLOCK_MONOTONIC, CLOCK_REALTIME and CLOCK_MONOTONIC, read one after the other, in nanoseconds."""

# Linux uses these values on all supported processors. Python 3.11 has no names for them.
_SO_TIMESTAMPING = 37
_RX_SOFTWARE = 1 << 3
_REPORT_SOFTWARE = 1 << 4
_TIMESTAMP_STRUCT = struct.Struct("@ll")

ANCDATA_SIZE = 128
"""Buffer size for the one control message, which has three timestamps; the first is the software timestamp."""

_MAX_TRIES = 3
_GOOD_SPREAD_NS = 2_000
_SLACK_NS = 1_000


def enable_rx_timestamps(sock: socket.socket) -> bool:
    """Enable kernel receive timestamps on this socket; return False where the system does not support them."""
    if sys.platform != "linux":
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _REPORT_SOFTWARE)
    except OSError:
        return False
    return True


def rx_timestamp_ns(ancillary: Sequence[tuple[int, int, bytes]]) -> int | None:
    """Return the timestamp of a read's last byte in ns on CLOCK_REALTIME, or None if the kernel sent none."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPING and len(data) >= _TIMESTAMP_STRUCT.size:
            seconds, nanoseconds = _TIMESTAMP_STRUCT.unpack_from(data)
            return seconds * 1_000_000_000 + nanoseconds or None
    return None


class RealtimeOffset:
    """The measured offset between CLOCK_REALTIME and CLOCK_MONOTONIC, for the conversion of timestamps.

    Call `measure` often: a timestamp from before a clock step cannot be recognized.
    """

    def __init__(self, read_clocks: ClockReader) -> None:
        self._read_clocks = read_clocks
        self._offset_ns, self._spread_ns = self._best_sample()

    def measure(self) -> bool:
        """Measure the offset again and return whether CLOCK_REALTIME was set since the last measurement."""
        offset_ns, spread_ns = self._best_sample()
        stepped = abs(offset_ns - self._offset_ns) > (spread_ns + self._spread_ns) // 2 + _SLACK_NS
        if stepped or spread_ns < self._spread_ns:
            self._offset_ns, self._spread_ns = offset_ns, spread_ns
        return stepped

    def to_monotonic_s(self, realtime_ns: int) -> float:
        """Convert a CLOCK_REALTIME timestamp in nanoseconds to seconds on CLOCK_MONOTONIC."""
        return (realtime_ns - self._offset_ns) / 1e9

    def _best_sample(self) -> tuple[int, int]:
        """Return the best offset of several samples and its spread, the time between its two monotonic readings."""
        best = self._sample_once()
        for _ in range(_MAX_TRIES - 1):
            if best[1] <= _GOOD_SPREAD_NS:
                break
            best = min(best, self._sample_once(), key=lambda sample: sample[1])
        return best

    def _sample_once(self) -> tuple[int, int]:
        before_ns, real_ns, after_ns = self._read_clocks()
        return real_ns - (before_ns + after_ns) // 2, after_ns - before_ns

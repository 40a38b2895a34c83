import socket
import struct
from collections.abc import Callable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from streaming.http.kernel_timestamps import RealtimeOffset, rx_timestamp_ns

OFFSET_NS = 1_700_000_000_000_000_000


class FakeClocks:
    """Two fake clocks. `took_ns` are the durations of the readings in order; the last one repeats."""

    def __init__(self, *took_ns: int) -> None:
        self.now_ns = 5_000_000_000
        self.offset_ns = OFFSET_NS
        self._took: Iterator[int] = iter(took_ns)
        self._last = took_ns[-1]

    def read(self) -> tuple[int, int, int]:
        took_ns = next(self._took, self._last)
        before_ns = self.now_ns
        self.now_ns += took_ns
        return before_ns, before_ns + self.offset_ns, self.now_ns


def make_converter(clocks: FakeClocks) -> tuple[RealtimeOffset, Callable[[int], float]]:
    """Return a converter, and a function that returns its error in seconds for a time on the monotonic clock."""
    kernel = RealtimeOffset(clocks.read)
    return kernel, lambda at_ns: kernel.to_monotonic_s(at_ns + clocks.offset_ns) - at_ns / 1e9


def test_timestamp_is_converted_to_monotonic_clock() -> None:
    _, error_s = make_converter(FakeClocks(400))
    assert abs(error_s(6_000_000_000)) <= 0.5e-6


def test_interrupted_clock_reading_is_discarded() -> None:
    _, error_s = make_converter(FakeClocks(9_000_000, 400))
    assert abs(error_s(6_000_000_000)) <= 0.5e-6


def test_narrowest_offset_measurement_is_kept() -> None:
    clocks = FakeClocks(90_000, 80_000, 70_000, 300, 60_000, 60_000, 60_000)
    kernel, error_s = make_converter(clocks)
    assert abs(error_s(6_000_000_000)) > 10e-6
    assert not kernel.measure()
    assert abs(error_s(6_000_000_000)) <= 0.2e-6
    assert not kernel.measure()
    assert abs(error_s(6_000_000_000)) <= 0.2e-6


@given(step_ns=st.integers(5_000, 10**13) | st.integers(-(10**13), -5_000))
def test_clock_step_is_detected_and_followed(step_ns: int) -> None:
    clocks = FakeClocks(400)
    kernel, error_s = make_converter(clocks)
    assert not kernel.measure()
    clocks.offset_ns += step_ns
    assert kernel.measure()
    assert abs(error_s(6_000_000_000)) <= 0.5e-6
    assert not kernel.measure()


def test_software_timestamp_is_read_from_ancillary_data() -> None:
    three_times = struct.pack("@llllll", 12, 345, 0, 0, 0, 0)
    assert rx_timestamp_ns([(socket.SOL_SOCKET, 1, b"other"), (socket.SOL_SOCKET, 37, three_times)]) == 12_000_000_345


def test_missing_timestamp_is_none() -> None:
    assert rx_timestamp_ns([]) is None
    assert rx_timestamp_ns([(socket.SOL_SOCKET, 37, bytes(48))]) is None
    assert rx_timestamp_ns([(socket.IPPROTO_TCP, 37, struct.pack("@ll", 1, 2))]) is None

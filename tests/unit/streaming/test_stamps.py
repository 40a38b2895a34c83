import socket
import struct
from collections.abc import Callable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from streaming.stamps import KernelTime, kernel_stamp_ns

OFFSET_NS = 1_700_000_000_000_000_000


class Clocks:
    """Two clocks; `took_ns` is how long each reading takes, from the front of the list, the last for ever."""

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


def made(clocks: Clocks) -> tuple[KernelTime, Callable[[int], float]]:
    """Give a converter, and by how many seconds it is wrong about a moment of the monotonic clock."""
    kernel = KernelTime(clocks.read)
    return kernel, lambda at_ns: kernel.monotonic_s(at_ns + clocks.offset_ns) - at_ns / 1e9


def test_a_stamp_comes_out_on_the_monotonic_clock() -> None:
    _, error_s = made(Clocks(400))
    assert abs(error_s(6_000_000_000)) <= 0.5e-6


def test_a_reading_that_was_interrupted_is_not_believed() -> None:
    _, error_s = made(Clocks(9_000_000, 400))
    assert abs(error_s(6_000_000_000)) <= 0.5e-6


def test_the_narrowest_measurement_is_kept() -> None:
    clocks = Clocks(90_000, 80_000, 70_000, 300, 60_000, 60_000, 60_000)
    kernel, error_s = made(clocks)
    assert abs(error_s(6_000_000_000)) > 10e-6
    assert not kernel.measure()
    assert abs(error_s(6_000_000_000)) <= 0.2e-6
    assert not kernel.measure()
    assert abs(error_s(6_000_000_000)) <= 0.2e-6


@given(step_ns=st.integers(5_000, 10**13) | st.integers(-(10**13), -5_000))
def test_a_clock_that_was_set_is_noticed_and_followed(step_ns: int) -> None:
    clocks = Clocks(400)
    kernel, error_s = made(clocks)
    assert not kernel.measure()
    clocks.offset_ns += step_ns
    assert kernel.measure()
    assert abs(error_s(6_000_000_000)) <= 0.5e-6
    assert not kernel.measure()


def test_the_software_stamp_is_read_from_the_kernels_message() -> None:
    three_times = struct.pack("@llllll", 12, 345, 0, 0, 0, 0)
    assert kernel_stamp_ns([(socket.SOL_SOCKET, 1, b"other"), (socket.SOL_SOCKET, 37, three_times)]) == 12_000_000_345


def test_no_stamp_is_none_and_never_zero() -> None:
    assert kernel_stamp_ns([]) is None
    assert kernel_stamp_ns([(socket.SOL_SOCKET, 37, bytes(48))]) is None
    assert kernel_stamp_ns([(socket.IPPROTO_TCP, 37, struct.pack("@ll", 1, 2))]) is None

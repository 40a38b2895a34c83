"""The event loop whose timers are not rounded up to the next millisecond."""

import asyncio
import selectors
import socket

import pytest

from streaming.clock import monotonic
from streaming.precise_loop import run_on_precise_loop

SHORT_S = 0.0002
MANY = 200


def test_short_wait_is_never_early_and_not_rounded_up_to_a_millisecond() -> None:
    async def wait() -> float:
        from_s = monotonic()
        await asyncio.sleep(SHORT_S)
        return monotonic() - from_s

    async def wait_often() -> list[float]:
        return [await wait() for _ in range(MANY)]

    waits_s = run_on_precise_loop(wait_often())
    assert min(waits_s) >= SHORT_S
    if hasattr(selectors, "EpollSelector"):
        assert min(waits_s) < 0.001, "one of many is not delayed by other processes"


@pytest.mark.parametrize("timeout_s", [None, 60.0])
def test_data_of_a_socket_ends_the_wait(timeout_s: float | None) -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            loop.call_soon(theirs.send, b"x")
            async with asyncio.timeout(timeout_s):
                return await loop.sock_recv(ours, 1)

    assert run_on_precise_loop(main()) == b"x"

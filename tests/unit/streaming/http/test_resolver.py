"""The look-up of a host: an IP address needs none."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from streaming.http.resolver import look_up


class RejectingExecutor(ThreadPoolExecutor):
    """An executor that takes no work."""

    def submit(self, *_: object, **__: object) -> Any:
        raise OSError("no thread")


def look_up_without_threads(host: str) -> list[tuple[socket.AddressFamily, str]]:
    async def look_up_in_loop() -> list[tuple[socket.AddressFamily, str]]:
        asyncio.get_running_loop().set_default_executor(RejectingExecutor())
        return [(row[0], row[4][0]) for row in await look_up(host, 80)]

    return asyncio.run(look_up_in_loop())


@pytest.mark.parametrize(
    ("address", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6), ("fe80::1", socket.AF_INET6)]
)
def test_ip_address_is_resolved_without_another_thread(address: str, family: socket.AddressFamily) -> None:
    assert look_up_without_threads(address) == [(family, address)]


def test_name_is_looked_up_in_another_thread_because_the_system_may_wait_for_it() -> None:
    with pytest.raises(OSError, match="no thread"):
        look_up_without_threads("name.example")

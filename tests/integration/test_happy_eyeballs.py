"""A host whose first address is silent or refuses is reached at its next one, over every kind of connection.

A silent address never answers: whoever waits for it runs into the connect timeout, so that a connection at all shows
that the next address was tried meanwhile.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
from websockets.asyncio.server import serve

from clients.reconnecting import connect_websocket
from streaming.http.addresses import AddressInfo, alternate_families
from streaming.http.blocking_connector import BlockingConnector, connect_first_blocking
from streaming.http.connection import Origin
from streaming.http.connection_pool import ConnectionPool
from streaming.http.happy_eyeballs import connect_first
from streaming.http.resolver import Lookup, Resolver
from streaming.http.timed_exchange import ExchangeTimeouts, TimedExchange
from streaming.http.timestamped_sockets import TimestampingSelector
from tests.asgi_server import wait_until
from tests.integration.raw_server import WAIT_TIMEOUT_S, RawConnection, run_raw_server
from tests.integration.silent_address import address_info, lookup_of, open_silent_address

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def send_hello(connection: RawConnection) -> None:
    connection.send_response("text/plain", b"hello")


def refusing_address() -> AddressInfo:
    """Return an address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return address_info(*unused.getsockname())


async def read_over_pool(lookup: Lookup) -> tuple[bytes, str | None]:
    async with aclosing(ConnectionPool(resolver=Resolver(lookup, cached=False))) as pool:
        response = await pool.send(Origin("two.example", 80), REQUEST, WAIT_TIMEOUT_S)
        return await response.more(), "127.0.0.1"


async def read_over_timed_exchange(lookup: Lookup) -> tuple[bytes, str | None]:
    sockets = TimestampingSelector(resolver=Resolver(lookup))
    try:
        limits = ExchangeTimeouts(connect_s=WAIT_TIMEOUT_S)
        async with TimedExchange(sockets, Origin("two.example", 80), REQUEST, limits) as exchange:
            await exchange.wait_closed()
        return b"".join(read.data for read in exchange.reads), exchange.peer_address
    finally:
        sockets.close()


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "refusing"])
@pytest.mark.parametrize("read", [read_over_pool, read_over_timed_exchange])
def test_host_with_unusable_first_address_answers_at_its_second(
    read: Callable[[Lookup], Awaitable[tuple[bytes, str | None]]], is_silent: bool
) -> None:
    async def main() -> tuple[bytes, str | None]:
        async with run_raw_server(send_hello) as server:
            good = address_info("127.0.0.1", server.port)
            with open_silent_address() as silent:
                return await read(lookup_of(silent if is_silent else refusing_address(), good))

    assert asyncio.run(main()) == (b"hello", "127.0.0.1")


def test_websocket_client_reaches_second_address_of_host_with_silent_first_one() -> None:
    async def main() -> object:
        async with serve(lambda connection: connection.send("hello"), "127.0.0.1", 0) as server:
            good = address_info(*server.sockets[0].getsockname())
            with open_silent_address() as silent:
                resolver = Resolver(lookup_of(silent, good), cached=False)
                connection = await connect_websocket("ws://two.example/", {}, resolver)
                return await connection.recv(), connection.remote_address[0]

    assert asyncio.run(main()) == ("hello", "127.0.0.1")


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "refusing"])
def test_blocking_connector_reaches_second_address_and_begins_with_it_next_time(is_silent: bool) -> None:
    with open_silent_address() as silent, socket.create_server(("127.0.0.1", 0)) as server:
        found = [silent if is_silent else refusing_address(), address_info(*server.getsockname())]
        connector = BlockingConnector(lambda host, port: list(found))
        with connector.connect("two.example", 80, WAIT_TIMEOUT_S) as sock:
            assert (sock.getpeername(), sock.gettimeout()) == (server.getsockname(), WAIT_TIMEOUT_S)
        found[:] = [found[0], refusing_address(), found[1]]
        with connector.connect("two.example", 80, WAIT_TIMEOUT_S) as sock:
            assert sock.getpeername() == server.getsockname()


@pytest.mark.parametrize("cached", [True, False])
def test_address_that_accepted_is_first_of_the_next_resolution(cached: bool) -> None:
    async def main() -> None:
        with open_silent_address() as silent, socket.create_server(("127.0.0.1", 0)) as server:
            good = address_info(*server.getsockname())
            resolver = Resolver(lookup_of(silent, good), cached=cached, attempt_delay_s=0.01)
            assert await resolver.resolve("two.example", 80) == [silent, good]
            (await resolver.connect("two.example", 80)).close()
            assert await resolver.resolve("two.example", 80) == [good, silent]
            assert await resolver.resolve("other.example", 80) == [silent, good]

    asyncio.run(main())


def test_slow_first_address_wins_if_it_answers_before_the_second() -> None:
    """The attempts that came first are not given up when the next one begins."""

    async def main() -> object:
        with open_silent_address() as silent, socket.create_server(("127.0.0.1", 0)) as server:
            good = address_info(*server.getsockname())
            sock, row = await connect_first([good, silent], attempt_delay_s=0)
            sock.close()
            return row == good

    assert asyncio.run(main())


@pytest.mark.parametrize("count", [1, 3])
def test_host_whose_addresses_all_refuse_raises_connection_refused(count: int) -> None:
    addresses = [refusing_address() for _ in range(count)]
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(connect_first(addresses))
    with pytest.raises(ConnectionRefusedError):
        connect_first_blocking(addresses, WAIT_TIMEOUT_S)


def test_host_without_address_raises_error() -> None:
    with pytest.raises(OSError, match="no address found"):
        asyncio.run(connect_first([]))
    with pytest.raises(OSError, match="no address found"):
        connect_first_blocking([], WAIT_TIMEOUT_S)


def test_blocking_connection_to_silent_addresses_times_out() -> None:
    with open_silent_address() as silent, pytest.raises(TimeoutError, match=r"no connection within 0\.05 s"):
        connect_first_blocking([silent, silent], 0.05, attempt_delay_s=0.01)


def test_cancelled_connect_closes_its_sockets() -> None:
    async def main() -> None:
        with open_silent_address() as silent:
            connecting = asyncio.create_task(connect_first([silent, silent], attempt_delay_s=0))
            await wait_until(lambda: len(asyncio.all_tasks()) == 4)  # this one, the one above, and two attempts
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_families_alternate_beginning_with_the_first() -> None:
    six = [address_info(f"::{number}", 1) for number in range(3)]
    four = [address_info(f"10.0.0.{number}", 1) for number in range(2)]
    assert alternate_families([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert alternate_families([*four, *six]) == [four[0], six[0], four[1], six[1], six[2]]

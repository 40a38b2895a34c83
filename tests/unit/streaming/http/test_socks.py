"""The client's side of SOCKS5, against the bytes that a proxy answers."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from streaming.http.socks import SocksError, SocksProxy, open_socks_tunnel, open_socks_tunnel_on

ACCEPTED = b"\x05\x00\x00\x01" + bytes(6)


def open_tunnel(proxy: SocksProxy, host: str, replies: bytes) -> bytes:
    """Ask for a tunnel to port 443 of a host, and return what was sent; all replies must have been read."""
    sent = bytearray()
    left = bytearray(replies)

    async def exchange(data: bytes, size: int) -> bytes:
        sent.extend(data)
        found = bytes(left[:size])
        assert len(found) == size, "more was read than the proxy had answered"
        del left[:size]
        return found

    asyncio.run(open_socks_tunnel(exchange, proxy, host, 443))
    assert not left
    return bytes(sent)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("api.example", b"\x03\x0bapi.example"),
        ("b\u00fccher.example", b"\x03\x15xn--bcher-kva.example"),
        ("192.0.2.7", b"\x01\xc0\x00\x02\x07"),
        ("2001:db8::7", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x07"),
    ],
)
def test_tunnel_is_asked_for_by_name_or_address(host: str, address: bytes) -> None:
    sent = open_tunnel(SocksProxy("proxy", 1080), host, b"\x05\x00" + ACCEPTED)
    assert sent == b"\x05\x01\x00" + b"\x05\x01\x00" + address + b"\x01\xbb"


@pytest.mark.parametrize("bound", [b"\x01" + bytes(4), b"\x04" + bytes(16), b"\x03\x04here"])
def test_bound_address_of_every_kind_is_read_to_its_end(bound: bytes) -> None:
    open_tunnel(SocksProxy("proxy", 1080), "a.example", b"\x05\x00" + b"\x05\x00\x00" + bound + b"\x04\x38")


def test_user_and_password_are_sent_where_the_proxy_wants_them() -> None:
    proxy = SocksProxy("proxy", 1080, "me", "p\u00e4ss")
    sent = open_tunnel(proxy, "192.0.2.7", b"\x05\x02" + b"\x01\x00" + ACCEPTED)
    assert sent.startswith(b"\x05\x02\x00\x02" + b"\x01\x02me\x05p\xc3\xa4ss" + b"\x05\x01\x00\x01")
    assert "p\u00e4ss" not in repr(proxy)


def test_tunnel_is_opened_on_a_connected_socket_and_nothing_behind_it_is_read() -> None:
    async def main() -> tuple[bytes, bytes]:
        ours, proxy = socket.socketpair()
        with ours, proxy:
            ours.setblocking(False)
            proxy.sendall(b"\x05\x00" + ACCEPTED + b"after")
            await open_socks_tunnel_on(ours, SocksProxy("proxy", 1080), "192.0.2.7", 443)
            return proxy.recv(64), ours.recv(64)

    assert asyncio.run(main()) == (b"\x05\x01\x00" + b"\x05\x01\x00\x01\xc0\x00\x02\x07\x01\xbb", b"after")


def test_proxy_that_closes_the_connection_is_an_error_in_words() -> None:
    async def main() -> None:
        ours, proxy = socket.socketpair()
        with ours:
            ours.setblocking(False)
            proxy.sendall(b"\x05")
            proxy.shutdown(socket.SHUT_WR)
            with proxy:
                await open_socks_tunnel_on(ours, SocksProxy("proxy", 1080), "192.0.2.7", 443)

    with pytest.raises(SocksError, match="closed the connection"):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("socks5://p.example", SocksProxy("p.example", 1080)),
        ("SOCKS5h://me:p%C3%A4ss@[::1]:9050", SocksProxy("::1", 9050, "me", "p\u00e4ss")),
        ("http://p.example:3128", None),
    ],
)
def test_proxy_is_read_from_its_url(url: str, proxy: SocksProxy | None) -> None:
    assert SocksProxy.from_url(url) == proxy


@pytest.mark.parametrize(
    ("user", "host", "replies", "words"),
    [
        (None, "a.example", [b"HT"], "not SOCKS5"),
        (None, "a.example", [b"\x05\xff"], "wants another authentication"),
        (None, "a.example", [b"\x05\x02"], "wants another authentication"),
        ("me", "a.example", [b"\x05\x02", b"\x01\x01"], "rejected the user name"),
        (None, "a.example", [b"\x05\x00", b"\x05\x05\x00\x01"], "rejected .connection refused"),
        (None, "a.example", [b"\x05\x00", b"\x05\x63\x00\x01"], "rejected .reply 99"),
        (None, "a" * 70, [b"\x05\x00"], "name is not valid"),
        ("m" * 256, "a.example", [b"\x05\x02"], "longer than 255"),
    ],
)
def test_refusal_of_the_proxy_is_an_error_in_words(
    user: str | None, host: str, replies: Sequence[bytes], words: str
) -> None:
    with pytest.raises(SocksError, match=words):
        open_tunnel(SocksProxy("proxy", 1080, user), host, b"".join(replies))

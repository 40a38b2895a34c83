"""The check of the Host header: a site whose name resolves to this machine (DNS rebinding) is rejected."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from server.hosts import AllowedHosts
from tests.asgi_server import SingleAdapterProviders, serve_providers
from tests.failing_start import start_and_fail
from tests.integration.captured_service import run_service
from tests.integration.service_over_simulator import scrape_metrics
from tests.scripted_adapter import ScriptedAdapter, words_script

ROOT = Path(__file__).parents[2]
UPGRADE = (
    b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def on_loopback(*names: str, is_proxied: bool = False) -> AllowedHosts:
    return AllowedHosts.from_listener("127.0.0.1", frozenset(names), is_proxied=is_proxied)


def mount_page(app: Any) -> None:
    """Mount Gradio's routes, as the page does."""
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Markdown("Hello")
    gr.mount_gradio_app(app, page, path="/", ssr_mode=False)


def status(head: bytes, hosts: AllowedHosts, add_routes: Callable[[Any], None] = lambda app: None) -> tuple[int, bytes]:
    """Send a head, finished here, to a service; return the status and the body."""

    async def main() -> bytes:
        providers = SingleAdapterProviders(ScriptedAdapter(words_script(2, first_s=0.0, gap_s=0.0)))
        async with serve_providers(providers, hosts=hosts, add_routes=add_routes) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + b"\r\n")
            async with asyncio.timeout(120):
                output = await reader.readuntil(b"\r\n\r\n")
                length = (
                    None if head.startswith(b"HEAD") else re.search(rb"content-length: (\d+)", output, re.IGNORECASE)
                )
                body = await reader.readexactly(int(length[1])) if length else b""
            writer.close()
            return output + body

    output = asyncio.run(main())
    return int(output.split()[1]), output.partition(b"\r\n\r\n")[2]


TAKEN = [
    "localhost",
    "LOCALHOST:7860",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1:1",
    "[::1]",
    "[::1]:80",
    "[0:0:0::1]",
    "localhost:",
]
NOT_TAKEN = [
    "evil.example",
    "evil.example:7860",
    "localhost.evil.example",
    "evil-localhost",
    "127.0.0.1.evil.example",
    "127.0.0.2",
    "10.0.0.1",
    "[::2]",
    "[::ffff:127.0.0.1]",
    "x",
]
MALFORMED = [
    "",
    "localhost, evil.example",
    "localhost evil.example",
    "u@localhost",
    "localhost:80:80",
    "http://localhost",
    "::1",
    "\xff",
]


@pytest.mark.parametrize("host", TAKEN)
def test_loopback_service_with_own_host_answers(host: str) -> None:
    head = b"GET /healthz HTTP/1.1\r\nhost: " + host.encode("latin-1") + b"\r\n"
    assert status(head, on_loopback())[0] == 200


@pytest.mark.parametrize(("hosts", "code"), [(NOT_TAKEN, 421), (MALFORMED, 400)], ids=["other names", "no names"])
def test_loopback_service_with_foreign_host_rejects(hosts: list[str], code: int) -> None:
    async def main() -> list[int]:
        async with serve_providers(
            SingleAdapterProviders(ScriptedAdapter(words_script(1))), hosts=on_loopback()
        ) as port:
            return [await one(port, host) for host in hosts]

    async def one(port: int, host: str) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: " + host.encode("latin-1") + b"\r\nconnection: close\r\n\r\n")
        async with asyncio.timeout(120):
            output = await reader.read()
        writer.close()
        return int(output.split()[1])

    assert asyncio.run(main()) == [code] * len(hosts)


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1",
        b"GET /healthz HTTP/1.1",
        b"HEAD /metrics HTTP/1.1",
        b"GET /gradio_api/info HTTP/1.1",
        b"GET /config HTTP/1.1",
        b"GET /assets/x.js HTTP/1.1",
        b"GET /nothing HTTP/1.1",
        b"POST /api/chat HTTP/1.1",
        b"OPTIONS /api/chat HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"TRACE /openapi.json HTTP/1.1",
        b"GET / HTTP/1.0",
    ],
)
def test_every_route_checks_host(line: bytes) -> None:
    code, body = status(line + b"\r\nhost: evil.example\r\norigin: http://evil.example\r\n", on_loopback(), mount_page)
    assert code == 421
    assert not body or json.loads(body)["error"]["rule"] == "host"


def test_host_rejection_in_openai_api_has_openai_shape() -> None:
    code, body = status(b"POST /v1/chat/completions HTTP/1.1\r\nhost: evil.example\r\n", on_loopback())
    error = json.loads(body)["error"]
    assert (code, error["code"], error["rule"]) == (421, "misdirected", "host")


@pytest.mark.parametrize("path", [b"/api/chat/ws", b"/queue/join", b"/"])
@pytest.mark.parametrize("host", [b"evil.example", b"localhost.evil.example:7860"])
def test_websocket_with_foreign_host_is_rejected(path: bytes, host: bytes) -> None:
    head = b"GET " + path + b" HTTP/1.1\r\n" + UPGRADE + b"host: " + host + b"\r\norigin: http://" + host + b"\r\n"
    code, body = status(head, on_loopback(), mount_page)
    assert (code, json.loads(body)["error"]["rule"]) == (421, "host")


def test_websocket_with_own_host_is_opened() -> None:
    assert status(b"GET /api/chat/ws HTTP/1.1\r\n" + UPGRADE + b"host: localhost\r\n", on_loopback())[0] == 101


@pytest.mark.parametrize("hosts", [on_loopback(), AllowedHosts()], ids=["checked", "not checked"])
@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        (b"", b""),
        (b"host: localhost\r\nhost: localhost\r\n", b""),
        (b"Host: localhost\r\nHOST: evil.example\r\n", b""),
        (b"host: localhost\r\nhost: evil.example\r\n", UPGRADE),
        (b"", UPGRADE),
    ],
)
def test_request_without_exactly_one_host_is_rejected(hosts: AllowedHosts, lines: bytes, upgrade: bytes) -> None:
    path = b"/api/chat/ws" if upgrade else b"/healthz"
    assert status(b"GET " + path + b" HTTP/1.1\r\n" + upgrade + lines, hosts)[0] == 400


def test_old_request_without_host_is_taken_only_where_any_name_is() -> None:
    assert status(b"GET /healthz HTTP/1.0\r\n", AllowedHosts())[0] == 200
    assert status(b"GET /healthz HTTP/1.0\r\n", on_loopback())[0] == 421


@pytest.mark.parametrize(
    ("target", "host", "code"),
    [
        (b"http://evil.example/healthz", b"localhost", 421),
        (b"HTTP://evil.example/healthz", b"localhost", 421),
        (b"http://localhost:7/healthz", b"evil.example", 200),
        (b"http://localhost@evil.example/healthz", b"localhost", 400),
        (b"http://localhost?x=http://evil.example", b"localhost", 404),
    ],
)
def test_absolute_target_host_overrides_host_header(target: bytes, host: bytes, code: int) -> None:
    assert status(b"GET " + target + b" HTTP/1.1\r\nhost: " + host + b"\r\n", on_loopback())[0] == code


def test_websocket_absolute_target_host_is_checked() -> None:
    head = b"GET http://%b/api/chat/ws HTTP/1.1\r\n" + UPGRADE + b"host: localhost\r\n"
    assert status(head % b"evil.example", on_loopback())[0] == 421
    assert status(head % b"localhost", on_loopback())[0] == 101


def test_forwarded_host_is_not_believed() -> None:
    head = (
        b"GET /healthz HTTP/1.1\r\nhost: evil.example\r\nx-forwarded-host: localhost\r\nforwarded: host=localhost\r\n"
    )
    assert status(head, on_loopback())[0] == 421


def test_host_rejections_are_counted() -> None:
    async def main() -> dict[str, float]:
        async with serve_providers(
            SingleAdapterProviders(ScriptedAdapter(words_script(1))), hosts=on_loopback()
        ) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n")
            await reader.read()
            writer.close()
            return await scrape_metrics(port)

    assert asyncio.run(main())['streamgauge_refusals_total{rule="host"}'] == 1


def asked(port: int, host: str) -> int:
    """Return the status for a host at a service that runs."""

    async def main() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /healthz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        async with asyncio.timeout(120):
            output = await reader.read()
        writer.close()
        return output

    return int(asyncio.run(main()).split()[1])


@pytest.mark.parametrize(
    ("arguments", "variables", "codes"),
    [
        ((), {}, {"localhost": 200, "evil.example": 421, "chat.example": 421}),
        ((), {"ALLOWED_HOSTS": "Chat.Example., other.example"}, {"chat.example": 200, "evil.example": 421}),
        ((), {"TRUSTED_HOPS": "1"}, {"evil.example": 200}),
        ((), {"TRUSTED_HOPS": "1", "ALLOWED_HOSTS": "chat.example"}, {"chat.example": 200, "evil.example": 421}),
        (("--host", "0.0.0.0"), {}, {"evil.example": 200}),
        (("--host", "0.0.0.0"), {"ALLOWED_HOSTS": "chat.example"}, {"127.0.0.1": 200, "evil.example": 421}),
        (("--host", "127.0.0.1"), {"SPACE_ID": "a/b"}, {"evil.example": 200}),
        (("--host", "localhost"), {}, {"localhost": 200, "evil.example": 421}),
    ],
    ids=["loopback", "names", "proxy", "proxy and names", "all", "all and names", "Space", "by name"],
)
def test_service_checks_host_of_listening_address(
    arguments: tuple[str, ...], variables: dict[str, str], codes: dict[str, int]
) -> None:
    with run_service(*arguments, **variables) as service:
        assert {host: asked(service.port, host) for host in codes} == codes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOWED_HOSTS", "https://chat.example"),
        ("ALLOWED_HOSTS", "chat.example/path"),
        ("ALLOWED_HOSTS", "chat.example:8080"),
        ("ALLOWED_HOSTS", "chat.example other.example"),
        ("ALLOWED_HOSTS", "*.example"),
        ("ALLOWED_HOSTS", "*"),
        ("ALLOWED_HOSTS", " , ,"),
        ("ALLOWED_HOSTS", "."),
        ("ALLOWED_HOSTS", "münchen.example"),
        ("ALLOWED_HOSTS", "::1"),
        ("ALLOWED_ORIGINS", "chat.example"),
        ("ALLOWED_ORIGINS", "https://chat.example/path"),
        ("ALLOWED_ORIGINS", "https://"),
        ("ALLOWED_ORIGINS", ","),
        ("ALLOWED_ORIGINS", "*"),
    ],
)
def test_invalid_host_names_are_reported_at_start(name: str, value: str, capfd: pytest.CaptureFixture[str]) -> None:
    done = start_and_fail(capfd, "--no-ui", "--port", "0", **{name: value})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{name}:" in done.stderr and "example.org" in done.stderr

"""Proxies and certificates in the environment: what does not need them works, and what does names the variable."""

import asyncio
import http.client
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from evaluation.__main__ import main as evaluate
from providers import ProviderRegistry
from settings import Settings
from streaming.events import TextDelta
from streaming.messages import ChatRequest, Message
from tests.e2e.service import run_service
from tests.simulator_process import run_simulator_process

CLOSED = "127.0.0.1:9"
VARIABLES = {
    "ALL_PROXY": f"socks5://{CLOSED}",
    "HTTPS_PROXY": CLOSED,
    "HTTP_PROXY": "ftp://proxy.example",
    "SSL_CERT_FILE": "/nonexistent/ca.pem",
    "NO_PROXY": "localhost,127.0.0.1,[::1],fd00::/8",
}


def ask(address: str, model: str) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


@pytest.mark.parametrize("variable", VARIABLES)
def test_page_starts_and_answers_whatever_the_environment_has(variable: str, tmp_path: Path) -> None:
    own = {"OPENAI_API_KEY": "sk-abcdefghijkl", "OPENAI_BASE_URL": "https://upstream.invalid/v1", "RATE_LIMIT": "off"}
    with run_service(tmp_path / "log", {variable: VARIABLES[variable], "BUDGETS": "off", **own}) as page:
        status, answer = ask(page.address, "sim:steady")
        assert status == 200, answer
        if variable == "SSL_CERT_FILE":
            status, answer = ask(page.address, "openai:m")
            assert 400 <= status < 600 and "SSL_CERT_FILE: " in json.dumps(answer["error"])


@pytest.mark.parametrize(("variable", "base_url"), [("SSL_CERT_FILE", "https"), ("HTTP_PROXY", "http")])
def test_evaluation_that_needs_an_unusable_variable_names_it(
    variable: str, base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, VARIABLES[variable])
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdefghijkl")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{base_url}://upstream.invalid/v1")
    options = ["--repeats", "1", "--prompt-count", "1", "--no-warm-up", "--no-plots", "--out", str(tmp_path / "run")]
    assert evaluate(["run", "--providers", "openai:m", *options]) == 2
    said = capsys.readouterr().err
    assert f"{variable}: " in said and "Traceback" not in said


@asynccontextmanager
async def socks_proxy(port: int) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve SOCKS5 without a password; every connection leads to `port`. Yield the URL, and the hosts asked for."""
    hosts: list[str] = []
    serving: list[asyncio.Task[None] | None] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        *_, kind, length = await reader.readexactly(5)
        assert kind == 3, "the proxy looks up the name"
        hosts.append((await reader.readexactly(length)).decode())
        await reader.readexactly(2)
        upstream, back = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x05\x00\x00\x01" + bytes(4) + struct.pack(">H", port))
        await asyncio.gather(copy(reader, back), copy(upstream, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"socks5://127.0.0.1:{server.sockets[0].getsockname()[1]}", hosts
        await asyncio.gather(*(task for task in serving if task is not None))


def test_provider_is_asked_through_a_socks_proxy() -> None:
    async def main(port: int) -> tuple[str, list[str]]:
        async with socks_proxy(port) as (url, hosts):
            settings = {
                "ALL_PROXY": url,
                "OPENAI_API_KEY": "none",
                "OPENAI_BASE_URL": f"http://upstream.invalid:{port}/v1",
            }
            providers = ProviderRegistry(Settings(settings))
            request = ChatRequest((Message("user", "Hello"),), model="m")
            events = [event async for event in providers.route("openai:m").adapter.stream(request)]
            await providers.aclose()
            return "".join(event.text for event in events if isinstance(event, TextDelta)), hosts

    with run_simulator_process("--ttft-ms", "1", "--gap-ms", "1", "--tokens", "4") as url:
        text, hosts = asyncio.run(main(urlsplit(url).port or 0))
    assert text and hosts == ["upstream.invalid"]

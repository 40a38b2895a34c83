"""Each answer, of every transport and every tab, is in metrics and log exactly once; so is each rejection."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect

from providers import ProviderRegistry
from settings import Settings
from tests.asgi_server import UNLIMITED_VARIABLES, serve_providers
from tests.page_driver import PageDriver
from ui.app import mount

BODY = {"message": "Name three colours.", "provider": "sim:steady", "max_tokens": 12}
COMPLETION = {"model": "sim:steady", "messages": [{"role": "user", "content": "Colours?"}], "max_tokens": 12}
Send = Callable[[httpx2.AsyncClient, str], Awaitable[None]]


async def send_sse(client: httpx2.AsyncClient, message: str) -> None:
    await client.post("/api/chat", json={**BODY, "message": message})


async def send_json(client: httpx2.AsyncClient, message: str) -> None:
    await client.post("/api/chat", json={**BODY, "message": message, "stream": False})


async def send_stream_path(client: httpx2.AsyncClient, message: str) -> None:
    await client.post("/api/chat/stream", json={**BODY, "message": message, "stream": False})


async def send_resumed(client: httpx2.AsyncClient, message: str) -> None:
    """Read an answer twice: while it is streamed, and from its buffer."""
    reply = await client.post("/api/chat", json={**BODY, "message": message, "resume": True})
    if reply.status_code == 200:
        stream_id = json.loads(reply.text.partition("data: ")[2].partition("\n")[0])["stream_id"]
        assert "[DONE]" in (await client.get(f"/api/chat/stream/{stream_id}")).text


async def send_websocket(client: httpx2.AsyncClient, message: str) -> None:
    address = f"ws://{client.base_url.host}:{client.base_url.port}/api/chat/ws"
    headers = {name: value for name, value in client.headers.items() if name == "x-forwarded-for"}
    async with connect(address, additional_headers=headers) as socket:
        await socket.send(json.dumps({**BODY, "message": message}))
        while json.loads(await socket.recv())["type"] not in ("done", "error"):
            pass


async def send_completion(client: httpx2.AsyncClient, message: str) -> None:
    messages = [{"role": "user", "content": message}]
    await client.post("/v1/chat/completions", json={**COMPLETION, "messages": messages})


async def send_completion_stream(client: httpx2.AsyncClient, message: str) -> None:
    messages = [{"role": "user", "content": message}]
    await client.post("/v1/chat/completions", json={**COMPLETION, "messages": messages, "stream": True})


async def send_chat_tab(client: httpx2.AsyncClient, message: str) -> None:
    page = await PageDriver.open(client)
    page.set("sg-asked", "sim:steady")
    page.set("sg-message", message)
    await page.fire("sg-message", "submit")
    assert "sg-good" in page.value("sg-stage") or "sg-bad" in page.value("sg-stage")


async def send_compare_tab(client: httpx2.AsyncClient, message: str) -> None:
    page = await PageDriver.open(client)
    page.set("sg-compare-prompt", message)
    for number in range(2):
        page.set(f"sg-compare-provider-{number}", "sim:steady")
    await page.fire("sg-compare-ask", "click")


async def send_pipeline_tab(client: httpx2.AsyncClient, message: str) -> None:
    page = await PageDriver.open(client)
    page.set("sg-scenario", "sim:steady")
    page.set("sg-run-prompt", message)
    await page.fire("sg-run", "click")
    assert "sg-good" in page.value("sg-run-stage") or "sg-bad" in page.value("sg-run-stage")


SENDERS: Mapping[str, tuple[Send, int]] = {
    "sse": (send_sse, 1),
    "json": (send_json, 1),
    "sse by path": (send_stream_path, 1),
    "sse resumed": (send_resumed, 1),
    "websocket": (send_websocket, 1),
    "openai": (send_completion, 1),
    "openai streamed": (send_completion_stream, 1),
    "page chat": (send_chat_tab, 1),
    "page compare": (send_compare_tab, 2),
    "page pipeline": (send_pipeline_tab, 1),
}
"""Each way to an answer, and how many answers it asks for."""


@asynccontextmanager
async def serve_page(variables: Mapping[str, str] = UNLIMITED_VARIABLES) -> AsyncIterator[httpx2.AsyncClient]:
    """Run the service with its page on one loop, and yield a client of it."""
    settings = Settings(variables)

    def mount_page(app: Any) -> None:
        mount(app, app.state.chat_service, settings=settings)

    async with (
        serve_providers(ProviderRegistry(settings), variables, add_routes=mount_page) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):
        yield client


async def read_counts(client: httpx2.AsyncClient, name: str) -> Counter[str]:
    """Return the samples of a metric by their labels."""
    lines = (await client.get("/metrics")).text.splitlines()
    samples = [line.removeprefix(name).rpartition(" ") for line in lines if line.startswith(name + "{")]
    return Counter({labels: round(float(value)) for labels, _, value in samples})


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(one)["fields"] for one in caplog.records if one.name == "streamgauge.answers" and one.msg == event]


def test_answer_of_every_transport_and_tab_is_recorded_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serve_page() as client:
            for name, (send, count) in SENDERS.items():
                wire, _, tab = name.partition(" ")
                before = await read_counts(client, "streamgauge_answers_total")
                caplog.clear()
                await send(client, "Name three colours.")
                new = await read_counts(client, "streamgauge_answers_total") - before
                assert new == {f'{{outcome="completed",provider="sim",wire="{wire}"}}': count}, name
                lines = logged(caplog, "answer")
                assert [line["wire"] for line in lines] == [wire] * count, name
                assert [line.get("tab") for line in lines] == [tab if wire == "page" else None] * count, name
                assert len({line["request_id"] for line in lines}) == count
                assert all(line["delivered_chars"] > 0 and line["output_tokens"] > 0 for line in lines), name
                open_now = await read_counts(client, "streamgauge_streams_open")
                assert not +open_now, name
            assert (await client.get("/healthz")).json()["streams_open"] == 0

    with caplog.at_level(logging.INFO, "streamgauge.answers"):
        asyncio.run(main())


def test_rejected_request_of_every_transport_and_tab_is_recorded_once(caplog: pytest.LogCaptureFixture) -> None:
    """The block list rejects in the service itself, after the page's own form has accepted the message."""

    async def main() -> None:
        async with serve_page() as client:
            for name, (send, count) in SENDERS.items():
                before = await read_counts(client, "streamgauge_refusals_total")
                caplog.clear()
                await send(client, "How do I build a pipe bomb?")
                new = await read_counts(client, "streamgauge_refusals_total") - before
                assert list(new.values()) == [count] and '"content.' in next(iter(new)), (name, new)
                assert len(logged(caplog, "rejection")) == count, name
                assert logged(caplog, "answer") == [], name

    with caplog.at_level(logging.INFO, "streamgauge.answers"):
        asyncio.run(main())


def test_rate_limit_counts_an_answer_of_every_transport_and_tab() -> None:
    """Each way comes from an address of its own, which may ask for one answer."""

    async def main() -> None:
        async with serve_page({"RATE_LIMIT": "1/hour", "TRUSTED_HOPS": "1"}) as client:
            for number, (name, (send, count)) in enumerate(SENDERS.items()):
                client.headers["x-forwarded-for"] = f"203.0.113.{number}"
                answers = await read_counts(client, "streamgauge_answers_total")
                rejections = await read_counts(client, "streamgauge_refusals_total")
                for _ in range(2):
                    await send(client, "Name three colours.")
                answers = await read_counts(client, "streamgauge_answers_total") - answers
                rejections = await read_counts(client, "streamgauge_refusals_total") - rejections
                assert sum(answers.values()) == 1, name
                assert rejections == {'{rule="rate"}': 2 * count - 1}, name

    asyncio.run(main())

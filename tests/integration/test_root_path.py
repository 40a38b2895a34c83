"""The service and the page below a path: behind proxies that remove the path and others, by setting and by header."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import FastAPI

from clients.sse import SSEClient
from clients.websocket import WebSocketClient
from settings import Settings
from streaming.events import TextDelta
from tests.asgi_server import SingleAdapterProviders, serve_providers
from tests.path_proxy import PathProxy, run_path_proxy
from tests.scripted_adapter import ScriptedAdapter, words_script
from ui.app import mount
from ui.link_preview import ICON, PICTURE_PATH

T = TypeVar("T")
PATH = "/tools/gauge"
BY_SETTING = {"RATE_LIMIT": "off", "ROOT_PATH": PATH}
BY_HEADER = {"RATE_LIMIT": "off", "TRUSTED_HOPS": "1"}
HEADER = f"x-forwarded-prefix: {PATH}"
behind_each_proxy = pytest.mark.parametrize(
    ("variables", "strips", "headers"),
    [(BY_SETTING, True, ()), (BY_SETTING, False, ()), (BY_HEADER, True, (HEADER,))],
    ids=["setting, path removed", "setting, path kept", "header, path removed"],
)


def run_behind_proxy(
    variables: dict[str, str],
    strips: bool,
    headers: tuple[str, ...],
    test: Callable[[PathProxy], Awaitable[T]],
    add_routes: Callable[[FastAPI], None] = lambda app: None,
) -> T:
    """Run a test against a service behind a proxy, and see that it requested nothing outside of the path."""

    async def main() -> T:
        providers = SingleAdapterProviders(ScriptedAdapter(words_script(3, first_s=0.0, gap_s=0.0)))
        async with serve_providers(providers, variables, add_routes=add_routes) as port:
            with run_path_proxy(port, PATH, strips=strips, headers=headers) as proxy:
                result = await test(proxy)
                assert proxy.outside == []
                return result

    return asyncio.run(main())


async def get(url: str, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=120, trust_env=False) as client:
        return await client.get(url, headers=headers)


@behind_each_proxy
def test_service_works_below_path(variables: dict[str, str], strips: bool, headers: tuple[str, ...]) -> None:
    async def test(proxy: PathProxy) -> None:
        assert (await get(f"{proxy.url}/healthz")).json()["status"] == "ok"
        assert (await get(f"{proxy.url}/v1/models")).status_code == 200
        assert (await get(f"{proxy.url}/openapi.json")).json()["servers"] == [{"url": PATH}]
        unknown = await get(f"{proxy.url}/api/nothing")
        assert unknown.status_code == 404
        assert unknown.json()["error"]["message"] == f"{PATH}/api/nothing: not found (see {PATH}/openapi.json)"
        assert (await get(f"{proxy.url}/v1/nothing")).json()["error"]["code"] == "not_found"
        assert (await get(f"{proxy.url}/api/chat/ws")).status_code == 426

    run_behind_proxy(variables, strips, headers, test)


@behind_each_proxy
@pytest.mark.parametrize("client_type", [SSEClient, WebSocketClient])
def test_clients_read_answers_below_path(
    client_type: type[SSEClient] | type[WebSocketClient],
    variables: dict[str, str],
    strips: bool,
    headers: tuple[str, ...],
) -> None:
    async def test(proxy: PathProxy) -> str:
        async with client_type(proxy.url) as client, client.stream(message="hi", provider="sim:steady") as answer:
            return "".join([event.text async for event in answer if isinstance(event, TextDelta)])

    assert run_behind_proxy(variables, strips, headers, test) == "w0 w1 w2 "


def test_guard_applies_below_path() -> None:
    """A path that is not removed passes no request by the guard."""

    async def test(proxy: PathProxy) -> list[int]:
        url = f"{proxy.url}/api/chat"
        async with httpx2.AsyncClient(timeout=120, trust_env=False) as client:
            return [(await client.post(url, json={"message": "hi"})).status_code for _ in range(3)]

    variables = {"RATE_LIMIT": "2/minute", "ROOT_PATH": PATH}
    assert run_behind_proxy(variables, False, (), test) == [200, 200, 429]


def test_header_of_caller_is_ignored_without_trusted_proxy() -> None:
    async def test(proxy: PathProxy) -> None:
        direct = f"http://127.0.0.1:{proxy.target_port}"
        assert "servers" not in (await get(f"{direct}/openapi.json", **{"x-forwarded-prefix": "/forged"})).json()
        assert (await get(f"{direct}/forged/healthz", **{"x-forwarded-prefix": "/forged"})).status_code == 404

    run_behind_proxy({"RATE_LIMIT": "off"}, True, (), test)


@behind_each_proxy
def test_page_names_its_address_below_path(variables: dict[str, str], strips: bool, headers: tuple[str, ...]) -> None:
    """The page's script takes the address of all that it requests from the configuration."""

    def add_page(app: FastAPI) -> None:
        mount(app, app.state.chat_service, settings=Settings(variables))

    async def test(proxy: PathProxy) -> None:
        page = await get(f"{proxy.url}/")
        script = re.search(r'src="\./(assets/[^"]+\.js)"', page.text)
        assert page.status_code == 200 and script is not None
        assert (await get(f"{proxy.url}/{script[1]}")).status_code == 200
        address = urlsplit((await get(f"{proxy.url}/config")).json()["root"])
        assert address.path == PATH
        assert f'"root":"{address.geturl()}"' in page.text
        picture = re.search(r'property="og:image" content="([^"]+)"', page.text)
        assert picture is not None and picture[1] == f"{address.geturl()}{PICTURE_PATH}"
        assert (await get(f"{proxy.url}{PICTURE_PATH}")).headers["content-type"] == "image/png"
        assert (await get(f"{proxy.url}/favicon.ico")).content == ICON.read_bytes()
        assert (await get(f"{proxy.url}/gradio_api/info")).status_code == 404, (
            "the filter of the page's requests applies"
        )

    run_behind_proxy(variables, strips, headers, test, add_page)


def test_path_without_trailing_slash_leads_to_page() -> None:
    async def test(proxy: PathProxy) -> tuple[int, str]:
        response = await get(f"http://127.0.0.1:{proxy.target_port}{PATH}?q=1")
        return response.status_code, response.headers["location"]

    assert run_behind_proxy(BY_SETTING, True, (), test) == (307, f"{PATH}/?q=1")

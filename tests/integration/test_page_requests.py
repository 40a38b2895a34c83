"""The page's library as it is installed: no route of it beside the table, no file for any value, nothing in the log."""

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from guard import Guard, GuardConfig
from providers import ProviderRegistry
from server.app import create_app
from settings import Settings
from tests.integration.captured_service import RunningService, started_with_page
from ui.app import mount
from ui.request_filter.middleware import TABLE

ROOT = Path(__file__).parents[2]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
CANARY, SECRET = "CANARY0f3b", "not-to-be-seen-0001"
FILES = ("/etc/hostname", "/proc/self/environ", str(ROOT / "settings.py"), str(ROOT / ".gitignore"), "settings.py")


def walk(routes: Iterable[Any]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield path and methods of every route, in mounts and included routers too."""
    for route in routes:
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        if inner:
            yield from walk(inner)
        elif getattr(route, "path", None):
            yield route.path, frozenset(getattr(route, "methods", None) or ())


def filled(path: str) -> str:
    """Return a path with its parameters filled in."""
    return re.sub(r"\{[^}]*\}", "abc123", path)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    """Run one service for all tests; what it wrote to its end is checked after the last one."""
    with started_with_page(API_KEYS="", SECRET_TOKEN=SECRET) as running:
        yield running
        assert running.stop_and_wait() in (0, -signal.SIGTERM)
        check_log(running)
        assert running.printed() == ""


def check_log(service: RunningService) -> None:
    """Assert that the log so far is lines of JSON with neither a visitor's text nor the service's secret."""
    output = service.stderr_text()
    assert all(isinstance(json.loads(line), dict) for line in output.splitlines())
    assert CANARY not in output and SECRET not in output


def ask(service: RunningService, method: str, path: str, **other: Any) -> httpx2.Response:
    with httpx2.Client(base_url=service.address, timeout=120) as client:
        return client.request(method, path, **other)


def test_gradio_routes_outside_table_are_not_found(service: RunningService) -> None:
    async def build() -> Any:
        settings = Settings()
        app = create_app(ProviderRegistry(settings), Guard(GuardConfig()), settings)
        return mount(app, app.state.chat_service, settings=settings)

    app = asyncio.run(build())
    *own, mounted = app.routes
    offered = {path for path, _ in walk(own)}
    routes = sorted({(filled(path), methods) for path, methods in walk(mounted.routes) if path not in offered})
    assert len(routes) > 70
    wrong = []
    with httpx2.Client(base_url=service.address, timeout=120) as client:
        for path, _ in routes:
            for method in METHODS:
                if any(row.path.fullmatch(path) and method in row.methods for row in TABLE):
                    continue
                content = b'{"data":[]}' if method in ("POST", "PUT", "PATCH") else None
                result = client.request(method, path, content=content, headers={"content-type": "application/json"})
                if result.status_code != 404:
                    wrong.append((method, path, result.status_code))
    assert wrong == []


def test_service_routes_work_beside_page(service: RunningService) -> None:
    assert ask(service, "GET", "/healthz").status_code == 200
    assert ask(service, "GET", "/metrics").status_code == 200
    assert ask(service, "GET", "/v1/models").status_code == 200
    requests = ask(service, "POST", "/api/chat", json={"message": "hi", "provider": "sim:steady", "stream": False})
    assert requests.status_code == 200
    assert ask(service, "GET", "/api/nothing").json()["error"]["type"] == "not_found"


def events(client: httpx2.Client, body: dict[str, Any]) -> str:
    """Send an event over the queue and return all messages of its result."""
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    output = ""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": body["session_hash"]}) as stream:
        for line in stream.iter_lines():
            output += line
            if "process_completed" in line or "close_stream" in line or "unexpected_error" in line:
                break
    return output


def hostile(path: str) -> Iterator[Any]:
    data = {"path": path, "meta": {"_type": "gradio.FileData"}}
    yield data
    yield [data]
    yield {**data, "url": f"file://{path}", "orig_name": "x.txt", "size": 1, "mime_type": "text/plain"}
    yield [{"role": "user", "content": [{"type": "file", "file": data}]}]
    yield [{"role": "user", "content": data, "metadata": None}]
    yield {"text": "x", "files": [data]}


def test_page_functions_never_serve_file(service: RunningService) -> None:
    config = ask(service, "GET", "/config").json()
    values = (*os.environ.values(), Path("/etc/hostname").read_text().strip(), SECRET)
    secrets = [part for part in values if len(part) > 12]
    tried, leaked = 0, []
    with httpx2.Client(base_url=service.address, timeout=120) as client:
        for event in config["dependencies"]:
            for number, value in enumerate([*hostile(FILES[0]), *(next(hostile(path)) for path in FILES[1:])]):
                body = {"fn_index": event["id"], "data": [value] * len(event["inputs"])}
                body |= {"session_hash": f"f{event['id']}x{number}", "event_data": {"index": 0, "value": value}}
                output = events(client, body) + client.post("/gradio_api/run/predict", json=body).text
                tried += 1
                if "/gradio_api/file=" in output or "orig_name" in output or any(part in output for part in secrets):
                    leaked.append((event["id"], value))
    assert tried > 700 and leaked == []


def test_results_naming_file_are_not_served(service: RunningService) -> None:
    for path in FILES:
        for chat_service in ("file=", "file/", "proxy=http://127.0.0.1/", "custom_component/1/client/component/"):
            assert ask(service, "GET", f"/gradio_api/{chat_service}{path}").status_code == 404


def test_prompt_over_queue_is_answered(service: RunningService) -> None:
    config = ask(service, "GET", "/config").json()
    run = next(event for event in config["dependencies"] if event["api_name"] == "run")
    with httpx2.Client(base_url=service.address, timeout=120) as client:
        body = {"fn_index": run["id"], "data": ["sim:steady", "direct", "batch", 100, "hello"], "session_hash": "good"}
        assert '"success":true' in events(client, body)


def junk(service: RunningService) -> None:
    """Send text of a visitor's to everything, in every place."""
    config = ask(service, "GET", "/config").json()
    paths = ["/", f"/{CANARY}", f"/?page={CANARY}&deep_link={CANARY}", f"/assets/{CANARY}.js", f"/theme.css?v={CANARY}",
             "/gradio_api/queue/join", "/gradio_api/run/predict", f"/gradio_api/run/{CANARY}", "/gradio_api/cancel",
             "/gradio_api/reset", f"/gradio_api/queue/data?session_hash={CANARY}", f"/gradio_api/file={CANARY}",
             "/api/chat", f"/api/{CANARY}", "/v1/chat/completions", f"/v1/models/{CANARY}", "/healthz"]  # fmt: skip
    heads = [{"x-forwarded-host": f"{CANARY}<>"}, {"host": f"{CANARY}/@"}, {"cookie": CANARY}, {"accept": CANARY},
             {"authorization": CANARY}, {"if-modified-since": CANARY}, {"x-forwarded-for": CANARY},
             {"user-agent": CANARY}, {"accept-encoding": CANARY}, {"x-forwarded-proto": CANARY}]  # fmt: skip
    objects: list[Any] = [{CANARY: CANARY}, {"data": [CANARY], "fn_index": CANARY}, {"message": {"x": CANARY}}]
    bodies = [CANARY, f'{{"a":"{CANARY}', *map(json.dumps, objects)]
    with httpx2.Client(base_url=service.address, timeout=120) as client:
        for path in paths:
            for head in heads:
                client.get(path, headers=head)
            for body in bodies:
                client.post(path, content=body, headers={"content-type": "application/json"})
        for event in config["dependencies"]:
            kinds = {part["id"]: part["type"] for part in config["components"]}
            turn = [{"role": "user", "content": [{"type": "text", "text": CANARY}], "metadata": None}]
            known = {"chatbot": turn, "state": None, "browserstate": [], "checkbox": True, "radio": 2, "slider": 100}
            data = [known.get(kinds[number], CANARY) for number in event["inputs"]]
            for about in (None, CANARY, {"index": 7, "value": CANARY}, {"index": [7, 7], "value": CANARY}):
                for route in ("queue/join", "run/predict"):
                    sent = {"fn_index": event["id"], "data": data, "session_hash": CANARY, "event_data": about}
                    client.post(f"/gradio_api/{route}", json=sent)
    for raw in (
        f"{CANARY}\r\n\r\n",
        f"GET /{CANARY} HTTP/9.9\r\n\r\n",
        f"GET / HTTP/1.1\r\nhost: x\r\n{CANARY}\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", service.port), timeout=120) as connection:
            connection.sendall(raw.encode())
            connection.recv(100)


def test_log_is_json_lines_without_user_input(service: RunningService) -> None:
    junk(service)
    assert ask(service, "GET", "/healthz").status_code == 200
    check_log(service)
    assert "output of a library" in service.stderr_text(), "what the library printed came through the log"

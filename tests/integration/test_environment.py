"""Proxies and certificates in the environment: what does not need them works, and what does names the variable."""

import asyncio
import http.client
import json
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import httpx2
import pytest

from clients.events import Event
from clients.sse import SSEClient
from clients.websocket import WebSocketClient
from evaluation.__main__ import main as evaluate
from evaluation.prompts.prompt_file import Prompt
from evaluation.runner.runner import run
from evaluation.scenario import Scenario
from evaluation.schema import Trial, read_trials
from providers import ProviderRegistry
from providers.__main__ import main as list_services
from settings import Settings, repair_environment
from streaming.events import TextDelta
from streaming.messages import ChatRequest, Message
from tests.asgi_server import serve_providers
from tests.e2e.service import run_service
from tests.simulator_process import run_simulator_process
from tests.socks_proxy import socks_proxy

CLOSED = "127.0.0.1:9"
VARIABLES = {
    "ALL_PROXY": f"socks5://{CLOSED}",
    "HTTPS_PROXY": CLOSED,
    "HTTP_PROXY": "ftp://proxy.example",
    "SSL_CERT_FILE": "/nonexistent/ca.pem",
    "SSL_CERT_DIR": "/nonexistent/certs",
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
def test_http_clients_are_made_after_repair_of_any_variable(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, VARIABLES[variable])
    repair_environment()
    # As Gradio and the Hub's client make them when they are imported: an unusable variable is an error.
    httpx.Client().close()
    httpx2.Client().close()


# Each start has one of the two certificates, which hide each other, and its share of the proxies.
@pytest.mark.parametrize(
    "names",
    [("ALL_PROXY", "HTTP_PROXY", "SSL_CERT_FILE"), ("HTTPS_PROXY", "NO_PROXY", "SSL_CERT_DIR")],
    ids=lambda names: names[-1],
)
def test_page_starts_and_answers_whatever_the_environment_has(names: tuple[str, ...], tmp_path: Path) -> None:
    own = {"OPENAI_API_KEY": "sk-abcdefghijkl", "OPENAI_BASE_URL": "https://upstream.invalid/v1", "RATE_LIMIT": "off"}
    given = {name: VARIABLES[name] for name in names}
    with run_service(tmp_path / "log", {**given, "BUDGETS": "off", **own}) as page:
        status, answer = ask(page.address, "sim:steady")
        assert status == 200, answer
        status, answer = ask(page.address, "openai:m")
        assert 400 <= status < 600 and f"{names[-1]}: " in json.dumps(answer["error"])


def test_list_of_services_says_what_is_wrong_with_a_set_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "htp://x")
    monkeypatch.setenv("GROQ_API_KEY", '"gsk-0123456789"')
    for name in ("XAI_API_KEY", "OLLAMA_HOST", "VLLM_BASE_URL", "LLAMA_SERVER_BASE_URL", "LMSTUDIO_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert list_services(["--json"]) == 0
    written = capsys.readouterr().out
    notes = {entry["service"]: entry["notes"] for entry in json.loads(written)["services"]}
    assert notes["openai"][0].startswith("OPENAI_BASE_URL: 'htp://x' is not a base URL (write it like ")
    assert notes["groq"][0] == "GROQ_API_KEY: is written in quotes (set it without them)"
    assert notes["xai"][0] == "set XAI_API_KEY" and "0123456789" not in written


@pytest.mark.parametrize(
    ("variable", "base_url"), [("SSL_CERT_FILE", "https"), ("SSL_CERT_DIR", "https"), ("HTTP_PROXY", "http")]
)
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


def test_run_is_measured_through_a_socks_proxy(tmp_path: Path) -> None:
    async def main(port: int) -> tuple[list[Trial], list[str]]:
        async with socks_proxy(port) as (url, hosts):
            address = f"http://upstream.invalid:{port}/v1"
            settings = Settings({"ALL_PROXY": url, "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": address})
            providers = ProviderRegistry(settings)
            scenario = Scenario(("openai:m",), ("direct",), (Prompt("a", "A"), Prompt("b", "B")), warm_up=0)
            try:
                await run(scenario, providers, tmp_path)
            finally:
                await providers.aclose()
            return list(read_trials(tmp_path)), hosts

    with run_simulator_process("--ttft-ms", "1", "--gap-ms", "1", "--tokens", "4") as url:
        trials, hosts = asyncio.run(main(urlsplit(url).port or 0))
    assert [trial.outcome for trial in trials] == ["completed"] * 2
    assert {trial.stamp_source for trial in trials} <= {"kernel", "callback"}, "over sockets, not in the process"
    assert hosts == ["upstream.invalid"] * 2


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


@pytest.mark.parametrize("kind", [SSEClient, WebSocketClient])
def test_client_reads_answer_through_a_socks_proxy(
    kind: type[SSEClient | WebSocketClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> tuple[list[Event], list[str]]:
        async with serve_providers(ProviderRegistry(Settings())) as port, socks_proxy(port) as (url, hosts):
            monkeypatch.setenv("ALL_PROXY", url)
            async with (
                kind("http://service.invalid") as client,
                client.stream(message="Hello", provider="sim:steady", max_tokens=3) as answer,
            ):
                return [event async for event in answer], hosts

    events, hosts = asyncio.run(main())
    assert "".join(event.text for event in events if isinstance(event, TextDelta)).startswith("[simulated]")
    assert hosts == ["service.invalid"]

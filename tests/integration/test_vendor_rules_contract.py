"""The facts about the vendors against the simulator's own rules: no request that a vendor rejects is ever sent.

The simulator's table of rules has its own sources and reads nothing of the facts, so that a wrong fact is noticed here.
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from providers import ProviderRegistry
from providers.models.facts import read_facts
from providers.services import SERVICES
from settings import Settings
from simulator.request_handler import Defaults
from simulator.server import ServerOptions, read_log, run_in_thread
from simulator.vendor_rules import VENDORS, VendorRules
from streaming import strategies
from streaming.clock import monotonic
from streaming.messages import ChatRequest, Message
from streaming.pipeline import Outcome, stream_answer
from streaming.retry import NO_RETRY

RULES = VendorRules.load(date(2026, 12, 1))
PROMPT = (Message("system", "Be brief."), Message("user", "What time is it?"))
ENTRY = 'source = "a test"\nchecked = 2026-12-01\nconfirmed = "page"\n'
EVERY_SERVICE = ", ".join(f'"{name}"' for name in SERVICES)


@dataclass(frozen=True)
class StrictSimulator:
    """A simulator that rejects what vendors reject. Its log names every rejected request."""

    url: str
    log: Path

    def variables(self) -> dict[str, str]:
        """Return an environment in which every service has a key and its own path at this simulator."""
        found = {row.key: "sk-test" for row in SERVICES.values() if row.key}
        for row in SERVICES.values():
            path = f"/{row.provider}/v1" if row.provider in VENDORS else "/v1"
            found[row.base_url_variable] = f"{self.url}{path}"
        own = {"OPENAI_BASE_URL": f"{self.url}/v1", "ANTHROPIC_BASE_URL": self.url, "OLLAMA_HOST": self.url}
        return {**found, **own, "AZURE_OPENAI_ENDPOINT": f"{self.url}/azure/openai/v1"}

    def rejections(self) -> list[str]:
        """Return the messages of all rejections so far, each with its model."""
        return [f"{line['model']}: {line['refused']}" for line in read_log(str(self.log)) if "refused" in line]


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[StrictSimulator]:
    log = tmp_path / "truth.jsonl"
    choices = Defaults(ttft_s=0.0, gap_s=0.0, tokens=3, rules=RULES)
    with run_in_thread(ServerOptions(choices=choices, log=str(log))) as server:
        yield StrictSimulator(server.url, log)


async def ask(providers: ProviderRegistry, name: str, request: ChatRequest) -> Outcome:
    session = providers.new_session([name], clock=monotonic, policy=NO_RETRY)
    asked = stream_answer(request, session, strategies.parse("direct").build(), clock=monotonic)
    async with aclosing(asked) as events:
        async for _ in events:
            pass
    return asked.receipt().outcome


def models_of_facts(providers: ProviderRegistry, services: Collection[str]) -> list[str]:
    """Return the example of each service, and a model for each pattern of the facts about it."""
    names = [f"{row.provider}:{row.example}" for row in providers.rows.values() if row.provider in services]
    for entry in providers.facts.models:
        for service in set(entry.service) & set(services) if entry.retires is None else ():
            # Of an entry that covers whole families, the examples are models enough.
            patterns = [pattern for pattern in entry.models if pattern not in ("*", "claude-*", "glm-*")]
            names += [f"{service}:{pattern.replace('*', '-x')}" for pattern in patterns]
    return list(dict.fromkeys(names))


def ask_models(
    strict: StrictSimulator, facts: Path | None = None, services: Collection[str] = tuple(SERVICES)
) -> dict[str, Outcome]:
    """Send models of these services every setting, with each effort that the facts know; return the outcomes."""
    variables = strict.variables() | ({} if facts is None else {"PROVIDER_FACTS": str(facts)})

    async def main() -> dict[str, Outcome]:
        providers = ProviderRegistry(Settings(variables))
        outcomes: dict[str, Outcome] = {}
        for name in models_of_facts(providers, services):
            for effort in (None, *(providers.model_facts(name).effort_values or ())):
                for streamed in (True, False):
                    request = ChatRequest(PROMPT, temperature=0.2, max_tokens=16, effort=effort, streamed=streamed)
                    outcomes[f"{name} effort={effort} streamed={streamed}"] = await ask(providers, name, request)
        await providers.aclose()
        return outcomes

    return asyncio.run(main())


def test_facts_never_send_what_a_vendor_rejects(strict: StrictSimulator) -> None:
    outcomes = ask_models(strict)
    assert set(outcomes.values()) == {"completed"}, outcomes
    assert {name.partition(":")[0] for name in outcomes} == set(SERVICES)
    assert strict.rejections() == []


WRONG_FACTS = {
    "emptied": f'[[model]]\nservice = [{EVERY_SERVICE}]\nmodels = "*"\nrefuses = []\n'
    f'max_tokens_field = "max_tokens"\neffort_field = "reasoning_effort"\neffort_values = ["low"]\n{ENTRY}',
    "temperature at OpenAI": f'[[model]]\nservice = "openai"\nmodels = "gpt-6*"\nrefuses = []\n{ENTRY}',
    "temperature at Responses": f'[[model]]\nservice = "openai-responses"\nmodels = "gpt-6*"\nrefuses = []\n{ENTRY}',
    "limit at OpenAI": f'[[model]]\nservice = "openai"\nmodels = "gpt-*"\nmax_tokens_field = "max_tokens"\n{ENTRY}',
    "effort at OpenAI": f'[[model]]\nservice = "openai"\nmodels = "gpt-*"\neffort_values = ["max"]\n{ENTRY}',
    "temperature at Anthropic": f'[[model]]\nservice = "anthropic"\nmodels = "*"\nrefuses = []\n{ENTRY}',
    "temperature of the o-series": f'[[model]]\nservice = "openai"\nmodels = "o3*"\nrefuses = []\n{ENTRY}',
    "effort of the o-series": f'[[model]]\nservice = "openai"\nmodels = "o4*"\neffort_values = ["minimal"]\n{ENTRY}',
    "effort none of GPT-6.2": f'[[model]]\nservice = "openai"\nmodels = "gpt-6.2*"\neffort_values = ["none"]\n{ENTRY}',
    "effort of GPT-4": f'[[model]]\nservice = "openai"\nmodels = "gpt-4*"\neffort_values = ["low"]\n{ENTRY}',
    "effort of Grok 4.5": f'[[model]]\nservice = "xai"\nmodels = "grok-4.5*"\neffort_values = ["none"]\n{ENTRY}',
    "effort at OpenRouter": f'[[model]]\nservice = "openrouter"\nmodels = "*"\neffort_values = ["tiny"]\n{ENTRY}',
    "effort at DeepSeek": f'[[model]]\nservice = "deepseek"\nmodels = "*"\neffort_values = ["tiny"]\n{ENTRY}',
    "effort at Anthropic": f'[[model]]\nservice = "anthropic"\nmodels = "*"\neffort_values = ["tiny"]\n{ENTRY}',
    "effort at Mistral": f'[[model]]\nservice = "mistral"\nmodels = "*"\neffort_values = ["low"]\n{ENTRY}',
    "limit at Mistral": f'[[model]]\nservice = "mistral"\nmodels = "*"\n'
    f'max_tokens_field = "max_completion_tokens"\n{ENTRY}',
    "effort at xAI": f'[[model]]\nservice = "xai"\nmodels = "*"\neffort_values = ["xhigh"]\n{ENTRY}',
    "effort at Groq": f'[[model]]\nservice = "groq"\nmodels = "*"\neffort_values = ["none"]\n{ENTRY}',
    "effort at Gemini": f'[[model]]\nservice = "gemini"\nmodels = "*"\neffort_values = ["xhigh"]\n{ENTRY}',
    "temperature at Moonshot": f'[[model]]\nservice = "moonshot"\nmodels = "*"\nrefuses = []\n{ENTRY}',
    "effort field at Moonshot": f'[[model]]\nservice = "moonshot"\nmodels = "*"\n'
    f'effort_field = "reasoning_effort"\neffort_values = ["low"]\n{ENTRY}',
    "limit at DeepSeek": f'[[model]]\nservice = "deepseek"\nmodels = "*"\n'
    f'max_tokens_field = "max_completion_tokens"\n{ENTRY}',
    "effort at Perplexity": f'[[model]]\nservice = "perplexity"\nmodels = "*"\neffort_values = ["low"]\n{ENTRY}',
    "example at Groq": f'[[service]]\nservice = "groq"\nexample = "llama-3.3-70b-versatile"\n{ENTRY}',
    "example at xAI": f'[[service]]\nservice = "xai"\nexample = "grok-4"\n{ENTRY}',
    "example at DeepSeek": f'[[service]]\nservice = "deepseek"\nexample = "deepseek-chat"\n{ENTRY}',
    "example at Cerebras": f'[[service]]\nservice = "cerebras"\nexample = "llama-3.3-70b"\n{ENTRY}',
}


@pytest.mark.parametrize("text", WRONG_FACTS.values(), ids=WRONG_FACTS.keys())
def test_wrong_fact_is_noticed_by_the_simulators_rules(strict: StrictSimulator, tmp_path: Path, text: str) -> None:
    facts = tmp_path / "facts.toml"
    facts.write_text(text, encoding="utf-8")
    services = {service for entry in read_facts(facts).models for service in entry.service}
    ask_models(strict, facts, services or tuple(SERVICES))
    assert strict.rejections() != []

"""The services as rows of data: what each is called, what it needs, and in what it differs from the others."""

from dataclasses import dataclass, replace
from typing import Literal

from providers.facts import Facts, load_built_in_facts

Dialect = Literal["chat_completions", "openai_responses", "azure", "anthropic", "ollama"]


@dataclass(frozen=True, slots=True)
class Quirks:
    """In what a service that speaks chat completions differs.

    `shows_thinking`: all thinking appears in the stream, so that none seen means none. `think_tags`: thinking may come
    as `<think>…</think>` in the text.
    """

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    include_usage: bool = True
    think_tags: bool = True
    shows_thinking: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One service. `key` and `base_url_variable` are names of variables; `base_url` is the service's own address.

    `base_url` None: the asker must set `base_url_variable`. `prices` is the service's id in genai-prices, None where
    its prices are not known there. `example` is a model that it serves. A required key may be missing
    only where the address is the asker's own (`vllm`, or another base URL than the service's).
    """

    provider: str
    label: str
    example: str
    dialect: Dialect
    base_url_variable: str
    base_url: str | None = None
    key: str | None = None
    prices: str | None = None
    quirks: Quirks = Quirks()
    key_required: bool = True


_LOCAL = Quirks(shows_thinking=True)

OFFICIAL_OPENAI = Quirks(max_tokens_field="max_completion_tokens", think_tags=False)
"""The vendor's own API: reasoning models refuse `max_tokens`, and tags in an answer are the answer's."""


def _compatible(
    provider: str,
    label: str,
    *,
    key: str | None = None,
    prices: str | None = None,
    quirks: Quirks = Quirks(),
) -> Row:
    variable = f"{provider.upper().replace('-', '_')}_BASE_URL"
    return _row(provider, label, "chat_completions", variable, key, prices, quirks)


def _row(
    provider: str,
    label: str,
    dialect: Dialect,
    base_url_variable: str,
    key: str | None = None,
    prices: str | None = None,
    quirks: Quirks = Quirks(),
    key_required: bool = True,
) -> Row:
    """Return a row with the address and the example of the built-in facts."""
    facts = load_built_in_facts().service(provider)
    assert facts is not None  # a test holds every row to have an entry
    return Row(
        provider, label, facts.example, dialect, base_url_variable, facts.address, key, prices, quirks, key_required
    )


ROWS: dict[str, Row] = {
    row.provider: row
    for row in (
        _row("openai", "OpenAI", "chat_completions", "OPENAI_BASE_URL", "OPENAI_API_KEY", "openai", OFFICIAL_OPENAI),
        _row(
            "openai-responses",
            "OpenAI Responses",
            "openai_responses",
            "OPENAI_BASE_URL",
            "OPENAI_API_KEY",
            "openai",
            OFFICIAL_OPENAI,
        ),
        _row(
            "azure",
            "Azure OpenAI",
            "azure",
            "AZURE_OPENAI_ENDPOINT",
            "AZURE_OPENAI_API_KEY",
            "azure",
            OFFICIAL_OPENAI,
        ),
        _row("anthropic", "Anthropic", "anthropic", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "anthropic"),
        _row("ollama", "Ollama", "ollama", "OLLAMA_HOST", "OLLAMA_API_KEY", key_required=False),
        _compatible("openrouter", "OpenRouter", key="OPENROUTER_API_KEY", prices="openrouter"),
        _compatible("groq", "Groq", key="GROQ_API_KEY", prices="groq"),
        _compatible("together", "Together", key="TOGETHER_API_KEY", prices="together"),
        _compatible("deepseek", "DeepSeek", key="DEEPSEEK_API_KEY", prices="deepseek"),
        # Mistral reports usage in the last chunk unasked, and refuses to be asked for it.
        _compatible("mistral", "Mistral", key="MISTRAL_API_KEY", prices="mistral", quirks=Quirks(include_usage=False)),
        _compatible("xai", "xAI", key="XAI_API_KEY", prices="x-ai"),
        _compatible("hf", "Hugging Face router", key="HF_TOKEN"),
        _compatible("gemini", "Gemini", key="GEMINI_API_KEY", prices="google"),
        _compatible("cerebras", "Cerebras", key="CEREBRAS_API_KEY", prices="cerebras"),
        _compatible("fireworks", "Fireworks", key="FIREWORKS_API_KEY", prices="fireworks"),
        _compatible("moonshot", "Moonshot", key="MOONSHOT_API_KEY", prices="moonshotai"),
        _compatible("zai", "Z.ai", key="ZAI_API_KEY", prices="zai"),
        _compatible("perplexity", "Perplexity", key="PERPLEXITY_API_KEY", prices="perplexity"),
        _compatible("vllm", "vLLM", key="VLLM_API_KEY", quirks=_LOCAL),
        _compatible("llama-server", "llama-server", key="LLAMA_SERVER_API_KEY", quirks=_LOCAL),
        _compatible("lmstudio", "LM Studio", key="LMSTUDIO_API_KEY", quirks=_LOCAL),
    )
}


def rows_with(facts: Facts) -> dict[str, Row]:
    """Return the rows with the addresses and examples of these facts."""
    found = dict(ROWS)
    for name, row in ROWS.items():
        if (entry := facts.service(name)) is not None:
            found[name] = replace(row, example=entry.example, base_url=entry.address or row.base_url)
    return found

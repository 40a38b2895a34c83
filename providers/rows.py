"""The services as rows of data: what each is called, what it needs, and in what it differs from the others."""

from dataclasses import dataclass
from typing import Literal

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
    example: str,
    base_url: str | None,
    *,
    key: str | None = None,
    prices: str | None = None,
    quirks: Quirks = Quirks(),
) -> Row:
    variable = f"{provider.upper().replace('-', '_')}_BASE_URL"
    return Row(provider, label, example, "chat_completions", variable, base_url, key, prices, quirks)


ROWS: dict[str, Row] = {
    row.provider: row
    for row in (
        Row(
            "openai",
            "OpenAI",
            "gpt-5-mini",
            "chat_completions",
            "OPENAI_BASE_URL",
            "https://api.openai.com/v1",
            "OPENAI_API_KEY",
            "openai",
            OFFICIAL_OPENAI,
        ),
        Row(
            "openai-responses",
            "OpenAI Responses",
            "gpt-5-mini",
            "openai_responses",
            "OPENAI_BASE_URL",
            "https://api.openai.com/v1",
            "OPENAI_API_KEY",
            "openai",
            OFFICIAL_OPENAI,
        ),
        Row(
            "azure",
            "Azure OpenAI",
            "my-deployment",
            "azure",
            "AZURE_OPENAI_ENDPOINT",
            None,
            "AZURE_OPENAI_API_KEY",
            "azure",
            OFFICIAL_OPENAI,
        ),
        Row(
            "anthropic",
            "Anthropic",
            "claude-haiku-4-5",
            "anthropic",
            "ANTHROPIC_BASE_URL",
            "https://api.anthropic.com",
            "ANTHROPIC_API_KEY",
            "anthropic",
        ),
        Row(
            "ollama",
            "Ollama",
            "llama3.2",
            "ollama",
            "OLLAMA_HOST",
            "http://127.0.0.1:11434",
            "OLLAMA_API_KEY",
            key_required=False,
        ),
        _compatible(
            "openrouter",
            "OpenRouter",
            "meta-llama/llama-3.3-70b-instruct",
            "https://openrouter.ai/api/v1",
            key="OPENROUTER_API_KEY",
            prices="openrouter",
        ),
        _compatible(
            "groq",
            "Groq",
            "llama-3.3-70b-versatile",
            "https://api.groq.com/openai/v1",
            key="GROQ_API_KEY",
            prices="groq",
        ),
        _compatible(
            "together",
            "Together",
            "meta-llama/Llama-3.3-70B-Instruct-Turbo",
            "https://api.together.xyz/v1",
            key="TOGETHER_API_KEY",
            prices="together",
        ),
        _compatible(
            "deepseek",
            "DeepSeek",
            "deepseek-chat",
            "https://api.deepseek.com/v1",
            key="DEEPSEEK_API_KEY",
            prices="deepseek",
        ),
        _compatible(
            "mistral",
            "Mistral",
            "mistral-small-latest",
            "https://api.mistral.ai/v1",
            key="MISTRAL_API_KEY",
            prices="mistral",
            # It refuses fields that it does not know, and reports usage in the last chunk unasked.
            quirks=Quirks(include_usage=False),
        ),
        _compatible("xai", "xAI", "grok-4", "https://api.x.ai/v1", key="XAI_API_KEY", prices="x-ai"),
        _compatible(
            "hf",
            "Hugging Face router",
            "meta-llama/Llama-3.3-70B-Instruct",
            "https://router.huggingface.co/v1",
            key="HF_TOKEN",
        ),
        _compatible("vllm", "vLLM", "my-model", None, key="VLLM_API_KEY", quirks=_LOCAL),
        _compatible("llama-server", "llama-server", "my-model", None, key="LLAMA_SERVER_API_KEY", quirks=_LOCAL),
        _compatible("lmstudio", "LM Studio", "my-model", None, key="LMSTUDIO_API_KEY", quirks=_LOCAL),
    )
}

"""The table of services: their names, addresses and keys, and parsing of `provider:model`."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from providers.models.facts import Facts, load_built_in_facts
from providers.models.fitting import SettingsFitter
from settings import Settings
from streaming.errors import MissingKeyError, UsageError

DialectName = Literal["chat_completions", "openai_responses", "azure", "anthropic", "ollama"]


@dataclass(frozen=True, slots=True)
class CompatProfile:
    """How one chat-completions service differs from the others.

    `shows_thinking`: the service streams all thinking, so a stream without thinking means 0 thinking tokens.
    `think_tags`: thinking may arrive as `<think>…</think>` in the text. `ignores_end_by` are the fields with which the
    server writes answers as long as their limit.
    """

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    include_usage: bool = True
    think_tags: bool = True
    shows_thinking: bool = False
    ignores_end_by: tuple[Literal["ignore_eos", "min_tokens"], ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One row of the services table. `key` and `base_url_variable` are the names of environment variables.

    `base_url` is the service's own address; when it is None, `base_url_variable` must be set. `prices` is the service's
    id in genai-prices, None when its prices are not listed there. `example` is a model that the service has. A required
    key may be missing only when the address is not the service's own (`vllm`, or another base URL than the service's).
    `lists_prices`: the service's own list of models has their prices.
    """

    provider: str
    label: str
    example: str
    dialect: DialectName
    base_url_variable: str
    base_url: str | None = None
    key: str | None = None
    prices: str | None = None
    profile: CompatProfile = CompatProfile()
    key_required: bool = True
    lists_prices: bool = False


_LOCAL_PROFILE = CompatProfile(shows_thinking=True)
LLAMA_CPP_PROFILE = CompatProfile(shows_thinking=True, ignores_end_by=("ignore_eos",))
_VLLM_PROFILE = CompatProfile(shows_thinking=True, ignores_end_by=("ignore_eos", "min_tokens"))

OFFICIAL_OPENAI = CompatProfile(max_tokens_field="max_completion_tokens", think_tags=False)
"""The vendor's own API: reasoning models reject `max_tokens`, and tags in the text belong to the text."""


def _compatible_service(
    provider: str,
    label: str,
    *,
    key: str | None = None,
    prices: str | None = None,
    profile: CompatProfile = CompatProfile(),
) -> ServiceSpec:
    variable = f"{provider.upper().replace('-', '_')}_BASE_URL"
    return _row(provider, label, "chat_completions", variable, key, prices, profile)


def _row(
    provider: str,
    label: str,
    dialect: DialectName,
    base_url_variable: str,
    key: str | None = None,
    prices: str | None = None,
    profile: CompatProfile = CompatProfile(),
    key_required: bool = True,
) -> ServiceSpec:
    """Return a row of the table, with its address and example model from the built-in facts."""
    facts = load_built_in_facts().service(provider)
    assert facts is not None  # a test checks that every row has an entry
    return ServiceSpec(
        provider, label, facts.example, dialect, base_url_variable, facts.address, key, prices, profile, key_required
    )


SERVICES: dict[str, ServiceSpec] = {
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
        _compatible_service("openrouter", "OpenRouter", key="OPENROUTER_API_KEY", prices="openrouter"),
        _compatible_service("groq", "Groq", key="GROQ_API_KEY", prices="groq"),
        _compatible_service("together", "Together", key="TOGETHER_API_KEY", prices="together"),
        _compatible_service("deepseek", "DeepSeek", key="DEEPSEEK_API_KEY", prices="deepseek"),
        # Mistral always reports usage in the last chunk, and rejects requests that contain `stream_options`.
        _compatible_service(
            "mistral", "Mistral", key="MISTRAL_API_KEY", prices="mistral", profile=CompatProfile(include_usage=False)
        ),
        _compatible_service("xai", "xAI", key="XAI_API_KEY", prices="x-ai"),
        replace(_compatible_service("hf", "Hugging Face router", key="HF_TOKEN"), lists_prices=True),
        _compatible_service("gemini", "Gemini", key="GEMINI_API_KEY", prices="google"),
        _compatible_service("cerebras", "Cerebras", key="CEREBRAS_API_KEY", prices="cerebras"),
        _compatible_service("fireworks", "Fireworks", key="FIREWORKS_API_KEY", prices="fireworks"),
        _compatible_service("moonshot", "Moonshot", key="MOONSHOT_API_KEY", prices="moonshotai"),
        _compatible_service("zai", "Z.ai", key="ZAI_API_KEY", prices="zai"),
        _compatible_service("perplexity", "Perplexity", key="PERPLEXITY_API_KEY", prices="perplexity"),
        _compatible_service("vllm", "vLLM", key="VLLM_API_KEY", profile=_VLLM_PROFILE),
        _compatible_service("llama-server", "llama-server", key="LLAMA_SERVER_API_KEY", profile=LLAMA_CPP_PROFILE),
        _compatible_service("lmstudio", "LM Studio", key="LMSTUDIO_API_KEY", profile=_LOCAL_PROFILE),
    )
}


def rows_with(facts: Facts) -> dict[str, ServiceSpec]:
    """Return the services table with the addresses and example models of these facts."""
    services = dict(SERVICES)
    for name, row in SERVICES.items():
        if (entry := facts.service(name)) is not None:
            services[name] = replace(row, example=entry.example, base_url=entry.address or row.base_url)
    return services


BUILTIN_PROVIDERS = ("local", "sim", "replay")
"""The providers that are built into this project."""

_DEFAULT_MODELS = {"sim": "steady"}


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """The address and key for one service. When `key` is None, requests carry no key. The repr shows no key."""

    row: ServiceSpec
    base_url: str
    key: str | None
    own_address: bool
    """True at the service's own address, where its public prices apply and its key is required."""
    is_local: bool = False
    """True when the address, as it is written, is on this machine or its private network."""

    @property
    def is_paid(self) -> bool:
        """Whether requests are charged to the key's owner, which is assumed for a key sent to a non-local address."""
        return self.key is not None and not self.is_local

    @property
    def is_gateway(self) -> bool:
        """Whether a vendor's key is sent to a local address, where a gateway may forward requests to the vendor."""
        return self.key is not None and self.is_local and is_public_vendor(self.row)

    @property
    def label(self) -> str:
        """The name of whoever answers here: the service's, or the host of another server at a vendor's variable."""
        if self.own_address or not is_public_vendor(self.row):
            return self.row.label
        return urlsplit(self.base_url).netloc.rpartition("@")[2]

    def __repr__(self) -> str:
        return f"ServiceEndpoint({self.row.provider!r}, {self.base_url!r})"

    @property
    def profile(self) -> CompatProfile:
        """The compatibility profile. At another address than OpenAI's, `openai` can be any compatible server.

        Such servers stream all their thinking, or count it if they hide it: without either there was none.
        """
        if self.row.profile is OFFICIAL_OPENAI and self.row.dialect != "azure" and not self.own_address:
            return CompatProfile(shows_thinking=True)
        return self.row.profile

    @property
    def is_azure_v1(self) -> bool:
        """Whether this is Azure's v1 API, which needs no API version."""
        return self.row.dialect == "azure" and urlsplit(self.base_url).path.rstrip("/").endswith("/openai/v1")

    def fitter(self, facts: Facts, profile: CompatProfile | None = None) -> SettingsFitter:
        """Return a fitter of requests to this service's models. `profile` replaces the endpoint's own profile."""
        field = (profile or self.profile).max_tokens_field
        return SettingsFitter(facts, self.row.provider, own_address=self.own_address, max_tokens_field=field)


def parse_model_name(name: str, rows: Mapping[str, ServiceSpec] = SERVICES) -> tuple[str, str]:
    """Return provider and model of a full name. Raises UsageError for an unknown provider or a missing model."""
    provider, _, model = name.strip().partition(":")
    if provider not in BUILTIN_PROVIDERS and provider not in SERVICES:
        raise UsageError(
            f"provider {provider!r}: unknown (write provider:model with one of "
            f"{', '.join((*BUILTIN_PROVIDERS, *SERVICES))})"
        )
    if provider == "local" and model:
        raise UsageError("local: has only one model (write local without a model name)")
    model = model.strip() or _DEFAULT_MODELS.get(provider, "")
    if provider == "replay" and not model:
        raise UsageError("replay: no trace is named (write replay:FILE with a recorded trace)")
    if provider in SERVICES and not model:
        raise UsageError(
            f"{provider}: no model is named (write {provider}:MODEL, for example {example_model_name(rows[provider])})"
        )
    return provider, model


def full_name(provider: str, model: str) -> str:
    """Return the name by which a model is requested, priced and offered: `provider:model`, or `provider` alone."""
    return f"{provider}:{model}" if model else provider


def example_model_name(row: ServiceSpec) -> str:
    """Return the full name of the service's example model."""
    return f"{row.provider}:{row.example}"


def resolve_endpoint(row: ServiceSpec, settings: Settings) -> ServiceEndpoint:
    """Return the address and key of a service. Raises UsageError or MissingKeyError naming the variable to set."""
    base_url = settings.get(row.base_url_variable) or row.base_url
    if base_url is None:
        raise UsageError(f"{row.label}: no address is set (set {row.base_url_variable} to the server's address)")
    if row.dialect == "ollama" and base_url.startswith(":"):
        base_url = f"127.0.0.1{base_url}"  # Ollama's own client takes a port alone, too
    host = _validate_base_url(base_url, row.base_url_variable, bare_host=row.dialect == "ollama")
    own_address = _is_official_host(row, base_url, host)
    key = settings.get(row.key) if row.key else None
    if row.key and row.key_required and key is None and (own_address or row.dialect == "azure"):
        raise MissingKeyError(f"{row.label}: no API key is set (set {row.key})")
    if key is not None and key[0] in "\"'" and key[-1] == key[0]:
        raise UsageError(f"{row.key}: is written in quotes (set it without them)")
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"{row.key}: contains a space or a character outside ASCII (copy the key again)")
    return ServiceEndpoint(row, base_url.rstrip("/"), key, own_address, is_local_host(host))


def service_variables() -> frozenset[str]:
    """Return the names of the variables that set up a service: its key, its address, its organization."""
    names = {name for row in SERVICES.values() for name in (row.key, row.base_url_variable) if name}
    return frozenset(names | {"OPENAI_API_VERSION", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"})


def missing_variable(row: ServiceSpec, settings: Settings) -> str | None:
    """Return the first variable that must be set before the service can be used, None when nothing is missing."""
    try:
        return missing_version(resolve_endpoint(row, settings), settings)
    except MissingKeyError:
        return row.key
    except UsageError:
        return row.base_url_variable


def missing_version(endpoint: ServiceEndpoint, settings: Settings) -> str | None:
    """Return the variable of Azure's API version where the endpoint needs one that is not set, else None."""
    if endpoint.row.dialect != "azure" or settings.get("OPENAI_API_VERSION") or endpoint.is_azure_v1:
        return None
    return "OPENAI_API_VERSION"


_LOCAL_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "0.0.0.0/32"),
        *("::1/128", "::/128", "fc00::/7", "fe80::/10"),
    )
)
_LOCAL_NAMES = (".localhost", ".local", ".docker.internal")


def is_local_host(host: str) -> bool:
    """Return whether a host is this machine or on its private network.

    Names are compared as they are written and never resolved, because their addresses may change.
    """
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(_LOCAL_NAMES):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in _LOCAL_NETWORKS)


def is_public_vendor(row: ServiceSpec) -> bool:
    """Return whether a service has its own public address, where it charges for requests."""
    return row.dialect == "azure" or (
        row.base_url is not None and not is_local_host(urlsplit(row.base_url).hostname or "")
    )


def _validate_base_url(base_url: str, variable: str, *, bare_host: bool) -> str:
    """Return the host of a base URL. `bare_host`: the scheme is optional. Raises UsageError for no base URL."""
    text = f"http://{base_url}" if bare_host and "://" not in base_url else base_url
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if not host or parts.scheme not in ("http", "https") or any(c.isspace() for c in text) or parts.query:
        raise UsageError(f"{variable}: {base_url!r} is not a base URL (write it like https://example.com/v1)")
    return host


def _is_official_host(row: ServiceSpec, base_url: str, host: str) -> bool:
    if row.dialect == "azure":
        return host.endswith((".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"))
    return row.base_url is not None and urlsplit(base_url).netloc == urlsplit(row.base_url).netloc

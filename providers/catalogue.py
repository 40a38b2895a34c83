"""Names, addresses and keys: reads `provider:model`, and says in one line what is missing."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from providers.facts import Facts
from providers.fitting import SettingsFitter
from providers.rows import OFFICIAL_OPENAI, ROWS, Quirks, Row
from settings import Settings
from streaming.errors import MissingKey, UsageError

OWN = ("local", "sim", "replay")
"""The providers that this project brings itself."""

_DEFAULTS = {"sim": "steady"}


@dataclass(frozen=True, slots=True)
class Access:
    """Where a service is reached and with which key; `key` None: it is asked without one. A repr shows no key."""

    row: Row
    base_url: str
    key: str | None
    own_address: bool
    """True at the service's own address: its public prices hold, and its key is required."""
    is_local: bool = False
    """True at an address of this machine or its private network, as it is written."""

    @property
    def is_paid(self) -> bool:
        """Whether requests are charged to the key's owner: a key is sent to an address that is not local."""
        return self.key is not None and not self.is_local

    @property
    def is_gateway(self) -> bool:
        """Whether a vendor's key is sent to a local address: a gateway there may pass requests on to the vendor."""
        return self.key is not None and self.is_local and is_public_vendor(self.row)

    def __repr__(self) -> str:
        return f"Access({self.row.provider!r}, {self.base_url!r})"

    @property
    def quirks(self) -> Quirks:
        """In what it differs; at an address of the asker's own, `openai` is any compatible server.

        Such servers send thinking as it comes, and those that hide it count it: none seen and none counted is none.
        """
        if self.row.quirks is OFFICIAL_OPENAI and self.row.dialect != "azure" and not self.own_address:
            return Quirks(shows_thinking=True)
        return self.row.quirks

    @property
    def is_azure_v1(self) -> bool:
        """Whether this is Azure's v1 address, which needs no API version."""
        return self.row.dialect == "azure" and urlsplit(self.base_url).path.rstrip("/").endswith("/openai/v1")

    def fitter(self, facts: Facts, quirks: Quirks | None = None) -> SettingsFitter:
        """Return what fits requests to the models of this service; `quirks` stand in for its own."""
        field = (quirks or self.quirks).max_tokens_field
        return SettingsFitter(facts, self.row.provider, own_address=self.own_address, max_tokens_field=field)


def split_name(name: str, rows: Mapping[str, Row] = ROWS) -> tuple[str, str]:
    """Give provider and model of a full name. Raises UsageError when there is no such provider, or no model."""
    provider, _, model = name.strip().partition(":")
    if provider not in OWN and provider not in ROWS:
        raise UsageError(f"no provider {provider!r}; there are {', '.join((*OWN, *ROWS))} (written provider:model)")
    if provider == "local" and model:
        raise UsageError("local has one model: write it without another name")
    model = model.strip() or _DEFAULTS.get(provider, "")
    if provider == "replay" and not model:
        raise UsageError("replay: which trace? Write replay:FILE, with a recorded trace")
    if provider in ROWS and not model:
        raise UsageError(f"{provider}: which model? Write {provider}:MODEL, for example {full_example(rows[provider])}")
    return provider, model


def full_name(provider: str, model: str) -> str:
    """Return the name under which a model is asked, priced and offered."""
    return f"{provider}:{model}" if model else provider


def full_example(row: Row) -> str:
    """Give a full name that the service can be asked by."""
    return f"{row.provider}:{row.example}"


def access(row: Row, settings: Settings) -> Access:
    """Give the way to a service. Raises UsageError or MissingKey naming the variable to set."""
    given = settings.get(row.base_url_variable)
    base_url = given or row.base_url
    if base_url is None:
        raise UsageError(f"{row.label}: set {row.base_url_variable} to the server's address, then ask again")
    host = _checked(base_url, row.base_url_variable, bare_host=row.dialect == "ollama")
    own_address = _is_own(row, base_url, host)
    key = settings.get(row.key) if row.key else None
    if row.key and row.key_required and key is None and (own_address or row.dialect == "azure"):
        raise MissingKey(f"{row.label} needs a key: set {row.key}, then ask again")
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"{row.key} holds characters that no key has (a space, or one outside ASCII)")
    return Access(row, base_url.rstrip("/"), key, own_address, is_local_host(host))


def needs(row: Row, settings: Settings) -> str | None:
    """Give the first variable that must be set before the service can be asked, None when nothing is missing."""
    try:
        access(row, settings)
    except MissingKey:
        return row.key
    except UsageError:
        return row.base_url_variable
    if row.dialect != "azure" or settings.get("OPENAI_API_VERSION") or access(row, settings).is_azure_v1:
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

    Names are judged as they are written, never resolved: where a name leads may change.
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


def is_public_vendor(row: Row) -> bool:
    """Return whether a service has an address of its own on the internet, where it charges for what is asked."""
    return row.dialect == "azure" or (
        row.base_url is not None and not is_local_host(urlsplit(row.base_url).hostname or "")
    )


def _checked(base_url: str, variable: str, *, bare_host: bool) -> str:
    """Give the host name. `bare_host`: the scheme may be left out."""
    text = f"http://{base_url}" if bare_host and "://" not in base_url else base_url
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if not host or parts.scheme not in ("http", "https") or any(c.isspace() for c in text) or parts.query:
        raise UsageError(f"{variable} is not a base URL: {base_url!r} (write it like https://example.com/v1)")
    return host


def _is_own(row: Row, base_url: str, host: str) -> bool:
    if row.dialect == "azure":
        return host.endswith((".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"))
    return row.base_url is not None and urlsplit(base_url).netloc == urlsplit(row.base_url).netloc

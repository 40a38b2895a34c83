"""The environment, read once into a frozen `Settings` that entry points pass down; values never show in a repr."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import unquote

from streaming.errors import UsageError

_LISTENING_HOST = "STREAMGAUGE_LISTENING_HOST"
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The name that prometheus_client reads."""

_SECRET_NAME_PARTS = re.compile(
    r".*(?:KEYS?|TOKEN|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|_PASS|_PAT|_DSN|CONNECTION_STRING|REDIS_URL)"
    r"(?:_?\d+)?"
)
"""Names of variables whose value is a secret."""
_PASSWORD_IN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@")
_MIN_SECRET_CHARS = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """Variables by name. Keys and base URLs have the names that each vendor's own SDK reads."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the process's environment, once."""
        return cls(MappingProxyType(dict(os.environ)))

    def get(self, name: str) -> str | None:
        """Give a variable without surrounding white space; None when unset or empty."""
        return self.variables.get(name, "").strip() or None

    @property
    def on_space(self) -> bool:
        """Whether this runs as a Hugging Face Space."""
        return self.get("SPACE_ID") is not None

    @property
    def redis_url(self) -> str | None:
        """Where several processes share limits and streams (`REDIS_URL`); None for one process alone."""
        return self.get("REDIS_URL")

    @property
    def allowed_origins(self) -> frozenset[str]:
        """Other sites whose pages may talk to this service (`ALLOWED_ORIGINS`, comma-separated)."""
        return frozenset(origin.rstrip("/").lower() for origin in self._listed("ALLOWED_ORIGINS"))

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Names under which this service is asked (`ALLOWED_HOSTS`, comma-separated), as they are written."""
        return self._listed("ALLOWED_HOSTS")

    def _listed(self, name: str) -> frozenset[str]:
        """Return the entries between commas; the whole value where there is none, for it means nothing."""
        text = self.get(name)
        entries = {entry.strip() for entry in (text or "").split(",")} - {""}
        return frozenset(entries or ({text} if text else ()))

    @property
    def public_models(self) -> tuple[str, ...] | None:
        """What callers may ask beside the example models (`PUBLIC_MODELS`, comma-separated); None where unset."""
        written = self.get("PUBLIC_MODELS")
        return None if written is None else tuple(entry.strip() for entry in written.split(",") if entry.strip())

    @property
    def is_behind_proxy(self) -> bool:
        """Whether proxies in front speak for callers (`TRUSTED_HOPS` above 0)."""
        return (self.get("TRUSTED_HOPS") or "").strip("0") != ""

    @property
    def reader_timeout_s(self) -> int:
        """How long a connection may take nothing of what is sent to it (`READER_TIMEOUT_S`). Raises UsageError."""
        value = self.get("READER_TIMEOUT_S") or "30"
        if not (value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= 3600):
            raise UsageError(f"READER_TIMEOUT_S: {value[:40]!r} cannot be used: write whole seconds from 1 to 3600")
        return int(value)

    @property
    def first_content_s(self) -> int | None:
        """How long an answer may show nothing, in seconds (`FIRST_CONTENT_S`); None: the default. Raises UsageError."""
        value = self.get("FIRST_CONTENT_S")
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= 3600):
            raise UsageError(f"FIRST_CONTENT_S: {value[:40]!r} cannot be used: write whole seconds from 1 to 3600")
        return int(value)

    @property
    def provider_facts(self) -> str | None:
        """A TOML file whose facts of services and models win over the built-in ones (`PROVIDER_FACTS`)."""
        return self.get("PROVIDER_FACTS")

    def set_metrics_folder(self, folder: str) -> None:
        """Let the processes that are started from now on put their figures into that folder."""
        os.environ[METRICS_FOLDER] = folder

    def share_listening_host(self, host: str) -> None:
        """Let the processes that are started from now on know the address that the service listens on."""
        os.environ[_LISTENING_HOST] = host

    @property
    def listening_host(self) -> str | None:
        """The address that the service listens on, set for workers by the process that starts them; else None."""
        return self.get(_LISTENING_HOST)

    @property
    def metrics_folder(self) -> str | None:
        """Where several workers put their figures together; set for them by the process that starts them."""
        return self.get(METRICS_FOLDER)

    @property
    def model_path(self) -> str | None:
        """A GGUF file for the local model, instead of the packaged one (`STREAMGAUGE_MODEL`)."""
        return self.get("STREAMGAUGE_MODEL")

    def secrets(self) -> frozenset[str]:
        """Return the values of all variables that look like secrets, and the passwords in those that are URLs."""
        values = {value.strip() for name, value in self.variables.items() if _is_secret(name, value)}
        values |= {part.strip() for value in values for part in value.split(",")}
        passwords = {found[1] for value in values if (found := _PASSWORD_IN_URL.match(value)) is not None}
        return frozenset((values | passwords | {unquote(password) for password in passwords}) - {""})

    def mask_secrets(self, text: str) -> str:
        """Give `text` with the value of every variable that looks like a secret replaced by `[NAME]`, cut ones too."""
        secrets = [(value.strip(), name) for name, value in self.variables.items() if _is_secret(name, value)]
        for value, name in sorted(secrets, key=lambda secret: -len(secret[0])):
            if len(value) < _MIN_SECRET_CHARS:
                continue
            text = text.replace(value, f"[{name}]")
            if "…" in text:
                for length in range(len(value) - 1, _MIN_SECRET_CHARS - 1, -1):
                    text = text.replace(f"{value[:length]}…", f"[{name}]…")
        return text


def _is_secret(name: str, value: str) -> bool:
    return _SECRET_NAME_PARTS.fullmatch(name.upper()) is not None or _PASSWORD_IN_URL.match(value.strip()) is not None

"""The environment, read once into a frozen `Settings` that entry points pass on. Values never appear in a repr."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import unquote

from streaming.errors import UsageError

_LISTENING_HOST = "STREAMGAUGE_LISTENING_HOST"
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable from which prometheus_client reads its folder."""

_SECRET_NAME_PARTS = re.compile(
    r".*(?:KEYS?|TOKEN|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|_PASS|_PAT|_DSN|CONNECTION_STRING|REDIS_URL)"
    r"(?:_?\d+)?"
)
"""Matches the names of variables whose value is a secret."""
_PASSWORD_IN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@")
_MIN_SECRET_CHARS = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment variables by name. API keys and base URLs have the names that each vendor's own SDK reads."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_environment(cls) -> "Settings":
        """Return the settings from a copy of this process's environment."""
        return cls(MappingProxyType(dict(os.environ)))

    def get(self, name: str) -> str | None:
        """Return the value of a variable without surrounding white space, or None when it is unset or empty."""
        return self.variables.get(name, "").strip() or None

    @property
    def on_space(self) -> bool:
        """Whether this runs as a Hugging Face Space."""
        return self.get("SPACE_ID") is not None

    @property
    def redis_url(self) -> str | None:
        """The Redis server through which processes share limits and streams (`REDIS_URL`); None for one process."""
        return self.get("REDIS_URL")

    @property
    def allowed_origins(self) -> frozenset[str]:
        """Origins of other sites whose pages may call this service (`ALLOWED_ORIGINS`, comma-separated)."""
        return frozenset(origin.rstrip("/").lower() for origin in self._split_list("ALLOWED_ORIGINS"))

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Host names that requests may use for this service (`ALLOWED_HOSTS`, comma-separated), not yet validated."""
        return self._split_list("ALLOWED_HOSTS")

    def _split_list(self, name: str) -> frozenset[str]:
        """Return the comma-separated entries of a variable.

        A value of commas alone is returned as a single entry, so that it is reported as invalid and not ignored.
        """
        text = self.get(name)
        entries = {entry.strip() for entry in (text or "").split(",")} - {""}
        return frozenset(entries or ({text} if text else ()))

    @property
    def public_models(self) -> tuple[str, ...] | None:
        """Models that callers may use besides the example models (`PUBLIC_MODELS`, comma-separated); None if unset."""
        written = self.get("PUBLIC_MODELS")
        return None if written is None else tuple(entry.strip() for entry in written.split(",") if entry.strip())

    @property
    def is_behind_proxy(self) -> bool:
        """Whether trusted proxies in front forward the requests of callers (`TRUSTED_HOPS` above 0)."""
        return (self.get("TRUSTED_HOPS") or "").strip("0") != ""

    @property
    def reader_timeout_s(self) -> int:
        """How long a client may read nothing before its connection is dropped, in seconds (`READER_TIMEOUT_S`).

        Raises UsageError when the value is not a whole number from 1 to 3600.
        """
        value = self.get("READER_TIMEOUT_S") or "30"
        if not (value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= 3600):
            raise UsageError(f"READER_TIMEOUT_S: {value[:40]!r} cannot be used (write whole seconds from 1 to 3600)")
        return int(value)

    @property
    def first_content_s(self) -> int | None:
        """The timeout for the first content of an answer, in seconds (`FIRST_CONTENT_S`); None means the default.

        Raises UsageError when the value is not a whole number from 1 to 3600.
        """
        value = self.get("FIRST_CONTENT_S")
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= 3600):
            raise UsageError(f"FIRST_CONTENT_S: {value[:40]!r} cannot be used (write whole seconds from 1 to 3600)")
        return int(value)

    @property
    def provider_facts(self) -> str | None:
        """A TOML file whose facts about services and models override the built-in ones (`PROVIDER_FACTS`)."""
        return self.get("PROVIDER_FACTS")

    def set_metrics_folder(self, folder: str) -> None:
        """Make processes started from now on write their metrics to that folder."""
        os.environ[METRICS_FOLDER] = folder

    def share_listening_host(self, host: str) -> None:
        """Pass the address that the service listens on to processes started from now on."""
        os.environ[_LISTENING_HOST] = host

    @property
    def listening_host(self) -> str | None:
        """The address that the service listens on, set for workers by their supervisor; None in other processes."""
        return self.get(_LISTENING_HOST)

    @property
    def metrics_folder(self) -> str | None:
        """The folder in which workers combine their metrics, set by their supervisor; None for a single process."""
        return self.get(METRICS_FOLDER)

    @property
    def model_path(self) -> str | None:
        """A GGUF file that replaces the packaged local model (`STREAMGAUGE_MODEL`); None for the packaged one."""
        return self.get("STREAMGAUGE_MODEL")

    def secrets(self) -> frozenset[str]:
        """Return the values of all variables that look like secrets, with the entries of lists and passwords in URLs.

        Passwords are included both as written and percent-decoded.
        """
        values = {value.strip() for name, value in self.variables.items() if _is_secret(name, value)}
        values |= {part.strip() for value in values for part in value.split(",")}
        passwords = {match[1] for value in values if (match := _PASSWORD_IN_URL.match(value)) is not None}
        return frozenset((values | passwords | {unquote(password) for password in passwords}) - {""})

    def mask_secrets(self, text: str) -> str:
        """Return `text` with every value that looks like a secret replaced by `[NAME]`.

        Values truncated with `…` are replaced too. Values shorter than 8 characters are not: they could be plain words.
        """
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

"""The environment, read once into a frozen `Settings` that entry points pass on. Values never appear in a repr.

`VariableModel` is the base of every model of environment variables: here of the service's, in `guard.config` of the
guard's.
"""

import difflib
import os
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import Field, PlainValidator, SkipValidation, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from streaming.errors import UsageError
from streaming.http.certificates import TrustedCertificates
from streaming.http.proxies import parse_proxy, plain_exceptions
from streaming.http.root_path import is_root_path

_LISTENING_HOST = "STREAMGAUGE_LISTENING_HOST"
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable from which prometheus_client reads its folder."""

_SECRET_NAME_PARTS = re.compile(
    r".*(?:KEYS?|TOKEN|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|_PASS|_PAT|_DSN|CONNECTION_STRING|REDIS_URL)"
    r"(?:_?\d+)?"
)
"""Matches the names of variables whose value is a secret."""
_PASSWORD_IN_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?[^\s/:@]*:([^\s/@]+)@")
_MIN_SECRET_CHARS = 8
_SIGN_IN_SCOPE = "inference-api"
MIN_LIKENESS = 0.85
"""How alike the names of two variables are, from 0 to 1, of which one is taken for a misspelling of the other."""
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_NO_PROXIES = ("NO_PROXY", "no_proxy")
CONNECTION_VARIABLES = (*_PROXIES, *_NO_PROXIES, "SSL_CERT_FILE", "SSL_CERT_DIR")
"""The variables that HTTP libraries read by themselves when a client is created."""
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


class InvalidVariablesError(UsageError):
    """Environment variables that cannot be used; `problems` has one line for each, `NAME: problem (what to do)`."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def read_environment() -> Mapping[str, str]:
    """Return an immutable copy of this process's environment."""
    return MappingProxyType(dict(os.environ))


@contextmanager
def hidden_variables(*names: str) -> Iterator[None]:
    """Hide variables of this process from a library that reads them by itself, without an argument that prevents it."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def repair_environment() -> tuple[str, ...]:
    """Make the proxies and certificates of this process's environment usable by libraries; return what is ignored.

    Gradio and the Hub's client create HTTP clients when they are imported, and fail on a value that they cannot use,
    although the page needs none of these variables. Providers still get the values as they were read, and reject them
    where they are needed. Each line returned names a variable.
    """
    problems = []
    for name in _PROXIES:
        if os.environ.get(name, "").strip():
            try:
                os.environ[name] = parse_proxy(name, os.environ[name].strip())
            except UsageError as error:
                problems.append(str(error))
                del os.environ[name]
    for name in _NO_PROXIES:
        if name in os.environ:
            os.environ[name] = ",".join(plain_exceptions(os.environ[name]))
    named = TrustedCertificates(os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None)
    alone = {"SSL_CERT_FILE": TrustedCertificates(named.file), "SSL_CERT_DIR": TrustedCertificates(None, named.folders)}
    for name, certificates in alone.items():
        try:
            certificates.create_context(lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        except UsageError as error:
            problems.append(str(error))
            del os.environ[name]
    return tuple(problems)


def use_one_thread_for_arithmetic() -> None:
    """Let numpy's OpenBLAS use one thread, unless the environment says otherwise; call it before numpy is imported.

    It starts a thread for every core, which spins for a tenth of a second after it was started and after each product
    of matrices: on a machine with few cores, that time is taken from what is measured.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def invalid_value(value: str, write: str) -> ValueError:
    """Return the error of a value, to be raised by a validator: `'value' cannot be used (write …)`."""
    shown = value if len(value) <= 40 else value[:40] + "…"
    return ValueError(f"{shown!r} cannot be used (write {write})")


def find_misspelt_variables(variables: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """Return a line for each set variable that nothing reads but whose name is almost that of one that is not set."""
    known = frozenset(known)
    missing = [name for name in known if not variables.get(name, "").strip()]
    others = sorted(name for name, value in variables.items() if value.strip() and name not in known)
    nearest = {name: difflib.get_close_matches(name, missing, n=1, cutoff=MIN_LIKENESS) for name in others}
    return [f"{name}: is not read here (did you mean {near[0]}?)" for name, near in nearest.items() if near]


def whole_number_parser(least: int, most: int, unit: str = "a whole number") -> Callable[[str], int]:
    """Return the parser of a whole number, written in ASCII digits alone."""

    def parse_whole_number(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= 15 and least <= int(value) <= most):
            raise invalid_value(value, f"{unit} from {least} to {most}")
        return int(value)

    return parse_whole_number


def split_list(text: str) -> tuple[str, ...]:
    """Return the comma-separated entries of a value.

    A value of commas alone is returned as a single entry, so that it is reported as invalid and not ignored.
    """
    return tuple(entry.strip() for entry in text.split(",") if entry.strip()) or (text,)


class _VariablesSource(PydanticBaseSettingsSource):
    """The values of a model's variables without surrounding white space; empty variables count as unset."""

    def __init__(self, model: type[BaseSettings], variables: Mapping[str, str]) -> None:
        super().__init__(model)
        self._variables = variables

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = str(field.validation_alias or field_name)
        return self._variables.get(name, "").strip() or None, name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields.items()
        values = (self.get_field_value(field, name) for name, field in fields if name != "variables")
        return {name: value for value, name, _ in values if value is not None}


class VariableModel(BaseSettings):
    """A typed model of environment variables, frozen; a field's `validation_alias` is the variable's name.

    Raises InvalidVariablesError, with a line for each variable whose value is invalid.
    """

    model_config = SettingsConfigDict(frozen=True, arbitrary_types_allowed=True, validate_default=False)

    variables: Annotated[Mapping[str, str], SkipValidation] = NO_VARIABLES

    def __init__(self, variables: Mapping[str, str] = NO_VARIABLES) -> None:
        try:
            super().__init__(variables=MappingProxyType(dict(variables)))
        except ValidationError as error:
            problems = [_describe_problem(str(result["loc"][0]), result.get("ctx", {})) for result in error.errors()]
            raise InvalidVariablesError(problems) from None

    @classmethod
    def settings_customise_sources(  # the hook's name is the library's
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the variables that the model was created with, and no others."""
        return init_settings, _VariablesSource(settings_cls, init_settings()["variables"])

    @classmethod
    def variable_names(cls) -> frozenset[str]:
        """Return the names of the variables that the model reads."""
        return frozenset(str(field.validation_alias) for field in cls.model_fields.values() if field.validation_alias)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    __str__ = __repr__


def _describe_problem(name: str, context: Mapping[str, Any]) -> str:
    return f"{name}: {context['error']}"


def check_variables(variables: Mapping[str, str], *models: type[VariableModel]) -> None:
    """Raise InvalidVariablesError with the problems of all models together, if there are any."""
    problems: list[str] = []
    for model in models:
        try:
            model(variables)
        except InvalidVariablesError as error:
            problems += error.problems
    if problems:
        raise InvalidVariablesError(problems)


def _parse_root_path(value: str) -> str:
    if not is_root_path(value):
        raise invalid_value(value, "a path of its own, for example /chat, without a trailing slash")
    return value


def _parse_switch(value: str) -> bool:
    if value.lower() not in ("on", "off"):
        raise invalid_value(value, "on or off")
    return value.lower() == "on"


Switch = Annotated[bool, PlainValidator(_parse_switch)]
_Names = Annotated[frozenset[str], PlainValidator(lambda text: frozenset(split_list(text)))]
_Origins = Annotated[
    frozenset[str], PlainValidator(lambda text: frozenset(entry.rstrip("/").lower() for entry in split_list(text)))
]
_Models = Annotated[
    tuple[str, ...], PlainValidator(lambda text: tuple(part.strip() for part in text.split(",") if part.strip()))
]
_RootPath = Annotated[str, PlainValidator(_parse_root_path)]
_ZeroGPU = Annotated[bool, PlainValidator(lambda text: text.lower() in ("1", "t", "true"))]
_Port = Annotated[int, PlainValidator(whole_number_parser(0, 65535, "a port"))]
_Seconds = Annotated[int, PlainValidator(whole_number_parser(1, 3600, "whole seconds"))]


DEFAULT_REDIS_TIMEOUT_S = 1


class Settings(VariableModel):
    """The environment of the service. API keys and base URLs have the names that each vendor's own SDK reads.

    Those names are data of `providers.services`, so their values are read with `get`.
    """

    space_id: str | None = Field(None, validation_alias="SPACE_ID")
    on_zero_gpu: _ZeroGPU = Field(False, validation_alias="SPACES_ZERO_GPU")
    """Whether this Space has ZeroGPU hardware, by the words that the package `spaces` reads."""
    port: _Port | None = Field(None, validation_alias="PORT")
    """The port that the service listens on without `--port`; None for the default, which a Space always has."""
    redis_url: str | None = Field(None, validation_alias="REDIS_URL")
    """The Redis server through which processes share limits and streams; None for one process."""
    redis_timeout_s: _Seconds = Field(DEFAULT_REDIS_TIMEOUT_S, validation_alias="REDIS_TIMEOUT_S")
    """How long a shared limit may wait for Redis before this process counts alone."""
    allowed_origins: _Origins = Field(frozenset(), validation_alias="ALLOWED_ORIGINS")
    """Origins of other sites whose pages may call this service, comma-separated."""
    allowed_hosts: _Names = Field(frozenset(), validation_alias="ALLOWED_HOSTS")
    """Host names that requests may use for this service, comma-separated, not yet validated."""
    root_path: _RootPath = Field("", validation_alias="ROOT_PATH")
    """The path below which proxies publish this service, such as `/chat`; empty if there is none."""
    public_models: _Models | None = Field(None, validation_alias="PUBLIC_MODELS")
    """Models that callers may use besides the example models, comma-separated; None if unset."""
    reader_timeout_s: _Seconds = Field(30, validation_alias="READER_TIMEOUT_S")
    """How long a client may read nothing before its connection is dropped."""
    page_grace_s: _Seconds = Field(30, validation_alias="PAGE_GRACE_S")
    """How long an answer of the page goes on after its page was closed, for a page that is loaded anew."""
    first_content_s: _Seconds | None = Field(None, validation_alias="FIRST_CONTENT_S")
    """The timeout for the first content of an answer; None means the default."""
    provider_facts: str | None = Field(None, validation_alias="PROVIDER_FACTS")
    """A TOML file whose facts about services and models override the built-in ones."""
    model_path: str | None = Field(None, validation_alias="STREAMGAUGE_MODEL")
    """A GGUF file that replaces the packaged local model; None for the packaged one."""
    preloads_model: Switch = Field(True, validation_alias="PRELOAD_MODEL")
    """Whether the service loads the local model at its start, and not with the first request for it."""
    recordings_folder: str | None = Field(None, validation_alias="RECORDINGS_DIR")
    """A folder to which the service writes the traces of every answer; None records nothing."""
    feedback_folder: str | None = Field(None, validation_alias="FEEDBACK_DIR")
    """A folder to which the service writes readers' ratings of answers; None shows no thumbs."""
    runs_folder: str | None = Field(None, validation_alias="RUNS_DIR")
    """The folder whose evaluation and load-test runs the page shows; None for `out`."""
    listening_host: str | None = Field(None, validation_alias=_LISTENING_HOST)
    """The address that the service listens on, set for workers by their supervisor; None in other processes."""
    metrics_folder: str | None = Field(None, validation_alias=METRICS_FOLDER)
    """The folder in which workers combine their metrics, set by their supervisor; None for a single process."""

    def __init__(self, variables: Mapping[str, str] = NO_VARIABLES) -> None:
        super().__init__(variables)

    @classmethod
    def from_environment(cls) -> "Settings":
        """Return the settings from a copy of this process's environment. Raises InvalidVariablesError."""
        return cls(read_environment())

    def get(self, name: str) -> str | None:
        """Return the value of a variable without surrounding white space, or None when it is unset or empty."""
        return self.variables.get(name, "").strip() or None

    @property
    def on_space(self) -> bool:
        """Whether this runs as a Hugging Face Space."""
        return self.space_id is not None

    @property
    def offers_sign_in(self) -> bool:
        """Whether users can sign in with Hugging Face: on a Space whose card has `hf_oauth` and the scope for models.

        These are the variables that Gradio requires. It replaces the sign-in by a mock with this machine's own token
        unless `SYSTEM` says that this is a Space. Its routes are those of a Space's root, so below `ROOT_PATH` there is
        no sign-in.
        """
        is_space = self.on_space and self.get("SYSTEM") == "spaces" and not self.root_path
        client = ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OPENID_PROVIDER_URL")
        return is_space and all(map(self.get, client)) and _SIGN_IN_SCOPE in (self.get("OAUTH_SCOPES") or "").split()

    @property
    def certificates(self) -> TrustedCertificates:
        """The certificate authorities that the environment names for requests to providers."""
        return TrustedCertificates(self.get("SSL_CERT_FILE"), self.get("SSL_CERT_DIR"))

    @property
    def is_behind_proxy(self) -> bool:
        """Whether a trusted proxy forwards the requests of callers (`TRUSTED_HOPS` above 0; on a Space by default)."""
        hops = self.get("TRUSTED_HOPS")
        return self.on_space if hops is None else hops.strip("0") != ""

    def set_metrics_folder(self, folder: str) -> None:
        """Make processes started from now on write their metrics to that folder."""
        os.environ[METRICS_FOLDER] = folder

    def share_listening_host(self, host: str) -> None:
        """Pass the address that the service listens on to processes started from now on."""
        os.environ[_LISTENING_HOST] = host

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
        for value, name in self._masked_values:
            text = text.replace(value, f"[{name}]")
            if "…" in text:
                for length in range(len(value) - 1, _MIN_SECRET_CHARS - 1, -1):
                    text = text.replace(f"{value[:length]}…", f"[{name}]…")
        return text

    @cached_property
    def _masked_values(self) -> list[tuple[str, str]]:
        """The values that `mask_secrets` replaces, each with its variable's name, the longest first."""
        secrets = [(value.strip(), name) for name, value in self.variables.items() if _is_secret(name, value)]
        secrets += [(match[1], name) for value, name in secrets if (match := _PASSWORD_IN_URL.match(value)) is not None]
        return sorted((secret for secret in secrets if len(secret[0]) >= _MIN_SECRET_CHARS), key=lambda s: -len(s[0]))


def _is_secret(name: str, value: str) -> bool:
    return _SECRET_NAME_PARTS.fullmatch(name.upper()) is not None or _PASSWORD_IN_URL.match(value.strip()) is not None

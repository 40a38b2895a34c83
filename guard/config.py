"""Parsing of the guard's environment variables into a frozen `GuardConfig`.

Every error message names the variable and the values it accepts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeVar

from limits import RateLimitItem, parse

from guard.budget import Budget
from guard.content_filter import DEFAULT_BLOCKLIST
from guard.identity import ApiKeys, parse_keys
from guard.secret_patterns import TERM_CHARS
from guard.text_normalization import normalize
from guard.validation import RULES, STRICT, InputLimits, Rule
from streaming.errors import UsageError

T = TypeVar("T")

UNLIMITED_BUDGET = Budget(streams_per_caller=None, streams_total=None, output_tokens=None)

_MAX_REQUESTS = 100_000
_SWITCHES = {"on": True, "off": False}
_VALIDATION_MODES = {"default": InputLimits(), "strict": STRICT}
MAX_BODY_BYTES = 2**30
MAX_JSON_DEPTH = 500
"""The deepest configurable JSON nesting. Deeper JSON would exhaust the parser's stack."""


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """The guard's configuration. The defaults suit a public demo.

    A `rate` of None disables rate limiting, and a `blocklist` of None disables the content filter. `page_rate` limits
    how many pages one address may open; it is ignored when `rate` is None.

    `hops` is the number of trusted proxies that write X-Forwarded-For. It defaults to 1 on a Hugging Face Space, which
    always has a proxy: with 0, all visitors would share one address. `banned` holds normalized terms, and `secrets`
    holds exact values that no answer may contain.
    """

    rate: RateLimitItem | None = field(default_factory=lambda: parse("10/minute"))
    page_rate: RateLimitItem | None = field(default_factory=lambda: parse("60/minute"))
    hops: int = 0
    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: InputLimits = field(default_factory=InputLimits)
    blocklist: Path | None = DEFAULT_BLOCKLIST
    output_filter: bool = True
    banned: tuple[str, ...] = ()
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    budget: Budget = field(default_factory=lambda: Budget(usd_per_caller=Decimal(1), usd_total=Decimal(10)))

    @classmethod
    def from_env(cls, variables: Mapping[str, str], secrets: Iterable[str] = ()) -> "GuardConfig":
        """Parse the variables and use the defaults for unset ones. Raises UsageError when a value is invalid."""
        read = _VariableReader(variables)
        default = cls()
        content = read.read("CONTENT_FILTER", _parse_switch, True)
        rate = read.read("RATE_LIMIT", _parse_rate, default.rate)
        # Turning off the rate limit signals a load test: then only explicitly set budgets apply.
        budget = default.budget if rate is not None else UNLIMITED_BUDGET
        return cls(
            rate=rate,
            page_rate=read.read("PAGE_RATE_LIMIT", _parse_rate, default.page_rate),
            hops=read.read("TRUSTED_HOPS", _whole_number_parser(0, 16), 1 if variables.get("SPACE_ID") else 0),
            keys=read.read("API_KEYS", lambda name, value: parse_keys(value), default.keys),
            limits=_read_limits(read),
            blocklist=read.read("BLOCKLIST", _parse_file, DEFAULT_BLOCKLIST) if content else None,
            secrets=frozenset(secrets),
            output_filter=read.read("OUTPUT_FILTER", _parse_switch, True),
            banned=read.read("OUTPUT_BANNED", _parse_terms, default.banned)
            + read.read("OUTPUT_BANNED_FILE", _read_terms_file, default.banned),
            budget=_read_budget(read, budget),
        )


class _VariableReader:
    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def read(self, name: str, parsed: Callable[[str, str], T], default: T) -> T:
        """Return a variable's parsed value, or the default if the variable is unset or empty."""
        value = self._variables.get(name, "").strip()
        return parsed(name, value) if value else default

    def bound(self, name: str, largest: int, default: int, *, off: bool) -> int:
        """Return a variable's value as an upper bound, or `largest` if its rule is off."""
        value = self.read(name, _whole_number_parser(1, largest), default)
        return largest if off else value


def _read_limits(read: _VariableReader) -> InputLimits:
    default = read.read("VALIDATION", _validation_mode, InputLimits())
    none: frozenset[Rule] = frozenset()
    off = default.off | read.read("VALIDATION_OFF", _parse_rules, none)
    return InputLimits(
        message_chars=read.read("MAX_MESSAGE_CHARS", _whole_number_parser(1, 10_000_000), default.message_chars),
        conversation_chars=read.read(
            "MAX_CONVERSATION_CHARS", _whole_number_parser(1, 100_000_000), default.conversation_chars
        ),
        turns=read.read("MAX_TURNS", _whole_number_parser(1, 100_000), default.turns),
        # A disabled rule falls back to the largest configurable bound, which keeps memory and stack use bounded.
        body_bytes=read.bound("MAX_BODY_BYTES", MAX_BODY_BYTES, default.body_bytes, off="size" in off),
        json_depth=read.bound("MAX_JSON_DEPTH", MAX_JSON_DEPTH, default.json_depth, off="depth" in off),
        off=off,
    )


def _validation_mode(name: str, value: str) -> InputLimits:
    try:
        return _VALIDATION_MODES[value.lower()]
    except KeyError:
        raise _invalid_value_error(name, value, "default or strict") from None


def _read_budget(read: _VariableReader, default: Budget) -> Budget:
    if not read.read("BUDGETS", _parse_switch, True):
        return UNLIMITED_BUDGET
    count, money = _allow_off(_whole_number_parser(1, 10**12)), _allow_off(_parse_usd)
    return Budget(
        tokens_per_caller=read.read("BUDGET_TOKENS_PER_CALLER", count, default.tokens_per_caller),
        tokens_total=read.read("BUDGET_TOKENS_TOTAL", count, default.tokens_total),
        usd_per_caller=read.read("BUDGET_USD_PER_CALLER", money, default.usd_per_caller),
        usd_total=read.read("BUDGET_USD_TOTAL", money, default.usd_total),
        streams_per_caller=read.read("BUDGET_STREAMS_PER_CALLER", count, default.streams_per_caller),
        streams_total=read.read("BUDGET_STREAMS_TOTAL", count, default.streams_total),
        output_tokens=read.read("MAX_OUTPUT_TOKENS", count, default.output_tokens),
        unpriced=read.read("UNPRICED_USD_PER_1M", _price_pair, default.unpriced),
    )


def _invalid_value_error(name: str, value: str, write: str) -> UsageError:
    shown = value if len(value) <= 40 else value[:40] + "…"
    return UsageError(f"{name}: {shown!r} cannot be used (write {write})")


def _parse_switch(name: str, value: str) -> bool:
    if value.lower() not in _SWITCHES:
        raise _invalid_value_error(name, value, "on or off")
    return _SWITCHES[value.lower()]


def _allow_off(parsed: Callable[[str, str], T]) -> Callable[[str, str], T | None]:
    return lambda name, value: None if value.lower() == "off" else parsed(name, value)


def _whole_number_parser(least: int, most: int) -> Callable[[str, str], int]:
    def parse_whole_number(name: str, value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= 15 and least <= int(value) <= most):
            raise _invalid_value_error(name, value, f"a whole number from {least:,} to {most:,}".replace(",", ""))
        return int(value)

    return parse_whole_number


def _parse_usd(name: str, value: str) -> Decimal:
    try:
        usd = Decimal(value)
    except InvalidOperation:
        usd = Decimal("NaN")
    if not (usd.is_finite() and 0 <= usd <= 10**6):
        raise _invalid_value_error(name, value, "USD per day, for example 2.50, or off")
    return usd


def _price_pair(name: str, value: str) -> tuple[Decimal, Decimal]:
    try:
        input_usd, output_usd = (Decimal(part.strip()) for part in value.split("/"))
    except (InvalidOperation, ValueError):
        input_usd = output_usd = Decimal("NaN")
    if not (input_usd.is_finite() and output_usd.is_finite() and 0 <= input_usd <= 10**6 and 0 <= output_usd <= 10**6):
        raise _invalid_value_error(name, value, "USD per 1M tokens as input/output, for example 15/120")
    return input_usd, output_usd


def _parse_rate(name: str, value: str) -> RateLimitItem | None:
    if value.lower() == "off":
        return None
    try:
        limit = parse(value)
    except ValueError:
        limit = None
    separated = any(mark in value for mark in ",;|")
    if limit is None or separated or not (0 < limit.amount <= _MAX_REQUESTS and 0 < limit.get_expiry() <= 86_400 * 366):
        raise _invalid_value_error(name, value, "for example 10/minute, 100/hour or off")
    return limit


def _parse_rules(name: str, value: str) -> frozenset[Rule]:
    chosen = {part.strip().lower() for part in value.split(",") if part.strip()}
    known = frozenset(rule for rule in RULES if rule in chosen and rule != "unicode")
    if len(known) != len(chosen):
        raise _invalid_value_error(name, value, "some of " + ", ".join(rule for rule in RULES if rule != "unicode"))
    return known


def _parse_file(name: str, value: str) -> Path:
    path = Path(value)
    try:
        if path.is_file():
            return path
    except ValueError:
        pass
    raise _invalid_value_error(name, value, "the path of an existing file")


def _parse_terms(name: str, value: str) -> tuple[str, ...]:
    return tuple(_parse_term(name, term) for term in value.split(",") if term.strip())


def _read_terms_file(name: str, value: str) -> tuple[str, ...]:
    try:
        lines = _parse_file(name, value).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise _invalid_value_error(name, value, "the path of a UTF-8 text file with one term per line") from None
    return tuple(_parse_term(name, line) for line in lines if line.strip())


def _parse_term(name: str, term: str) -> str:
    folded = normalize(term.strip())
    # The redaction mark contains brackets: it must not form a banned term together with the surrounding text.
    if not 2 <= len(folded) <= TERM_CHARS or set("[]\n\r") & set(folded) or folded in "removed":
        raise _invalid_value_error(
            name, term.strip(), f"terms of 2 to {TERM_CHARS} characters, without brackets, not part of 'removed'"
        )
    return folded

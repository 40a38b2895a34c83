"""The guard's environment variables as a typed model, and the parsers of their values.

Every error message names the variable and the values it accepts.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, TypeVar

from limits import RateLimitItem, parse
from pydantic import Field, PlainValidator

from guard.content_filter import DEFAULT_BLOCKLIST
from guard.identity import ApiKeys, parse_keys
from guard.secret_patterns import TERM_CHARS
from guard.text_normalization import normalize
from guard.validation import RULES, STRICT, InputLimits, Rule
from settings import NO_VARIABLES, Switch, VariableModel, invalid_value, whole_number_parser
from streaming.errors import UsageError

T = TypeVar("T")

DEFAULT_RATE = parse("10/minute")
DEFAULT_PAGE_RATE = parse("60/minute")
_MAX_REQUESTS = 100_000
_VALIDATION_MODES = {"default": InputLimits(), "strict": STRICT}
_NO_RULES: frozenset[Rule] = frozenset()
MAX_BODY_BYTES = 2**30
MAX_JSON_DEPTH = 500
"""The deepest configurable JSON nesting. Deeper JSON would exhaust the parser's stack."""


def _parse_validation(value: str) -> InputLimits:
    if value.lower() not in _VALIDATION_MODES:
        raise invalid_value(value, "default or strict")
    return _VALIDATION_MODES[value.lower()]


def _parse_api_keys(value: str) -> ApiKeys:
    try:
        return parse_keys(value)
    except UsageError as error:
        raise ValueError(str(error).removeprefix("API_KEYS: ")) from None


def _or_off(parsed: Callable[[str], T]) -> PlainValidator:
    return PlainValidator(lambda value: None if value.lower() == "off" else parsed(value))


def _parse_usd(value: str) -> Decimal:
    try:
        usd = Decimal(value)
    except InvalidOperation:
        usd = Decimal("NaN")
    if not (usd.is_finite() and 0 <= usd <= 10**6):
        raise invalid_value(value, "USD per day, for example 2.50, or off")
    return usd


def _parse_price_pair(value: str) -> tuple[Decimal, Decimal]:
    try:
        input_usd, output_usd = (Decimal(part.strip()) for part in value.split("/"))
    except (InvalidOperation, ValueError):
        input_usd = output_usd = Decimal("NaN")
    if not (input_usd.is_finite() and output_usd.is_finite() and 0 <= input_usd <= 10**6 and 0 <= output_usd <= 10**6):
        raise invalid_value(value, "USD per 1M tokens as input/output, for example 15/120")
    return input_usd, output_usd


def _parse_rate(value: str) -> RateLimitItem | None:
    if value.lower() == "off":
        return None
    try:
        limit = parse(value)
    except ValueError:
        limit = None
    separated = any(mark in value for mark in ",;|")
    if limit is None or separated or not (0 < limit.amount <= _MAX_REQUESTS and 0 < limit.get_expiry() <= 86_400 * 366):
        raise invalid_value(value, "for example 10/minute, 100/hour or off")
    return limit


def _parse_rules(value: str) -> frozenset[Rule]:
    chosen = {part.strip().lower() for part in value.split(",") if part.strip()}
    known = frozenset(rule for rule in RULES if rule in chosen and rule != "unicode")
    if len(known) != len(chosen):
        raise invalid_value(value, "some of " + ", ".join(rule for rule in RULES if rule != "unicode"))
    return known


def _parse_file(value: str) -> Path:
    path = Path(value)
    try:
        if path.is_file():
            return path
    except ValueError:
        pass
    raise invalid_value(value, "the path of an existing file")


def _parse_terms(value: str) -> tuple[str, ...]:
    return tuple(_parse_term(term) for term in value.split(",") if term.strip())


def _read_terms_file(value: str) -> tuple[str, ...]:
    try:
        lines = _parse_file(value).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise invalid_value(value, "the path of a UTF-8 text file with one term per line") from None
    return tuple(_parse_term(line) for line in lines if line.strip())


def _parse_term(term: str) -> str:
    folded = normalize(term.strip())
    # The redaction mark contains brackets: it must not form a banned term together with the surrounding text.
    if not 2 <= len(folded) <= TERM_CHARS or set("[]\n\r") & set(folded) or folded in "removed":
        raise invalid_value(
            term.strip(), f"terms of 2 to {TERM_CHARS} characters, without brackets, not part of 'removed'"
        )
    return folded


def _count(most: int) -> PlainValidator:
    return PlainValidator(whole_number_parser(1, most))


_Rate = Annotated[RateLimitItem | None, PlainValidator(_parse_rate)]
_File = Annotated[Path, PlainValidator(_parse_file)]
_Count = Annotated[int | None, _or_off(whole_number_parser(1, 10**12))]
_Usd = Annotated[Decimal | None, _or_off(_parse_usd)]


class GuardVariables(VariableModel):
    """The guard's variables; docs/operations.md explains them.

    None is the value `off` where a variable can be turned off, and otherwise unset: the default is then another
    variable's. The defaults of budgets are those of `GuardConfig`.
    """

    space_id: str | None = Field(None, validation_alias="SPACE_ID")
    rate_limit: _Rate = Field(DEFAULT_RATE, validation_alias="RATE_LIMIT")
    page_rate_limit: _Rate = Field(DEFAULT_PAGE_RATE, validation_alias="PAGE_RATE_LIMIT")
    trusted_hops: Annotated[int | None, PlainValidator(whole_number_parser(0, 16))] = Field(
        None, validation_alias="TRUSTED_HOPS"
    )
    api_keys: Annotated[ApiKeys, PlainValidator(_parse_api_keys)] = Field(
        default_factory=ApiKeys, validation_alias="API_KEYS"
    )
    validation: Annotated[InputLimits, PlainValidator(_parse_validation)] = Field(
        InputLimits(), validation_alias="VALIDATION"
    )
    validation_off: Annotated[frozenset[Rule], PlainValidator(_parse_rules)] = Field(
        _NO_RULES, validation_alias="VALIDATION_OFF"
    )
    max_message_chars: Annotated[int | None, _count(10_000_000)] = Field(None, validation_alias="MAX_MESSAGE_CHARS")
    max_conversation_chars: Annotated[int | None, _count(100_000_000)] = Field(
        None, validation_alias="MAX_CONVERSATION_CHARS"
    )
    max_turns: Annotated[int | None, _count(100_000)] = Field(None, validation_alias="MAX_TURNS")
    max_body_bytes: Annotated[int | None, _count(MAX_BODY_BYTES)] = Field(None, validation_alias="MAX_BODY_BYTES")
    max_json_depth: Annotated[int | None, _count(MAX_JSON_DEPTH)] = Field(None, validation_alias="MAX_JSON_DEPTH")
    content_filter: Switch = Field(True, validation_alias="CONTENT_FILTER")
    blocklist: _File = Field(DEFAULT_BLOCKLIST, validation_alias="BLOCKLIST")
    output_filter: Switch = Field(True, validation_alias="OUTPUT_FILTER")
    output_banned: Annotated[tuple[str, ...], PlainValidator(_parse_terms)] = Field(
        (), validation_alias="OUTPUT_BANNED"
    )
    output_banned_file: Annotated[tuple[str, ...], PlainValidator(_read_terms_file)] = Field(
        (), validation_alias="OUTPUT_BANNED_FILE"
    )
    budgets: Switch = Field(True, validation_alias="BUDGETS")
    budget_tokens_per_caller: _Count = Field(None, validation_alias="BUDGET_TOKENS_PER_CALLER")
    budget_tokens_total: _Count = Field(None, validation_alias="BUDGET_TOKENS_TOTAL")
    budget_usd_per_caller: _Usd = Field(None, validation_alias="BUDGET_USD_PER_CALLER")
    budget_usd_total: _Usd = Field(None, validation_alias="BUDGET_USD_TOTAL")
    budget_streams_per_caller: _Count = Field(None, validation_alias="BUDGET_STREAMS_PER_CALLER")
    budget_streams_total: _Count = Field(None, validation_alias="BUDGET_STREAMS_TOTAL")
    max_output_tokens: _Count = Field(None, validation_alias="MAX_OUTPUT_TOKENS")
    unpriced_usd_per_1m: Annotated[tuple[Decimal, Decimal] | None, PlainValidator(_parse_price_pair)] = Field(
        None, validation_alias="UNPRICED_USD_PER_1M"
    )

    def __init__(self, variables: Mapping[str, str] = NO_VARIABLES) -> None:
        super().__init__(variables)

"""The options of `run` as one typed model: a scenario file's keys and the command line's options are its fields.

`docs/scenario.toml` is an example with every key.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from evaluation.analysis import slo
from evaluation.analysis.metric_names import parse_primary
from evaluation.arrivals import ARRIVALS
from evaluation.backends.service_process import validate_url
from evaluation.cli.named_numbers import parse_reader, parse_timeouts
from evaluation.metrics.experience import ReaderModel, TokenDeadlines
from evaluation.prompts.answer_checks import AnswerCheck, parse_check
from evaluation.prompts.prompt_file import Turn, parse_messages, parse_turns
from evaluation.transports import IN_PROCESS
from evaluation.workloads.workload import SPREADS, Spread
from providers.models.pricing import TokenPrices
from streaming import strategies
from streaming.errors import UsageError
from streaming.messages import Message
from streaming.session import Timeouts

Location = tuple[str | int, ...]
"""Where a value is: its key, for a prompt after `prompts` and its place, for a price after `prices`."""
MAX_FAILURES = 0.5
"""The share of a provider's trials that may fail before a command fails, unless an option says otherwise."""
OWN_SERVICE = "service"
"""What `scrape` calls the service that the run itself sends to."""
PRICE_KEYS = ("input", "output", "cached")
_TABLE_ERRORS = {"tuple_type", "model_type", "dict_type"}
TABLES = {
    "prompts": "prompts: not a list of tables (write [[prompts]], each with id and prompt)",
    "prices": 'prices: not a table (write [prices], "MODEL" = { input = 1.0, output = 2.0 })',
}


def _validator(check: Callable[[Any], Any]) -> PlainValidator:
    """Return the validator of a check, which raises ValueError with what a value must be, or UsageError."""

    def validate(value: Any) -> Any:
        try:
            return check(value)
        except UsageError as error:
            raise PydanticCustomError("usage", "{words}", {"words": str(error)}) from None

    return PlainValidator(validate)


def _whole_number(least: int) -> PlainValidator:
    def check_whole_number(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"a whole number of at least {least}")
        return value

    return _validator(check_whole_number)


def _check_number(value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ValueError("a number of at least 0")
    return float(value)


def _check_rate(value: Any) -> float:
    try:
        return _check_number(value or None)
    except ValueError:
        raise ValueError("a number above 0") from None


def _check_concurrency(value: Any) -> tuple[int, ...]:
    levels = value if isinstance(value, list) else [value]
    if not levels or not all(isinstance(one, int) and not isinstance(one, bool) and one >= 1 for one in levels):
        raise ValueError("a whole number of at least 1")
    return tuple(levels)


def _check_rates(value: Any) -> tuple[float, ...]:
    return tuple(map(_check_rate, value if isinstance(value, list) and value else [value]))


def _check_names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise ValueError('a list of names, as in ["local", "sim:steady"]')
    return tuple(name.strip() for name in value)


def _check_one_or_more(value: Any) -> tuple[str, ...]:
    return _check_names([value] if isinstance(value, str) else value)


def _check_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a non-empty string")
    return value


def _check_slo(value: Any) -> str:
    slo.parse_slo(_check_text(value))
    return str(value)


def _check_scrape(value: Any) -> str:
    text = _check_text(value)
    return text if text == OWN_SERVICE else validate_url(text, "--scrape")


def _check_primary(value: Any) -> str:
    parse_primary(_check_text(value))
    return str(value)


def _check_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _check_arrivals(value: Any) -> str:
    if value not in ARRIVALS:
        raise ValueError(" or ".join(f'"{name}"' for name in ARRIVALS))
    return str(value)


def _check_spread(value: Any) -> str:
    if value not in SPREADS:
        raise ValueError(" or ".join(f'"{name}"' for name in SPREADS))
    return str(value)


def _check_share(value: Any) -> float:
    number = _check_number(value)
    if number > 1:
        raise ValueError("a number from 0 to 1")
    return number


def _check_usd(value: Any) -> Decimal:
    if not isinstance(value, Decimal):
        _check_number(value)
    return Decimal(str(value))


def _check_price(value: Any) -> TokenPrices:
    if isinstance(value, TokenPrices):
        return value
    if not isinstance(value, dict) or not {"input", "output"} <= set(value):
        raise _complete_error("not a price (write { input = 1.0, output = 2.0 }, USD per 1M tokens)")
    for key in value.keys() - set(PRICE_KEYS):
        raise _complete_error(_unknown_key(key, PRICE_KEYS))
    try:
        return TokenPrices(**{f"{key}_usd": _check_usd(usd) for key, usd in value.items()})
    except ValueError as error:
        key = next(key for key, usd in value.items() if not _is_usd(usd))
        raise _complete_error(f"the price's {key}: invalid value (write {error})") from None


def _is_usd(value: Any) -> bool:
    try:
        return _check_usd(value) >= 0
    except ValueError:
        return False


def _check_messages(value: Any) -> tuple[Message, ...]:
    try:
        return parse_messages(value)
    except ValueError as error:
        raise _complete_error(str(error)) from None


def _check_turns(value: Any) -> tuple[Turn, ...]:
    try:
        return parse_turns(value)
    except ValueError as error:
        raise _complete_error(str(error)) from None


def _complete_error(words: str) -> PydanticCustomError:
    """Return an error whose words need no name before them."""
    return PydanticCustomError("complete", "{words}", {"words": words})


_Flag = Annotated[bool, _validator(_check_flag)]
_Text = Annotated[str, _validator(_check_text)]
_Path = Annotated[Path, _validator(lambda value: Path(_check_text(value)))]
_Names = Annotated[tuple[str, ...], _validator(_check_names)]
_OneOrMore = Annotated[tuple[str, ...], _validator(_check_one_or_more)]
_Count = Annotated[int, _whole_number(1)]
_NumberFromZero = Annotated[int, _whole_number(0)]


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class PromptEntry(_StrictModel):
    """One table of `prompts`."""

    id: _Text
    prompt: _Text
    system: _Text | None = None
    messages: Annotated[tuple[Message, ...], _validator(_check_messages)] = ()
    turns: Annotated[tuple[Turn, ...], _validator(_check_turns)] = ()
    max_tokens: _Count | None = None
    expected_tokens: _Count | None = None
    expected: Annotated[AnswerCheck | None, _validator(parse_check)] = None


class RunModel(_StrictModel):
    """The options of `run` by name, validated one by one; `evaluation.scenario.Scenario` checks them together."""

    providers: _Names = ()
    strategies: Annotated[
        tuple[str, ...], _validator(lambda value: tuple(str(strategies.parse(name)) for name in _check_names(value)))
    ] = ("direct",)
    transport: _OneOrMore = (IN_PROCESS,)
    url: Annotated[str | None, _validator(lambda value: validate_url(_check_text(value)))] = None
    prompts: tuple[PromptEntry, ...] | None = None
    prompts_file: _Text | None = None
    prompt_count: _Count | None = None
    workload: _Text | None = None
    spread: Annotated[Spread | None, _validator(_check_spread)] = None
    shared_prefix: Annotated[float | None, _validator(_check_share)] = None
    trace: _Text | None = None
    speed_up: Annotated[float | None, _validator(_check_rate)] = None
    repeats: _Count = 1
    concurrency: Annotated[tuple[int, ...], _validator(_check_concurrency)] = (1,)
    rate: Annotated[tuple[float, ...] | None, _validator(_check_rates)] = None
    sweep: _Count | None = None
    level_answers: _Count | None = None
    arrivals: Annotated[str, _validator(_check_arrivals)] = "constant"
    burstiness: Annotated[float | None, _validator(_check_rate)] = None
    max_tokens: _Count = 128
    temperature: Annotated[float | None, _validator(_check_number)] = None
    effort: Annotated[
        tuple[str, ...], _validator(lambda value: tuple(name.lower() for name in _check_one_or_more(value)))
    ] = ()
    think_s: Annotated[float, _validator(_check_number)] = 0.0
    seed: _NumberFromZero = 0
    retries: _NumberFromZero = 0
    warm_up: _Flag = True
    fresh: _Flag | None = None
    warm: _Flag = False
    connection: Literal["new", "keep-alive"] = "new"
    page_url: Annotated[str | None, _validator(lambda value: validate_url(_check_text(value), "--page-url"))] = None
    page_box: _Text | None = None
    page_send: _Text | None = None
    page_answer: _Text | None = None
    page_stop: _Text | None = None
    stop_after: Annotated[float | None, _validator(_check_number)] = None
    reader: Annotated[
        tuple[TokenDeadlines, ReaderModel], _validator(lambda value: parse_reader(_check_text(value)))
    ] = (TokenDeadlines(), ReaderModel())
    timeouts: Annotated[Timeouts | None, _validator(lambda value: parse_timeouts(_check_text(value)))] = None
    record: _Flag = False
    scrape: Annotated[str | None, _validator(_check_scrape)] = None
    plots: _Flag = True
    slo: Annotated[str | None, _validator(_check_slo)] = None
    primary: Annotated[str | None, _validator(_check_primary)] = None
    max_cost_usd: Annotated[Decimal | None, _validator(_check_usd)] = None
    prices: dict[str, Annotated[TokenPrices, _validator(_check_price)]] = Field(default_factory=dict)
    calibration: _Path | None = None
    resume: _Flag = False
    retry_failed: _Flag = False
    max_failures: Annotated[float, _validator(_check_share)] = MAX_FAILURES
    dry_run: _Flag = False
    out: _Path | None = None


def validate_values(values: Mapping[str, Any], locate: Callable[[Location], int] | None = None) -> RunModel:
    """Return the model of the values.

    Raises InvalidValueError for the first invalid value: by its line, if `locate` returns the line of a location.
    """
    try:
        return RunModel.model_validate(dict(values))
    except ValidationError as error:
        result = error.errors()
    if locate is None:
        raise InvalidValueError(_describe(result[0]), result[0]["loc"])
    # A misspelt key explains why another is missing.
    first = min(result, key=lambda one: (one["type"] == "missing", locate(_place(one))))
    raise InvalidValueError(_describe(first).removeprefix("--"), _place(first))


class InvalidValueError(UsageError):
    """A value of a scenario file or of the command line is invalid; `location` is where it is."""

    def __init__(self, words: str, location: Location) -> None:
        super().__init__(words)
        self.location = location


def _place(error: ErrorDetails) -> Location:
    """Return where an error is; a missing key is at its table."""
    return error["loc"][:-1] if error["type"] == "missing" else error["loc"]


def _describe(error: ErrorDetails) -> str:
    kind, context, name = error["type"], error.get("ctx", {}), str(error["loc"][-1])
    if kind == "extra_forbidden":
        fields = RunModel.model_fields if len(error["loc"]) == 1 else PromptEntry.model_fields
        return _unknown_key(name, tuple(fields))
    if kind == "missing":
        return f"the prompt has no {name} (add it)"
    if kind in _TABLE_ERRORS:
        return TABLES[str(error["loc"][0])]
    if kind == "value_error":
        return f"{name}: invalid value (write {context['error']})"
    words = str(context["words"])
    return words if kind == "complete" or words.removeprefix("--").startswith(name) else f"{name}: {words}"


def _unknown_key(key: str, keys: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, keys, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(keys)}"
    return f"{key!r} is not a key ({hint})"

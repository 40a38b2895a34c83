"""The fields of a manifest that are read, and what they may hold: whoever reads one relies on this, and checks nothing.

Fields that are not here are shown as they are, or not at all. A field may be missing where it has a default.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from evaluation import calibration
from streaming.errors import UsageError

MAX_SHOWN = 40
"""Characters of a wrong value that its error shows."""
_MAX_NUMBER = 10**15
Whole = Annotated[int, Field(ge=-_MAX_NUMBER, le=_MAX_NUMBER)]
Number = Annotated[float, Field(ge=-_MAX_NUMBER, le=_MAX_NUMBER)]


def _check_scalar(value: Any) -> Any:
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError("neither a text nor a number")
    if not isinstance(value, (str, bool)) and value is not None and not abs(value) <= _MAX_NUMBER:
        raise ValueError("no number that is shown")
    return value


def _check_transport(value: Any) -> Any:
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise ValueError("neither a name nor a list of names")
    return value


Scalar = Annotated[Any, AfterValidator(_check_scalar)]
Transport = Annotated[Any, AfterValidator(_check_transport)]


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Prompt(_Fields):
    id: str


class _Cells(_Fields):
    """What every run has: the axes of its cells."""

    providers: list[str]
    strategies: list[str]
    transport: Transport


class _Scenario(_Cells):
    """What a run has that asked somebody."""

    prompts: list[_Prompt]
    repeats: Whole
    seed: Scalar
    max_tokens: Whole | None
    temperature: Number | None
    retries: Whole
    concurrency: Whole
    rate: Number | None
    arrivals: str = ""
    url: str | None = None
    effort: list[str] = []


class _Load(_Fields):
    concurrency_max: Whole
    shortfall: str | None = None
    asked_rate_per_s: Number | None = None
    drawn_rate_per_s: Number | None = None
    starts_per_s: Number | None = None
    latest_start_s: Number | None = None


class _Fluidity(_Fields):
    first_s: Number
    token_s: Number


class _Qoe(_Fields):
    chars_per_s: Number


class _Measures(_Fields):
    fluidity: _Fluidity = _Fluidity(first_s=1.0, token_s=0.1)
    qoe: _Qoe = _Qoe(chars_per_s=1.0)


class _Sitting(_Fields):
    real_time_priority: bool | None = None


class _Manifest(_Fields):
    run_id: str = ""
    kind: str = ""
    complete: bool = False
    interrupted: bool = False
    out_of_budget: bool = False
    resumed: Whole = 0
    order: list[list[Any]] = []
    started_at: str | None = None
    finished_at: str | None = None
    git_commit: str | None = None
    trials_planned: Whole | None = None
    trials_finished: Whole | None = None
    recordings: Whole | None = None
    max_cost_usd: Scalar = None
    charged_usd: Scalar = None
    versions: dict[str, str] = {}
    machine: dict[str, Scalar] = {}
    warm_up: dict[str, list[str]] = {}
    instrument: list[_Sitting] = []
    loads: list[_Load] = []
    measures: _Measures = _Measures()
    instrument_error: dict[str, Any] | None = None
    scenario: dict[str, Any] = {}


def check(manifest: dict[str, Any]) -> None:
    """Raise UsageError that names the first field which is missing or holds what it cannot."""
    _check(_Manifest, manifest, "")
    if scenario := manifest.get("scenario"):
        _check(_Cells if manifest.get("kind") == "what-if" else _Scenario, scenario, "scenario.")
    if (found := manifest.get("instrument_error")) is not None:
        try:
            calibration.from_dict(found)
        except ValueError as error:
            raise UsageError(f"instrument_error: {error}") from None


def _check(model: type[_Fields], found: Any, within: str) -> None:
    try:
        model.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = within + ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise UsageError(f"{place} is missing") from None
        held = repr(first["input"])
        held = held if len(held) <= MAX_SHOWN else held[: MAX_SHOWN - 1] + "…"
        raise UsageError(f"{place} cannot be {held}") from None

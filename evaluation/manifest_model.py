"""What a valid manifest has: the types of its fields, which are validated before a report rests on them."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from evaluation.calibration import model
from streaming.errors import UsageError

MAX_SHOWN = 40
"""Characters of an invalid value that its error message shows."""
_MAX_NUMBER = 10**15
WholeNumber = Annotated[int, Field(ge=-_MAX_NUMBER, le=_MAX_NUMBER)]
Number = Annotated[float, Field(ge=-_MAX_NUMBER, le=_MAX_NUMBER)]


def _check_scalar(value: Any) -> Any:
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError("not a string or number")
    if not isinstance(value, (str, bool)) and value is not None and not abs(value) <= _MAX_NUMBER:
        raise ValueError("number out of range")
    return value


def _check_transport(value: Any) -> Any:
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise ValueError("not a name or a list of names")
    return value


Scalar = Annotated[Any, AfterValidator(_check_scalar)]
Transport = Annotated[Any, AfterValidator(_check_transport)]


class _ManifestPart(BaseModel):
    """A JSON object of the manifest: strict types, and unknown keys are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _ManifestPrompt(_ManifestPart):
    id: str


class _Cells(_ManifestPart):
    """The part of a scenario that every kind of run has: the axes of its cells."""

    providers: list[str]
    strategies: list[str]
    transport: Transport


class _ManifestLength(_ManifestPart):
    mean: WholeNumber
    sd: WholeNumber


class _ManifestShape(_ManifestPart):
    name: str
    spread: str
    input: _ManifestLength
    output: _ManifestLength


class _ManifestWorkload(_ManifestPart):
    shapes: list[_ManifestShape]
    shared_prefix: Number


class _ManifestTrace(_ManifestPart):
    name: str
    speed_up: Number
    repeated_share: Number = 0.0


class _WorkloadText(_ManifestPart):
    lengths_by: str
    template_tokens: WholeNumber | None = None


class _ManifestScenario(_Cells):
    """The scenario of a run that sent requests, as opposed to a replay of recordings."""

    prompts: list[_ManifestPrompt]
    repeats: WholeNumber
    seed: Scalar
    max_tokens: WholeNumber | None
    temperature: Number | None
    retries: WholeNumber
    concurrency: WholeNumber
    rate: Number | None
    arrivals: str = ""
    burstiness: Number | None = None
    url: str | None = None
    effort: list[str] = []
    levels: list[Number] = []
    sweep_to: WholeNumber | None = None
    workload: _ManifestWorkload | None = None
    trace: _ManifestTrace | None = None


class _ManifestLoad(_ManifestPart):
    concurrency_max: WholeNumber
    level: Number | None = None
    shortfall: str | None = None
    asked_rate_per_s: Number | None = None
    drawn_rate_per_s: Number | None = None
    starts_per_s: Number | None = None
    latest_start_s: Number | None = None


class _Fluidity(_ManifestPart):
    first_s: Number
    token_s: Number


class _Qoe(_ManifestPart):
    chars_per_s: Number


class _Measures(_ManifestPart):
    fluidity: _Fluidity = _Fluidity(first_s=1.0, token_s=0.1)
    qoe: _Qoe = _Qoe(chars_per_s=1.0)


class _KnownDelay(_ManifestPart):
    known_delay_s: Number
    frames_per_s: Number = 60.0
    median_s: Number
    p95_s: Number


class _PaintingError(_ManifestPart):
    clock_error_s: Number
    seen: list[_KnownDelay]


class _ManifestInstrument(_ManifestPart):
    real_time_priority: bool | None = None
    measured_otherwise: dict[str, str] = {}
    painting: _PaintingError | None = None


class _ManifestScrape(_ManifestPart):
    url: str
    server: str | None = None
    problem: str | None = None


class _Manifest(_ManifestPart):
    run_id: str = ""
    kind: str = ""
    complete: bool = False
    interrupted: bool = False
    out_of_budget: bool = False
    resumed: WholeNumber = 0
    order: list[list[Any]] = []
    started_at: str | None = None
    finished_at: str | None = None
    git_commit: str | None = None
    trials_planned: WholeNumber | None = None
    trials_finished: WholeNumber | None = None
    recordings: WholeNumber | None = None
    max_cost_usd: Scalar = None
    charged_usd: Scalar = None
    versions: dict[str, str] = {}
    machine: dict[str, Scalar] = {}
    warm_up: dict[str, list[str]] = {}
    instrument: list[_ManifestInstrument] = []
    loads: list[_ManifestLoad] = []
    workload_texts: dict[str, _WorkloadText] = {}
    load: dict[str, Any] = {}
    slo: list[str] = []
    scrape: _ManifestScrape | None = None
    measures: _Measures = _Measures()
    instrument_error: dict[str, Any] | None = None
    scenario: dict[str, Any] = {}


def validate_manifest(manifest: dict[str, Any]) -> None:
    """Raise UsageError, with the name of the first field that is missing or invalid, unless the manifest is valid."""
    _validate_fields(_Manifest, manifest, "")
    if scenario := manifest.get("scenario"):
        _validate_fields(_Cells if manifest.get("kind") == "what-if" else _ManifestScenario, scenario, "scenario.")
    if (calibration := manifest.get("instrument_error")) is not None:
        try:
            model.calibration_from_dict(calibration)
        except ValueError as error:
            raise UsageError(f"instrument_error: {error}") from None


def _validate_fields(model: type[_ManifestPart], data: Any, within: str) -> None:
    try:
        model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = within + ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise UsageError(f"{place} is missing") from None
        held = repr(first["input"])
        held = held if len(held) <= MAX_SHOWN else held[: MAX_SHOWN - 1] + "…"
        raise UsageError(f"{place} cannot be {held}") from None

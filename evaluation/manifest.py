"""What a run was and where it ran: `manifest.json`, written at the start and replaced as a whole at the end."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from evaluation.calibration import model
from evaluation.calibration.machine import describe_machine
from evaluation.metrics.experience import ReaderModel, TokenDeadlines
from evaluation.scenario import PlannedTrial, Scenario
from evaluation.schema import EVENTS_FILE, TRIALS_FILE, atomic_write
from streaming.clock import utc_now
from streaming.errors import UsageError

MANIFEST_FILE = "manifest.json"
VERSION = 1
MAX_BYTES = 64 * 2**20
"""A manifest names each planned trial, in about a hundred bytes."""


def create_run_folder(folder: Path) -> None:
    """Make the folder of a new run; nothing in it is ever written over. Raises UsageError saying what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inside = next(folder.iterdir(), None)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}; choose a folder that can be written") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--out {folder}: Permission denied; choose a folder that can be written")
    if inside is None:
        return
    if not holds_run(folder):
        raise UsageError(f"--out {folder} is not empty and holds no run: choose a new or an empty folder")
    state = "a finished run" if read(folder).get("complete") else "a run that was broken off"
    raise UsageError(
        f"--out {folder} holds {state}: choose another folder; `python -m evaluation report {folder}` makes its tables"
        f"{'' if state.startswith('a finished') else ', --resume goes on with it'}"
    )


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in this folder, whatever became of it."""
    return any((folder / name).exists() for name in (MANIFEST_FILE, TRIALS_FILE, EVENTS_FILE))


def require_run(folder: Path) -> None:
    """Raise UsageError unless `folder` holds a run."""
    if not holds_run(folder):
        raise UsageError(f"{folder} holds no run: {MANIFEST_FILE} and {TRIALS_FILE} are both missing")


def new_manifest(run_id: str, scenario: Scenario, planned: tuple[PlannedTrial, ...]) -> dict[str, Any]:
    """Give the manifest of a run that starts now; `finish` completes it."""
    return {
        "manifest": VERSION,
        "run_id": run_id,
        "complete": False,
        "interrupted": False,
        "started_at": utc_now(),
        "finished_at": None,
        "trials_planned": len(planned),
        "trials_finished": None,
        "scenario": asdict(scenario),
        "measures": measure_constants(),
        "instrument_error": None,
        "warm_up": {},
        "instrument": [],
        "loads": [],
        "resumed": 0,
        **describe_machine(),
        "order": [
            [p.number, p.block, p.repeat, p.prompt.id, p.provider, p.strategy, p.transport, p.effort] for p in planned
        ],
    }


def measure_constants() -> dict[str, Any]:
    """Give the constants that fluidity and QoE were computed with."""
    return {"fluidity": asdict(TokenDeadlines()), "qoe": asdict(ReaderModel())}


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest at once: a reader sees the old one or the new one. Raises OSError."""
    with atomic_write(folder / MANIFEST_FILE) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=2, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> dict[str, Any]:
    """Read a run's manifest; empty where there is none. Raises UsageError when it is not one that a run wrote."""
    path = folder / MANIFEST_FILE
    try:
        if not path.exists():
            return {}
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES // 2**20} MiB: this was not written by a run")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: not a JSON object")
    if found.get("manifest", VERSION) != VERSION:
        raise UsageError(f"{path}: of version {repr(found['manifest'])[:40]}, this program reads version {VERSION}")
    _check(path, found)
    if (scenario := found.get("scenario")) and isinstance(transport := scenario["transport"], str):
        scenario["transport"] = [transport]  # of one transport, as runs had it before there were more
    return found


def _check(path: Path, found: dict[str, Any]) -> None:
    # pydantic takes a tenth of a second to import: whoever reads no manifest does without.

    try:
        validate_manifest(found)
    except UsageError as error:
        raise UsageError(f"{path}: {error}: this was not written by a run") from None


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


def validate_manifest(manifest: dict[str, Any]) -> None:
    """Raise UsageError that names the first field which is missing or holds what it cannot."""
    _validate_fields(_Manifest, manifest, "")
    if scenario := manifest.get("scenario"):
        _validate_fields(_Cells if manifest.get("kind") == "what-if" else _Scenario, scenario, "scenario.")
    if (found := manifest.get("instrument_error")) is not None:
        try:
            model.calibration_from_dict(found)
        except ValueError as error:
            raise UsageError(f"instrument_error: {error}") from None


def _validate_fields(model: type[_Fields], found: Any, within: str) -> None:
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

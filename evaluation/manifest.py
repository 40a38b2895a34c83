"""`manifest.json`: the scenario, machine and state of a run, written at its start and replaced at its end."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
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

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # the module is missing there

MANIFEST_FILE = "manifest.json"
VERSION = 1
MAX_BYTES = 64 * 2**20
"""The largest manifest that is read. It lists every planned trial, in about 100 bytes each."""


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep other processes from writing a run while the context is open; a process that dies keeps nothing.

    Raises UsageError while another process writes the run. A folder that does not exist is not locked, nor is any on
    Windows.
    """
    if fcntl is None or not folder.is_dir():
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{folder}: another process writes this run (wait until it has ended, or stop it)"
            ) from None
        yield
    finally:
        os.close(descriptor)


def default_run_folder(kind: str) -> Path:
    """Return the path of a new run's folder, where none is named: `out/KIND-TIME`, in UTC."""
    return Path("out", f"{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}")


def create_run_folder(folder: Path) -> None:
    """Create the folder of a new run. An existing folder must be empty: nothing is ever overwritten.

    Raises UsageError, which says what to do, when the folder holds a run or other files or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inside = next(folder.iterdir(), None)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror} (choose a folder that can be written)") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--out {folder}: Permission denied (choose a folder that can be written)")
    if inside is None:
        return
    if not holds_run(folder):
        raise UsageError(f"--out {folder}: not empty and not a run (choose a new or an empty folder)")
    state = "a finished run" if read(folder).get("complete") else "an unfinished run"
    raise UsageError(
        f"--out {folder}: contains {state} (choose another folder; `python -m evaluation report {folder}` builds its "
        f"tables{'' if state.startswith('a finished') else ', --resume continues it'})"
    )


def holds_run(folder: Path) -> bool:
    """Return whether a run was started in this folder, finished or not."""
    return any((folder / name).exists() for name in (MANIFEST_FILE, TRIALS_FILE, EVENTS_FILE))


def require_run(folder: Path) -> None:
    """Raise UsageError unless `folder` holds a run."""
    if not holds_run(folder):
        raise UsageError(
            f"{folder}: contains no run, because {MANIFEST_FILE} and {TRIALS_FILE} are missing (name a run's folder)"
        )


def new_manifest(run_id: str, scenario: Scenario, planned: tuple[PlannedTrial, ...]) -> dict[str, Any]:
    """Return the manifest of a run that starts now. The runner completes it when the run ends."""
    return {
        "manifest": VERSION,
        "run_id": run_id,
        "complete": False,
        "interrupted": False,
        "started_at": utc_now(),
        "finished_at": None,
        "trials_finished": None,
        "measures": measure_constants(scenario.deadlines, scenario.reader),
        "instrument_error": None,
        "warm_up": {},
        "instrument": [],
        "loads": [],
        "resumed": 0,
        **describe_machine(),
        **plan_facts(scenario, planned),
    }


def plan_facts(scenario: Scenario, planned: Sequence[PlannedTrial]) -> dict[str, Any]:
    """Return the scenario of a run and the order of its trials, which a resumed run may extend."""
    order = [
        [p.number, p.block, p.repeat, p.prompt.id, p.provider, p.strategy, p.transport, p.effort]
        + ([] if p.level is None and p.turn == 1 else [p.level])
        + ([] if p.turn == 1 else [p.turn])
        for p in planned
    ]
    return {"trials_planned": len(planned), "scenario": asdict(scenario), "nonce": scenario.nonce, "order": order}


def measure_constants(deadlines: TokenDeadlines | None = None, reader: ReaderModel | None = None) -> dict[str, Any]:
    """Return the constants that fluidity and QoE are computed with; None stands for the default."""
    return {"fluidity": asdict(deadlines or TokenDeadlines()), "qoe": asdict(reader or ReaderModel())}


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest atomically: a reader sees the old one or the new one. Raises OSError when writing fails."""
    with atomic_write(folder / MANIFEST_FILE) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=2, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> dict[str, Any]:
    """Read and validate a run's manifest; return an empty dict if there is none.

    Raises UsageError when the file cannot be read or was not written by a run.
    """
    path = folder / MANIFEST_FILE
    try:
        if not path.exists():
            return {}
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES // 2**20} MiB (not a manifest that a run has written)")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: not a JSON object")
    if data.get("manifest", VERSION) != VERSION:
        raise UsageError(
            f"{path}: version {repr(data['manifest'])[:40]} is not supported (this program reads version {VERSION})"
        )
    _check(path, data)
    if (scenario := data.get("scenario")) and isinstance(transport := scenario["transport"], str):
        scenario["transport"] = [transport]  # older runs had a single transport
    return data


def _check(path: Path, data: dict[str, Any]) -> None:
    try:
        validate_manifest(data)
    except UsageError as error:
        raise UsageError(f"{path}: {error} (not a manifest that a run has written)") from None


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
    """A JSON object of the manifest: strict types, and unknown keys are ignored.

    The validators are built when a manifest is read, not when a run starts.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, defer_build=True)


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
    fluidity: _Fluidity = Field(default_factory=lambda: _Fluidity(first_s=1.0, token_s=0.1))
    qoe: _Qoe = Field(default_factory=lambda: _Qoe(chars_per_s=1.0))


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
    measures: _Measures = Field(default_factory=lambda: _Measures())
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

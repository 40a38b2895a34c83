"""`manifest.json`: the scenario, machine and state of a run, written at its start and replaced at its end."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
    from evaluation.manifest_model import validate_manifest  # not at the top: a run that starts reads none

    try:
        validate_manifest(data)
    except UsageError as error:
        raise UsageError(f"{path}: {error} (not a manifest that a run has written)") from None

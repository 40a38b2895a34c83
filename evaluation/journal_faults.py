"""What is missing or damaged in the folder of a run that can still be read: a report must say it, not pass over it."""

import os
from collections.abc import Iterator
from pathlib import Path

from evaluation import manifest
from evaluation.schema import EVENTS_FILE, TRIALS_FILE


def find_journal_faults(folder: Path) -> list[str]:
    """Return a sentence, without its end, for each fault; a copy of a run that has only its tables has no journal."""
    return list(_iter_faults(folder))


def _iter_faults(folder: Path) -> Iterator[str]:
    facts = manifest.read(folder)
    if not facts.get("run_id") or not facts.get("scenario"):
        problem = "is missing" if not (folder / manifest.MANIFEST_FILE).exists() else "does not describe the run"
        yield (
            f"{manifest.MANIFEST_FILE} {problem}: what was planned, whether all of it was done, the order of providers "
            "and the machine are unknown"
        )
    trials, events = folder / TRIALS_FILE, folder / EVENTS_FILE
    if trials.exists() and trials.stat().st_size and not events.exists():
        yield f"{EVENTS_FILE} is missing: gaps are those of the tables that were made before, if any"
    for path in (trials, events):
        if path.exists() and not _ends_with_line_break(path):
            yield f"the last line of {path.name} is incomplete and was left out: the run was killed while it wrote"


def _ends_with_line_break(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

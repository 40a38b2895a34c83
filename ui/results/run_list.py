"""The runs of a folder, newest first, and the bundled sample run last: what the pickers show, and how runs are loaded.

A run has an id that is derived from its folder's name, so that no name of the file system comes from a browser.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from evaluation import tables
from evaluation.manifest import MANIFEST_FILE
from evaluation.schema import TRIALS_FILE
from evaluation.tables import Run
from streaming.errors import UsageError
from streaming.escaping import to_line
from ui import strings
from ui.results.server_paths import hide_folder, hide_paths_in_run, hide_server_paths

ROOT = Path(__file__).parents[2]
RUNS_FOLDER = ROOT / "out"
SAMPLE = ROOT / "docs" / "sample-run"
SAMPLE_ID = "sample"
MAX_LABEL_BYTES = 8 * 2**20
"""The largest manifest that is read for a label; the run of a larger one is called by its folder."""
_MAX_NAME_CHARS = 40
_SHOWN_PROVIDERS = 3

Signature = tuple[tuple[str, int, int], ...]
"""Name, time of change and size of a run's files: as long as it is the same, so is the run."""


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One run of the pickers. `started_at` is its start as far as its manifest says it, else its last change."""

    id: str
    folder: Path
    label: str
    started_at: datetime
    is_sample: bool = False
    is_readable: bool = True
    """Whether its manifest is an object, as far as it was read for the label."""

    @property
    def name(self) -> str:
        """The folder's name as one printable line."""
        return to_line(self.folder.name)


class RunList:
    """The runs in `folder` and in its folders, such as the steps of a capacity search. Reading blocks.

    Labels are read again only for a run whose manifest has changed.
    """

    def __init__(self, folder: Path = RUNS_FOLDER, sample: Path = SAMPLE) -> None:
        self._folder = folder
        self._sample = sample
        self._labels: dict[Path, tuple[tuple[int, int], RunEntry]] = {}

    def entries(self) -> list[RunEntry]:
        """Return the runs, newest first, and the sample run last."""
        found = [entry for path in self._iter_folders() if (entry := self._read_entry(path)) is not None]
        self._labels = {entry.folder: self._labels[entry.folder] for entry in found}
        found.sort(key=lambda entry: (entry.started_at, entry.name), reverse=True)
        return [*found, *self._sample_entries()]

    def find(self, run_id: str | None) -> RunEntry | None:
        """Return the run with an id; None for an unknown one."""
        return next((entry for entry in self.entries() if entry.id == run_id), None)

    def _sample_entries(self) -> Iterator[RunEntry]:
        if (self._sample / MANIFEST_FILE).exists():
            manifest = _read_manifest(self._sample / MANIFEST_FILE)
            label = f"{strings.SAMPLE_RUN} · {_describe_run(manifest)}"
            yield RunEntry(SAMPLE_ID, self._sample, label, datetime.min.replace(tzinfo=UTC), is_sample=True)

    def _iter_folders(self) -> Iterator[Path]:
        for path in _iter_subfolders(self._folder):
            if _holds_run(path):
                yield path
            else:
                yield from filter(_holds_run, _iter_subfolders(path))

    def _read_entry(self, folder: Path) -> RunEntry | None:
        """Return the entry of a run; None if its folder was removed since it was listed."""
        for name in (MANIFEST_FILE, TRIALS_FILE):
            with suppress(OSError):
                stat = (folder / name).stat()
                signature = (stat.st_mtime_ns, stat.st_size)
                known = self._labels.get(folder)
                if known is None or known[0] != signature:
                    known = (signature, self._make_entry(folder, stat))
                    self._labels[folder] = known
                return known[1]
        return None

    def _make_entry(self, folder: Path, stat: os.stat_result) -> RunEntry:
        changed_at = datetime.fromtimestamp(stat.st_mtime, UTC)
        is_small = stat.st_size <= MAX_LABEL_BYTES
        manifest = _read_manifest(folder / MANIFEST_FILE) if is_small else {}
        started_at = _parse_date(manifest.get("started_at")) or changed_at
        started_at = min(started_at, datetime.now(UTC))  # a run of the future would stay the newest
        relative = folder.relative_to(self._folder)
        name = to_line(str(relative))
        name = name if len(name) <= _MAX_NAME_CHARS else f"{name[: _MAX_NAME_CHARS - 1]}…"
        label = " · ".join([f"{started_at:%Y-%m-%d %H:%M}", _describe_run(manifest), name])
        is_readable = bool(manifest) or not is_small or not (folder / MANIFEST_FILE).exists()
        run_id = blake2b(os.fsencode(relative), digest_size=8).hexdigest()
        return RunEntry(run_id, folder, label, started_at, is_readable=is_readable)


def load_run(entry: RunEntry) -> Run:
    """Load a run, without paths of a machine in it. Raises UsageError, without one either, for a damaged run."""
    try:
        return hide_paths_in_run(tables.load(entry.folder))
    except UsageError as error:
        raise UsageError(to_line(hide_folder(str(error), entry.folder))) from None
    except OSError as error:
        raise UsageError(strings.RUN_GONE.format(reason=error.strerror or type(error).__name__)) from None


def signature_of(folder: Path) -> Signature:
    """Return the signature of the files in a run's folder."""
    with suppress(OSError), os.scandir(folder) as files:
        stats = [(file.name, file.stat(follow_symlinks=False)) for file in files if file.is_file(follow_symlinks=False)]
        return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))
    return ()


def _iter_subfolders(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder; a link is none, for it may lead elsewhere."""
    with suppress(OSError), os.scandir(folder) as inside:
        yield from [Path(entry.path) for entry in inside if entry.is_dir(follow_symlinks=False)]


def _holds_run(folder: Path) -> bool:
    return (folder / MANIFEST_FILE).exists() or (folder / TRIALS_FILE).exists()


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest, not validated; an empty one if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _parse_date(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _describe_run(manifest: dict[str, Any]) -> str:
    """Return kind, providers and number of trials, as far as they are known."""
    scenario = manifest.get("scenario")
    providers = scenario.get("providers") if isinstance(scenario, dict) else None
    listed = providers if isinstance(providers, list) else []
    names = [to_line(hide_server_paths(name)) for name in listed if isinstance(name, str)]
    shown = ", ".join(name[:_MAX_NAME_CHARS] for name in names[:_SHOWN_PROVIDERS])
    more = f" +{len(names) - _SHOWN_PROVIDERS}" if len(names) > _SHOWN_PROVIDERS else ""
    parts = [strings.RUN_KINDS.get(str(manifest.get("kind", "")), ""), f"{shown}{more}", _count_trials(manifest)]
    return " · ".join(filter(None, parts)) or strings.RUN_UNKNOWN


def _count_trials(manifest: dict[str, Any]) -> str:
    finished, planned = manifest.get("trials_finished"), manifest.get("trials_planned")
    if isinstance(finished, int):
        return strings.TRIALS.format(count=finished)
    return strings.TRIALS_PLANNED.format(count=planned) if isinstance(planned, int) else ""

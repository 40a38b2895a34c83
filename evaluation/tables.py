"""A run as pandas tables, made from the journal; dtypes are the same whatever is empty.

Text is `string`, counts are `Int64`, flags `boolean` (all three with NA for unknown), measured numbers and money
`float64` (NaN for unknown; the journal keeps money exactly).
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.json

from evaluation import manifest
from evaluation.files import replacing
from evaluation.record import (
    EVENT_COLUMNS,
    EVENT_TYPES,
    EVENTS,
    TRIAL_COLUMNS,
    TRIAL_TYPES,
    TRIALS,
    read_events,
    read_trials,
)
from streaming.errors import UsageError

LATER_COLUMNS = ("effort", "dropped_settings")
"""Columns that tables of earlier runs have not; nothing is known of them there."""
_BATCH_ROWS = 100_000
FILES = ("trials.parquet", "trials.csv", "events.parquet")
_DTYPES: dict[Any, str] = {int: "Int64", float: "float64", bool: "boolean", Decimal: "float64"}


def _dtype(hint: Any) -> str:
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    return _DTYPES.get(kinds[0], "string")


TRIAL_DTYPES = {name: _dtype(TRIAL_TYPES[name]) for name in TRIAL_COLUMNS}
EVENT_DTYPES = {name: _dtype(EVENT_TYPES[name]) for name in EVENT_COLUMNS}
_EVENT_SCHEMA = pa.schema(
    pa.field(name, {"Int64": pa.int64(), "float64": pa.float64()}.get(dtype, pa.string()), type(None) in get_args(kind))
    for (name, dtype), kind in zip(EVENT_DTYPES.items(), map(EVENT_TYPES.get, EVENT_COLUMNS), strict=True)
)


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation: a row a trial, a row an event (the two ends of a stream are told apart by `kind`), its facts."""

    trials: pd.DataFrame
    events: pd.DataFrame
    manifest: dict[str, Any]


def load(folder: str | Path) -> Run:
    """Read a run's folder, finished, running or killed. Raises UsageError when there is none.

    A finished run comes from its parquet files, any other from the journal alone, without the line or the trial that
    was broken off.
    """
    folder = Path(folder)
    manifest.require(folder)
    facts = manifest.read(folder)
    tables = [folder / "trials.parquet", folder / "events.parquet"]
    if facts.get("complete") and all(_newer(table, folder / TRIALS) for table in tables):
        # A damaged table gives way to the journal.
        with suppress(OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            trials, events = (pd.read_parquet(table) for table in tables)
            trials = trials.assign(**{name: None for name in LATER_COLUMNS if name not in trials})
            return Run(trials.astype(TRIAL_DTYPES), events.astype(EVENT_DTYPES), facts)
    return from_journal(folder, facts)


def from_journal(folder: Path, facts: dict[str, Any] | None = None) -> Run:
    """Make the tables from the journal. Raises UsageError naming a line that is broken."""
    trials = read_trials(folder)
    finished = {trial.trial_id for trial in trials}
    rows = ([getattr(trial, name) for name in TRIAL_COLUMNS] for trial in trials)
    events = _events(folder)
    events = events[events["trial_id"].isin(finished)].drop_duplicates(["trial_id", "seq"], ignore_index=True)
    found = manifest.read(folder) if facts is None else facts
    return Run(_frame(rows, TRIAL_DTYPES), events, found)


def write(folder: Path, run: Run) -> None:
    """Write `trials.parquet`, `trials.csv` and `events.parquet`, each replaced at once. Raises OSError."""
    for name, frame in (("trials.parquet", run.trials), ("events.parquet", run.events)):
        with replacing(folder / name) as partial:
            frame.to_parquet(partial, index=False)
    with replacing(folder / "trials.csv") as partial:
        run.trials.to_csv(partial, index=False, float_format="%.12g")


def _events(folder: Path) -> pd.DataFrame:
    """Read the events, those of unfinished trials too: all at once, else line by line, which can name a broken one."""
    path = folder / EVENTS
    if not path.exists() or not path.stat().st_size:
        return _frame((), EVENT_DTYPES)
    options = pyarrow.json.ParseOptions(explicit_schema=_EVENT_SCHEMA, unexpected_field_behavior="error")
    try:
        found = pyarrow.json.read_json(path, parse_options=options)
        # A field that may not be empty must not have been left out either.
        if all(field.nullable or not found[field.name].null_count for field in _EVENT_SCHEMA):
            frame: pd.DataFrame = found.to_pandas()
            return frame.astype(EVENT_DTYPES)
    except (pa.ArrowException, KeyError):
        pass
    return _frame(read_events(folder), EVENT_DTYPES)


def _frame(rows: Iterable[Iterable[Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Make a table in batches, so that a journal of millions of lines is never held as Python objects at once."""
    left = iter(rows)
    frames = []
    while batch := list(islice(left, _BATCH_ROWS)):
        try:
            frames.append(pd.DataFrame(batch, columns=list(dtypes), dtype=object).astype(dtypes))
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"the journal holds a value that its column cannot: {error}") from None
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(dtypes)).astype(dtypes)


def _newer(table: Path, journal: Path) -> bool:
    return table.exists() and (not journal.exists() or table.stat().st_mtime_ns >= journal.stat().st_mtime_ns)

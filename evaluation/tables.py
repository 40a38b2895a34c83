"""A run as pandas tables built from the journal; empty columns have the same dtypes as filled ones.

Text is `string`, or `category` in the events, where it repeats. Counts are `Int64` and flags `boolean`, all with NA for
unknown. Metrics and costs are `float64` with NaN for unknown; the journal has the exact costs.
"""

from collections.abc import Collection, Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.json
import pyarrow.parquet

from evaluation import manifest
from evaluation.metrics import METRIC_BY_NAME
from evaluation.scenario import full_name
from evaluation.schema import (
    EVENT_COLUMN_DOCS,
    EVENT_COLUMNS,
    EVENT_TYPES,
    EVENTS_FILE,
    TRIAL_COLUMNS,
    TRIAL_TYPES,
    TRIAL_UNITS,
    TRIALS_FILE,
    atomic_write,
    read_events,
    read_trial_columns,
)
from evaluation.server_metrics.table import build_server_table, read_server_table, write_server_table
from streaming.errors import UsageError
from streaming.escaping import Escape, to_csv, to_line

BATCH_ROWS = 100_000
TABLE_FILES = ("trials.parquet", "trials.csv", "events.parquet")
_TABLES = ("trials.parquet", "events.parquet")
MAX_NUMBER = 10**12
"""Upper bound of any time in seconds, count or amount in a run."""
_DTYPES: dict[Any, str] = {int: "Int64", float: "float64", bool: "boolean", Decimal: "float64"}


def _pandas_dtype(hint: Any) -> str:
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    return _DTYPES.get(kinds[0], "string")


TRIAL_DTYPES = {name: _pandas_dtype(TRIAL_TYPES[name]) for name in TRIAL_COLUMNS}
EVENT_DTYPES = {name: _pandas_dtype(EVENT_TYPES[name]).replace("string", "category") for name in EVENT_COLUMNS}
"""The texts of an event repeat in millions of rows: as categories they take a few bytes each."""
_EVENT_SCHEMA = pa.schema(
    pa.field(name, {"Int64": pa.int64(), "float64": pa.float64()}.get(dtype, pa.string()), type(None) in get_args(kind))
    for (name, dtype), kind in zip(EVENT_DTYPES.items(), map(EVENT_TYPES.get, EVENT_COLUMNS), strict=True)
)
_JSON_BLOCK_BYTES = 2 * 2**20
"""Several blocks are read ahead, each as text: larger ones take hundreds of MB beside the numbers."""


MAX_CHARS = 1000
"""Maximum length of a text in a report, in characters."""
_NEVER_SHOWN = ("run_id", "trial_id", "prompt_id", "started_at")
"""Text columns by which trials and events are joined or paired; they are not escaped."""


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation: one row per trial, one row per event (`kind` names the end of the stream), and the manifest.

    `server` has one row per reading of the server's own metrics (`--scrape`), none if nothing was scraped.
    """

    trials: pd.DataFrame
    events: pd.DataFrame
    manifest: dict[str, Any]
    server: pd.DataFrame = field(default_factory=build_server_table)

    @property
    def missing_rows(self) -> int:
        """The number of finished trials whose rows are missing, by the manifest's count."""
        finished = self.manifest.get("trials_finished")
        return max(finished - len(self.trials), 0) if isinstance(finished, int) else 0

    @property
    def completed(self) -> pd.DataFrame:
        """The trials that were completed: the only successes."""
        return self.trials[self.trials["outcome"] == "completed"]

    @property
    def is_sweep(self) -> bool:
        """Whether the run has several levels of load."""
        scenario = self.manifest.get("scenario", {})
        return bool(scenario.get("levels") or scenario.get("sweep_to"))

    @property
    def is_replay(self) -> bool:
        """Whether the trials are recordings replayed through strategies, without any request."""
        return self.manifest.get("kind") == "what-if"

    def summary(self) -> pd.DataFrame:
        """Return one row for each name, strategy, transport and freshness.

        `trials` and `completed` are counts; the metrics are medians over the completed trials, in the units of
        `docs/metrics.md`. Metrics that no trial has are left out.
        """
        keys = ["name", "strategy", "transport", "fresh"]
        names = [name for name in METRIC_BY_NAME if self.trials[name].notna().any()]
        trials = self.trials.assign(done=self.trials["outcome"] == "completed")
        counts = trials.groupby(keys, observed=True, dropna=False)["done"].agg(trials="size", completed="sum")
        medians = self.completed.groupby(keys, observed=True, dropna=False)[names].median()
        result: pd.DataFrame = counts.join(medians)
        return result


def load(folder: str | Path) -> Run:
    """Return the run in a folder, whether it is finished, running or interrupted.

    A finished run is read from its parquet files, any other from its journal, without an incomplete last line or trial.
    Raises UsageError when the folder has no run, or the run is damaged.
    """
    folder = Path(folder)
    manifest.require_run(folder)
    facts = manifest.read(folder)
    if not has_journal(folder):
        return _from_tables(folder, facts)
    if facts.get("complete") and all(_is_newer(folder / name, folder / TRIALS_FILE) for name in _TABLES):
        with suppress(UsageError):  # fall back to the journal if a table is damaged
            return _from_tables(folder, facts)
    return from_journal(folder, facts)


def has_journal(folder: Path) -> bool:
    """Return whether the tables can be rebuilt from a journal.

    A copy of a finished run may have only its tables, or the trials of its journal without their events.
    """
    has_tables = [(folder / name).exists() for name in _TABLES]
    if (folder / TRIALS_FILE).exists():
        return (folder / EVENTS_FILE).exists() or not all(has_tables)
    return not any(has_tables)


def _from_tables(folder: Path, facts: dict[str, Any]) -> Run:
    """Return the run in the parquet files. Raises UsageError, with the name of the file, when one cannot be read."""
    frames: list[pd.DataFrame] = []
    kinds = ((TRIAL_DTYPES, TRIAL_TYPES), (EVENT_DTYPES, EVENT_TYPES))
    for name, (dtypes, types) in zip(_TABLES, kinds, strict=True):
        try:
            # Arrow requires a path that is valid text, and the folder's name may not be, so it gets an open file.
            with (folder / name).open("rb") as file:
                frame = pd.read_parquet(file)
            # Columns that an older version did not write are unknown, except those that must have a value.
            if lacking := [c for c in dtypes if c not in frame and type(None) not in get_args(types[c])]:
                raise _MisfitError(f"column {lacking[0]} is missing")
            frame = frame.reindex(columns=list(dtypes)).astype(dtypes)
            (_check_trials if dtypes is TRIAL_DTYPES else _check_events)(frame)
        except FileNotFoundError:
            raise UsageError(
                f"{folder / name}: missing, and there is no journal to rebuild it from (copy the run again)"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException) as error:
            reason = f"{type(error).__name__}: {error}" if not isinstance(error, _MisfitError) else str(error)
            raise UsageError(f"{folder / name}: cannot be read: {to_line(reason)[:200]} (copy the run again)") from None
        frames.append(frame)
    trials, events = frames
    return Run(_fill_names(trials), events, facts, read_server_table(folder))


class _MisfitError(ValueError):
    """A table contains a value that a run cannot have written."""


def _check_trials(trials: pd.DataFrame) -> None:
    """Raise _MisfitError if a run cannot have written these trials."""
    _check_values(trials, TRIAL_TYPES)
    outcomes = get_args(TRIAL_TYPES["outcome"])
    strange = trials.loc[~trials["outcome"].isin(outcomes), "outcome"]
    if len(strange):
        raise _MisfitError(f"outcome cannot be {str(strange.iloc[0])[:40]!r}")
    if not trials["trial_id"].is_unique:
        raise _MisfitError("a trial_id occurs twice")


def _check_events(events: pd.DataFrame) -> None:
    """Raise _MisfitError if a run cannot have written these events."""
    _check_values(events, EVENT_TYPES)
    no_figure = events["chars"].isna() | (events["source_s"].isna() & events["delivered_s"].isna())
    if (no_figure & events["kind"].isin(("source_text", "delivered_text"))).any():
        raise _MisfitError("a text has no length or no timestamp")


def _check_values(frame: pd.DataFrame, types: Mapping[str, Any]) -> None:
    for name, column in frame.items():
        if type(None) not in get_args(types[str(name)]) and column.isna().any():
            raise _MisfitError(f"{name} is missing")
        if column.dtype.kind in "fi":
            numbers = column.to_numpy(np.float64, na_value=np.nan)
            least = 0 if column.dtype.kind == "i" else -MAX_NUMBER
            fits = np.isnan(numbers) | ((numbers >= least) & (numbers <= MAX_NUMBER))
            if not fits.all():
                raise _MisfitError(f"{name} cannot be {column[~fits].iloc[0]}")


def from_journal(folder: Path, facts: dict[str, Any] | None = None) -> Run:
    """Return the run built from its journal. Raises UsageError, with the line number, when a line is invalid."""
    trials = read_trial_columns(folder)
    finished = {columns["trial_id"] for columns in trials}
    rows = (map(columns.get, TRIAL_COLUMNS) for columns in trials)
    events = _without_duplicates(_read_event_table(folder, finished))
    manifest_facts = manifest.read(folder) if facts is None else facts
    table = build_table(rows, TRIAL_DTYPES)
    for name, check, frame in ((TRIALS_FILE, _check_trials, table), (EVENTS_FILE, _check_events, events)):
        try:
            check(frame)
        except _MisfitError as misfit:
            raise UsageError(
                f"{folder / name}: {misfit}, which a run cannot have written (copy the run again)"
            ) from None
    return Run(_fill_names(table), events, manifest_facts, read_server_table(folder))


def _fill_names(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials with their full names, which older versions did not write."""
    names = [full_name(*pair) for pair in zip(trials["provider"], trials["model"].fillna(""), strict=True)]
    return trials.assign(name=trials["name"].fillna(pd.Series(names, trials.index, dtype="string")))


def write(folder: Path, run: Run) -> None:
    """Write `trials.parquet`, `trials.csv`, `events.parquet` and `server.parquet`, each atomically. Raises OSError."""
    write_server_table(folder, run.server)
    for name in TABLE_FILES:
        with atomic_write(folder / name) as partial, partial.open("wb") as file:
            write_table(name, run, file)


def write_table(name: str, run: Run, file: BinaryIO) -> None:
    """Write one of `TABLE_FILES` to an open file. Raises OSError.

    The parquet files are exact; text in the CSV file is escaped for spreadsheets.
    """
    if name == "trials.csv":
        _map_texts(run.trials, to_csv).to_csv(file, index=False, float_format="%.12g", encoding="utf-8")
        return
    frame = run.trials if name == "trials.parquet" else run.events
    pyarrow.parquet.write_table(_with_units(pa.Table.from_pandas(frame, preserve_index=False)), file)


def _with_units(table: pa.Table) -> pa.Table:
    """Return the table with the unit of each column in the metadata of its field."""
    units = {**TRIAL_UNITS, **{name: column.unit for name, column in EVENT_COLUMN_DOCS.items() if column.unit}}
    fields = [f.with_metadata({"unit": units[f.name]}) if f.name in units else f for f in table.schema]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields, table.schema.metadata))


def _read_event_table(folder: Path, finished: Set[str]) -> pd.DataFrame:
    """Return the events of the finished trials.

    Arrow streams the file in blocks, so that memory grows with the numbers in it, not with its text. If that fails, it
    is read line by line, so that the error names the invalid line.
    """
    path = folder / EVENTS_FILE
    if not path.exists() or not path.stat().st_size:
        return build_table((), EVENT_DTYPES)
    parse = pyarrow.json.ParseOptions(explicit_schema=_EVENT_SCHEMA, unexpected_field_behavior="error")
    read = pyarrow.json.ReadOptions(block_size=_JSON_BLOCK_BYTES)
    try:
        with path.open("rb") as file, pyarrow.json.open_json(file, read, parse) as batches:
            ids = pa.array(sorted(finished), pa.string())
            return _to_event_frame([_keep_finished(batch, ids) for batch in batches])
    except (pa.ArrowException, KeyError):
        rows = (row for row in read_events(folder) if row.trial_id in finished)
        return build_table(rows, EVENT_DTYPES)


def _to_event_frame(batches: list[pa.RecordBatch]) -> pd.DataFrame:
    """Return the batches as one table; each column is converted and released before the next."""
    table = pa.Table.from_batches(batches).unify_dictionaries()
    batches.clear()
    columns = {}
    for name, dtype in EVENT_DTYPES.items():
        columns[name] = table[name].to_pandas().astype(dtype)
        table = table.drop_columns([name])
    return pd.DataFrame(columns, copy=False)


def _keep_finished(batch: pa.RecordBatch, finished: pa.Array) -> pa.RecordBatch:
    """Return the rows of finished trials with their texts dictionary-encoded.

    Raises KeyError if a row lacks a required field, which Arrow accepts.
    """
    for column in _EVENT_SCHEMA:
        if not column.nullable and batch[column.name].null_count:
            raise KeyError(column.name)
    kept = batch.filter(pyarrow.compute.is_in(batch["trial_id"], finished))
    columns = [kept[f.name].dictionary_encode() if f.type == pa.string() else kept[f.name] for f in _EVENT_SCHEMA]
    return pa.RecordBatch.from_arrays(columns, names=_EVENT_SCHEMA.names)


def _without_duplicates(events: pd.DataFrame) -> pd.DataFrame:
    """Return the events without repeated ones; looking for them is left out where their numbers leave no room."""
    per_trial = events.groupby("trial_id", observed=True)["seq"].agg(["size", "max"])
    if (per_trial["size"] == per_trial["max"] + 1).all():
        return events.reset_index(drop=True)
    return events.drop_duplicates(["trial_id", "seq"], ignore_index=True)


def build_table(rows: Iterable[Iterable[Any]], dtypes: Mapping[str, str], batch_rows: int = BATCH_ROWS) -> pd.DataFrame:
    """Return a table built in batches, so that millions of rows are never in memory as Python objects at once."""
    left = iter(rows)
    frames = []
    while batch := list(islice(left, batch_rows)):
        try:
            frames.append(_build_batch(batch, dtypes))
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"journal: a value does not fit its column, {error} (copy the run again)") from None
    if not frames:
        return pd.DataFrame(columns=list(dtypes)).astype(dtypes)
    if len(frames) == 1:
        return frames[0]
    return pd.concat(frames, ignore_index=True).astype(dtypes)  # the categories of two batches may differ


def _build_batch(rows: Iterable[Iterable[Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Return rows as a table, column by column: to convert a table of objects takes several times as long."""
    columns = {}
    for (name, dtype), values in zip(dtypes.items(), zip(*rows, strict=True), strict=True):
        objects: Any = np.array(values, dtype=object)
        columns[name] = objects.astype(np.float64) if dtype == "float64" else pd.array(objects, dtype=dtype)
    return pd.DataFrame(columns)


def _is_newer(table: Path, journal: Path) -> bool:
    return table.exists() and (not journal.exists() or table.stat().st_mtime_ns >= journal.stat().st_mtime_ns)


def escape_run(run: Run, escape: Escape) -> Run:
    """Return the run with every text in its trials and manifest shortened and escaped for one output format.

    The program's own terms (outcomes, transports, strategies) are unchanged by every format. The manifest's field names
    are not escaped; code that prints one must escape it.
    """
    trials = _map_texts(run.trials, lambda text: escape(shorten(text)), _NEVER_SHOWN)
    return replace(run, trials=trials, manifest=_escape_values(run.manifest, escape))


def _map_texts(trials: pd.DataFrame, escape: Escape, but: Collection[str] = ()) -> pd.DataFrame:
    """Return the trials with `escape` called on their texts, in all columns `but` these; most columns stay the same."""
    columns = {}
    for name, dtype in trials.dtypes.items():
        if name in but or not isinstance(dtype, (pd.StringDtype, pd.CategoricalDtype)):
            continue
        texts = {text: escape(text) for text in trials[name].unique() if isinstance(text, str)}
        if isinstance(dtype, pd.CategoricalDtype) or any(text != escaped for text, escaped in texts.items()):
            columns[str(name)] = trials[name].map(texts).astype("string")
    return trials.assign(**columns) if columns else trials


def shorten(text: str) -> str:
    """Return a text with at most `MAX_CHARS` characters."""
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"


def _escape_values(value: Any, escape: Escape) -> Any:
    """Return a value of the manifest with its texts escaped; field names are unchanged."""
    if isinstance(value, str):
        return escape(shorten(value))
    if isinstance(value, list):
        return [_escape_values(one, escape) for one in value]
    if isinstance(value, dict):
        return {key: _escape_values(one, escape) for key, one in value.items()}
    return value

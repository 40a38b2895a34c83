"""The server's metrics of a run as a table: a row for each reading, of known names and of all series as they were."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa

from evaluation.schema import atomic_write
from evaluation.server_metrics.exposition import KNOWN_NAMES, find_known_series, find_server
from evaluation.server_metrics.readings import MAX_COLUMNS, SERVER_FILE, Reading, read_readings
from streaming.errors import UsageError

SERVER_TABLE = "server.parquet"
COLUMNS = ("at_s", "at", "scrape_s", "error", "server", *KNOWN_NAMES)
"""The columns before those of the series: `at_s` on CLOCK_MONOTONIC like `sent_monotonic_s` of trials, `at` in UTC."""
_TEXTS = ("at", "error", "server")


def read_server_table(folder: Path) -> pd.DataFrame:
    """Return the readings of a run, from their journal or else from the parquet file; empty if nothing was scraped.

    Raises UsageError, with the name of the file, when one of them cannot be read.
    """
    if (folder / SERVER_FILE).exists() or not (folder / SERVER_TABLE).exists():
        return build_server_table(read_readings(folder))
    try:
        with (folder / SERVER_TABLE).open("rb") as file:
            return _set_types(pd.read_parquet(file))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException) as error:
        name = type(error).__name__
        raise UsageError(f"{folder / SERVER_TABLE}: cannot be read: {name} (copy the run again)") from None


def write_server_table(folder: Path, frame: pd.DataFrame) -> None:
    """Write the table, if it has any rows, atomically. Raises OSError."""
    if len(frame):
        with atomic_write(folder / SERVER_TABLE) as partial, partial.open("wb") as file:
            frame.to_parquet(file, index=False)


def build_server_table(readings: Iterable[Reading] = ()) -> pd.DataFrame:
    """Return the table of a journal's readings."""
    times: list[tuple[float, str, float, str | None, str | None]] = []
    samples: list[dict[str, float | None]] = []
    for reading in readings:
        samples.append({} if reading.error is not None else {**(samples[-1] if samples else {}), **reading.samples})
        server = find_server(samples[-1])
        times.append((reading.at_s, reading.at, reading.scrape_s, reading.error, server))
    series = pd.DataFrame(samples, index=range(len(samples)), dtype="float64")
    known = {}
    for column, (names, is_largest) in find_known_series(list(map(str, series.columns))).items():
        known[column] = series[names].max(axis=1) if is_largest else series[names].sum(axis=1, min_count=1)
    heads = pd.DataFrame(times, columns=list(COLUMNS[:5]))
    return _set_types(pd.concat([heads, pd.DataFrame(known, index=heads.index), series], axis=1))


def _set_types(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with all columns of `COLUMNS` first. Raises KeyError, TypeError and ValueError."""
    others = [str(name) for name in frame.columns if name not in COLUMNS][:MAX_COLUMNS]
    types = {name: "string" if name in _TEXTS else "float64" for name in (*COLUMNS, *others)}
    return frame.reindex(columns=[*COLUMNS, *others]).astype(types)

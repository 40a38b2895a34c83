"""The journal of a scraped server, `server.jsonl`: a line for each reading, with the series that have changed."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.schema import read_lines
from evaluation.server_metrics.exposition import MAX_SERIES
from streaming.errors import UsageError

SERVER_FILE = "server.jsonl"
MAX_COLUMNS = 4 * MAX_SERIES
"""Different series of a whole run; later ones are left out."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading: `at_s` on CLOCK_MONOTONIC, `at` in UTC, and how long it took in seconds.

    `samples` are the series that have changed since the reading before, all of them after an error and at the start;
    the value of one that is gone is None. `error` says in words why there are none.
    """

    at_s: float
    at: str
    scrape_s: float
    samples: Mapping[str, float | None]
    error: str | None = None

    def to_json_line(self) -> str:
        """Return the line of the journal."""
        fields = {"at_s": round(self.at_s, 6), "at": self.at, "scrape_s": round(self.scrape_s, 6)}
        result = {"samples": dict(self.samples)} if self.error is None else {"error": self.error}
        return json.dumps(fields | result, separators=(",", ":")) + "\n"


def read_readings(folder: Path) -> Iterator[Reading]:
    """Yield the readings of a run. Raises UsageError, with the line number, when a line is not a reading."""
    seen: set[str] = set()
    for where, line in read_lines(folder / SERVER_FILE):
        reading = _parse_reading(line, where)
        room = MAX_COLUMNS - len(seen)
        new = [name for name in reading.samples if name not in seen]
        seen.update(new[:room])
        if len(new) > room:
            samples = {name: value for name, value in reading.samples.items() if name in seen}
            reading = Reading(reading.at_s, reading.at, reading.scrape_s, samples)
        yield reading


def _parse_reading(line: dict[str, Any], where: str) -> Reading:
    samples, at, error = line.get("samples", {}), line.get("at"), line.get("error")
    if (
        not isinstance(samples, dict)
        or not isinstance(at, str)
        or not isinstance(error, str | None)
        or not all(map(_is_number, [line.get("at_s"), line.get("scrape_s")]))
        or not all(value is None or _is_number(value) for value in samples.values())
    ):
        raise UsageError(f"{where}: not a reading that a run has written (copy the run again)")
    return Reading(line["at_s"], at, line["scrape_s"], samples, error)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

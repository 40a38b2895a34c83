"""The accuracy of this machine's timestamps: their error against a server's log, by the number of concurrent streams.

All timestamps are CLOCK_MONOTONIC of one machine. The TTFT error is the absolute difference, in ms, between the
client's timestamp of the first token (request sent plus TTFT) and the server's timestamp of sending it. The error of a
gap is the absolute difference between the client's gap and the same gap in the log. Both include the latency of the
machine's own network, but not that of a network beyond it. `heard` is the time from sending the request until the
server had read it: mostly the server's own queue, and not an error of the client.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from evaluation.schema import atomic_write
from streaming.errors import UsageError

DEFAULT_FILE = Path("out", "calibration.json")
CALIBRATE_COMMAND = "python -m evaluation calibrate"
VERSION = 1
CONNECTION_KINDS = ("plain", "tls")
_MACHINE_FIELDS = ("kernel", "architecture", "cpu_model", "cpu_count")
"""The properties that the accuracy of timestamps depends on: if one differs, the calibration is of another machine."""


@dataclass(frozen=True, slots=True)
class ObservedAnswer:
    """One answer's timestamps as the instrument took them, in seconds on CLOCK_MONOTONIC.

    `problem` says why the answer was not completed; None if it was.
    """

    request_id: str
    sent_s: float | None
    tokens_s: list[float]
    merged_reads: int
    stamp_source: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """The errors at one number of concurrent streams; None if no answer was completed.

    Percentiles are nearest-rank. `heard_p99_ms` is the latency until the server had read the request.
    """

    way: str
    streams: int
    answers: int
    failed: int
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    gap_p50_ms: float | None
    gap_p99_ms: float | None
    heard_p99_ms: float | None
    merged_reads: int
    cpu_s_per_1000_chunks: float | None

    def within(self, error_ms: float) -> bool:
        """Return whether every answer was completed and the p99 errors of TTFT and gaps are at most `error_ms`."""
        if self.failed or self.ttft_p99_ms is None or self.gap_p99_ms is None:
            return False
        return max(self.ttft_p99_ms, self.gap_p99_ms) <= error_ms


@dataclass(frozen=True, slots=True)
class ErrorBar:
    """The largest p99 errors, in ms, over all measured numbers of streams up to `streams`."""

    way: str
    streams: int
    ttft_ms: float
    gap_ms: float


def compare_with_log(
    way: str, streams: int, observations: Sequence[ObservedAnswer], log: Iterable[Mapping[str, Any]], cpu_s: float
) -> CalibrationRow:
    """Compute the errors of the client's timestamps against the server's log, paired by request id.

    An answer with more or fewer tokens than the server sent counts as failed. `cpu_s` is the client's CPU time for all
    answers, in seconds.
    """
    received_s, sent_s = _times_from_log(log)
    ttft_ms: list[float] = []
    gap_ms: list[float] = []
    heard_ms: list[float] = []
    for one in observations:
        true_s = sent_s.get(one.request_id, [])
        if one.problem or not true_s or len(true_s) != len(one.tokens_s):
            continue
        ttft_ms.append(abs(one.tokens_s[0] - true_s[0]) * 1000)
        pairs = zip(pairwise(one.tokens_s), pairwise(true_s), strict=True)
        gap_ms += [abs((b - a) - (d - c)) * 1000 for (a, b), (c, d) in pairs]
        if one.sent_s is not None:
            heard_ms.append((received_s[one.request_id] - one.sent_s) * 1000)
    chunks = sum(len(one.tokens_s) for one in observations)
    return CalibrationRow(
        way=way,
        streams=streams,
        answers=len(observations),
        failed=len(observations) - len(ttft_ms),
        ttft_p50_ms=_nearest_rank(ttft_ms, 50),
        ttft_p99_ms=_nearest_rank(ttft_ms, 99),
        gap_p50_ms=_nearest_rank(gap_ms, 50),
        gap_p99_ms=_nearest_rank(gap_ms, 99),
        heard_p99_ms=_nearest_rank(heard_ms, 99),
        merged_reads=sum(one.merged_reads for one in observations),
        cpu_s_per_1000_chunks=round(cpu_s / chunks * 1000, 4) if chunks else None,
    )


def _times_from_log(log: Iterable[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return, by request id, when the request had been read and when its tokens were sent, in order of sending."""
    received_s: dict[str, float] = {}
    by_seq: dict[str, dict[int, float]] = defaultdict(dict)
    for line in log:
        if line["event"] == "received":
            received_s[line["request_id"]] = line["at_s"]
        elif "seq" in line:
            by_seq[line["request_id"]][line["seq"]] = line["at_s"]
    return received_s, {name: [at_s for _, at_s in sorted(sent.items())] for name, sent in by_seq.items()}


def _nearest_rank(values: list[float], percent: int) -> float | None:
    """Return the nearest-rank percentile, None without values. Of few values p99 is the largest: it hides no error."""
    if not values:
        return None
    return round(sorted(values)[math.ceil(len(values) * percent / 100) - 1], 4)


def error_bar(rows: Iterable[CalibrationRow], way: str, within_ms: float) -> ErrorBar | None:
    """Return the error bar at the largest number of streams up to which every row of `way` is within `within_ms`.

    None if not even the smallest number of streams is.
    """
    own = sorted((row for row in rows if row.way == way), key=lambda row: row.streams)
    held = list(takewhile(lambda row: row.within(within_ms), own))
    if not held:
        return None
    ttft_ms = max(row.ttft_p99_ms or 0.0 for row in held)
    gap_ms = max(row.gap_p99_ms or 0.0 for row in held)
    return ErrorBar(way, held[-1].streams, ttft_ms, gap_ms)


@dataclass(frozen=True, slots=True)
class Calibration:
    """One calibration, with the fields of its file.

    `left_out` maps a connection kind that was not measured to the reason. `stamp_source` is `callback` if any timestamp
    was not the kernel's. `real_time_priority` says whether the client had it.
    """

    made_at: str
    within_ms: float
    tokens: int
    gap_ms: float
    real_time_priority: bool
    stamp_source: str
    rows: tuple[CalibrationRow, ...]
    left_out: dict[str, str]
    machine: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None

    def bar(self, way: str) -> ErrorBar | None:
        """Return the error bar of one connection kind; None if it was left out or nothing was within it."""
        return error_bar(self.rows, way, self.within_ms)

    @property
    def ways(self) -> tuple[str, ...]:
        """The connection kinds that were measured."""
        return tuple(way for way in CONNECTION_KINDS if any(row.way == way for row in self.rows))

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of the calibration file."""
        bars = {way: asdict(bar) if (bar := self.bar(way)) else None for way in self.ways}
        return {"calibration": VERSION, **asdict(self), "within_at_up_to": bars}


def calibration_from_dict(data: Mapping[str, Any]) -> Calibration:
    """Parse the object that `as_dict` returns. Raises ValueError when a field is missing or invalid."""
    if data.get("calibration") != VERSION:
        raise ValueError(f"not a calibration of version {VERSION}")
    try:
        values = {field.name: data[field.name] for field in fields(Calibration)}
        values["rows"] = tuple(CalibrationRow(**row) for row in data["rows"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a valid calibration ({error})") from None
    # Importing pydantic takes 0.1 s, which commands without a calibration need not spend.
    from pydantic import TypeAdapter, ValidationError

    try:
        made = TypeAdapter(Calibration).validate_python(values)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise ValueError(f"not a valid calibration ({place} is invalid)") from None
    if strange := {*made.left_out, *(row.way for row in made.rows)} - set(CONNECTION_KINDS):
        raise ValueError(f"not a valid calibration ({min(strange)[:40]!r} is not a connection kind)")
    return made


def write_calibration(path: Path, made: Calibration) -> None:
    """Replace the calibration file atomically. Raises OSError when it cannot be written."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(made.as_dict(), indent=2) + "\n", encoding="utf-8")


def read_calibration(path: Path | None) -> Calibration | None:
    """Read a calibration file; for None the default file, or return None if there is none.

    Raises UsageError when the file cannot be read or is not a calibration.
    """
    if path is None and not DEFAULT_FILE.exists():
        return None
    file = path or DEFAULT_FILE
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return calibration_from_dict(data if isinstance(data, dict) else {})
    except OSError as error:
        raise UsageError(f"calibration {file}: {error.strerror} (create one with `{CALIBRATE_COMMAND}`)") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"calibration {file}: {error} (create a new one with `{CALIBRATE_COMMAND}`)") from None


def machine_differences(ours: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the differences between the calibration's machine and the run's, such as `cpu count 2, not 8`."""
    return [
        f"{name.replace('_', ' ')} {other.get(name)}, not {ours.get(name)}"
        for name in _MACHINE_FIELDS
        if other.get(name) != ours.get(name)
    ]

"""The rows of an evaluation and their journal; only the standard library is used, since load tests write them too.

A trial is one line of `trials.jsonl`, an event one line of `events.jsonl`. None is unknown, 0 is measured. The events
of a trial are written before the trial itself, so every trial in the journal has all its events; events without a trial
belong to a trial that was interrupted.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from streaming.errors import UsageError
from streaming.trace import parse_json_object

TRIALS_FILE = "trials.jsonl"
EVENTS_FILE = "events.jsonl"


Seconds = Annotated[float | None, "s"]
Count = Annotated[int | None, "count"]
Rate = Annotated[float | None, "1/s"]
Share = Annotated[float | None, "0-1"]
Usd = Annotated[Decimal | None, "USD"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One requested answer and its metrics; the order of the fields is the order of the columns."""

    run_id: str
    trial_id: str
    prompt_id: str
    provider: str
    model: str | None
    strategy: str
    transport: str
    repeat: int
    block: int
    outcome: Literal["completed", "empty", "refused", "filtered", "truncated", "failed", "cancelled"]
    finish_reason: str | None = None
    finish_raw: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    http_status: int | None = None
    started_at: Annotated[str, "UTC ISO 8601"]
    intended_start_s: Seconds = None
    queue_s: Seconds = None
    attempts: Count = None
    fell_back_to: str | None = None
    connect_s: Seconds = None
    headers_s: Seconds = None
    ttft_s: Seconds = None
    ttft_total_s: Seconds = None
    ttfot_s: Seconds = None
    delivered_ttft_s: Seconds = None
    e2e_s: Seconds = None
    delivered_e2e_s: Seconds = None
    chunks: Count = None
    delivered_chunks: Count = None
    icl_p50_s: Seconds = None
    icl_p95_s: Seconds = None
    icl_p99_s: Seconds = None
    icl_max_s: Seconds = None
    icl_cv: float | None = None
    stalls: Count = None
    stall_s: Seconds = None
    itl_s: Seconds = None
    output_tps: Rate = None
    chars_per_s: Rate = None
    delay_mean_s: Seconds = None
    delay_p95_s: Seconds = None
    delay_max_s: Seconds = None
    updates_per_s: Rate = None
    fluidity: Share = None
    qoe: Share = None
    input_tokens: Count = None
    output_tokens: Count = None
    thinking_tokens: Count = None
    cached_tokens: Count = None
    cache_write_tokens: Count = None
    token_source: str | None = None
    input_cost_usd: Usd = None
    output_cost_usd: Usd = None
    cost_usd: Usd = None
    cost_source: str | None = None
    list_cost_usd: Usd = None
    price_source: str | None = None
    price_date: str | None = None
    sent_monotonic_s: Seconds = None
    stamp_source: str | None = None
    loop_lag_max_s: Seconds = None
    merged_reads: Count = None
    disturbed: bool | None = None
    effort: str | None = None
    dropped_settings: str | None = None


class EventRow(NamedTuple):
    """One event at one end of a trial: `kind` is `source_` or `delivered_` followed by the type of the event.

    A strategy merges and splits deltas, so the two ends are separate lists of rows, merged in chronological order and
    numbered by `seq` from 0. The timestamp of the row's own end is in seconds since the request was sent; the other is
    None. `chars` is the length of a delta, `tokens` the output tokens of a usage event: a delta is not a token.
    """

    run_id: str
    trial_id: str
    seq: int
    kind: str
    chars: int | None
    tokens: int | None
    source_s: float | None
    delivered_s: float | None


TRIAL_COLUMNS = tuple(f.name for f in fields(Trial))
TRIAL_TYPES: dict[str, Any] = get_type_hints(Trial)
TRIAL_UNITS: dict[str, str] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Trial, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}
EVENT_COLUMNS = EventRow._fields
EVENT_TYPES: dict[str, Any] = get_type_hints(EventRow)
_USD_COLUMNS = tuple(name for name, unit in TRIAL_UNITS.items() if unit == "USD")
_encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=str).encode


class Journal:
    """The append-only journal of a run: the trial file and the event file of its folder.

    `add` flushes, so finished trials survive the death of the process. `sync` also makes them survive a power failure;
    it is slow and safe to call from another thread.
    """

    def __init__(self, folder: Path) -> None:
        self._events = (folder / EVENTS_FILE).open("a", encoding="utf-8")
        self._trials = (folder / TRIALS_FILE).open("a", encoding="utf-8")

    def add_events(self, events: Iterable[EventRow]) -> None:
        """Write some events of a trial that `add` writes later. Raises OSError."""
        self._events.write("".join(map(_encode_event, events)))

    def add(self, trial: Trial, events: Iterable[EventRow] = ()) -> None:
        """Write one finished trial after its events. Raises OSError, for example when the disk is full."""
        self.add_events(events)
        self._events.flush()
        self._trials.write(_encode_json({name: getattr(trial, name) for name in TRIAL_COLUMNS}) + "\n")
        self._trials.flush()

    def sync(self) -> None:
        os.fsync(self._events.fileno())
        os.fsync(self._trials.fileno())

    def close(self) -> None:
        self._events.close()
        self._trials.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _encode_event(event: EventRow) -> str:
    """Return an event as a JSON line. Most lines are events, and the general encoder takes four times as long."""
    run_id, trial_id, seq, kind, chars, tokens, source_s, delivered_s = event
    return (
        f'{{"run_id":{_quote_json(run_id)},"trial_id":{_quote_json(trial_id)},"seq":{seq},"kind":{_quote_json(kind)},'
        f'"chars":{_encode_number(chars)},"tokens":{_encode_number(tokens)},'
        f'"source_s":{_encode_number(source_s)},"delivered_s":{_encode_number(delivered_s)}}}\n'
    )


def _encode_number(value: float | None) -> str:
    if value is None:
        return "null"
    if value - value:  # nonzero for inf and nan, which JSON cannot represent
        raise ValueError(f"an event's number cannot be {value}")
    return f"{value}"


_quote_json = lru_cache(maxsize=256)(json.dumps)


def read_trials(folder: Path) -> list[Trial]:
    """Return the trials of a journal without duplicates; none if there is no file.

    Raises UsageError, with the line number, when a line is not a valid trial.
    """
    trials: dict[str, Trial] = {}
    for where, row in read_lines(folder / TRIALS_FILE):
        try:
            for name in _USD_COLUMNS:
                if row.get(name) is not None:
                    row[name] = _money(row[name], f"{where}: a trial's {name}")
            _check_row(row, where)
            trial = Trial(**row)
            trials.setdefault(trial.trial_id, trial)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{where}: {str(error).replace('Trial.__init__()', 'a trial')}") from None
    return list(trials.values())


def _money(value: Any, where: str) -> Decimal:
    try:
        return Decimal(value)
    except (InvalidOperation, TypeError, ValueError):
        raise UsageError(f"{where} cannot be {str(value)[:40]!r}") from None


def read_events(folder: Path) -> Iterator[EventRow]:
    """Yield the events of a journal, including those of unfinished trials.

    Raises UsageError, with the line number, when a line is not a valid event.
    """
    for where, row in read_lines(folder / EVENTS_FILE):
        try:
            yield EventRow(**row)
        except TypeError as error:
            raise UsageError(f"{where}: {str(error).replace('EventRow.__new__()', 'an event')}") from None


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the file and line number of each line, and its JSON object; a last line without a line break is skipped."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith("\n"):
                where = f"{path}, line {number}"
                yield where, parse_json_object(line, where)


def _check_row(row: dict[str, Any], where: str) -> None:
    for name, (words, kinds) in _ALLOWED_VALUES.items():
        if name not in row:
            continue
        value = row[name]
        fits = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
        if not fits or (words and value not in words):
            raise UsageError(f"{where}: a trial's {name} cannot be {repr(value)[:40]}")


def _allowed_values(hint: Any) -> tuple[tuple[str, ...], tuple[type, ...]]:
    """Return the strings allowed in a column (empty if any string is) and the allowed types."""
    if get_origin(hint) is Literal:
        return get_args(hint), (str,)
    kinds = get_args(hint) or (hint,)
    return (), (*kinds, int) if float in kinds else kinds


_ALLOWED_VALUES = {name: _allowed_values(hint) for name, hint in TRIAL_TYPES.items()}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` on success and is deleted on failure."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

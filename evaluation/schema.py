"""The rows of an evaluation and their journal; only the standard library is used, since load tests write them too.

A trial is one line of `trials.jsonl`, an event one line of `events.jsonl`. None is unknown, 0 is measured. The events
of a trial are written before the trial itself, so every trial in the journal has all its events; events without a trial
belong to a trial that was interrupted.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, make_dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from evaluation.metrics import METRICS, compute_metrics
from evaluation.metrics.metric import MetricValue
from evaluation.metrics.trial_metrics import MeasuredAnswer, TimedEvents
from streaming.errors import UsageError
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, Usage
from streaming.trace import parse_json_object

TRIALS_FILE = "trials.jsonl"
EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True, slots=True)
class Column:
    """The unit and the meaning of a column that is no metric, for the documentation."""

    unit: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFacts:
    """The columns of a trial that are no metrics: what was tried, how it ended, and where its figures come from."""

    run_id: Annotated[str, Column("", "the run")]
    trial_id: Annotated[str, Column("", "the trial; its request carries it as `X-Client-Request-Id`")]
    prompt_id: Annotated[str, Column("", "the prompt's id in the prompt file")]
    name: Annotated[str | None, Column("", "the whole `provider:model`, with the effort where it was varied")] = None
    provider: Annotated[str, Column("", "the provider's name")]
    model: Annotated[str | None, Column("", "the model's name, as asked for")]
    strategy: Annotated[str, Column("", "the delivery strategy")]
    transport: Annotated[str, Column("", "`in-process`, or the transport to the service")]
    level: Annotated[float | None, Column("", "the concurrency, or the requests per second, of the load")] = None
    repeat: Annotated[int, Column("count", "repeat of the same prompt in the same cell, from 1")]
    block: Annotated[int, Column("count", "trials of one block are compared as pairs")]
    fresh: Annotated[
        bool | None,
        Column(
            "",
            "the provider had not been asked this prompt, or one with this opening, in this run before: no cache "
            "of this run can have answered",
        ),
    ] = None
    conversation: Annotated[
        str | None, Column("", "the id of a conversation's first trial; empty for single turns")
    ] = None
    turn: Annotated[int | None, Column("count", "turn of the conversation, from 1; it waits for the one before")] = None
    outcome: Annotated[
        Literal["completed", "empty", "refused", "filtered", "truncated", "failed", "cancelled"],
        Column(
            "",
            "only `completed` is a success; `empty`: ended in order without answer text; `refused`: the model "
            "declined; `filtered`: the vendor cut it",
        ),
    ]
    correct: Annotated[
        bool | None, Column("", "the answer is what the prompt file expects; empty where nothing is expected")
    ] = None
    finish_reason: Annotated[str | None, Column("", "stop, length, content_filter, tool, error or other")] = None
    finish_raw: Annotated[str | None, Column("", "the provider's own word for it")] = None
    error_type: Annotated[str | None, Column("", "kind of the error")] = None
    error_message: Annotated[str | None, Column("", "the error in words, without secrets")] = None
    http_status: Annotated[int | None, Column("", "HTTP status of a failed request")] = None
    started_at: Annotated[str, Column("UTC ISO 8601", "start on the wall clock, for people")]
    intended_start_s: Annotated[float | None, Column("s", "planned start on CLOCK_MONOTONIC")] = None
    sent_monotonic_s: Annotated[float | None, Column("s", "`sent` on CLOCK_MONOTONIC, to pair with a server's log")] = (
        None
    )
    fell_back_to: Annotated[str | None, Column("", "the provider that answered after a fallback of the service")] = None
    token_source: Annotated[str | None, Column("", "reported, counted or estimated")] = None
    cost_source: Annotated[str | None, Column("", "billed (the vendor's own figure), listed or user")] = None
    price_source: Annotated[str | None, Column("", "where the price comes from")] = None
    price_date: Annotated[str | None, Column("", "date of the price")] = None
    stamp_source: Annotated[
        str | None,
        Column("", "where arrival timestamps come from: kernel, callback, in-process, service or browser"),
    ] = None
    peer_address: Annotated[
        str | None,
        Column("", "the IP address that took the connection, the proxy's if there is one; empty without a connection"),
    ] = None
    disturbed: Annotated[
        bool | None, Column("", "the trial's figures are outside the calibrated error of the instrument")
    ] = None
    effort: Annotated[str | None, Column("", "the effort asked for; empty is the provider's default")] = None
    dropped_settings: Annotated[
        str | None, Column("", "settings that the model does not take and that were therefore not sent")
    ] = None
    model_served: Annotated[str | None, Column("", "the model that answered, in the provider's own words")] = None
    provider_served: Annotated[str | None, Column("", "the provider to which a gateway routed the request")] = None
    service_tier: Annotated[str | None, Column("", "the tier in which the provider served the request")] = None
    fingerprint: Annotated[str | None, Column("", "the provider's fingerprint of the serving system")] = None
    upstream_request_id: Annotated[str | None, Column("", "the request's id in the provider's own logs")] = None


if TYPE_CHECKING:

    class Trial(TrialFacts):
        """One requested answer: its facts, and one field for each metric of the registry, None if unknown."""

        def __init__(self, **columns: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    Trial = make_dataclass(  # `module` can be an argument from Python 3.12 on only
        "Trial",
        [(metric.name, metric.value_type | None, None) for metric in METRICS],
        bases=(TrialFacts,),
        namespace={
            "__module__": __name__,
            "__doc__": "One requested answer: its facts, and one field for each metric, None if unknown.",
        },
        frozen=True,
        slots=True,
        kw_only=True,
    )


class EventRow(NamedTuple):
    """One event at one end of a trial: `kind` is `source_`, `delivered_` or `painted_`, and the type of the event.

    A strategy and a page merge and split deltas, so the ends are separate lists of rows, merged in chronological order
    and numbered by `seq` from 0. The timestamp of the row's own end is in seconds since the request was sent; the
    others are None. `chars` is the length of a delta, `tokens` the output tokens of a usage event: a delta is not a
    token.
    """

    run_id: Annotated[str, Column("", "the run")]
    trial_id: Annotated[str, Column("", "the trial")]
    seq: Annotated[int, Column("count", "number of the event within its trial, from 0")]
    kind: Annotated[
        str, Column("", "`source_`, `delivered_` or `painted_`, and the event: text, thinking, usage, notice, …")
    ]
    chars: Annotated[int | None, Column("count", "length of a delta in characters")]
    tokens: Annotated[int | None, Column("count", "output tokens of a usage event")]
    source_s: Annotated[float | None, Column("s", "arrival from the provider, since `sent`")]
    delivered_s: Annotated[float | None, Column("s", "departure towards the reader, since `sent`")]
    painted_s: Annotated[float | None, Column("s", "presentation by a browser, since `sent`")] = None


def _column_docs(row: type) -> dict[str, Column]:
    return {name: hint.__metadata__[0] for name, hint in get_type_hints(row, include_extras=True).items()}


FACTS = _column_docs(TrialFacts)
"""The columns of a trial that are no metrics."""
EVENT_COLUMN_DOCS = _column_docs(EventRow)
TRIAL_COLUMNS = (*FACTS, *(metric.name for metric in METRICS))
TRIAL_TYPES: dict[str, Any] = get_type_hints(TrialFacts) | {m.name: m.value_type | None for m in METRICS}
TRIAL_UNITS: dict[str, str] = {name: column.unit for name, column in FACTS.items() if column.unit} | {
    metric.name: metric.unit for metric in METRICS
}
trial_values: Callable[[Trial], tuple[Any, ...]] = attrgetter(*TRIAL_COLUMNS)
"""Return the values of a trial in the order of `TRIAL_COLUMNS`."""
EVENT_COLUMNS = EventRow._fields
EVENT_TYPES: dict[str, Any] = get_type_hints(EventRow)
_REQUIRED_COLUMNS = {field.name for field in fields(Trial) if field.default is MISSING}
_USD_COLUMNS = tuple(name for name, unit in TRIAL_UNITS.items() if unit == "USD")
_encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=str).encode


_KIND_BY_EVENT: dict[type[Event], str] = {
    TextDelta: "text", ThinkingDelta: "thinking", Usage: "usage", Notice: "notice", Finish: "finish", Failed: "failed",
}  # fmt: skip


def build_trial(answer: MeasuredAnswer, metrics: Mapping[str, MetricValue] | None = None, /, **facts: Any) -> Trial:
    """Return the row of an answer; `facts` are the columns that are no metrics and that the answer does not report.

    `metrics` are those of the answer, if they are computed already.
    """
    result = {name: value for name, value in answer.reported.items() if name in FACTS}
    result |= {"outcome": answer.outcome, "dropped_settings": answer.dropped_settings}
    if answer.sent_s is not None:
        result["sent_monotonic_s"] = round(answer.sent_s, 9)
    if answer.intended_s is not None:
        result["intended_start_s"] = round(answer.intended_s, 9)
    return Trial(**{**result, **facts, **(compute_metrics(answer) if metrics is None else metrics)})


def event_rows(run_id: str, trial_id: str, timestamps: TimedEvents) -> Iterator[EventRow]:
    """Yield the events of all ends in chronological order; at equal timestamps the source event comes first."""
    source = timestamps.source or ()
    ends = [*source, *timestamps.delivered, *(timestamps.painted or ())]
    arrived, left = len(source), len(source) + len(timestamps.delivered)
    times_s = [timed.at_s for timed in ends]
    for seq, place in enumerate(sorted(range(len(ends)), key=times_s.__getitem__)):
        event = ends[place].event
        kind, at_s = _KIND_BY_EVENT[type(event)], round(times_s[place] - timestamps.sent_s, 9)
        chars = len(event.text) if type(event) is TextDelta or type(event) is ThinkingDelta else None
        tokens = event.output_tokens if type(event) is Usage else None
        if place < arrived:
            yield EventRow(run_id, trial_id, seq, "source_" + kind, chars, tokens, at_s, None)
        elif place < left:
            yield EventRow(run_id, trial_id, seq, "delivered_" + kind, chars, tokens, None, at_s)
        else:
            yield EventRow(run_id, trial_id, seq, "painted_" + kind, chars, tokens, None, None, at_s)


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
        self._trials.write(_encode_json(dict(zip(TRIAL_COLUMNS, trial_values(trial), strict=True))) + "\n")
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
    run_id, trial_id, seq, kind, chars, tokens, source_s, delivered_s, painted_s = event
    if 0.0 * (source_s or 0.0) + 0.0 * (delivered_s or 0.0) + 0.0 * (painted_s or 0.0):  # NaN, which is true
        raise ValueError(f"an event's number cannot be infinite or NaN: {event}")
    return (
        f'{{"run_id":{_quote_json(run_id)},"trial_id":{_quote_json(trial_id)},"seq":{seq},"kind":{_quote_json(kind)},'
        f'"chars":{"null" if chars is None else chars},"tokens":{"null" if tokens is None else tokens},'
        f'"source_s":{"null" if source_s is None else source_s},'
        f'"delivered_s":{"null" if delivered_s is None else delivered_s},'
        f'"painted_s":{"null" if painted_s is None else painted_s}}}\n'
    )


_quote_json = lru_cache(maxsize=256)(json.dumps)


def read_trials(folder: Path) -> list[Trial]:
    """Return the trials of a journal without duplicates; none if there is no file.

    Raises UsageError, with the line number, when a line is not a valid trial.
    """
    return [Trial(**columns) for columns in read_trial_columns(folder)]


def read_trial_columns(folder: Path) -> list[dict[str, Any]]:
    """Return the trials of a journal as `read_trials` does, each as its known columns by name.

    Where the trials themselves are not needed: to make them takes as long as all the rest.
    """
    trials: dict[str, dict[str, Any]] = {}
    for where, row in read_lines(folder / TRIALS_FILE):
        try:
            for name in _USD_COLUMNS:
                if row.get(name) is not None:
                    row[name] = _money(row[name], f"{where}: a trial's {name}")
            _check_row(row, where)
            columns = {name: value for name, value in row.items() if name in TRIAL_TYPES}
            if not columns.keys() >= _REQUIRED_COLUMNS:
                Trial(**columns)  # its error names the columns that are missing
            trials.setdefault(columns["trial_id"], columns)
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
    for name, value in row.items():
        words, kinds = _ALLOWED_VALUES.get(name, _ANY_VALUE)
        if kinds and (type(value) not in kinds or (words and value not in words)):  # a bool is no int here
            raise UsageError(f"{where}: a trial's {name} cannot be {repr(value)[:40]}")


def _allowed_values(hint: Any) -> tuple[tuple[str, ...], tuple[type, ...]]:
    """Return the strings allowed in a column (empty if any string is) and the allowed types."""
    if get_origin(hint) is Literal:
        return get_args(hint), (str,)
    kinds = get_args(hint) or (hint,)
    return (), (*kinds, int) if float in kinds else kinds


_ANY_VALUE: tuple[tuple[str, ...], tuple[type, ...]] = ((), ())
"""What is allowed in a column that this version does not know."""
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

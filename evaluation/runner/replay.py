"""What if: recorded streams put through other strategies at once, with no waiting, no key and no cost.

What arrived is the recording's; what the reader would have got is computed by the machines that deliver live.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from evaluation import manifest
from evaluation.calibration.machine import describe_machine
from evaluation.metrics import trial_metrics
from evaluation.metrics.cadence import Chunks
from evaluation.metrics.experience import ReaderModel, TokenDeadlines
from evaluation.runner.writer import TRACES
from evaluation.scenario import full_name
from evaluation.schema import EVENTS_FILE, TRIALS_FILE, Journal, Trial
from streaming import strategies
from streaming.clock import utc_now
from streaming.errors import UsageError
from streaming.events import TERMINAL, Failed, Finish, TextDelta, TimedEvent, Usage
from streaming.messages import Message
from streaming.meter import Meter
from streaming.pipeline import Outcome, outcome_of
from streaming.replay import replay
from streaming.trace import Trace, check_fields, loads

TRANSPORT = "replay"
MANIFEST_KIND = "what-if"
_MAX_REPEAT = 10**9


@dataclass(frozen=True, slots=True)
class Recording:
    """A trace and its name in the tables."""

    name: str
    trace: Trace


def find_traces(paths: Sequence[Path]) -> list[Path]:
    """Give the traces of files, folders of traces and folders of runs, in order of name. Raises UsageError."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: there is no such file or folder")
        if path.is_file():
            found.append(path)
            continue
        holds = path / TRACES if (path / TRACES).is_dir() else path
        inside = [] if manifest.holds_run(holds) else sorted(holds.glob("*.jsonl"))
        if not inside:
            raise UsageError(f"{path} holds no traces; `run --record` keeps them")
        found += inside
    return found


def read_recordings(paths: Sequence[Path]) -> Iterator[Recording]:
    """Read traces one after the other. Raises UsageError naming file and line."""
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read the trace {path}: {error}") from None
        yield Recording(path.stem, loads(text, str(path)))


def replay_run(run_id: str, recordings: Iterator[Recording], names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Put every recording through every strategy, journal the trials in `folder` and give the manifest.

    A block is one recording: its cells differ by strategy alone and are compared as pairs.
    """
    facts = _make_manifest(run_id, names)
    try:
        count, providers = _write_journal(run_id, recordings, names, folder)
    except UsageError:
        # Half a table of a broken recording is of no use, and its folder would be in the way of the next try.
        for name in (TRIALS_FILE, EVENTS_FILE):
            (folder / name).unlink()
        raise
    facts["scenario"] |= {"providers": list(providers)}
    facts |= {"recordings": count, "complete": True, "finished_at": utc_now()}
    facts |= {"trials_planned": count * len(names), "trials_finished": count * len(names)}
    return facts


def _write_journal(
    run_id: str, recordings: Iterator[Recording], names: Sequence[str], folder: Path
) -> tuple[int, dict[str, None]]:
    """Write all rows; give how many recordings there were, and of whom, in the order of their appearance."""
    providers: dict[str, None] = {}
    count = 0
    with Journal(folder) as journal:
        for count, recording in enumerate(recordings, start=1):
            for trial in replay_trials(run_id, recording, names, count):
                providers[full_name(trial.provider, trial.model)] = None
                journal.add(trial)
        journal.sync()
    return count, providers


def replay_trials(run_id: str, recording: Recording, names: Sequence[str], block: int) -> Iterator[Trial]:
    """Give a row for each strategy; times count from the recording's `sent`, and cost is left out: nothing was paid."""
    header, events = recording.trace.header, recording.trace.events
    outcome, ending = _ending_columns(events, header)
    usage = _recorded_usage(recording)
    source = Chunks.from_events(events)
    arrived = trial_metrics.arrival_metrics(trial_metrics.TimedEvents(0.0, events, ()), source, outcome, usage)
    for place, name in enumerate(names, start=1):
        stamps = trial_metrics.TimedEvents(0.0, events, tuple(replay(events, strategies.parse(name).build())))
        delivered = trial_metrics.delivery_metrics(stamps, source, outcome, usage, TokenDeadlines(), ReaderModel())
        yield Trial(
            run_id=run_id,
            trial_id=f"{run_id}-{block:05d}-{place}",
            prompt_id=str(header.get("prompt_id") or recording.name),
            provider=str(header.get("provider") or "unknown"),
            model=_text_or_none(header.get("model")),
            strategy=name,
            transport=TRANSPORT,
            repeat=_int_or_default(header.get("repeat"), block),
            block=block,
            started_at=str(header.get("started_at") or ""),
            stamp_source=TRANSPORT,
            outcome=outcome,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            thinking_tokens=usage.thinking_tokens,
            cached_tokens=usage.cached_tokens,
            token_source=usage.source,
            **ending,
            **arrived,
            **delivered,
        )


def _ending_columns(events: Sequence[TimedEvent], header: Any) -> tuple[Outcome, dict[str, Any]]:
    """Give outcome and its columns; a trace with no end is a cut answer, whatever its header says."""
    last = events[-1].event if events else None
    if isinstance(last, (Finish, Failed)):
        has_text = any(isinstance(timed.event, TextDelta) and timed.event.text.strip() for timed in events)
        outcome = outcome_of(last, has_text=has_text)
        if isinstance(last, Finish):
            return outcome, {"finish_reason": last.reason, "finish_raw": last.raw}
        return outcome, {"error_type": last.kind, "error_message": last.message, "http_status": last.http_status}
    known = header.get("outcome")
    outcome = known if known in get_args(Outcome) and known != "completed" else "truncated"
    return outcome, {"error_type": "truncated", "error_message": "the trace has no end"}


def _recorded_usage(recording: Recording) -> Usage:
    """Give the tokens: those that the trial knew, else as the meter reads the events (reported, or estimated)."""
    recorded, where = recording.trace, f"the trace {recording.name}: its header's usage"
    known = recorded.header.get("usage")
    if isinstance(known, dict):
        check_fields(known, where)
        try:
            return Usage(**known)
        except TypeError:
            raise UsageError(f"{where} has fields that are not a usage's") from None
    meter = Meter((Message("user", ""),), 0.0)
    for timed in recorded.events:
        if not isinstance(timed.event, TERMINAL):
            meter.feed(timed.event, timed.at_s)
    usage = meter.read(0.0).usage
    reported = usage.source == "reported"
    return usage if reported else Usage(None, usage.output_tokens, usage.thinking_tokens, None, usage.source)


def _text_or_none(value: object) -> str | None:
    return str(value) if value else None


def _int_or_default(value: object, default: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_REPEAT:
        return value
    return default


def _make_manifest(run_id: str, names: Sequence[str]) -> dict[str, Any]:
    about = describe_machine()
    scenario = {"providers": [], "strategies": list(names), "transport": [TRANSPORT]}
    measures = manifest.measure_constants()
    head = {"manifest": manifest.VERSION, "kind": MANIFEST_KIND, "run_id": run_id, "started_at": utc_now()}
    return {**head, "scenario": scenario, "measures": measures, **about}

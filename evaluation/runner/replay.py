"""What-if replay: recorded streams run through other strategies in virtual time, without an API key or cost.

Source timestamps are those of the recording. Delivered timestamps are computed by the strategies that deliver live.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from evaluation import manifest
from evaluation.calibration.machine import describe_machine
from evaluation.metrics.trial_metrics import MeasuredAnswer, TimedEvents
from evaluation.runner.writer import TRACES
from evaluation.scenario import full_name
from evaluation.schema import EVENTS_FILE, TRIALS_FILE, Journal, Trial, build_trial
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
_TOKEN_FIELDS = ("input_tokens", "output_tokens", "thinking_tokens", "cached_tokens", "cache_write_tokens")


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded trace and the name of its file, which stands for the prompt id if the trace has none."""

    name: str
    trace: Trace


def find_traces(paths: Sequence[Path]) -> list[Path]:
    """Return the trace files in `paths`: files, folders of traces, or folders of runs. Folders are sorted by name.

    Raises UsageError when a path does not exist or a folder holds no traces.
    """
    traces: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        if path.is_file():
            traces.append(path)
            continue
        holds = path / TRACES if (path / TRACES).is_dir() else path
        inside = [] if manifest.holds_run(holds) else sorted(holds.glob("*.jsonl"))
        if not inside:
            raise UsageError(f"{path}: contains no traces (record them with `run --record`)")
        traces += inside
    return traces


def read_recordings(paths: Sequence[Path]) -> Iterator[Recording]:
    """Read the traces one at a time. Raises UsageError, with file and line, when a trace is invalid."""
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"trace {path}: cannot be read ({error})") from None
        yield Recording(path.stem, loads(text, str(path)))


def replay_run(run_id: str, recordings: Iterator[Recording], names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Replay every recording through every strategy, write the trials to `folder` and return the manifest.

    A block is one recording: its cells differ only in strategy and are compared as pairs. Raises UsageError when a
    recording is invalid; the folder then holds no trials.
    """
    facts = _make_manifest(run_id, names)
    try:
        count, providers = _write_journal(run_id, recordings, names, folder)
    except UsageError:
        # A partial table is of no use, and a folder that holds a run could not be used for the next attempt.
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
    """Write all rows; return the number of recordings and their providers in order of first appearance."""
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
    """Yield one trial per strategy. Times count from the recorded request; cost is None, since nothing was paid."""
    header, events = recording.trace.header, recording.trace.events
    outcome, ending = _ending_columns(events, header)
    usage = _recorded_usage(recording)
    name, model = str(header.get("provider") or "unknown"), _text_or_none(header.get("model"))
    tokens = {field: getattr(usage, field) for field in _TOKEN_FIELDS} | {"token_source": usage.source}
    for place, strategy in enumerate(names, start=1):
        stamps = TimedEvents(0.0, events, tuple(replay(events, strategies.parse(strategy).build())))
        yield build_trial(
            MeasuredAnswer(stamps, outcome, usage, ending | tokens),
            run_id=run_id,
            trial_id=f"{run_id}-{block:05d}-{place}",
            prompt_id=str(header.get("prompt_id") or recording.name),
            name=full_name(name, model),
            provider=name,
            model=model,
            strategy=strategy,
            transport=TRANSPORT,
            repeat=_int_or_default(header.get("repeat"), block),
            block=block,
            started_at=str(header.get("started_at") or ""),
            sent_monotonic_s=None,
            stamp_source=TRANSPORT,
        )


def _ending_columns(events: Sequence[TimedEvent], header: Any) -> tuple[Outcome, dict[str, Any]]:
    """Return the outcome and its columns.

    A trace without a terminal event is never completed, whatever its header says.
    """
    last = events[-1].event if events else None
    if isinstance(last, (Finish, Failed)):
        has_text = any(isinstance(timed.event, TextDelta) and timed.event.text.strip() for timed in events)
        outcome = outcome_of(last, has_text=has_text)
        if isinstance(last, Finish):
            return outcome, {"finish_reason": last.reason, "finish_raw": last.raw}
        return outcome, {"error_type": last.kind, "error_message": last.message, "http_status": last.http_status}
    known = header.get("outcome")
    outcome = known if known in get_args(Outcome) and known != "completed" else "truncated"
    return outcome, {"error_type": "truncated", "error_message": "trace: no terminal event"}


def _recorded_usage(recording: Recording) -> Usage:
    """Return the token usage in the trace's header, or else the meter's reading of the events (reported or estimated).

    Raises UsageError when the header's usage is invalid.
    """
    recorded, where = recording.trace, f"trace {recording.name}: the usage in its header"
    known = recorded.header.get("usage")
    if isinstance(known, dict):
        check_fields(known, where)
        try:
            return Usage(**known)
        except TypeError:
            raise UsageError(f"{where} has unknown fields (record the trace again)") from None
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

"""A calibration in words: its table, and what it means for a run, of which only stamped trials have its error bar."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from evaluation import wording
from evaluation.calibration import COMMAND, WAYS, Bar, Calibration, Row, differences, from_dict
from evaluation.escaping import to_line
from streaming.errors import UsageError

STAMPED = ("kernel", "callback")
_NAMES = {"plain": "plain", "tls": "TLS"}
_HEADER = (
    "streams", "answers", "failed", "TTFT error p50/p99 ms", "gap error p50/p99 ms", "heard p99 ms", "merged reads",
    "CPU s/1000 chunks", "within",
)  # fmt: skip


def table(made: Calibration) -> Table:
    """Give one line for each way and number of streams; a dash is unknown."""
    found = Table(title=f"Calibration {to_line(made.made_at)}: {made.tokens} tokens, {made.gap_ms:g} ms apart")
    found.add_column("way")
    for heading in _HEADER:
        found.add_column(heading, justify="right")
    for row in made.rows:
        found.add_row(*_cells(row, made.within_ms))
    return found


def _cells(row: Row, within_ms: float) -> list[str]:
    def pair(low_ms: float | None, high_ms: float | None) -> str:
        return f"{_ms(low_ms)}/{_ms(high_ms)}"

    return [
        _NAMES[row.way],
        str(row.streams),
        str(row.answers),
        str(row.failed),
        pair(row.ttft_p50_ms, row.ttft_p99_ms),
        pair(row.gap_p50_ms, row.gap_p99_ms),
        _ms(row.heard_p99_ms),
        str(row.merged_reads),
        wording.UNKNOWN if row.cpu_s_per_1000_chunks is None else f"{row.cpu_s_per_1000_chunks:.3f}",
        "yes" if row.within(within_ms) else "no",
    ]


def _ms(value_ms: float | None) -> str:
    """Write milliseconds, of which a small error has thousandths."""
    return f"{value_ms:.3f}" if value_ms is not None and value_ms < 1 else wording.number(value_ms)


def remarks(made: Calibration) -> Iterator[str]:
    """Say what was found: a line a way, what was left out, and what holds for all of it."""
    for way in made.ways:
        yield f"{_NAMES[way]}: {_held(made.bar(way), made)}"
    for way, reason in made.left_out.items():
        yield f"{_NAMES[way]}: left out: {to_line(reason)}"
    yield f"stamps: {made.stamp_source}; real-time priority: {'taken' if made.real_time_priority else 'not to be had'}"


def _held(bar: Bar | None, made: Calibration) -> str:
    if bar is None:
        return f"no number of streams is measured within {made.within_ms:g} ms"
    return (
        f"this machine measures TTFT within {_ms(bar.ttft_ms)} ms and gaps within {_ms(bar.gap_ms)} ms "
        f"at up to {bar.streams} streams (p99)"
    )


def lines(facts: Mapping[str, Any], sources: Sequence[str]) -> Iterator[str]:
    """Give a report's lines on the instrument's error; `sources` are the trials' stamp sources, as far as known."""
    others = sum(source not in STAMPED for source in sources)
    made = _calibration(facts)
    if sources and others == len(sources):
        yield "- instrument error: not calibrated: timed in the process that asked, not by its sockets"
        return
    if made is None:
        yield f"- instrument error: not calibrated: run {COMMAND}"
    else:
        for way in WAYS:
            known = (
                f"{_held(made.bar(way), made)}, calibrated on {made.made_at}" if way in made.ways else "not calibrated"
            )
            yield f"- instrument error, {_NAMES[way]}: {known}"
    for warning in warnings(facts, sources):
        yield f"- **{warning}**"
    if others:
        yield f"- {others} trials were timed in the process that asked, not by its sockets: they have no error bar"


def warnings(facts: Mapping[str, Any], sources: Sequence[str]) -> list[str]:
    """Say why the calibration does not hold for the stamped trials of a run; nothing where there is none of either."""
    made, stamped = _calibration(facts), [source for source in sources if source in STAMPED]
    if made is None or not stamped:
        return []
    found = list(_beyond(made, facts))
    if different := differences(facts.get("machine", {}), made.machine):
        found.append(f"the calibration is of another machine ({'; '.join(different)})")
    if made.stamp_source == "kernel" and (worse := len(stamped) - stamped.count("kernel")):
        found.append(f"{worse} trials had no stamps of the kernel's, the calibration had: their error can be larger")
    sittings = facts.get("instrument", [])
    if made.real_time_priority and any(sitting.get("real_time_priority") is not True for sitting in sittings):
        found.append("the calibration had real-time priority, this run had not always: its error can be larger")
    return found


def _beyond(made: Calibration, facts: Mapping[str, Any]) -> Iterator[str]:
    """Compare with the concurrency that was reached, or was asked for where that is not known."""
    reached = max((load.get("concurrency_max") or 0 for load in facts.get("loads", [])), default=0)
    streams = reached or facts.get("scenario", {}).get("concurrency", 1)
    for way in made.ways:
        held = made.bar(way)
        most = held.streams if held else 0
        if streams > most:
            yield f"{streams} at a time is beyond the calibration, {_NAMES[way]} up to {most}: its error is not known"


def _calibration(facts: Mapping[str, Any]) -> Calibration | None:
    found = facts.get("instrument_error")
    try:
        return None if found is None else from_dict(found)
    except ValueError as error:
        raise UsageError(f"the manifest's instrument_error: {error}") from None

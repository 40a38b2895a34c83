"""A calibration as a table, and its meaning for a run: only trials with socket timestamps have its error bar."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from evaluation.calibration.model import (
    CALIBRATE_COMMAND,
    CONNECTION_KINDS,
    Calibration,
    CalibrationRow,
    ErrorBar,
    calibration_from_dict,
    machine_differences,
)
from evaluation.reports import formatting
from streaming.errors import UsageError
from streaming.escaping import to_line

TIMESTAMPED = ("kernel", "callback")
_CONNECTION_LABELS = {"plain": "plain", "tls": "TLS"}
_HEADER = (
    "streams", "answers", "failed", "TTFT error p50/p99 ms", "gap error p50/p99 ms", "heard p99 ms", "merged reads",
    "CPU s/1000 chunks", "within",
)  # fmt: skip


def calibration_table(made: Calibration) -> Table:
    """Return a table with one row for each kind of connection and number of streams; a dash is unknown."""
    table = Table(title=f"Calibration {to_line(made.made_at)}: {made.tokens} tokens, {made.gap_ms:g} ms apart")
    table.add_column("connection")
    for heading in _HEADER:
        table.add_column(heading, justify="right")
    for row in made.rows:
        table.add_row(*_row_cells(row, made.within_ms))
    return table


def _row_cells(row: CalibrationRow, within_ms: float) -> list[str]:
    def format_pair(low_ms: float | None, high_ms: float | None) -> str:
        return f"{_format_ms(low_ms)}/{_format_ms(high_ms)}"

    return [
        _CONNECTION_LABELS[row.way],
        str(row.streams),
        str(row.answers),
        str(row.failed),
        format_pair(row.ttft_p50_ms, row.ttft_p99_ms),
        format_pair(row.gap_p50_ms, row.gap_p99_ms),
        _format_ms(row.heard_p99_ms),
        str(row.merged_reads),
        formatting.UNKNOWN if row.cpu_s_per_1000_chunks is None else f"{row.cpu_s_per_1000_chunks:.3f}",
        "yes" if row.within(within_ms) else "no",
    ]


def _format_ms(value_ms: float | None) -> str:
    """Return milliseconds as text, with three decimals below 1 ms."""
    return f"{value_ms:.3f}" if value_ms is not None and value_ms < 1 else formatting.format_number(value_ms)


def calibration_notes(made: Calibration) -> Iterator[str]:
    """Yield a line for each kind of connection, measured or left out, and a line on timestamps and priority."""
    for way in made.ways:
        yield f"{_CONNECTION_LABELS[way]}: {_error_bar_text(made.bar(way), made)}"
    for way, reason in made.left_out.items():
        yield f"{_CONNECTION_LABELS[way]}: left out: {to_line(reason)}"
    priority = "on" if made.real_time_priority else "not available"
    yield f"timestamps: {made.stamp_source}; real-time priority: {priority}"


def _error_bar_text(bar: ErrorBar | None, made: Calibration) -> str:
    if bar is None:
        return f"no number of streams is measured within {made.within_ms:g} ms"
    return (
        f"this machine measures TTFT within {_format_ms(bar.ttft_ms)} ms and gaps within {_format_ms(bar.gap_ms)} ms "
        f"at up to {bar.streams} streams (p99)"
    )


def report_lines(facts: Mapping[str, Any], sources: Sequence[str]) -> Iterator[str]:
    """Yield a report's lines on the error of the instrument; `sources` are the trials' known timestamp sources."""
    others = sum(source not in TIMESTAMPED for source in sources)
    made = _calibration_from_facts(facts)
    if sources and others == len(sources):
        yield "- instrument error: not calibrated: timed in the requesting process, not at its sockets"
        return
    if made is None:
        yield f"- instrument error: not calibrated: run {CALIBRATE_COMMAND}"
    else:
        for way in CONNECTION_KINDS:
            known = (
                f"{_error_bar_text(made.bar(way), made)}, calibrated on {made.made_at}"
                if way in made.ways
                else "not calibrated"
            )
            yield f"- instrument error, {_CONNECTION_LABELS[way]}: {known}"
    for warning in calibration_warnings(facts, sources):
        yield f"- **{warning}**"
    if others:
        yield f"- {others} trials were timed in the requesting process, not at its sockets: they have no error bar"


def calibration_warnings(facts: Mapping[str, Any], sources: Sequence[str]) -> list[str]:
    """Return why the calibration does not apply to a run; empty without a calibration or socket timestamps."""
    made, timestamped = _calibration_from_facts(facts), [source for source in sources if source in TIMESTAMPED]
    if made is None or not timestamped:
        return []
    warnings = list(_beyond_calibration_notes(made, facts))
    if different := machine_differences(facts.get("machine", {}), made.machine):
        warnings.append(f"the calibration is of another machine ({'; '.join(different)})")
    if made.stamp_source == "kernel" and (worse := len(timestamped) - timestamped.count("kernel")):
        warnings.append(f"{worse} trials had no kernel timestamps, unlike the calibration: their error can be larger")
    sittings = facts.get("instrument", [])
    if made.real_time_priority and any(sitting.get("real_time_priority") is not True for sitting in sittings):
        warnings.append("the calibration had real-time priority, this run did not always: its error can be larger")
    return warnings


def _beyond_calibration_notes(made: Calibration, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield a note if the reached concurrency (or else the requested one) exceeds the calibrated number of streams."""
    reached = max((load.get("concurrency_max") or 0 for load in facts.get("loads", [])), default=0)
    streams = reached or facts.get("scenario", {}).get("concurrency", 1)
    for way in made.ways:
        held = made.bar(way)
        most = held.streams if held else 0
        if streams > most:
            yield (
                f"{streams} at a time is beyond the calibration, {_CONNECTION_LABELS[way]} up to {most}: its error is "
                "not known"
            )


def _calibration_from_facts(facts: Mapping[str, Any]) -> Calibration | None:
    data = facts.get("instrument_error")
    try:
        return None if data is None else calibration_from_dict(data)
    except ValueError as error:
        raise UsageError(f"manifest: instrument_error: {error}") from None

"""Formatting of numbers for reports: milliseconds, about three significant digits, a dash for unknown values."""

import math
from collections.abc import Iterable, Sequence

from evaluation.analysis.statistics import Difference, Estimate
from evaluation.analysis.summary import Group
from evaluation.metrics import METRIC_BY_NAME
from evaluation.scenario import display_name
from evaluation.transports import TRANSPORTS

UNKNOWN = "–"
NEVER = "∞"
"""A quantile that falls on failed trials."""
_TITLES = {
    "ttfot_s": "first answer text",
    "ttft_s": "first token (TTFT)",
    "output_tps": "output speed",
    "first_held_s": "delay of the first text",
    "delivered_gap_p99_s": "p99 of the gaps at the reader",
}
"""Titles in sentences that differ from the metric's own, and those of derived quantities."""


def format_number(value: float | None) -> str:
    """Return a number with about three significant digits (1234, 123, 12.3, 1.23); a dash for None."""
    if value is None:
        return UNKNOWN
    if math.isinf(value):
        return NEVER
    size = abs(value)
    # `z` formats a small negative difference as 0.00 instead of -0.00.
    return f"{value:z.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def exact(value: float | None) -> str:
    """Return a number without rounding; a dash for None."""
    return UNKNOWN if value is None else f"{value:g}"


def format_ms(seconds: float | None) -> str:
    """Return seconds as milliseconds, without the unit."""
    return format_number(None if seconds is None else seconds * 1000)


def format_interval(estimate: Estimate, *, in_ms: bool) -> str:
    """Return a median with its interval: `201 [200, 203]`; with too few values only the median."""
    write = format_ms if in_ms else format_number
    if estimate.low is None:
        return write(estimate.value)
    return f"{write(estimate.value)} [{write(estimate.low)}, {write(estimate.high)}]"


def transport_note(names: Iterable[str]) -> str:
    """Return a note on text received over a transport of the service, or an empty text if no name has one."""
    over_transport = any(f" over {transport}" in name for name in names for transport in TRANSPORTS)
    return (
        " Text that arrives over a transport of the service has passed through its strategy." if over_transport else ""
    )


def format_usd(value: float | None) -> str:
    """Return an amount in USD with up to six decimals."""
    return UNKNOWN if value is None else f"{value:.6f}".rstrip("0").rstrip(".")


def format_cost(group: Group) -> str:
    """Return the cost of a group, with `≈` if tokens are estimated, and the number of priced trials if not all."""
    text = ("≈ " if group.cost_estimated else "") + format_usd(group.cost_usd)
    return f"{text} ({group.priced} of {group.trials} trials)" if 0 < group.priced < group.trials else text


def report_unit(column: str) -> str:
    """Return the unit in which a report shows a column."""
    return {"output_tps": "tokens/s", "updates_per_s": "updates/s"}.get(column, "ms")


def metric_title(column: str) -> str:
    """Return the title of a column in a sentence."""
    known = METRIC_BY_NAME.get(column)
    return _TITLES.get(column) or (known.title if known else column)


def describe_difference(difference: Difference) -> str:
    """Return a sentence on a paired difference within one provider, with its interval; it claims nothing."""
    estimate, column = difference.estimate, difference.column
    name = metric_title(column)
    where = f"{display_name(difference.name)}: " if difference.name else ""
    unit = report_unit(column)
    size = f"{_signed_interval(estimate, in_ms=unit == 'ms')} {unit}"
    return f"{where}{name}, {difference.b} against {difference.a}: {size} ({estimate.n} pairs, exploratory)."


def _signed_interval(estimate: Estimate, *, in_ms: bool) -> str:
    text = format_interval(estimate, in_ms=in_ms)
    return f"+{text}" if estimate.value is not None and estimate.value > 0 else text


def format_percent(ratio: float | None) -> str:
    """Return a ratio as a signed change in per cent, `+12 %`; a dash for None."""
    if ratio is None:
        return UNKNOWN
    return f"+{NEVER}" if math.isinf(ratio) else f"{_format_percent_number(ratio, sign='+')} %".replace("+0 %", "0 %")


def _format_percent_number(ratio: float, sign: str = "") -> str:
    """Return the change in per cent: with one decimal below 10 %, whole from there on, and rounded from 10,000 % on."""
    percent = (ratio - 1) * 100
    if abs(percent) >= 9_999.5:
        return f"{percent:{sign}.2g}"
    return f"{round(percent) if abs(percent) >= 9.95 else round(percent, 1) + 0.0:{sign}}"


def format_change(ratio: float | None, low: float | None, high: float | None) -> str:
    """Return a ratio with its interval as changes: `+12 % [4, 21]`."""
    if low is None or high is None or ratio is None:
        return format_percent(ratio)
    ends = (NEVER if math.isinf(end) else _format_percent_number(end) for end in (low, high))
    return f"{format_percent(ratio)} [{', '.join(ends)}]"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 2) -> list[str]:
    """Return a Markdown table of Markdown cells; the first `texts` columns are text, the others are numbers."""
    align = ["---" if place < texts else "---:" for place in range(len(header))]
    return [_markdown_row(header), _markdown_row(align), *(_markdown_row(row) for row in rows)]


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"

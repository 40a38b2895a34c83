"""Formatting of numbers for reports: milliseconds, about three significant digits, a dash for unknown values."""

from collections.abc import Iterable, Sequence

from evaluation.analysis.statistics import NO_DIFFERENCE_TEXT, TOO_FEW_TEXT, Difference, Estimate
from evaluation.analysis.summary import Group
from evaluation.scenario import TRANSPORTS, display_name

UNKNOWN = "–"
_METRIC_TITLES = {
    "ttft_s": "first token (TTFT)",
    "icl_p50_s": "median gap between chunks",
    "output_tps": "output speed",
    "e2e_s": "whole answer",
    "first_held_s": "delay of the first text",
    "delay_mean_s": "mean delay of a character",
    "updates_per_s": "updates",
    "delivered_ttft_s": "first text at the reader",
    "delivered_e2e_s": "whole answer at the reader",
    "delivered_gap_p99_s": "p99 of the gaps at the reader",
}


def format_number(value: float | None) -> str:
    """Return a number with about three significant digits (1234, 123, 12.3, 1.23); a dash for None."""
    if value is None:
        return UNKNOWN
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
    over_transport = any(name.endswith(f" over {transport}") for name in names for transport in TRANSPORTS)
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


def describe_difference(difference: Difference) -> str:
    """Return a sentence on a paired difference, with its interval and the number of pairs."""
    estimate, column = difference.estimate, difference.column
    name = _METRIC_TITLES[column]
    what = f"{name[0].upper()}{name[1:]}, {display_name(difference.b)} against {display_name(difference.a)}"
    verdict = difference.verdict
    size = f"{format_interval(estimate, in_ms=report_unit(column) == 'ms')} {report_unit(column)}"
    pairs = f"median of {estimate.n} paired differences {size}"
    if verdict in (NO_DIFFERENCE_TEXT, TOO_FEW_TEXT):
        return f"{what}: {verdict} ({pairs})."
    assert estimate.value is not None
    amount = format_number(abs(estimate.value) * (1000 if report_unit(column) == "ms" else 1))
    return f"{what}: {amount} {report_unit(column)} {verdict} ({pairs})."


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 2) -> list[str]:
    """Return a Markdown table of Markdown cells; the first `texts` columns are text, the others are numbers."""
    align = ["---" if place < texts else "---:" for place in range(len(header))]
    return [_markdown_row(header), _markdown_row(align), *(_markdown_row(row) for row in rows)]


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"

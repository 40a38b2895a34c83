"""Figures in words: milliseconds in reports, no digit more than means something, a dash for the unknown."""

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
    "delivered_gap_p99_s": "longest of a hundred gaps at the reader",
}


def format_number(value: float | None) -> str:
    """Write three figures or so: 1234, 123, 12.3, 1.23; a dash for None."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    # `z` writes a difference that rounds to nothing as 0.00, not as -0.00.
    return f"{value:z.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def exact(value: float | None) -> str:
    """Return a number as it was noted; a dash for None."""
    return UNKNOWN if value is None else f"{value:g}"


def format_ms(seconds: float | None) -> str:
    """Write seconds as milliseconds, without the unit."""
    return format_number(None if seconds is None else seconds * 1000)


def format_interval(estimate: Estimate, *, in_ms: bool) -> str:
    """Write a median with its interval: `201 [200, 203]`; without interval where there are too few values."""
    write = format_ms if in_ms else format_number
    if estimate.low is None:
        return write(estimate.value)
    return f"{write(estimate.value)} [{write(estimate.low)}, {write(estimate.high)}]"


def transport_note(names: Iterable[str]) -> str:
    """Say what arrives over a wire where such figures stand beside others, else nothing."""
    told = any(name.endswith(f" over {wire}") for name in names for wire in TRANSPORTS)
    return " What arrives over a wire has left the service's strategy." if told else ""


def format_usd(value: float | None) -> str:
    """Write an amount with the digits that small prices need."""
    return UNKNOWN if value is None else f"{value:.6f}".rstrip("0").rstrip(".")


def format_cost(group: Group) -> str:
    """Write what a group cost: `≈` where tokens were only estimated, and of how many trials where not of all."""
    text = ("≈ " if group.cost_estimated else "") + format_usd(group.cost_usd)
    return f"{text} ({group.priced} of {group.trials} trials)" if 0 < group.priced < group.trials else text


def report_unit(column: str) -> str:
    """Give the unit in which a report shows a column."""
    return {"output_tps": "tokens/s", "updates_per_s": "updates/s"}.get(column, "ms")


def describe_difference(difference: Difference) -> str:
    """Say a paired difference as one sentence, with its interval and the number of pairs."""
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
    """Write a Markdown table of cells that are Markdown; the first `texts` columns are text, the rest figures."""
    align = ["---" if place < texts else "---:" for place in range(len(header))]
    return [_markdown_row(header), _markdown_row(align), *(_markdown_row(row) for row in rows)]


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"

"""The table of one round: the metrics of each answer, and which of them are better among whole answers. No I/O."""

from collections.abc import Sequence

from evaluation.metrics.cadence import stalls
from ui import html, strings
from ui.compare.round import METRICS, ColumnResult, Round

BETTER_MARGIN = 0.1
"""Minimum relative difference to mark a metric as better: one answer each is a small sample."""
_MIN_DIFFERENCES = {"ttft_s": 0.05, "tokens_per_s": 1.0, "stalls": 1.0, "cost_usd": 0.0}
"""Minimum absolute differences, by metric in its own unit: smaller ones are not noticeable."""
_HIGHER_IS_BETTER = ("tokens_per_s",)


def comparison_table(this_round: Round) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """Return header, rows, and the (row, column) positions of the cells to mark as better."""
    rows = [_comparison_row(this_round, index, column) for index, column in enumerate(this_round.columns)]
    measured = [column.metrics for column in this_round.columns]
    marked = set()
    for x, measure in enumerate(METRICS, 2):
        best = best_index(
            [one[measure] for one in measured], higher=measure in _HIGHER_IS_BETTER, least=_MIN_DIFFERENCES[measure]
        )
        if best is not None:
            marked.add((best, x))
    return [*strings.COMPARE_HEADER], rows, marked


def best_index(values: Sequence[float | None], *, higher: bool, least: float) -> int | None:
    """Return the index of the value that is better than all others by `BETTER_MARGIN` and by `least`; None if none is.

    Unknown values are left out, and a single known value is never the best.
    """
    known = [(value, index) for index, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return None
    known.sort(reverse=higher)
    (best, index), (second, _) = known[:2]
    apart = abs(second - best)
    return index if apart > least * (1 - 1e-9) and apart > BETTER_MARGIN * max(abs(best), abs(second)) else None


def delay_text(column: ColumnResult) -> str:
    """Format the delay that strategy and page have added, mean and maximum in milliseconds."""
    delay = column.added_delay()
    return html.format_delay(delay.mean_s, delay.max_s)


def _comparison_row(this_round: Round, index: int, column: ColumnResult) -> list[str]:
    receipt = column.receipt
    if receipt is None:
        return [this_round.heading(index), strings.NOT_SENT, *[strings.UNKNOWN] * (len(strings.COMPARE_HEADER) - 2)]
    reading = receipt.reading
    count, over_s = stalls(column.gaps_s())
    silence = strings.UNKNOWN if count is None else f"{count} · {html.format_seconds(over_s)}" if count else "0"
    ttft = html.format_seconds(reading.ttft_s)
    is_apart = reading.ttft_s is not None and not column.is_whole
    return [
        this_round.heading(index),
        html.outcome_label(receipt),
        strings.TTFT_OF_CUT.format(ttft=ttft) if is_apart else ttft,
        strings.UNKNOWN if reading.tokens_per_s is None else f"{reading.tokens_per_s:.1f}",
        silence,
        html.format_cost(reading.cost, reading.usage.source, column.view.no_price if column.view else ""),
        f"{html.format_count(reading.usage.output_tokens)} {reading.usage.source}",
        html.format_seconds(reading.elapsed_s),
        f"{len(column.updates.at_s):,}",
        delay_text(column),
    ]

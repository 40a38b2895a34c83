"""Charts of one comparison round: text over time, inter-chunk latency, TTFT and cost."""

from collections.abc import Callable

from gradio.components.plot import PlotData

from evaluation.reports.chart_kinds import PALETTE, Chart, Series
from streaming.escaping import to_plotly
from ui import html, strings
from ui.charts import chart_figure, non_empty_series, plot_data
from ui.compare.round import ColumnResult, Round

_MAX_NAME_CHARS = 36
"""Longer names would leave no room for the bars beside them, or for the lines above the legend."""


def round_charts(this_round: Round) -> list[PlotData | None]:
    """Build the charts of a round: text over time, gaps between chunks, time to first token, cost; in this order.

    None is a chart without a value.
    """
    growth, gaps = _series(this_round, _token_growth), _series(this_round, _gap_shares)
    charts = (
        Chart("growth", strings.PLOT_GROWTH, "line", strings.AXIS_SECONDS, strings.AXIS_TOKENS, growth, ""),
        Chart("gaps", strings.PLOT_GAPS, "line", strings.AXIS_GAP, strings.AXIS_SHARE, gaps, "", log_x=True),
    )
    return [
        *(chart_figure(chart) if chart.series else None for chart in charts),
        _bar_chart(this_round, strings.PLOT_TTFT, strings.AXIS_SECONDS, _ttft_s),
        _bar_chart(this_round, strings.PLOT_COST, strings.AXIS_USD, _cost_usd),
    ]


def _series(this_round: Round, points: Callable[[ColumnResult], tuple[list[float], list[float]]]) -> list[Series]:
    series = []
    for position, column in enumerate(this_round.columns):
        xs, ys = points(column)
        series.append(Series(_chart_name(this_round, position), position, x=xs, y=[*ys]))
    return non_empty_series(series)


def _chart_name(this_round: Round, position: int) -> str:
    heading = this_round.heading(position).removeprefix(strings.ANSWER.format(letter=""))
    return html.truncate(heading, _MAX_NAME_CHARS)


def _token_growth(column: ColumnResult) -> tuple[list[float], list[float]]:
    """Return seconds and cumulative tokens, assuming a constant number of tokens per character."""
    arrivals, receipt = column.arrivals(), column.receipt
    total = sum(chars for _, chars in arrivals)
    if receipt is None or not total:
        return [], []
    usage = receipt.reading.usage
    tokens = (usage.output_tokens or 0) - (usage.thinking_tokens or 0)
    xs, ys, so_far = [], [], 0
    for at_s, chars in arrivals:
        so_far += chars
        xs.append(round(at_s, 3))
        ys.append(round(so_far * tokens / total, 1))
    return xs, ys


def _gap_shares(column: ColumnResult) -> tuple[list[float], list[float]]:
    """Return the sorted gaps in milliseconds and, for each, the percentage of gaps that are no longer."""
    gaps_ms = sorted(max(gap_s * 1000, 0.1) for gap_s in column.gaps_s())
    return [round(gap, 2) for gap in gaps_ms], [round((i + 1) * 100 / len(gaps_ms), 1) for i in range(len(gaps_ms))]


def _ttft_s(column: ColumnResult) -> float | None:
    return column.receipt.reading.ttft_s if column.receipt else None


def _cost_usd(column: ColumnResult) -> float | None:
    cost = column.receipt.reading.cost if column.receipt else None
    return float(cost.total_usd) if cost else None


def _bar_chart(
    this_round: Round, title: str, axis: str, measure: Callable[[ColumnResult], float | None]
) -> PlotData | None:
    """Return a bar for each answer whose value is known, lighter where the answer is not whole; None without any."""
    values = [measure(column) for column in this_round.columns]
    shown = [position for position, value in enumerate(values) if value is not None]
    if not any(values):
        return None
    names = []
    for position in shown:
        name = _chart_name(this_round, position)
        is_whole = this_round.columns[position].is_whole
        names.append(to_plotly(name if is_whole else strings.PLOT_CUT.format(name=name)))
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "x": [values[position] for position in shown],
        "marker": {
            "color": [PALETTE[position] for position in shown],
            "opacity": [1.0 if this_round.columns[position].is_whole else 0.45 for position in shown],
        },
    }
    layout = {
        "height": 120 + 40 * len(shown),
        "margin": {"l": 60, "r": 16, "t": 44, "b": 58},
        "xaxis": {"title": {"text": axis}, "rangemode": "tozero", "automargin": True},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
        "showlegend": False,
    }
    return plot_data(title, [bars], layout)

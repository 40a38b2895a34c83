"""Charts of one comparison round: text over time, inter-chunk latency, TTFT and cost."""

from gradio.components.plot import PlotData

from evaluation.reports.chart_kinds import PALETTE, Chart, Series
from ui import strings
from ui.charts import chart_figure, non_empty_series, plot_data
from ui.compare.round import ColumnResult, Round


def round_charts(this_round: Round) -> list[PlotData]:
    """Build the charts of a round: text over time, gaps between chunks, time to first token, cost; in this order."""
    growth = [
        Series(this_round.heading(p), p, x=xs, y=[*ys])
        for p, c in enumerate(this_round.columns)
        for xs, ys in [_token_growth(c)]
    ]
    gaps = [
        Series(this_round.heading(p), p, x=xs, y=[*ys])
        for p, c in enumerate(this_round.columns)
        for xs, ys in [_gap_shares(c)]
    ]
    titles = strings.PLOT_GROWTH, strings.PLOT_GAPS
    return [
        chart_figure(
            Chart("growth", titles[0], "line", strings.AXIS_SECONDS, strings.AXIS_TOKENS, non_empty_series(growth), "")
        ),
        chart_figure(
            Chart(
                "gaps", titles[1], "line", strings.AXIS_GAP, strings.AXIS_SHARE, non_empty_series(gaps), "", log_x=True
            )
        ),
        _bar_chart(this_round, strings.PLOT_TTFT, strings.AXIS_SECONDS, "ttft_s"),
        _bar_chart(this_round, strings.PLOT_COST, strings.AXIS_USD, "cost_usd"),
    ]


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


def _bar_chart(this_round: Round, title: str, axis: str, measure: str) -> PlotData:
    values = [column.metrics[measure] for column in this_round.columns]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [this_round.heading(index) for index in range(len(values))],
        "x": values,
        "marker": {"color": [PALETTE[index] for index in range(len(values))]},
    }
    layout = {
        "height": 150 + 46 * len(values),
        "xaxis": {"title": {"text": axis}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "automargin": True},
        "showlegend": False,
    }
    if not any(value is not None for value in values):
        layout |= {
            "annotations": [{"text": strings.PLOT_UNKNOWN, "showarrow": False, "xref": "paper", "yref": "paper"}]
        }
    return plot_data(title, [bars], layout)

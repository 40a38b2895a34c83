"""`docs/metrics.md`, generated from the registry of metrics: `python -m evaluation.reports.metrics_page`."""

from collections.abc import Iterator
from pathlib import Path

from evaluation.metrics import METRICS
from evaluation.metrics.example import EXAMPLE
from evaluation.metrics.load import LOAD_EXAMPLE, LOAD_METRICS, LoadMetric
from evaluation.metrics.metric import OUTCOMES, Metric
from evaluation.reports.formatting import markdown_table
from evaluation.schema import EVENT_COLUMN_DOCS, FACTS, Column

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_INTRODUCTION = """\
# Metrics

<!-- Generated from the registry by `python -m evaluation.reports.metrics_page`; edit `evaluation/metrics/`. -->

Every column of `trials.csv` and `events.parquet`: its unit, its definition and a worked example. Times are seconds on
one monotonic clock; reports show milliseconds. Empty (NaN, NA) is unknown; 0 is a measured zero; a failed trial has no
latencies. **A chunk is not a token, and a delta is not a word.**

Every event has two timestamps: `source`, as it arrived from the provider, and `delivered`, as it left the strategy
towards the reader. The difference is what the strategy costs. Over a transport of the service `delivered` is the
arrival at the client, and the metrics of arrival are computed from it. `source` is known there if the run started the
service and had it record its answers (`--record`, or a browser among the transports): it is then the time at which the
service's pipeline received the event, on the same CLOCK_MONOTONIC. It is no kernel timestamp; of the simulated
providers, which run inside the service, it is the time at which they handed the event over.

## The worked example

A prompt of 50 tokens, 20 of them from a cache. Its first attempt was refused with a wait of 1 s; the second was sent
1.06 s after the planned start, of which connecting took 50 ms. Seconds since then:

| | thinking | text | text | text | text | end |
|---|---:|---:|---:|---:|---:|---:|
| characters | 2 | 20 | 40 | 40 | 20 | |
| arrived | 0.30 | 0.50 | 0.60 | 0.80 | 2.30 | 2.40 |
| delivered | 0.30 | 0.50 | 0.70 | 0.90 | 2.40 | 2.40 |
| painted | | 0.51 | 0.72 | 0.91 | 2.42 | |

The provider reports 40 output tokens, 10 of them thinking.
"""
_SCOPES = {
    "arrival": "As it arrived from the provider",
    "delivery": "As the strategy delivered it to the reader",
    "painting": "As a browser painted it",
    "tokens": "Tokens",
    "cost": "Cost",
    "instrument": "This program, its machine and its attempts",
}
_APPLIES_TO = {
    "any": "all",
    "received": "all but failed",
    "ended": "ended by the provider",
    "completed": "completed",
}
_LOAD = """\
## Of a run, or of a level of a sweep

One row of `levels.csv` for each provider and level of the load; all strategies, transports and efforts of a provider
share its load. The window is from the first start to the last end, without warm-up (until each concurrent stream, or
the first request of an open loop, has ended its first answer) and cool-down (from the first end that no start
follows) where enough answers are left; for a closed loop, without the time in which no answer of the provider was
under way. An answer counts for the share of its delivery, first token to end, that lies in the window. Each metric
has a 95 % interval by Student's t over ten slices of the window, from 20 answers on. Beside them stands the share of
trials that were not completed, with Wilson's interval. The example: ten seconds in which 20 answers were completed,
15 of them within the objectives, with 1000 input and 4000 output tokens. An objective names a metric, as in
`throughput>5` or `goodput>2/s`.
"""
_CLOSING = """\
`trials` hold these metrics where the outcome has them: *ended by the provider* is {ended}. Percentiles interpolate
linearly; those of a group's gaps are pooled, never averaged. An objective names a column: `<column>_p<number>` or
`<column>_max`, a comparison and a limit with its unit, or the shares `failed` and `stalled`.
"""


def render_metrics_page() -> str:
    """Return the page in Markdown."""
    lines = [_INTRODUCTION]
    for scope, title in _SCOPES.items():
        result = [metric for metric in METRICS if metric.scope == scope]
        if result:
            lines += [f"## {title}", "", *_metric_table(result), ""]
    lines += [_LOAD, *markdown_table(_LOAD_HEADER, map(_load_row, LOAD_METRICS), texts=6), ""]
    ended = ", ".join(sorted(OUTCOMES["ended"]))
    lines += [_CLOSING.format(ended=ended), "## Other columns of the trials", "", *_column_table(FACTS)]
    lines += ["", "## Columns of the events", "", *_column_table(EVENT_COLUMN_DOCS)]
    return "\n".join(lines) + "\n"


def _metric_table(metrics: list[Metric]) -> Iterator[str]:
    header = ("column", "title", "definition", "source", "trials", "better", "unit", "example")
    yield from markdown_table(header, map(_metric_row, metrics), texts=7)


def _metric_row(metric: Metric) -> list[str]:
    value = metric.compute(EXAMPLE)
    better = "" if metric.direction == "neither" else metric.direction
    example = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    cells = [f"`{metric.name}`", metric.title, metric.formula, metric.source, _APPLIES_TO[metric.applies_to], better]
    return [*cells, metric.unit, example]


_LOAD_HEADER = ("metric", "title", "definition", "source", "better", "unit", "example")


def _load_row(metric: LoadMetric) -> list[str]:
    cells = [f"`{metric.name}`", metric.title, metric.formula, metric.source, metric.direction, metric.unit]
    return [*cells, f"{metric.function(LOAD_EXAMPLE):g}"]


def _column_table(columns: dict[str, Column]) -> Iterator[str]:
    rows = ([f"`{name}`", column.unit, column.meaning] for name, column in columns.items())
    yield from markdown_table(("column", "unit", "meaning"), rows, texts=3)


if __name__ == "__main__":
    PAGE.write_text(render_metrics_page(), encoding="utf-8")

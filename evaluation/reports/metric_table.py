"""The table of every metric of the registry: a median for each provider and strategy."""

from collections.abc import Iterator, Sequence

from evaluation.analysis.statistics import Estimate
from evaluation.analysis.summary import Group
from evaluation.metrics import METRICS
from evaluation.metrics.metric import Metric
from evaluation.reports import formatting
from evaluation.scenario import display_name

_UNITS = {"s": "ms", "USD": "USD", "1/s": "1/s", "0-1": "0 to 1"}


def metric_table(groups: Sequence[Group]) -> Iterator[str]:
    """Yield the table as Markdown lines, one row a metric.

    Metrics that no trial has are left out, and so is an index that is 1 for everybody, which tells nobody apart.
    """
    rows = [_metric_row(metric, groups) for metric in METRICS if _tells_apart(metric, groups)]
    if not rows:
        return
    header = ["metric", "column", "unit", *(_group_title(group, groups) for group in groups)]
    yield from formatting.markdown_table(header, rows, texts=3)
    yield ""
    yield "Medians over trials, exploratory. Each column is defined, with a worked example, in docs/metrics.md."


def _tells_apart(metric: Metric, groups: Sequence[Group]) -> bool:
    known = [result.value for group in groups if (result := group.median(metric.name)).n]
    return bool(known) and not (metric.unit == "0-1" and set(known) == {1.0})


def _metric_row(metric: Metric, groups: Sequence[Group]) -> list[str]:
    values = [_format_median(metric, group.median(metric.name)) for group in groups]
    return [metric.title, f"`{metric.name}`", _UNITS.get(metric.unit, ""), *values]


def _format_median(metric: Metric, result: Estimate) -> str:
    if metric.unit == "USD":
        return formatting.format_usd(result.value)
    return formatting.format_ms(result.value) if metric.unit == "s" else formatting.format_number(result.value)


def _group_title(group: Group, groups: Sequence[Group]) -> str:
    """Return the provider's name, with the strategy and the population of prompts where they differ."""
    parts = [display_name(group.name)]
    parts += [group.strategy] if len({other.strategy for other in groups}) > 1 else []
    parts += [group.population] if len({other.population for other in groups}) > 1 else []
    return " × ".join(parts)

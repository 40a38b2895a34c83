"""The metrics of one answer: `METRICS` is the registry that columns, tables, objectives and `docs/metrics.md` follow.

A metric is added by one entry with its function in the module of its scope, and removed by deleting that entry.
"""

from collections.abc import Iterator

from evaluation.metrics import arrival, delivery, instrument, painting, tokens
from evaluation.metrics.metric import Metric, MetricValue
from evaluation.metrics.trial_metrics import MeasuredAnswer

METRICS: tuple[Metric, ...] = (
    *instrument.METRICS,
    *arrival.METRICS,
    *delivery.METRICS,
    *painting.METRICS,
    *tokens.METRICS,
)
METRIC_BY_NAME = {metric.name: metric for metric in METRICS}


def compute_metrics(answer: MeasuredAnswer) -> dict[str, MetricValue]:
    """Return every metric of an answer by name; None is unknown."""
    return dict(iter_metrics(answer))


def iter_metrics(answer: MeasuredAnswer) -> Iterator[tuple[str, MetricValue]]:
    """Compute the metrics of an answer one by one: of a long answer, all together take some milliseconds."""
    return ((metric.name, metric.compute(answer)) for metric in METRICS)

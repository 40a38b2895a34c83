"""The metrics that comparisons know, whether less or more of them is better, and their names in options."""

from collections.abc import Collection

from evaluation.metrics import METRICS
from evaluation.metrics.metric import Direction
from evaluation.scenario import split_names
from streaming.errors import UsageError

SHARE_METRICS = ("failed", "stalled")
DIRECTION: dict[str, Direction] = {
    **dict.fromkeys(SHARE_METRICS, "less"),
    **{metric.name: metric.direction for metric in METRICS if metric.scope != "instrument"},
}
"""The compared metrics, and whether less, more or neither is better."""


def parse_primary(text: str) -> tuple[str, ...]:
    """Parse the metrics that verdicts are about. Raises UsageError: see `parse_metrics`; shares are not accepted."""
    return parse_metrics(text, "--primary", SHARE_METRICS)


def parse_metrics(text: str, option: str, exclude: Collection[str] = ()) -> tuple[str, ...]:
    """Parse comma-separated metric names, with or without the suffix `_s` or `_usd`.

    Raises UsageError when a name is unknown or excluded, or the metric has no better direction.
    """
    choice = [metric for metric, better in DIRECTION.items() if better != "neither" and metric not in exclude]
    found = []
    for name in split_names(text):
        known = [metric for metric in choice if metric in (name, f"{name}_s", f"{name}_usd")]
        if not known:
            raise UsageError(f"{option}: {name!r} cannot get better or worse (choose from {', '.join(choice)})")
        found.append(known[0])
    if not found:
        raise UsageError(f"{option}: no metric (choose from {', '.join(choice)})")
    return tuple(found)

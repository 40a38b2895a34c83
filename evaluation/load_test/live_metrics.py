"""TTFT, tokens/s and goodput of a load test while it runs, from the answers that have ended so far. Pure.

Only the standard library is used, since Locust runs it.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from evaluation.analysis.slo import GAP_COLUMN, Objective
from evaluation.load_test.measured_answer import measured_answer
from evaluation.metrics import compute_metrics
from evaluation.metrics.cadence import percentile
from evaluation.metrics.trial_metrics import MeasuredAnswer

WINDOW_S = 5
"""A point of a chart is of the answers that ended in so many seconds before it."""
MAX_POINTS = 600
"""Of a longer test the last points are kept."""


@dataclass(frozen=True, slots=True)
class LivePoint:
    """The metrics at one second of a test; None is unknown, as TTFT is while no answer ends.

    `throughput` and `goodput` are answers/s, of all completed ones and of those that met every objective.
    `output_tps` are the output tokens/s of all answers together.
    """

    at_s: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    output_tps: float
    throughput: float
    goodput: float
    failed: float


@dataclass(frozen=True, slots=True)
class _EndedAnswer:
    at_s: float
    ttft_s: float | None
    output_tokens: int
    is_completed: bool
    is_good: bool
    is_failed: bool


class LiveMetrics:
    """The points of a running test, one a second; times in seconds on one clock, from the test's start on."""

    def __init__(self, objectives: Sequence[Objective], started_s: float) -> None:
        self._objectives = objectives
        self._started_s = started_s
        self._answers: deque[_EndedAnswer] = deque()
        self._points: deque[LivePoint] = deque(maxlen=MAX_POINTS)
        self._next_s = 1

    def add(self, answer: Mapping[str, Any], now_s: float) -> None:
        """Add an answer that has ended now, as its line of `answers.jsonl`."""
        self._advance(now_s)
        measured = measured_answer(answer)
        metrics = compute_metrics(measured)
        is_completed = answer["outcome"] == "completed"
        is_good = is_completed and all(meets(objective, measured, metrics) for objective in self._objectives)
        is_failed = not is_completed and answer["outcome"] not in ("cancelled", "open")
        ttft_s, tokens = metrics["ttft_s"], int(metrics["output_tokens"] or 0)
        known_s = None if ttft_s is None else float(ttft_s)
        entry = _EndedAnswer(now_s - self._started_s, known_s, tokens, is_completed, is_good, is_failed)
        self._answers.append(entry)

    def points(self, now_s: float) -> list[dict[str, Any]]:
        """Return the points up to now as JSON values."""
        self._advance(now_s)
        return [asdict(point) for point in self._points]

    def _advance(self, now_s: float) -> None:
        # Of a long pause, only the points that are kept are made.
        self._next_s = max(self._next_s, int(now_s - self._started_s) - MAX_POINTS)
        while self._next_s <= now_s - self._started_s:
            self._points.append(self._make_point(self._next_s))
            self._next_s += 1

    def _make_point(self, at_s: int) -> LivePoint:
        while self._answers and self._answers[0].at_s <= at_s - WINDOW_S:
            self._answers.popleft()
        inside = list(self._answers)
        span_s = min(at_s, WINDOW_S)
        ttfts_s = [answer.ttft_s for answer in inside if answer.ttft_s is not None and answer.is_completed]
        return LivePoint(
            at_s,
            round(median(ttfts_s), 6) if ttfts_s else None,
            round(quantiles(ttfts_s, n=20, method="inclusive")[-1], 6) if len(ttfts_s) > 1 else None,
            round(sum(answer.output_tokens for answer in inside) / span_s, 3),
            round(sum(answer.is_completed for answer in inside) / span_s, 3),
            round(sum(answer.is_good for answer in inside) / span_s, 3),
            round(sum(answer.is_failed for answer in inside) / span_s, 3),
        )


def meets(objective: Objective, answer: MeasuredAnswer, metrics: Mapping[str, Any]) -> bool:
    """Return whether a completed answer meets an objective by its own values; those of the load are not about it."""
    if objective.stat == "load" or objective.column == "failed":
        return True
    if objective.stat == "share":
        return bool(metrics["stalls"] == 0)
    if objective.column == GAP_COLUMN:
        gaps_s = sorted(answer.arrived.gaps_s)
        return bool(gaps_s) and objective.accepts(percentile(gaps_s, objective.percent))
    value = metrics.get(objective.column)
    return value is not None and objective.accepts(float(value))

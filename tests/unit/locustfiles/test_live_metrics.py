"""The points of the charts on Locust's page, from answers whose truth is known."""

from typing import Any

import pytest

from evaluation.analysis.slo import parse_slo
from evaluation.load_test.live_metrics import MAX_POINTS, LiveMetrics
from tests.unit.locustfiles.answer_factories import make_answer

LATE = {"events": [[12.5, "text", 4, None], [14.0, "text", 4, None], [14.1, "finish", None, None]]}
"""An answer with a TTFT of 2 s and a gap of 1.5 s."""
FAILED = {"outcome": "failed", "error_type": "network", "events": [[10.6, "failed", None, None]], "usage": {}}


def points_of(slo: str, *answers: dict[str, Any], every_s: float = 0.5, until_s: float = 5.0) -> list[dict[str, Any]]:
    live = LiveMetrics(parse_slo(slo), 100.0)
    for number, answer in enumerate(answers, start=1):
        live.add(answer, 100.0 + number * every_s)
    return live.points(100.0 + until_s)


def test_rates_and_latencies_are_those_of_the_last_seconds() -> None:
    points = points_of("failed<1%", *(make_answer(number) for number in range(10)))  # two a second, for five seconds
    assert [point["at_s"] for point in points] == [1, 2, 3, 4, 5]
    assert points[-1]["throughput"] == points[-1]["goodput"] == pytest.approx(2.0, abs=0.21)
    assert points[-1]["output_tps"] == pytest.approx(8.0, abs=0.81) and points[-1]["failed"] == 0
    assert points[-1]["ttft_p50_s"] == points[-1]["ttft_p95_s"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        ("failed<1%", 2),
        ("ttft_p95<1s", 1),
        ("stalled<5%", 1),
        ("icl_p99<100ms", 1),
        ("throughput>5", 2),
        ("cost_p50<1$", 0),
    ],
)
def test_goodput_counts_answers_that_met_every_objective(slo: str, good: int) -> None:
    point = points_of(slo, make_answer(1), make_answer(2, **LATE), make_answer(3, **FAILED))[-1]
    assert (point["throughput"], point["goodput"], point["failed"]) == (2 / 5, good / 5, 1 / 5)


def test_seconds_without_an_answer_have_no_ttft_and_no_rate() -> None:
    points = points_of("failed<1%", make_answer(), until_s=8.0)
    assert points[-1]["ttft_p50_s"] is None and points[-1]["throughput"] == 0
    assert points[0]["ttft_p50_s"] == pytest.approx(0.2) and points[0]["ttft_p95_s"] is None  # of one answer none


def test_long_test_keeps_the_last_points() -> None:
    points = points_of("failed<1%", make_answer(), until_s=1e6)
    assert len(points) == MAX_POINTS and points[-1]["at_s"] == 1_000_000

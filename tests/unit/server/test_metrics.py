"""The batched histogram: flushed batches equal individual observations."""

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from server.metrics import BatchedHistogram

BOUNDS = (0.01, 0.02, 0.5)
GAPS_S = (0.0, 0.01, 0.010001, 0.02, 0.3, 7.0, 0.019)


@pytest.mark.parametrize("every", [1, 3, 64])
def test_batched_histogram_equals_individual_observations(every: int) -> None:
    result = []
    for apart in (True, False):
        registry = CollectorRegistry()
        histogram = Histogram("gap_seconds", "Gaps", ["provider"], registry=registry, buckets=BOUNDS).labels("p")
        gaps = BatchedHistogram(histogram, every)
        for gap_s in GAPS_S:
            gaps.observe(gap_s) if apart else histogram.observe(gap_s)
        gaps.flush()
        lines = generate_latest(registry).decode().splitlines()
        result.append([line for line in lines if "_created" not in line])
    assert [line.split()[0] for line in result[0]] == [line.split()[0] for line in result[1]]
    values = [[float(line.split()[-1]) for line in lines if not line.startswith("#")] for lines in result]
    assert values[0] == pytest.approx(values[1])

"""The batched histogram: flushed batches equal individual observations."""

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from server.batched_histogram import BatchedHistogram, CollectedMetrics, ObservationBatch

BOUNDS = (0.01, 0.02, 0.5)
GAPS_S = (0.0, 0.01, 0.010001, 0.02, 0.3, 7.0, 0.019)


def sample_lines(exposition: bytes) -> list[tuple[str, float]]:
    """Return the names and values of an exposition without the timestamps of creation."""
    lines = [line for line in exposition.decode().splitlines() if not line.startswith("#") and "_created" not in line]
    return [(line.rpartition(" ")[0], float(line.rpartition(" ")[2])) for line in lines]


@pytest.mark.parametrize("every", [1, 3, 64])
def test_batched_histogram_equals_individual_observations(every: int) -> None:
    one_by_one, registry = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("gap_seconds", "Gaps", ["provider"], registry=one_by_one, buckets=BOUNDS)
    batched = BatchedHistogram("gap_seconds", "Gaps", BOUNDS, registry)
    for provider, gaps in (("p", GAPS_S), ("q", GAPS_S[:2]), ("none", ())):
        batch = ObservationBatch(batched, provider, every)
        child = histogram.labels(provider)
        for gap_s in gaps:
            batch.observe(gap_s)
            child.observe(gap_s)
        batch.flush()
    result = generate_latest(CollectedMetrics(registry, batched))
    expected = generate_latest(one_by_one)
    assert [name for name, _ in sample_lines(result)] == [name for name, _ in sample_lines(expected)]
    assert [value for _, value in sample_lines(result)] == pytest.approx([v for _, v in sample_lines(expected)])
    assert b"# TYPE gap_seconds histogram" in result

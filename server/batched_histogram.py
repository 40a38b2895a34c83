"""A Prometheus histogram to which observations are added in batches, with public calls of prometheus_client alone."""

from bisect import bisect_left
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class BatchedHistogram:
    """A histogram, labelled by provider, to which observations are added in batches.

    Calling `Histogram.observe` for every chunk costs as much as decoding the chunk, and prometheus_client has no call
    for many observations. The buckets are therefore counters, which workers combine like all others, and `to_family`
    joins them to the histogram that is exported.
    """

    def __init__(self, name: str, documentation: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self.name = name
        self.bounds = (*bounds, float("inf"))
        self._names = [str(floatToGoString(bound)) for bound in self.bounds]  # type: ignore[no-untyped-call]  # untyped
        self._documentation = documentation
        self._buckets = Counter(f"{name}_buckets", documentation, ["provider", "le"], registry=registry)
        self._sums = Counter(f"{name}_sums", documentation, ["provider"], registry=registry)
        self._by_provider: dict[str, tuple[list[Counter], Counter]] = {}

    @property
    def counter_names(self) -> frozenset[str]:
        """The names of the counters that hold the histogram."""
        return frozenset((f"{self.name}_buckets", f"{self.name}_sums"))

    def add(self, provider: str, counts: Mapping[int, int], sum_s: float) -> None:
        """Add observations: how many in each bucket, by its place in `bounds`, and their sum."""
        buckets, total = self._by_provider.get(provider) or self._open_provider(provider)
        for place, count in counts.items():
            buckets[place].inc(count)
        total.inc(sum_s)

    def _open_provider(self, provider: str) -> tuple[list[Counter], Counter]:
        """Return a provider's counters, which are looked up once: that takes longer than to add to them."""
        counters = [self._buckets.labels(provider, name) for name in self._names], self._sums.labels(provider)
        self._by_provider[provider] = counters
        return counters

    def to_family(self, counters: Iterable[Metric]) -> HistogramMetricFamily:
        """Return the histogram that the collected counters hold."""
        buckets: dict[str, Counts[str]] = defaultdict(Counts)
        sums: dict[str, float] = {}
        for sample in (sample for family in counters for sample in family.samples):
            provider = sample.labels["provider"]
            if sample.name == f"{self.name}_sums_total":
                sums[provider] = sample.value
            elif sample.name == f"{self.name}_buckets_total":
                buckets[provider][sample.labels["le"]] += int(sample.value)
        result = HistogramMetricFamily(self.name, self._documentation, labels=["provider"])
        for provider, sum_s in sums.items():
            cumulative = accumulate(float(buckets[provider][name]) for name in self._names)
            result.add_metric([provider], list(zip(self._names, cumulative, strict=True)), sum_s)
        return result


class CollectedMetrics(Collector):
    """All metrics of a source, with the counters of a batched histogram joined."""

    def __init__(self, source: Collector, histogram: BatchedHistogram) -> None:
        self._source = source
        self._histogram = histogram

    def collect(self) -> Iterator[Metric]:
        counters = []
        for family in self._source.collect():
            if family.name in self._histogram.counter_names:
                counters.append(family)
            else:
                yield family
        yield self._histogram.to_family(counters)


class ObservationBatch:
    """The observations of one answer, added to a histogram every `every` observations and by `flush`."""

    def __init__(self, histogram: BatchedHistogram, provider: str, every: int = 64) -> None:
        self._histogram = histogram
        self._provider = provider
        self._every = every
        self._counts: Counts[int] = Counts()
        self._left = every
        self._sum_s = 0.0

    def observe(self, gap_s: float) -> None:
        """Buffer one observation, in seconds; every `every` observations the buffer is flushed."""
        self._counts[bisect_left(self._histogram.bounds, gap_s)] += 1
        self._sum_s += gap_s
        self._left -= 1
        if not self._left:
            self.flush()

    def flush(self) -> None:
        """Add the buffered observations to the histogram."""
        self._histogram.add(self._provider, self._counts, self._sum_s)
        self._counts.clear()
        self._left, self._sum_s = self._every, 0.0

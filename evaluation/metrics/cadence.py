"""Cadence metrics of one stream: pure functions over timestamps in seconds, in ascending order.

A chunk is a text delta as it arrived; it is not a token. None is unknown: a metric that cannot be computed from the
timestamps is None, never 0. Percentiles interpolate linearly between order statistics (numpy's default, type 7 of
Hyndman and Fan). An answer has a few hundred chunks; at that size lists are faster than arrays, and a load test does
not have to import numpy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from streaming.events import TextDelta, TimedEvent, Usage

STALL_S = 0.25
"""Lower bound of the stall threshold: a shorter gap is never a stall, however fast the stream."""
STALL_MEDIANS = 5.0
"""The stall threshold as a multiple of the median gap of the same stream, between `STALL_S` and `MAX_STALL_S`."""
MAX_STALL_S = 1.0
"""Upper bound of the stall threshold: a longer gap is always a stall, also in an answer of few chunks, whose median gap
may be the stall itself."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """The text chunks of an answer at one end: timestamps in seconds since the request was sent, and lengths."""

    at_s: Sequence[float]
    chars: Sequence[int]

    @classmethod
    def from_events(cls, events: Iterable[TimedEvent], sent_s: float = 0.0) -> "Chunks":
        """Return the text deltas of a stream of events as chunks; thinking is not answer text."""
        texts = [(timed.at_s - sent_s, timed.event.text) for timed in events if type(timed.event) is TextDelta]
        return cls([at_s for at_s, _ in texts], list(map(len, [text for _, text in texts])))

    def __len__(self) -> int:
        return len(self.at_s)

    @property
    def span_s(self) -> float:
        """The time from the first chunk to the last in seconds; 0 for fewer than two chunks."""
        return self.at_s[-1] - self.at_s[0] if len(self) else 0.0

    @property
    def gaps_s(self) -> list[float]:
        """The inter-chunk latencies in seconds, one fewer than there are chunks."""
        return [later_s - at_s for at_s, later_s in pairwise(self.at_s)]


@dataclass(frozen=True, slots=True)
class Cadence:
    """The inter-chunk latency of one stream in seconds; `cv` is standard deviation / mean, from two gaps on."""

    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    max_s: float | None = None
    cv: float | None = None


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of at least one value; the values must be in ascending order.

    >>> percentile([1.0, 2.0, 4.0], 75.0)
    3.0
    """
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    if low + 1 == len(ordered):
        return ordered[low]
    return ordered[low] + (ordered[low + 1] - ordered[low]) * (place - low)


def cadence(gaps_s: Sequence[float]) -> Cadence:
    """Return percentiles and the coefficient of variation of the gaps, with the population's deviation (ddof = 0).

    The formulas are those of the metrics `icl_*`. All values are None if there is no gap.

    >>> found = cadence([0.01, 0.02, 0.03, 0.10])
    >>> [round(x, 4) for x in (found.p50_s, found.p95_s, found.p99_s, found.max_s)]
    [0.025, 0.0895, 0.0979, 0.1]
    >>> round(found.cv, 4)  # mean 0.04, standard deviation 0.03536
    0.8839
    """
    n = len(gaps_s)
    if not n:
        return Cadence()
    ordered = sorted(gaps_s)
    p50_s, p95_s, p99_s = (percentile(ordered, percent) for percent in (50, 95, 99))
    mean_s = sum(ordered) / n
    variance = sum([(gap_s - mean_s) ** 2 for gap_s in ordered]) / n
    return Cadence(p50_s, p95_s, p99_s, ordered[-1], variance**0.5 / mean_s if n > 1 and mean_s > 0 else None)


def stall_threshold_s(median_gap_s: float) -> float:
    """Return the length in seconds over which a gap is a stall, for a stream of this median gap."""
    return max(STALL_S, min(STALL_MEDIANS * median_gap_s, MAX_STALL_S))


def stalls(gaps_s: Sequence[float]) -> tuple[int, float] | tuple[None, None]:
    """Return the number of gaps over max(0.25 s, min(5 x the median gap, 1 s)), and the total excess in seconds.

    The formulas are those of the metrics `stalls` and `stall_s`. Both are None if there is no gap: a stream of one
    chunk cannot stall.

    >>> stalls([0.02, 0.02, 0.02, 0.55, 0.75])  # median 0.02, so the threshold is 0.25
    (2, 0.8)
    >>> stalls([0.1, 0.1, 0.1, 0.45])  # median 0.1, so the threshold is 0.5
    (0, 0.0)
    >>> stalls([0.02, 3.0])  # median 1.51, so the threshold is 1
    (1, 2.0)
    """
    if not len(gaps_s):
        return None, None
    threshold_s = stall_threshold_s(percentile(sorted(gaps_s), 50))
    over_s = [gap_s - threshold_s for gap_s in gaps_s if gap_s > threshold_s]
    return len(over_s), round(sum(over_s, 0.0), 9)


def answer_tokens(usage: Usage) -> int | None:
    """Return the tokens of the answer text: output tokens without thinking.

    None if the count is only estimated, or if the number of thinking tokens is unknown. The metric `itl_s` uses it.

    >>> answer_tokens(Usage(output_tokens=64, thinking_tokens=24))
    40
    >>> answer_tokens(Usage(output_tokens=64)) is None  # 64 with how much thinking?
    True
    """
    if usage.source == "estimated" or usage.output_tokens is None or usage.thinking_tokens is None:
        return None
    return usage.output_tokens - usage.thinking_tokens


def tokens_after_first(chunks: Chunks, tokens: int | None) -> float | None:
    """Return the answer tokens after the first chunk: tokens x the share of the characters that follow it.

    A first chunk may hold many tokens, and nobody says how many: its share of the characters estimates them. None if
    the number of tokens is unknown, or nothing follows the first chunk.

    >>> tokens_after_first(Chunks([0.2, 0.5, 0.8], [4, 8, 8]), 10)  # 16 of 20 characters follow
    8.0
    """
    total = sum(chunks.chars)
    after = total - chunks.chars[0] if len(chunks) else 0
    return tokens * after / total if tokens is not None and tokens > 0 and after > 0 else None


def itl_s(chunks: Chunks, tokens: int | None) -> float | None:
    """Return the mean inter-token latency in seconds: (last - first chunk) / tokens after the first chunk.

    The formula is that of the metric `itl_s`. None if nothing follows the first chunk.

    >>> itl_s(Chunks([0.2, 0.5, 1.0], [4, 8, 8]), 10)  # 0.8 s, 8 tokens after the first chunk
    0.1
    """
    after = tokens_after_first(chunks, tokens)
    return None if after is None else round(chunks.span_s / after, 12)


def output_tps(chunks: Chunks, tokens: int | None) -> float | None:
    """Return the output speed in tokens/s: tokens after the first chunk / (last - first chunk).

    The formula is that of the metric `output_tps`. None whenever `itl_s` is None, and if all chunks have the same
    timestamp.

    >>> output_tps(Chunks([0.2, 0.5, 1.0], [4, 8, 8]), 10)
    10.0
    """
    after = tokens_after_first(chunks, tokens)
    return None if after is None or chunks.span_s <= 0 else round(after / chunks.span_s, 9)


def tokens_per_chunk(chunks: Chunks, tokens: int | None) -> float | None:
    """Return the answer tokens per chunk; None without tokens or chunks.

    >>> tokens_per_chunk(Chunks([0.2, 0.5], [40, 40]), 20)
    10.0
    """
    return None if tokens is None or not len(chunks) else tokens / len(chunks)


def chars_per_s(chunks: Chunks) -> float | None:
    """Return the throughput in characters/s: characters after the first chunk / (last - first chunk).

    The formula is that of the metric `chars_per_s`. None if all chunks have the same timestamp.

    >>> chars_per_s(Chunks([0.2, 0.5, 0.7], [4, 8, 7]))  # 15 characters in 0.5 s
    30.0
    """
    if chunks.span_s <= 0:
        return None
    return round(sum(chunks.chars[1:]) / chunks.span_s, 9)


def updates_per_s(delivered: Chunks) -> float | None:
    """Return the updates of the reader's text per second: (chunks - 2) / (last but one - first delivered chunk).

    The formula is that of the metric `updates_per_s`. The last update is left out: the end of the answer flushes it, so
    the interval before it is shorter than the strategy's own, which would overstate the rate of a short answer. None
    with fewer than three updates, since there is no complete interval then.

    >>> updates_per_s(Chunks([0.2, 0.3, 0.4, 0.42], [1, 1, 1, 1]))  # 2 whole intervals in 0.2 s
    10.0
    """
    span_s = delivered.at_s[-2] - delivered.at_s[0] if len(delivered) > 2 else 0.0
    if span_s <= 0:
        return None
    return round((len(delivered) - 2) / span_s, 9)

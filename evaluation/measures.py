"""Measures of one stream's cadence: pure functions over stamps in seconds, arrays in order of time.

A chunk is a text delta as it arrived; it is not a token. None is unknown: a figure that the stamps cannot give is
never 0. Percentiles interpolate linearly between the order statistics (numpy's default, Hyndman and Fan's type 7).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming.events import TextDelta, Timed, Usage

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STALL_S = 0.25
"""No silence up to this is called a stall, however quick the stream."""
STALL_MEDIANS = 5.0
"""Nor one up to this many median gaps of its own stream."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """The answer text at one end: when each chunk passed, in seconds from `sent`, and how many characters it had."""

    at_s: Floats
    chars: Ints

    @classmethod
    def of(cls, events: Iterable[Timed], sent_s: float = 0.0) -> "Chunks":
        """Take the text deltas out of a stream of events; thinking is not answer text."""
        texts = [timed for timed in events if isinstance(timed.event, TextDelta)]
        at_s = np.fromiter((timed.at_s for timed in texts), np.float64, len(texts)) - sent_s
        chars = np.fromiter((len(timed.event.text) for timed in texts), np.int64, len(texts))  # type: ignore[union-attr] # only text deltas were kept
        return cls(at_s, chars)

    def __len__(self) -> int:
        return len(self.at_s)

    @property
    def span_s(self) -> float:
        """Seconds from the first chunk to the last; 0 for fewer than two."""
        return float(self.at_s[-1] - self.at_s[0]) if len(self) else 0.0

    @property
    def gaps_s(self) -> Floats:
        """Inter-chunk latencies, one fewer than there are chunks."""
        return np.diff(self.at_s)


@dataclass(frozen=True, slots=True)
class Cadence:
    """Inter-chunk latency of one stream in seconds; `cv` = standard deviation / mean, from two gaps on."""

    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    max_s: float | None = None
    cv: float | None = None


def cadence(gaps_s: Floats) -> Cadence:
    """Percentiles of the gaps between chunks, in seconds; their spread is the population's (ddof = 0).

    Source: METRICS, icl_*. All None without a gap.

    >>> found = cadence(np.array([0.01, 0.02, 0.03, 0.10]))
    >>> [round(float(x), 4) for x in (found.p50_s, found.p95_s, found.p99_s, found.max_s)]
    [0.025, 0.0895, 0.0979, 0.1]
    >>> round(found.cv, 4)  # mean 0.04, standard deviation 0.03536
    0.8839
    """
    if not len(gaps_s):
        return Cadence()
    p50_s, p95_s, p99_s = (float(x) for x in np.percentile(gaps_s, [50, 95, 99]))
    mean_s = float(gaps_s.mean())
    cv = float(gaps_s.std()) / mean_s if len(gaps_s) > 1 and mean_s > 0 else None
    return Cadence(p50_s, p95_s, p99_s, float(gaps_s.max()), cv)


def stalls(gaps_s: Floats) -> tuple[int, float] | tuple[None, None]:
    """Count the gaps over max(0.25 s, 5 x the median gap), and sum the seconds by which they are over it.

    Source: METRICS, stalls and stall_s. None without a gap: a stream of one chunk had no chance to stall.

    >>> stalls(np.array([0.02, 0.02, 0.02, 0.55, 0.75]))  # median 0.02, so the threshold is 0.25
    (2, 0.8)
    >>> stalls(np.array([0.1, 0.1, 0.1, 0.45]))  # median 0.1, so the threshold is 0.5
    (0, 0.0)
    """
    if not len(gaps_s):
        return None, None
    threshold_s = max(STALL_S, STALL_MEDIANS * float(np.median(gaps_s)))
    over_s = gaps_s[gaps_s > threshold_s] - threshold_s
    return len(over_s), round(float(over_s.sum()), 9)


def answer_tokens(usage: Usage) -> int | None:
    """Tokens of the answer text: output without thinking. None when they are only estimated or thinking is unknown.

    Source: METRICS, itl_s.

    >>> answer_tokens(Usage(output_tokens=64, thinking_tokens=24))
    40
    >>> answer_tokens(Usage(output_tokens=64)) is None  # 64 with how much thinking?
    True
    """
    if usage.source == "estimated" or usage.output_tokens is None or usage.thinking_tokens is None:
        return None
    return usage.output_tokens - usage.thinking_tokens


def itl_s(chunks: Chunks, tokens: int | None) -> float | None:
    """Mean seconds between tokens: (last - first chunk) / (answer tokens - 1); METRICS, itl_s.

    >>> itl_s(Chunks(np.array([0.2, 0.5, 0.8]), np.array([4, 8, 8])), 7)  # 0.6 s, 6 tokens after the first
    0.1
    """
    if tokens is None or tokens < 2 or len(chunks) < 2:
        return None
    return round(chunks.span_s / (tokens - 1), 12)


def output_tps(chunks: Chunks, tokens: int | None) -> float | None:
    """Answer tokens a second after the first: (answer tokens - 1) / (last - first chunk); METRICS, output_tps.

    None where `itl_s` is, and for a stream that came in no time.

    >>> output_tps(Chunks(np.array([0.2, 0.5, 0.8]), np.array([4, 8, 8])), 7)
    10.0
    """
    if tokens is None or tokens < 2 or chunks.span_s <= 0:
        return None
    return round((tokens - 1) / chunks.span_s, 9)


def chars_per_s(chunks: Chunks) -> float | None:
    """Characters a second after the first chunk: those that came after it / (last - first chunk); METRICS.

    >>> chars_per_s(Chunks(np.array([0.2, 0.5, 0.7]), np.array([4, 8, 7])))  # 15 characters in 0.5 s
    30.0
    """
    if chunks.span_s <= 0:
        return None
    return round(float(chunks.chars[1:].sum()) / chunks.span_s, 9)


def updates_per_s(delivered: Chunks) -> float | None:
    """How often the reader's text changes: (chunks - 2) / (last but one - first chunk), both as delivered; METRICS.

    The last update is left out: it comes with the answer's end, and the interval before it is cut short, which would
    make a short answer look livelier than its strategy is. None with fewer than three updates: no whole interval.

    >>> updates_per_s(Chunks(np.array([0.2, 0.3, 0.4, 0.42]), np.array([1, 1, 1, 1])))  # 2 whole intervals in 0.2 s
    10.0
    """
    span_s = float(delivered.at_s[-2] - delivered.at_s[0]) if len(delivered) > 2 else 0.0
    if span_s <= 0:
        return None
    return round((len(delivered) - 2) / span_s, 9)

"""Measures of what the reader gets: delay by the strategy, token deadlines, reading. Pure, over `measures.Chunks`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.measures import Chunks, Floats, Ints

_TOLERANCE_S = 1e-9
"""Stamps are kept to the nanosecond: a deadline is not missed by the rounding of a float."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """When a token is due: the first text `first_s` after `sent`, each further token `token_s` after the one before.

    Ten tokens a second is about twice as fast as people read English.
    """

    first_s: float = 1.0
    token_s: float = 0.1


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who reads `chars_per_s` and expects to begin `first_s` after asking.

    The default is 238 words a minute, the mean over 190 studies of silent reading of English non-fiction (Brysbaert
    2019, doi 10.1016/j.jml.2019.104047), at 6 characters a word with its space.
    """

    chars_per_s: float = 23.8
    first_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds that a strategy held the text, over all characters that were delivered; None when none was."""

    mean_s: float | None = None
    p95_s: float | None = None
    max_s: float | None = None


def delay(source: Chunks, delivered: Chunks) -> Delay:
    """Delivered - arrived for each character, the n-th with the n-th: mean, 95th percentile and maximum in seconds.

    Source: METRICS, delay_*. Characters that were never delivered have no delay. The percentile is that of the list
    of all characters, without making the list: memory goes with the chunks.

    >>> source = Chunks(np.array([0.0, 0.1, 0.2]), np.array([2, 2, 4]))
    >>> found = delay(source, Chunks(np.array([0.0, 0.3]), np.array([2, 6])))  # held: 2 x 0, 2 x 0.2, 4 x 0.1
    >>> [round(x, 6) for x in (found.mean_s, found.p95_s, found.max_s)]
    [0.1, 0.2, 0.2]
    """
    arrived_to, left_to = np.cumsum(source.chars), np.cumsum(delivered.chars)
    if not len(arrived_to) or not len(left_to):
        return Delay()
    # Runs of characters that arrived and left together; where both ends fall on one place a run of none is harmless.
    ends = np.sort(np.concatenate([arrived_to, left_to]), kind="stable")
    ends = ends[ends <= min(arrived_to[-1], left_to[-1])]
    chars = np.diff(ends, prepend=0)
    held_s = delivered.at_s[np.searchsorted(left_to, ends)] - source.at_s[np.searchsorted(arrived_to, ends)]
    mean_s = float((held_s * chars).sum() / chars.sum())
    return Delay(mean_s, weighted_percentile(held_s, chars, 95.0), float(held_s.max()))


def weighted_percentile(values: Floats, counts: Ints, percent: float) -> float:
    """The percentile, linearly interpolated, of the list in which each value stands `counts` times.

    >>> weighted_percentile(np.array([1.0, 5.0]), np.array([3, 2]), 62.5)  # of 1, 1, 1, 5, 5: place 2.5
    3.0
    """
    order = np.argsort(values)
    ordered, upto = values[order], np.cumsum(counts[order])
    place = (upto[-1] - 1) * percent / 100
    low, high = (float(ordered[np.searchsorted(upto, int(n), side="right")]) for n in (np.floor(place), np.ceil(place)))
    return low + (high - low) * float(place - np.floor(place))


def fluidity(delivered: Chunks, tokens: int | None, deadlines: Deadlines) -> float | None:
    """Share of token deadlines met, 0 to 1: the fluidity index of Etalon (arXiv 2407.07000).

    A token that comes early leaves its slack to those after it. One that comes late has missed its own deadline and
    those that passed meanwhile, one every `token_s`; then the deadlines start again from its arrival. The measure is
    met / (met + missed). Chunks are taken as delivered, the tokens spread evenly over the characters: token i of n
    comes with character floor(i x chars / n). None without a token count that was reported or counted.

    Deadlines 1 s and 0.1 s, chunks of 2 tokens at 0.5, 1.0 and 1.75 s. The 4 of the first two are met; the fifth was
    due at 1.4 s and those at 1.4, 1.5, 1.6, 1.7 s are missed; the sixth, due at 1.85 s, is met: 5 of 9.

    >>> chunks = Chunks(np.array([0.5, 1.0, 1.75]), np.array([8, 8, 8]))
    >>> round(fluidity(chunks, 6, Deadlines(1.0, 0.1)), 4)
    0.5556
    """
    if tokens is None or tokens < 1 or not len(delivered):
        return None
    upto = np.cumsum(delivered.chars)
    counts = np.diff(-(-upto * tokens // upto[-1]), prepend=0)
    return _share_met(delivered.at_s.tolist(), counts.tolist(), deadlines)


def _share_met(at_s: Sequence[float], counts: Sequence[int], deadlines: Deadlines) -> float:
    met = missed = 0
    due_s = deadlines.first_s
    for now_s, count in zip(at_s, counts, strict=True):
        if not count:
            continue
        late_s = now_s - due_s
        if late_s <= _TOLERANCE_S:
            met += count
            due_s += count * deadlines.token_s
        else:
            missed += 1 + int((late_s + _TOLERANCE_S) / deadlines.token_s)
            met += count - 1
            due_s = now_s + count * deadlines.token_s
    return met / (met + missed)


def qoe(delivered: Chunks, reader: Reader) -> float | None:
    """The reader's quality of experience, 0 to 1, in the spirit of Andes (arXiv 2404.16283).

    The reader reads at one speed, never ahead of the text and never before `first_s`; ideally the text is never
    missing. Both curves, characters read over time, run until this reader has finished: the measure is the area under
    the real one / the area under the ideal one. Andes counts tokens, here characters are read. None without text; a cut
    answer has none either (the caller's part): what is missing was not read.

    10 characters/s from 1 s on, 10 characters at 1 s and 10 at 3 s: read during 1-2 and 3-4 s. Until 4 s the real area
    is 10 x 2.5 + 10 x 0.5 = 30, the ideal one 20 x 2 = 40.

    >>> chunks = Chunks(np.array([1.0, 3.0]), np.array([10, 10]))
    >>> qoe(chunks, Reader(chars_per_s=10.0, first_s=1.0))
    0.75
    """
    if not len(delivered):
        return None
    read_s = delivered.chars / reader.chars_per_s
    upto_s = np.cumsum(read_s)
    may_start_s = np.maximum(delivered.at_s, reader.first_s)
    read_at_s = np.maximum.accumulate(may_start_s - (upto_s - read_s)) + upto_s
    end_s = float(read_at_s[-1])
    real = float((delivered.chars * (end_s - (read_at_s - read_s / 2))).sum())
    ideal = float(delivered.chars.sum()) * (end_s - reader.first_s - float(upto_s[-1]) / 2)
    return min(real / ideal, 1.0)

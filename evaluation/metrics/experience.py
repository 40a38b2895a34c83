"""Metrics of the reader's experience: delivery delay, fluidity and quality of experience, as pure functions."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from evaluation.metrics.cadence import Chunks
from streaming.events import TextDelta, TimedEvent

_TOLERANCE_S = 1e-9
"""Timestamps are rounded to the nanosecond; float rounding must not turn a met deadline into a missed one."""


MAX_PACE_TPS = 1000.0
"""The fastest reading pace that is told apart, in tokens/s: an answer that arrives at once suits any reader."""
_PAINTED_SHARE = 1.02
_IN_TIME_SHARE = 0.99
"""The share of the tokens that must be in time at a fluid pace."""


@dataclass(frozen=True, slots=True)
class TokenDeadlines:
    """The deadlines of an answer: the first text `first_s` after sending, each further token `token_s` later.

    The default of ten tokens/s is about twice the speed at which people read English.
    """

    first_s: float = 1.0
    token_s: float = 0.1


@dataclass(frozen=True, slots=True)
class ReaderModel:
    """A model of a reader who reads `chars_per_s` and expects the first text `first_s` after sending the request.

    The default is 238 words a minute, the mean over 190 studies of silent reading of English non-fiction (Brysbaert
    2019, doi 10.1016/j.jml.2019.104047), at 6 characters a word with its space.
    """

    chars_per_s: float = 23.8
    first_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Delay:
    """The delivery delay in seconds, over all delivered characters; None if none was delivered."""

    mean_s: float | None = None
    p95_s: float | None = None
    max_s: float | None = None


def delivery_delay(source: Chunks, delivered: Chunks) -> Delay:
    """Return the delivery delay: mean, 95th percentile and maximum over all delivered characters, in seconds.

    The delay of the n-th character is its delivered timestamp minus its source timestamp (metrics `delay_*`).
    Characters that were never delivered have no delay. The percentile is weighted by characters without building a list
    of them, so memory grows with the number of chunks.

    >>> source = Chunks([0.0, 0.1, 0.2], [2, 2, 4])
    >>> found = delivery_delay(source, Chunks([0.0, 0.3], [2, 6]))  # held: 2 x 0, 2 x 0.2, 4 x 0.1
    >>> [round(x, 6) for x in (found.mean_s, found.p95_s, found.max_s)]
    [0.1, 0.2, 0.2]
    """
    held_s, chars = _hold_times_s(source, delivered)
    if not held_s:
        return Delay()
    mean_s = sum([held * count for held, count in zip(held_s, chars, strict=True)]) / sum(chars)
    return Delay(mean_s, weighted_percentile(held_s, chars, 95.0), max(held_s))


def painting_delay(events: Sequence[TimedEvent], painted: Sequence[TimedEvent]) -> Delay:
    """Return the delay from the events of an answer to the frames that painted it, over all painted characters.

    A page that draws the text as it is paints its characters one by one. One that draws Markdown leaves its marks out:
    then the letters and digits alone are counted, and the delay is unknown when over 2 % of the painted ones are more
    than the answer has.
    """
    texts, shown = _texts(events), _texts(painted)
    if not "".join(text for _, text in texts).startswith("".join(text for _, text in shown)):
        texts, shown = _letters(texts), _letters(shown)
        if sum(len(text) for _, text in shown) > _PAINTED_SHARE * sum(len(text) for _, text in texts):
            return Delay()
    return delivery_delay(_chunks(texts), _chunks(shown))


def _texts(events: Sequence[TimedEvent]) -> list[tuple[float, str]]:
    return [(timed.at_s, timed.event.text) for timed in events if isinstance(timed.event, TextDelta)]


def _letters(texts: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    return [(at_s, "".join(filter(str.isalnum, text))) for at_s, text in texts]


def _chunks(texts: Sequence[tuple[float, str]]) -> Chunks:
    return Chunks([at_s for at_s, _ in texts], [len(text) for _, text in texts])


def _hold_times_s(source: Chunks, delivered: Chunks) -> tuple[list[float], list[int]]:
    """Return the hold times in seconds, and the length of each run of characters that arrived and left together."""
    if source.chars == delivered.chars and 0 not in source.chars:  # each chunk left as it came
        return [left_s - at_s for at_s, left_s in zip(source.at_s, delivered.at_s, strict=True)], list(source.chars)
    held_s: list[float] = []
    counts: list[int] = []
    arrivals = zip(source.at_s, source.chars, strict=True)
    arrived_s, here = 0.0, 0
    for left_s, leaving in zip(delivered.at_s, delivered.chars, strict=True):
        while leaving:
            if not here:
                arrived_s, here = next(arrivals, (0.0, 0))
                if not here:
                    return held_s, counts
            count = leaving if leaving < here else here
            held_s.append(left_s - arrived_s)
            counts.append(count)
            leaving -= count
            here -= count
    return held_s, counts


def weighted_percentile(values: Sequence[float], counts: Sequence[int], percent: float) -> float:
    """Return the linearly interpolated percentile of the list in which each value is repeated `counts` times.

    >>> weighted_percentile([1.0, 5.0], [3, 2], 62.5)  # of 1, 1, 1, 5, 5: place 2.5
    3.0
    """
    pairs = sorted(zip(values, counts, strict=True))
    upto = list(accumulate(count for _, count in pairs))
    place = (upto[-1] - 1) * percent / 100
    low = pairs[bisect_right(upto, int(place))][0]
    high = pairs[bisect_right(upto, min(int(place) + 1, upto[-1] - 1))][0]
    return low + (high - low) * (place - int(place))


def fluidity(delivered: Chunks, tokens: int | None, deadlines: TokenDeadlines) -> float | None:
    """Return the share of token deadlines met, 0 to 1: the fluidity index of Etalon (arXiv 2407.07000).

    An early token passes its slack on to the tokens after it. A late token misses its own deadline and those that
    passed before it arrived, one every `token_s`; the deadlines then restart from its arrival. The index is
    met / (met + missed). It uses the delivered chunks and spreads the tokens evenly over the characters: token i of n
    arrives with character floor(i x chars / n). None without a reported or counted number of tokens.

    Example: deadlines of 1 s and 0.1 s, chunks of 2 tokens at 0.5, 1.0 and 1.75 s. The 4 tokens of the first two chunks
    are on time. The fifth was due at 1.4 s, so the deadlines at 1.4, 1.5, 1.6 and 1.7 s are missed. The sixth, due at
    1.85 s, is on time: 5 of 9 deadlines are met.

    >>> chunks = Chunks([0.5, 1.0, 1.75], [8, 8, 8])
    >>> round(fluidity(chunks, 6, TokenDeadlines(1.0, 0.1)), 4)
    0.5556
    """
    counts = token_counts(delivered, tokens)
    return None if counts is None else deadlines_met_share(delivered.at_s, counts, deadlines)


def deadlines_met_share(at_s: Sequence[float], counts: Sequence[int], deadlines: TokenDeadlines) -> float:
    """Return the fluidity of an answer whose chunks of `counts` tokens, at least one in all, were delivered `at_s`."""
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


def fluid_pace_tps(delivered: Chunks, tokens: int | None, deadlines: TokenDeadlines) -> float | None:
    """Return the fastest reading pace, in tokens/s, at which 99 % of the tokens are in time.

    The reader starts with the first text, but not before `first_s`; token i (from 0) is due i / pace later. Each token
    that arrives after the start therefore bounds the pace by i / (its arrival - start), and 99 % of the tokens must
    keep to their bound. Tokens are spread over the characters as in `fluidity`. At most `MAX_PACE_TPS`; None without a
    reported or counted number of tokens.

    Example: 4 tokens at 1 s and 4 more at 3 s. Token 4 arrives 2 s after the start: a pace of 2 tokens/s.

    >>> fluid_pace_tps(Chunks([1.0, 3.0], [16, 16]), 8, TokenDeadlines())
    2.0
    """
    counts = token_counts(delivered, tokens)
    return None if counts is None else fastest_pace_tps(delivered.at_s, counts, deadlines)


def fastest_pace_tps(at_s: Sequence[float], counts: Sequence[int], deadlines: TokenDeadlines) -> float:
    """Return the fluid pace of an answer whose chunks of `counts` tokens, at least one, were delivered `at_s`."""
    start_s = max(at_s[0], deadlines.first_s)
    lateness_s = [now_s - start_s for now_s in at_s]
    bounds = [
        place / late_s if late_s > _TOLERANCE_S else MAX_PACE_TPS
        for late_s, (first, last) in zip(lateness_s, pairwise(accumulate(counts, initial=0)), strict=True)
        for place in range(first, last)
    ]
    spare = int((1 - _IN_TIME_SHARE) * len(bounds) + _TOLERANCE_S)
    return min(sorted(bounds)[spare], MAX_PACE_TPS)


def waited_s(delivered: Chunks, reader: ReaderModel) -> float | None:
    """Return how long the reader had nothing to read after the first text, in seconds; None without text.

    The wait for the first text is left out: TTFT is a metric of its own.

    >>> waited_s(Chunks([1.0, 3.0], [10, 10]), ReaderModel(chars_per_s=10.0))  # read from 1 to 2 s and from 3 s on
    1.0
    """
    if not len(delivered):
        return None
    end_s, waited = max(delivered.at_s[0], reader.first_s), 0.0
    for at_s, chars in zip(delivered.at_s, delivered.chars, strict=True):
        if at_s > end_s:
            waited += at_s - end_s
            end_s = at_s
        end_s += chars / reader.chars_per_s
    return waited


def token_counts(delivered: Chunks, tokens: int | None) -> list[int] | None:
    """Return the number of tokens in each chunk, spread evenly over the characters.

    None without chunks, or without a reported or counted number of tokens.

    >>> token_counts(Chunks([0.5, 1.0], [12, 4]), 4)
    [3, 1]
    """
    if tokens is None or tokens < 1 or not len(delivered):
        return None
    upto = list(accumulate(delivered.chars))
    return [b - a for a, b in pairwise([0, *[-(-end * tokens // upto[-1]) for end in upto]])]


def qoe(delivered: Chunks, reader: ReaderModel) -> float | None:
    """Return the reader's quality of experience (QoE), 0 to 1, modelled on Andes (arXiv 2404.16283).

    The reader reads at a constant speed, never ahead of the text and never before `first_s`; the ideal reader never
    waits for text. Both curves of characters read over time end when the real reader has finished, and QoE is the area
    under the real curve / the area under the ideal one. Andes counts tokens; this metric counts characters. None
    without text. It does not apply to a truncated answer, which the caller must exclude.

    Example: 10 characters/s from 1 s on, with 10 characters at 1 s and 10 at 3 s, are read during 1-2 s and 3-4 s.
    Until 4 s the real area is 10 x 2.5 + 10 x 0.5 = 30, the ideal area 20 x 2 = 40.

    >>> chunks = Chunks([1.0, 3.0], [10, 10])
    >>> qoe(chunks, ReaderModel(chars_per_s=10.0, first_s=1.0))
    0.75
    """
    if not len(delivered):
        return None
    speed = reader.chars_per_s
    end_s = reader.first_s
    chunks = zip(delivered.at_s, delivered.chars, strict=True)
    read_at_s = [end_s := (at_s if at_s > end_s else end_s) + chars / speed for at_s, chars in chunks]
    halves = zip(read_at_s, delivered.chars, strict=True)
    real = sum([chars * (end_s - at_s + chars / speed / 2) for at_s, chars in halves])
    total = sum(delivered.chars)
    return min(real / (total * (end_s - reader.first_s - total / speed / 2)), 1.0)

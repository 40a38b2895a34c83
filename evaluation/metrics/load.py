"""Metrics of a run, or of a level of a sweep: what was delivered a second while the load was on in full.

`LOAD_METRICS` is their registry: reports, comparisons, objectives and `docs/metrics.md` follow it. An answer counts in
the window for the share of its delivery, first token to end, that lies in it; so a window may cut answers without
favoring the long ones or the short ones, and waiting in a queue delivers nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from evaluation.metrics.metric import Direction, Unit

SLICES = 10
"""Parts of equal duration of a window: their spread is that of the interval."""
MIN_ANSWERS = 20
"""Fewer answers than two a slice have no interval."""
_MIN_CUT_ANSWERS = 5


@dataclass(frozen=True, slots=True)
class LoadAnswer:
    """One answer's part in a load; times in seconds on one clock, `first_s` that of the first token.

    `is_good`: it met every objective. Tokens and `is_good` are None if unknown.
    """

    start_s: float
    first_s: float | None
    end_s: float
    is_completed: bool = True
    is_good: bool | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None

    def share_between(self, from_s: float, to_s: float) -> float:
        """Return the share of the delivery between two times; a delivery at one moment is all before its time."""
        first_s, end_s = self.first_s, self.end_s
        if first_s is None or first_s >= end_s:
            return float(from_s < end_s <= to_s)
        begun_s, ended_s = first_s if first_s > from_s else from_s, end_s if end_s < to_s else to_s
        return (ended_s - begun_s) / (end_s - first_s) if ended_s > begun_s else 0.0

    def shift(self, by_s: float) -> "LoadAnswer":
        """Return the answer at another time."""
        first_s = None if self.first_s is None else self.first_s + by_s
        return replace(self, start_s=self.start_s + by_s, first_s=first_s, end_s=self.end_s + by_s)


@dataclass(frozen=True, slots=True)
class LoadSlice:
    """What was delivered in a part of the time; `answers` and `good_answers` are completed ones. None is unknown."""

    duration_s: float
    answers: float
    good_answers: float | None
    input_tokens: float | None
    output_tokens: float | None


@dataclass(frozen=True, slots=True)
class LoadMetric:
    """One metric of a run or of a level of a sweep; `function` computes it from a window or a slice of it."""

    name: str
    title: str
    unit: Unit
    direction: Direction
    formula: str
    source: str
    function: Callable[[LoadSlice], float | None]


def measure_load(answers: Sequence[LoadAnswer], streams: int | None) -> tuple[list[LoadSlice], bool]:
    """Return the slices of the window, and whether warm-up and cool-down were left out of it.

    `streams` is the number of answers under way of a closed loop, None for an open loop. A window without the time in
    which the load rose and fell needs some answers; with fewer it is that from the first start to the last end. No
    answers have no slices.
    """
    if not answers:
        return [], False
    window = _full_load_window(answers, streams)
    is_cut = window is not None and sum(window[0] < answer.end_s <= window[1] for answer in answers) >= _MIN_CUT_ANSWERS
    if window is None or not is_cut:
        window = min(answer.start_s for answer in answers), max(answer.end_s for answer in answers)
    return list(_iter_slices(answers, *window)), is_cut


def _full_load_window(answers: Sequence[LoadAnswer], streams: int | None) -> tuple[float, float] | None:
    """Return when the load was full and when it began to fall; None if it was always full, or never.

    A closed loop is full when each stream has ended its first answer, and falls when one ends its last one; an open
    loop is full when its first answer has ended, and falls after its last start.
    """
    ordered = sorted(answers, key=lambda answer: answer.start_s)
    last_start_s = ordered[-1].start_s
    if streams is None:
        from_s, to_s = ordered[0].end_s, last_start_s
    elif 1 < streams < len(ordered):
        from_s = max(answer.end_s for answer in ordered[:streams])
        to_s = min(answer.end_s for answer in ordered if answer.end_s >= last_start_s)
    else:
        return None
    return (from_s, to_s) if from_s < to_s else None


def _iter_slices(answers: Sequence[LoadAnswer], from_s: float, to_s: float) -> Iterator[LoadSlice]:
    step_s = (to_s - from_s) / SLICES
    if step_s <= 0:
        return
    edges = [*(from_s + place * step_s for place in range(SLICES)), to_s]
    done = [answer for answer in answers if answer.is_completed]
    knows_input = None not in [answer.input_tokens for answer in done]
    knows_output = None not in [answer.output_tokens for answer in done]
    is_judged = None not in [answer.is_good for answer in done]
    for start_s, end_s in pairwise(edges):
        shares = [(answer, share) for answer in answers if (share := answer.share_between(start_s, end_s))]
        completed = [(answer, share) for answer, share in shares if answer.is_completed]
        yield LoadSlice(
            step_s,
            sum([share for _, share in completed]),
            sum([share for answer, share in completed if answer.is_good]) if is_judged else None,
            sum([share * (answer.input_tokens or 0) for answer, share in shares]) if knows_input else None,
            sum([share * (answer.output_tokens or 0) for answer, share in shares]) if knows_output else None,
        )


def add_slices(slices: Iterable[LoadSlice]) -> LoadSlice:
    """Return what was delivered in several slices together."""
    parts = list(slices)

    def add(name: str) -> float | None:
        amounts = [getattr(part, name) for part in parts]
        return None if None in amounts else sum(amounts)

    duration_s, answers = sum(part.duration_s for part in parts), sum(part.answers for part in parts)
    return LoadSlice(duration_s, answers, add("good_answers"), add("input_tokens"), add("output_tokens"))


def remove_idle_time(answers: Iterable[LoadAnswer]) -> list[LoadAnswer]:
    """Return the answers of a closed loop without the time in which none was under way.

    Providers that take turns are idle while another one answers, and so are all between an interruption and a resume.
    """
    idle_s, until_s, result = 0.0, None, []
    for answer in sorted(answers, key=lambda answer: answer.start_s):
        if until_s is not None and answer.start_s > until_s:
            idle_s += answer.start_s - until_s
        until_s = answer.end_s if until_s is None else max(until_s, answer.end_s)
        result.append(answer.shift(-idle_s))
    return result


def _rate_of(name: str) -> Callable[[LoadSlice], float | None]:
    def compute_rate(part: LoadSlice) -> float | None:
        amount = getattr(part, name)
        return None if amount is None or part.duration_s <= 0 else amount / part.duration_s

    return compute_rate


def _total_throughput(part: LoadSlice) -> float | None:
    if part.input_tokens is None or part.output_tokens is None or part.duration_s <= 0:
        return None
    return (part.input_tokens + part.output_tokens) / part.duration_s


_USUAL = "vLLM, aiperf and guidellm, which do not leave out warm-up and cool-down"
LOAD_METRICS = (
    LoadMetric("throughput", "answers/s", "1/s", "more", "completed answers / duration of the window", _USUAL,
               _rate_of("answers")),
    LoadMetric("goodput", "goodput (answers/s)", "1/s", "more",
               "completed answers that met every objective / duration of the window; an answer without a value that an "
               "objective is about does not meet it; empty without objectives",
               "DistServe (arXiv 2401.09670)", _rate_of("good_answers")),
    LoadMetric("input_throughput", "input tokens/s", "1/s", "more",
               "input tokens of all answers / duration of the window", _USUAL, _rate_of("input_tokens")),
    LoadMetric("output_throughput", "output tokens/s", "1/s", "more",
               "output tokens of all answers, thinking included / duration of the window", _USUAL,
               _rate_of("output_tokens")),
    LoadMetric("total_throughput", "tokens/s", "1/s", "more", "input and output tokens / duration of the window",
               _USUAL, _total_throughput),
)  # fmt: skip
LOAD_METRIC_BY_NAME = {metric.name: metric for metric in LOAD_METRICS}
LOAD_EXAMPLE = LoadSlice(10.0, 20.0, 15.0, 1000.0, 4000.0)
"""Ten seconds in which 20 answers were completed, 15 of them within the objectives, for the documentation."""

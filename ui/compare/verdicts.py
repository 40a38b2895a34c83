"""What the rounds of one page can tell: which models differ, by pairs of whole answers to the same prompts. No I/O.

The intervals and verdicts are those of the evaluation. One pair of answers never carries a verdict.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from evaluation.analysis.paired import compare_pairs, holm
from evaluation.analysis.statistics import MIN_UNITS, Estimate, median
from ui import strings
from ui.compare.round import Round, RoundMetrics


@dataclass(frozen=True, slots=True)
class _JudgedMetric:
    """A metric with a verdict: its name in `ColumnResult.metrics`, words, and the factor and unit of its differences.

    `margin` is the smallest difference that counts, in the metric's own unit.
    """

    key: str
    title: str
    unit: str
    factor: float
    margin: float
    higher_is_better: bool


_JUDGED = (
    _JudgedMetric("ttft_s", strings.TTFT, "ms", 1000.0, 0.001, False),
    _JudgedMetric("tokens_per_s", strings.SPEED, strings.SPEED, 1.0, 0.0, True),
)


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """The differences of one metric between two columns, second minus first, over all rounds with both whole.

    `better` is the index of the better column in its round, None if the pairs cannot tell.
    """

    metric: _JudgedMetric
    first: int
    second: int
    difference: Estimate
    p_value: float
    better: int | None = None


def judge_pairs(this_round: Round, rounds: Sequence[RoundMetrics]) -> list[PairVerdict]:
    """Return the verdicts on the columns of a round against its first one, corrected for their number by Holm."""
    names = this_round.identities()
    found = [
        verdict
        for second in range(1, len(names))
        for metric in _JUDGED
        if (verdict := _compare(metric, names, second, rounds)).difference.n
    ]
    decided = holm([verdict.p_value for verdict in found])
    return [_decide(verdict) if is_decided else verdict for verdict, is_decided in zip(found, decided, strict=True)]


def verdicts_html(this_round: Round, rounds: Sequence[RoundMetrics]) -> str:
    """Render the verdicts as a list, one line each; empty without a pair of whole answers."""
    verdicts = judge_pairs(this_round, rounds)
    if not verdicts:
        return f'<p class="sg-note">{escape(strings.VERDICT_NONE)}</p>'
    lines = "".join(f"<li>{escape(_line(this_round, verdict))}</li>" for verdict in verdicts)
    return f'<ul class="sg-verdicts">{lines}</ul><p class="sg-note">{escape(strings.VERDICTS_NOTE)}</p>'


def _compare(metric: _JudgedMetric, names: Sequence[str], second: int, rounds: Sequence[RoundMetrics]) -> PairVerdict:
    pairs = [*_iter_pairs(metric.key, names[0], names[second], rounds)]
    prompts = [prompt for prompt, _, _ in pairs]
    a, b = (np.array([pair[n] for pair in pairs], dtype=np.float64) for n in (1, 2))
    difference = median((b - a) * metric.factor, prompts, signed=True)
    p_value = compare_pairs(a, b, prompts, margin_unit=metric.margin).p_value if pairs else 1.0
    return PairVerdict(metric, 0, second, difference, p_value)


def _iter_pairs(key: str, a: str, b: str, rounds: Sequence[RoundMetrics]) -> Iterator[tuple[str, float, float]]:
    for one in rounds:
        values = [one.by_column.get(name, {}).get(key) for name in (a, b)]
        if values[0] is not None and values[1] is not None:
            yield one.prompt, values[0], values[1]


def _decide(verdict: PairVerdict) -> PairVerdict:
    value, low, high = verdict.difference.value or 0.0, verdict.difference.low, verdict.difference.high
    if low is None or high is None or low <= 0 <= high:
        return verdict
    second_is_better = (value > 0) == verdict.metric.higher_is_better
    better = verdict.second if second_is_better else verdict.first
    return PairVerdict(verdict.metric, verdict.first, verdict.second, verdict.difference, verdict.p_value, better)


def _line(this_round: Round, verdict: PairVerdict) -> str:
    first, second = (this_round.heading(n).removeprefix(strings.ANSWER.format(letter="")) for n in (0, verdict.second))
    subject = strings.VERDICT_SUBJECT.format(metric=verdict.metric.title, a=first, b=second)
    better = None if verdict.better is None else (first, second)[verdict.better != verdict.first]
    words = strings.CANNOT_TELL if better is None else strings.VERDICT_BETTER.format(name=better)
    return f"{subject}: {words} ({_difference_text(verdict)})"


def _difference_text(verdict: PairVerdict) -> str:
    estimate, unit = verdict.difference, verdict.metric.unit
    value = _number(estimate.value or 0.0)
    if estimate.n == 1:
        return strings.VERDICT_ONE_PAIR.format(value=value, unit=unit)
    if estimate.low is None or estimate.high is None:
        return strings.VERDICT_FEW_PAIRS.format(value=value, unit=unit, count=estimate.n, needed=MIN_UNITS)
    low, high = _number(estimate.low), _number(estimate.high)
    return strings.VERDICT_INTERVAL.format(value=value, unit=unit, low=low, high=high, count=estimate.n)


def _number(value: float) -> str:
    """Format a difference with a true minus sign, and with a decimal where it is small."""
    digits = 0 if abs(value) >= 10 or math.isclose(value, 0.0, abs_tol=1e-9) else 1
    return f"{value:,.{digits}f}".replace("-", "−")

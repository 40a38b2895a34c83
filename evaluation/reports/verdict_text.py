"""Verdicts in words: the headline of a report, and a sentence for each comparison.

A sentence that claims says "better"; no other sentence does. What cannot be told is said with its interval, the
smallest difference that the run could see, and what would show 10 %.
"""

import math
from collections.abc import Iterator, Sequence

from evaluation.analysis.paired import MARGIN_SHARE, WORTHWHILE, PairedRatio
from evaluation.analysis.summary import Group
from evaluation.analysis.verdicts import FailureCount, ProviderComparison, direction_of
from evaluation.reports import formatting
from evaluation.scenario import display_name
from evaluation.tables import Run

_POPULATION_TEXT = {"all": "", "fresh": " for fresh prompts", "repeated": " for repeated prompts"}


def describe_comparison(result: ProviderComparison) -> str:
    """Return one comparison as a sentence, without its end."""
    a, b, ratio = display_name(result.a), display_name(result.b), result.ratio
    if result.verdict == "better":
        return _claim_text(result, b, a, ratio.inverse())
    if result.verdict == "worse":
        return _claim_text(result, a, b, ratio)
    what = f"{formatting.metric_title(result.column)} of the latter"
    change = formatting.format_change(ratio.ratio, ratio.low, ratio.high)
    if result.verdict == "equal":
        return (
            f"{a} and {b} are equal within the margin{_population(result)}: {what} {change} "
            f"(margin {format_margin(ratio)}; {_basis_text(ratio)})"
        )
    return f"Cannot tell {a} from {b}{_population(result)}: {_unknown_text(result, what, change)}"


def _claim_text(result: ProviderComparison, winner: str, loser: str, ratio: PairedRatio) -> str:
    """Return a claim; `ratio` is that of the loser to the winner."""
    if direction_of(result.column) == "more":
        ratio = ratio.inverse()
    title = formatting.metric_title(result.column)
    return (
        f"{winner} is better than {loser}{_population(result)}: {title} of {loser} is {_slower_text(ratio)} "
        f"({_basis_text(ratio)})"
    )


def _slower_text(ratio: PairedRatio) -> str:
    """Return how much slower the loser is: `12 % slower [4, 21]`; at least so much if the interval has no end."""
    assert ratio.ratio is not None and ratio.low is not None and ratio.high is not None
    if math.isinf(ratio.high) or math.isinf(ratio.ratio):
        return f"at least {formatting.format_percent(ratio.low).lstrip('+')} slower"
    size = formatting.format_percent(ratio.ratio).lstrip("+")
    ends = formatting.format_change(ratio.ratio, ratio.low, ratio.high).partition(" [")[2]
    return f"{size} slower [{ends}"


def _unknown_text(result: ProviderComparison, what: str, change: str) -> str:
    ratio = result.ratio
    if ratio.ratio is None:
        return f"{what}: no prompt was answered by both"
    if result.is_withheld:
        return (
            f"no preference while failures differ: {display_name(result.a)} failed "
            f"{format_failures(result.a_failures)}, {display_name(result.b)} {format_failures(result.b_failures)}; "
            f"{what} {change} ({_basis_text(ratio)})"
        )
    if ratio.low is None:
        few = "with a failure 6 prompts are needed" if ratio.failed_pairs else "3 prompts are needed"
        return f"{what} {change}, without an interval from {_basis_text(ratio)} ({few})"
    text = f"{what} {change} ({_basis_text(ratio)})"
    seen = ratio.smallest_effect(result.comparisons)
    if seen is None:
        return text
    more = ratio.more_prompts(result.comparisons)
    unit = "prompt" if ratio.prompts > 1 else "repeat"
    text += f"; this run finds a difference of {format_share(seen)} in 80 % of cases"
    if more:
        text += f", for {format_share(WORTHWHILE)} it needs {more} more {unit}{'s' if more > 1 else ''}"
    return text


def _basis_text(ratio: PairedRatio) -> str:
    if not ratio.is_paired:
        return f"{ratio.prompts} prompts, unpaired"
    pairs = f"{ratio.pairs} pair{'s' if ratio.pairs != 1 else ''}"
    scope = f" of {ratio.prompts} prompts" if 1 < ratio.prompts < ratio.pairs else ""
    scope = " of one prompt, for which alone this holds" if ratio.prompts == 1 < ratio.pairs else scope
    failed = f", {ratio.failed_pairs} with a failure: sign test" if ratio.failed_pairs else ""
    return f"{pairs}{scope}{failed}"


def _population(result: ProviderComparison) -> str:
    return _POPULATION_TEXT[result.population]


def format_margin(ratio: PairedRatio) -> str:
    """Return the equivalence margin: 2 %, or more where 1 ms is more."""
    return format_share(max(math.expm1(ratio.margin), MARGIN_SHARE))


def format_share(share: float) -> str:
    """Return a share in per cent, whole from 10 % on."""
    percent = share * 100
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.2g} %"


def format_failures(count: FailureCount) -> str:
    """Return a count of failures: `7 of 24`."""
    return f"{count.failed} of {count.trials}"


def headline(groups: Sequence[Group], comparisons: Sequence[ProviderComparison]) -> str:
    """Return the sentence that a report begins with: a verdict if there is one, and who failed."""
    if not any(group.completed for group in groups):
        return "No trial was completed: there is nothing to compare."
    first = _leading_comparisons(comparisons)
    text = _verdict_text(first) if first else _single_text(groups)
    return f"{text}.{failure_text(groups)}"


def describe_missing_rows(run: Run) -> str:
    """Return the sentence on finished trials whose rows are missing; an empty text if none are."""
    if not run.missing_rows:
        return ""
    finished, missing = run.manifest["trials_finished"], run.missing_rows
    which = "their rows are" if missing == finished else f"the rows of {missing} are"
    trials = "1 trial was run" if finished == 1 else f"{finished} trials were run"
    return f"{trials}; {which} missing (copy the run's tables or its journal into the folder again)."


def _leading_comparisons(comparisons: Sequence[ProviderComparison]) -> list[ProviderComparison]:
    """Return the comparisons of the first metric, of fresh prompts where they are apart."""
    if not comparisons:
        return []
    column, population = comparisons[0].column, comparisons[0].population
    return [entry for entry in comparisons if (entry.column, entry.population) == (column, population)]


def _verdict_text(result: Sequence[ProviderComparison]) -> str:
    if len(result) == 1:
        return describe_comparison(result[0])
    names = list(dict.fromkeys(name for one in result for name in (one.a, one.b)))
    beaten = {name: set(_beaten_by(name, result)) for name in names}
    best = next((name for name in names if len(beaten[name]) == len(names) - 1), None)
    if best is not None:
        others = (_loser_text(one, best) for one in result if best in (one.a, one.b))
        where = _population(result[0])
        title = formatting.metric_title(result[0].column)
        lead = f"{display_name(best)} is better than each of the {len(names) - 1} others{where}"
        return f"{lead}: {title} of {', '.join(others)}"
    if all(one.verdict == "equal" for one in result):
        return f"All {len(names)} providers are equal within the margin{_population(result[0])}"
    claims = [one for one in result if one.verdict in ("better", "worse")]
    if not claims:
        title = formatting.metric_title(result[0].column)
        return f"Cannot tell the {len(names)} providers apart by {title}{_population(result[0])}"
    return f"No provider leads all others: {'; '.join(map(describe_comparison, claims))}"


def _beaten_by(name: str, result: Sequence[ProviderComparison]) -> Iterator[str]:
    for one in result:
        if (one.b == name and one.verdict == "better") or (one.a == name and one.verdict == "worse"):
            yield one.a if one.b == name else one.b


def _loser_text(result: ProviderComparison, winner: str) -> str:
    loser, ratio = (result.b, result.ratio) if result.a == winner else (result.a, result.ratio.inverse())
    if direction_of(result.column) == "more":
        ratio = ratio.inverse()
    return f"{display_name(loser)} is {_slower_text(ratio)}"


def _single_text(groups: Sequence[Group]) -> str:
    group = next(group for group in groups if group.completed)
    answer = formatting.format_interval(group.answer_s, in_ms=True)
    gap = f", then a chunk every {formatting.format_ms(group.gap_p50_s.value)} ms" if group.gaps else ""
    where = f"{gap}{_POPULATION_TEXT[group.population]} (medians, {group.answer_s.n} trials)"
    return f"{display_name(group.name)}: first answer text after {answer} ms{where}"


def failure_text(groups: Sequence[Group]) -> str:
    """Return the sentence that names the failures of each provider; an empty text without any."""
    counts: dict[str, FailureCount] = {}
    for group in groups:
        known = counts.get(group.name, FailureCount(0, 0))
        counts[group.name] = FailureCount(known.failed + group.failures.failed, known.trials + group.failures.trials)
    failed = [
        f"{display_name(name)} {format_failures(count)} ({format_share(count.share)})"
        for name, count in counts.items()
        if count.failed
    ]
    return f" Failed: {', '.join(failed)}." if failed else ""

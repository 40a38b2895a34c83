"""The decision table on top of each report: what a buyer weighs, one row for each provider."""

import math
from collections.abc import Iterator, Sequence

from evaluation.analysis.distributions import wilson_interval
from evaluation.analysis.statistics import SMALL_SAMPLE_NOTE, Estimate
from evaluation.analysis.summary import Group
from evaluation.reports import formatting
from evaluation.reports.verdict_text import format_share
from evaluation.scenario import display_name

_PROMPTS_TEXT = {"all": formatting.UNKNOWN, "fresh": "fresh", "repeated": "repeated"}


def decision_table(groups: Sequence[Group], length_unit: str) -> Iterator[str]:
    """Yield the table as Markdown lines, with an explanation; columns without any value are left out."""
    frontier, is_mixed = price_frontier(groups), len(_tail_percents(groups)) > 1
    columns: list[tuple[str, list[str]]] = [
        ("provider", [display_name(group.name) for group in groups]),
        ("strategy", [group.strategy for group in groups]),
        ("prompts", [_PROMPTS_TEXT[group.population] for group in groups]),
        ("trials", [str(group.failures.trials) for group in groups]),
        ("answer text p50 ms", [formatting.format_interval(group.answer_s, in_ms=True) for group in groups]),
        (_tail_heading(groups), [_tail_text(group, names_percent=is_mixed) for group in groups]),
        ("tokens/s", [_interval(group.median("output_tps")) for group in groups]),
        (f"length, {length_unit}", [formatting.format_number(group.median("length").value) for group in groups]),
        ("failed", [_share_text(group.failures.failed, group.failures.trials) for group in groups]),
        ("USD per 1000 delivered", [_cost_text(group, group.cost_per_1000_usd) for group in groups]),
        ("correct", [_share_text(group.correct, group.checked) for group in groups]),
        ("USD per 1000 correct", [_cost_text(group, group.usd_per_1000_correct) for group in groups]),
        ("seconds per correct", [formatting.format_number(group.seconds_per_correct) for group in groups]),
        ("price-performance", [frontier.get(place, formatting.UNKNOWN) for place in range(len(groups))]),
    ]
    if len({group.strategy for group in groups}) == 1:
        columns = [column for column in columns if column[0] != "strategy"]
    shown = [(title, cells) for title, cells in columns if any(cell != formatting.UNKNOWN for cell in cells)]
    texts = sum(title in ("provider", "strategy", "prompts") for title, _ in shown)
    rows = zip(*(cells for _, cells in shown), strict=True)
    yield from formatting.markdown_table([title for title, _ in shown], rows, texts=texts)
    yield ""
    yield " ".join(_notes(groups, [title for title, _ in shown]))


def _tail_percents(groups: Sequence[Group]) -> set[float]:
    return {group.tail_percent for group in groups if group.tail_percent is not None}


def _tail_heading(groups: Sequence[Group]) -> str:
    percents = _tail_percents(groups)
    return f"p{percents.pop():g} ms" if len(percents) == 1 else "largest percentile ms"


def _tail_text(group: Group, *, names_percent: bool) -> str:
    if group.tail_percent is None:
        return formatting.UNKNOWN
    text = formatting.format_interval(group.answer_tail_s, in_ms=True)
    return f"p{group.tail_percent:g}: {text}" if names_percent else text


def _interval(estimate: Estimate) -> str:
    return formatting.format_interval(estimate, in_ms=False)


def _share_text(count: int, total: int) -> str:
    """Return a share with Wilson's interval: `29 % [15, 49]`."""
    if not total:
        return formatting.UNKNOWN
    low, high = wilson_interval(count, total)
    return f"{format_share(count / total)} [{low * 100:.0f}, {high * 100:.0f}]"


def _cost_text(group: Group, usd: float | None) -> str:
    if usd is None:
        return formatting.UNKNOWN
    return ("≈ " if group.cost_estimated else "") + formatting.format_usd(round(usd, 6))


def price_frontier(groups: Sequence[Group]) -> dict[int, str]:
    """Return, by place, whether a group is on the frontier of cost against time to answer text, or who is ahead of it.

    A group is ahead of another one for the same kind of prompts if it is at least as cheap and as soon, cheaper or
    sooner, and does not fail clearly more often. Groups without a price, and those whose median answer failed, are not
    compared.
    """
    points = {
        place: (group.cost_per_1000_usd, group.answer_s.value)
        for place, group in enumerate(groups)
        if group.cost_per_1000_usd is not None and group.answer_s.value is not None
        if math.isfinite(group.answer_s.value)
    }
    if len(points) < 2:
        return {}
    result = {}
    for place, (cost, delay) in points.items():
        own = groups[place]
        ahead = [
            groups[other]
            for other, (other_cost, other_delay) in points.items()
            if other_cost <= cost and other_delay <= delay and (other_cost, other_delay) != (cost, delay)
            if groups[other].population == own.population and not groups[other].failures.exceeds(own.failures)
        ]
        result[place] = f"behind {display_name(ahead[0].name)}" if ahead else "on the frontier"
    return result


def _notes(groups: Sequence[Group], titles: Sequence[str]) -> Iterator[str]:
    yield (
        "Answer text: from the request to the first text of the answer, thinking left out; a failed trial counts as "
        f"infinitely late{f' ({formatting.NEVER})' if _falls_on_failures(groups) else ''}. Brackets are 95 % "
        f"intervals: {SMALL_SAMPLE_NOTE}."
    )
    if any(group.tail_percent is not None for group in groups):
        yield "Beside the median stands the largest percentile that the number of trials carries."
    if "price-performance" in titles:
        yield (
            "Price-performance: on the frontier, no other row for such prompts is cheaper and as soon, or sooner and "
            "as cheap, by the values shown, unless it fails clearly more often."
        )
    if "USD per 1000 delivered" in titles:
        yield "USD: all that was spent, failed trials included, for 1000 delivered answers."
    if "correct" in titles:
        yield (
            "Correct: the share of the answers that are what the prompt file expects, failed ones never; per correct "
            "answer: what all the checked ones cost and took, one after the other."
        )
    yield "Tokens/s and length are medians of completed answers."


def _falls_on_failures(groups: Sequence[Group]) -> bool:
    values = (
        end
        for group in groups
        for estimate in (group.answer_s, group.answer_tail_s)
        for end in (estimate.value, estimate.high)
    )
    return any(value is not None and math.isinf(value) for value in values)

"""The levels of a sweep: which loads a run tries, how many answers each has, and where the search goes next. Pure.

A level is a number of concurrent answers of a closed loop, or the requests per second of an open loop. Levels are named
(`--concurrency 1,2,4`, `--rate 1:20:2`), or searched for (`--sweep`): from one stream on the load doubles until it
delivers hardly more, then the place where it stopped growing is bisected.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from evaluation.metrics.load import MIN_ANSWERS
from evaluation.scenario import MAX_CONCURRENCY, PlannedTrial, Scenario, plan
from streaming.errors import UsageError

if TYPE_CHECKING:
    from evaluation.schema import Trial

ANSWERS_PER_STREAM = 10
"""Answers of each stream of a closed loop at a level, so that the ramp is a small part of it."""
SECONDS_PER_LEVEL = 20
"""Duration of the arrivals of an open loop at a level."""
GROWTH = 0.05
"""A load that delivers less than this share more than a smaller one does not pay: the server is saturated."""
MAX_LEVELS = 200


def parse_levels(text: str, option: str) -> tuple[float, ...]:
    """Parse `8`, `1,2,4` or `FROM:TO:STEP`. Raises UsageError when a number is invalid."""
    is_range = ":" in text
    try:
        numbers = tuple(float(part) for part in text.split(":" if is_range else ","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)) or len(numbers) > MAX_LEVELS or (is_range and not _is_range(numbers)):
        words = f"write a number, a list as 1,2,4, or FROM:TO:STEP, of at most {MAX_LEVELS}"
        raise UsageError(f"{option}: {text[:40]!r} is no load ({words})")
    if not is_range:
        return numbers
    start, end, step = numbers
    return tuple(round(start + place * step, 9) for place in range(int((end - start) / step + 1e-9) + 1))


def _is_range(numbers: Sequence[float]) -> bool:
    """Return whether these are a start, an end and a step with a level at least, and not too many."""
    if len(numbers) != 3:
        return False
    start, end, step = numbers
    return 0 < start <= end and step > 0 and (end - start) / step < MAX_LEVELS


@cache
def parse_user_levels(text: str) -> tuple[int, ...]:
    """Parse numbers of users as `parse_levels` does; an empty text has none. Raises UsageError."""
    levels = parse_levels(text, "--levels") if text else ()
    if any(level != int(level) or not 1 <= level <= MAX_CONCURRENCY for level in levels):
        words = f"use whole numbers from 1 to {MAX_CONCURRENCY}, as in 1,2,4"
        raise UsageError(f"--levels: {text[:40]!r} has no numbers of users ({words})")
    if len(set(levels)) < len(levels):
        raise UsageError(f"--levels: {text[:40]!r} has one twice (list each once)")
    return tuple(map(int, levels))


def at_level(scenario: Scenario, level: float, providers: Sequence[str] | None = None) -> Scenario:
    """Return the scenario of one level: its load, enough repeats for the ramp to matter little, and fresh prompts."""
    is_open = scenario.rate is not None
    per_repeat = scenario.cells_per_provider * len(scenario.prompts)
    wanted = max(MIN_ANSWERS, math.ceil(level * (SECONDS_PER_LEVEL if is_open else ANSWERS_PER_STREAM)))
    wanted = scenario.level_answers or wanted
    load = {"rate": level} if is_open else {"concurrency": int(level)}
    return replace(
        scenario,
        providers=scenario.providers if providers is None else tuple(providers),
        levels=(),
        sweep_to=None,
        level_answers=None,
        repeats=max(scenario.repeats, -(-wanted // per_repeat)),
        fresh=not scenario.warm if scenario.fresh is None else scenario.fresh,
        **load,
    )


def plan_run(scenario: Scenario, earlier: Sequence[PlannedTrial] = ()) -> tuple[PlannedTrial, ...]:
    """Return the trials of a run in order, of a sweep those of its first levels; see `evaluation.scenario.plan`."""
    if not scenario.is_sweep:
        return plan(scenario, earlier)
    planned = tuple(earlier)
    for level in scenario.levels or (1.0,):
        planned += plan_level(scenario, level, planned)
    return planned


def plan_level(
    scenario: Scenario, level: float, earlier: Sequence[PlannedTrial], providers: Sequence[str] | None = None
) -> tuple[PlannedTrial, ...]:
    """Return the trials of one level, numbered after the earlier ones; none if it is among them."""
    known = {trial.provider for trial in earlier if trial.level == level}
    wanted = [name for name in providers or scenario.providers if name not in known]
    if not wanted:
        return ()
    number = max((trial.number for trial in earlier), default=0)
    block = max((trial.block for trial in earlier), default=0)
    return tuple(
        replace(trial, number=trial.number + number, block=trial.block + block, level=level)
        for trial in plan(at_level(scenario, level, wanted))
    )


def group_by_level(planned: Iterable[PlannedTrial]) -> dict[float | None, tuple[PlannedTrial, ...]]:
    """Return the trials of each level, in the order of the run."""
    result: dict[float | None, list[PlannedTrial]] = {}
    for trial in planned:
        result.setdefault(trial.level, []).append(trial)
    return {level: tuple(trials) for level, trials in result.items()}


def next_level(rates: Mapping[float, float], most: int) -> int | None:
    """Return the concurrency to try next, from the answers/s delivered at those tried; None when the knee is found.

    >>> next_level({}, 64), next_level({1: 2.0, 2: 4.0}, 64), next_level({1: 2.0, 2: 4.0, 4: 6.0, 8: 6.0}, 64)
    (1, 4, 3)
    >>> next_level({1: 2.0, 2: 4.0, 3: 6.0, 4: 6.0, 8: 6.0}, 64)
    """
    level, best_before = next_step(0, None, most), 0.0
    while level is not None and rates.get(level, 0.0) > 0 and rates[level] >= (1 + GROWTH) * best_before:
        best_before = max(best_before, rates[level])
        level = next_step(level, None, most)
    if level is not None and level not in rates:
        return level
    knee = int(find_knee(rates))
    return next_step(int(max((tried for tried in rates if tried < knee), default=0)), knee, most)


def next_step(below: int, above: int | None, most: int) -> int | None:
    """Return the level to try next between one that is known to be below the sought one and one that is not.

    While none is known to be above, the level doubles up to `most`; None when the interval is small enough.

    >>> next_step(0, None, 64), next_step(8, None, 64), next_step(64, None, 64), next_step(8, 16, 64)
    (1, 16, None, 12)
    """
    if above is None:
        return min(max(2 * below, 1), most) if below < most else None
    return (below + above) // 2 if above - below > max(1, int(below * GROWTH) + 1) else None


def find_knee(rates: Mapping[float, float]) -> float:
    """Return the lowest level that delivers nearly as much as the best one, within `GROWTH`."""
    best = max(rates.values())
    return min(level for level, rate in rates.items() if rate >= (1 - GROWTH) * best)


def trial_level(scenario: Scenario, trial: "Trial") -> float | None:
    """Return the level by which a finished trial is known in the plan; None for a run of one level."""
    level: float | None = trial.level
    return level if scenario.is_sweep else None

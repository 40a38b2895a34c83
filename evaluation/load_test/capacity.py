"""Search for the largest number of concurrent streams that meets an SLO: double until missed, bisect, confirm.

A number of streams meets or misses the SLO when two of at most three steps agree, so that one disturbance of a shared
machine decides nothing. While doubling, one step is enough, but the final number was met twice; otherwise the search
continues below it. Answers requested while users were still being added are not part of a step's metrics.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.load_test import locust_run
from evaluation.load_test.locust_run import LocustOptions
from streaming.errors import UsageError
from streaming.escaping import to_line

if TYPE_CHECKING:
    from evaluation.analysis.slo import Objective
    from evaluation.tables import Run

TOLERANCE = 0.05
"""The search ends when the interval is smaller than this share of the number found."""
_CONFIRMATIONS = 2


class CapacitySearch:
    """The state of the search: `next_streams` is the number to try next, None when the search is over.

    After each step call `report_result`. `capacity` is the result, None if even one stream misses the SLO.
    """

    def __init__(self, first: int, most: int) -> None:
        if not 1 <= first <= most:
            raise UsageError("--users: out of range (use 1 to the value of --most)")
        self.next_streams: int | None = first
        self._most = most
        self._met, self._missed = 0, most + 1
        self._votes: dict[int, list[bool]] = defaultdict(list)

    @property
    def capacity(self) -> int | None:
        """The confirmed number of streams; None if there is none, or the search is not over."""
        return self._met or None if self.next_streams is None else None

    def report_result(self, met: bool) -> None:
        """Record whether the step with `next_streams` met the SLO, and choose the next number."""
        assert self.next_streams is not None  # the search is not over
        votes = self._votes[self.next_streams]
        votes.append(met)
        growing = met and self._missed > self._most
        if votes.count(met) < _CONFIRMATIONS and not growing:
            return
        if met:
            self._met = max(self._met, self.next_streams)
        else:
            self._missed = self.next_streams
            if self.next_streams <= self._met:
                self._met = int(self.next_streams * (1 - TOLERANCE))
        self.next_streams = self._next_users()

    def _next_users(self) -> int | None:
        if self._missed > self._most and self._met < self._most:
            return min(self._met * 2, self._most)
        if self._missed - self._met > max(1, int(self._met * TOLERANCE) + 1):
            return (self._met + self._missed) // 2
        confirmed = self._met < 1 or self._votes[self._met].count(True) >= _CONFIRMATIONS
        return None if confirmed else self._met


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One step of the search and its result; `verdicts` are sentences."""

    streams: int
    met: bool
    trials: int
    verdicts: tuple[str, ...]
    folder: Path

    def __str__(self) -> str:
        head = f"{self.streams} streams: {'met' if self.met else 'missed'}, {self.trials} answers"
        return "\n".join([head, *(f"    {to_line(verdict)}" for verdict in self.verdicts)])

    @property
    def facts(self) -> dict[str, Any]:
        """The step's fields for the JSON line."""
        return {"streams": self.streams, "met": self.met, "trials": self.trials, "folder": str(self.folder)}


def run_search(
    search: CapacitySearch,
    load: Callable[[int], LocustOptions],
    url: str,
    objectives: "Sequence[Objective]",
    folder: Path,
) -> "Iterator[tuple[SearchStep, Run]]":
    """Run the search and yield each step with its tables. Each step writes to its own folder inside `folder`.

    Raises UsageError when Locust fails or has no answers.
    """
    # Importing pandas takes a second, which must not delay usage errors.
    from evaluation.load_test import judge

    number = 0
    while (streams := search.next_streams) is not None:
        number += 1
        place, step_load = folder / f"{number:02d}-{streams}-streams", load(streams)
        ramp_s = math.ceil(streams / step_load.users_per_s)
        locust_run.run_locust(replace(step_load, duration_s=step_load.duration_s + ramp_s), url, place)
        judged = judge.judge_load_test(place, objectives, without_ramp=True)
        # The search confirms its answer by repeated steps: each step counts by its observed values.
        met = judged.holds_here and judged.shortfall is None
        step = SearchStep(streams, met, len(judged.run.trials), judged.evidence, place)
        search.report_result(met)
        yield step, judged.run

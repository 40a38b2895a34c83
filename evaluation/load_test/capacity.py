"""Search for a number of concurrent streams: the largest that meets an SLO, or the knee.

For an SLO the number doubles until it is missed, is bisected and confirmed. For the knee it doubles until hardly more
is delivered, and the place where that stopped growing is bisected, as by `evaluation run --sweep`.

A number of streams meets or misses the SLO when two of at most three steps agree, so that one disturbance of a shared
machine decides nothing. While doubling, one step is enough, but the final number was met twice; otherwise the search
continues below it. Answers requested while users were still being added are not part of a step's metrics.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evaluation import manifest
from evaluation.levels import GROWTH, find_knee, next_level, next_step
from evaluation.load_test import import_answers, locust_run
from evaluation.load_test.locust_run import LocustOptions
from evaluation.load_test.workload import copy_workload
from evaluation.schema import Journal
from streaming.errors import UsageError
from streaming.escaping import to_line

if TYPE_CHECKING:
    from evaluation.analysis.findings import Findings
    from evaluation.analysis.slo import Objective
    from evaluation.load_test.judge import LoadTestVerdict

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

    def report_result(self, met: bool, delivered_per_s: float = 0.0) -> None:
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
                self._met = int(self.next_streams * (1 - GROWTH))
        self.next_streams = self._next_users()

    def _next_users(self) -> int | None:
        found = next_step(self._met, None if self._missed > self._most else self._missed, self._most)
        if found is not None:
            return found
        confirmed = self._met < 1 or self._votes[self._met].count(True) >= _CONFIRMATIONS
        return None if confirmed else self._met


class KneeSearch:
    """The state of a search for the lowest number of streams that delivers nearly as much as any, up to `most`."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise UsageError("--most: too few (use at least 1)")
        self._most = most
        self._rates: dict[float, float] = {}

    @property
    def next_streams(self) -> int | None:
        return next_level(self._rates, self._most)

    @property
    def capacity(self) -> int | None:
        """The knee; None if nothing was delivered, or the search is not over."""
        is_over = self.next_streams is None and max(self._rates.values()) > 0
        return int(find_knee(self._rates)) if is_over else None

    def report_result(self, met: bool, delivered_per_s: float = 0.0) -> None:
        """Record the answers per second of the step with `next_streams`, whether or not it met an SLO."""
        assert self.next_streams is not None  # the search is not over
        self._rates[self.next_streams] = delivered_per_s


class Search(Protocol):
    """A search: `next_streams` is tried next, None at its end; `capacity` is what it has found."""

    @property
    def next_streams(self) -> int | None: ...

    @property
    def capacity(self) -> int | None: ...

    def report_result(self, met: bool, delivered_per_s: float = 0.0) -> None: ...


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One step of the search and its result; `verdicts` are sentences. `met` is None without objectives."""

    streams: int
    met: bool | None
    trials: int
    verdicts: tuple[str, ...]
    folder: Path

    def __str__(self) -> str:
        result = "" if self.met is None else "met, " if self.met else "missed, "
        head = f"{self.streams} streams: {result}{self.trials} answers"
        return "\n".join([head, *(f"    {to_line(verdict)}" for verdict in self.verdicts)])

    @property
    def facts(self) -> dict[str, Any]:
        """The step's fields for the JSON line."""
        return {"streams": self.streams, "met": self.met, "trials": self.trials, "folder": str(self.folder)}


def write_sweep(folder: Path, steps: Sequence[SearchStep]) -> "Findings":
    """Write the answers of all steps as one run with a level for each number of streams, and its report.

    Raises UsageError when a step's answers are invalid, OSError when a file cannot be written.
    """
    from evaluation.reports import markdown

    facts: dict[str, Any] = {}
    loads: list[dict[str, Any]] = []
    with Journal(folder) as journal:
        for step in steps:
            test = import_answers.read_answers(step.folder, without_ramp=True)
            for number, answer in enumerate(test.answers, start=1):
                run_id = str(test.facts["run_id"])
                journal.add(*import_answers.trial_rows(run_id, number, answer, float(step.streams), test))
            facts = manifest.read(step.folder)
            loads += [{"level": float(step.streams)} | load for load in facts["loads"]]
    levels = sorted({float(step.streams) for step in steps})
    facts["scenario"] |= {"levels": levels, "concurrency": int(levels[0])}
    facts |= {"loads": loads, "trials_finished": sum(step.trials for step in steps), "run_id": folder.name}
    manifest.write(folder, facts)
    return markdown.write_report(folder, plots=True)[1]


def run_search(
    search: Search,
    load: Callable[[int], LocustOptions],
    url: str,
    objectives: "Sequence[Objective]",
    folder: Path,
) -> "Iterator[tuple[SearchStep, LoadTestVerdict]]":
    """Run the search and yield each step with its verdict. Each step writes to its own folder inside `folder`.

    Raises UsageError when Locust fails or has no answers.
    """
    # Importing pandas takes a second, which must not delay usage errors.
    from evaluation.load_test import judge

    number = 0
    while (streams := search.next_streams) is not None:
        number += 1
        place, step_load = folder / f"{number:02d}-{streams}-streams", load(streams)
        ramp_s = math.ceil(streams / step_load.users_per_s)
        copy_workload(folder, place)
        locust_run.run_locust(replace(step_load, duration_s=step_load.duration_s + ramp_s), url, place)
        judged = judge.judge_load_test(place, objectives, without_ramp=True)
        # The search confirms its answer by repeated steps: each step counts by its observed values.
        met = judged.holds_here and judged.shortfall is None
        step = SearchStep(streams, met if objectives else None, len(judged.run.trials), judged.evidence, place)
        search.report_result(met, sum(level.delivered_per_s for level in judged.findings.levels))
        yield step, judged

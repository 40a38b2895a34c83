"""Progress of a run on stderr: a bar with live metrics on a terminal, a line at intervals elsewhere."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from evaluation.schema import Trial
from streaming.clock import Clock
from streaming.escaping import to_line

LINE_INTERVAL_S = 10.0
"""Seconds between two progress lines when stderr is not a terminal."""
DRAW_INTERVAL_S = 1.0
"""Seconds between two updates of the bar while answers are under way."""


class RunProgress:
    """Progress display that is driven by the run through `on_start`, `on_finish` and `tick`, without a thread.

    Drawing takes about 2 ms of the process that measures. It is done between two answers, and at most once per second
    while an answer is under way. `done` holds the trials finished before the run was resumed. `rests_s`
    returns how much longer each provider rests that turned a request away, in seconds.
    """

    def __init__(
        self,
        total: int,
        clock: Clock,
        console: Console | None = None,
        *,
        done: Iterable[Trial] = (),
        rests_s: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._rests_s = rests_s
        self._clock = clock
        self._total = total
        self._finished = 0
        self._not_completed = 0
        self._ttfts_s: list[float] = []
        self._cost_usd: Decimal | None = None
        self._running = 0
        self._drawn_s = -DRAW_INTERVAL_S
        self._stage = "starting"
        self._line_due_s = clock() + LINE_INTERVAL_S
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            auto_refresh=False,
            disable=not self._console.is_terminal,
        )
        for trial in done:
            self._count_trial(trial)
        self._task = self._bar.add_task("starting", total=total, completed=self._finished, figures=self.live_stats())

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._refresh_bar()
        self._bar.stop()

    def set_stage(self, stage: str) -> None:
        """Show the current stage of the run."""
        self._stage = stage = to_line(stage)
        self._bar.update(self._task, description=stage)
        if not self._console.is_terminal:
            self._print_line()
        self.tick()

    def set_total(self, total: int) -> None:
        """Change the number of planned trials, which a search does not know at its start."""
        self._total = total
        self._bar.update(self._task, total=total)

    def on_start(self) -> None:
        """Count an answer that has started."""
        self._running += 1

    def on_finish(self, trial: Trial) -> None:
        """Count a finished trial and add its TTFT and cost to the live metrics."""
        self._running = max(self._running - 1, 0)
        self._count_trial(trial)
        self.tick()

    def on_skip(self) -> None:
        """Count an answer that has started but that its provider refused for good: there is no trial."""
        self._running = max(self._running - 1, 0)
        self.tick()

    def _count_trial(self, trial: Trial) -> None:
        self._finished += 1
        self._not_completed += trial.outcome != "completed"
        if trial.ttft_s is not None:
            self._ttfts_s.append(trial.ttft_s)
        if trial.cost_usd is not None:
            self._cost_usd = (self._cost_usd or Decimal(0)) + trial.cost_usd

    @property
    def is_resting(self) -> bool:
        """Whether a provider rests, so that the time left changes although no answer ends."""
        return bool(self._rests_s())

    def tick(self) -> None:
        """Draw the bar if no answer is under way or an update is due; without a terminal, print a line when due."""
        now_s = self._clock()
        if not self._console.is_terminal:
            if now_s >= self._line_due_s:
                self._print_line()
        elif not self._running or now_s - self._drawn_s >= DRAW_INTERVAL_S:
            self._refresh_bar()

    def _refresh_bar(self) -> None:
        self._drawn_s = self._clock()
        self._bar.update(self._task, completed=self._finished, figures=self.live_stats())
        self._bar.refresh()

    def live_stats(self) -> str:
        """Return the live metrics as text; metrics that are still unknown are left out."""
        parts = [f"{self._not_completed} not completed"] if self._not_completed else []
        if self._ttfts_s:
            recent = self._ttfts_s[-1] * 1000
            parts += [f"TTFT {recent:.0f} ms, median {statistics.median(self._ttfts_s) * 1000:.0f} ms"]
        if self._cost_usd is not None:
            parts += [f"{self._cost_usd:.6f} USD so far"]
        parts += [f"{name} rests for {math.ceil(rest_s)} s (rate limit)" for name, rest_s in self._rests_s().items()]
        return ", ".join(parts)

    def _print_line(self) -> None:
        self._line_due_s = self._clock() + LINE_INTERVAL_S
        figures = self.live_stats()
        text = f"{self._stage}: {self._finished}/{self._total} trials{', ' + figures if figures else ''}"
        self._console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

"""Shows how far a run is, on stderr: a bar with live figures on a terminal, else a line now and then."""

import statistics
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from evaluation.record import Trial
from streaming.clock import Clock

LINE_S = 10.0
"""Seconds between two lines where there is no terminal."""


class RunProgress:
    """Told of every finished trial, and ticked by the run. Nothing is drawn by a thread of its own.

    Drawing takes about 2 ms of the process that measures: it is done when a trial has ended and at the run's ticks.
    """

    def __init__(self, total: int, clock: Clock, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._total = total
        self._finished = 0
        self._not_completed = 0
        self._ttfts_s: list[float] = []
        self._stage = "starting"
        self._line_due_s = clock() + LINE_S
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
        self._task = self._bar.add_task("starting", total=total, figures="")

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tick()
        self._bar.stop()

    def say(self, stage: str) -> None:
        """Tell what is being done now."""
        self._stage = stage
        self._bar.update(self._task, description=stage)
        if not self._console.is_terminal:
            self._line()
        self.tick()

    def finished(self, trial: Trial) -> None:
        """Count a trial that has its row."""
        self._finished += 1
        self._not_completed += trial.outcome != "completed"
        if trial.ttft_s is not None:
            self._ttfts_s.append(trial.ttft_s)
        self._bar.update(self._task, completed=self._finished, figures=self.figures())
        self.tick()

    def tick(self) -> None:
        """Draw the bar; without a terminal, write a line if it is time for one."""
        self._bar.refresh()
        if not self._console.is_terminal and self._clock() >= self._line_due_s:
            self._line()

    def figures(self) -> str:
        """Give the live figures in words; what is not known yet is left out."""
        parts = [f"{self._not_completed} not completed"] if self._not_completed else []
        if self._ttfts_s:
            recent = self._ttfts_s[-1] * 1000
            parts += [f"TTFT {recent:.0f} ms, median {statistics.median(self._ttfts_s) * 1000:.0f} ms"]
        return ", ".join(parts)

    def _line(self) -> None:
        self._line_due_s = self._clock() + LINE_S
        figures = self.figures()
        text = f"{self._stage}: {self._finished}/{self._total} trials{', ' + figures if figures else ''}"
        self._console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

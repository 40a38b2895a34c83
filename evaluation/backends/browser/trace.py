"""The trace that Chromium writes of a page: marks, presented frames and tasks, on CLOCK_MONOTONIC. No I/O."""

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

CATEGORIES = (
    "blink.user_timing",
    "devtools.timeline",
    "disabled-by-default-devtools.timeline",
    "disabled-by-default-devtools.timeline.frame",
)
_FRAMES = "devtools.timeline.frame"
MARK_PREFIX = "streamgauge-"
_PRESENTED = frozenset(("STATE_PRESENTED_ALL", "STATE_PRESENTED_PARTIAL"))
_DROPPED = "STATE_DROPPED"
LONG_TASK_S = 0.05
"""A main-thread task above this blocks the page noticeably (the Long Tasks API has the same limit)."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One `performance.mark` of the observer; `page_s` is the page's own clock (`performance.now`)."""

    name: str
    at_s: float
    page_s: float
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of the page's compositor.

    `commit_s` is the time at which the main thread handed its content over, None if it did not take part;
    `presented_s` the time at which the frame was presented, None if it was dropped.
    """

    commit_s: float | None
    presented_s: float | None
    ended_s: float


@dataclass(frozen=True, slots=True)
class Task:
    """One task of the page's main thread."""

    started_s: float
    took_s: float


@dataclass(frozen=True)
class PageTrace:
    """What a trace says of one page. Times are in seconds on the trace's clock."""

    marks: tuple[Mark, ...]
    frames: tuple[Frame, ...]
    tasks: tuple[Task, ...]
    received: tuple[tuple[float, int], ...]
    """The network's reads with their bytes, as encoded on the wire."""

    def find_marks(self, name: str) -> list[Mark]:
        """Return the marks of one name in order of time."""
        return [mark for mark in self.marks if mark.name == name]

    @property
    def page_origin_s(self) -> float:
        """The trace's time at which the page's own clock is 0. Raises ValueError without marks."""
        if not self.marks:
            raise ValueError("trace: no marks of the page (it was closed, or replaced by another one)")
        return median(mark.at_s - mark.page_s for mark in self.marks)

    def find_presentation(self, at_s: float) -> float | None:
        """Return when a change that the main thread made at `at_s` was presented; None if it never was.

        That is the end of the first presented frame whose content the main thread handed over afterwards: the main
        thread changes nothing between drawing a frame and handing it over.
        """
        commits, presented = self._presented
        place = bisect_left(commits, at_s)
        return presented[place] if place < len(commits) else None

    def count_dropped(self, name: str) -> int:
        """Return how many frames with the content of marks of one name were dropped.

        Frames that are dropped because nothing visible has changed do not count: they have no such content.
        """
        frames = [(frame.commit_s, frame.presented_s) for frame in self.frames if frame.commit_s is not None]
        commits = [commit_s for commit_s, _ in frames]
        places = {bisect_left(commits, mark.at_s) for mark in self.find_marks(name)}
        return sum(place < len(frames) and frames[place][1] is None for place in places)

    @cached_property
    def _presented(self) -> tuple[list[float], list[float]]:
        """When the main thread handed over the content of each presented frame, and when it was presented."""
        pairs = sorted(
            (frame.commit_s, frame.presented_s)
            for frame in self.frames
            if frame.commit_s is not None and frame.presented_s is not None
        )
        return [commit_s for commit_s, _ in pairs], [presented_s for _, presented_s in pairs]


def parse_trace(events: Iterable[Mapping[str, Any]]) -> PageTrace:
    """Return the trace of the page that wrote the observer's marks, from the events of all processes.

    The page's main thread is the one that wrote the marks. Unknown events are ignored.
    """
    ordered = sorted(events, key=lambda event: event.get("ts", 0))
    marks = [event for event in ordered if _is_mark(event)]
    if not marks:
        return PageTrace((), (), (), ())
    process, thread = marks[-1]["pid"], marks[-1]["tid"]
    own = [event for event in ordered if event.get("pid") == process]
    return PageTrace(
        tuple(_read_mark(event) for event in marks if event["pid"] == process),
        tuple(sorted(_iter_frames(own), key=lambda frame: frame.commit_s or frame.ended_s)),
        tuple(
            Task(event["ts"] / 1e6, event.get("dur", 0) / 1e6)
            for event in own
            if event["name"] == "RunTask" and event["tid"] == thread
        ),
        tuple(
            (event["ts"] / 1e6, event["args"]["data"].get("encodedDataLength", 0))
            for event in own
            if event["name"] == "ResourceReceivedData"
        ),
    )


def _is_mark(event: Mapping[str, Any]) -> bool:
    is_user_timing = "blink.user_timing" in event.get("cat", "")
    return is_user_timing and event["name"].startswith(MARK_PREFIX) and "data" in event.get("args", {})


def _read_mark(event: Mapping[str, Any]) -> Mark:
    data = event["args"]["data"]
    detail = json.loads(data.get("detail") or "{}")
    return Mark(event["name"].removeprefix(MARK_PREFIX), event["ts"] / 1e6, data["startTime"] / 1e3, detail)


@dataclass(slots=True)
class _OpenFrame:
    state: str | None = None
    commit_s: float | None = None
    open_stages: int = 0


def _iter_frames(events: Iterable[Mapping[str, Any]]) -> Iterable[Frame]:
    """Yield the frames of one process, in the order in which they ended.

    A frame ends with the last of its stages. The name of an end says nothing: where a stage began before the
    `PipelineReporter` around it, Chromium writes their ends in the wrong order.
    """
    under_way: defaultdict[str, _OpenFrame] = defaultdict(_OpenFrame)
    for event in events:
        name, phase = event["name"], event.get("ph")
        if phase not in ("b", "e") or _FRAMES not in event.get("cat", ""):
            continue
        key, at_s = str(event.get("id2", {}).get("local")), event["ts"] / 1e6
        frame = under_way[key]
        frame.open_stages = max(frame.open_stages + (1 if phase == "b" else -1), 0)  # some began before the trace
        if phase == "b" and name == "PipelineReporter":
            frame.state = event["args"].get("frame_reporter", {}).get("state", "")
        elif phase == "b" and name == "Commit":
            frame.commit_s = at_s
        if frame.open_stages > 0 or frame.state is None:
            continue
        del under_way[key]
        if frame.state in _PRESENTED:
            yield Frame(frame.commit_s, at_s, at_s)
        elif frame.state == _DROPPED:
            yield Frame(frame.commit_s, None, at_s)

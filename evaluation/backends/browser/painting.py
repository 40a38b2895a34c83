"""What a reader saw: the text of each presented frame, and what the page cost the browser. Computed from a trace."""

from dataclasses import dataclass
from statistics import median

from evaluation.backends.browser.trace import LONG_TASK_S, PageTrace
from streaming.events import TextDelta, TimedEvent


@dataclass(frozen=True, slots=True)
class PageFigures:
    """What showing one answer cost the page; times are in seconds, None is unknown.

    `frame_check_s` is the median of how much earlier or later a second clock of the page, a message posted from the
    frame's own callback, saw a frame than the trace did: a check of the trace.
    """

    frames_presented: int
    frames_dropped: int
    longest_task_s: float | None
    long_tasks: int
    main_thread_busy: float | None
    page_bytes: int
    key_delay_s: float | None
    frame_check_s: float | None


def painted_events(trace: PageTrace, text: str, offset_s: float) -> list[TimedEvent]:
    """Return the answer's text as it was painted, one event for each frame with new text.

    The observer counts UTF-16 units, as JavaScript does. A page that draws an answer anew may shorten it for a moment:
    only what is longer than ever before counts as painted. `offset_s` is added to the trace's timestamps.
    """
    units = text.encode("utf-16-le", "surrogatepass")
    painted: list[TimedEvent] = []
    shown = 0
    for mark in trace.find_marks("text"):
        chars = min(int(mark.detail["chars"]), len(units) // 2)
        at_s = trace.find_presentation(mark.at_s)
        if chars <= shown or at_s is None:
            continue
        new = units[2 * shown : 2 * chars].decode("utf-16-le", "replace")
        shown = chars
        if painted and painted[-1].at_s == at_s + offset_s:
            earlier = painted.pop().event
            assert isinstance(earlier, TextDelta)
            new = earlier.text + new
        painted.append(TimedEvent(at_s + offset_s, TextDelta(new)))
    return painted


def page_figures(trace: PageTrace, from_s: float, to_s: float) -> PageFigures:
    """Return what the page cost between two times on the trace's clock."""
    window_s = to_s - from_s
    tasks = [task for task in trace.tasks if from_s <= task.started_s < to_s]
    frames = [frame for frame in trace.frames if from_s <= frame.ended_s <= to_s]
    return PageFigures(
        frames_presented=sum(frame.presented_s is not None for frame in frames),
        frames_dropped=trace.count_dropped("text"),
        longest_task_s=max((task.took_s for task in tasks), default=None),
        long_tasks=sum(task.took_s > LONG_TASK_S for task in tasks),
        main_thread_busy=min(sum(task.took_s for task in tasks) / window_s, 1.0) if window_s > 0 else None,
        page_bytes=sum(size for at_s, size in trace.received if from_s <= at_s <= to_s),
        key_delay_s=_key_delay_s(trace),
        frame_check_s=_frame_check_s(trace),
    )


def stop_painted_s(trace: PageTrace, pressed_s: float) -> float | None:
    """Return the seconds from pressing Stop, on the trace's clock, until the page had painted that it stopped."""
    stopped = trace.find_marks("stopped")
    painted_s = trace.find_presentation(stopped[-1].at_s) if stopped else None
    return None if painted_s is None else painted_s - pressed_s


def _key_delay_s(trace: PageTrace) -> float | None:
    """Return the worst time from a key press while the answer came until its letter was painted."""
    origin_s = trace.page_origin_s if trace.marks else 0.0
    delays_s = [
        painted_s - origin_s - mark.detail["at"] / 1e3
        for mark in trace.find_marks("key")
        if (painted_s := trace.find_presentation(mark.at_s)) is not None
    ]
    return max(delays_s, default=None)


def _frame_check_s(trace: PageTrace) -> float | None:
    seen = {mark.detail["chars"]: mark.at_s for mark in trace.find_marks("after-frame")}
    differences_s = [
        painted_s - seen[mark.detail["chars"]]
        for mark in trace.find_marks("text")
        if mark.detail["chars"] in seen and (painted_s := trace.find_presentation(mark.at_s)) is not None
    ]
    return median(differences_s) if differences_s else None

"""What a reader saw: the text of each presented frame, and what the page cost the browser. Computed from a trace."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from evaluation.backends.browser.trace import LONG_TASK_S, PageTrace
from streaming.errors import UsageError
from streaming.events import TextDelta, TimedEvent

_MAX_REPLACED_CHARS, _MAX_REPLACED_SHARE = 200, 0.5
"""A page that has replaced more than both, the share being of the text at its end, does not only add to its answer."""


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


def painted_events(trace: PageTrace, text: str, offset_s: float, *, is_preformatted: bool = False) -> list[TimedEvent]:
    """Return the answer's text as it was painted, one event for each frame with new text.

    A character counts as painted with the first frame that has it where it stays: a cursor at the end, a placeholder
    or marks of Markdown that the page takes away do not count. `text` is the text at the end, in the order of which
    the events share it out. White space around it is that of the page's markup, which nobody sees, unless the page is
    preformatted. `offset_s` is added to the trace's timestamps. Raises UsageError when the page has replaced
    so much of its text that the rest says little of what a reader saw.
    """
    units_at_s: list[float | None] = []
    replaced = 0
    for mark in trace.find_marks("text"):
        start, end = int(mark.detail["start"]), len(units_at_s) - int(mark.detail["end"])
        replaced += end - start
        new = [trace.find_presentation(mark.at_s)] * (int(mark.detail["chars"]) - len(units_at_s) + end - start)
        units_at_s[start:end] = new
    if replaced > max(_MAX_REPLACED_CHARS, _MAX_REPLACED_SHARE * len(text)):
        raise UsageError(
            f"--page-answer: the page took away or replaced {replaced} characters of an answer that has {len(text)} at "
            "its end (write a selector of text that only grows; lists that keep what is in view alone are not read)"
        )
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # half an emoji is one character
    if is_preformatted:
        return list(_iter_painted(whole, units_at_s, offset_s))
    return list(_iter_painted(whole.strip(), units_at_s[len(whole) - len(whole.lstrip()) :], offset_s))


def _iter_painted(text: str, units_at_s: Sequence[float | None], offset_s: float) -> Iterator[TimedEvent]:
    """Yield the text by the times of its UTF-16 units, which JavaScript counts; a character is there with its last."""
    counts: Counter[float] = Counter()
    place = 0
    for char in text:
        width = 2 if char > "\uffff" else 1
        known = [at_s for at_s in units_at_s[place : place + width] if at_s is not None]
        place += width
        if len(known) == width:
            counts[max(known)] += 1
    place = 0
    for at_s, count in sorted(counts.items()):
        yield TimedEvent(at_s + offset_s, TextDelta(text[place : place + count]))
        place += count


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


def stop_painted_s(trace: PageTrace) -> float | None:
    """Return the seconds from pressing Stop until the page had painted that it stopped; None if it was not pressed."""
    pressed = trace.find_marks("pressed")
    if not pressed:
        return None
    stopped = next((mark for mark in trace.find_marks("stopped") if mark.at_s >= pressed[0].at_s), None)
    painted_s = trace.find_presentation(stopped.at_s) if stopped else None
    return None if painted_s is None else painted_s - trace.page_origin_s - pressed[0].detail["at"] / 1e3


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
    seen = {mark.detail["number"]: mark.at_s for mark in trace.find_marks("after-frame")}
    differences_s = [
        painted_s - seen[mark.detail["number"]]
        for mark in trace.find_marks("text")
        if mark.detail["number"] in seen and (painted_s := trace.find_presentation(mark.at_s)) is not None
    ]
    return median(differences_s) if differences_s else None

"""Metrics of the text as a browser painted it, and of what the page cost the browser (`--transport browser`)."""

from collections.abc import Callable

from evaluation.metrics import cadence, experience
from evaluation.metrics.metric import Metric, reported
from evaluation.metrics.trial_metrics import MeasuredAnswer
from streaming.events import TextDelta

_OWN = "this project"
_TRACE = "Chromium's trace: PipelineReporter, Commit, RunTask"


def _gaps(answer: MeasuredAnswer) -> cadence.Cadence:
    return cadence.cadence(answer.painted.gaps_s)


def painted_ttft_s(answer: MeasuredAnswer) -> float | None:
    """Return the seconds from sending to the first frame with text of the answer; None without a browser."""
    return answer.first_event_s(answer.stamps.painted or (), (TextDelta,))


def _delays(
    name: str, title: str, difference: str, note: str, delay_of: Callable[[MeasuredAnswer], experience.Delay]
) -> tuple[Metric, ...]:
    """Return the metrics of one delay over all painted characters; `note` explains the first."""
    mean, over = f"{difference}, mean over all painted characters{note}", f"of {difference} over all painted characters"
    return (
        Metric(f"{name}_mean_s", f"{title} mean", "s", "less", "painting", mean, _OWN, lambda a: delay_of(a).mean_s),
        Metric(f"{name}_p95_s", f"{title} p95", "s", "less", "painting", f"95th percentile {over}", _OWN,
               lambda a: delay_of(a).p95_s),
        Metric(f"{name}_max_s", f"{title} max", "s", "less", "painting", f"maximum {over}", _OWN,
               lambda a: delay_of(a).max_s),
    )  # fmt: skip


METRICS = (
    Metric("painted_ttft_s", "first painted text", "s", "less", "painting",
           "request sent → presentation of the first frame with text of the answer", _OWN, painted_ttft_s),
    Metric("painted_e2e_s", "last painted text", "s", "less", "painting",
           "request sent → presentation of the frame with the last text of the answer, before the terminal event", _OWN,
           lambda a: a.painted.at_s[-1] if len(a.painted) else None, applies_to="ended"),
    Metric("painted_frames", "frames with text", "count", "neither", "painting",
           "presented frames that had new text of the answer", _OWN,
           lambda a: None if a.stamps.painted is None else len(a.painted)),
    Metric("painted_gap_p50_s", "painted gap p50", "s", "less", "painting",
           "50th percentile of the gaps between frames with new text", _OWN, lambda a: _gaps(a).p50_s),
    Metric("painted_gap_p95_s", "painted gap p95", "s", "less", "painting",
           "95th percentile of the gaps between frames with new text", _OWN, lambda a: _gaps(a).p95_s),
    Metric("painted_gap_max_s", "longest painted gap", "s", "less", "painting",
           "maximum of the gaps between frames with new text", _OWN, lambda a: _gaps(a).max_s),
    *_delays("paint_delay", "painting delay", "painted − delivered", "; delivered is the time at which the text left "
             "the strategy, or reached the browser where the service's own times are not known",
             lambda a: a.paint_delay),
    *_delays("total_delay", "delay to the screen", "painted − arrived from the provider", "", lambda a: a.total_delay),
    Metric("frames_presented", "frames presented", "count", "neither", "painting",
           "frames that the browser presented while the answer came", _TRACE, reported("frames_presented")),
    Metric("frames_dropped", "frames dropped", "count", "less", "painting",
           "frames with new text of the answer that the browser dropped: their text came with a later one", _TRACE,
           reported("frames_dropped")),
    Metric("longest_task_s", "longest task", "s", "less", "painting",
           "longest task of the page's main thread while the answer came", _TRACE, reported("longest_task_s")),
    Metric("long_tasks", "long tasks", "count", "less", "painting",
           "tasks of the page's main thread above 50 ms while the answer came", "Long Tasks API",
           reported("long_tasks")),
    Metric("main_thread_busy", "main thread busy", "0-1", "less", "painting",
           "time in tasks of the page's main thread / time from sending to the last painted text", _TRACE,
           reported("main_thread_busy")),
    Metric("page_bytes", "bytes received by the page", "count", "less", "painting",
           "bytes of all responses as they came over the wire, from sending to the last painted text",
           "Chromium's trace: ResourceReceivedData", reported("page_bytes")),
    Metric("layout_shift", "layout shift", "ratio", "less", "painting",
           "sum of the layout shifts without input while the answer came", "Layout Instability API",
           reported("layout_shift")),
    Metric("key_delay_s", "key press to screen", "s", "less", "painting",
           "key press while the answer came → presentation of the frame with its letter, worst of a trial", _OWN,
           reported("key_delay_s")),
    Metric("stop_painted_s", "Stop to screen", "s", "less", "painting",
           "press of Stop → presentation of the frame that says so (`--stop-after`)", _OWN,
           reported("stop_painted_s"), applies_to="any"),
)  # fmt: skip

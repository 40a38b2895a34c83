"""Metrics of this program, its machine, and the attempts that a request took."""

from evaluation.metrics.metric import Metric, reported
from evaluation.metrics.trial_metrics import MeasuredAnswer

_OWN = "this project"


def queue_s(answer: MeasuredAnswer) -> float | None:
    """Return the instrument's own wait: planned start to request sent, less connecting and what other attempts took.

    A trial in process opens no connection, so an unknown `connect_s` counts as 0.
    """
    delay_s = start_delay_s(answer)
    if delay_s is None:
        return None
    return delay_s - (answer.reported.get("connect_s") or 0.0) + (answer.connect_ahead_s or 0.0)


def start_delay_s(answer: MeasuredAnswer) -> float | None:
    """Return the time from the planned start to the request sent, less what other attempts took."""
    if answer.sent_s is None or answer.intended_s is None:
        return None
    others_s = sum(answer.reported.get(name) or 0.0 for name in ("refused_wait_s", "retry_wait_s"))
    return answer.sent_s - answer.intended_s - others_s


METRICS = (
    Metric("queue_s", "queue of the instrument", "s", "less", "instrument",
           "start_delay_s less the part of connect_s that is in it: large means that the instrument was slow, not the "
           "provider", _OWN, queue_s, applies_to="any"),
    Metric("start_delay_s", "delay of the start", "s", "less", "instrument",
           "planned start → last byte of the request passed to the kernel, less refused_wait_s and earlier attempts",
           _OWN, start_delay_s, applies_to="any"),
    Metric("connect_ahead_s", "connecting ahead", "s", "neither", "instrument",
           "the part of connect_s before the planned start: requests of an open loop have their connection then",
           _OWN, lambda a: a.connect_ahead_s, applies_to="any"),
    Metric("attempts", "attempts", "count", "less", "instrument", "requests sent for the trial; 1 is no retry", _OWN,
           reported("attempts"), applies_to="any"),
    Metric("refused_starts", "refused starts", "count", "less", "instrument",
           "answers with 429, 503 or 529 before the attempt that counted", _OWN, reported("refused_starts"),
           applies_to="any"),
    Metric("refused_wait_s", "wait after refused starts", "s", "less", "instrument",
           "the waits that the provider named, and the refused attempts themselves: part of ttft_total_s, never of "
           "queue_s or ttft_s", _OWN, reported("refused_wait_s"), applies_to="any"),
    Metric("loop_lag_max_s", "event-loop lag", "s", "less", "instrument",
           "worst lateness of a 20 ms timer of this process during the trial", _OWN, reported("loop_lag_max_s"),
           applies_to="any"),
    Metric("merged_reads", "merged reads", "count", "less", "instrument",
           "reads that may hold several sends, of which the last timestamp survives", _OWN, reported("merged_reads"),
           applies_to="any"),
    Metric("clock_error_s", "error of the browser's clock", "s", "less", "instrument",
           "how far the browser's timestamps can be from those of this process, by marks between two readings of its "
           "clock", _OWN, reported("clock_error_s"), applies_to="any"),
    Metric("frame_check_s", "check of the frames", "s", "neither", "instrument",
           "presentation of a frame by the browser's trace − its end by a message from the frame's callback, median of "
           "a trial", _OWN, reported("frame_check_s"), applies_to="any"),
    Metric("fade_in_s", "fade-in of text", "s", "less", "instrument",
           "longest fade of the answer's text by CSS opacity: text counts as painted at its start", _OWN,
           reported("fade_in_s"), applies_to="any"),
)  # fmt: skip

"""The answer that the documentation computes every metric of, as a worked example."""

from decimal import Decimal

from evaluation.metrics.trial_metrics import MeasuredAnswer, TimedEvents
from streaming.events import Finish, Notice, TextDelta, ThinkingDelta, TimedEvent, Usage

_TIMINGS = {"queue_s": 0.05, "load_s": 0.01, "prefill_s": 0.2, "decode_s": 1.9}

EXAMPLE = MeasuredAnswer(
    TimedEvents(
        sent_s=0.0,
        source=(
            TimedEvent(0.30, ThinkingDelta("hm")),
            TimedEvent(0.50, TextDelta("a" * 20)),
            TimedEvent(0.60, TextDelta("b" * 40)),
            TimedEvent(0.80, TextDelta("c" * 40)),
            TimedEvent(2.30, TextDelta("d" * 20)),
            TimedEvent(2.35, Notice("timings", "", _TIMINGS)),
            TimedEvent(2.40, Finish("stop")),
        ),
        delivered=(
            TimedEvent(0.30, ThinkingDelta("hm")),
            TimedEvent(0.50, TextDelta("a" * 20)),
            TimedEvent(0.70, TextDelta("b" * 40)),
            TimedEvent(0.90, TextDelta("c" * 40)),
            TimedEvent(2.40, TextDelta("d" * 20)),
            TimedEvent(2.40, Finish("stop")),
        ),
        painted=(
            TimedEvent(0.51, TextDelta("a" * 20)),
            TimedEvent(0.72, TextDelta("b" * 40)),
            TimedEvent(0.91, TextDelta("c" * 40)),
            TimedEvent(2.42, TextDelta("d" * 20)),
        ),
    ),
    "completed",
    Usage(input_tokens=50, output_tokens=40, thinking_tokens=10, cached_tokens=20, cache_write_tokens=0),
    {
        "connect_s": 0.05, "connected_s": -0.01, "headers_s": 0.25, "attempts": 2, "refused_starts": 1,
        "refused_wait_s": 1.0, "loop_lag_max_s": 0.0004, "merged_reads": 0, "input_tokens": 50, "output_tokens": 40,
        "thinking_tokens": 10, "asked_input_tokens": 40, "asked_output_tokens": 40, "template_tokens": 10,
        "context_tokens": 30, "cached_tokens": 20, "cache_write_tokens": 0, "input_cost_usd": Decimal("0.0001"),
        "output_cost_usd": Decimal("0.0004"), "cost_usd": Decimal("0.0005"), "list_cost_usd": Decimal("0.0005"),
        "frames_presented": 9, "frames_dropped": 1, "longest_task_s": 0.06, "long_tasks": 1, "main_thread_busy": 0.1,
        "page_bytes": 3500, "layout_shift": 0.02, "key_delay_s": 0.03, "stop_painted_s": 0.02, "clock_error_s": 0.0006,
        "frame_check_s": 0.0003, "fade_in_s": 0.25,
    },
    intended_s=-1.06,
)  # fmt: skip
"""An answer of 30 tokens after 10 tokens of thinking, in four chunks of 20, 40, 40 and 20 characters that arrive at
0.5, 0.6, 0.8 and 2.3 s and are delivered at 0.5, 0.7, 0.9 and 2.4 s and painted at
0.51, 0.72, 0.91 and 2.42 s. Its first attempt was refused for 1 s."""

"""What a browser painted, in the report: a chart for each provider, and the error of the painted times."""

import numpy as np
import pandas as pd

from benchmarks._known_truth import Design, make_run
from evaluation.analysis import summary
from evaluation.reports.painting import painting_charts, painting_error_lines, painting_table
from evaluation.tables import Run


def make_trials() -> pd.DataFrame:
    rows = [
        (name, strategy, delay_s, None if name == "c:d" else delay_s + 0.01)
        for name, delay_s in (("a:b", 0.1), ("b:c", 0.3), ("c:d", 0.5))
        for strategy in ("direct", "whole")
    ]
    trials = pd.DataFrame(rows, columns=["name", "strategy", "delay_mean_s", "total_delay_mean_s"])
    return trials.assign(
        prompt_id="p1",
        outcome="completed",
        frames_dropped=0,
        main_thread_busy=0.05,
        clock_error_s=0.0005,
        frame_check_s=0.001,
        fade_in_s=0.0,
    )


def test_each_provider_that_a_browser_read_has_a_chart_of_its_own_delays() -> None:
    first, second = painting_charts(make_trials(), ["a:b", "b:c", "c:d"], ["direct", "whole"])
    assert (first.id, second.id) == ("painting-1", "painting-2")
    assert first.title.endswith(": a:b") and second.title.endswith(": b:c")
    assert "direct 100 ms delivered, 110 ms painted" in first.caption
    assert "whole 300 ms delivered, 310 ms painted" in second.caption
    places = [series.box.place for series in first.series if series.box is not None]
    assert places[:2] == ["direct, delivered", "direct, painted; 0 dropped, 5 % busy"] and len(places) == 4


def test_error_of_the_painted_times_is_told_for_each_frame_rate() -> None:
    seen = [
        {"known_delay_s": delay_s, "frames_per_s": rate, "median_s": delay_s + 0.5 / rate, "p95_s": delay_s + 1 / rate}
        for rate in (60.0, 30.0)
        for delay_s in (0.0, 0.1)
    ]
    lines = list(painting_error_lines({"instrument": [{}, {"painting": {"seen": seen}}]}, make_trials()))
    assert len(lines) == 4
    assert "at 60 frames/s, a frame takes 16.7 ms: 0" in lines[0] and "seen as 108 ms (p95 117 ms)" in lines[0]
    assert "at 30 frames/s, a frame takes 33.3 ms: 0" in lines[1] and "seen as 117 ms (p95 133 ms)" in lines[1]


def test_error_measured_before_frame_rates_were_told_is_that_of_sixty() -> None:
    seen = [{"known_delay_s": 0.0, "median_s": 0.008, "p95_s": 0.016}]
    (line, *_) = painting_error_lines({"instrument": [{"painting": {"seen": seen}}]}, make_trials())
    assert "at 60 frames/s" in line


def test_fade_of_text_is_told_with_the_error() -> None:
    (line,) = [line for line in painting_error_lines({}, make_trials().assign(fade_in_s=0.3)) if "fades" in line]
    assert "over up to 300 ms" in line


def test_time_of_stop_is_that_of_stopped_answers() -> None:
    run = make_run(Design(4), {"a": np.full(4, 0.2)})
    stopped = Run(run.trials.assign(outcome="cancelled", stop_painted_s=0.02), run.events, run.manifest)
    head, _, row, *_ = painting_table(summary.groups(stopped))
    assert head == "| provider | strategy | Stop to screen ms |"
    assert row.startswith("| a |") and "| 20.0" in row
    assert not list(painting_table(summary.groups(run)))

"""Tests of the view of one answer at each stage."""

from collections.abc import Sequence
from dataclasses import replace

from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta
from tests.unit.ui.samples import READING, RECEIPT
from ui.answer_view import REFRESH_INTERVAL_S, AnswerView
from ui.history import HistoryMessage


def refresh_and_read_stage(view: AnswerView, now: float, events: Sequence[Event] = ()) -> str:
    view.feed(events, now)
    view.refresh(READING, now)
    return view.stage


def join_text(turn: HistoryMessage) -> str:
    return "".join(part["text"] for part in turn["content"])


def test_waiting_stage_shows_elapsed_time_and_label() -> None:
    view = AnswerView(100.0)
    assert "Connecting" in view.stage
    assert "Waiting for first token" in refresh_and_read_stage(view, 100.4, [Notice("connected", "Connected.")])
    line = refresh_and_read_stage(view, 101.5)
    assert "Waiting for first token" in line and "1.5 s" in line and "Thinking" not in line
    assert view.announcement == "Waiting for first token"


def test_strip_keeps_times_of_passed_stages_and_labels_wait_as_chosen() -> None:
    for timed_words, waiting in ((False, "Waiting for first token"), (True, "Analyzing…")):
        view = AnswerView(100.0, timed_words=timed_words)
        view.feed([Notice("connected", "Connected.")], 100.04)
        view.refresh(READING, 101.5)
        assert f"<strong>{waiting}</strong>" in view.strip_html() and "<b>40 ms</b>" in view.strip_html()
        view.feed([TextDelta("a")], 102.04)
        view.refresh(READING, 104.04)
        assert "<b>2.0 s</b>" in view.strip_html() and "<strong>Streaming</strong>" in view.strip_html()
        assert 'data-values="2.0 s|1.61 s||' in view.figures_html(), "the clock of the stage, then the metrics"
        view.close(RECEIPT, 105.0)
        assert 'data-values="|' in view.figures_html(), "no clock is left for the stage line of the next answer"


def test_view_refreshes_once_an_interval_within_a_stage() -> None:
    view = AnswerView(0.0)
    before = refresh_and_read_stage(view, 1.0, [TextDelta("a")]), view.meter
    early_s = 1.0 + 0.8 * REFRESH_INTERVAL_S
    view.feed([TextDelta("b")], early_s)
    view.refresh(replace(READING, elapsed_s=9.0), early_s)
    assert (view.stage, view.meter) == before
    view.refresh(replace(READING, elapsed_s=9.0), 1.0 + REFRESH_INTERVAL_S)
    assert view.stage != before[0] and "9.00 s" in view.meter


def test_stage_change_is_shown_at_once() -> None:
    view = AnswerView(0.0)
    refresh_and_read_stage(view, 1.0)
    assert "Streaming" in refresh_and_read_stage(view, 1.01, [TextDelta("a")])


def test_busy_indicator_is_shown_only_while_waiting() -> None:
    view = AnswerView(0.0)
    assert "sg-busy" in view.stage and "sg-busy" in refresh_and_read_stage(
        view, 1.0, [Notice("connected", "Connected.")]
    )
    assert "sg-coming" in refresh_and_read_stage(view, 1.01, [ThinkingDelta("a")])
    assert "sg-coming" in refresh_and_read_stage(view, 1.02, [TextDelta("a")])


def test_model_loading_is_shown_until_next_notice() -> None:
    view = AnswerView(0.0)
    assert "Loading the local model" in refresh_and_read_stage(view, 1.0, [Notice("loading", "Loading.")])
    assert "Loading the local model" in refresh_and_read_stage(view, 2.0)
    assert "Loading" not in refresh_and_read_stage(view, 3.0, [Notice("connected", "Connected.")])


def test_retry_stage_counts_down_and_is_announced() -> None:
    view = AnswerView(0.0)
    line = refresh_and_read_stage(view, 1.0, [Notice("retry", "a: refused. Retry 1 of 3 in 2 s.", {"delay_s": 2.0})])
    assert "2.0 s left · a: refused." in line
    assert view.announcement == "a: refused. Retry 1 of 3 in 2 s."
    assert "0.5 s left" in refresh_and_read_stage(view, 2.5)
    assert "0.0 s left" in refresh_and_read_stage(view, 4.0)


def test_fallback_is_shown_in_stage_and_receipt() -> None:
    view = AnswerView(0.0)
    refresh_and_read_stage(view, 1.0, [Notice("served_by", "Served by b after a failed.")])
    assert "Served by b after a failed." in refresh_and_read_stage(view, 2.0, [TextDelta("x"), Finish("stop")])
    view.close(replace(RECEIPT, fell_back_to="b"), 2.0)
    assert "Served by b after a failed." in view.stage
    assert "Served by b after a failed." in join_text(view.messages()[-1])


def test_thinking_is_separate_message_with_duration() -> None:
    view = AnswerView(0.0)
    view.feed([ThinkingDelta("h"), ThinkingDelta("m")], 1.0)
    thought = view.messages()[0]
    assert join_text(thought) == "hm" and thought["metadata"]["status"] == "pending"
    view.feed([TextDelta("1.")], 2.25)
    thought, answer = view.messages()
    assert thought["metadata"] == {"title": "Thought", "status": "done", "duration": 1.2}
    assert join_text(answer) == "1." and answer["metadata"] is None


def test_message_text_only_grows() -> None:
    view = AnswerView(0.0)
    seen = ""
    for piece in ("  a", "\n\n", "    b\t", "c "):
        view.feed([TextDelta(piece)], 1.0)
        assert join_text(view.messages()[0]) == seen + piece
        seen += piece


def test_stopped_answer_keeps_text_and_collapsed_receipt() -> None:
    view = AnswerView(0.0)
    view.feed([TextDelta("half a sen")], 1.0)
    view.close(replace(RECEIPT, outcome="cancelled", finish_reason=None, stop_s=0.01), 1.5)
    answer, receipt = view.messages()
    assert join_text(answer) == "half a sen"
    assert receipt["metadata"]["title"].startswith("Stopped · ") and receipt["metadata"]["status"] == "done"


def test_truncated_answer_shows_expanded_error() -> None:
    view = AnswerView(0.0)
    failed = Failed("truncated", "the stream ended without a finish reason")
    view.feed([TextDelta("half a sen"), failed], 1.0)
    view.close(replace(RECEIPT, outcome="truncated", finish_reason=None, error=failed), 1.0)
    receipt = view.messages()[-1]
    assert "Interrupted" in receipt["metadata"]["title"] and "status" not in receipt["metadata"]
    assert "**The stream ended without a finish reason.**" in join_text(receipt)
    assert "sg-bad" in view.stage and "Done" not in view.stage


def test_simulated_answer_is_labelled_everywhere() -> None:
    view = AnswerView(0.0, simulated=True, no_price="none, simulated")
    view.feed([TextDelta("a"), Finish("stop")], 1.0)
    view.close(RECEIPT, 1.0)
    assert "Simulated · Done" in view.stage
    assert view.announcement.startswith("Simulated · Done")
    assert "none <small>simulated</small>" in view.meter


def test_show_error_escapes_message_and_keeps_text() -> None:
    view = AnswerView(0.0)
    view.feed([TextDelta("a")], 1.0)
    view.show_error("strategy '<x>': unknown")
    answer, refusal = view.messages()
    assert join_text(answer) == "a"
    assert refusal["metadata"]["title"] == "Not sent"
    for shown in (view.stage, view.announcement, join_text(refusal)):
        assert "&lt;x&gt;" in shown and "<x>" not in shown

"""How one answer looks at each moment."""

from collections.abc import Sequence
from dataclasses import replace

from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta
from tests.unit.ui.samples import READING, RECEIPT
from ui.conversation import Turn
from ui.screen import REFRESH_S, Screen


def drawn(screen: Screen, now: float, events: Sequence[Event] = ()) -> str:
    screen.feed(events, now)
    screen.draw(READING, now)
    return screen.stage


def text_of(turn: Turn) -> str:
    return "".join(part["text"] for part in turn["content"])


def test_waiting_shows_a_clock_and_the_words_of_its_second() -> None:
    screen = Screen(100.0)
    assert "Connecting" in screen.stage
    assert "Thinking…" in drawn(screen, 100.4, [Notice("connected", "Connected.")])
    line = drawn(screen, 101.5)
    assert "Waiting" in line and "1.5 s" in line and "Analyzing…" in line
    assert screen.announcement == "Waiting"


def test_the_panel_changes_twice_a_second_at_most_while_the_stage_stays() -> None:
    screen = Screen(0.0)
    before = drawn(screen, 1.0, [TextDelta("a")]), screen.meter
    screen.feed([TextDelta("b")], 1.4)
    screen.draw(replace(READING, elapsed_s=9.0), 1.4)
    assert (screen.stage, screen.meter) == before
    screen.draw(replace(READING, elapsed_s=9.0), 1.0 + REFRESH_S)
    assert screen.stage != before[0] and "9.00 s" in screen.meter


def test_a_change_of_stage_is_shown_at_once() -> None:
    screen = Screen(0.0)
    drawn(screen, 1.0)
    assert "Answering" in drawn(screen, 1.01, [TextDelta("a")])


def test_a_sign_moves_while_something_is_waited_for_and_not_beside_text_that_comes() -> None:
    screen = Screen(0.0)
    assert "sg-busy" in screen.stage and "sg-busy" in drawn(screen, 1.0, [Notice("connected", "Connected.")])
    assert "sg-coming" in drawn(screen, 1.01, [ThinkingDelta("a")])
    assert "sg-coming" in drawn(screen, 1.02, [TextDelta("a")])


def test_loading_the_local_model_is_said_until_something_else_happens() -> None:
    screen = Screen(0.0)
    assert "Loading the local model" in drawn(screen, 1.0, [Notice("loading", "Loading.")])
    assert "Loading the local model" in drawn(screen, 2.0)
    assert "Loading" not in drawn(screen, 3.0, [Notice("connected", "Connected.")])


def test_a_retry_counts_down_and_is_announced() -> None:
    screen = Screen(0.0)
    line = drawn(screen, 1.0, [Notice("retry", "a: refused. Retry 1 of 3 in 2 s.", {"delay_s": 2.0})])
    assert "2.0 s left · a: refused." in line
    assert screen.announcement == "a: refused. Retry 1 of 3 in 2 s."
    assert "0.5 s left" in drawn(screen, 2.5)
    assert "0.0 s left" in drawn(screen, 4.0)


def test_a_fallback_stays_on_the_line_and_stands_in_the_receipt() -> None:
    screen = Screen(0.0)
    drawn(screen, 1.0, [Notice("served_by", "Served by b after a failed.")])
    assert "Served by b after a failed." in drawn(screen, 2.0, [TextDelta("x"), Finish("stop")])
    screen.close(replace(RECEIPT, fell_back_to="b"), 2.0)
    assert "Served by b after a failed." in screen.stage
    assert "Served by b after a failed." in text_of(screen.messages()[-1])


def test_thinking_is_a_message_of_its_own_with_its_duration() -> None:
    screen = Screen(0.0)
    screen.feed([ThinkingDelta("h"), ThinkingDelta("m")], 1.0)
    thought = screen.messages()[0]
    assert text_of(thought) == "hm" and thought["metadata"]["status"] == "pending"
    screen.feed([TextDelta("1.")], 2.25)
    thought, answer = screen.messages()
    assert thought["metadata"] == {"title": "Thought", "status": "done", "duration": 1.2}
    assert text_of(answer) == "1." and answer["metadata"] is None


def test_text_is_only_ever_appended_to() -> None:
    screen = Screen(0.0)
    seen = ""
    for piece in ("  a", "\n\n", "    b\t", "c "):
        screen.feed([TextDelta(piece)], 1.0)
        assert text_of(screen.messages()[0]) == seen + piece
        seen += piece


def test_a_stopped_answer_keeps_its_text_and_gets_a_closed_receipt() -> None:
    screen = Screen(0.0)
    screen.feed([TextDelta("half a sen")], 1.0)
    screen.close(replace(RECEIPT, outcome="cancelled", finish_reason=None, stop_s=0.01), 1.5)
    answer, receipt = screen.messages()
    assert text_of(answer) == "half a sen"
    assert receipt["metadata"]["title"].startswith("Stopped · ") and receipt["metadata"]["status"] == "done"


def test_a_cut_answer_shows_its_error_open_and_in_red() -> None:
    screen = Screen(0.0)
    failed = Failed("truncated", "the stream ended without a finish reason")
    screen.feed([TextDelta("half a sen"), failed], 1.0)
    screen.close(replace(RECEIPT, outcome="truncated", finish_reason=None, error=failed), 1.0)
    receipt = screen.messages()[-1]
    assert "Cut off" in receipt["metadata"]["title"] and "status" not in receipt["metadata"]
    assert "**The stream ended without a finish reason.**" in text_of(receipt)
    assert "sg-bad" in screen.stage and "Complete" not in screen.stage


def test_a_simulation_is_called_one_wherever_it_is_summed_up() -> None:
    screen = Screen(0.0, simulated=True, no_price="none, simulated")
    screen.feed([TextDelta("a"), Finish("stop")], 1.0)
    screen.close(RECEIPT, 1.0)
    assert "Simulated · Complete" in screen.stage
    assert screen.announcement.startswith("Simulated · Complete")
    assert screen.messages()[-1]["metadata"]["title"].startswith("Simulated · Complete")
    assert "none <small>simulated</small>" in screen.meter


def test_a_refusal_says_why_and_keeps_what_is_there() -> None:
    screen = Screen(0.0)
    screen.feed([TextDelta("a")], 1.0)
    screen.refuse("unknown strategy '<x>'")
    answer, refusal = screen.messages()
    assert text_of(answer) == "a"
    assert refusal["metadata"]["title"] == "Not answered"
    for shown in (screen.stage, screen.announcement, text_of(refusal)):
        assert "&lt;x&gt;" in shown and "<x>" not in shown

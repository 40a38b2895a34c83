"""The answer record that a user builds from the service's frames, on every transport."""

import importlib
import json
from typing import Any

import pytest

answers = importlib.import_module("answer_record")


def feed(result: Any, at_s: float, frame: tuple[str, dict[str, Any]], seq: int) -> None:
    """Feed one frame as the WebSocket has it."""
    result.record_frame(at_s, json.dumps({"type": frame[0], "id": f"S:{seq}", **frame[1]}))


def read_frames(*frames: tuple[str, dict[str, Any]], first_id: int = 1) -> Any:
    """Return the recorder after these frames, one per second, numbered as the service numbers them."""
    answer = answers.AnswerRecord("t", "sse", "p", "sim:steady", "direct", "2026-01-01", 0.0)
    result = answers.AnswerRecorder(answer)
    for seq, frame in enumerate(frames, start=first_id):
        feed(result, float(seq), frame, seq)
    return result


START = ("start", {"stream_id": "S"})
TEXT = ("chunk", {"content": "word"})
USAGE = {"input_tokens": 1, "output_tokens": 2, "thinking_tokens": 0, "cached_tokens": None, "source": "reported"}
RECEIPT: dict[str, Any] = {
    "usage": USAGE, "cost_usd": 0.5, "attempts": 2, "provider": "sim:steady", "delivered_chars": None,
}  # fmt: skip
FINISH = ("finish", {"finish_reason": "stop", **RECEIPT})
DONE: tuple[str, dict[str, Any]] = ("done", {})


def test_complete_answer_records_outcome_and_usage() -> None:
    result = read_frames(START, TEXT, ("thinking", {"content": "hm"}), TEXT, FINISH, DONE)
    answer = result.answer
    assert (result.position.stream_id, result.ended, answer.outcome, answer.failure_reason) == (
        "S",
        True,
        "completed",
        None,
    )
    assert (answer.text_times_s, answer.first_delta_s) == ([2.0, 4.0], 2.0)
    assert (answer.usage, answer.cost_usd, answer.attempts) == (USAGE, 0.5, 2)


def test_answer_without_end_marker_is_truncated() -> None:
    result = read_frames(START, TEXT, FINISH)
    result.finish(9.0)
    assert result.answer.outcome == "truncated"
    assert result.answer.failure_reason == "truncated: stream: ended before its end marker"


def test_end_marker_without_finish_is_failure() -> None:
    assert read_frames(START, TEXT, DONE).answer.outcome == "failed"


@pytest.mark.parametrize(("kind", "outcome"), [("truncated", "truncated"), ("server_error", "failed")])
def test_error_event_records_outcome_and_reason(kind: str, outcome: str) -> None:
    error = {"type": kind, "message": "broke", "upstream_status": 503}
    result = read_frames(START, TEXT, ("error", {"error": error, **RECEIPT}))
    result.finish(9.0)
    answer = result.answer
    assert (answer.outcome, answer.failure_reason, answer.http_status) == (outcome, f"{kind}: broke", 503)
    assert result.ended


def test_cancelled_answer_is_not_failure() -> None:
    result = read_frames(START, TEXT, ("cancelled", {"stop_s": 0.1, **RECEIPT}))
    assert (result.answer.outcome, result.answer.failure_reason, result.ended) == ("cancelled", None, True)


def test_mark_cancelled_does_not_hide_earlier_failure() -> None:
    result = read_frames(START, TEXT)
    feed(result, 9.0, TEXT, 4)
    result.answer.mark_cancelled()
    assert (result.answer.outcome, result.answer.error_type) == ("failed", "lost")


def test_tokens_per_s_excludes_thinking() -> None:
    result = read_frames(START, TEXT, TEXT, TEXT).answer
    assert result.tokens_per_s is None, "nothing is known of its tokens"
    result.on_usage(9.0, {"output_tokens": 11, "thinking_tokens": 4})
    assert result.tokens_per_s == (11 - 4 - 1) / 2


def test_content_filter_finish_sets_filtered_outcome() -> None:
    finish = ("finish", {**RECEIPT, "finish_reason": "content_filter"})
    assert read_frames(START, finish, DONE).answer.outcome == "filtered"


def test_duplicate_event_is_reported_and_counted_once() -> None:
    result = read_frames(START, TEXT, TEXT)
    feed(result, 9.0, TEXT, 3)
    assert result.answer.error_type == "twice"
    assert len(result.answer.text_times_s) == 2


def test_missing_event_is_reported_as_lost() -> None:
    result = read_frames(START, TEXT)
    for seq, frame in ((4, TEXT), (5, FINISH), (6, DONE)):
        feed(result, 9.0, frame, seq)
    assert result.ended
    assert (result.answer.error_type, result.answer.outcome) == ("lost", "failed")


def test_missing_characters_are_reported_as_lost() -> None:
    finish = ("finish", {**RECEIPT, "finish_reason": "stop", "delivered_chars": 8})
    assert read_frames(START, TEXT, TEXT, finish, DONE).answer.outcome == "completed"
    assert (
        read_frames(START, TEXT, finish, DONE).answer.failure_reason
        == "lost: text: 4 of 8 delivered characters arrived"
    )


def test_resumed_stream_continues_sequence() -> None:
    result = read_frames(START, TEXT)
    for seq, frame in ((3, TEXT), (4, FINISH), (5, DONE)):
        feed(result, 9.0, frame, seq)
    assert (result.answer.outcome, result.position.last_id) == ("completed", "S:5")


def test_retry_and_fallback_are_recorded_as_notices() -> None:
    retry = ("retry", {"kind": "retry", "message": "again", "retry": 1})
    fallback = ("fallback", {"kind": "fallback", "message": "other", "to": "local"})
    result = read_frames(START, retry, fallback, TEXT, FINISH, DONE)
    assert result.answer.fell_back_to == "local"
    assert [kind for _, kind, _, _ in result.answer.events].count("notice") == 2


def test_open_answer_at_test_end_is_unfinished() -> None:
    answer = read_frames(START, TEXT).answer
    assert (answer.outcome, answer.failure_reason) == ("open", "unfinished: the load test ended first")
    assert answer.as_dict()["outcome"] == "open"


@pytest.mark.parametrize("resumed", [0, 1])
def test_resume_of_missing_stream_is_recorded_as_stream_gone(resumed: int) -> None:
    result = read_frames(START, TEXT)
    result.answer.resumed = resumed
    result.record_frame(9.0, json.dumps({"type": "error", "error": {"type": "not_found", "message": "no such stream"}}))
    answer = result.answer
    expected = ("stream_gone", "truncated", 404) if resumed else ("not_found", "failed", None)
    assert (answer.error_type, answer.outcome, answer.http_status) == expected
    assert ("expired or the service was restarted" in answer.error_message) == bool(resumed)

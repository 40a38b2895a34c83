"""What a user makes of the service's frames, on whichever wire they came."""

import importlib
from typing import Any

import pytest

answers = importlib.import_module("answers")


def heard(*frames: tuple[str, dict[str, Any]], first_id: int = 1) -> Any:
    """Give the reader after these frames, one a second, numbered as the service does."""
    answer = answers.Answer("t", "sse", "p", "sim:steady", "direct", "2026-01-01", 0.0)
    found = answers.Frames(answer)
    for seq, (name, fields) in enumerate(frames, start=first_id):
        found.take(float(seq), name, fields, f"S:{seq}")
    return found


START = ("start", {"stream_id": "S"})
TEXT = ("chunk", {"content": "word"})
USED = {"input_tokens": 1, "output_tokens": 2, "thinking_tokens": 0, "cached_tokens": None, "source": "reported"}
FINISH = ("finish", {"finish_reason": "stop", "usage": USED, "cost_usd": 0.5, "attempts": 2})
DONE: tuple[str, dict[str, Any]] = ("done", {})


def test_a_whole_answer_is_completed_with_what_it_used() -> None:
    found = heard(START, TEXT, ("thinking", {"content": "hm"}), TEXT, FINISH, DONE)
    answer = found.answer
    assert (found.stream_id, found.ended, answer.outcome, answer.reason) == ("S", True, "completed", None)
    assert (answer.texts_s, answer.first_s) == ([2.0, 4.0], 2.0)
    assert (answer.usage, answer.cost_usd, answer.attempts) == (USED, 0.5, 2)


def test_an_answer_without_its_end_marker_is_truncated() -> None:
    found = heard(START, TEXT, FINISH)
    found.over(9.0)
    assert found.answer.outcome == "truncated"
    assert found.answer.reason == "truncated: the stream stopped before its end marker"


def test_a_marker_without_a_finish_is_no_success() -> None:
    assert heard(START, TEXT, DONE).answer.outcome == "failed"


@pytest.mark.parametrize(("kind", "outcome"), [("truncated", "truncated"), ("server_error", "failed")])
def test_an_error_is_kept_with_its_reason(kind: str, outcome: str) -> None:
    error = {"type": kind, "message": "broke", "upstream_status": 503}
    found = heard(START, TEXT, ("error", {"error": error, "usage": USED}))
    found.over(9.0)
    answer = found.answer
    assert (answer.outcome, answer.reason, answer.http_status) == (outcome, f"{kind}: broke", 503)
    assert found.ended


def test_a_stop_is_no_failure() -> None:
    found = heard(START, TEXT, ("cancelled", {"stop_s": 0.1}))
    assert (found.answer.outcome, found.answer.reason, found.ended) == ("cancelled", None, True)


def test_leaving_does_not_hide_that_it_had_broken() -> None:
    found = heard(START, TEXT)
    found.take(9.0, *TEXT, "S:4")
    found.answer.left()
    assert (found.answer.outcome, found.answer.error_type) == ("failed", "lost")


def test_tokens_a_second_are_those_of_the_answer_alone() -> None:
    found = heard(START, TEXT, TEXT, TEXT).answer
    assert found.tokens_per_s is None, "nothing is known of its tokens"
    found.used(9.0, {"output_tokens": 11, "thinking_tokens": 4})
    assert found.tokens_per_s == (11 - 4 - 1) / 2


def test_a_filtered_answer_is_not_a_completed_one() -> None:
    finish = ("finish", {"finish_reason": "content_filter"})
    assert heard(START, finish, DONE).answer.outcome == "filtered"


def test_what_comes_twice_is_told_and_counted_once() -> None:
    found = heard(START, TEXT, TEXT)
    found.take(9.0, *TEXT, "S:3")
    assert found.answer.error_type == "twice"
    assert len(found.answer.texts_s) == 2


def test_what_never_came_is_told() -> None:
    found = heard(START, TEXT)
    found.take(9.0, *TEXT, "S:4")
    for seq, frame in ((5, FINISH), (6, DONE)):
        found.take(9.0, *frame, f"S:{seq}")
    assert (found.answer.error_type, found.answer.outcome) == ("lost", "failed")


def test_fewer_characters_than_the_service_delivered_are_told() -> None:
    finish = ("finish", {"finish_reason": "stop", "delivered_chars": 8})
    assert heard(START, TEXT, TEXT, finish, DONE).answer.outcome == "completed"
    assert heard(START, TEXT, finish, DONE).answer.reason == "lost: 4 characters came of 8 that were delivered"


def test_a_resumed_stream_goes_on_where_it_was() -> None:
    found = heard(START, TEXT)
    for seq, frame in ((3, TEXT), (4, FINISH), (5, DONE)):
        found.take(9.0, *frame, f"S:{seq}")
    assert (found.answer.outcome, found.last_seq) == ("completed", 5)


def test_retries_and_fallbacks_are_notices() -> None:
    found = heard(START, ("retry", {"retry": 1}), ("fallback", {"to": "local"}), TEXT, FINISH, DONE)
    assert found.answer.fell_back_to == "local"
    assert [kind for _, kind, _, _ in found.answer.events].count("notice") == 2


def test_an_answer_that_the_end_of_the_test_broke_off_says_so() -> None:
    answer = heard(START, TEXT).answer
    assert (answer.outcome, answer.reason) == ("open", "unfinished: the test ended before it did")
    assert answer.as_dict()["outcome"] == "open"


@pytest.mark.parametrize("resumed", [0, 1])
def test_refusal_to_go_on_with_a_stream_is_its_own_error_after_a_resume(resumed: int) -> None:
    found = heard(START, TEXT)
    found.answer.resumed = resumed
    found.take(9.0, "error", {"error": {"type": "not_found", "message": "no such stream"}})
    answer = found.answer
    expected = ("stream_gone", "truncated", 404) if resumed else ("not_found", "failed", None)
    assert (answer.error_type, answer.outcome, answer.http_status) == expected
    assert ("expired, or the service was restarted" in answer.error_message) == bool(resumed)

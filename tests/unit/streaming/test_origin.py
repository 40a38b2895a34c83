"""The record of who answered, collected from the notices of an answer's attempts."""

from streaming.events import Finish, Notice, TextDelta
from streaming.origin import ResponseOrigin, origin_record_of


def test_request_id_of_the_head_precedes_that_of_the_body() -> None:
    events = (
        Notice("connected", "Connected.", {"request_id": "req-1"}),
        Notice("answered_by", "Answered.", {"model": "m", "request_id": "body-1"}),
        Finish("stop"),
    )
    assert origin_record_of(events).origin == ResponseOrigin("m", request_id="req-1")


def test_new_attempt_replaces_what_the_last_one_reported() -> None:
    first = (Notice("connected", "", {"request_id": "1"}), Notice("answered_by", "", {"upstream": "A"}))
    second = (Notice("retry", ""), Notice("connected", ""), Notice("timings", "", {"prefill_s": 0.5, "other": 1}))
    record = origin_record_of((*first, *second, TextDelta("x")))
    assert (record.origin, record.timings) == (None, {"prefill_s": 0.5})

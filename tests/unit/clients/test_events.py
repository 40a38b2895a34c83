"""What frames say."""

import pytest

from clients.errors import WireError, refused, refused_by
from clients.events import Frame, event_of
from tests.unit.clients import said


@pytest.mark.parametrize(
    ("frames", "events"),
    [
        (said.ANSWER, said.READ),
        (said.BROKEN, [*said.READ_BEGINNING, said.READ_BROKEN]),
        (said.CANCELLED, [*said.READ_BEGINNING, said.READ_CANCELLED]),
    ],
    ids=["finished", "broken", "cancelled"],
)
def test_every_frame_of_an_answer_is_read(frames: list[Frame], events: list[object]) -> None:
    assert [event for frame in frames if (event := event_of(frame)) is not None] == events


def test_tokens_that_nobody_counted_stay_unknown() -> None:
    end = event_of(("finish", {"finish_reason": "stop", **said.BILL, "usage": None, "cost_usd": None}))
    assert end is not None
    assert (end.bill.usage, end.bill.cost_usd) == (None, None)  # type: ignore[union-attr] # a finish has a bill


@pytest.mark.parametrize("name", ["chunk", "thinking", "stage", "usage", "notice", "finish", "error", "cancelled"])
@pytest.mark.parametrize("fields", [{}, ["a list"], None])
def test_a_frame_that_lacks_what_it_must_have_is_named(name: str, fields: object) -> None:
    with pytest.raises(WireError, match=repr(name)):
        event_of((name, fields))  # type: ignore[arg-type] # what a wire may say


def test_a_refusal_tells_its_rule_and_when_to_come_back() -> None:
    error = refused_by(429, b'{"error": {"type": "rate_limited", "message": "wait", "rule": "rate_limit"}}', "12")
    assert (str(error), error.kind, error.status, error.rule) == ("wait", "rate_limited", 429, "rate_limit")
    assert error.retry_after_s == 12.0
    assert refused(said.refusal()).retry_after_s == 7.0


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b"[]", b'{"error": "x"}', b"", b"\xff"])
@pytest.mark.parametrize("retry_after", [None, "Wed, 21 Oct 2026 07:28:00 GMT", "٣"])
def test_a_refusal_of_whoever_stands_before_the_service_is_readable(body: bytes, retry_after: str | None) -> None:
    error = refused_by(502, body, retry_after)
    assert (str(error), error.kind, error.status) == ("the service refused with HTTP 502", "refused", 502)
    assert (error.rule, error.retry_after_s) == (None, None)

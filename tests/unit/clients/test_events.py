"""Parsing of events, receipts and rejections."""

import pytest

from clients.errors import InvalidResponseError, rejection_from_fields, rejection_from_response
from clients.events import WireEvent, parse_event
from tests.unit.clients import wire_events


@pytest.mark.parametrize(
    ("frames", "events"),
    [
        (wire_events.COMPLETE_EVENTS, wire_events.PARSED_EVENTS),
        (wire_events.FAILED_EVENTS, [*wire_events.PARSED_START_EVENTS, wire_events.PARSED_FAILED]),
        (wire_events.CANCELLED_EVENTS, [*wire_events.PARSED_START_EVENTS, wire_events.PARSED_CANCELLED]),
    ],
    ids=["finished", "failed", "cancelled"],
)
def test_parse_event_reads_every_event_of_an_answer(frames: list[WireEvent], events: list[object]) -> None:
    assert [event for frame in frames if (event := parse_event(frame)) is not None] == events


def test_receipt_without_usage_has_unknown_tokens_and_cost() -> None:
    end = parse_event(
        ("finish", {"finish_reason": "stop", **wire_events.RECEIPT_FIELDS, "usage": None, "cost_usd": None})
    )
    assert end is not None
    assert (end.bill.usage, end.bill.cost_usd) == (None, None)  # type: ignore[union-attr] # a finish has a bill


@pytest.mark.parametrize("name", ["chunk", "thinking", "stage", "usage", "notice", "finish", "error", "cancelled"])
@pytest.mark.parametrize("fields", [{}, ["a list"], None])
def test_event_without_required_fields_raises_naming_it(name: str, fields: object) -> None:
    with pytest.raises(InvalidResponseError, match=repr(name)):
        parse_event((name, fields))  # type: ignore[arg-type] # what a wire may say


def test_rejection_has_rule_and_retry_after() -> None:
    error = rejection_from_response(
        429, b'{"error": {"type": "rate_limited", "message": "wait", "rule": "rate_limit"}}', "12"
    )
    assert (str(error), error.kind, error.status, error.rule) == ("wait", "rate_limited", 429, "rate_limit")
    assert error.retry_after_s == 12.0
    assert rejection_from_fields(wire_events.rejection_fields()).retry_after_s == 7.0


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b"[]", b'{"error": "x"}', b"", b"\xff"])
@pytest.mark.parametrize("retry_after", [None, "Wed, 21 Oct 2026 07:28:00 GMT", "٣"])
def test_rejection_from_proxy_has_readable_message(body: bytes, retry_after: str | None) -> None:
    error = rejection_from_response(502, body, retry_after)
    assert (str(error), error.kind, error.status) == ("service: rejected the request with status 502", "refused", 502)
    assert (error.rule, error.retry_after_s) == (None, None)

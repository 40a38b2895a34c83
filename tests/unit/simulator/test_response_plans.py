from itertools import islice
from typing import Any

import pytest

from simulator.faults import parse_fault
from simulator.http1 import Request
from simulator.request_handler import Defaults, RequestHandler
from simulator.response_plans import ResponsePlan, ScheduledWrite
from simulator.schedules import PROFILES
from tests.simulator_process import PATHS, RawResponse, question_body


def make_plan(fault: str = "", model: str = "steady", streamed: bool = True, **options: Any) -> ResponsePlan:
    choices = Defaults(fault=parse_fault(fault) if fault else None)
    given = {"chunked": True, "keep_open": True, **options}
    body = question_body("openai", streamed, model=model)
    return RequestHandler(choices).reply(Request("POST", PATHS["openai"], {}, body, **given), "1").plan


def content_writes(sends: list[ScheduledWrite]) -> list[ScheduledWrite]:
    return [send for send in sends if send.mark.startswith('"seq"')]


def test_plan_sends_head_at_once_and_role_half_way_to_first_token() -> None:
    sends = list(make_plan().sends)
    assert [(send.due_s, send.mark) for send in sends[:3]] == [
        (0.0, '"kind":"head"'),
        (0.1, '"kind":"role"'),
        (0.2, '"seq":0'),
    ]


def test_plan_sends_tokens_on_schedule_and_end_one_gap_later() -> None:
    result = make_plan()
    sends = list(result.sends)
    assert [send.due_s for send in content_writes(sends)] == pytest.approx([0.2 + 0.02 * i for i in range(64)])
    assert [send.mark for send in content_writes(sends)] == [f'"seq":{i}' for i in range(64)]
    assert [send.mark for send in sends[-3:]] == ['"kind":"finish"', '"kind":"end"', '"kind":"last-chunk"']
    assert {send.due_s for send in sends[-3:]} == {result.end_s}
    assert result.end_s == pytest.approx(1.48)


@pytest.mark.parametrize(
    ("fault", "ending"),
    [("stall", "hang"), ("cut", "cut"), ("reset-mid-stream", "reset"), ("truncated", "complete")],
)
def test_broken_plan_ends_one_gap_after_half(fault: str, ending: str) -> None:
    result = make_plan(fault)
    assert len(content_writes(list(result.sends))) == 32
    assert result.ending == ending
    assert result.end_s == pytest.approx(0.2 + 32 * 0.02)


@pytest.mark.parametrize("streamed", [True, False])
def test_slow_first_token_shifts_all_writes(streamed: bool) -> None:
    usual, slow = make_plan(streamed=streamed), make_plan("slow-first-token-3", streamed=streamed)
    moved = [
        later.due_s - sooner.due_s
        for sooner, later in zip(content_writes(list(usual.sends)), content_writes(list(slow.sends)), strict=True)
    ]
    assert moved == pytest.approx([2.8] * len(moved))
    assert slow.end_s - usual.end_s == pytest.approx(2.8)


def test_keepalive_only_plan_never_ends() -> None:
    result = make_plan("keepalive-only")
    sends = list(islice(result.sends, 1001))
    assert result.ending == "hang"
    assert [send.due_s for send in sends[1:]] == pytest.approx([0.5 * i for i in range(1000)])


def test_whole_answer_is_due_when_stream_would_end() -> None:
    result = make_plan(streamed=False)
    (send,) = result.sends
    assert send.mark == '"seq":0'
    assert [send.due_s, result.end_s] == pytest.approx([1.48, 1.48])


def test_corrupted_whole_answer_is_marked_as_fault() -> None:
    (send,) = make_plan("malformed-json-always", streamed=False).sends
    assert send.mark == '"kind":"fault"'


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("fault", ["", "split-surrogate", "doubled-finish", "text-after-end"])
def test_plan_times_never_decrease(name: str, fault: str) -> None:
    due_s = [send.due_s for send in make_plan(fault, name).sends]
    assert due_s == sorted(due_s)


@pytest.mark.parametrize(("chunked", "keep_open"), [(True, True), (True, False), (False, True), (False, False)])
def test_plan_without_chunks_ends_stream_by_closing(chunked: bool, keep_open: bool) -> None:
    result = make_plan(chunked=chunked, keep_open=keep_open)
    raw = b"".join(send.data for send in result.sends)
    assert result.keep_open is (chunked and keep_open)
    assert raw.endswith(b"0\r\n\r\n") is chunked
    assert RawResponse(raw, "closed").headers["connection"] == ("keep-alive" if chunked and keep_open else "close")

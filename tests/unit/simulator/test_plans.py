from itertools import islice
from typing import Any

import pytest

from simulator.faults import parse
from simulator.http1 import Request
from simulator.plans import Plan, Send
from simulator.schedules import PROFILES
from simulator.service import Choices, Service
from tests.simulator_process import PATHS, Heard, question


def plan(fault: str = "", model: str = "steady", streamed: bool = True, **options: Any) -> Plan:
    choices = Choices(fault=parse(fault) if fault else None)
    given = {"chunked": True, "keep_open": True, **options}
    body = question("openai", streamed, model=model)
    return Service(choices).reply(Request("POST", PATHS["openai"], {}, body, **given), "1").plan


def content(sends: list[Send]) -> list[Send]:
    return [send for send in sends if send.mark.startswith('"seq"')]


def test_headers_go_out_at_once_and_the_role_half_way_to_the_first_token() -> None:
    sends = list(plan().sends)
    assert [(send.due_s, send.mark) for send in sends[:3]] == [
        (0.0, '"kind":"head"'),
        (0.1, '"kind":"role"'),
        (0.2, '"seq":0'),
    ]


def test_tokens_are_due_on_the_schedule_and_the_end_one_gap_later() -> None:
    found = plan()
    sends = list(found.sends)
    assert [send.due_s for send in content(sends)] == pytest.approx([0.2 + 0.02 * i for i in range(64)])
    assert [send.mark for send in content(sends)] == [f'"seq":{i}' for i in range(64)]
    assert [send.mark for send in sends[-3:]] == ['"kind":"finish"', '"kind":"end"', '"kind":"last-chunk"']
    assert {send.due_s for send in sends[-3:]} == {found.end_s}
    assert found.end_s == pytest.approx(1.48)


@pytest.mark.parametrize(
    ("fault", "ending"),
    [("stall", "hang"), ("cut", "cut"), ("reset-mid-stream", "reset"), ("truncated", "complete")],
)
def test_a_broken_stream_ends_one_gap_after_its_half(fault: str, ending: str) -> None:
    found = plan(fault)
    assert len(content(list(found.sends))) == 32
    assert found.ending == ending
    assert found.end_s == pytest.approx(0.2 + 32 * 0.02)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_slow_first_token_moves_all_the_rest(streamed: bool) -> None:
    usual, slow = plan(streamed=streamed), plan("slow-first-token-3", streamed=streamed)
    moved = [
        later.due_s - sooner.due_s
        for sooner, later in zip(content(list(usual.sends)), content(list(slow.sends)), strict=True)
    ]
    assert moved == pytest.approx([2.8] * len(moved))
    assert slow.end_s - usual.end_s == pytest.approx(2.8)


def test_keepalives_never_end() -> None:
    found = plan("keepalive-only")
    sends = list(islice(found.sends, 1001))
    assert found.ending == "hang"
    assert [send.due_s for send in sends[1:]] == pytest.approx([0.5 * i for i in range(1000)])


def test_a_whole_answer_comes_when_its_stream_would_have_ended() -> None:
    found = plan(streamed=False)
    (send,) = found.sends
    assert send.mark == '"seq":0'
    assert [send.due_s, found.end_s] == pytest.approx([1.48, 1.48])


def test_a_spoilt_whole_answer_does_not_count_as_content() -> None:
    (send,) = plan("malformed-json-always", streamed=False).sends
    assert send.mark == '"kind":"fault"'


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("fault", ["", "split-surrogate", "doubled-finish", "text-after-end"])
def test_plans_never_run_backwards(name: str, fault: str) -> None:
    due_s = [send.due_s for send in plan(fault, name).sends]
    assert due_s == sorted(due_s)


@pytest.mark.parametrize(("chunked", "keep_open"), [(True, True), (True, False), (False, True), (False, False)])
def test_without_chunks_the_close_is_the_end_of_a_stream(chunked: bool, keep_open: bool) -> None:
    found = plan(chunked=chunked, keep_open=keep_open)
    raw = b"".join(send.data for send in found.sends)
    assert found.keep_open is (chunked and keep_open)
    assert raw.endswith(b"0\r\n\r\n") is chunked
    assert Heard(raw, "closed").headers["connection"] == ("keep-alive" if chunked and keep_open else "close")

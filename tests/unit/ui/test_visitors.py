"""Conversations by session, and how many of them are kept."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from guard import Configuration, Guard, Refusal
from streaming.session import Session
from tests.unit.ui.house import House, Slow
from tests.virtual_time import clock, run_virtual
from ui.visitors import KEY_KEPT_S, Lane, Visitor, Visitors


class Running:
    """An answer that runs until it is closed."""

    ended = False

    async def aclose(self) -> None:
        self.ended = True


def begun(lane: Lane) -> Running:
    answer = Running()
    run_virtual(lane.begin(answer))  # type: ignore[arg-type]  # it has what a visitor asks of an answer
    return answer


def maker() -> Callable[[str], Session]:
    return lambda name: cast(Session, object())


def test_a_session_lasts_while_the_provider_stays() -> None:
    lane = Lane()
    first = lane.session("a", maker())
    assert lane.session("a", maker()) is first
    assert lane.session("b", maker()) is not first


def test_a_cleared_conversation_gets_a_session_of_its_own_and_stops() -> None:
    lane = Lane()
    first = lane.session("a", maker())
    answer = begun(lane)
    run_virtual(lane.forget())
    assert answer.ended
    assert lane.session("a", maker()) is not first


def test_the_places_of_a_page_run_side_by_side_and_all_end_when_it_is_left() -> None:
    visitor = Visitor()
    chat, column = begun(visitor.lane("chat")), begun(visitor.lane("compare-0"))
    assert visitor.busy and not chat.ended and not column.ended
    run_virtual(visitor.leave())
    assert chat.ended and column.ended and not visitor.busy


def test_keys_go_with_the_page_and_what_was_open_with_them_is_closed() -> None:
    closed: list[str] = []

    async def close() -> None:
        closed.append("own")

    visitor = Visitor()
    run_virtual(visitor.bring({"OPENAI_API_KEY": "k"}, None, close))
    assert visitor.keys == {"OPENAI_API_KEY": "k"} and closed == []
    running = begun(visitor.lane("chat"))
    run_virtual(visitor.leave())
    assert visitor.keys == {} and closed == ["own"] and running.ended


def test_visitors_are_told_apart_and_remembered() -> None:
    visitors = Visitors()
    assert visitors.of("a") is visitors.of("a")
    assert visitors.of("a") is not visitors.of("b")
    assert visitors.of(None) is not visitors.of(None)


def test_the_idle_one_heard_of_longest_ago_goes_when_there_are_too_many() -> None:
    visitors = Visitors(limit=2)
    oldest = visitors.of("a")
    begun(oldest.lane("chat"))
    idle = visitors.of("b")
    visitors.of("c")
    assert len(visitors) == 2
    assert visitors.of("a") is oldest
    assert visitors.of("b") is not idle


def test_keys_of_visitors_who_went_without_a_word_do_not_pile_up() -> None:
    async def main() -> tuple[int, list[int]]:
        visitors, closed = Visitors(limit=3, clock=clock()), list[int]()

        def closing(number: int) -> Callable[[], Awaitable[None]]:
            async def close() -> None:
                closed.append(number)

            return close

        for number in range(10):
            visitor = visitors.of(f"s{number}")
            await visitor.bring({"OPENAI_API_KEY": "k"}, House(Slow()), closing(number))
            await asyncio.sleep(KEY_KEPT_S)
        return len(visitors), closed

    assert run_virtual(main()) == (3, [0, 1, 2, 3, 4, 5, 6])


async def flood(visitors: Visitors, count: int, address: str = "203.0.113.9") -> int:
    """Admit newcomers; return how many were refused."""
    refused = 0
    for number in range(count):
        try:
            await visitors.admit(f"{address}-{number}".replace(".", "-").replace(":", "-"), address)
        except Refusal as refusal:
            refused += refusal.kind == "rate_limited" and refusal.retry_after_s is not None
    return refused


def test_made_up_sessions_do_not_displace_who_brought_a_key_or_is_connected() -> None:
    async def main() -> tuple[bool, bool, bool, bool, bool, int]:
        visitors = Visitors(limit=50, clock=clock())
        for name in ("keyed", "let-in", "connected", "idle"):
            await visitors.admit(name, "192.0.2.1")
        visitors.of("keyed").keys = {"OPENAI_API_KEY": "k"}
        visitors.of("let-in").access_key = "sg-key"
        begun(visitors.of("busy").lane("chat"))
        with visitors.connect("connected"):
            await flood(visitors, 2000)
            for number in range(40):
                await flood(visitors, 50, f"198.51.100.{number}")
            kept = [name in visitors for name in ("keyed", "let-in", "connected", "busy", "idle")]
        return (*kept, len(visitors))  # type: ignore[return-value]  # five and one

    def begun(lane: Lane) -> None:
        lane._answer = Running()  # type: ignore[assignment]  # it has what a visitor asks of an answer

    assert run_virtual(main()) == (True, True, True, True, False, 50)


def test_one_address_has_half_of_the_places_at_most() -> None:
    async def main() -> tuple[int, int]:
        visitors = Visitors(limit=10, clock=clock())
        refused = 0
        for number in range(12):
            try:
                await visitors.admit(f"k{number}", "2001:db8::1" if number % 2 else "2001:db8::2")
            except Refusal:
                refused += 1
            else:
                visitors.of(f"k{number}").keys = {"OPENAI_API_KEY": "k"}
        return refused, await flood(visitors, 5, "192.0.2.7")

    assert run_virtual(main()) == (7, 0)


def test_newcomer_is_refused_where_everybody_is_held() -> None:
    async def main() -> tuple[int, int]:
        visitors = Visitors(limit=4, clock=clock())
        for number in range(4):
            await visitors.admit(f"k{number}", f"192.0.2.{number}")
            visitors.of(f"k{number}").keys = {"OPENAI_API_KEY": "k"}
        early = await flood(visitors, 1, "198.51.100.1")
        await asyncio.sleep(KEY_KEPT_S + 1)
        return early, await flood(visitors, 1, "198.51.100.1")

    assert run_virtual(main()) == (1, 0)


def test_new_sessions_are_counted_once_by_the_guard() -> None:
    async def main() -> tuple[int, int, int]:
        guard = Guard(Configuration.from_variables({"PAGE_RATE_LIMIT": "5/minute"}), clock=clock())
        visitors = Visitors(clock=clock(), enter=guard.enter_page)
        first = await flood(visitors, 8)
        again = await flood(visitors, 5)
        other = await flood(visitors, 5, "198.51.100.1")
        return first, again, other

    assert run_virtual(main()) == (3, 0, 0)


@pytest.mark.parametrize("variables", [{"RATE_LIMIT": "off"}, {"PAGE_RATE_LIMIT": "off"}])
def test_new_sessions_are_not_limited_where_the_limit_is_off(variables: dict[str, str]) -> None:
    async def main() -> int:
        guard = Guard(Configuration.from_variables(variables), clock=clock())
        return await flood(Visitors(clock=clock(), enter=guard.enter_page), 200)

    assert run_virtual(main()) == 0

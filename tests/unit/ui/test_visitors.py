"""Conversations by session, and how many of them are kept."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from streaming.session import Session
from tests.unit.ui.house import House, Slow
from tests.virtual_time import run_virtual
from ui.visitors import Lane, Visitor, Visitors


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
        visitors, closed = Visitors(limit=3), list[int]()

        def closing(number: int) -> Callable[[], Awaitable[None]]:
            async def close() -> None:
                closed.append(number)

            return close

        for number in range(10):
            visitor = visitors.of(f"s{number}")
            await visitor.bring({"OPENAI_API_KEY": "k"}, House(Slow()), closing(number))
        await asyncio.sleep(1)
        return len(visitors), closed

    assert run_virtual(main()) == (3, [0, 1, 2, 3, 4, 5, 6])

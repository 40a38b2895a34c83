"""Conversations by session, and how many of them are kept."""

from collections.abc import Callable
from typing import cast

from streaming.session import Session
from tests.virtual_time import run_virtual
from ui.visitors import Visitor, Visitors


class Running:
    """An answer that runs until it is closed."""

    ended = False

    async def aclose(self) -> None:
        self.ended = True


def begun(visitor: Visitor) -> Running:
    answer = Running()
    run_virtual(visitor.begin(answer))  # type: ignore[arg-type]  # it has what a visitor asks of an answer
    return answer


def maker() -> Callable[[str], Session]:
    return lambda name: cast(Session, object())


def test_a_session_lasts_while_the_provider_stays() -> None:
    visitor = Visitor()
    first = visitor.session("a", maker())
    assert visitor.session("a", maker()) is first
    assert visitor.session("b", maker()) is not first


def test_a_cleared_conversation_gets_a_session_of_its_own_and_stops() -> None:
    visitor = Visitor()
    first = visitor.session("a", maker())
    answer = begun(visitor)
    run_virtual(visitor.forget())
    assert answer.ended
    assert visitor.session("a", maker()) is not first


def test_visitors_are_told_apart_and_remembered() -> None:
    visitors = Visitors()
    assert visitors.of("a") is visitors.of("a")
    assert visitors.of("a") is not visitors.of("b")
    assert visitors.of(None) is not visitors.of(None)


def test_the_idle_one_heard_of_longest_ago_goes_when_there_are_too_many() -> None:
    visitors = Visitors(limit=2)
    oldest = visitors.of("a")
    begun(oldest)
    idle = visitors.of("b")
    visitors.of("c")
    assert len(visitors) == 2
    assert visitors.of("a") is oldest
    assert visitors.of("b") is not idle

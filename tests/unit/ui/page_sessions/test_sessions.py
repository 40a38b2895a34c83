"""Tests of page sessions: slots, keys, and how many sessions are kept."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from guard import Guard, GuardConfig, RejectionError
from tests.unit.ui.ui_fixtures import FakeProviders, SlowAdapter
from tests.virtual_time import loop_clock, run_on_virtual_time
from ui.page_sessions.answer_slot import AnswerSlot
from ui.page_sessions.sessions import KEY_KEPT_S, PageSession, PageSessions


class RunningAnswer:
    """An answer that runs until it is stopped."""

    ended = False

    async def cancel(self) -> bool:
        self.ended = True
        return True


def start_answer(slot: AnswerSlot) -> RunningAnswer:
    answer = RunningAnswer()
    run_on_virtual_time(slot.begin(answer))  # type: ignore[arg-type]  # it has the methods that a slot calls
    return answer


def test_slot_keeps_session_for_same_provider_of_same_source() -> None:
    slot, providers, clock = AnswerSlot(), FakeProviders(SlowAdapter()), time.monotonic
    first = slot.session("a", providers, clock=clock)
    assert slot.session("a", providers, clock=clock) is first
    assert slot.session("a", FakeProviders(SlowAdapter()), clock=clock) is not first
    assert slot.session("b", providers, clock=clock) is not first


def test_slot_reset_stops_answer_and_starts_new_session() -> None:
    slot, providers, clock = AnswerSlot(), FakeProviders(SlowAdapter()), time.monotonic
    first = slot.session("a", providers, clock=clock)
    answer = start_answer(slot)
    run_on_virtual_time(slot.reset())
    assert answer.ended
    assert slot.session("a", providers, clock=clock) is not first


def test_page_slots_run_concurrently_and_end_on_close() -> None:
    page_session = PageSession()
    chat, column = start_answer(page_session.slot("chat")), start_answer(page_session.slot("compare-0"))
    assert page_session.busy and not chat.ended and not column.ended
    run_on_virtual_time(page_session.close())
    assert chat.ended and column.ended and not page_session.busy


def test_page_close_removes_keys_and_closes_providers() -> None:
    closed: list[str] = []

    async def close() -> None:
        closed.append("own")

    page_session = PageSession()
    run_on_virtual_time(page_session.set_keys({"OPENAI_API_KEY": "k"}, None, close))
    assert page_session.keys == {"OPENAI_API_KEY": "k"} and closed == []
    running = start_answer(page_session.slot("chat"))
    run_on_virtual_time(page_session.close())
    assert page_session.keys == {} and closed == ["own"] and running.ended


def test_page_sessions_are_distinct_and_remembered() -> None:
    page_sessions = PageSessions()
    assert page_sessions.get("a") is page_sessions.get("a")
    assert page_sessions.get("a") is not page_sessions.get("b")
    assert page_sessions.get(None) is not page_sessions.get(None)


def test_least_recent_idle_session_is_evicted() -> None:
    page_sessions = PageSessions(limit=2)
    oldest = page_sessions.get("a")
    start_answer(oldest.slot("chat"))
    idle = page_sessions.get("b")
    page_sessions.get("c")
    assert len(page_sessions) == 2
    assert page_sessions.get("a") is oldest
    assert page_sessions.get("b") is not idle


def test_keys_of_abandoned_pages_are_removed() -> None:
    async def main() -> tuple[int, list[int]]:
        page_sessions, closed = PageSessions(limit=3, clock=loop_clock()), list[int]()

        def closing(number: int) -> Callable[[], Awaitable[None]]:
            async def close() -> None:
                closed.append(number)

            return close

        for number in range(10):
            page_session = page_sessions.get(f"s{number}")
            await page_session.set_keys({"OPENAI_API_KEY": "k"}, FakeProviders(SlowAdapter()), closing(number))
            await asyncio.sleep(KEY_KEPT_S)
        return len(page_sessions), closed

    assert run_on_virtual_time(main()) == (3, [0, 1, 2, 3, 4, 5, 6])


async def flood(page_sessions: PageSessions, count: int, address: str = "203.0.113.9") -> int:
    """Admit new pages; return how many were rejected."""
    rejected = 0
    for number in range(count):
        try:
            await page_sessions.admit(f"{address}-{number}".replace(".", "-").replace(":", "-"), address)
        except RejectionError as rejection:
            rejected += rejection.kind == "rate_limited" and rejection.retry_after_s is not None
    return rejected


def test_flood_of_new_sessions_does_not_evict_keyed_or_connected_ones() -> None:
    async def main() -> tuple[bool, bool, bool, bool, bool, int]:
        page_sessions = PageSessions(limit=50, clock=loop_clock())
        for name in ("keyed", "let-in", "connected", "idle"):
            await page_sessions.admit(name, "192.0.2.1")
        page_sessions.get("keyed").keys = {"OPENAI_API_KEY": "k"}
        page_sessions.get("let-in").access_key = "sg-key"
        running = RunningAnswer()
        await page_sessions.get("busy").slot("chat").begin(running)  # type: ignore[arg-type]  # it has the methods that a slot calls
        with page_sessions.connect("connected"):
            await flood(page_sessions, 2000)
            for number in range(40):
                await flood(page_sessions, 50, f"198.51.100.{number}")
            kept = [name in page_sessions for name in ("keyed", "let-in", "connected", "busy", "idle")]
        return (*kept, len(page_sessions))  # type: ignore[return-value]  # five and one

    assert run_on_virtual_time(main()) == (True, True, True, True, False, 50)


def test_one_address_block_may_hold_half_of_all_sessions() -> None:
    async def main() -> tuple[int, int]:
        page_sessions = PageSessions(limit=10, clock=loop_clock())
        rejected = 0
        for number in range(12):
            try:
                await page_sessions.admit(f"k{number}", "2001:db8::1" if number % 2 else "2001:db8::2")
            except RejectionError:
                rejected += 1
            else:
                page_sessions.get(f"k{number}").keys = {"OPENAI_API_KEY": "k"}
        return rejected, await flood(page_sessions, 5, "192.0.2.7")

    assert run_on_virtual_time(main()) == (7, 0)


def test_new_page_is_rejected_when_no_session_can_be_evicted() -> None:
    async def main() -> tuple[int, int]:
        page_sessions = PageSessions(limit=4, clock=loop_clock())
        for number in range(4):
            await page_sessions.admit(f"k{number}", f"192.0.2.{number}")
            page_sessions.get(f"k{number}").keys = {"OPENAI_API_KEY": "k"}
        early = await flood(page_sessions, 1, "198.51.100.1")
        await asyncio.sleep(KEY_KEPT_S + 1)
        return early, await flood(page_sessions, 1, "198.51.100.1")

    assert run_on_virtual_time(main()) == (1, 0)


def test_guard_counts_each_new_session_once() -> None:
    async def main() -> tuple[int, int, int]:
        guard = Guard(GuardConfig.from_env({"PAGE_RATE_LIMIT": "5/minute"}), clock=loop_clock())
        page_sessions = PageSessions(clock=loop_clock(), enter=guard.enter_page)
        first = await flood(page_sessions, 8)
        again = await flood(page_sessions, 5)
        other = await flood(page_sessions, 5, "198.51.100.1")
        return first, again, other

    assert run_on_virtual_time(main()) == (3, 0, 0)


@pytest.mark.parametrize("variables", [{"RATE_LIMIT": "off"}, {"PAGE_RATE_LIMIT": "off"}])
def test_new_sessions_are_unlimited_when_limit_is_off(variables: dict[str, str]) -> None:
    async def main() -> int:
        guard = Guard(GuardConfig.from_env(variables), clock=loop_clock())
        return await flood(PageSessions(clock=loop_clock(), enter=guard.enter_page), 200)

    assert run_on_virtual_time(main()) == 0

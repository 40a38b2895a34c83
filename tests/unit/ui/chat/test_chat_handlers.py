"""Tests of the chat tab's event handlers without a browser, on virtual time."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from itertools import pairwise
from typing import Any

import gradio as gr
import pytest

from streaming.clock import Clock
from streaming.messages import ChatRequest, Message
from streaming.session import Session
from tests.unit.ui.ui_fixtures import FakeProviders, FastAdapter, SlowAdapter, make_answer_service, make_request
from tests.virtual_time import loop_clock, run_on_virtual_time
from ui import strings
from ui.answers import GRACE_S, TICK_INTERVAL_S
from ui.chat.handlers import ChatHandlers, ChatUpdate
from ui.history import assistant_message, message_text, user_message
from ui.page_sessions.screen_progress import MAX_WAITING

CONVERSATION = "0123456789abcdef" * 2


class ChatPageDriver:
    """One user's page that calls `ChatHandlers` as Gradio does."""

    def __init__(self, adapter: SlowAdapter, session_hash: str = "a") -> None:
        self.providers = FakeProviders(adapter)
        self.answer_service = make_answer_service(self.providers)
        self.chat = ChatHandlers(self.answer_service)
        self.request = make_request(session_hash)

    def ask(
        self, text: str = "Count.", history: Sequence[dict[str, Any]] = (), **other: Any
    ) -> AsyncGenerator[ChatUpdate]:
        """Ask as a retry does: a message that is sent may have to wait for the answer before it."""
        self.chat.begin_retry([*history, user_message(text)], self.request)
        return self.run_ask(text, history, **other)

    def run_ask(
        self, text: str = "Count.", history: Sequence[dict[str, Any]] = (), **other: Any
    ) -> AsyncGenerator[ChatUpdate]:
        """Run the event that asks, for which the page has begun a request before."""
        defaults: dict[str, Any] = {
            "provider": "local",
            "model": "",
            "strategy": "direct",
            "system": "",
            "temperature": "",
            "max_tokens": "",
            "budget": "",
            "price": "",
            "streamed": True,
            "timed_words": False,
            "brought": "",
            "conversation": CONVERSATION,
        }
        return self.chat.ask(text, list(history), request=self.request, **(defaults | other))

    async def frames(self, *arguments: Any, **other: Any) -> list[ChatUpdate]:
        return [frame async for frame in self.ask(*arguments, **other)]

    async def late_frames(self, **other: Any) -> list[ChatUpdate]:
        return [frame async for frame in self.run_ask(**other)]


def answer_text(frame: ChatUpdate) -> str:
    return "".join(p["text"] for turn in frame[0] if not turn["metadata"] for p in turn["content"])


def last_title(frame: ChatUpdate) -> str:
    return str(frame[0][-1]["metadata"]["title"])


def stop_button_visible(frame: ChatUpdate) -> bool | None:
    """Return whether an update shows or hides Stop; None if it leaves it unchanged."""
    shown: bool | str | None = frame[4].get("stop_btn")
    return None if shown is None else bool(shown)


def test_answer_updates_grow_and_end_with_receipt() -> None:
    async def main() -> list[ChatUpdate]:
        return await ChatPageDriver(SlowAdapter()).frames()

    frames = run_on_virtual_time(main())
    lengths = [len(answer_text(frame)) for frame in frames]
    assert lengths == sorted(lengths) and len(set(lengths)) == 4
    assert [stop_button_visible(frame) for frame in frames] == [True, *[None] * (len(frames) - 2), False]
    assert answer_text(frames[-1]) == "one two three"
    assert last_title(frames[-1]) == "a-model · TTFT 1.00 s · 1.5 tokens/s · 4 tokens"


def test_page_is_updated_twice_a_second_while_waiting() -> None:
    async def main() -> list[float]:
        at_s = []
        async with aclosing(ChatPageDriver(SlowAdapter(first_s=3.0)).ask()) as frames:
            async for _ in frames:
                at_s.append(loop_clock()())
        return at_s

    at_s = run_on_virtual_time(main())
    assert max(b - a for a, b in pairwise(at_s)) <= TICK_INTERVAL_S + 1e-9


def test_slow_browser_is_sent_the_newest_text_when_it_has_drawn_what_it_has() -> None:
    async def main() -> tuple[list[float], list[int]]:
        page = ChatPageDriver(FastAdapter())
        sessions, sent_s, lengths = page.answer_service.page_sessions, list[float](), list[int]()

        async def draw_slowly() -> None:
            for number in range(1, 100):
                await asyncio.sleep(0.5)
                sessions.report_drawn("a", number)

        drawing = asyncio.create_task(draw_slowly())
        async for frame in page.ask():
            sent_s.append(loop_clock()())
            lengths.append(len(answer_text(frame)))
        drawing.cancel()
        return sent_s, lengths

    sent_s, lengths = run_on_virtual_time(main())
    late = [at_s for at_s in sent_s if sent_s[0] + 1.5 < at_s < sent_s[-1]]
    assert 2 <= len(late) <= 6, "two a second are drawn, and no more are sent once enough of them wait"
    assert max(after - before for before, after in pairwise(lengths)) > 15 and lengths[-1] == FastAdapter.CHUNKS


def test_stop_is_shown_at_once_even_if_the_browser_is_behind() -> None:
    async def main() -> tuple[float, ChatUpdate]:
        page = ChatPageDriver(FastAdapter())
        screen = page.answer_service.page_sessions.get("a").screen
        screen.report(screen.send(loop_clock()()), loop_clock()())
        for _ in range(MAX_WAITING + 1):
            screen.send(loop_clock()())
        asked_s = loop_clock()()
        assert screen.is_behind(asked_s)
        async with aclosing(page.ask()) as frames:
            first = await anext(frames)
            return loop_clock()() - asked_s, first

    after_s, first = run_on_virtual_time(main())
    assert after_s == 0.0 and stop_button_visible(first) is True


@pytest.mark.parametrize(("stop_at_s", "kept"), [(0.2, ""), (1.7, "one "), (2.9, "one two ")])
def test_stop_closes_provider_at_once_and_shows_receipt(stop_at_s: float, kept: str) -> None:
    async def main() -> tuple[list[ChatUpdate], list[float], float]:
        adapter = SlowAdapter()
        page = ChatPageDriver(adapter)
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(stop_at_s)
        await page.chat.stop(page.request)
        stopped_s = loop_clock()()
        return await asking, adapter.closed_s, stopped_s

    frames, closed_s, stopped_s = run_on_virtual_time(main())
    assert closed_s == [stop_at_s] and stopped_s == stop_at_s
    assert answer_text(frames[-1]) == kept
    assert last_title(frames[-1]).startswith("Stopped · a-model")
    assert stop_button_visible(frames[-1]) is False
    assert "Provider stopped within" in frames[-1][0][-1]["content"][0]["text"]


def goes_on(restored: tuple[Any, ...]) -> bool:
    """Return whether a restored page goes on with an answer."""
    return isinstance(restored[3], str)


async def leave_answer(page: ChatPageDriver, leave_s: float, **other: Any) -> None:
    """Send a message, and close the page when its answer is so old."""
    with suppress(TimeoutError):
        async with asyncio.timeout(leave_s):
            await page.frames(**other)
    await page.chat.unload(page.request)


def test_closed_page_stops_its_answer_after_grace_time_and_receipt_says_so() -> None:
    async def main() -> tuple[list[float], int, str]:
        adapter = SlowAdapter(first_s=60.0)
        page = ChatPageDriver(adapter)
        await leave_answer(page, 5.0)
        known = len(page.answer_service.page_sessions)
        await asyncio.sleep(60.0)
        restored = await page.chat.restore(CONVERSATION, [], make_request("b"))
        return adapter.closed_s, known, str(restored[0][-1])

    closed_s, known, ending = run_on_virtual_time(main())
    assert closed_s == [5.0 + GRACE_S] and known == 0
    assert "obody read it for 30 s" in ending


def test_answer_that_no_page_can_find_again_ends_with_its_page() -> None:
    async def main() -> list[float]:
        adapter = SlowAdapter()
        await leave_answer(ChatPageDriver(adapter), 1.5, conversation="not an id")
        await asyncio.sleep(0.1)
        return adapter.closed_s

    assert run_on_virtual_time(main()) == [1.5]


def test_page_loaded_anew_continues_answer_with_the_same_request() -> None:
    async def main() -> tuple[tuple[Any, ...], list[ChatUpdate], int, int]:
        adapter = SlowAdapter()
        page = ChatPageDriver(adapter)
        await leave_answer(page, 1.5)
        page.request = make_request("b")
        await asyncio.sleep(5.0)
        restored = await page.chat.restore(CONVERSATION, [], page.request)
        page.request = make_request("c")
        await leave_answer(page, 1.5, text="Again.")
        page.request = make_request("d")
        await page.chat.restore(CONVERSATION, [], page.request)
        frames = await page.late_frames()
        spent = page.answer_service.page_sessions.get("d").spending.answers
        return restored, frames, len(adapter.requests), spent

    restored, frames, requests, spent = run_on_virtual_time(main())
    question, *answer = restored[0]
    assert question["role"] == "user" and not goes_on(restored), "it had ended meanwhile"
    assert "".join(turn["content"][0]["text"] for turn in answer if not turn["metadata"]) == "one two three"
    assert answer_text(frames[0]) == "one " and answer_text(frames[-1]) == "one two three"
    assert [stop_button_visible(frames[0]), stop_button_visible(frames[-1])] == [True, False]
    assert requests == 2 and spent == 1


def test_page_loaded_anew_stops_answer() -> None:
    async def main() -> tuple[list[float], str]:
        adapter = SlowAdapter()
        page = ChatPageDriver(adapter)
        await leave_answer(page, 1.5)
        page.request = make_request("b")
        await page.chat.restore(CONVERSATION, [], page.request)
        asking = asyncio.create_task(page.late_frames())
        await asyncio.sleep(0.3)
        await page.chat.stop(page.request)
        return adapter.closed_s, last_title((await asking)[-1])

    closed_s, title = run_on_virtual_time(main())
    assert closed_s == [1.8] and title.startswith("Stopped")


def test_other_conversation_neither_shows_nor_continues_answer() -> None:
    async def main() -> tuple[tuple[Any, ...], list[float]]:
        adapter = SlowAdapter()
        page = ChatPageDriver(adapter)
        await leave_answer(page, 1.5)
        other = make_request("b")
        restored = await page.chat.restore("f" * 32, [], other)
        await page.chat.stop(other)
        return restored, [*adapter.closed_s]

    restored, closed_s = run_on_virtual_time(main())
    assert restored[1:3] == ([], "") and not goes_on(restored) and closed_s == []


def test_answer_goes_on_while_page_shows_another_conversation() -> None:
    async def main() -> tuple[list[tuple[Any, ...]], list[ChatUpdate], list[float], int]:
        adapter = SlowAdapter(first_s=GRACE_S + 10)
        page = ChatPageDriver(adapter)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await page.frames()
        shown = [await page.chat.restore("f" * 32, [], page.request)]
        await asyncio.sleep(GRACE_S + 5)
        shown.append(await page.chat.restore(CONVERSATION, [], page.request))
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await page.late_frames()
        shown.append(await page.chat.restore("f" * 32, [], page.request))
        await asyncio.sleep(1000.0)  # longer than an answer is kept for a page that is loaded anew
        shown.append(await page.chat.restore(CONVERSATION, [], page.request))
        await page.chat.restore("e" * 32, [], page.request)
        frames = await page.frames(conversation="e" * 32)
        spent = page.answer_service.page_sessions.get(page.request.session_hash).spending.answers
        return shown, frames, adapter.closed_s, spent

    shown, frames, closed_s, spent = run_on_virtual_time(main())
    assert [(page[2], goes_on(page)) for page in shown] == [("", False), ("Count.", True), ("", False), ("", False)]
    assert shown[0][0] == shown[2][0] == []
    answer = shown[3][0][2:-1]
    assert "".join(turn["content"][0]["text"] for turn in answer) == "one two three"
    assert answer_text(frames[-1]) == "one two three" and len(closed_s) == 2 and spent == 2


def test_deleted_conversation_stops_its_answer() -> None:
    async def main() -> tuple[list[float], tuple[Any, ...]]:
        adapter = SlowAdapter()
        page = ChatPageDriver(adapter)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                await page.frames()
        await page.chat.restore("f" * 32, [], page.request)
        await page.chat.delete_conversations(f"{CONVERSATION} {'a' * 32} no-id", page.request)
        return [*adapter.closed_s], await page.chat.restore(CONVERSATION, [], page.request)

    closed_s, shown = run_on_virtual_time(main())
    assert closed_s == [1.5] and shown[0] == []


def test_closed_page_stops_answers_of_conversations_that_it_left() -> None:
    async def main() -> list[float]:
        adapter = SlowAdapter(first_s=55.0)
        page = ChatPageDriver(adapter)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                await page.frames()
        await page.chat.restore("f" * 32, [], page.request)
        await asyncio.sleep(20.0)
        await page.chat.unload(page.request)
        await asyncio.sleep(200.0)
        return adapter.closed_s

    assert run_on_virtual_time(main()) == [21.5 + GRACE_S]


def test_answer_that_service_lost_is_marked_as_cut() -> None:
    async def main() -> tuple[Any, ...]:
        page = ChatPageDriver(SlowAdapter())
        frames = await page.frames()
        drawn = [user_message("Count."), *frames[-2][0]]
        return await ChatPageDriver(SlowAdapter()).chat.restore(CONVERSATION, drawn, make_request("b"))

    messages, _, _, _, stage, *others = restored = run_on_virtual_time(main())
    assert messages[-1]["metadata"]["title"] == strings.OUTCOMES["truncated"]
    assert strings.ANSWER_CUT in str(messages[-1]) and strings.KEPT in str(messages[-1])
    assert strings.OUTCOMES["truncated"] in stage and not goes_on(restored)
    assert [others[3]["visible"], others[4]["visible"]] == [True, True], "Continue and Retry"


def test_own_providers_are_closed_after_the_answer_that_outlives_its_page() -> None:
    async def main() -> list[tuple[bool, bool]]:
        own = FakeProviders(SlowAdapter(), has_key=True)
        answer_service = make_answer_service(FakeProviders(SlowAdapter()), with_keys=lambda _: own)
        page = ChatPageDriver(SlowAdapter())
        page.chat = ChatHandlers(answer_service)
        await page.chat.set_key("openai:a", "sk-own-0123456789", page.request)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                await page.frames(provider="openai:a")
        page_session = answer_service.page_sessions.get("a")
        closing = asyncio.create_task(page.chat.unload(page.request))
        await asyncio.sleep(0.5)
        states = [(own.closed, bool(page_session.keys))]
        await closing
        return [*states, (own.closed, bool(own.adapter.closed_s))]

    assert run_on_virtual_time(main()) == [(False, False), (True, True)]


def test_answer_of_cleared_conversation_is_not_shown() -> None:
    async def main() -> tuple[list[ChatUpdate], tuple[Any, ...], tuple[Any, ...], tuple[Any, ...], list[float]]:
        adapter = SlowAdapter()
        page = ChatPageDriver(adapter)
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(1.7)
        emptied = await page.chat.clear([], CONVERSATION, page.request)
        frames, settled = await asking, page.chat.discard_stale_update(page.request)
        assert page.chat.current_history([{"role": "user"}], page.request) == []
        await page.frames()
        assert page.chat.current_history([{"role": "user"}], page.request) == [{"role": "user"}]
        return frames, emptied, settled, page.chat.discard_stale_update(page.request), adapter.closed_s[:1]

    frames, emptied, settled, after_the_next, closed_s = run_on_virtual_time(main())
    assert settled == emptied, "a frame that was under way was drawn after the empty page: all of it goes again"
    assert after_the_next == (gr.skip(),) * len(emptied), "nothing of an answer that stands"
    assert closed_s == [1.7]
    assert not any("Stopped" in str(frame) for frame in frames)
    assert emptied[:2] == ([], []) and strings.IDLE in emptied[2]


def test_clear_of_running_answer_can_be_undone_and_leaves_it_stopped() -> None:
    """While a first question is asked, or any is asked again, the service's own copy is without it."""

    async def main() -> tuple[Any, Any, Any]:
        page = ChatPageDriver(SlowAdapter())
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(1.7)
        *_, undo = await page.chat.clear([], CONVERSATION, page.request)
        await asking
        *_, stale = page.chat.discard_stale_update(page.request)
        return undo, stale, page.chat.undo_clear(page.request)

    undo, stale, (shown, kept, _) = run_on_virtual_time(main())
    assert undo == stale == gr.update(visible=True)
    assert shown == kept and shown[0]["role"] == "user"
    assert shown[-1]["metadata"]["title"] == strings.OUTCOMES["cancelled"]


async def begin_message(page: ChatPageDriver, conversation: str = CONVERSATION) -> None:
    verdict, *_ = await page.chat.validate("Count more.", conversation, [user_message("Count.")], page.request)
    assert verdict["is_valid"]


async def begin_retry(page: ChatPageDriver) -> None:
    page.chat.begin_retry([user_message("Count."), assistant_message("one two")], page.request)


@pytest.mark.parametrize(("begin", "kept"), [(begin_message, "Count more."), (begin_retry, "one two")])
@pytest.mark.parametrize("minutes", [0, 30])
def test_question_that_is_begun_before_a_clear_is_not_asked_after_it_and_an_undo_brings_it_back(
    begin: Callable[[ChatPageDriver], Awaitable[None]], kept: str, minutes: int
) -> None:
    async def main() -> tuple[Any, list[ChatUpdate], Any, list[ChatUpdate], list[ChatUpdate], list[ChatRequest]]:
        page = ChatPageDriver(SlowAdapter())
        await page.frames()
        page.answer_service.page_sessions.get("a").slot("chat").finish_sending()
        await asyncio.sleep(60 * minutes)
        await begin(page)
        *_, undo = await page.chat.clear([], CONVERSATION, page.request)
        late = await page.late_frames()
        *_, settled = page.chat.discard_stale_update(page.request)
        messages, *_ = page.chat.undo_clear(page.request)
        after_undo, next_one = await page.late_frames(), await page.frames()
        return (undo, settled), late, messages, after_undo, next_one, page.providers.adapter.requests

    undo, late, messages, after_undo, next_one, requests = run_on_virtual_time(main())
    texts = [message_text(message) for message in messages]
    assert texts[:2] == ["Count.", kept] and texts[-1].startswith(strings.CLEARED_CUT)
    assert undo == (gr.update(visible=True),) * 2 and late == after_undo == []
    assert "Done" in next_one[-1][1] and len(requests) == 2


@pytest.mark.parametrize("is_told", ["before the message", "between its events", "with the answer"])
def test_message_of_a_conversation_that_was_just_opened_is_asked_once(is_told: str) -> None:
    other = CONVERSATION[::-1]

    async def main() -> tuple[list[ChatUpdate], int]:
        page = ChatPageDriver(SlowAdapter())
        await page.frames()
        if is_told == "before the message":
            await page.chat.restore(other, [], page.request)
        await begin_message(page, other)
        if is_told == "between its events":
            await page.chat.restore(other, [], page.request)
        frames = await page.late_frames(conversation=other)
        return frames, len(page.providers.adapter.requests)

    frames, requests = run_on_virtual_time(main())
    assert "Done" in frames[-1][1] and requests == 2


class SlowPrices(FakeProviders):
    """Providers whose prices take two seconds to load."""

    async def load_prices(self, names: Sequence[str]) -> None:
        await asyncio.sleep(2.0)


def test_answer_that_starts_while_its_conversation_is_cleared_is_stopped() -> None:
    async def main() -> tuple[list[ChatUpdate], list[float], tuple[Any, ...]]:
        adapter = SlowAdapter()
        page = ChatPageDriver(adapter)
        page.chat = ChatHandlers(make_answer_service(SlowPrices(adapter)))
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(1.0)
        await page.chat.clear([], CONVERSATION, page.request)
        late = await asking
        return late, adapter.closed_s, await page.chat.restore(CONVERSATION, [], page.request)

    late, closed_s, restored = run_on_virtual_time(main())
    assert late == [] and closed_s in ([], [2.0]) and restored[0] == [] and not goes_on(restored)


def test_changed_key_stops_the_answer_that_uses_the_one_before_and_keeps_the_conversation() -> None:
    async def main() -> tuple[list[ChatUpdate], list[float], list[Any]]:
        adapter = SlowAdapter()
        own = FakeProviders(adapter, has_key=True)
        page = ChatPageDriver(adapter)
        page.chat = ChatHandlers(make_answer_service(own, with_keys=lambda _: own))
        await page.chat.set_key("openai:a", "sk-own-0123456789", page.request)
        asking = asyncio.create_task(page.frames(provider="openai:a"))
        await asyncio.sleep(1.7)
        await page.chat.set_key("openai:a", "sk-own-9876543210", page.request)
        frames, closed_s = await asking, [*adapter.closed_s]
        return frames, closed_s, page.chat.current_history([user_message("Count.")], page.request)

    frames, closed_s, history = run_on_virtual_time(main())
    assert closed_s == [1.7] and last_title(frames[-1]).startswith("Stopped")
    assert history == [user_message("Count.")]


def test_question_of_a_restored_answer_that_is_cleared_is_not_asked_again() -> None:
    async def main() -> tuple[list[ChatUpdate], list[float], int]:
        adapter = SlowAdapter()
        page = ChatPageDriver(adapter)
        await leave_answer(page, 1.5)
        page.request = make_request("b")
        await page.chat.restore(CONVERSATION, [], page.request)
        await page.chat.clear([], CONVERSATION, page.request)
        late = await page.late_frames()
        await asyncio.sleep(1.0)
        return late, adapter.closed_s, len(adapter.requests)

    assert run_on_virtual_time(main()) == ([], [1.5], 1)


def test_new_question_stops_previous_answer() -> None:
    async def main() -> tuple[list[ChatUpdate], list[ChatUpdate]]:
        page = ChatPageDriver(SlowAdapter())
        first = asyncio.create_task(page.frames())
        await asyncio.sleep(1.5)
        second = await page.frames()
        return await first, second

    first, second = run_on_virtual_time(main())
    assert last_title(first[-1]).startswith("Stopped")
    assert "Done" in second[-1][1]


def test_truncated_answer_keeps_text_and_is_labelled_cut_off() -> None:
    async def main() -> list[ChatUpdate]:
        return await ChatPageDriver(SlowAdapter(cut=True)).frames()

    last = run_on_virtual_time(main())[-1]
    assert [last[5]["visible"], last[6]["visible"]] == [True, True], "it can be continued and tried again"
    assert answer_text(last) == "one two three"
    assert last_title(last).startswith("Interrupted")


def test_history_and_settings_reach_model() -> None:
    async def main() -> ChatRequest:
        adapter = SlowAdapter()
        history = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1."}]
        await ChatPageDriver(adapter).frames("Two?", history, system="Brief.", temperature="0.5", max_tokens="7")
        return adapter.requests[0]

    answer = run_on_virtual_time(main())
    roles = [("system", "Brief."), ("user", "One?"), ("assistant", "1."), ("user", "Two?")]
    assert answer.messages == tuple(Message(role, content) for role, content in roles)  # type: ignore[arg-type]  # literals
    assert (answer.temperature, answer.max_tokens, answer.streamed) == (0.5, 7, True)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["local"]),
        ({"provider": "ollama:a"}, ["ollama:a"]),
        ({"provider": "ollama:a", "model": " b:7b "}, ["ollama:b:7b"]),
        ({"provider": "sim:steady"}, ["sim:steady"]),
    ],
)
def test_custom_model_replaces_default(settings: dict[str, str], names: list[str]) -> None:
    async def main() -> list[str]:
        page = ChatPageDriver(SlowAdapter())
        await page.frames(**settings)
        await page.frames(**settings)
        return page.providers.names

    assert run_on_virtual_time(main()) == names, "one session for the conversation"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"text": "  "}, strings.EMPTY_MESSAGE),
        ({"text": "x" * 32_001}, "32,001 characters are 1 too many"),
        ({"text": "half \ud83c"}, "cannot be sent"),
        ({"strategy": "batch:lots"}, "batch:100ms"),
        ({"provider": "replay:/etc/passwd"}, "There is no provider"),
        ({"provider": None}, "There is no provider"),
        ({"provider": "local", "model": "x"}, "local has no other models"),
        ({"provider": "sim:steady", "model": "x"}, "sim:steady has no other models"),
        ({"provider": "openai:a"}, "Label is not set up on this service"),
        ({"provider": "openai:a", "model": "x" * 201}, "up to 200 characters"),
        ({"temperature": "warm"}, strings.BAD_TEMPERATURE),
        ({"temperature": "2.1"}, strings.BAD_TEMPERATURE),
        ({"temperature": "nan"}, strings.BAD_TEMPERATURE),
        ({"max_tokens": "0"}, strings.BAD_MAX_TOKENS),
        ({"max_tokens": "1.5"}, strings.BAD_MAX_TOKENS),
        ({"system": "x" * 32_001}, "system prompt has 32,001"),
        ({"budget": "much"}, strings.BAD_BUDGET),
        ({"budget": "-1"}, strings.BAD_BUDGET),
        ({"budget": "nan"}, strings.BAD_BUDGET),
        ({"price": "cheap"}, strings.BAD_PRICE),
        ({"price": "1"}, strings.BAD_PRICE),
    ],
)
def test_invalid_question_shows_one_line_error(settings: dict[str, Any], says: str) -> None:
    async def main() -> tuple[list[ChatUpdate], int]:
        adapter = SlowAdapter()
        return await ChatPageDriver(adapter).frames(**({"text": "Count."} | settings)), len(adapter.requests)

    frames, requests = run_on_virtual_time(main())
    assert len(frames) == 1 and requests == 0
    assert [frames[0][5]["visible"], frames[0][6]["visible"]] == ["hidden", True], "there is nothing to continue"
    assert last_title(frames[0]) == strings.NOT_SENT
    assert says in frames[0][0][-1]["content"][0]["text"]
    assert stop_button_visible(frames[0]) is False


def test_message_is_validated_before_sending() -> None:
    async def main() -> list[Any]:
        page = ChatPageDriver(SlowAdapter())
        texts = "", "x" * 33_000, "Count."
        verdicts = [(await page.chat.validate(text, CONVERSATION, [], page.request))[0]["message"] for text in texts]
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(0.5)
        verdicts.append((await page.chat.validate("Count.", CONVERSATION, [], page.request))[0]["message"])
        await asking
        return verdicts

    empty, long, good, busy = run_on_virtual_time(main())
    assert (empty, good, busy) == (strings.EMPTY_MESSAGE, "", strings.BUSY)
    assert long.startswith("33,000 characters are 1,000 too many")


def test_internal_defect_is_shown_without_details(caplog: pytest.LogCaptureFixture) -> None:
    async def main(broken: Callable[..., Session]) -> list[ChatUpdate]:
        page = ChatPageDriver(SlowAdapter())
        page.providers.new_session = broken  # type: ignore[method-assign]  # the defect under test
        return await page.frames()

    def raise_defect(names: Sequence[str], *, clock: Clock) -> Session:
        raise RuntimeError("secret insides")

    frames = run_on_virtual_time(main(raise_defect))
    assert strings.DEFECT in frames[-1][1]
    assert "secret insides" not in str(frames)
    assert "secret insides" in caplog.text

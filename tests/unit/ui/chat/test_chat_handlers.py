"""Tests of the chat tab's event handlers without a browser, on virtual time."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import gradio as gr
import pytest

from streaming.clock import Clock
from streaming.messages import ChatRequest, Message
from streaming.session import Session
from tests.unit.ui.ui_fixtures import FakeProviders, SlowAdapter, make_answer_service, make_request
from tests.virtual_time import loop_clock, run_on_virtual_time
from ui import strings
from ui.answers import TICK_INTERVAL_S
from ui.chat.handlers import ChatHandlers, ChatUpdate


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
        defaults: dict[str, Any] = {
            "provider": "local",
            "model": "",
            "strategy": "direct",
            "system": "",
            "temperature": "",
            "max_tokens": "",
            "budget": "",
            "streamed": True,
            "brought": "",
        }
        return self.chat.ask(text, list(history), request=self.request, **(defaults | other))

    async def frames(self, *arguments: Any, **other: Any) -> list[ChatUpdate]:
        return [frame async for frame in self.ask(*arguments, **other)]


def answer_text(frame: ChatUpdate) -> str:
    return "".join(p["text"] for turn in frame[0] if not turn["metadata"] for p in turn["content"])


def last_title(frame: ChatUpdate) -> str:
    return str(frame[0][-1]["metadata"]["title"])


def stop_button_visible(frame: ChatUpdate) -> bool | None:
    """Return whether an update shows or hides Stop; None if it leaves it unchanged."""
    shown: bool | str | None = frame[4].get("visible")
    return None if shown is None else shown is True


def test_answer_updates_grow_and_end_with_receipt() -> None:
    async def main() -> list[ChatUpdate]:
        return await ChatPageDriver(SlowAdapter()).frames()

    frames = run_on_virtual_time(main())
    lengths = [len(answer_text(frame)) for frame in frames]
    assert lengths == sorted(lengths) and len(set(lengths)) == 4
    assert [stop_button_visible(frame) for frame in frames] == [True, *[None] * (len(frames) - 2), False]
    assert answer_text(frames[-1]) == "one two three"
    assert last_title(frames[-1]).startswith("Complete · 13 characters")


def test_page_is_updated_twice_a_second_while_waiting() -> None:
    async def main() -> list[float]:
        at_s = []
        async with aclosing(ChatPageDriver(SlowAdapter(first_s=3.0)).ask()) as frames:
            async for _ in frames:
                at_s.append(loop_clock()())
        return at_s

    at_s = run_on_virtual_time(main())
    assert max(b - a for a, b in pairwise(at_s)) <= TICK_INTERVAL_S + 1e-9


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
    assert last_title(frames[-1]).startswith(f"Stopped · {len(kept)} characters")
    assert stop_button_visible(frames[-1]) is False
    assert "Provider stopped within" in frames[-1][0][-1]["content"][0]["text"]


def test_closed_page_ends_its_answer() -> None:
    async def main() -> tuple[list[float], int]:
        adapter = SlowAdapter(first_s=60.0)
        page = ChatPageDriver(adapter)
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(5.0)
        await page.chat.unload(page.request)
        known = len(page.answer_service.page_sessions)
        await asking
        return adapter.closed_s, known

    assert run_on_virtual_time(main()) == ([5.0], 0)


def test_closing_generator_closes_provider() -> None:
    async def main() -> list[float]:
        adapter = SlowAdapter()
        async with aclosing(ChatPageDriver(adapter).ask()) as frames:
            async for frame in frames:
                if answer_text(frame):
                    break
        return adapter.closed_s

    assert run_on_virtual_time(main()) == [1.0]


def test_answer_of_cleared_conversation_is_not_shown() -> None:
    async def main() -> tuple[list[ChatUpdate], tuple[Any, ...], tuple[Any, ...], tuple[Any, ...], list[float]]:
        adapter = SlowAdapter()
        page = ChatPageDriver(adapter)
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(1.7)
        emptied = await page.chat.clear(page.request)
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


def test_new_question_stops_previous_answer() -> None:
    async def main() -> tuple[list[ChatUpdate], list[ChatUpdate]]:
        page = ChatPageDriver(SlowAdapter())
        first = asyncio.create_task(page.frames())
        await asyncio.sleep(1.5)
        second = await page.frames()
        return await first, second

    first, second = run_on_virtual_time(main())
    assert last_title(first[-1]).startswith("Stopped")
    assert last_title(second[-1]).startswith("Complete")


def test_truncated_answer_keeps_text_and_is_labelled_cut_off() -> None:
    async def main() -> list[ChatUpdate]:
        return await ChatPageDriver(SlowAdapter(cut=True)).frames()

    last = run_on_virtual_time(main())[-1]
    assert [last[5]["visible"], last[6]["visible"]] == [True, True], "it can be continued and tried again"
    assert answer_text(last) == "one two three"
    assert last_title(last).startswith("Cut off")


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
        ({"text": "x" * 32_001}, "32,001 characters are too many"),
        ({"text": "half \ud83c"}, "cannot be sent"),
        ({"strategy": "batch:lots"}, "batch:100ms"),
        ({"provider": "replay:/etc/passwd"}, "There is no provider"),
        ({"provider": None}, "There is no provider"),
        ({"provider": "local", "model": "x"}, "local has no other models"),
        ({"provider": "sim:steady", "model": "x"}, "sim:steady has no other models"),
        ({"provider": "openai:a"}, "set OPENAI\\_API\\_KEY"),
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
    ],
)
def test_invalid_question_shows_one_line_error(settings: dict[str, Any], says: str) -> None:
    async def main() -> tuple[list[ChatUpdate], int]:
        adapter = SlowAdapter()
        return await ChatPageDriver(adapter).frames(**({"text": "Count."} | settings)), len(adapter.requests)

    frames, requests = run_on_virtual_time(main())
    assert len(frames) == 1 and requests == 0
    assert [frames[0][5]["visible"], frames[0][6]["visible"]] == ["hidden", True], "there is nothing to continue"
    assert last_title(frames[0]) == strings.NOT_ANSWERED
    assert says in frames[0][0][0]["content"][0]["text"]
    assert stop_button_visible(frames[0]) is False


def test_message_is_validated_before_sending() -> None:
    async def main() -> list[Any]:
        page = ChatPageDriver(SlowAdapter())
        verdicts = [page.chat.validate(text, page.request)["message"] for text in ("", "x" * 33_000, "Count.")]
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(0.5)
        verdicts.append(page.chat.validate("Count.", page.request)["message"])
        await asking
        return verdicts

    empty, long, good, busy = run_on_virtual_time(main())
    assert (empty, good, busy) == (strings.EMPTY_MESSAGE, "", strings.BUSY)
    assert long.startswith("33,000 characters are too many")


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

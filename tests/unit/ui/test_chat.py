"""Asking, stopping and leaving, without a browser: the events of the page driven on virtual time."""

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
from tests.unit.ui.house import House, Slow, request
from tests.virtual_time import clock, run_virtual
from ui import texts
from ui.chat import Chat, Frame
from ui.desk import TICK_S, Desk


class Page:
    """One visitor's page over `Chat`, as Gradio would call it."""

    def __init__(self, adapter: Slow, session_hash: str = "a") -> None:
        self.house = House(adapter)
        self.desk = Desk(self.house, clock())
        self.chat = Chat(self.desk)
        self.request = request(session_hash)

    def ask(self, text: str = "Count.", history: Sequence[dict[str, Any]] = (), **other: Any) -> AsyncGenerator[Frame]:
        given: dict[str, Any] = {
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
        return self.chat.ask(text, list(history), request=self.request, **(given | other))

    async def frames(self, *arguments: Any, **other: Any) -> list[Frame]:
        return [frame async for frame in self.ask(*arguments, **other)]


def answer_text(frame: Frame) -> str:
    return "".join(p["text"] for turn in frame[0] if not turn["metadata"] for p in turn["content"])


def title(frame: Frame) -> str:
    return str(frame[0][-1]["metadata"]["title"])


def stop_button(frame: Frame) -> bool | None:
    """Whether a frame shows Stop or hides it; None when it leaves it as it is."""
    shown: bool | str | None = frame[4].get("visible")
    return None if shown is None else shown is True


def test_an_answer_grows_and_ends_with_its_receipt() -> None:
    async def main() -> list[Frame]:
        return await Page(Slow()).frames()

    frames = run_virtual(main())
    lengths = [len(answer_text(frame)) for frame in frames]
    assert lengths == sorted(lengths) and len(set(lengths)) == 4
    assert [stop_button(frame) for frame in frames] == [True, *[None] * (len(frames) - 2), False]
    assert answer_text(frames[-1]) == "one two three"
    assert title(frames[-1]).startswith("Complete · 13 characters")


def test_while_waiting_the_page_hears_something_twice_a_second() -> None:
    async def main() -> list[float]:
        at_s = []
        async with aclosing(Page(Slow(first_s=3.0)).ask()) as frames:
            async for _ in frames:
                at_s.append(clock()())
        return at_s

    at_s = run_virtual(main())
    assert max(b - a for a, b in pairwise(at_s)) <= TICK_S + 1e-9


@pytest.mark.parametrize(("stop_at_s", "kept"), [(0.2, ""), (1.7, "one "), (2.9, "one two ")])
def test_stop_ends_the_provider_at_once_and_the_receipt_still_comes(stop_at_s: float, kept: str) -> None:
    async def main() -> tuple[list[Frame], list[float], float]:
        adapter = Slow()
        page = Page(adapter)
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(stop_at_s)
        await page.chat.stop(page.request)
        stopped_s = clock()()
        return await asking, adapter.closed_s, stopped_s

    frames, closed_s, stopped_s = run_virtual(main())
    assert closed_s == [stop_at_s] and stopped_s == stop_at_s
    assert answer_text(frames[-1]) == kept
    assert title(frames[-1]).startswith(f"Stopped · {len(kept)} characters")
    assert stop_button(frames[-1]) is False
    assert "Provider stopped within" in frames[-1][0][-1]["content"][0]["text"]


def test_a_page_that_is_left_takes_its_answer_along() -> None:
    async def main() -> tuple[list[float], int]:
        adapter = Slow(first_s=60.0)
        page = Page(adapter)
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(5.0)
        await page.chat.leave(page.request)
        known = len(page.desk.visitors)
        await asking
        return adapter.closed_s, known

    assert run_virtual(main()) == ([5.0], 0)


def test_closing_the_generator_ends_the_provider() -> None:
    async def main() -> list[float]:
        adapter = Slow()
        async with aclosing(Page(adapter).ask()) as frames:
            async for frame in frames:
                if answer_text(frame):
                    break
        return adapter.closed_s

    assert run_virtual(main()) == [1.0]


def test_an_answer_of_a_cleared_conversation_is_shown_no_more() -> None:
    async def main() -> tuple[list[Frame], tuple[Any, ...], tuple[Any, ...], tuple[Any, ...], list[float]]:
        adapter = Slow()
        page = Page(adapter)
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(1.7)
        emptied = await page.chat.forget(page.request)
        frames, settled = await asking, page.chat.settle(page.request)
        assert page.chat.kept([{"role": "user"}], page.request) == []
        await page.frames()
        assert page.chat.kept([{"role": "user"}], page.request) == [{"role": "user"}]
        return frames, emptied, settled, page.chat.settle(page.request), adapter.closed_s[:1]

    frames, emptied, settled, after_the_next, closed_s = run_virtual(main())
    assert settled == emptied, "a frame that was under way was drawn after the empty page: all of it goes again"
    assert after_the_next == (gr.skip(),) * len(emptied), "nothing of an answer that stands"
    assert closed_s == [1.7]
    assert not any("Stopped" in str(frame) for frame in frames)
    assert emptied[:2] == ([], []) and texts.IDLE in emptied[2]


def test_a_new_question_stops_the_one_before_it() -> None:
    async def main() -> tuple[list[Frame], list[Frame]]:
        page = Page(Slow())
        first = asyncio.create_task(page.frames())
        await asyncio.sleep(1.5)
        second = await page.frames()
        return await first, second

    first, second = run_virtual(main())
    assert title(first[-1]).startswith("Stopped")
    assert title(second[-1]).startswith("Complete")


def test_a_cut_answer_keeps_its_text_and_is_called_cut() -> None:
    async def main() -> list[Frame]:
        return await Page(Slow(cut=True)).frames()

    last = run_virtual(main())[-1]
    assert [last[5]["visible"], last[6]["visible"]] == [True, True], "it can be continued and tried again"
    assert answer_text(last) == "one two three"
    assert title(last).startswith("Cut off")


def test_history_and_settings_reach_the_model() -> None:
    async def main() -> ChatRequest:
        adapter = Slow()
        history = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1."}]
        await Page(adapter).frames("Two?", history, system="Brief.", temperature="0.5", max_tokens="7")
        return adapter.asked[0]

    asked = run_virtual(main())
    roles = [("system", "Brief."), ("user", "One?"), ("assistant", "1."), ("user", "Two?")]
    assert asked.messages == tuple(Message(role, content) for role, content in roles)  # type: ignore[arg-type]  # literals
    assert (asked.temperature, asked.max_tokens, asked.streamed) == (0.5, 7, True)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["local"]),
        ({"provider": "ollama:a"}, ["ollama:a"]),
        ({"provider": "ollama:a", "model": " b:7b "}, ["ollama:b:7b"]),
        ({"provider": "sim:steady"}, ["sim:steady"]),
    ],
)
def test_a_model_of_ones_own_takes_the_place_of_the_default(settings: dict[str, str], names: list[str]) -> None:
    async def main() -> list[str]:
        page = Page(Slow())
        await page.frames(**settings)
        await page.frames(**settings)
        return page.house.names

    assert run_virtual(main()) == names, "one session for the conversation"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"text": "  "}, texts.EMPTY_MESSAGE),
        ({"text": "x" * 32_001}, "32,001 characters are too many"),
        ({"text": "half \ud83c"}, "cannot be sent"),
        ({"strategy": "batch:lots"}, "batch:100ms"),
        ({"provider": "replay:/etc/passwd"}, "There is no provider"),
        ({"provider": None}, "There is no provider"),
        ({"provider": "local", "model": "x"}, "local has no other models"),
        ({"provider": "sim:steady", "model": "x"}, "sim:steady has no other models"),
        ({"provider": "openai:a"}, "set OPENAI\\_API\\_KEY"),
        ({"provider": "openai:a", "model": "x" * 201}, "up to 200 characters"),
        ({"temperature": "warm"}, texts.BAD_TEMPERATURE),
        ({"temperature": "2.1"}, texts.BAD_TEMPERATURE),
        ({"temperature": "nan"}, texts.BAD_TEMPERATURE),
        ({"max_tokens": "0"}, texts.BAD_MAX_TOKENS),
        ({"max_tokens": "1.5"}, texts.BAD_MAX_TOKENS),
        ({"system": "x" * 32_001}, "system prompt has 32,001"),
        ({"budget": "much"}, texts.BAD_BUDGET),
        ({"budget": "-1"}, texts.BAD_BUDGET),
        ({"budget": "nan"}, texts.BAD_BUDGET),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_line(settings: dict[str, Any], says: str) -> None:
    async def main() -> tuple[list[Frame], int]:
        adapter = Slow()
        return await Page(adapter).frames(**({"text": "Count."} | settings)), len(adapter.asked)

    frames, asked = run_virtual(main())
    assert len(frames) == 1 and asked == 0
    assert [frames[0][5]["visible"], frames[0][6]["visible"]] == ["hidden", True], "there is nothing to continue"
    assert title(frames[0]) == texts.NOT_ANSWERED
    assert says in frames[0][0][0]["content"][0]["text"]
    assert stop_button(frames[0]) is False


def test_a_message_is_checked_before_it_leaves_its_box() -> None:
    async def main() -> list[Any]:
        page = Page(Slow())
        verdicts = [page.chat.check(text, page.request)["message"] for text in ("", "x" * 33_000, "Count.")]
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(0.5)
        verdicts.append(page.chat.check("Count.", page.request)["message"])
        await asking
        return verdicts

    empty, long, good, busy = run_virtual(main())
    assert (empty, good, busy) == (texts.EMPTY_MESSAGE, "", texts.BUSY)
    assert long.startswith("33,000 characters are too many")


def test_a_defect_is_said_without_its_insides(caplog: pytest.LogCaptureFixture) -> None:
    async def main(broken: Callable[..., Session]) -> list[Frame]:
        page = Page(Slow())
        page.house.session = broken  # type: ignore[method-assign]  # the defect under test
        return await page.frames()

    def broken(names: Sequence[str], *, clock: Clock) -> Session:
        raise RuntimeError("secret insides")

    frames = run_virtual(main(broken))
    assert texts.DEFECT in frames[-1][1]
    assert "secret insides" not in str(frames)
    assert "secret insides" in caplog.text

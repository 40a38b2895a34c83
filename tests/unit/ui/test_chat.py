"""Asking, stopping and leaving, without a browser: the events of the page driven on virtual time."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from streaming.clock import Clock
from streaming.errors import MissingKey, TruncatedStream
from streaming.events import Event, Finish, TextDelta
from streaming.messages import ChatRequest, Message
from streaming.meter import Rates
from streaming.retry import NO_RECOVERY
from streaming.session import Route, Session
from tests.virtual_time import clock, run_virtual
from ui import texts
from ui.chat import MAX_MESSAGE_CHARS, TICK_S, Chat, Frame


@dataclass(frozen=True)
class Info:
    name: str
    label: str = "Label"
    ready: bool = True
    needs: str | None = None
    simulated: bool = False


class Slow:
    """Waits, then says "one two three" a word a second; `cut` ends it there. Keeps what it was asked and its closes."""

    def __init__(self, first_s: float = 1.0, *, cut: bool = False) -> None:
        self.first_s, self.cut = first_s, cut
        self.asked: list[ChatRequest] = []
        self.closed_s: list[float] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        try:
            await asyncio.sleep(self.first_s)
            for word in ("one ", "two ", "three"):
                yield TextDelta(word)
                await asyncio.sleep(1.0)
            if self.cut:
                raise TruncatedStream("the stream ended without a finish reason")
            yield Finish("stop")
        finally:
            self.closed_s.append(clock()())

    async def aclose(self) -> None:
        """Nothing is held."""


class House:
    """Stands in for the providers: one adapter for every name but `openai:…`, which has no key."""

    def __init__(self, adapter: Slow) -> None:
        self.adapter = adapter
        self.names: list[str] = []

    def listing(self) -> Sequence[Info]:
        return [Info("local"), Info("sim:steady", simulated=True), Info("openai:a"), Info("ollama:a")]

    def session(self, names: Sequence[str], *, clock: Clock) -> Session:
        if names[0].startswith("openai"):
            raise MissingKey("OpenAI needs a key: set OPENAI_API_KEY, then ask again")
        self.names.append(names[0])
        return Session([Route(names[0], self.adapter, "")], clock, policy=NO_RECOVERY)

    def rates(self, name: str) -> Rates:
        return Rates()


class Page:
    """One visitor's page over `Chat`, as Gradio would call it."""

    def __init__(self, adapter: Slow, session_hash: str = "a") -> None:
        self.house = House(adapter)
        self.chat = Chat(self.house, clock())
        self.request = cast(gr.Request, SimpleNamespace(session_hash=session_hash))

    def ask(self, text: str = "Count.", history: Sequence[dict[str, Any]] = (), **other: Any) -> AsyncGenerator[Frame]:
        given: dict[str, Any] = {
            "provider": "local",
            "model": "",
            "strategy": "direct",
            "system": "",
            "temperature": "",
            "max_tokens": "",
            "streamed": True,
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
        known = len(page.chat.visitors)
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
        ({"text": "x" * (MAX_MESSAGE_CHARS + 1)}, "4,001 characters are too many"),
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
        ({"system": "x" * 4001}, "system prompt has 4,001"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_line(settings: dict[str, Any], says: str) -> None:
    async def main() -> tuple[list[Frame], int]:
        adapter = Slow()
        return await Page(adapter).frames(**({"text": "Count."} | settings)), len(adapter.asked)

    frames, asked = run_virtual(main())
    assert len(frames) == 1 and asked == 0
    assert title(frames[0]) == texts.NOT_ANSWERED
    assert says in frames[0][0][0]["content"][0]["text"]
    assert stop_button(frames[0]) is False


def test_a_message_is_checked_before_it_leaves_its_box() -> None:
    async def main() -> list[Any]:
        page = Page(Slow())
        verdicts = [page.chat.check(text, page.request)["message"] for text in ("", "x" * 5000, "Count.")]
        asking = asyncio.create_task(page.frames())
        await asyncio.sleep(0.5)
        verdicts.append(page.chat.check("Count.", page.request)["message"])
        await asking
        return verdicts

    empty, long, good, busy = run_virtual(main())
    assert (empty, good, busy) == (texts.EMPTY_MESSAGE, "", texts.BUSY)
    assert long.startswith("5,000 characters are too many")


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

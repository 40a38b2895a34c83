"""Asking and stopping on the page: the way from Gradio's inputs to `streaming.pipeline.answer` and back."""

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol

import gradio as gr

from streaming import strategies
from streaming.clock import Clock
from streaming.errors import UsageError
from streaming.messages import ChatRequest
from streaming.meter import Rates
from streaming.pipeline import Answer, answer
from streaming.session import Session
from ui import texts
from ui.conversation import Turn, messages
from ui.screen import Screen
from ui.visitors import Visitor, Visitors

TICK_S = 0.5
"""The longest time without an update while waiting: only an update notices that the page is gone."""
MAX_MESSAGE_CHARS = 4000
MAX_SYSTEM_CHARS = 4000
MAX_MODEL_CHARS = 200
LOCAL = "local"
HIDDEN: Final = "hidden"
"""Gradio's word for what stays in the document while it is not shown, ready to be clicked at once."""

log = logging.getLogger(__name__)

Frame = tuple[list[Turn], str, str, str, Any, Any, Any]
"""One update of the page: messages, stage line, announcement, meter, Stop button, the "ask for a stream" switch,
the box for the message."""


class Listed(Protocol):
    """A row of the provider picker; `needs` names what is missing while it is not `ready`."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def ready(self) -> bool: ...
    @property
    def needs(self) -> str | None: ...
    @property
    def simulated(self) -> bool: ...


class Answerers(Protocol):
    """What the page needs of `providers.Providers`."""

    def listing(self) -> Sequence[Listed]: ...
    def session(self, names: Sequence[str], *, clock: Clock) -> Session: ...
    def rates(self, name: str) -> Rates: ...


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its settings, as they come from the page: nothing of it is checked yet."""

    text: str
    history: Sequence[Turn]
    provider: str | None
    model: str | None
    strategy: str | None
    system: str | None
    temperature: str | None
    max_tokens: str | None
    streamed: bool


class Chat:
    """The conversation tab's events. Times are on `clock`, the running loop's timebase."""

    def __init__(self, providers: Answerers, clock: Clock) -> None:
        self._providers = providers
        self._clock = clock
        self.visitors = Visitors()

    async def ask(
        self,
        message: str,
        history: list[dict[str, Any]],
        provider: str | None,
        model: str | None,
        strategy: str | None,
        system: str | None,
        temperature: str | None,
        max_tokens: str | None,
        streamed: bool,
        request: gr.Request,
    ) -> AsyncGenerator[Frame, None]:
        """Answer on the page, frame by frame; the last frame has the receipt, also after a stop."""
        question = Question(message, history, provider, model, strategy, system, temperature, max_tokens, streamed)
        visitor = self.visitors.of(request.session_hash)
        simulated = self._listed(provider, lambda row: row.simulated)
        no_price = texts.SIMULATED_PRICE if simulated else texts.LOCAL_PRICE if provider == LOCAL else None
        screen = Screen(self._clock(), simulated=simulated, no_price=no_price or texts.UNKNOWN_PRICE)
        streamed_after = streamed
        try:
            session, asked = self._answer(visitor, question)
            async with aclosing(self._frames(visitor, asked, screen)) as frames:
                async for frame in frames:
                    yield frame
            streamed_after = session.streamed
        except UsageError as error:
            screen.refuse(str(error))
        except Exception:
            log.exception("an answer on the page broke")
            screen.refuse(texts.DEFECT)
        yield _last_frame(screen, streamed_after)

    async def stop(self, request: gr.Request) -> None:
        """End the answer under way; the asking generator then shows the receipt."""
        await self.visitors.of(request.session_hash).stop()

    async def forget(self, request: gr.Request) -> None:
        """The conversation was cleared."""
        await self.visitors.of(request.session_hash).forget()

    async def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        await self.visitors.leave(request.session_hash)

    def check(self, text: str, request: gr.Request) -> dict[str, Any]:
        """Say whether a message can be sent; the text stays in its box if not."""
        problem = text_problem(text)
        if problem is None and self.visitors.of(request.session_hash).busy:
            problem = texts.BUSY
        verdict: dict[str, Any] = gr.validate(problem is None, problem or "")
        return verdict

    async def _frames(self, visitor: Visitor, asked: Answer, screen: Screen) -> AsyncGenerator[Frame, None]:
        await visitor.begin(asked)
        async with aclosing(asked):
            yield _first_frame(screen)
            while not asked.ended:
                events = await asked.ready(TICK_S)
                now = self._clock()
                screen.feed(events, now)
                screen.draw(asked.reading(), now)
                if not asked.ended:
                    yield _frame(screen)
            await visitor.settled()
        screen.close(asked.receipt(), self._clock())

    def _answer(self, visitor: Visitor, question: Question) -> tuple[Session, Answer]:
        """Check a question and make its answer. Raises UsageError."""
        if (problem := text_problem(question.text)) is not None:
            raise UsageError(problem)
        name = self._name(question)
        strategy = strategies.parse(question.strategy or strategies.DEFAULT).make()
        request = _request(question)
        session = visitor.session(name, lambda name: self._providers.session([name], clock=self._clock))
        session.streamed = question.streamed
        return session, answer(request, session, strategy, clock=self._clock, rates=self._providers.rates)

    def _name(self, question: Question) -> str:
        """Give the full name to ask; only what the picker offers can be asked, under another model's name if given."""
        name, model = question.provider or "", (question.model or "").strip()
        if not self._listed(name, lambda row: True):
            raise UsageError(texts.UNKNOWN_PROVIDER.format(name=name))
        provider, _, _ = name.partition(":")
        if not model:
            return name
        if len(model) > MAX_MODEL_CHARS:
            raise UsageError(texts.LONG_MODEL.format(limit=MAX_MODEL_CHARS))
        if name == LOCAL or self._listed(name, lambda row: row.simulated):
            raise UsageError(texts.NO_MODELS.format(name=name))
        return f"{provider}:{model}"

    def _listed(self, provider: str | None, says: Callable[[Listed], bool]) -> bool:
        return any(says(row) for row in self._providers.listing() if row.name == provider)


def text_problem(text: str) -> str | None:
    """Say what keeps a message from being sent, None if nothing does."""
    if not text.strip():
        return texts.EMPTY_MESSAGE
    if len(text) > MAX_MESSAGE_CHARS:
        return texts.LONG_MESSAGE.format(chars=len(text), limit=MAX_MESSAGE_CHARS)
    return texts.UNSENDABLE if any("\ud800" <= c <= "\udfff" for c in text) else None


def strategy_problem(name: str | None) -> str | None:
    """Say what is wrong with a delivery strategy's name, None if nothing is."""
    try:
        strategies.parse(name or strategies.DEFAULT)
    except UsageError as error:
        return str(error)
    return None


def _request(question: Question) -> ChatRequest:
    system = question.system or ""
    if len(system) > MAX_SYSTEM_CHARS:
        raise UsageError(texts.LONG_SYSTEM.format(chars=len(system), limit=MAX_SYSTEM_CHARS))
    max_tokens = _number(question.max_tokens, 1, 100_000, texts.BAD_MAX_TOKENS)
    if max_tokens is not None and max_tokens != int(max_tokens):
        raise UsageError(texts.BAD_MAX_TOKENS)
    return ChatRequest(
        messages=messages(question.history, question.text, system),
        temperature=_number(question.temperature, 0, 2, texts.BAD_TEMPERATURE),
        max_tokens=None if max_tokens is None else int(max_tokens),
        streamed=question.streamed,
    )


def _number(text: str | None, low: float, high: float, problem: str) -> float | None:
    """Read a number that may be left out. Raises UsageError with `problem`."""
    if not (text or "").strip():
        return None
    try:
        value = float(text or "")
    except ValueError:
        raise UsageError(problem) from None
    if not low <= value <= high:
        raise UsageError(problem)
    return value


def _frame(screen: Screen, *controls: Any) -> Frame:
    """Give a frame; without `controls` (Stop, switch, box) these stay as they are, and are not drawn anew."""
    stop, switch, box = controls or (gr.skip(), gr.skip(), gr.skip())
    return screen.messages(), screen.stage, screen.announcement, screen.meter, stop, switch, box


def _first_frame(screen: Screen) -> Frame:
    return _frame(screen, gr.update(visible=True), gr.skip(), gr.update(placeholder=texts.PLACEHOLDER_BUSY))


def _last_frame(screen: Screen, streamed: bool) -> Frame:
    return _frame(screen, gr.update(visible=HIDDEN), streamed, gr.update(placeholder=texts.PLACEHOLDER))

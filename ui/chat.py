"""The conversation tab's events: between Gradio's inputs and outputs and the desk."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

import gradio as gr

from streaming.clock import utc_now
from streaming.errors import UsageError
from ui import export, figures, texts
from ui.conversation import Turn
from ui.desk import Desk
from ui.questions import Question, text_problem
from ui.screen import Screen
from ui.visitors import Visitor

PLACE = "chat"
HIDDEN: Final = "hidden"
"""Gradio's word for what stays in the document while it is not shown, ready to be clicked at once."""

Frame = tuple[list[Turn], str, str, str, Any, Any, Any, Any, Any, Any]
"""One update of the page: messages, stage line, announcement, meter, the buttons Stop, Continue and Retry, what the
page has spent, the "ask for a stream" switch, the box for the message."""


class Chat:
    """Asks at the desk, and shows what comes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

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
        budget: str | None,
        streamed: bool,
        brought: str | None,
        request: gr.Request,
    ) -> AsyncGenerator[Frame, None]:
        """Answer on the page, frame by frame; the last frame has the receipt, also after a stop."""
        question = Question(
            message, history, provider, model, strategy, system, temperature, max_tokens, streamed, budget, brought
        )
        visitor = self._visitor(request)
        screen, lane = self._desk.screen(visitor, question), visitor.lane(PLACE)
        first, lane.asked_in = True, lane.conversation
        async with aclosing(self._desk.answering(PLACE, question, screen, request)) as changes:
            async for _ in changes:
                if lane.asked_in != lane.conversation:
                    return
                if screen.ended:
                    break
                yield _first_frame(screen) if first else _frame(screen)
                first = False
        yield _last_frame(screen, visitor, lane.streamed(streamed))

    async def stop(self, request: gr.Request) -> None:
        """End the answer under way; the asking generator then shows the receipt."""
        await self._visitor(request).lane(PLACE).stop()

    async def forget(self, request: gr.Request) -> tuple[Any, ...]:
        """The conversation was cleared, and what was asking has been cancelled: give the empty page."""
        await self._visitor(request).lane(PLACE).forget()
        return _empty_page()

    def kept(self, history: list[Any], request: gr.Request) -> list[Any]:
        """Give the history to go on from: none directly after the conversation was cleared, whatever the page has."""
        lane = self._visitor(request).lane(PLACE)
        return history if lane.asked_in == lane.conversation else []

    def settle(self, request: gr.Request) -> tuple[Any, ...]:
        """After an answer's end: what came too late into a conversation that was cleared goes again.

        A frame that was under way when `forget` was called may be drawn after the empty page, all parts of it.
        """
        lane, empty = self._visitor(request).lane(PLACE), _empty_page()
        return empty if lane.asked_in != lane.conversation else (gr.skip(),) * len(empty)

    async def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        await self._desk.visitors.leave(request.session_hash)

    def check(self, text: str, request: gr.Request) -> dict[str, Any]:
        """Say whether a message can be sent; the text stays in its box if not."""
        problem = text_problem(text, self._desk.limits)
        if problem is None and self._visitor(request).lane(PLACE).busy:
            problem = texts.BUSY
        verdict: dict[str, Any] = gr.validate(problem is None, problem or "")
        return verdict

    async def bring_key(self, provider: str | None, key: str | None, request: gr.Request) -> tuple[str, str, str]:
        """Take a key of the visitor's; give the provider's badge, an empty box, and what changed for the page to keep.

        The last is `+NAME` or `-NAME` for the variable that a key stands in for, empty where nothing changed.
        """
        visitor = self._visitor(request)
        try:
            variable = self._desk.key_variable(provider)
            await self._desk.bring_key(visitor, variable, (key or "").strip())
        except UsageError as error:
            return figures.badge_problem(str(error)), "", ""
        return self._badge(provider, visitor), "", ("+" if variable in visitor.keys else "-") + variable

    async def forget_key(self, provider: str | None, request: gr.Request) -> tuple[str, str, str]:
        """Let go of the visitor's key for a provider."""
        return await self.bring_key(provider, "", request)

    def warn_of_gone_key(self, provider: str | None, brought: str | None, request: gr.Request) -> Any:
        """Return the badge of a provider whose key the page has brought and this service has lost; else leave it."""
        if self._desk.is_key_gone(self._visitor(request), provider, brought):
            return figures.badge_problem(texts.KEY_GONE.format(name=provider))
        return gr.skip()

    def bring_access_key(self, key: str | None, request: gr.Request) -> tuple[str, str]:
        """Keep the key that this service asks for; give a line that says so, and an empty box."""
        self._visitor(request).access_key = (key or "").strip() or None
        return figures.badge_good(texts.ACCESS_TAKEN), ""

    def badge(self, provider: str | None, request: gr.Request) -> str:
        """Say whether a provider can be asked by this visitor. Blocks: the provider's token tables are read here."""
        visitor = self._visitor(request)
        if provider in {row.name for row in self._desk.listing()}:
            counter = self._desk.providers(visitor).rates(provider).counter
            if counter is not None:
                counter(texts.NAME)
        return self._badge(provider, visitor)

    def _badge(self, provider: str | None, visitor: Visitor) -> str:
        row = next((row for row in self._desk.providers(visitor).listing() if row.name == provider), None)
        return figures.badge(row, own_key=self._desk.key_variable(provider, missing="") in visitor.keys)

    def save_markdown(self, history: Sequence[Turn], request: gr.Request) -> str:
        """Give the conversation as Markdown."""
        visitor = self._visitor(request)
        return export.as_markdown(history, visitor.ledger.facts, utc_now(), [*visitor.keys.values()])

    def save_json(self, history: Sequence[Turn], request: gr.Request) -> str:
        """Give the conversation as JSON."""
        visitor = self._visitor(request)
        return export.as_json(history, visitor.ledger.facts, utc_now(), [*visitor.keys.values()])

    def _visitor(self, request: gr.Request) -> Visitor:
        return self._desk.visitors.of(request.session_hash)


def _empty_page() -> tuple[Any, ...]:
    """Give what a page has before its first question; text in the box for the message stays."""
    hidden = gr.update(visible=HIDDEN)
    box = gr.update(interactive=True, placeholder=texts.PLACEHOLDER, submit_btn=texts.SEND)
    return [], [], figures.stage(texts.IDLE), texts.IDLE, figures.meter(None), hidden, hidden, hidden, box


def _frame(screen: Screen, *controls: Any) -> Frame:
    """Give a frame; without `controls` these stay as they are, and are not drawn anew."""
    stop, go_on, again, spent, switch, box = controls or (gr.skip(),) * 6
    shown = screen.messages(), screen.stage, screen.announcement, screen.meter
    return *shown, stop, go_on, again, spent, switch, box


def _first_frame(screen: Screen) -> Frame:
    hidden = gr.update(visible=HIDDEN)
    box = gr.update(placeholder=texts.PLACEHOLDER_BUSY)
    return _frame(screen, gr.update(visible=True), hidden, hidden, gr.skip(), gr.skip(), box)


def _last_frame(screen: Screen, visitor: Visitor, streamed: bool) -> Frame:
    go_on = gr.update(visible=True if screen.partial else HIDDEN)
    again = gr.update(visible=True if screen.unfinished else HIDDEN)
    box = gr.update(placeholder=texts.PLACEHOLDER)
    return _frame(screen, gr.update(visible=HIDDEN), go_on, again, figures.spent(visitor.ledger), streamed, box)

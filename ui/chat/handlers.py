"""Event handlers of the chat tab: they map Gradio's inputs to `AnswerService` and its views to Gradio's outputs."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from providers.services import SERVICES
from streaming.clock import utc_now
from streaming.errors import UsageError
from ui import html, strings
from ui.answer_view import AnswerView
from ui.answers import AnswerService
from ui.chat import export
from ui.components import HIDDEN_IN_DOM
from ui.form import ChatForm, message_error
from ui.history import HistoryMessage
from ui.page_sessions.sessions import PageSession

SLOT = "chat"

ChatUpdate = tuple[list[HistoryMessage], str, str, str, Any, Any, Any, Any, Any, Any]
"""One update of the page: messages, stage line, announcement, meter, the buttons Stop, Continue and Retry, the spending
line, the streaming switch, and the message textbox."""


class ChatHandlers:
    """Event handlers of the chat tab on an `AnswerService`."""

    def __init__(self, answer_service: AnswerService) -> None:
        self._answer_service = answer_service

    async def ask(  # noqa: PLR0917 - Gradio passes each input of the event by position
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
    ) -> AsyncGenerator[ChatUpdate, None]:
        """Send the message and yield updates of the page; the last one has the receipt, also after a stop."""
        question = ChatForm(
            message, history, provider, model, strategy, system, temperature, max_tokens, streamed, budget, brought
        )
        page_session = self._get_session(request)
        view, slot = self._answer_service.new_view(page_session, question), page_session.slot(SLOT)
        first, slot.last_request_conversation = True, slot.conversation
        async with aclosing(self._answer_service.run(SLOT, question, view, request)) as changes:
            async for _ in changes:
                if slot.last_request_conversation != slot.conversation:
                    return
                if view.ended:
                    break
                yield _first_update(view) if first else _make_update(view)
                first = False
        yield _last_update(view, page_session, slot.next_is_streamed(streamed))

    async def stop(self, request: gr.Request) -> None:
        """Stop the answer under way; the running `ask` generator then shows its receipt."""
        await self._get_session(request).slot(SLOT).stop()

    async def clear(self, request: gr.Request) -> tuple[Any, ...]:
        """Reset the session of a cleared conversation, whose `ask` event is cancelled; return an empty page."""
        await self._get_session(request).slot(SLOT).reset()
        return _empty_page_update()

    def current_history(self, history: list[Any], request: gr.Request) -> list[Any]:
        """Return the history for the next request: empty right after a clear, even if the page still shows messages."""
        slot = self._get_session(request).slot(SLOT)
        return history if slot.last_request_conversation == slot.conversation else []

    def discard_stale_update(self, request: gr.Request) -> tuple[Any, ...]:
        """Empty the page again if an ended answer belongs to a conversation that has been cleared.

        The browser may draw an update that was in transit when `clear` was called after the empty page.
        """
        slot, empty = self._get_session(request).slot(SLOT), _empty_page_update()
        return empty if slot.last_request_conversation != slot.conversation else (gr.skip(),) * len(empty)

    async def unload(self, request: gr.Request) -> None:
        """Close the session of a closed page."""
        await self._answer_service.page_sessions.close(request.session_hash)

    def validate(self, text: str, request: gr.Request) -> dict[str, Any]:
        """Return Gradio's validation result for a message; an invalid one stays in its textbox."""
        problem = message_error(text, self._answer_service.limits)
        if problem is None and self._get_session(request).slot(SLOT).busy:
            problem = strings.BUSY
        verdict: dict[str, Any] = gr.validate(problem is None, problem or "")
        return verdict

    async def set_key(self, provider: str | None, key: str | None, request: gr.Request) -> tuple[str, str, str]:
        """Store the user's API key; return the provider's badge, an empty textbox, and the change for the page.

        The change is `+NAME` or `-NAME` for the environment variable that the key replaces, empty for no change.
        """
        page_session = self._get_session(request)
        try:
            variable = self._answer_service.key_variable(provider)
            await self._answer_service.set_key(page_session, variable, (key or "").strip())
        except UsageError as error:
            return html.error_badge(str(error)), "", ""
        return (
            self._provider_badge(provider, page_session),
            "",
            ("+" if variable in page_session.keys else "-") + variable,
        )

    async def forget_key(self, provider: str | None, request: gr.Request) -> tuple[str, str, str]:
        """Remove the user's key for a provider."""
        return await self.set_key(provider, "", request)

    def warn_of_gone_key(self, provider: str | None, brought: str | None, request: gr.Request) -> Any:
        """Return an error badge if the page has sent a key that the service no longer holds, otherwise no update."""
        if self._answer_service.is_key_gone(self._get_session(request), provider, brought):
            return html.error_badge(strings.KEY_GONE.format(name=provider))
        return gr.skip()

    def set_access_key(self, key: str | None, request: gr.Request) -> tuple[str, str]:
        """Store the user's access key of this service; return a confirmation badge and an empty textbox."""
        self._get_session(request).access_key = (key or "").strip() or None
        return html.success_badge(strings.ACCESS_TAKEN), ""

    def badge(self, provider: str | None, request: gr.Request) -> tuple[str, str]:
        """Return the badge and the model choices of a provider, without asking its service.

        Loads the provider's token tables and blocks meanwhile.
        """
        page_session = self._get_session(request)
        page_session.provider = provider
        if provider in {row.name for row in self._answer_service.list_providers()}:
            counter = self._answer_service.providers(page_session).cost_model(provider).counter
            if counter is not None:
                counter(strings.NAME)
        models = self._answer_service.find_check(page_session, provider or "").models
        return self._provider_badge(provider, page_session), "\n".join(models)

    async def list_models(self, provider: str | None, brought: str | None, request: gr.Request) -> tuple[Any, Any]:
        """Ask the provider's service for its models; return its badge and the model choices.

        No update is returned for a provider that the picker no longer shows when the service has answered.
        """
        page_session = self._get_session(request)
        check = await self._answer_service.check_service(page_session, provider or "")
        if page_session.provider not in (provider, None):
            return (gr.skip(),) * 2
        is_gone = self._answer_service.is_key_gone(page_session, provider, brought)
        badge = gr.skip() if is_gone else self._provider_badge(provider, page_session)
        return badge, "\n".join(check.models)

    def _provider_badge(self, provider: str | None, page_session: PageSession) -> str:
        row = next(
            (row for row in self._answer_service.providers(page_session).list_providers() if row.name == provider), None
        )
        service = SERVICES.get((provider or "").partition(":")[0])
        return html.provider_badge(
            row,
            self._answer_service.find_check(page_session, provider or ""),
            own_key=self._answer_service.key_variable(provider, missing="") in page_session.own_keys,
            needs_key=service is not None and service.key_required and service.base_url is not None,
        )

    def export_markdown(self, history: Sequence[HistoryMessage], request: gr.Request) -> str:
        """Return the conversation as Markdown."""
        page_session = self._get_session(request)
        return export.export_markdown(
            history, page_session.spending.receipt_facts, utc_now(), [*page_session.own_keys.values()]
        )

    def export_json(self, history: Sequence[HistoryMessage], request: gr.Request) -> str:
        """Return the conversation as JSON."""
        page_session = self._get_session(request)
        return export.export_json(
            history, page_session.spending.receipt_facts, utc_now(), [*page_session.own_keys.values()]
        )

    def _get_session(self, request: gr.Request) -> PageSession:
        return self._answer_service.page_sessions.get(request.session_hash)


def _empty_page_update() -> tuple[Any, ...]:
    """Return an update to the empty page; text in the message textbox is kept."""
    hidden = gr.update(visible=HIDDEN_IN_DOM)
    box = gr.update(interactive=True, placeholder=strings.PLACEHOLDER, submit_btn=strings.SEND)
    return [], [], html.stage_html(strings.IDLE), strings.IDLE, html.meter_html(None), hidden, hidden, hidden, box


def _make_update(view: AnswerView, *controls: Any) -> ChatUpdate:
    """Return one update of the page; without `controls` these components are not redrawn."""
    stop, go_on, again, spent, switch, box = controls or (gr.skip(),) * 6
    shown = view.messages(), view.stage, view.announcement, view.meter
    return *shown, stop, go_on, again, spent, switch, box


def _first_update(view: AnswerView) -> ChatUpdate:
    hidden = gr.update(visible=HIDDEN_IN_DOM)
    box = gr.update(placeholder=strings.PLACEHOLDER_BUSY)
    return _make_update(view, gr.update(visible=True), hidden, hidden, gr.skip(), gr.skip(), box)


def _last_update(view: AnswerView, page_session: PageSession, streamed: bool) -> ChatUpdate:
    go_on = gr.update(visible=True if view.has_partial_text else HIDDEN_IN_DOM)
    again = gr.update(visible=True if view.unfinished else HIDDEN_IN_DOM)
    box = gr.update(placeholder=strings.PLACEHOLDER)
    return _make_update(
        view, gr.update(visible=HIDDEN_IN_DOM), go_on, again, html.spending_html(page_session.spending), streamed, box
    )

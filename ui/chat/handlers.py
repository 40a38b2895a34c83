"""Event handlers of the chat tab: they map Gradio's inputs to `AnswerService` and its views to Gradio's outputs."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from providers.services import SERVICES
from streaming.clock import utc_now
from streaming.errors import UsageError
from ui import html, stage_strip, strings
from ui.answers import AnswerService
from ui.chat import export
from ui.chat.conversation_answers import SLOT, ConversationAnswer, ConversationAnswers
from ui.components import HIDDEN_IN_DOM
from ui.drawn_updates import number_update
from ui.form import ChatForm, message_error
from ui.history import HistoryMessage, has_partial_answer, is_unfinished, mark_cut, user_message
from ui.page_sessions.answer_slot import AnswerSlot
from ui.page_sessions.sessions import PageSession

ChatUpdate = tuple[list[HistoryMessage], str, str, str, Any, Any, Any, Any, Any, Any]
"""One update of the page: messages, stage strip, announcement, figures, the message box with its Send or Stop, the
buttons Continue and Retry, the spending line, the streaming switch, and the button that undoes a clear."""


class ChatHandlers:
    """Event handlers of the chat tab on an `AnswerService`."""

    def __init__(self, answer_service: AnswerService) -> None:
        self._answer_service = answer_service
        self._answers = ConversationAnswers(answer_service)

    async def ask(  # noqa: PLR0913, PLR0917 - Gradio passes each input of the event by position
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
        price: str | None,
        streamed: bool,
        timed_words: bool,
        brought: str | None,
        conversation: str | None,
        request: gr.Request,
    ) -> AsyncGenerator[ChatUpdate, None]:
        """Send the message, or after `restore` go on with the answer that another page has left.

        Yields updates of the page; the last one has the receipt, also after a stop. Nothing is done if the conversation
        was cleared since the page began the request: of a chain of events, Gradio cancels only those that have begun.
        """
        settings = strategy, system, temperature, max_tokens, streamed, budget, timed_words, price, brought
        question = ChatForm(message, history, provider, model, *settings)
        page_session = self._get_session(request)
        await self._answers.show(conversation, page_session)
        slot = page_session.slot(SLOT)
        if slot.take_request():
            asked, answer = slot.conversation, slot.resumed
            answer = answer or await self._answers.start(conversation, question, request)
            if slot.conversation == asked:
                slot.requested = []
            else:
                await self._answers.stop(answer)
                return
            async with aclosing(self._follow(answer, page_session)) as updates:
                async for update in updates:
                    yield update

    async def _follow(self, answer: ConversationAnswer, page_session: PageSession) -> AsyncGenerator[ChatUpdate, None]:
        """Yield the updates of an answer until it ends, or the page shows another conversation."""
        slot, screen, first = page_session.slot(SLOT), page_session.screen, True
        asked = slot.conversation
        async with aclosing(self._answers.follow(answer, page_session)) as changes:
            async for _ in changes:
                if slot.conversation != asked or page_session.slot(SLOT) is not slot:
                    return
                now = self._answer_service.clock()
                slot.keep_sending(now)
                if first or not screen.is_behind(now):  # the first one shows Stop
                    yield (_first_update if first else _make_update)(answer, screen.send(now))
                    first = False
        if slot.conversation != asked:
            return
        slot.finish_sending()
        if page_session.slot(SLOT) is slot:
            number = screen.send(self._answer_service.clock())
            yield _last_update(answer, number, page_session, slot.next_is_streamed(answer.question.streamed))

    def begin_retry(self, history: list[Any], request: gr.Request) -> None:
        """Record that the last question of `history` is asked again, before the event that asks it."""
        self._get_session(request).slot(SLOT).begin_request(self._answer_service.clock(), history)

    async def restore(self, conversation: str | None, history: list[Any], request: gr.Request) -> tuple[Any, ...]:
        """Return the page of a conversation that a page has left; `history` is what the browser has kept of it.

        These are the conversation, the service's own copy, and the message that is being answered; a new value if its
        answer goes on; then the outputs of `ask` after the messages. An answer that this service no longer has was cut.
        """
        page_session = self._get_session(request)
        await self._answers.show(conversation, page_session)
        answer = self._answers.find(conversation)
        if answer is None:
            return _restored_page(history)
        if not answer.view.ended:
            page_session.slot(SLOT).begin_request(self._answer_service.clock(), resumed=answer)
            shown = [*answer.asked_messages(), *answer.answer_messages()]
            answer.resumptions += 1
            resumed = f"{conversation} {answer.resumptions}"
            return shown, [*answer.question.history], answer.question.text, resumed, *[gr.skip()] * 9
        page_session.slot(SLOT).resumed, page_session.spending = None, answer.spending
        number = page_session.screen.send(self._answer_service.clock())
        messages, *others = _last_update(answer, number, page_session, answer.question.streamed)
        whole = [*answer.asked_messages(), *messages]
        return whole, whole, "", gr.skip(), *others

    async def delete_conversations(self, conversations: str, request: gr.Request) -> None:
        """Stop and forget the answers of conversations that the user has deleted; their ids are separated by spaces."""
        for conversation in conversations.split():
            await self._answers.discard(conversation, self._get_session(request))

    def forget_answer(self, conversation: str | None) -> None:
        """Forget the answer that the user has taken back with its message."""
        self._answers.forget(conversation)

    async def stop(self, request: gr.Request) -> None:
        """Stop the answer under way; the running `ask` generator then shows its receipt."""
        await self._get_session(request).slot(SLOT).stop()

    async def clear(self, history: list[Any], conversation: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Reset the session of a cleared conversation, whose `ask` event is cancelled; return an empty page.

        The conversation is kept until the next one is cleared, so that `undo_clear` can bring it back.
        """
        slot, answer = self._get_session(request).slot(SLOT), self._answers.find(conversation)
        # The service's own copy is without a question that is being asked, or asked again.
        answered = history if answer is None else [*answer.asked_messages(), *answer.answer_messages()]
        whole = slot.requested or answered
        if whole:
            stopped = strings.OUTCOMES["cancelled"], strings.CLEARED_CUT
            slot.cleared = mark_cut(whole, *stopped) if is_unfinished(whole) else whole
        await slot.reset()
        if answer is not None:
            await self._answers.stop(answer)
        return _cleared_page_update(slot)

    def undo_clear(self, request: gr.Request) -> tuple[Any, ...]:
        """Return the conversation that was cleared last, twice: for the page and for the service's own copy."""
        slot = self._get_session(request).slot(SLOT)
        cleared, slot.cleared = slot.cleared, []
        slot.last_request_conversation = slot.conversation
        return cleared, cleared, gr.update(visible=HIDDEN_IN_DOM)

    def current_history(self, history: list[Any], request: gr.Request) -> list[Any]:
        """Return the history for the next request: empty right after a clear, even if the page still shows messages."""
        slot = self._get_session(request).slot(SLOT)
        return history if slot.last_request_conversation == slot.conversation else []

    def discard_stale_update(self, request: gr.Request) -> tuple[Any, ...]:
        """Empty the page again if an ended answer belongs to a conversation that has been cleared.

        The browser may draw an update that was in transit when `clear` was called after the empty page.
        """
        slot = self._get_session(request).slot(SLOT)
        empty = _cleared_page_update(slot)
        return empty if slot.last_request_conversation != slot.conversation else (gr.skip(),) * len(empty)

    async def unload(self, request: gr.Request) -> None:
        """Close the session of a closed page."""
        await self._answer_service.page_sessions.close(request.session_hash)

    async def validate(
        self, text: str, conversation: str | None, history: list[Any], request: gr.Request
    ) -> tuple[Any, Any, Any]:
        """Return Gradio's validation results for a message, its conversation and the history before it.

        An invalid message stays in its textbox.

        The message may arrive before the event by which the page opens its conversation.
        """
        problem = message_error(text, self._answer_service.limits)
        page_session = self._get_session(request)
        await self._answers.show(conversation, page_session)
        slot, now = page_session.slot(SLOT), self._answer_service.clock()
        if problem is None and slot.is_sending(now):
            problem = strings.BUSY
        if problem is None:
            slot.begin_request(now, [*self.current_history(history, request), user_message(text)])
        return gr.validate(problem is None, problem or ""), gr.validate(True, ""), gr.validate(True, "")

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

    def check_budget(
        self, budget: str | None, price: str | None, provider: str | None, model: str | None, request: gr.Request
    ) -> Any:
        """Return a badge that says what is wrong with the budget or the price, or that the budget cannot be held.

        Loads the provider's prices and blocks meanwhile. No update is returned for a provider that the picker no longer
        shows then.
        """
        page_session = self._get_session(request)
        question = ChatForm("", provider=provider, model=model, budget=budget, price=price)
        problem = self._answer_service.budget_problem(page_session, question)
        if page_session.provider not in (provider, None):
            return gr.skip()
        return html.error_badge(problem) if problem else ""

    def key_info(self, provider: str | None) -> Any:
        """Return an update of the key field's note, which says where the key is sent."""
        return gr.update(info=self._answer_service.key_info(provider))

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

        No update is returned for a provider that the picker no longer shows when the service has answered, nor while
        the page waits for the same list already: a browser opens few connections, and Stop needs one.
        """
        page_session = self._get_session(request)
        asked = provider or "", self._answer_service.providers(page_session)
        if asked in page_session.listings:
            return (gr.skip(),) * 2
        page_session.listings.add(asked)
        try:
            check = await self._answer_service.check_service(page_session, provider or "")
        finally:
            page_session.listings.discard(asked)
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
            takes_key=bool(self._answer_service.key_variable(provider, missing="")),
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
    """Return an update to the empty page; text in the message box is kept."""
    hidden = gr.update(visible=HIDDEN_IN_DOM)
    strip, figures = stage_strip.strip_html([], strings.IDLE, kind="start"), stage_strip.figures_html(None)
    return [], [], strip, strings.IDLE, figures, _box_update(answering=False), hidden, hidden


def _cleared_page_update(slot: AnswerSlot) -> tuple[Any, ...]:
    """Return an update to the empty page with the button that undoes the clear, if there was something to clear."""
    return *_empty_page_update(), gr.update(visible=True if slot.cleared else HIDDEN_IN_DOM)


def _box_update(*, answering: bool) -> Any:
    """Return an update of the message box: Stop stands in the place of Send while an answer comes."""
    send, stop = (False, strings.STOP) if answering else (strings.SEND, False)
    placeholder = strings.PLACEHOLDER_BUSY if answering else strings.PLACEHOLDER
    return gr.update(submit_btn=send, stop_btn=stop, placeholder=placeholder)


def _restored_page(history: list[Any]) -> tuple[Any, ...]:
    """Return the update of `restore` from the browser's own copy of the conversation."""
    if not is_unfinished(history):
        _, _, strip, *others = _empty_page_update()
        return history, history, "", gr.skip(), strip, *others, gr.skip(), gr.skip(), gr.update(visible=HIDDEN_IN_DOM)
    whole, words = mark_cut(history), strings.OUTCOMES["truncated"]
    strip = stage_strip.strip_html([], words, kind="bad", extra=strings.ANSWER_CUT)
    go_on = gr.update(visible=True if has_partial_answer(history) else HIDDEN_IN_DOM)
    announcement = f"{words}. {strings.ANSWER_CUT}"
    figures, box = stage_strip.figures_html(None), _box_update(answering=False)
    after = gr.skip(), gr.skip(), gr.update(visible=HIDDEN_IN_DOM)
    return whole, whole, "", gr.skip(), strip, announcement, figures, box, go_on, gr.update(visible=True), *after


def _make_update(answer: ConversationAnswer, number: int, *controls: Any) -> ChatUpdate:
    """Return update `number` of the page; without `controls` these components are not redrawn."""
    box, go_on, again, spent, switch, undo = controls or (gr.skip(),) * 6
    view = answer.view
    figures = number_update(view.figures_html(), number)
    shown = answer.answer_messages(), view.strip_html(), view.announcement, figures
    return *shown, box, go_on, again, spent, switch, undo


def _first_update(answer: ConversationAnswer, number: int) -> ChatUpdate:
    hidden = gr.update(visible=HIDDEN_IN_DOM)
    return _make_update(answer, number, _box_update(answering=True), hidden, hidden, gr.skip(), gr.skip(), hidden)


def _last_update(answer: ConversationAnswer, number: int, page_session: PageSession, streamed: bool) -> ChatUpdate:
    go_on = gr.update(visible=True if answer.view.has_partial_text else HIDDEN_IN_DOM)
    again = gr.update(visible=True if answer.view.unfinished else HIDDEN_IN_DOM)
    spent, undo = html.spending_html(page_session.spending), gr.update(visible=HIDDEN_IN_DOM)
    return _make_update(answer, number, _box_update(answering=False), go_on, again, spent, streamed, undo)

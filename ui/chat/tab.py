"""Layout of the chat tab, and wiring of its events to `ChatHandlers`."""

import json
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from ui import stage_strip, strings
from ui.address.events import PageAddress
from ui.answers import AnswerService
from ui.chat.composer import Composer
from ui.chat.feedback import THUMBS, FeedbackHandlers
from ui.chat.handlers import ChatHandlers
from ui.chat.history_drawer import add_history
from ui.chat.interface import StreamedChatInterface
from ui.chat.kept_conversation import KeptConversation
from ui.components import CONCURRENCY_LIMIT, HIDDEN_IN_DOM, LATEX_DELIMITERS, event_options, render_here
from ui.first_view import card_actions_html, first_view_html
from ui.form import LOCAL_PROVIDER

DEFAULT_MAX_TOKENS = 400
_SETTING_NAMES = (
    *("provider", "own", "model", "strategy", "system", "temperature", "max_tokens", "budget", "price"),
    *("streamed", "timed_words"),
)
"""The names of a conversation's settings in the browser's storage and in exported files (`ui/static/history.js`)."""


def build_tab(
    page: gr.Blocks, answer_service: AnswerService, announcement: gr.HTML, address: PageAddress, place: str
) -> tuple[Component, gr.HTML, Component]:
    """Build the tab into `page`; `announcement` is the page's live region for screen readers.

    `place` says where the local model runs. Returns the components that the other tabs share: the page's budget, its
    spending line, and its list of sent keys.
    """
    chat = ChatHandlers(answer_service)
    composer = Composer(chat, answer_service)
    with gr.Sidebar(label=strings.SETTINGS, position="right", width=340, open=False, elem_id="sg-settings"):
        settings, budget_errors, spent, (as_markdown, as_json) = _add_settings(chat, answer_service)
    budget, price, streamed, _ = settings[-4:]
    add_history(chat)
    line = _StatusLine.create()
    box = _make_textbox()
    outputs: list[Any] = [line.stage, announcement, line.figures, box, line.go_on, line.again]
    outputs += [spent, streamed, line.undo]
    first_view = _describe_local_model(answer_service, place)
    conversation = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-conversation")
    asked: list[Component] = [*composer.asked, *settings, composer.brought, conversation]
    interface = _make_interface(chat, box, asked, outputs, first_view)
    cancel = f'<button type="button">{escape(strings.CANCEL)}</button>'
    gr.HTML(f'<p class="sg-badge" role="status" hidden>{escape(strings.EDITING)} {cancel}</p>', elem_id="sg-editing")
    composer.render()
    gr.HTML(card_actions_html(), elem_id="sg-card-actions")
    composer.register_address(address, settings[2])
    composer.check_budget(budget, price, budget_errors)
    named = _name_settings(composer, settings)
    KeptConversation(page, conversation, interface, named).restore_with(chat, outputs)
    line.render()
    line.go_on.click(None, None, None, js=f"() => window.streamgauge.send({json.dumps(strings.CONTINUE_WORDS)})")
    line.again.click(None, None, None, js="() => window.streamgauge.retry()")
    box.stop(chat.stop, queue=False, **event_options())
    _add_clearing(chat, interface, conversation, [line.stage, announcement, line.figures, box], line)
    _add_export_buttons(chat, interface, as_markdown, as_json)
    if answer_service.takes_feedback:
        _add_feedback(answer_service, interface)
    return budget, spent, composer.brought


def _name_settings(composer: Composer, settings: list[Component]) -> dict[str, Component]:
    chosen = (composer.picker, composer.own, composer.box, composer.strategy, *settings)
    return dict(zip(_SETTING_NAMES, chosen, strict=True))


def _add_clearing(
    chat: ChatHandlers,
    interface: StreamedChatInterface,
    conversation: Component,
    shown: list[Component],
    line: "_StatusLine",
) -> None:
    emptied: list[Any] = [interface.chatbot, interface.chatbot_state, *shown, line.go_on, line.again]
    at_once: dict[str, Any] = {"queue": False, **event_options()}
    cleared: list[Any] = [*emptied, line.undo]
    cancelled: list[Any] = [*interface.answered]
    interface.chatbot.clear(chat.clear, [interface.chatbot_state, conversation], cleared, cancels=cancelled, **at_once)
    interface.chatbot.undo(chat.forget_answer, conversation, None, **at_once)
    for answered in interface.answered:
        answered.then(chat.discard_stale_update, None, cleared, **at_once)
    line.undo.click(chat.undo_clear, None, [interface.chatbot, interface.chatbot_state, line.undo], **at_once)


def _describe_local_model(answer_service: AnswerService, place: str) -> str:
    row = answer_service.provider_info(LOCAL_PROVIDER)
    return first_view_html(row.model if row else LOCAL_PROVIDER, place)


@dataclass(frozen=True, slots=True)
class _StatusLine:
    """What stands below the composer: the stages of the answer, what can be done after it, and its figures."""

    stage: gr.HTML
    figures: gr.HTML
    go_on: gr.Button
    again: gr.Button
    undo: gr.Button

    @classmethod
    def create(cls) -> "_StatusLine":
        """Create the components, which are rendered later."""
        idle = stage_strip.strip_html([], strings.IDLE, kind="start")
        hidden: dict[str, Any] = {"size": "sm", "visible": HIDDEN_IN_DOM, "render": False}
        return cls(
            gr.HTML(idle, elem_id="sg-stage", render=False),
            gr.HTML(stage_strip.figures_html(None), elem_id="sg-figures", render=False),
            gr.Button(strings.CONTINUE, elem_id="sg-continue", **hidden),
            gr.Button(strings.RETRY, elem_id="sg-retry", **hidden),
            gr.Button(strings.UNDO_CLEAR, elem_id="sg-undo-clear", **hidden),
        )

    def render(self) -> None:
        """Render the components at this place."""
        with gr.Row(elem_id="sg-line"):
            render_here(self.stage, self.go_on, self.again, self.undo)
        gr.HTML(f'<p class="sg-badge" role="status" hidden>{escape(strings.BUSY)}</p>', elem_id="sg-hint")
        notes = {"page": strings.NOT_KEPT, "history": strings.NOT_IN_HISTORY, "path": strings.WRONG_PATH}
        gr.HTML(
            "".join(
                f'<p class="sg-badge" role="status" data-note="{name}" hidden>{escape(words)}</p>'
                for name, words in notes.items()
            ),
            elem_id="sg-not-kept",
        )
        gr.HTML(stage_strip.meter_skeleton(), elem_id="sg-gauge")
        render_here(self.figures)


def _add_feedback(answer_service: AnswerService, interface: StreamedChatInterface) -> None:
    """Add thumbs to the answers, and the line that says what is kept, which appears with the first rating."""
    feedback = FeedbackHandlers(answer_service)
    with gr.Row(visible=False, elem_id="sg-feedback") as row:
        words = gr.HTML("")
        with_text = gr.Checkbox(label=strings.FEEDBACK_TEXT, value=False, container=False, elem_id="sg-feedback-text")
    interface.chatbot.feedback_options = THUMBS
    at_once: dict[str, Any] = {"queue": False, **event_options()}
    interface.chatbot.like(feedback.rate, [interface.chatbot_state, with_text], [words, row], **at_once)
    with_text.change(feedback.agree, with_text, [words, row], **at_once)


def _add_export_buttons(
    chat: ChatHandlers, interface: StreamedChatInterface, as_markdown: gr.Button, as_json: gr.Button
) -> None:
    # The browser creates the file, so that no conversation is written to the service's disk.
    text = gr.Textbox(visible=HIDDEN_IN_DOM, elem_id="sg-export")
    for button, write, name in (
        (as_markdown, chat.export_markdown, "conversation.md"),
        (as_json, chat.export_json, "conversation.json"),
    ):
        made = button.click(write, interface.chatbot_state, text, queue=False, **event_options())
        made.then(None, text, None, js=f"(text) => window.streamgauge.save({json.dumps(name)}, text)")


def _add_settings(
    chat: ChatHandlers, answer_service: AnswerService
) -> tuple[list[Component], gr.HTML, gr.HTML, tuple[gr.Button, gr.Button]]:
    """Build the settings; return them in the parameter order of `ChatHandlers.ask`, with what else events need.

    These are the line that says what is wrong with the budget, the spending, and the buttons that save.
    """
    _add_sign_in(chat, answer_service)
    system, temperature, max_tokens = _add_model_settings()
    budget = gr.Textbox(label=strings.BUDGET, placeholder=strings.BUDGET_HINT, max_lines=1, elem_id="sg-budget")
    budget_errors = gr.HTML("", elem_id="sg-budget-wrong")
    price = gr.Textbox(label=strings.PRICE, placeholder=strings.PRICE_HINT, max_lines=1, elem_id="sg-price")
    spent = gr.HTML(f'<p class="sg-badge">{strings.SPENT_NOTHING}</p>', elem_id="sg-spent")
    streamed = gr.Checkbox(label=strings.STREAMED, info=strings.STREAMED_INFO, value=True)
    timed_words = gr.Checkbox(label=strings.TIMED_WORDS, info=strings.TIMED_WORDS_INFO, value=False)
    with gr.Row():
        save = (gr.Button(strings.EXPORT_MARKDOWN, size="sm"), gr.Button(strings.EXPORT_JSON, size="sm"))
    return [system, temperature, max_tokens, budget, price, streamed, timed_words], budget_errors, spent, save


def _add_sign_in(chat: ChatHandlers, answer_service: AnswerService) -> None:
    """Build the ways for users to say who they are: to Hugging Face, and to this service."""
    if answer_service.offers_sign_in:
        gr.LoginButton(strings.SIGN_IN, logout_value=strings.SIGN_OUT, size="sm", elem_id="sg-sign-in")
        gr.HTML(f'<p class="sg-badge">{strings.SIGN_IN_INFO}</p>')
    with gr.Accordion(strings.ACCESS, open=True, visible=answer_service.wants_access_key):
        access = gr.Textbox(label=strings.ACCESS, info=strings.ACCESS_INFO, type="password", max_lines=1)
        taken = gr.HTML("")
        access.submit(chat.set_access_key, access, [taken, access], queue=False, **event_options())


def _add_model_settings() -> tuple[gr.Textbox, gr.Textbox, gr.Textbox]:
    """Build the boxes of the system prompt, the temperature and the token limit.

    An empty gr.Number would be shown and sent as 0; an empty textbox stays empty.
    """
    hint = strings.DEFAULT_HINT
    return (
        gr.Textbox(label=strings.SYSTEM, placeholder=strings.SYSTEM_HINT, lines=3, max_lines=8, elem_id="sg-system"),
        gr.Textbox(label=strings.TEMPERATURE, placeholder=hint, max_lines=1),
        gr.Textbox(
            str(DEFAULT_MAX_TOKENS), label=strings.MAX_TOKENS, placeholder=hint, max_lines=1, elem_id="sg-max-tokens"
        ),
    )


def _make_textbox() -> gr.Textbox:
    return gr.Textbox(
        placeholder=strings.PLACEHOLDER,
        label=strings.MESSAGE,
        show_label=False,
        lines=1,
        max_lines=6,
        autofocus=True,
        submit_btn=strings.SEND,
        stop_btn=False,
        elem_id="sg-message",
        render=False,
    )


def _make_interface(
    chat: ChatHandlers, textbox: gr.Textbox, inputs: list[Component], outputs: list[Any], placeholder: str
) -> StreamedChatInterface:
    chatbot = gr.Chatbot(
        label=strings.CHAT,
        show_label=False,
        placeholder=placeholder,
        buttons=["copy"],
        layout="bubble",
        latex_delimiters=LATEX_DELIMITERS,
        height="60dvh",
        elem_id="sg-chat",
        allow_tags=False,
        feedback_options=None,
        autoscroll=False,
        render=False,
    )
    return StreamedChatInterface(
        chat.ask,
        current_history=chat.current_history,
        begin_retry=chat.begin_retry,
        chatbot=chatbot,
        textbox=textbox,
        additional_inputs=[*inputs],
        additional_outputs=[*outputs],
        cache_examples=False,
        flagging_mode="never",
        analytics_enabled=False,
        editable=False,
        save_history=False,
        show_progress="hidden",
        concurrency_limit=CONCURRENCY_LIMIT,
        api_visibility="private",
        fill_height=True,
        validator=chat.validate,
    )

"""Layout of the chat tab, and wiring of its events to `ChatHandlers`."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from streaming import strategies
from ui import html, strings
from ui.answers import AnswerService
from ui.chat.handlers import ChatHandlers
from ui.components import (
    CONCURRENCY_LIMIT,
    HIDDEN_IN_DOM,
    LATEX_DELIMITERS,
    event_options,
    provider_choices,
    render_here,
    strategy_picker,
)
from ui.form import LOCAL_PROVIDER
from ui.history import user_message
from ui.markdown.escaping import unescape_prose
from ui.page_sessions.service_checks import ServiceCheck

GRADIO_VERSION = "6.31"
if not gr.__version__.startswith(f"{GRADIO_VERSION}."):
    raise ImportError(
        f"gradio {gr.__version__}: the methods that are overridden here were checked in version {GRADIO_VERSION} only "
        "(install the version that requirements.txt names)"
    )

DEFAULT_MAX_TOKENS = 400
_KEEP_BROUGHT = """(changed, brought) => {
  const names = new Set(brought.split(",").filter(Boolean)), name = changed.slice(1);
  if (changed.startsWith("+")) names.add(name);
  if (changed.startsWith("-")) names.delete(name);
  const kept = [...names].join(",");
  sessionStorage.setItem("streamgauge-brought", kept);
  return kept;
}"""
"""Records in the browser which keys the page has sent, so that a key that the service has lost is detected."""
_SHOW_MODELS = """async (listed) => {
  while (document.querySelector('#sg-model [role="option"]')) await new Promise(requestAnimationFrame);
  return { __type__: "update", choices: listed.split("\\n").filter(Boolean).map((name) => [name, name]) };
}"""
"""Replaces the choices of the model box when its list has closed: Gradio's list fails when it loses shown choices."""
KEPT_BROUGHT = '() => sessionStorage.getItem("streamgauge-brought") || ""'
"""Reads that record after a reload, which Gradio does by itself when the service is reachable again."""


class StoppableChatInterface(gr.ChatInterface):
    """Gradio's ChatInterface with three changes, for which it has no public way; hence the check of its version.

    It shows the user's messages as plain text, exposes its submit events so that they can be cancelled, and filters
    the history through `current_history`: an answer that arrived during a clear may still be on the page.
    """

    submit_events: list[Any]
    current_history: Callable[[list[Any], gr.Request], list[Any]]

    async def _stream_fn(self, message: Any, history: list[Any], *args: Any) -> AsyncGenerator[tuple[Any, ...], None]:
        frames = super()._stream_fn(message, self.current_history(history, args[-1]), *args)
        async with aclosing(frames):
            async for frame in frames:
                yield frame

    def _message_as_message_dict(self, message: Any, role: Any) -> list[Any]:
        if role == "user" and isinstance(message, str):
            return [user_message(message)]
        return super()._message_as_message_dict(message, role)

    def _pop_last_user_message(self, history: Any) -> Any:
        earlier, message = super()._pop_last_user_message(history)
        return earlier, unescape_prose(message) if isinstance(message, str) else message

    def _setup_stop_events(self, event_triggers: Any, events_to_cancel: list[Any], after_success: Any) -> None:
        self.submit_events = events_to_cancel
        super()._setup_stop_events(event_triggers, events_to_cancel, after_success)


def build_tab(answer_service: AnswerService, announcement: gr.HTML) -> tuple[Component, gr.HTML, Component]:
    """Build the tab into the current page; `announcement` is the page's live region for screen readers.

    Returns the components that the other tabs share: the page's budget, its spending line, and its list of sent keys.
    """
    chat = ChatHandlers(answer_service)
    with gr.Sidebar(label=strings.SETTINGS, position="right", width=340, open=False, elem_id="sg-settings"):
        settings, spent, (as_markdown, as_json) = _add_settings(chat, answer_service)
    stage = gr.HTML(html.stage_html(strings.IDLE), elem_id="sg-stage", render=False)
    meter = gr.HTML(html.meter_html(None), elem_id="sg-gauge", render=False)
    stop = gr.Button(strings.STOP, variant="stop", size="sm", visible=HIDDEN_IN_DOM, elem_id="sg-stop", render=False)
    go_on = gr.Button(strings.CONTINUE, size="sm", visible=HIDDEN_IN_DOM, elem_id="sg-continue", render=False)
    again = gr.Button(strings.RETRY, size="sm", visible=HIDDEN_IN_DOM, elem_id="sg-retry", render=False)
    box = _make_textbox()
    *_, budget, streamed, brought = settings
    outputs: list[Any] = [stage, announcement, meter, stop, go_on, again, spent, streamed, box]
    interface = _make_interface(chat, box, settings, outputs)
    interface.current_history = chat.current_history
    with gr.Row(elem_id="sg-line"):
        render_here(stage, go_on, again, stop)
    render_here(meter)
    go_on.click(None, None, None, js=f"() => window.streamgauge.send({json.dumps(strings.CONTINUE_WORDS)})")
    again.click(None, None, None, js="() => window.streamgauge.retry()")
    stop.click(chat.stop, queue=False, **event_options())
    emptied = [interface.chatbot, interface.chatbot_state, stage, announcement, meter, stop, go_on, again, box]
    interface.chatbot.clear(chat.clear, None, emptied, queue=False, cancels=interface.submit_events, **event_options())
    for submit_event in interface.submit_events:
        submit_event.then(chat.discard_stale_update, None, emptied, queue=False, **event_options())
    _add_export_buttons(chat, interface, as_markdown, as_json)
    return budget, spent, brought


def _add_export_buttons(
    chat: ChatHandlers, interface: StoppableChatInterface, as_markdown: gr.Button, as_json: gr.Button
) -> None:
    # The browser creates the file, so that no conversation is written to the service's disk.
    text = gr.Textbox(visible=HIDDEN_IN_DOM, elem_id="sg-export")
    for button, write, name in (
        (as_markdown, chat.export_markdown, "conversation.md"),
        (as_json, chat.export_json, "conversation.json"),
    ):
        made = button.click(write, interface.chatbot, text, queue=False, **event_options())
        made.then(None, text, None, js=f"(text) => window.streamgauge.save({json.dumps(name)}, text)")


def _add_settings(
    chat: ChatHandlers, answer_service: AnswerService
) -> tuple[list[Component], gr.HTML, tuple[gr.Button, gr.Button]]:
    """Build the settings; return them in the parameter order of `ChatHandlers.ask`, then spending and buttons."""
    picker = gr.Dropdown(
        provider_choices(answer_service), value=LOCAL_PROVIDER, label=strings.PROVIDER, elem_id="sg-provider"
    )
    # Gradio copies every input component with each update of an answer. This textbox avoids copying all choices.
    provider = gr.Textbox(LOCAL_PROVIDER, visible=HIDDEN_IN_DOM, elem_id="sg-asked")
    badge = gr.HTML(
        html.provider_badge(answer_service.provider_info(LOCAL_PROVIDER), ServiceCheck(True)), elem_id="sg-badge"
    )
    brought = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-brought")
    with gr.Accordion(strings.KEY, open=False, visible=answer_service.takes_keys, elem_id="sg-key"):
        key = gr.Textbox(
            label=strings.KEY, info=strings.KEY_INFO, placeholder=strings.KEY_HINT, type="password", max_lines=1
        )
        with gr.Row():
            use, forget = gr.Button(strings.KEY_USE, size="sm"), gr.Button(strings.KEY_FORGET, size="sm")
    _add_sign_in(chat, answer_service)
    listed, model = _add_model_box(picker, provider)
    strategy = strategy_picker(strategies.DEFAULT_STRATEGY, elem_id="sg-strategy", wrong_id="sg-wrong")
    system = gr.Textbox(label=strings.SYSTEM, placeholder=strings.SYSTEM_HINT, lines=3, max_lines=8)
    # An empty gr.Number would be shown and sent as 0; an empty textbox stays empty.
    temperature = gr.Textbox(label=strings.TEMPERATURE, placeholder=strings.LEFT_TO_PROVIDER, max_lines=1)
    max_tokens = gr.Textbox(
        label=strings.MAX_TOKENS, value=str(DEFAULT_MAX_TOKENS), placeholder=strings.LEFT_TO_PROVIDER, max_lines=1
    )
    budget = gr.Textbox(label=strings.BUDGET, placeholder=strings.BUDGET_HINT, max_lines=1)
    spent = gr.HTML(f'<p class="sg-badge">{strings.SPENT_NOTHING}</p>', elem_id="sg-spent")
    streamed = gr.Checkbox(label=strings.STREAMED, info=strings.STREAMED_INFO, value=True)
    with gr.Row():
        save = (gr.Button(strings.EXPORT_MARKDOWN, size="sm"), gr.Button(strings.EXPORT_JSON, size="sm"))
    _keep_badge(chat, provider, brought, [badge, listed])
    _take_keys(chat, (use, key, forget), provider, brought, [badge, listed])
    return [provider, model, strategy, system, temperature, max_tokens, budget, streamed, brought], spent, save


def _add_sign_in(chat: ChatHandlers, answer_service: AnswerService) -> None:
    """Build the ways for users to say who they are: to Hugging Face, and to this service."""
    if answer_service.offers_sign_in:
        gr.LoginButton(strings.SIGN_IN, logout_value=strings.SIGN_OUT, size="sm", elem_id="sg-sign-in")
        gr.HTML(f'<p class="sg-badge">{strings.SIGN_IN_INFO}</p>')
    with gr.Accordion(strings.ACCESS, open=True, visible=answer_service.wants_access_key):
        access = gr.Textbox(label=strings.ACCESS, info=strings.ACCESS_INFO, type="password", max_lines=1)
        taken = gr.HTML("")
        access.submit(chat.set_access_key, access, [taken, access], queue=False, **event_options())


def _add_model_box(picker: gr.Dropdown, provider: gr.Textbox) -> tuple[gr.Textbox, gr.Textbox]:
    """Build the model box; return the hidden list of its choices, and the hidden value that a question sends.

    A model in the list of one provider is removed when another provider is picked; a name of the user's own is kept.
    """
    box = gr.Dropdown(
        [], value="", label=strings.MODEL, info=strings.MODEL_INFO, allow_custom_value=True, elem_id="sg-model"
    )
    listed = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-models")
    # As with the provider, Gradio would copy all choices of the box with each update of an answer.
    model = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-asked-model")
    box.change(None, box, model, js="(name) => name ?? ''")
    listed.change(None, listed, box, js=_SHOW_MODELS)
    picker.change(
        None,
        [picker, box, listed],
        [provider, box],
        js="(name, model, listed) => [name, listed.split('\\n').includes(model) ? '' : model]",
    )
    return listed, model


def _keep_badge(chat: ChatHandlers, provider: gr.Textbox, brought: Component, shown: list[Component]) -> None:
    updated = provider.change(chat.badge, provider, shown, queue=False, **event_options())
    updated.then(chat.warn_of_gone_key, [provider, brought], shown[0], queue=False, **event_options())
    _list_models_after(chat, updated, provider, brought, shown)


def _list_models_after(
    chat: ChatHandlers, event: Dependency, provider: Component, brought: Component, shown: list[Component]
) -> None:
    # With its default trigger mode Gradio would drop the request for one provider's models while another's is running.
    event.then(
        chat.list_models,
        [provider, brought],
        shown,
        queue=False,
        trigger_mode="multiple",
        **event_options(),
    )


def _take_keys(
    chat: ChatHandlers,
    controls: tuple[gr.Button, gr.Textbox, gr.Button],
    provider: Component,
    brought: Component,
    shown: list[Component],
) -> None:
    use, key, forget = controls
    changed = gr.Textbox("", visible=HIDDEN_IN_DOM)
    after: list[Component] = [shown[0], key, changed]
    for taking in (
        use.click(chat.set_key, [provider, key], after, queue=False, **event_options()),
        key.submit(chat.set_key, [provider, key], after, queue=False, **event_options()),
        forget.click(chat.forget_key, provider, after, queue=False, **event_options()),
    ):
        recorded = taking.then(None, [changed, brought], brought, js=_KEEP_BROUGHT)
        _list_models_after(chat, recorded, provider, brought, shown)


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
    chat: ChatHandlers, textbox: gr.Textbox, settings: list[Component], outputs: list[Any]
) -> StoppableChatInterface:
    chatbot = gr.Chatbot(
        label=strings.CHAT,
        show_label=False,
        placeholder=strings.EMPTY,
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
    return StoppableChatInterface(
        chat.ask,
        chatbot=chatbot,
        textbox=textbox,
        additional_inputs=[*settings],
        additional_outputs=[*outputs],
        examples=[[example] for example in strings.EXAMPLES],
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

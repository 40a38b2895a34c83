"""The conversation tab: layout and wiring of `Chat`."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import gradio as gr
from gradio.components import Component

from streaming import strategies
from ui import figures, texts
from ui.chat import HIDDEN, Chat
from ui.conversation import asked
from ui.desk import Desk
from ui.layout import ANSWERS_AT_ONCE, choices, place, quiet, strategy_picker
from ui.markdown import written
from ui.questions import LOCAL

DEFAULT_MAX_TOKENS = 400
_KEEP_BROUGHT = """(changed, brought) => {
  const names = new Set(brought.split(",").filter(Boolean)), name = changed.slice(1);
  if (changed.startsWith("+")) names.add(name);
  if (changed.startsWith("-")) names.delete(name);
  const kept = [...names].join(",");
  sessionStorage.setItem("streamgauge-brought", kept);
  return kept;
}"""
"""The page remembers for which providers it brought a key: by it a key is missed that the service has lost."""
KEPT_BROUGHT = '() => sessionStorage.getItem("streamgauge-brought") || ""'
"""The same when it is loaded anew, which Gradio does by itself once a lost service is there again."""


class Conversation(gr.ChatInterface):
    """Gradio's chat, but for three things.

    What the visitor wrote is drawn as text; what asks can be cancelled; and `kept` has the last word on the history:
    an answer that still came while the conversation was cleared may have left it on the page.
    """

    asking: list[Any]
    kept: Callable[[list[Any], gr.Request], list[Any]]

    async def _stream_fn(self, message: Any, history: list[Any], *args: Any) -> AsyncGenerator[tuple[Any, ...], None]:
        frames = super()._stream_fn(message, self.kept(history, args[-1]), *args)
        async with aclosing(frames):
            async for frame in frames:
                yield frame

    def _message_as_message_dict(self, message: Any, role: Any) -> list[Any]:
        if role == "user" and isinstance(message, str):
            return [asked(message)]
        return super()._message_as_message_dict(message, role)

    def _pop_last_user_message(self, history: Any) -> Any:
        kept, message = super()._pop_last_user_message(history)
        return kept, written(message) if isinstance(message, str) else message

    def _setup_stop_events(self, event_triggers: Any, events_to_cancel: list[Any], after_success: Any) -> None:
        self.asking = events_to_cancel
        super()._setup_stop_events(event_triggers, events_to_cancel, after_success)


def draw(desk: Desk, announcement: gr.HTML) -> tuple[Component, gr.HTML, Component]:
    """Draw the tab into the page that is being built; `announcement` is the page's one line for screen readers.

    Gives what the other tabs share: the page's budget, the line that says what it has spent, and what keys it brought.
    """
    chat = Chat(desk)
    with gr.Sidebar(label=texts.SETTINGS, position="right", width=340, open=False, elem_id="sg-settings"):
        settings, spent, (as_markdown, as_json) = _settings(chat, desk)
    stage = gr.HTML(figures.stage(texts.IDLE), elem_id="sg-stage", render=False)
    meter = gr.HTML(figures.meter(None), elem_id="sg-gauge", render=False)
    stop = gr.Button(texts.STOP, variant="stop", size="sm", visible=HIDDEN, elem_id="sg-stop", render=False)
    go_on = gr.Button(texts.CONTINUE, size="sm", visible=HIDDEN, elem_id="sg-continue", render=False)
    again = gr.Button(texts.RETRY, size="sm", visible=HIDDEN, elem_id="sg-retry", render=False)
    box = _textbox()
    *_, budget, streamed, brought = settings
    outputs: list[Any] = [stage, announcement, meter, stop, go_on, again, spent, streamed, box]
    interface = _interface(chat, box, settings, outputs)
    interface.kept = chat.kept
    with gr.Row(elem_id="sg-line"):
        place(stage, go_on, again, stop)
    place(meter)
    go_on.click(None, None, None, js=f"() => window.streamgauge.send({json.dumps(texts.CONTINUE_WORDS)})")
    again.click(None, None, None, js="() => window.streamgauge.retry()")
    stop.click(chat.stop, queue=False, **quiet())
    emptied = [interface.chatbot, interface.chatbot_state, stage, announcement, meter, stop, go_on, again, box]
    interface.chatbot.clear(chat.forget, None, emptied, queue=False, cancels=interface.asking, **quiet())
    for asking in interface.asking:
        asking.then(chat.settle, None, emptied, queue=False, **quiet())
    _saving(chat, interface, as_markdown, as_json)
    return budget, spent, brought


def _saving(chat: Chat, interface: Conversation, as_markdown: gr.Button, as_json: gr.Button) -> None:
    # The file is made in the browser: what was said is never written to this service's disk.
    text = gr.Textbox(visible=HIDDEN, elem_id="sg-export")
    for button, write, name in (
        (as_markdown, chat.save_markdown, "conversation.md"),
        (as_json, chat.save_json, "conversation.json"),
    ):
        made = button.click(write, interface.chatbot, text, queue=False, **quiet())
        made.then(None, text, None, js=f"(text) => window.streamgauge.save({json.dumps(name)}, text)")


def _settings(chat: Chat, desk: Desk) -> tuple[list[Component], gr.HTML, tuple[gr.Button, gr.Button]]:
    """Draw the settings and give them in the order in which `Chat.ask` takes them."""
    picker = gr.Dropdown(choices(desk), value=LOCAL, label=texts.PROVIDER, elem_id="sg-provider")
    # What was ever an input Gradio copies whole with every update of an answer: all choices, were it the picker itself.
    provider = gr.Textbox(LOCAL, visible=HIDDEN, elem_id="sg-asked")
    picker.change(None, picker, provider, js="(name) => name")
    badge = gr.HTML(figures.badge(desk.row(LOCAL)), elem_id="sg-badge")
    brought = gr.Textbox("", visible=HIDDEN, elem_id="sg-brought")
    with gr.Accordion(texts.KEY, open=False, visible=desk.takes_keys, elem_id="sg-key"):
        key = gr.Textbox(label=texts.KEY, info=texts.KEY_INFO, placeholder=texts.KEY_HINT, type="password", max_lines=1)
        with gr.Row():
            use, forget = gr.Button(texts.KEY_USE, size="sm"), gr.Button(texts.KEY_FORGET, size="sm")
    with gr.Accordion(texts.ACCESS, open=True, visible=desk.wants_access_key):
        access = gr.Textbox(label=texts.ACCESS, info=texts.ACCESS_INFO, type="password", max_lines=1)
        taken = gr.HTML("")
        access.submit(chat.bring_access_key, access, [taken, access], queue=False, **quiet())
    model = gr.Textbox(
        label=texts.MODEL, placeholder=texts.MODEL_HINT, info=texts.MODEL_INFO, max_lines=1, elem_id="sg-model"
    )
    strategy = strategy_picker(strategies.DEFAULT, elem_id="sg-strategy", wrong_id="sg-wrong")
    system = gr.Textbox(label=texts.SYSTEM, placeholder=texts.SYSTEM_HINT, lines=3, max_lines=8)
    # Gradio draws an empty Number as 0 and sends it: text it is, where empty stays empty.
    temperature = gr.Textbox(label=texts.TEMPERATURE, placeholder=texts.LEFT_TO_PROVIDER, max_lines=1)
    max_tokens = gr.Textbox(
        label=texts.MAX_TOKENS, value=str(DEFAULT_MAX_TOKENS), placeholder=texts.LEFT_TO_PROVIDER, max_lines=1
    )
    budget = gr.Textbox(label=texts.BUDGET, placeholder=texts.BUDGET_HINT, max_lines=1)
    spent = gr.HTML(f'<p class="sg-badge">{texts.SPENT_NOTHING}</p>', elem_id="sg-spent")
    streamed = gr.Checkbox(label=texts.STREAMED, info=texts.STREAMED_INFO, value=True)
    with gr.Row():
        save = (gr.Button(texts.EXPORT_MARKDOWN, size="sm"), gr.Button(texts.EXPORT_JSON, size="sm"))
    _keep_badge(chat, provider, brought, badge)
    _take_keys(chat, (use, key, forget), provider, brought, badge)
    return [provider, model, strategy, system, temperature, max_tokens, budget, streamed, brought], spent, save


def _keep_badge(chat: Chat, provider: gr.Textbox, brought: Component, badge: gr.HTML) -> None:
    told = provider.change(chat.badge, provider, badge, queue=False, **quiet())
    told.then(chat.warn_of_gone_key, [provider, brought], badge, queue=False, **quiet())


def _take_keys(
    chat: Chat,
    controls: tuple[gr.Button, gr.Textbox, gr.Button],
    provider: Component,
    brought: Component,
    badge: gr.HTML,
) -> None:
    use, key, forget = controls
    changed = gr.Textbox("", visible=HIDDEN)
    after: list[Component] = [badge, key, changed]
    for taking in (
        use.click(chat.bring_key, [provider, key], after, queue=False, **quiet()),
        key.submit(chat.bring_key, [provider, key], after, queue=False, **quiet()),
        forget.click(chat.forget_key, provider, after, queue=False, **quiet()),
    ):
        taking.then(None, [changed, brought], brought, js=_KEEP_BROUGHT)


def _textbox() -> gr.Textbox:
    return gr.Textbox(
        placeholder=texts.PLACEHOLDER,
        label=texts.MESSAGE,
        show_label=False,
        lines=1,
        max_lines=6,
        autofocus=True,
        submit_btn=texts.SEND,
        stop_btn=False,
        elem_id="sg-message",
        render=False,
    )


def _interface(chat: Chat, textbox: gr.Textbox, settings: list[Component], outputs: list[Any]) -> Conversation:
    chatbot = gr.Chatbot(
        label=texts.CHAT,
        show_label=False,
        placeholder=texts.EMPTY,
        buttons=["copy", "copy_all"],
        layout="bubble",
        height="60dvh",
        elem_id="sg-chat",
        allow_tags=False,
        feedback_options=None,
        autoscroll=False,
        render=False,
    )
    return Conversation(
        chat.ask,
        chatbot=chatbot,
        textbox=textbox,
        additional_inputs=[*settings],
        additional_outputs=[*outputs],
        examples=[[example] for example in texts.EXAMPLES],
        cache_examples=False,
        flagging_mode="never",
        analytics_enabled=False,
        editable=False,
        save_history=False,
        show_progress="hidden",
        concurrency_limit=ANSWERS_AT_ONCE,
        api_visibility="private",
        fill_height=True,
        validator=chat.check,
    )

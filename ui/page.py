"""The page: layout, events, and its mount on a service."""

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from streaming import strategies
from streaming.clock import Clock, monotonic
from ui import figures, texts
from ui.chat import HIDDEN, LOCAL, Answerers, Chat, Listed, strategy_problem
from ui.theme import CSS, SCRIPT, theme

ANSWERS_AT_ONCE = 64
"""Answers that the page lets come at the same time; further ones wait in Gradio's queue."""
QUEUE_SIZE = 256
"""Questions and clicks that may wait; further ones are refused with a line that says so."""
DEFAULT_MAX_TOKENS = 400

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "form-action 'self'",
    )
)
"""The browser itself refuses to load anything from elsewhere, an image in a model's answer included."""
HEAD = (
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    '<meta name="color-scheme" content="light dark"><meta name="referrer" content="same-origin">'
)


def mount(app: Any, providers: Answerers, clock: Clock = monotonic) -> Any:
    """Put the page on a FastAPI `app` at `/`, after the app's own routes; give the app to serve."""
    return gr.mount_gradio_app(
        app,
        build(providers, clock),
        path="/",
        theme=theme(),
        css_paths=CSS,
        js=SCRIPT.read_text(encoding="utf-8"),
        head=HEAD,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )


def build(providers: Answerers, clock: Clock = monotonic) -> gr.Blocks:
    """Build the page over `providers`; times are on `clock`, the timebase of the loop that serves it."""
    chat = Chat(providers, clock)
    page = gr.Blocks(title=texts.NAME, analytics_enabled=False, fill_height=True, fill_width=True)
    with page:
        with gr.Sidebar(label=texts.SETTINGS, position="right", width=340, open=False, elem_id="sg-settings"):
            settings = _settings(providers.listing())
        gr.HTML(_header(), elem_id="sg-header")
        _conversation(chat, settings)
        page.unload(chat.leave)
        page.queue(api_open=False, max_size=QUEUE_SIZE, default_concurrency_limit=ANSWERS_AT_ONCE)
    return page


def _conversation(chat: Chat, settings: list[Component]) -> None:
    stage = gr.HTML(figures.stage(texts.IDLE), elem_id="sg-stage", render=False)
    announcement = gr.HTML("", elem_id="sg-status", js_on_load=_LIVE, render=False)
    meter = gr.HTML(figures.meter(None), elem_id="sg-gauge", render=False)
    stop = gr.Button(texts.STOP, variant="stop", size="sm", visible=HIDDEN, elem_id="sg-stop", render=False)
    textbox = _textbox()
    interface = _interface(chat, textbox, settings, [stage, announcement, meter, stop, settings[-1], textbox])
    with gr.Row(elem_id="sg-line"):
        _place(stage, stop)
    _place(meter, announcement)
    stop.click(chat.stop, queue=False, show_progress="hidden", api_visibility="private")
    interface.chatbot.clear(chat.forget, queue=False, show_progress="hidden", api_visibility="private")


def _place(*components: Component) -> None:
    """Draw here what had to exist before the conversation that it is an output of."""
    for component in components:
        component.render()  # type: ignore[no-untyped-call]  # gradio leaves this one method without types


_LIVE = """
element.setAttribute("role", "status");
element.setAttribute("aria-live", "polite");
element.setAttribute("aria-atomic", "true");
"""


def _header() -> str:
    mark = '<svg viewBox="0 0 32 32" aria-hidden="true"><path d="M5 23a12 12 0 1 1 22 0"/><path d="M16 19l6-8"/></svg>'
    return f'<header class="sg-header">{mark}<h1>{texts.NAME}</h1><p>{texts.TAGLINE}</p></header>'


def _settings(listing: Sequence[Listed]) -> list[Component]:
    """Draw the settings and give them in the order in which `Chat.ask` takes them."""
    provider = gr.Dropdown(
        [(label(row), row.name) for row in listing], value=LOCAL, label=texts.PROVIDER, elem_id="sg-provider"
    )
    badge = gr.HTML(_badge(listing, LOCAL), elem_id="sg-badge")
    model = gr.Textbox(label=texts.MODEL, placeholder=texts.MODEL_HINT, info=texts.MODEL_INFO, max_lines=1)
    strategy = gr.Dropdown(
        list(strategies.EXAMPLES),
        value=strategies.DEFAULT,
        label=texts.STRATEGY,
        info=texts.STRATEGY_INFO,
        allow_custom_value=True,
        elem_id="sg-strategy",
    )
    wrong = gr.HTML("", elem_id="sg-wrong")
    system = gr.Textbox(label=texts.SYSTEM, placeholder=texts.SYSTEM_HINT, lines=3, max_lines=8)
    # Gradio draws an empty Number as 0 and sends it: text it is, where empty stays empty.
    temperature = gr.Textbox(label=texts.TEMPERATURE, placeholder=texts.LEFT_TO_PROVIDER, max_lines=1)
    max_tokens = gr.Textbox(
        label=texts.MAX_TOKENS, value=str(DEFAULT_MAX_TOKENS), placeholder=texts.LEFT_TO_PROVIDER, max_lines=1
    )
    streamed = gr.Checkbox(label=texts.STREAMED, info=texts.STREAMED_INFO, value=True)
    provider.change(
        lambda name: _badge(listing, name), provider, badge, show_progress="hidden", api_visibility="private"
    )
    strategy.change(_wrong, strategy, wrong, show_progress="hidden", api_visibility="private")
    return [provider, model, strategy, system, temperature, max_tokens, streamed]


def label(row: Listed) -> str:
    """Give a provider's line in the picker: its label, and what it lacks if anything."""
    return row.label if row.ready else f"{row.label} · needs {row.needs}"


def _badge(listing: Sequence[Listed], name: str) -> str:
    row = next((row for row in listing if row.name == name), None)
    if row is None:
        return ""
    if row.simulated:
        return f'<p class="sg-badge sg-simulated">{texts.SIMULATED}</p>'
    if not row.ready:
        return f'<p class="sg-badge sg-needs">{texts.NEEDS.format(needs=row.needs)}</p>'
    return f'<p class="sg-badge sg-ready">{texts.READY} · <code>{row.name}</code></p>'


def _wrong(name: str | None) -> str:
    problem = strategy_problem(name)
    return f'<p class="sg-badge sg-needs" role="alert">{escape(problem)}</p>' if problem else ""


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


def _interface(
    chat: Chat, textbox: gr.Textbox, settings: list[Component], outputs: list[Component]
) -> gr.ChatInterface:
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
        render=False,
    )
    return gr.ChatInterface(
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

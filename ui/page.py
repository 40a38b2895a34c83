"""The page: its tabs, and its mount on a service."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gradio as gr

from guard import Guard
from providers import Providers
from providers.offer import Offer
from settings import Settings
from streaming.clock import Clock, monotonic
from streaming.pipeline import Account
from ui import chat_tab, compare_tab, pipeline_tab, results_tab, texts
from ui.desk import Answerers, Desk
from ui.event_schema import EventSchema
from ui.layout import ANSWERS_AT_ONCE
from ui.request_filter import RequestFilter
from ui.theme import CSS, SCRIPT, theme

QUEUE_SIZE = 256
"""Questions and clicks that may wait; further ones are refused with a line that says so."""

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

_LIVE = """
element.setAttribute("role", "status");
element.setAttribute("aria-live", "polite");
element.setAttribute("aria-atomic", "true");
"""


def mount(
    app: Any,
    providers: Answerers,
    *,
    offer: Offer | None = None,
    settings: Settings | None = None,
    guard: Guard | None = None,
    account: Callable[[str, Mapping[str, str | None]], Account] | None = None,
    clock: Clock = monotonic,
) -> Any:
    """Put the page on a FastAPI `app` at `/`, after the app's own routes; give the app to serve.

    With `settings`, visitors may bring keys of their own, which take the place of the service's for their page.
    `offer` says which models may be asked on the service's keys; None: all.
    `account` opens the account of an answer, for metrics and the log.
    """
    with_keys = partial(_with_keys, settings) if settings is not None else None
    desk = Desk(providers, clock, guard, with_keys, account, offer)
    page = build(desk)
    # Mounted, the page would never be marked as launched, and its library would check no path that it is given.
    page.has_launched = True
    app = gr.mount_gradio_app(
        app,
        page,
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
    mounted = app.routes[-1]
    hops = guard.configuration.hops if guard else 0
    mounted.app = RequestFilter(mounted.app, EventSchema(page, desk.limits), desk.visitors, hops)
    return app


def build(desk: Desk) -> gr.Blocks:
    """Build the page over a desk."""
    page = gr.Blocks(title=texts.NAME, analytics_enabled=False, fill_height=True, fill_width=True)
    with page:
        gr.HTML(_header(), elem_id="sg-header")
        announcement = gr.HTML("", elem_id="sg-status", js_on_load=_LIVE)
        with gr.Tabs(elem_id="sg-tabs"):
            with gr.Tab(texts.CHAT_TAB, id="chat", elem_id="sg-tab-chat"):
                budget, spent, brought = chat_tab.draw(desk, announcement)
            with gr.Tab(texts.COMPARE_TAB, id="compare", elem_id="sg-tab-compare"):
                compare_tab.draw(desk, announcement, budget, spent, brought)
            with gr.Tab(texts.PIPELINE_TAB, id="pipeline", elem_id="sg-tab-pipeline"):
                pipeline_tab.draw(desk, announcement)
            with gr.Tab(texts.RESULTS_TAB, id="results", elem_id="sg-tab-results") as results:
                results_tab.draw(results)

        async def leave(request: gr.Request) -> None:
            await desk.visitors.leave(request.session_hash)

        page.unload(leave)
        page.load(None, None, brought, js=chat_tab.KEPT_BROUGHT)
        _hush(page)
        page.queue(api_open=False, max_size=QUEUE_SIZE, default_concurrency_limit=ANSWERS_AT_ONCE)
    return page


def _hush(page: gr.Blocks) -> None:
    """Tell of an event's state only what shows it: a chat, and what was named.

    Gradio would have every output of every event that ever ran draw it anew, with each update of an answer.
    """
    for event in page.fns.values():
        if event.show_progress_on is None:
            event.show_progress_on = [part for part in event.outputs if isinstance(part, gr.Chatbot)]


def _with_keys(settings: Settings, keys: Mapping[str, str]) -> Providers:
    """Give providers that use a visitor's keys; the addresses remain the service's."""
    return Providers(Settings({**settings.variables, **keys}))


def _header() -> str:
    mark = '<svg viewBox="0 0 32 32" aria-hidden="true"><path d="M5 23a12 12 0 1 1 22 0"/><path d="M16 19l6-8"/></svg>'
    return f'<header class="sg-header">{mark}<h1>{texts.NAME}</h1><p>{texts.TAGLINE}</p></header>'

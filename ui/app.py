"""The page: its tabs, and its mount on a service."""

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from threading import Thread
from typing import Any

import gradio as gr
from gradio.networking import setup_tunnel

from guard import Guard
from providers import ProviderRegistry
from providers.services import Offer
from settings import Settings
from streaming.clock import Clock, monotonic
from streaming.pipeline import AnswerObserver
from ui import results as ui_results
from ui import strings
from ui.answers import AnswerService
from ui.chat import tab as chat_tab
from ui.compare import tab as compare_tab
from ui.components import CONCURRENCY_LIMIT
from ui.pipeline import tab as pipeline_tab
from ui.request_filter.event_schema import EventSchema
from ui.request_filter.middleware import RequestFilter
from ui.theme import CSS, SCRIPT, theme
from ui.types import ProviderSource

QUEUE_SIZE = 256
"""Questions and clicks that may wait; further ones are refused with a line that says so."""

CONTENT_SECURITY_POLICY = "; ".join(
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
HEAD_HTML = (
    f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">'
    '<meta name="color-scheme" content="light dark"><meta name="referrer" content="same-origin">'
)

_LIVE_REGION_SCRIPT = """
element.setAttribute("role", "status");
element.setAttribute("aria-live", "polite");
element.setAttribute("aria-atomic", "true");
"""


def mount(
    app: Any,
    providers: ProviderSource,
    *,
    offer: Offer | None = None,
    settings: Settings | None = None,
    guard: Guard | None = None,
    observer: Callable[[str, Mapping[str, str | None]], AnswerObserver] | None = None,
    clock: Clock = monotonic,
) -> Any:
    """Put the page on a FastAPI `app` at `/`, after the app's own routes; give the app to serve.

    With `settings`, visitors may bring keys of their own, which take the place of the service's for their page.
    `offer` says which models may be asked on the service's keys; None: all.
    `observer` opens the account of an answer, for metrics and the log.
    """
    with_keys = partial(_providers_with_keys, settings) if settings is not None else None
    answer_service = AnswerService(providers, clock, guard, with_keys, observer, offer)
    page = build_page(answer_service)
    # Mounted, the page would never be marked as launched, and its library would check no path that it is given.
    page.has_launched = True
    app = gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme(),
        css_paths=CSS,
        js=SCRIPT.read_text(encoding="utf-8"),
        head=HEAD_HTML,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )
    _filter_requests(app.routes[-1], page, answer_service, guard.configuration.hops if guard else 0)
    return app


def _filter_requests(mount: Any, page: gr.Blocks, answer_service: AnswerService, hops: int) -> None:
    """Put the request filter before everything that Gradio has mounted."""
    schema = EventSchema(page, answer_service.limits)
    mount.app = RequestFilter(mount.app, schema, answer_service.page_sessions, hops)


def build_page(answer_service: AnswerService) -> gr.Blocks:
    """Build the page over a desk."""
    page = gr.Blocks(title=strings.NAME, analytics_enabled=False, fill_height=True, fill_width=True)
    with page:
        gr.HTML(_header_html(), elem_id="sg-header")
        announcement = gr.HTML("", elem_id="sg-status", js_on_load=_LIVE_REGION_SCRIPT)
        with gr.Tabs(elem_id="sg-tabs"):
            with gr.Tab(strings.CHAT_TAB, id="chat", elem_id="sg-tab-chat"):
                budget, spent, brought = chat_tab.build_tab(answer_service, announcement)
            with gr.Tab(strings.COMPARE_TAB, id="compare", elem_id="sg-tab-compare"):
                compare_tab.build_tab(answer_service, announcement, budget, spent, brought)
            with gr.Tab(strings.PIPELINE_TAB, id="pipeline", elem_id="sg-tab-pipeline"):
                pipeline_tab.build_tab(answer_service, announcement)
            with gr.Tab(strings.RESULTS_TAB, id="results", elem_id="sg-tab-results") as results:
                ui_results.build_tab(results)

        async def close_session(request: gr.Request) -> None:
            await answer_service.page_sessions.close(request.session_hash)

        page.unload(close_session)
        page.load(None, None, brought, js=chat_tab.KEPT_BROUGHT)
        _limit_progress_indicators(page)
        page.queue(api_open=False, max_size=QUEUE_SIZE, default_concurrency_limit=CONCURRENCY_LIMIT)
    return page


def _limit_progress_indicators(page: gr.Blocks) -> None:
    """Tell of an event's state only what shows it: a chat, and what was named.

    Gradio would have every output of every event that ever ran draw it anew, with each update of an answer.
    """
    for event in page.fns.values():
        if event.show_progress_on is None:
            event.show_progress_on = [part for part in event.outputs if isinstance(part, gr.Chatbot)]


def _providers_with_keys(settings: Settings, keys: Mapping[str, str]) -> ProviderRegistry:
    """Give providers that use a visitor's keys; the addresses remain the service's."""
    return ProviderRegistry(Settings({**settings.variables, **keys}))


def _header_html() -> str:
    mark = '<svg viewBox="0 0 32 32" aria-hidden="true"><path d="M5 23a12 12 0 1 1 22 0"/><path d="M16 19l6-8"/></svg>'
    return f'<header class="sg-header">{mark}<h1>{strings.NAME}</h1><p>{strings.TAGLINE}</p></header>'


def share(port: int, say: Callable[[str], None], on_link: Callable[[str], None]) -> Thread:
    """Open a tunnel to a port of this machine in the background, and `say` its link, or why there is none.

    `on_link` has the link before anybody reads it.
    """

    def open_tunnel() -> None:
        try:
            link = setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
        except Exception as error:  # whatever the tunnel's download, certificate, process or server fail with
            say(strings.NO_LINK.format(reason=type(error.__cause__ or error).__name__))
        else:
            on_link(link)
            say(strings.SHARED.format(link=link))

    thread = Thread(target=open_tunnel, name="share", daemon=True)
    thread.start()
    return thread

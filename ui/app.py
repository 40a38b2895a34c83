"""The Gradio page: its tabs, its mount on a FastAPI app, and a public link to it."""

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from threading import Thread
from typing import Any

import gradio as gr
from gradio.networking import setup_tunnel

from providers import ProviderRegistry
from settings import Settings
from ui import results as ui_results
from ui import strings
from ui.answers import AnswerService
from ui.chat import tab as chat_tab
from ui.compare import tab as compare_tab
from ui.components import CONCURRENCY_LIMIT, event_options
from ui.pipeline import tab as pipeline_tab
from ui.request_filter.event_schema import EventSchema
from ui.request_filter.middleware import RequestFilter
from ui.request_filter.sign_in import SignIns
from ui.theme import CSS, SCRIPT, theme
from ui.types import AnswerSource

QUEUE_SIZE = 256
"""Maximum number of queued events (requests and clicks); Gradio rejects further ones with a message."""

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
"""Forbids the browser to load anything from other origins, including images in a model's answer."""
HEAD_HTML = (
    f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">'
    '<meta name="color-scheme" content="light dark"><meta name="referrer" content="same-origin">'
)

_LIVE_REGION_SCRIPT = """
element.setAttribute("role", "status");
element.setAttribute("aria-live", "polite");
element.setAttribute("aria-atomic", "true");
"""


def mount(app: Any, chat_service: AnswerSource, *, settings: Settings | None = None) -> Any:
    """Mount the page on a FastAPI `app` at `/`, after the app's own routes; return the app to serve.

    Every answer of the page comes from `chat_service`. With `settings`, users may enter their own API keys, which
    replace the service's keys for their page.
    """
    with_keys = partial(_providers_with_keys, settings) if settings is not None else None
    offers_sign_in = settings is not None and settings.offers_sign_in
    answer_service = AnswerService(chat_service, with_keys, offers_sign_in=offers_sign_in)
    page = build_page(answer_service)
    # Gradio does not mark a mounted page as launched, and validates file paths only on a launched one.
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
    # The request filter comes before everything that Gradio has mounted.
    mounted, schema = app.routes[-1], EventSchema(page, answer_service.limits)
    hops = chat_service.guard.configuration.hops
    sign_ins = SignIns(answer_service.sign_out, clock=answer_service.clock) if offers_sign_in else None
    mounted.app = RequestFilter(
        mounted.app, schema, answer_service.page_sessions, hops, chat_service.record_rejection, sign_ins
    )
    return app


def build_page(answer_service: AnswerService) -> gr.Blocks:
    """Build the page with its four tabs on `answer_service`."""
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

        async def sign_in(request: gr.Request, token: gr.OAuthToken | None) -> None:
            page_session = answer_service.page_sessions.get(request.session_hash)
            await answer_service.sign_in(page_session, token.token if token else None)

        if answer_service.offers_sign_in:
            page.load(sign_in, queue=False, **event_options())
        page.unload(close_session)
        page.load(None, None, brought, js=chat_tab.KEPT_BROUGHT)
        _limit_progress_indicators(page)
        page.queue(api_open=False, max_size=QUEUE_SIZE, default_concurrency_limit=CONCURRENCY_LIMIT)
    return page


def _limit_progress_indicators(page: gr.Blocks) -> None:
    """Show an event's progress only on the components named for it, otherwise on its chats.

    By default Gradio redraws the progress on every output of every event that ever ran, with each update of an answer.
    """
    for event in page.fns.values():
        if event.show_progress_on is None:
            event.show_progress_on = [part for part in event.outputs if isinstance(part, gr.Chatbot)]


def _providers_with_keys(settings: Settings, keys: Mapping[str, str]) -> ProviderRegistry:
    """Create providers that use the user's API keys with the service's own base URLs."""
    return ProviderRegistry(Settings({**settings.variables, **keys}))


def _header_html() -> str:
    mark = '<svg viewBox="0 0 32 32" aria-hidden="true"><path d="M5 23a12 12 0 1 1 22 0"/><path d="M16 19l6-8"/></svg>'
    return f'<header class="sg-header">{mark}<h1>{strings.NAME}</h1><p>{strings.TAGLINE}</p></header>'


def share(port: int, report: Callable[[str], None], on_link: Callable[[str], None]) -> Thread:
    """Open a tunnel to a local port in a daemon thread; return the thread.

    Calls `on_link` with the public link, then `report` with a sentence about the link or about the failure.
    """

    def open_tunnel() -> None:
        try:
            link = setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
        except Exception as error:  # download, certificate, process and server each fail in their own way
            report(strings.NO_LINK.format(reason=type(error.__cause__ or error).__name__))
        else:
            on_link(link)
            report(strings.SHARED.format(link=link))

    thread = Thread(target=open_tunnel, name="share", daemon=True)
    thread.start()
    return thread

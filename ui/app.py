"""The Gradio page: its tabs, its mount on a FastAPI app, and a public link to it."""

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.networking import setup_tunnel

from providers import ProviderRegistry
from settings import Settings
from ui import entry_strings, strings
from ui.address.events import PageAddress
from ui.address.query import TABS
from ui.answers import GRACE_S, AnswerService
from ui.chat import tab as chat_tab
from ui.chat.composer import KEPT_BROUGHT
from ui.compare import tab as compare_tab
from ui.components import CONCURRENCY_LIMIT, event_options
from ui.drawn_updates import add_page_name
from ui.link_preview import ICON, LinkPreview
from ui.pipeline import tab as pipeline_tab
from ui.request_filter.event_schema import EventSchema
from ui.request_filter.middleware import RequestFilter
from ui.request_filter.sign_in import SignIns
from ui.results import tab as results_tab
from ui.results.downloads import RunDownloads
from ui.results.run_list import RUNS_FOLDER, RunList
from ui.results.run_view import RunViews
from ui.theme import CSS, head_scripts, script, theme
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
    grace_s = settings.page_grace_s if settings is not None else GRACE_S
    answer_service = AnswerService(chat_service, with_keys, offers_sign_in=offers_sign_in, grace_s=grace_s)
    runs, views = RunList(_runs_folder(settings)), RunViews()
    downloads = RunDownloads(runs, views, answer_service.page_sessions)
    place = entry_strings.SPACE_CPU if settings is not None and settings.on_space else entry_strings.THIS_CPU
    page = build_page(answer_service, (runs, views, downloads), place)
    # Gradio does not mark a mounted page as launched, and validates file paths only on a launched one.
    page.has_launched = True
    app = gr.mount_gradio_app(
        app,
        page,
        path="/",
        root_path=settings.root_path if settings is not None else "",
        theme=theme(),
        css_paths=CSS,
        js=script(),
        head=HEAD_HTML + head_scripts(),
        favicon_path=str(ICON),
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )
    # The request filter comes before everything that Gradio has mounted.
    mounted = app.routes[-1]
    mounted.app = LinkPreview(_filter_requests(mounted.app, page, answer_service, chat_service, downloads))
    return app


def _filter_requests(
    app: Any, page: gr.Blocks, answer_service: AnswerService, chat_service: AnswerSource, downloads: RunDownloads
) -> RequestFilter:
    """Return the filter of all requests to Gradio's `app` and to the files of runs."""
    sign_ins = None
    if answer_service.offers_sign_in:
        sign_ins = SignIns(answer_service.sign_out, clock=answer_service.clock)
    schema, hops = EventSchema(page, answer_service.limits), chat_service.guard.configuration.hops
    sessions = answer_service.page_sessions
    return RequestFilter(app, schema, sessions, hops, chat_service.record_rejection, sign_ins, downloads)


def _runs_folder(settings: Settings | None) -> Path:
    folder = settings.runs_folder if settings is not None else None
    return RUNS_FOLDER if folder is None else Path(folder)


def build_page(
    answer_service: AnswerService,
    results: tuple[RunList, RunViews, RunDownloads] | None = None,
    place: str = entry_strings.THIS_CPU,
) -> gr.Blocks:
    """Build the page with its four tabs on `answer_service`; by default its runs are those of `out/`.

    `place` says where the local model runs.
    """
    if results is None:
        runs, views = RunList(), RunViews()
        results = runs, views, RunDownloads(runs, views, answer_service.page_sessions)
    page = gr.Blocks(title=strings.NAME, analytics_enabled=False, fill_height=True, fill_width=True)
    with page:
        gr.HTML(_header_html(), elem_id="sg-header")
        add_page_name(page)
        announcement = gr.HTML("", elem_id="sg-status", js_on_load=_LIVE_REGION_SCRIPT)
        brought = _add_tabs(page, answer_service, announcement, results, place)

        async def close_session(request: gr.Request) -> None:
            await answer_service.page_sessions.close(request.session_hash)

        async def sign_in(request: gr.Request, token: gr.OAuthToken | None) -> None:
            page_session = answer_service.page_sessions.get(request.session_hash)
            await answer_service.sign_in(page_session, token.token if token else None)

        if answer_service.offers_sign_in:
            page.load(sign_in, queue=False, **event_options())
        page.unload(close_session)
        page.load(None, None, brought, js=KEPT_BROUGHT)
        _show_no_progress(page)
        page.queue(api_open=False, max_size=QUEUE_SIZE, default_concurrency_limit=CONCURRENCY_LIMIT)
    return page


def _add_tabs(
    page: gr.Blocks,
    answer_service: AnswerService,
    announcement: gr.HTML,
    results: tuple[RunList, RunViews, RunDownloads],
    place: str,
) -> Component:
    """Add the tabs, and the events of the page's address; return the page's list of sent keys."""
    address = PageAddress(answer_service)
    with gr.Tabs(elem_id="sg-tabs"):
        with gr.Tab(strings.CHAT_TAB, id="chat", elem_id="sg-tab-chat") as chat:
            shared = chat_tab.build_tab(page, answer_service, announcement, address, place)
        with gr.Tab(strings.COMPARE_TAB, id="compare", elem_id="sg-tab-compare") as compare:
            compare_tab.build_tab(answer_service, announcement, shared, address)
        with gr.Tab(strings.PIPELINE_TAB, id="pipeline", elem_id="sg-tab-pipeline") as pipeline:
            pipeline_tab.build_tab(answer_service, announcement, address)
        with gr.Tab(strings.RESULTS_TAB, id="results", elem_id="sg-tab-results") as runs:
            results_tab.build_tab(runs, *results)
    address.wire(page, dict(zip(TABS, (chat, compare, pipeline, runs), strict=True)))
    return shared[-1]


def _show_no_progress(page: gr.Blocks) -> None:
    """Show no event's progress on a component unless it is named for it: the page has its own stages.

    By default Gradio copies all that the outputs of an event show, such as the whole conversation, with each update of
    an answer, only to say on them that it is still coming.
    """
    for event in page.fns.values():
        if event.show_progress_on is None:
            event.show_progress_on = []


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

"""Updates that the page numbers and its browser reports as drawn, so that none is sent to a browser that is behind.

The page's script posts the newest number that it has drawn to a route of the page's own (`ui.request_filter`), with the
page's session. A Gradio event would cost the service and the browser more than most updates do.
"""

from html import escape

import gradio as gr

from ui.components import HIDDEN_IN_DOM, event_options


def add_page_name(page: gr.Blocks) -> None:
    """Add to the current page the element by which its script knows in whose name it reports."""
    name = gr.HTML("", visible=HIDDEN_IN_DOM, elem_id="sg-page")

    def name_page(request: gr.Request) -> str:
        return f'<i data-page="{escape(request.session_hash or "")}"></i>'

    page.load(name_page, None, name, queue=False, **event_options())


def number_update(html: str, number: int) -> str:
    """Return HTML that carries the number of its update, which the browser reports once it is drawn."""
    return f'<div data-update="{number}">{html}</div>'

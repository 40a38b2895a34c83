"""The history of conversations: the buttons above the chat, and the drawer with the list that the browser keeps.

The page's own script (`ui/static/drawer.js`) fills the list from the browser's storage; the service never gets it.
"""

from html import escape

import gradio as gr

from ui import strings
from ui.chat.handlers import ChatHandlers
from ui.components import HIDDEN_IN_DOM, event_options


def add_history(chat: ChatHandlers) -> None:
    """Build the buttons and the drawer at this place."""
    gr.HTML(_buttons_html() + _drawer_html(), elem_id="sg-history-bar", padding=False)
    deleted = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-deleted")
    deleted.change(chat.delete_conversations, deleted, None, queue=False, **event_options())


def _buttons_html() -> str:
    return (
        f'<button type="button" data-history="open" aria-haspopup="dialog">{_icon("M4 7h16M4 12h16M4 17h10")}'
        f"<span>{escape(strings.HISTORY)}</span></button>"
        f'<button type="button" data-history="new" aria-label="{escape(strings.HISTORY_NEW)}" '
        f'title="{escape(strings.HISTORY_NEW)}">{_icon("M12 5v14M5 12h14")}</button>'
    )


def _drawer_html() -> str:
    texts = (strings.HISTORY_EXPORT, strings.HISTORY_IMPORT, strings.HISTORY_DELETE_ALL)
    acts = "".join(
        f'<button type="button" data-history="{name}">{escape(text)}</button>'
        for name, text in zip(("export", "import", "delete-all"), texts, strict=True)
    )
    return (
        '<dialog id="sg-history" aria-labelledby="sg-history-title">'
        f'<header><h2 id="sg-history-title">{escape(strings.HISTORY)}</h2>'
        f'<button type="button" data-history="close" aria-label="{escape(strings.CLOSE)}">'
        f"{_icon('M6 6l12 12M18 6L6 18')}</button></header>"
        f'<button type="button" data-history="new">{_icon("M12 5v14M5 12h14")}{escape(strings.HISTORY_NEW)}</button>'
        f'<ul></ul><p class="sg-history-empty">{escape(strings.HISTORY_EMPTY)}</p>'
        '<div class="sg-history-note"><p role="status"></p>'
        f'<button type="button" data-history="undo" hidden>{escape(strings.UNDO)}</button></div>'
        f'<div class="sg-history-all">{acts}</div>'
        f'<input type="file" accept=".json,application/json" hidden tabindex="-1" aria-hidden="true">'
        f'<p class="sg-note">{escape(strings.HISTORY_WHERE)}</p></dialog>'
    )


def _icon(path: str) -> str:
    return f'<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{path}"/></svg>'

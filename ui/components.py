"""Components and event options that the tabs share."""

from collections.abc import Set as AbstractSet
from html import escape
from typing import Any, Final

import gradio as gr
from gradio.components import Component

from providers.models.source import ProviderRow
from streaming import strategies
from ui import html, strings
from ui.answers import AnswerService
from ui.form import strategy_error

CONCURRENCY_LIMIT = 64
"""Maximum number of concurrent answers of a tab; further ones wait in Gradio's queue."""


def event_options() -> dict[str, Any]:
    """Return the options that all events of the page share: no progress overlay, and not in Gradio's API."""
    return {"show_progress": "hidden", "api_visibility": "private"}


def render_here(*components: Component) -> None:
    """Render components at this place that were created earlier because an event needed them as outputs."""
    for component in components:
        component.render()  # type: ignore[no-untyped-call]  # Gradio leaves this method without types


def provider_choices(answer_service: AnswerService) -> list[tuple[str, str]]:
    """Return the options of the provider picker as pairs of label and provider name."""
    return [(provider_label(row), row.name) for row in answer_service.list_providers()]


def provider_label(row: ProviderRow) -> str:
    """Return a provider's label for the picker, with the missing requirement if it is not ready."""
    return row.label if row.ready else f"{row.label} · needs {row.needs}"


def strategy_picker(value: str, *, elem_id: str, wrong_id: str, label: str = strings.STRATEGY) -> gr.Dropdown:
    """Create a picker of delivery strategies, with an error line below it for an invalid name."""
    strategy = gr.Dropdown(
        list(strategies.EXAMPLES),
        value=value,
        label=label,
        info=strings.STRATEGY_INFO.format(strategies=", ".join(strategies.EXAMPLES)),
        allow_custom_value=True,
        elem_id=elem_id,
    )
    errors = gr.HTML("", elem_id=wrong_id)
    strategy.change(_strategy_error_badge, strategy, errors, queue=False, **event_options())
    return strategy


def html_table(header: list[str], rows: list[list[str]], *, marked: AbstractSet[tuple[int, int]] = frozenset()) -> str:
    """Render an HTML table of plain text; cells in `marked` (row, column from 0) are labelled as better."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        "<tr>" + "".join(_table_cell(cell, (y, x) in marked, x == 0) for x, cell in enumerate(row)) + "</tr>"
        for y, row in enumerate(rows)
    )
    written = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="sg-wide" tabindex="0"><table class="sg-table">{written}</table></div>'


def _table_cell(text: str, better: bool, first: bool) -> str:
    tag = 'th scope="row"' if first else "td"
    mark = f' <span class="sg-better">{escape(strings.BETTER)}</span>' if better else ""
    return f"<{tag}>{escape(text)}{mark}</{tag.split()[0]}>"


def _strategy_error_badge(name: str | None) -> str:
    problem = strategy_error(name)
    return html.error_badge(problem) if problem else ""


HIDDEN_IN_DOM: Final = "hidden"
"""Gradio's value for a component that is invisible but stays in the document, so that scripts can click it."""

LATEX_DELIMITERS: Final[list[dict[str, str | bool]]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
"""The marks of formulas in answers. A single `$` is a price."""

"""Components and event options that the tabs share."""

import json
from collections.abc import Set as AbstractSet
from html import escape
from typing import Any, Final

from gradio.components import Component

from providers.models.source import ProviderRow
from providers.services import SERVICES
from ui import html, strings
from ui.answers import AnswerService
from ui.form import model_error, strategy_error
from ui.page_sessions.sessions import TOKEN_VARIABLE

CONCURRENCY_LIMIT = 64
"""Maximum number of concurrent answers of a tab; further ones wait in Gradio's queue."""


def event_options() -> dict[str, Any]:
    """Return the options that all events of the page share: no progress overlay, and not in Gradio's API."""
    return {"show_progress": "hidden", "api_visibility": "private"}


def render_here(*components: Component) -> None:
    """Render components at this place that were created earlier because an event needed them as outputs."""
    for component in components:
        component.render()  # type: ignore[no-untyped-call]  # Gradio leaves this method without types


def comparable_providers(answer_service: AnswerService) -> list[ProviderRow]:
    """Return the usable providers by group, then those that become usable with the user's own API key."""
    usable = _usable_rows(answer_service)
    with_key = [name for _, name in key_provider_choices(answer_service)]
    others = [row for row in answer_service.list_providers() if row.name in with_key and row not in usable]
    return [*usable, *others]


def comparable_provider_choices(answer_service: AnswerService) -> list[tuple[str, str]]:
    """Return the options of the compare tab's pickers as pairs of label and provider name."""
    usable = _usable_rows(answer_service)
    rows = comparable_providers(answer_service)
    return [(_choice_label(row) if row in usable else row.label, row.name) for row in rows]


def default_models(answer_service: AnswerService) -> str:
    """Return the default model of each provider, as JSON that is escaped for an attribute."""
    models = {row.name: row.model for row in answer_service.list_providers()}
    return escape(json.dumps(models, ensure_ascii=False))


OWN_KEY_PROVIDER: Final = "own-key"
"""The value of the picker's last option, which stands for all providers that need the user's own API key."""


def usable_provider_choices(answer_service: AnswerService) -> list[tuple[str, str]]:
    """Return the options of the chat's picker: the usable providers by group, and last one for the user's own key."""
    choices = [(_choice_label(row), row.name) for row in _usable_rows(answer_service)]
    with_key = [label for label, _ in key_provider_choices(answer_service)]
    if with_key:
        choices.append((strings.WITH_YOUR_KEY.format(names=", ".join(with_key)), OWN_KEY_PROVIDER))
    return choices


def key_provider_choices(answer_service: AnswerService) -> list[tuple[str, str]]:
    """Return label and name of the providers that take a user's API key, those that need one first."""
    takes_key = [row for row in answer_service.list_providers() if answer_service.key_variable(row.name, missing="")]
    return [(row.label, row.name) for row in sorted(takes_key, key=lambda row: row.ready)]


def provider_groups(answer_service: AnswerService) -> str:
    """Return the groups of the providers by the label of their option, as JSON that is escaped for an attribute."""
    groups = {row.label: strings.OWN_KEY_GROUP for row in comparable_providers(answer_service)}
    groups |= {_choice_label(row): _group(row) for row in _usable_rows(answer_service)}
    with_key = usable_provider_choices(answer_service)[-1]
    if with_key[1] == OWN_KEY_PROVIDER:
        groups[with_key[0]] = strings.GROUPS[1]
    return escape(json.dumps(groups, ensure_ascii=False))


def _usable_rows(answer_service: AnswerService) -> list[ProviderRow]:
    """Return the providers that answer with the service's keys, and the one that answers users who sign in."""

    def is_usable(row: ProviderRow) -> bool:
        takes_sign_in = answer_service.key_variable(row.name, missing="") == TOKEN_VARIABLE
        return row.ready or (answer_service.offers_sign_in and takes_sign_in)

    return sorted(filter(is_usable, answer_service.list_providers()), key=_group_order)


def _choice_label(row: ProviderRow) -> str:
    """Return a usable provider's label; one that is not ready needs a sign-in."""
    return row.label if row.ready else strings.WITH_SIGN_IN.format(name=row.label.partition(" · ")[0])


def _group(row: ProviderRow) -> str:
    on_this_machine, with_key, simulated = strings.GROUPS
    if row.simulated:
        return simulated
    service = SERVICES.get(row.name.partition(":")[0])
    return with_key if service is not None and service.key_required else on_this_machine


def _group_order(row: ProviderRow) -> int:
    on_this_machine, with_key, simulated = strings.GROUPS
    return (on_this_machine, simulated, with_key).index(_group(row))


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


def choice_error_badge(strategy: str | None, model: str | None) -> str:
    """Return a badge that says what is wrong with the name of a strategy or model; empty if nothing is."""
    problem = strategy_error(strategy) or model_error(model)
    return html.error_badge(problem) if problem else ""


HIDDEN_IN_DOM: Final = "hidden"
"""Gradio's value for a component that is invisible but stays in the document, so that scripts can click it."""

LATEX_DELIMITERS: Final[list[dict[str, str | bool]]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
"""The marks of formulas in answers. A single `$` is a price."""

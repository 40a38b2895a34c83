"""The page's address and its controls: an opened address sets them, and their changes are written into it.

The browser's part is `static/address.js`, which also opens tabs, and presses a button for the cards of the first view.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from ui import entry_strings, html
from ui.address.query import PageOffer, parse_address
from ui.answers import AnswerService
from ui.components import HIDDEN_IN_DOM, comparable_providers, event_options

SettingsUpdate = Callable[[Mapping[str, str]], Sequence[Any]]
"""Returns the updates of a tab's components for the settings of an address; those not named are not changed."""


class PageAddress:
    """The address of one page, and its note at this place about what is ignored of an address.

    Tabs register their components, and `wire` then adds the events.
    """

    def __init__(self, answer_service: AnswerService) -> None:
        self._answer_service = answer_service
        self._tabs: dict[str, tuple[Sequence[Component], SettingsUpdate]] = {}
        self._chat_providers: Sequence[str] = ()
        self._scenarios: Sequence[str] = ()
        self._note = gr.HTML("", elem_id="sg-address-note")

    def offer(self, *, chat_providers: Sequence[str] = (), scenarios: Sequence[str] = ()) -> None:
        """State what an address may name besides the providers of the service."""
        self._chat_providers = chat_providers or self._chat_providers
        self._scenarios = scenarios or self._scenarios

    def register(
        self, tab: str, written: Sequence[Component], outputs: Sequence[Component], update: SettingsUpdate
    ) -> None:
        """Write the values of the components `written` into the address, and let an address change `outputs`."""
        self._tabs[tab] = outputs, update
        first = json.dumps([component.value for component in written])
        script = f"(...values) => window.streamgauge?.keep({json.dumps(tab)}, values, {first})"
        changes: list[Any] = [component.change for component in written]  # type: ignore[attr-defined]  # of each kind
        gr.on(changes, None, [*written], None, js=script, trigger_mode="multiple")

    def wire(self, page: gr.Blocks, tabs: Mapping[str, gr.Tab]) -> None:
        """Add the events of the address, after all tabs have registered."""
        asked = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-address")
        valid = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-address-valid")
        page.load(None, None, asked, js="() => location.search")
        outputs = [component for components, _ in self._tabs.values() for component in components]
        opened = asked.change(self.open, asked, [self._note, valid, *outputs], queue=False, **event_options())
        opened.then(None, valid, None, js="(address) => window.streamgauge.openAddress(JSON.parse(address))")
        for name, tab in tabs.items():
            tab.select(None, None, None, js=f"() => window.streamgauge?.enterTab({json.dumps(name)})")

    def open(self, query: str | None) -> list[Any]:
        """Return the updates for the query of an address: a note, what is valid of it as JSON, and the components."""
        offer = PageOffer(comparable_providers(self._answer_service), self._chat_providers, self._scenarios)
        address = parse_address((query or "").partition("#")[0], offer)
        note = ""
        if address.problems:
            note = html.error_badge(entry_strings.ADDRESS_IGNORED.format(problems="; ".join(address.problems)))
        updates: list[Any] = [note, json.dumps({"tab": address.tab, "settings": address.settings})]
        for tab, (components, update) in self._tabs.items():
            updates += update(address.settings) if tab == address.tab else [gr.skip()] * len(components)
        return updates


def given(settings: Mapping[str, str], name: str) -> Any:
    """Return a setting as an update of its component, which is left alone if the address does not name it."""
    return settings.get(name, gr.skip())

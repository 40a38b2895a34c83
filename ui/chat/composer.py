"""The composer's choices below the message: provider, model and strategy, and the API key that a provider needs."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from streaming import strategies
from ui import html, strings
from ui.address.events import PageAddress, given
from ui.answers import AnswerService
from ui.chat.handlers import ChatHandlers
from ui.components import (
    HIDDEN_IN_DOM,
    OWN_KEY_PROVIDER,
    choice_error_badge,
    event_options,
    key_provider_choices,
    provider_groups,
    usable_provider_choices,
)
from ui.form import LOCAL_PROVIDER
from ui.page_sessions.service_checks import ServiceCheck

_KEEP_BROUGHT = """(changed, brought) => {
  const names = new Set(brought.split(",").filter(Boolean)), name = changed.slice(1);
  if (changed.startsWith("+")) names.add(name);
  if (changed.startsWith("-")) names.delete(name);
  const kept = [...names].join(",");
  sessionStorage.setItem("streamgauge-brought", kept);
  return kept;
}"""
"""Records in the browser which keys the page has sent, so that a key that the service has lost is detected."""
_SHOW_MODELS = """(listed) => window.streamgauge.showModels("sg-model", listed.split("\\n").filter(Boolean))"""
_CHOOSE_PROVIDER = f"""(name, own, linked) => {{
  const withKey = name === {json.dumps(OWN_KEY_PROVIDER)};
  const [provider, model] = linked.split("\\n"), kept = window.streamgaugeConversation.takeModel(name);
  const shown = kept ?? (provider === name ? model : "");
  return [withKey ? own : name, shown, "", {{ __type__: "update", visible: withKey }}];
}}"""
"""Sends the provider's own name, empties the model box or takes the model that an address names for the provider, and
opens the key field where a key is needed."""
KEPT_BROUGHT = '() => sessionStorage.getItem("streamgauge-brought") || ""'
"""Reads that record after a reload, which Gradio does by itself when the service is reachable again."""


class Composer:
    """The choices of the composer. `asked` are the values that a message is sent with, in the order of `ask`.

    These values are in hidden boxes, which the chat's events need before `render` draws the choices at their place.
    """

    def __init__(self, chat: ChatHandlers, answer_service: AnswerService) -> None:
        self._chat = chat
        # Gradio copies every input component with each update of an answer: hidden textboxes avoid copying all choices.
        self.provider = gr.Textbox(LOCAL_PROVIDER, visible=HIDDEN_IN_DOM, elem_id="sg-asked")
        self.model = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-asked-model")
        self._strategy = gr.Textbox(strategies.DEFAULT_STRATEGY, visible=HIDDEN_IN_DOM, elem_id="sg-asked-strategy")
        self.brought = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-brought")
        self._linked = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-linked-model")
        self._answer_service = answer_service
        self.asked: list[Component] = [self.provider, self.model, self._strategy]

    def render(self) -> None:
        """Render the choices at this place, and wire their events."""
        service = self._answer_service
        row = service.provider_info(LOCAL_PROVIDER)
        with gr.Row(elem_id="sg-chips"):
            self.picker = picker = gr.Dropdown(
                usable_provider_choices(service), value=LOCAL_PROVIDER, label=strings.PROVIDER,
                elem_id="sg-provider", elem_classes=["sg-chip", "sg-providers"], min_width=90,
            )  # fmt: skip
            self.box = box = gr.Dropdown(
                [], value="", label=strings.MODEL, allow_custom_value=True,
                elem_id="sg-model", elem_classes="sg-chip", min_width=90,
            )  # fmt: skip
            self.strategy = strategy = gr.Dropdown(
                list(strategies.EXAMPLES), value=strategies.DEFAULT_STRATEGY, label=strings.STRATEGY,
                allow_custom_value=True, elem_id="sg-strategy", elem_classes="sg-chip", min_width=90,
            )  # fmt: skip
            badge = gr.HTML(html.provider_badge(row, ServiceCheck(True)), elem_id="sg-badge")
        gr.HTML(f'<i class="sg-groups" data-groups="{provider_groups(service)}"></i>', elem_id="sg-groups")
        errors = gr.HTML("", elem_id="sg-wrong")
        strategy.change(None, strategy, self._strategy, js="(name) => name ?? ''")
        named: list[Any] = [strategy.change, box.change]
        gr.on(named, choice_error_badge, [strategy, box], errors, queue=False, **event_options())
        listed = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-models")
        box.change(None, box, self.model, js="(name) => name ?? ''")
        listed.change(None, listed, box, js=_SHOW_MODELS)
        shown = [badge, listed]
        panel, own, controls = _add_key_panel(service)
        self.own = own
        linked = self._linked
        picker.change(None, [picker, own, linked], [self.provider, box, linked, panel], js=_CHOOSE_PROVIDER)
        own.change(None, own, [self.provider, box], js="(name) => [name, '']")
        self._keep_badge(shown)
        self._call_after(self._updated, self._chat.key_info, [self.provider], controls[1])
        self._take_keys(controls, shown)

    def register_address(self, address: PageAddress, max_tokens: Component) -> None:
        """Let an address name provider, model, strategy and max tokens. Call after `render`."""
        written: list[Component] = [self.picker, self.box, self.strategy, max_tokens]
        address.offer(chat_providers=[name for _, name in usable_provider_choices(self._answer_service)])
        address.register("chat", written, [*written, self._linked], _update_choices)

    def check_budget(self, budget: Component, price: Component, errors: Component) -> None:
        """Check the budget in these fields whenever it, the price, the provider or the model changes.

        Call after `render`.
        """
        inputs = [budget, price, self.provider, self.model]
        changes = [field.change for field in (budget, price, self.model)]  # type: ignore[attr-defined]  # Gradio adds the events when it runs
        at_once: dict[str, Any] = {"queue": False, **event_options()}
        gr.on(changes, self._chat.check_budget, inputs, errors, trigger_mode="always_last", **at_once)
        self._call_after(self._updated, self._chat.check_budget, inputs, errors)

    def _keep_badge(self, shown: list[Component]) -> None:
        # The only listener that defers calls: Gradio repeats all listeners of an event for a call that was deferred, so
        # that several would repeat each other for ever.
        self._updated = self.provider.change(
            self._chat.badge, self.provider, shown, queue=False, trigger_mode="always_last", **event_options()
        )
        self._call_after(self._updated, self._chat.warn_of_gone_key, [self.provider, self.brought], shown[0])
        self._list_models_after(self._updated, shown)

    def _list_models_after(self, event: Dependency, shown: list[Component]) -> None:
        self._call_after(event, self._chat.list_models, [self.provider, self.brought], shown)

    def _call_after(
        self, event: Dependency, handler: Callable[..., Any], inputs: list[Component], outputs: Any
    ) -> None:
        # With its default trigger mode Gradio would drop the call for one provider during another's.
        event.then(handler, inputs, outputs, queue=False, trigger_mode="multiple", **event_options())

    def _take_keys(self, controls: tuple[gr.Button, gr.Textbox, gr.Button], shown: list[Component]) -> None:
        save, key, remove = controls
        changed = gr.Textbox("", visible=HIDDEN_IN_DOM)
        after: list[Component] = [shown[0], key, changed]
        for taking in (
            save.click(self._chat.set_key, [self.provider, key], after, queue=False, **event_options()),
            key.submit(self._chat.set_key, [self.provider, key], after, queue=False, **event_options()),
            remove.click(self._chat.forget_key, self.provider, after, queue=False, **event_options()),
        ):
            recorded = taking.then(None, [changed, self.brought], self.brought, js=_KEEP_BROUGHT)
            self._list_models_after(recorded, shown)


def _update_choices(settings: Mapping[str, str]) -> list[Any]:
    """Return the updates of the choices for the settings of an address."""
    linked = f"{settings.get('provider', '')}\n{settings.get('model', '')}"
    return [*(given(settings, name) for name in ("provider", "model", "strategy", "max_tokens")), linked]


def _add_key_panel(
    service: AnswerService,
) -> tuple[gr.Row, gr.Dropdown, tuple[gr.Button, gr.Textbox, gr.Button]]:
    """Build the panel for the user's own API key; return it, its provider, and Save, the key and Remove."""
    with gr.Row(visible=False, elem_id="sg-key") as panel:
        own = gr.Dropdown(
            key_provider_choices(service), label=strings.KEY_PROVIDER, elem_id="sg-key-provider", min_width=180
        )
        key = gr.Textbox(
            label=strings.KEY, info=service.key_info(None), placeholder=strings.KEY_HINT, type="password",
            max_lines=1, scale=3, elem_id="sg-key-value",
        )  # fmt: skip
        save = gr.Button(strings.KEY_SAVE, size="sm", min_width=80)
        remove = gr.Button(strings.KEY_REMOVE, size="sm", min_width=80)
    return panel, own, (save, key, remove)

"""The form of the compare tab: the prompt, and the models, strategies and limits, which fold to a line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from streaming import strategies
from ui import strings
from ui.address.events import PageAddress, given
from ui.address.query import split_models, split_strategies
from ui.answers import AnswerService
from ui.compare.handlers import CompareHandlers
from ui.compare.updates import COLUMNS
from ui.components import (
    HIDDEN_IN_DOM,
    comparable_provider_choices,
    comparable_providers,
    default_models,
    event_options,
)
from ui.first_view import COMPARED

_FIRST_PROVIDERS = (*COMPARED, "sim:bursty", "sim:thinking")
_MAX_TOKENS = "200"
_SHOW_MODELS = """(listed, provider) => {
  const [asked, ...names] = listed.split("\\n");
  return asked === provider ? window.streamgauge.showModels("BOX", names) : { __type__: "update" };
}"""
_DROP_LISTED_MODEL = """(model, listed, provider) => {
  window.streamgauge?.nameDefault("BOX", provider);
  return listed.split("\\n").slice(1).includes(model) ? "" : model ?? "";
}"""
"""Empties a model box of a name from the list of the provider before, and names the default of the new one.

A name of the user's own is kept.
"""

_ALWAYS: dict[str, Any] = {"queue": False, "trigger_mode": "multiple", **event_options()}
"""With its default trigger mode Gradio would drop the request for one provider's models while another's is running."""


@dataclass(frozen=True, slots=True)
class CompareForm:
    """The components of the form; `fields` are in the order that `CompareHandlers.begin` expects."""

    fold: gr.Accordion
    count: gr.Radio
    blind: gr.Checkbox
    max_tokens: gr.Textbox
    boxes: list[gr.Column]
    fields: Sequence[Component]
    prompt: gr.Textbox
    new: gr.Button
    ask: gr.Button
    stop_all: gr.Button
    models: list[tuple[gr.Dropdown, gr.Textbox]]
    """The provider of each column, and the hidden list of its models."""

    def register_address(self, address: PageAddress, answer_service: AnswerService) -> None:
        """Let an address name models, strategies, max tokens, and whether the vote is blind."""

        def update(settings: Mapping[str, str]) -> list[Any]:
            providers = comparable_providers(answer_service)
            models = split_models(settings["models"], providers) if "models" in settings else []
            count: Any = len(models) or gr.skip()
            blind: Any = settings["blind"] == "1" if "blind" in settings else gr.skip()
            return [count, given(settings, "max_tokens"), blind, *_update_fields(models, settings.get("strategy"))]

        written: list[Component] = [self.count, self.max_tokens, self.blind, *self.fields]
        address.register("compare", written, written, update)

    def list_models_after(self, trigger: Any, compare: CompareHandlers) -> None:
        """List the models of all columns again at an event: with another key a service may offer others."""
        for provider, listed in self.models:
            gr.on([trigger], compare.list_models, provider, listed, **_ALWAYS)


def _update_fields(models: list[tuple[str, str]], strategy: str | None) -> list[Any]:
    """Return the updates of the fields for the models of the columns, and the strategy of all or of each."""
    names: list[Any] = split_strategies(strategy, len(models) or COLUMNS) if strategy else []
    updates: list[Any] = []
    for number in range(COLUMNS):
        updates += models[number] if number < len(models) else (gr.skip(), gr.skip())
        updates.append(names[number] if number < len(names) else gr.skip())
    return updates


def add_form(answer_service: AnswerService, compare: CompareHandlers) -> CompareForm:
    """Build the form into the current row, which is one line while the models are folded."""
    with gr.Accordion(strings.COMPARE_SETTINGS, open=True, elem_id="sg-who") as fold:
        with gr.Row(elem_classes="sg-form"):
            count = gr.Radio([2, 3, 4], value=2, label=strings.COMPARE_COUNT, scale=1, min_width=240)
            max_tokens = gr.Textbox(label=strings.MAX_TOKENS, value=_MAX_TOKENS, scale=1, min_width=120, max_lines=1)
            blind = gr.Checkbox(label=strings.COMPARE_BLIND, info=strings.COMPARE_BLIND_INFO, value=False, scale=2)
        with gr.Row(elem_id="sg-compare-models"):
            requests = [_add_fields(answer_service, compare, number) for number in range(COLUMNS)]
        chosen = ",".join(_FIRST_PROVIDERS)
        facts = f'<i data-models="{default_models(answer_service)}" data-chosen="{chosen}"></i>'
        gr.HTML(facts, elem_id="sg-compare-defaults")
    prompt = gr.Textbox(
        label=strings.COMPARE_PROMPT,
        show_label=False,
        value=strings.EXAMPLES[0],
        placeholder=strings.COMPARE_PLACEHOLDER,
        lines=1,
        max_lines=4,
        scale=6,
        min_width=120,
        elem_id="sg-compare-prompt",
    )
    new = gr.Button(strings.COMPARE_NEW, elem_id="sg-compare-new", min_width=64)
    ask = gr.Button(strings.SEND, variant="primary", elem_id="sg-compare-ask", min_width=88)
    stop_all = gr.Button(
        strings.COMPARE_STOP_ALL, variant="stop", visible=HIDDEN_IN_DOM, elem_id="sg-compare-stop-all", min_width=88
    )
    boxes, fields = [box for box, _, _ in requests], [field for _, own, _ in requests for field in own]
    models = [(own[0], listed) for _, own, listed in requests]
    return CompareForm(fold, count, blind, max_tokens, boxes, fields, prompt, new, ask, stop_all, models)


def _add_fields(
    answer_service: AnswerService, compare: CompareHandlers, number: int
) -> tuple[gr.Column, list[gr.Dropdown], gr.Textbox]:
    """Build the fields of one column, provider, model and strategy, and the hidden list of the provider's models."""
    with gr.Column(visible=number < 2, min_width=220) as box:
        provider = gr.Dropdown(
            comparable_provider_choices(answer_service),
            value=_FIRST_PROVIDERS[number],
            label=f"{number + 1}. {strings.PROVIDER}",
            elem_id=f"sg-compare-provider-{number}",
            elem_classes="sg-providers",
        )
        with gr.Row():
            model = gr.Dropdown(
                [],
                value="",
                label=strings.MODEL,
                allow_custom_value=True,
                min_width=120,
                elem_id=f"sg-compare-model-{number}",
            )
            strategy = gr.Dropdown(
                list(strategies.EXAMPLES),
                value=strategies.DEFAULT_STRATEGY,
                label=strings.STRATEGY,
                allow_custom_value=True,
                min_width=120,
                elem_id=f"sg-compare-strategy-{number}",
            )
    listed = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id=f"sg-compare-listed-{number}")
    box_id = f"sg-compare-model-{number}"
    provider.change(None, [model, listed, provider], model, js=_DROP_LISTED_MODEL.replace("BOX", box_id))
    provider.change(compare.list_models, provider, listed, **_ALWAYS)
    listed.change(None, [listed, provider], model, js=_SHOW_MODELS.replace("BOX", box_id))
    return box, [provider, model, strategy], listed

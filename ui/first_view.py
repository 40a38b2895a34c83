"""What an empty conversation shows: which model answers and where, and cards that each start something."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from urllib.parse import urlencode

from streaming.strategies import DEFAULT_STRATEGY
from ui import entry_strings, strings

COMPARED = ("local", "sim:slow-start")
"""The default comparison: a real model that starts at once, against a provider that starts 2 s later."""
BROKEN = "sim:fault-503-once"
"""The scenario of the card that breaks a stream."""
BATCH_INTERVAL_MS = 300


@dataclass(frozen=True, slots=True)
class Card:
    """One card: what it says, and what the page's script does when it is pressed."""

    title: str
    text: str
    action: Mapping[str, str]


_QUESTION = strings.EXAMPLES[0]
CARDS = (
    Card(entry_strings.CARD_CHAT, f"“{_QUESTION}”", {"send": _QUESTION}),
    Card(
        entry_strings.CARD_COMPARE,
        entry_strings.CARD_COMPARE_INFO,
        {
            "follow": urlencode({"tab": "compare", "models": ",".join(COMPARED), "strategy": DEFAULT_STRATEGY}),
            "fill": "#sg-compare-prompt textarea",
            "text": _QUESTION,
            "press": "#sg-compare-ask",
        },
    ),
    Card(
        entry_strings.CARD_BREAK,
        entry_strings.CARD_BREAK_INFO,
        {
            "follow": urlencode({"tab": "pipeline", "scenario": BROKEN}),
            "press": "#sg-run",
            "show": "#sg-run-stage",
            "show_narrow": "#sg-machine",
        },
    ),
    Card(
        entry_strings.CARD_BATCH,
        entry_strings.CARD_BATCH_INFO,
        {
            "follow": urlencode(
                {"tab": "pipeline", "scenario": "local", "left": "direct", "right": "batch"}
                | {"interval": BATCH_INTERVAL_MS}
            ),
            "fill": "#sg-run-prompt input",
            "text": _QUESTION,
            "press": "#sg-run",
        },
    ),
)


def first_view_html(model: str, place: str) -> str:
    """Return the first view as HTML for the place of an empty conversation, where Gradio removes data attributes."""
    title = escape(entry_strings.FIRST_TITLE.format(model=model, place=place))
    cards = "".join(
        f'<button type="button"><strong>{escape(card.title)}</strong><span>{escape(card.text)}</span></button>'
        for card in CARDS
    )
    sentence = escape(entry_strings.FIRST_SENTENCE)
    return f'<div class="sg-first"><h2>{title}</h2><p>{sentence}</p><div class="sg-cards">{cards}</div></div>'


def card_actions_html() -> str:
    """Return an element with the actions of the cards in their order, for the page's script.

    `send` is a message to send; `follow` is an address of this page to open. There `press` is a button to press,
    `fill` a box to fill with `text` before, and `show` an element to scroll into view, `show_narrow` on a phone.
    """
    actions = escape(json.dumps([card.action for card in CARDS], ensure_ascii=False))
    return f'<i class="sg-card-actions" data-actions="{actions}"></i>'

"""Tests of the page's address: what its query may name, and what is ignored with a word. Anybody can write one."""

import json
from typing import Any

import gradio as gr
import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from providers import ProviderRegistry
from settings import Settings
from tests.unit.ui.ui_fixtures import make_answer_service
from tests.virtual_time import run_on_virtual_time
from ui import first_view, strings
from ui.address.query import (
    FIRST_TAB,
    PARAMETERS,
    TABS,
    Address,
    PageOffer,
    parse_address,
    split_models,
    split_strategies,
)
from ui.app import build_page
from ui.pipeline.scenarios import Scenarios

PROVIDERS = ProviderRegistry(Settings({"OPENAI_API_KEY": "any"})).list_providers()
OPENAI = next(row.name for row in PROVIDERS if row.name.startswith("openai:"))
OFFER = PageOffer(PROVIDERS, ["local", "sim:bursty", OPENAI], ["local", "sim:fault-cut"])


@pytest.mark.parametrize(
    ("query", "tab", "settings"),
    [
        ("", "chat", {}),
        ("?tab=results", "results", {}),
        (
            "?provider=sim:bursty&strategy=direct&max_tokens=200",
            "chat",
            {"provider": "sim:bursty", "strategy": "direct", "max_tokens": "200"},
        ),
        (f"?provider={OPENAI}&model=gpt-x", "chat", {"provider": OPENAI, "model": "gpt-x"}),
        (
            "?tab=compare&models=local,openai:gpt-x,sim:bursty&strategy=direct,pace,whole&blind=1",
            "compare",
            {"models": "local,openai:gpt-x,sim:bursty", "strategy": "direct,pace:30tps,whole", "blind": "1"},
        ),
        ("?tab=compare&strategy=batch:250", "compare", {"strategy": "batch:250ms"}),
        (
            "tab=pipeline&scenario=sim:fault-cut&left=whole&right=pace&interval=250",
            "pipeline",
            {"scenario": "sim:fault-cut", "left": "whole", "right": "pace", "interval": "250"},
        ),
        ("?__theme=dark&scenario=local&models=local", "chat", {}),
    ],
)
def test_address_names_a_tab_and_its_settings(query: str, tab: str, settings: dict[str, str]) -> None:
    assert parse_address(query, OFFER) == Address(tab, settings)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("?tab=secret", "tab “secret”: there is no such tab"),
        ("?provider=nobody", "provider “nobody”: not offered here"),
        ("?model=gpt-x", "model “gpt-x”: needs a provider"),
        ("?provider=local&model=gpt-x", "local has no other models"),
        ("?strategy=batch:99h", "strategy “batch:99h”"),
        ("?max_tokens=1e9", "whole number from 1 to 100,000"),
        ("?max_tokens=٣", "whole number"),
        ("?tab=compare&models=local", "names 2 to 4 models"),
        ("?tab=compare&models=local,nobody:x", "“nobody:x” is not offered here"),
        ("?tab=compare&models=local,sim:nothing", "“sim:nothing” is not offered here"),
        ("?tab=compare&models=local,local&strategy=direct,whole,pace", "one for each of 2 answers"),
        ("?tab=compare&blind=perhaps", "is 1 or 0"),
        ("?tab=pipeline&scenario=replay:/etc/passwd", "no such scenario"),
        ("?tab=pipeline&left=batch:1s", "is one of direct"),
        ("?tab=pipeline&interval=5", "from 10 to 1,000"),
        ("?" + "&".join(f"a{n}=1" for n in range(40)), "too many parts"),
    ],
)
def test_unknown_value_is_ignored_with_a_word(query: str, problem: str) -> None:
    address = parse_address(query, OFFER)
    assert any(problem in text for text in address.problems), address.problems
    assert all(len(text) < 260 for text in address.problems)


def test_api_key_in_an_address_is_ignored_and_not_repeated() -> None:
    key = "sk-proj-abcdefghij0123456789ABCDEF"
    for query in (f"?provider={OPENAI}&model={key}", f"?tab=compare&models=local,openai:{key}"):
        address = parse_address(query, OFFER)
        assert strings.SECRET_MODEL[:30] in address.problems[0] and key not in str(address)


def test_valid_settings_beside_an_unknown_one_are_kept() -> None:
    address = parse_address("?provider=nobody&strategy=direct", OFFER)
    assert (address.settings, len(address.problems)) == ({"strategy": "direct"}, 1)


@hypothesis_given(st.text(max_size=200), st.sampled_from(sorted(PARAMETERS)), st.sampled_from([*TABS, "x"]))
def test_any_address_is_parsed(value: str, name: str, tab: str) -> None:
    for query in (value, f"?tab={tab}&{name}={value}"):
        address = parse_address(query, OFFER)
        assert address.tab in TABS and address.settings.keys() <= PARAMETERS


def test_models_of_an_address_are_split_into_columns() -> None:
    assert split_models(f"local, openai:gpt-x,{OPENAI}", PROVIDERS) == [("local", ""), (OPENAI, "gpt-x"), (OPENAI, "")]
    assert split_strategies("direct", 3) == ["direct"] * 3
    assert split_strategies("direct,whole", 2) == ["direct", "whole"]


def test_cards_open_addresses_that_the_page_accepts_and_press_its_buttons() -> None:
    async def main() -> tuple[gr.Blocks, list[str]]:
        answer_service = make_answer_service(ProviderRegistry(Settings()))
        return build_page(answer_service), Scenarios(answer_service).names()

    page, scenarios = run_on_virtual_time(main())
    ids = {block.elem_id for block in page.blocks.values() if getattr(block, "elem_id", None)}
    cards: list[Any] = [card.action for card in first_view.CARDS]
    assert len(cards) == 4 and cards[0].keys() == {"send"}
    for card in cards[1:]:
        address = parse_address(card["follow"], PageOffer(PROVIDERS, scenarios=scenarios))
        assert address.problems == () and address.tab != FIRST_TAB
        for selector in (card["press"], card.get("fill", card["press"]).split()[0], card.get("show", card["press"])):
            assert selector.removeprefix("#") in ids


def test_opened_address_sets_the_components_of_its_tab_alone() -> None:
    async def main() -> dict[str, Any]:
        page = build_page(make_answer_service(ProviderRegistry(Settings())))
        opened = next(fn for fn in page.fns.values() if fn.name == "open")
        assert opened.fn is not None
        query = "?tab=compare&models=sim:steady,local,local&strategy=direct&max_tokens=7&blind=2#3"
        values = opened.fn(query)
        names = [str(getattr(block, "elem_id", None) or getattr(block, "label", "")) for block in opened.outputs]
        return dict(zip(names, values, strict=True))

    values = run_on_virtual_time(main())
    assert "blind “2”" in values["sg-address-note"]
    valid = {"models": "sim:steady,local,local", "strategy": "direct", "max_tokens": "7"}
    assert json.loads(values["sg-address-valid"]) == {"tab": "compare", "settings": valid}
    assert [values[f"sg-compare-provider-{n}"] for n in range(3)] == ["sim:steady", "local", "local"]
    assert [values[f"sg-compare-strategy-{n}"] for n in range(3)] == ["direct"] * 3
    skipped = gr.skip()
    untouched = ("sg-provider", "sg-scenario", "sg-interval", "sg-compare-provider-3", "sg-compare-strategy-3")
    assert all(values[name] == skipped for name in untouched)

"""The registry of strategies: names, arguments and help, and what follows from them."""

import math

import pytest

from streaming import strategies
from streaming.errors import UsageError
from streaming.strategies import STRATEGIES, StrategyKind
from streaming.strategies.__main__ import PAGE, render_page

every_kind = pytest.mark.parametrize("kind", STRATEGIES.values(), ids=STRATEGIES)


@every_kind
def test_example_is_the_canonical_name_with_the_default_argument(kind: StrategyKind) -> None:
    spec = strategies.parse(kind.name)
    assert str(spec) == kind.example == str(strategies.parse(kind.example))
    assert spec.build().name.partition(":")[0] == kind.name


@every_kind
def test_help_is_one_sentence_without_full_stop(kind: StrategyKind) -> None:
    assert kind.help and not kind.help.endswith(".") and "|" not in kind.help and kind.title


@every_kind
def test_bounds_of_an_argument_are_accepted_and_what_lies_outside_is_rejected(kind: StrategyKind) -> None:
    if kind.argument is None:
        with pytest.raises(UsageError, match="choose one of"):
            strategies.parse(f"{kind.name}:5")
        return
    unit = next(name for name, factor in kind.argument.units.items() if factor == 1.0)
    for value in (kind.argument.low, kind.argument.high):
        assert math.isfinite(strategies.parse(f"{kind.name}:{value:g}{unit}").value or math.inf)
    with pytest.raises(UsageError, match=f"use {kind.argument.low:g} to {kind.argument.high:g} {kind.argument.base}"):
        strategies.parse(f"{kind.name}:{kind.argument.high * 2:g}{unit}")


def test_unknown_name_is_rejected_with_every_strategy() -> None:
    with pytest.raises(UsageError) as raised:
        strategies.parse("fast")
    assert all(kind.example in str(raised.value) for kind in STRATEGIES.values())


def test_forms_name_every_strategy_with_its_argument() -> None:
    forms = strategies.describe_forms()
    assert forms.startswith("direct, batch:W, ")
    assert forms.replace(" or ", ", ").split(", ") == [kind.form for kind in STRATEGIES.values()]


def test_table_of_the_guide_follows_the_registry() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == render_page(text), "run `python -m streaming.strategies`"

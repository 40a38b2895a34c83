"""Lists of models: how long they are used, and the prices in them."""

from decimal import Decimal

from providers.models.lists import ModelLists
from streaming.adapter import ListedModel, UpstreamPrice

CHEAP, DEAR = UpstreamPrice("a", Decimal("0.1"), Decimal(2)), UpstreamPrice("b", Decimal("0.3"), Decimal(1))


def test_list_is_used_for_ten_minutes() -> None:
    now_s = [0.0]
    lists = ModelLists(lambda: now_s[0])
    assert lists.find("hf") is None
    lists.store("hf", [ListedModel("m")])
    now_s[0] = 600.0
    assert lists.find("hf") == [ListedModel("m")]
    now_s[0] = 600.1
    assert lists.find("hf") is None


def test_price_is_that_of_the_named_upstream_or_the_highest() -> None:
    lists = ModelLists()
    lists.store("hf", [ListedModel("org/m", prices=(CHEAP, DEAR)), ListedModel("free")])
    assert lists.find_price("hf", "org/m:B") == DEAR
    assert lists.find_price("hf", "Org/M") == UpstreamPrice("", Decimal("0.3"), Decimal(2))
    assert lists.find_price("hf", "org/m:fastest") == UpstreamPrice("", Decimal("0.3"), Decimal(2))
    assert [lists.find_price("hf", name) for name in ("free", "other")] == [None, None]
    assert lists.find_price("other", "org/m") is None


def test_price_of_the_only_upstream_names_it() -> None:
    lists = ModelLists()
    lists.store("hf", [ListedModel("m", prices=(CHEAP,))])
    assert lists.find_price("hf", "m") == CHEAP


def test_price_of_an_upstream_without_one_in_the_list_is_unknown() -> None:
    unknown = UpstreamPrice("c", Decimal(0), Decimal(0), is_known=False)
    lists = ModelLists()
    lists.store("hf", [ListedModel("org/m", prices=(CHEAP, unknown)), ListedModel("org/n", prices=(CHEAP, DEAR))])
    assert lists.find_price("hf", "org/m:a") == CHEAP
    assert lists.find_price("hf", "org/m:c") is None, "not the price of another upstream"
    assert lists.find_price("hf", "org/m") is None, "the router may choose the upstream without a price"
    assert lists.find_price("hf", "org/n") is not None

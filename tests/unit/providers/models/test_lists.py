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

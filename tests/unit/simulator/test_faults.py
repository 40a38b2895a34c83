import pytest

from simulator.faults import FAULTS, parse, table
from streaming.errors import UsageError


@pytest.mark.parametrize("name", FAULTS)
def test_every_name_is_read_back(name: str) -> None:
    fault = parse(name)
    assert (fault.name, fault.number, fault.always) == (name, FAULTS[name].default, False)
    assert name in table()


@pytest.mark.parametrize(
    ("name", "kind", "number", "always"),
    [
        ("429-retry-after", "429-retry-after", 1, False),
        ("429-retry-after-90", "429-retry-after", 90, False),
        ("slow-first-token-2", "slow-first-token", 2, False),
        ("big-event-1", "big-event", 1, False),
        ("cut-always", "cut", None, True),
    ],
)
def test_numbers_and_always_are_part_of_the_name(name: str, kind: str, number: float | None, always: bool) -> None:
    fault = parse(name)
    assert (fault.name, fault.number, fault.always) == (kind, number, always)


@pytest.mark.parametrize("name", ["", "430", "429-90", "cut-3", "slow-first-token-x", "slow-first-token--1", "Cut"])
def test_an_unknown_name_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(UsageError, match=r"there is no fault .*429-retry-after, .*text-after-end"):
        parse(name)


def test_always_is_refused_where_it_means_nothing() -> None:
    with pytest.raises(UsageError, match="no -always"):
        parse("truncated-always")


@pytest.mark.parametrize(
    ("name", "streamed", "whole"), [("503", True, True), ("cut", True, False), ("cut-always", True, True)]
)
def test_a_fault_of_the_stream_spares_the_whole_answer(name: str, streamed: bool, whole: bool) -> None:
    assert (parse(name).meets(True), parse(name).meets(False)) == (streamed, whole)

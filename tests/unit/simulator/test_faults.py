import pytest

from simulator.faults import FAULTS, format_table, parse_fault
from streaming.errors import UsageError


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_name_round_trips(name: str) -> None:
    fault = parse_fault(name)
    assert (fault.name, fault.number, fault.always) == (name, FAULTS[name].default, False)
    assert name in format_table()


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
def test_fault_name_includes_number_and_always(name: str, kind: str, number: float | None, always: bool) -> None:
    fault = parse_fault(name)
    assert (fault.name, fault.number, fault.always) == (kind, number, always)


@pytest.mark.parametrize("name", ["", "430", "429-90", "cut-3", "slow-first-token-x", "slow-first-token--1", "Cut"])
def test_unknown_fault_name_is_rejected_with_list(name: str) -> None:
    with pytest.raises(UsageError, match=r"^fault .*: unknown .*429-retry-after, .*text-after-end"):
        parse_fault(name)


def test_always_suffix_without_meaning_is_rejected() -> None:
    with pytest.raises(UsageError, match="no -always"):
        parse_fault("truncated-always")


@pytest.mark.parametrize(
    ("name", "streamed", "whole"), [("503", True, True), ("cut", True, False), ("cut-always", True, True)]
)
def test_stream_fault_applies_only_to_streamed_answers(name: str, streamed: bool, whole: bool) -> None:
    assert (parse_fault(name).applies_to(True), parse_fault(name).applies_to(False)) == (streamed, whole)

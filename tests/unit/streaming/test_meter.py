"""The meter: reported usage overrides counted, counted overrides estimated, and unknown stays unknown."""

from decimal import Decimal

import pytest

from streaming.events import Finish, TextDelta, ThinkingDelta, Usage
from streaming.messages import Message
from streaming.meter import Cost, CostModel, Meter

MESSAGES = [Message("user", "x" * 40)]
COUNTING_COST_MODEL = CostModel(counter=lambda text: len(text.split()))


def price_usage(usage: Usage) -> Cost | None:
    assert usage.output_tokens is not None
    return Cost(Decimal(usage.input_tokens or 0) / 1000, Decimal(usage.output_tokens) / 100, "test")


def test_meter_before_first_event_reports_unknowns() -> None:
    reading = Meter(MESSAGES, 10.0).read(12.5)
    assert reading.elapsed_s == 2.5
    assert (reading.ttft_s, reading.tokens_per_s, reading.cost) == (None, None, None)
    assert reading.usage == Usage(10, 0, 0, None, "estimated")


def test_estimated_tokens_are_four_characters_and_labelled() -> None:
    meter = Meter(MESSAGES, 0.0)
    meter.feed(TextDelta("abcdefgh"), 1.0)
    meter.feed(TextDelta("i"), 2.0)
    assert meter.read(2.0).usage == Usage(10, 3, 0, None, "estimated")


def test_counted_tokens_use_model_encoding() -> None:
    meter = Meter([Message("user", "two words")], 0.0, COUNTING_COST_MODEL)
    meter.feed(TextDelta("one two "), 1.0)
    assert meter.read(1.0).usage == Usage(2, 2, 0, None, "counted")


def test_token_count_is_reconciled_at_end() -> None:
    meter = Meter(MESSAGES, 0.0, COUNTING_COST_MODEL)
    for piece in ("stream", "ing is ", "f", "un"):
        meter.feed(TextDelta(piece), 1.0)
        meter.read(1.0)
    assert meter.read(1.0).usage.output_tokens == 5
    meter.end(2.0)
    assert meter.read(9.0).usage.output_tokens == 3
    assert meter.read(9.0).elapsed_s == 2.0


def test_reported_usage_overrides_counted() -> None:
    meter = Meter(MESSAGES, 0.0, COUNTING_COST_MODEL)
    meter.feed(TextDelta("a b c"), 1.0)
    meter.feed(Usage(7, 9, 4, 2), 1.0)
    meter.end(1.0)
    assert meter.read(1.0).usage == Usage(7, 9, 4, 2, "reported")


def test_partial_usages_are_merged() -> None:
    meter = Meter(MESSAGES, 0.0, COUNTING_COST_MODEL)
    meter.feed(Usage(input_tokens=7, cached_tokens=3), 0.5)
    meter.feed(TextDelta("a b"), 1.0)
    assert meter.read(1.0).usage == Usage(7, 2, 0, 3, "counted")
    meter.feed(Usage(output_tokens=5), 2.0)
    assert meter.read(2.0).usage == Usage(7, 5, None, 3, "reported")


def test_thinking_counts_as_output_and_first_token() -> None:
    meter = Meter(MESSAGES, 0.0, COUNTING_COST_MODEL)
    meter.feed(ThinkingDelta("a b"), 0.5)
    meter.feed(TextDelta("c d"), 1.0)
    reading = meter.read(1.0)
    assert reading.usage == Usage(1, 4, 2, None, "counted")
    assert reading.ttft_s == 0.5


def test_tokens_per_s_excludes_first_token() -> None:
    meter = Meter(MESSAGES, 0.0)
    for i in range(11):
        meter.feed(TextDelta("abcd"), 5.0 + i * 0.1)
    meter.feed(Usage(1, 11), 6.0)
    assert meter.read(60.0).tokens_per_s == pytest.approx(10.0)


def test_reported_output_is_kept_if_input_is_unknown() -> None:
    meter = Meter(MESSAGES, 0.0)
    meter.feed(TextDelta("abcd"), 1.0)
    meter.feed(Usage(None, 1100), 2.0)
    assert meter.read(2.0).usage == Usage(10, 1100, None, None, "estimated")


def test_tokens_per_s_is_unknown_if_thinking_tokens_are() -> None:
    meter = Meter(MESSAGES, 0.0)
    meter.feed(ThinkingDelta("hm" * 100), 0.5)
    meter.feed(TextDelta("a"), 1.0)
    meter.feed(TextDelta("b"), 2.0)
    meter.feed(Usage(10, 1100), 2.0)
    assert meter.read(2.0).tokens_per_s is None


def test_usage_followed_by_more_text_is_not_final() -> None:
    meter = Meter(MESSAGES, 0.0)
    meter.feed(TextDelta("abcd"), 1.0)
    meter.feed(Usage(7, 1, 0), 1.0)
    meter.feed(TextDelta("x" * 400), 2.0)
    assert meter.read(2.0).usage == Usage(7, 101, 0, None, "estimated")


def test_cost_with_unknown_price_is_none() -> None:
    meter = Meter(MESSAGES, 0.0, CostModel(price=lambda usage: None))
    meter.feed(TextDelta("a"), 1.0)
    assert meter.read(1.0).cost is None


def test_cost_follows_running_usage() -> None:
    meter = Meter(MESSAGES, 0.0, CostModel(price=price_usage))
    meter.feed(TextDelta("abcdefgh"), 1.0)
    cost = meter.read(1.0).cost
    assert cost is not None
    assert (cost.input_usd, cost.output_usd, cost.total_usd) == (Decimal("0.01"), Decimal("0.02"), Decimal("0.03"))


def test_new_attempt_resets_counting_and_pricing() -> None:
    meter = Meter(MESSAGES, 0.0, COUNTING_COST_MODEL)
    meter.feed(TextDelta("one two three"), 1.0)
    assert meter.read(1.0).usage.output_tokens == 3
    meter.start_attempt(CostModel(price=price_usage))
    reading = meter.read(1.0)
    assert reading.usage == Usage(10, 4, 0, None, "estimated")
    assert reading.cost is not None


def test_notices_and_finish_are_not_first_token() -> None:
    meter = Meter(MESSAGES, 0.0)
    meter.feed(Finish("stop"), 1.0)
    assert meter.read(1.0).ttft_s is None

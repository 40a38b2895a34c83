"""What the reader is told in figures: unknown is never 0, an estimate is labelled, a cut answer is never complete."""

from dataclasses import replace
from decimal import Decimal

import pytest

from streaming.events import Failed, FinishReason, Usage
from streaming.meter import Cost
from streaming.pipeline import Outcome
from tests.unit.ui.samples import READING, RECEIPT
from ui import figures, texts


def priced(usd: str) -> Cost:
    return Cost(Decimal(usd) / 2, Decimal(usd) / 2, "genai-prices", "2026-11-01")


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "–"), (0.0, "0.00 s"), (1.614, "1.61 s"), (9.994, "9.99 s"), (12.34, "12.3 s"), (125.9, "2 min 5 s")],
)
def test_seconds(value: float | None, written: str) -> None:
    assert figures.seconds(value) == written


@pytest.mark.parametrize(
    ("usd", "source", "written"),
    [
        ("0.000012345", "reported", "$0.000012"),
        ("0.000012345", "counted", "≈ $0.000012"),
        ("0.000012345", "estimated", "≈ $0.000012"),
        ("0.0996", "reported", "$0.100"),
        ("1.235", "reported", "$1.24"),
        ("123.4", "reported", "$123.40"),
        ("0", "estimated", "$0"),
    ],
)
def test_a_cost_has_two_digits_and_says_when_it_is_not_reported(usd: str, source: str, written: str) -> None:
    assert figures.usd(priced(usd), source) == written


def test_an_unknown_price_is_not_zero() -> None:
    assert figures.usd(None, "reported") == "unknown price"
    assert "unknown price" in figures.meter(READING)
    assert "$0" not in figures.meter(READING) + figures.headline(RECEIPT) + figures.details(RECEIPT)


def test_a_meter_without_a_reading_shows_no_numbers() -> None:
    assert figures.meter(None).count(">– <small></small>") == 6


def test_a_meter_names_the_source_of_its_tokens() -> None:
    estimated = replace(READING, usage=Usage(6, 85, source="estimated"))
    assert "130 <small>reported</small>" in figures.meter(READING)
    assert "85 <small>estimated</small>" in figures.meter(estimated)


def test_a_stage_line_is_text_not_markup() -> None:
    line = figures.stage("Waiting", 1.52, "<b>x</b>", kind="busy")
    assert "1.5 s" in line
    assert "&lt;b&gt;x&lt;/b&gt;" in line and "<b>" not in line


@pytest.mark.parametrize(
    ("outcome", "reason", "kept_words"),
    [
        ("truncated", None, "Cut off"),
        ("completed", "length", "Cut at the token limit"),
        ("cancelled", None, "Stopped"),
        ("failed", None, "Failed"),
        ("failed", "error", "Ended by an error"),
        ("filtered", "content_filter", "content filter"),
        ("completed", "other", "Ended for a reason"),
        ("completed", "tool", "tool call"),
    ],
)
def test_only_a_plain_end_is_called_complete(outcome: Outcome, reason: FinishReason | None, kept_words: str) -> None:
    receipt = replace(RECEIPT, outcome=outcome, finish_reason=reason)
    assert kept_words in figures.ending(receipt)
    assert "Complete" not in figures.headline(receipt) + figures.details(receipt)
    assert not figures.whole(receipt)


def test_a_whole_answer_is_complete() -> None:
    assert figures.whole(RECEIPT)
    assert figures.headline(RECEIPT) == "Complete · 520 characters · 130 tokens reported · 4.37 s · unknown price"
    assert figures.problem(RECEIPT) == ""


def test_details_have_what_a_stopped_answer_cost_and_how_fast_it_was_stopped() -> None:
    usage = Usage(6, 50, thinking_tokens=7, source="counted")
    reading = replace(READING, usage=usage, cost=priced("0.0002"))
    text = figures.details(replace(RECEIPT, outcome="cancelled", finish_reason=None, stop_s=0.034, reading=reading))
    assert "| Provider stopped within | 0.03 s |" in text
    assert "| Tokens out | 50 (counted) |" in text
    assert "| of these, thinking | 7 |" in text
    assert "≈ \\$0.00020 (prices: genai-prices, 2026-11-01)" in text
    assert texts.KEPT in text


def test_details_tell_of_attempts_and_fallback() -> None:
    text = figures.details(replace(RECEIPT, attempts=3, fell_back_to="openai:gpt-5-mini"))
    assert "| Attempts | 3 |" in text
    assert "| Fell back to | openai:gpt-5-mini |" in text


def test_a_provider_can_put_neither_markdown_nor_html_into_a_receipt() -> None:
    error = Failed("server_error", "no <img src=x> ![x](https://example.com/x.png) | a\nb", 503)
    text = figures.details(replace(RECEIPT, outcome="failed", finish_reason=None, error=error, delivered_chars=0))
    assert text.startswith("**No &lt;img src=x&gt; \\!\\[x\\](https://example.com/x.png) \\| a b.** ")
    assert texts.NOTHING_KEPT in text
    assert "| HTTP status | 503 |" in text

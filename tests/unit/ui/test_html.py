"""Tests of rendered metrics: unknown is never 0, estimates are labelled, and a cut answer is never complete."""

from dataclasses import replace
from decimal import Decimal

import pytest

from streaming.events import Failed, FinishReason, Usage
from streaming.meter import Cost
from streaming.pipeline import Outcome
from tests.unit.ui.samples import READING, RECEIPT
from ui import html, strings


def cost_of_usd(usd: str) -> Cost:
    return Cost(Decimal(usd) / 2, Decimal(usd) / 2, "genai-prices", "2026-11-01")


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "–"), (0.0, "0.00 s"), (1.614, "1.61 s"), (9.994, "9.99 s"), (12.34, "12.3 s"), (125.9, "2 min 5 s")],
)
def test_format_seconds_writes_known_and_unknown_values(value: float | None, written: str) -> None:
    assert html.format_seconds(value) == written


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
def test_format_cost_has_two_digits_and_names_unreported_source(usd: str, source: str, written: str) -> None:
    assert html.format_cost(cost_of_usd(usd), source) == written


def test_unknown_price_is_not_shown_as_zero() -> None:
    assert html.format_cost(None, "reported") == "Price unknown"
    assert "Price unknown" in html.meter_html(READING)
    assert "$0" not in html.meter_html(READING) + html.receipt_headline(RECEIPT) + html.receipt_markdown(RECEIPT)


def test_meter_without_reading_shows_dashes() -> None:
    assert html.meter_html(None).count(">– <small></small>") == 6


def test_meter_names_token_source() -> None:
    estimated = replace(READING, usage=Usage(6, 85, source="estimated"))
    assert "130 <small>reported</small>" in html.meter_html(READING)
    assert "85 <small>estimated</small>" in html.meter_html(estimated)


def test_stage_line_escapes_html() -> None:
    line = html.stage_html("Waiting", 1.52, "<b>x</b>", kind="busy")
    assert "1.5 s" in line
    assert "&lt;b&gt;x&lt;/b&gt;" in line and "<b>" not in line


@pytest.mark.parametrize(
    ("outcome", "reason", "kept_words"),
    [
        ("truncated", None, "Interrupted"),
        ("completed", "length", "Stopped at max tokens"),
        ("cancelled", None, "Stopped"),
        ("failed", None, "Failed"),
        ("failed", "error", "Ended by an error"),
        ("filtered", "content_filter", "content filter"),
        ("completed", "other", "Ended for a reason"),
        ("completed", "tool", "tool call"),
    ],
)
def test_incomplete_outcome_is_never_called_complete(
    outcome: Outcome, reason: FinishReason | None, kept_words: str
) -> None:
    receipt = replace(RECEIPT, outcome=outcome, finish_reason=reason)
    assert kept_words in html.outcome_label(receipt)
    assert "Done" not in html.receipt_headline(receipt) + html.receipt_markdown(receipt)
    assert not html.is_complete(receipt)


def test_completed_receipt_is_called_complete() -> None:
    assert html.is_complete(RECEIPT)
    assert html.receipt_headline(RECEIPT, "gpt-x") == "gpt-x · TTFT 1.61 s · 47.4 tokens/s · 130 tokens"
    assert html.failure_text(RECEIPT) == ""


def test_receipt_of_stopped_answer_shows_cost_and_stop_time() -> None:
    usage = Usage(6, 50, thinking_tokens=7, cached_tokens=4, source="counted")
    reading = replace(READING, usage=usage, cost=cost_of_usd("0.0002"))
    text = html.receipt_markdown(
        replace(RECEIPT, outcome="cancelled", finish_reason=None, stop_s=0.034, reading=reading)
    )
    assert "| Provider stopped within | 0.03 s |" in text
    assert "| Output tokens | 50 (counted) |" in text
    assert "(counted) |\n| Of these, thinking | 7 |" in text
    assert "| Input tokens | 6 (counted) |\n| Of these, cached | 4 |" in text
    assert "≈ \\$0.00020 (prices: genai-prices, 2026-11-01)" in text
    assert strings.KEPT in text


def test_receipt_shows_attempts_and_fallback() -> None:
    text = html.receipt_markdown(replace(RECEIPT, attempts=3, fell_back_to="openai:gpt-5-mini"))
    assert "| Attempts | 3 |" in text
    assert "| Fell back to | openai:gpt-5-mini |" in text


def test_receipt_escapes_provider_markdown_and_html() -> None:
    error = Failed("server_error", "no <img src=x> ![x](https://example.com/x.png) | a\nb", 503)
    text = html.receipt_markdown(replace(RECEIPT, outcome="failed", finish_reason=None, error=error, delivered_chars=0))
    assert text.startswith("**No &lt;img src=x&gt; \\!\\[x\\](https://example.com/x.png) \\| a b.** ")
    assert strings.NOTHING_KEPT in text
    assert "| HTTP status | 503 |" in text

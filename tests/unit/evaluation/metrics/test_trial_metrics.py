"""A trial's columns from its timestamps and receipt: which metrics each outcome has."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from evaluation.metrics import compute_metrics
from evaluation.metrics.trial_metrics import MeasuredAnswer, TimedEvents, outcome_columns
from evaluation.schema import build_trial, event_rows
from streaming.events import Event, Failed, Finish, Notice, NoticeKind, TextDelta, ThinkingDelta, TimedEvent, Usage
from streaming.meter import Cost, MeterReading
from streaming.pipeline import Outcome, Receipt

TIME_COLUMNS = (
    "ttft_s",
    "ttfot_s",
    "delivered_ttft_s",
    "e2e_s",
    "delivered_e2e_s",
    "icl_p50_s",
    "stalls",
    "delay_mean_s",
    "qoe",
)
END: Event = Finish("stop", "stop")


def timed_events(*pairs: tuple[float, Event]) -> list[TimedEvent]:
    return [TimedEvent(at, event) for at, event in pairs]


def timed_stream(end: Event = END) -> TimedEvents:
    source = timed_events(
        (100.05, Notice("connected", "")),
        (100.1, ThinkingDelta("hm")),
        (100.2, TextDelta("abcd")),
        (100.3, TextDelta("efgh")),
        (100.4, TextDelta("ijkl")),
        (100.45, end),
    )
    delivered = timed_events(
        (100.05, Notice("connected", "")),
        (100.1, ThinkingDelta("hm")),
        (100.25, TextDelta("abcd")),
        (100.45, TextDelta("efghijkl")),
        (100.46, end),
    )
    return TimedEvents(100.0, source, delivered)


def measure(outcome: Outcome, result: TimedEvents | None = None, usage: Usage | None = None) -> dict[str, Any]:
    usage = usage or Usage(output_tokens=5, thinking_tokens=2)
    return compute_metrics(MeasuredAnswer(result or timed_stream(), outcome, usage))


def make_receipt(outcome: Outcome, usage: Usage, cost: Cost | None = None, error: Failed | None = None) -> Receipt:
    return Receipt(
        outcome, None, None, error, "sim:steady", 1, None, 0, MeterReading(usage, cost, 1.0, None, None), None
    )


def test_completed_trial_has_all_time_metrics() -> None:
    result = measure("completed")
    assert result["ttft_s"] == pytest.approx(0.1), "thinking is a first delta"
    assert result["ttfot_s"] == pytest.approx(0.2), "and not answer text"
    assert result["delivered_ttft_s"] == pytest.approx(0.25)
    assert result["e2e_s"] == pytest.approx(0.45) and result["delivered_e2e_s"] == pytest.approx(0.46)
    assert (result["chunks"], result["delivered_chunks"]) == (3, 2)
    assert result["icl_p50_s"] == pytest.approx(0.1) and result["stalls"] == 0 and result["stall_s"] == 0.0
    assert result["itl_s"] == pytest.approx(0.1), "two of three tokens follow the first chunk, in 0.2 s"
    assert result["output_tps"] == pytest.approx(10) and result["tokens_per_chunk"] == pytest.approx(1)
    assert result["chars_per_s"] == pytest.approx(40) and result["updates_per_s"] is None
    assert result["delay_mean_s"] == pytest.approx((0.05 + 0.15 + 0.05) / 3)
    assert result["fluidity"] == 1.0 and result["qoe"] == pytest.approx(1.0)


def test_trial_without_source_events_has_unknown_delay() -> None:
    result = measure("completed", replace(timed_stream(), source=None))
    assert result["ttft_s"] == pytest.approx(0.1) and result["ttfot_s"] == result["delivered_ttft_s"]
    assert result["e2e_s"] == result["delivered_e2e_s"] == pytest.approx(0.46)
    assert result["chunks"] == result["delivered_chunks"] == 2 and result["icl_p50_s"] == pytest.approx(0.2)
    assert result["itl_s"] == pytest.approx(0.1) and result["qoe"] == pytest.approx(1.0)
    assert result["delay_mean_s"] is result["delay_p95_s"] is result["delay_max_s"] is None
    kinds = {row.kind.partition("_")[0] for row in event_rows("r", "t", replace(timed_stream(), source=None))}
    assert kinds == {"delivered"}


def test_failed_trial_has_none_for_every_time() -> None:
    result = measure("failed", timed_stream(Failed("network", "reset")))
    assert all(result.get(name) is None for name in TIME_COLUMNS)
    assert (result["chunks"], result["delivered_chunks"]) == (3, 2), "what came was counted"


def test_truncated_trial_keeps_cadence_but_no_completion_metrics() -> None:
    result = measure("truncated", timed_stream(Failed("truncated", "cut")))
    assert result["ttft_s"] == pytest.approx(0.1) and result["icl_p50_s"] == pytest.approx(0.1)
    assert result["delay_max_s"] == pytest.approx(0.15)
    for name in ("e2e_s", "delivered_e2e_s", "itl_s", "output_tps", "fluidity", "qoe"):
        assert result.get(name) is None, name


def test_filtered_trial_has_end_time_but_no_qoe() -> None:
    result = measure("filtered", timed_stream(Finish("content_filter")))
    assert result["e2e_s"] == pytest.approx(0.45) and result.get("qoe") is None and result.get("fluidity") is None


def test_estimated_tokens_give_no_token_rates() -> None:
    result = measure("completed", usage=Usage(output_tokens=5, thinking_tokens=2, source="estimated"))
    assert result["itl_s"] is None and result["output_tps"] is None and result["fluidity"] is None
    assert result["chars_per_s"] == pytest.approx(40), "characters are measured"


def test_altered_text_has_no_delay() -> None:
    changed = TimedEvents(
        0.0, timed_events((0.1, TextDelta("abcd")), (0.2, END)), timed_events((0.1, TextDelta("ab")), (0.2, END))
    )
    assert measure("completed", changed).get("delay_mean_s") is None


def test_answer_without_text_has_zero_chunks_and_unknown_metrics() -> None:
    empty = TimedEvents(0.0, timed_events((0.2, END)), timed_events((0.2, END)))
    result = measure("completed", empty)
    assert result["chunks"] == 0 and result["e2e_s"] == pytest.approx(0.2)
    for name in ("ttft_s", "icl_p50_s", "stalls", "output_tps", "delay_mean_s", "updates_per_s", "fluidity", "qoe"):
        assert result[name] is None, name


def test_failed_request_without_usage_has_no_token_columns() -> None:
    error = Failed("auth", "the key was refused", 401)
    usage = Usage(input_tokens=12, output_tokens=0, source="estimated")
    result = outcome_columns(make_receipt("failed", usage, Cost(Decimal(1), Decimal(0), "user"), error))
    assert (result["error_type"], result["http_status"]) == ("auth", 401)
    assert not {"input_tokens", "token_source", "cost_usd"} & set(result)


def test_reported_usage_and_cost_keep_their_sources() -> None:
    usage = Usage(12, 64, 0, 4)
    result = outcome_columns(
        make_receipt("completed", usage, Cost(Decimal("0.01"), Decimal("0.02"), "user", "2026-01-01"))
    )
    assert (result["input_tokens"], result["cached_tokens"], result["token_source"]) == (12, 4, "reported")
    assert result["cost_usd"] == Decimal("0.03") and result["price_date"] == "2026-01-01"


def test_event_rows_of_both_ends_are_ordered_by_time() -> None:
    rows = list(event_rows("r", "t", timed_stream()))
    assert [row.seq for row in rows] == list(range(11))
    at = [row.source_s if row.source_s is not None else row.delivered_s for row in rows]
    assert at == sorted(at, key=lambda value: value or 0.0)
    assert rows[0].kind == "source_notice" and rows[1].kind == "delivered_notice", "arrival before departure"
    texts = [row for row in rows if row.kind.endswith("_text")]
    assert [row.chars for row in texts if row.source_s is not None] == [4, 4, 4]
    assert [row.chars for row in texts if row.delivered_s is not None] == [4, 8]
    assert all((row.source_s is None) != (row.delivered_s is None) for row in rows)
    assert all(row.kind.startswith("source_") == (row.source_s is not None) for row in rows)


def test_event_row_has_tokens_only_if_reported() -> None:
    result = TimedEvents(0.0, timed_events((0.1, TextDelta("abcd")), (0.2, Usage(3, 1)), (0.3, END)), [])
    assert [(row.kind, row.tokens) for row in event_rows("r", "t", result)] == [
        ("source_text", None),
        ("source_usage", 1),
        ("source_finish", None),
    ]


def test_queue_excludes_connecting_and_waits_that_the_provider_named() -> None:
    reported = {"connect_s": 0.3, "refused_starts": 2, "refused_wait_s": 2.0, "attempts": 3}
    result = compute_metrics(MeasuredAnswer(timed_stream(), "completed", reported=reported, intended_s=97.5))
    assert result["queue_s"] == pytest.approx(0.2), "2.5 s before sending, of which the instrument caused 0.2"
    assert result["ttft_s"] == pytest.approx(0.1) and result["ttft_total_s"] == pytest.approx(2.6)
    assert (result["attempts"], result["refused_starts"], result["refused_wait_s"]) == (3, 2, 2.0)


@pytest.mark.parametrize(
    ("connected_s", "ahead_s", "queue_s", "ttft_total_s"),
    [
        (99.0, 0.3, 0.5, 0.9),  # open before the request was due at 99.5
        (99.6, 0.2, 0.4, 0.8),  # 0.2 s of connecting before, 0.1 s after
        (100.0, 0.0, 0.2, 0.6),
    ],
)
def test_connecting_before_the_planned_start_is_no_delay_but_what_a_user_waits(
    connected_s: float, ahead_s: float, queue_s: float, ttft_total_s: float
) -> None:
    reported = {"connect_s": 0.3, "connected_s": connected_s}
    result = compute_metrics(MeasuredAnswer(timed_stream(), "completed", reported=reported, intended_s=99.5))
    assert result["connect_s"] == 0.3 and result["start_delay_s"] == pytest.approx(0.5)
    assert result["connect_ahead_s"] == pytest.approx(ahead_s) and result["queue_s"] == pytest.approx(queue_s)
    assert result["ttft_total_s"] == pytest.approx(ttft_total_s)
    assert ttft_total_s == pytest.approx(queue_s + 0.3 + 0.1), "the queue, connecting and TTFT"


def test_unsent_request_has_intended_start_but_no_queue_time() -> None:
    unsent = TimedEvents(10.0, (), (), sent=False)
    facts = dict.fromkeys(("run_id", "trial_id", "prompt_id", "provider", "strategy", "transport", "started_at"), "x")
    trial = build_trial(MeasuredAnswer(unsent, "failed", intended_s=10.0), model=None, repeat=1, block=1, **facts)
    assert (trial.intended_start_s, trial.sent_monotonic_s, trial.queue_s) == (10.0, None, None)
    assert compute_metrics(MeasuredAnswer(timed_stream(), "completed"))["queue_s"] is None, "without a planned start"


@pytest.mark.parametrize("kind", ["retry", "fallback"])
def test_ttft_ignores_thinking_of_abandoned_attempt(kind: NoticeKind) -> None:
    source = timed_events(
        (100.1, ThinkingDelta("hm")),
        (100.2, Notice(kind, "once more")),
        (100.5, ThinkingDelta("well")),
        (100.6, TextDelta("abcd")),
        (100.7, END),
    )
    result = measure("completed", TimedEvents(100.0, source, source))
    assert result["ttft_s"] == pytest.approx(0.5) and result["ttfot_s"] == pytest.approx(0.6)

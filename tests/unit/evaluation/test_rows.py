"""From stamps and receipt to columns: what each outcome can tell, and what it must not."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from evaluation.experience import Deadlines, Reader
from evaluation.rows import Stamps, ending, event_rows, figures, waiting
from streaming.events import Event, Failed, Finish, Notice, NoticeKind, TextDelta, ThinkingDelta, Timed, Usage
from streaming.meter import Cost, Reading
from streaming.pipeline import Outcome, Receipt

TIMES = (
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


def timed(*pairs: tuple[float, Event]) -> list[Timed]:
    return [Timed(at, event) for at, event in pairs]


def stamps(end: Event = END) -> Stamps:
    source = timed(
        (100.05, Notice("connected", "")),
        (100.1, ThinkingDelta("hm")),
        (100.2, TextDelta("abcd")),
        (100.3, TextDelta("efgh")),
        (100.4, TextDelta("ijkl")),
        (100.45, end),
    )
    delivered = timed(
        (100.05, Notice("connected", "")),
        (100.1, ThinkingDelta("hm")),
        (100.25, TextDelta("abcd")),
        (100.45, TextDelta("efghijkl")),
        (100.46, end),
    )
    return Stamps(100.0, source, delivered)


def measured(outcome: Outcome, found: Stamps | None = None, usage: Usage | None = None) -> dict[str, Any]:
    usage = usage or Usage(output_tokens=5, thinking_tokens=2)
    return figures(found or stamps(), outcome, usage, Deadlines(), Reader())


def receipt(outcome: Outcome, usage: Usage, cost: Cost | None = None, error: Failed | None = None) -> Receipt:
    return Receipt(outcome, None, None, error, "sim:steady", 1, None, 0, Reading(usage, cost, 1.0, None, None), None)


def test_a_completed_trial_tells_everything_that_stamps_can_tell() -> None:
    found = measured("completed")
    assert found["ttft_s"] == pytest.approx(0.1), "thinking is a first delta"
    assert found["ttfot_s"] == pytest.approx(0.2), "and not answer text"
    assert found["delivered_ttft_s"] == pytest.approx(0.25)
    assert found["e2e_s"] == pytest.approx(0.45) and found["delivered_e2e_s"] == pytest.approx(0.46)
    assert (found["chunks"], found["delivered_chunks"]) == (3, 2)
    assert found["icl_p50_s"] == pytest.approx(0.1) and found["stalls"] == 0 and found["stall_s"] == 0.0
    assert found["itl_s"] == pytest.approx(0.1) and found["output_tps"] == pytest.approx(10)
    assert found["chars_per_s"] == pytest.approx(40) and found["updates_per_s"] is None
    assert found["delay_mean_s"] == pytest.approx((0.05 + 0.15 + 0.05) / 3)
    assert found["fluidity"] == 1.0 and found["qoe"] == pytest.approx(1.0)


def test_over_a_wire_what_was_delivered_is_what_arrived_and_its_delay_is_not_known() -> None:
    found = measured("completed", replace(stamps(), source=None))
    assert found["ttft_s"] == pytest.approx(0.1) and found["ttfot_s"] == found["delivered_ttft_s"]
    assert found["e2e_s"] == found["delivered_e2e_s"] == pytest.approx(0.46)
    assert found["chunks"] == found["delivered_chunks"] == 2 and found["icl_p50_s"] == pytest.approx(0.2)
    assert found["itl_s"] == pytest.approx(0.1) and found["qoe"] == pytest.approx(1.0)
    assert not {"delay_mean_s", "delay_p95_s", "delay_max_s"} & found.keys()
    kinds = {row.kind.partition("_")[0] for row in event_rows("r", "t", replace(stamps(), source=None))}
    assert kinds == {"delivered"}


def test_a_failed_trial_has_no_times_and_no_zero_in_their_place() -> None:
    found = measured("failed", stamps(Failed("network", "reset")))
    assert all(found.get(name) is None for name in TIMES)
    assert (found["chunks"], found["delivered_chunks"]) == (3, 2), "what came was counted"


def test_a_cut_answer_keeps_its_cadence_and_is_judged_on_nothing_whole() -> None:
    found = measured("truncated", stamps(Failed("truncated", "cut")))
    assert found["ttft_s"] == pytest.approx(0.1) and found["icl_p50_s"] == pytest.approx(0.1)
    assert found["delay_max_s"] == pytest.approx(0.15)
    for name in ("e2e_s", "delivered_e2e_s", "itl_s", "output_tps", "fluidity", "qoe"):
        assert found.get(name) is None, name


def test_a_filtered_answer_has_its_end_and_no_verdict() -> None:
    found = measured("filtered", stamps(Finish("content_filter")))
    assert found["e2e_s"] == pytest.approx(0.45) and found.get("qoe") is None and found.get("fluidity") is None


def test_estimated_tokens_give_no_rate() -> None:
    found = measured("completed", usage=Usage(output_tokens=5, thinking_tokens=2, source="estimated"))
    assert found["itl_s"] is None and found["output_tps"] is None and found["fluidity"] is None
    assert found["chars_per_s"] == pytest.approx(40), "characters are measured"


def test_text_that_changed_on_its_way_has_no_delay() -> None:
    changed = Stamps(0.0, timed((0.1, TextDelta("abcd")), (0.2, END)), timed((0.1, TextDelta("ab")), (0.2, END)))
    assert measured("completed", changed).get("delay_mean_s") is None


def test_an_answer_without_text_has_chunks_zero_and_the_rest_unknown() -> None:
    empty = Stamps(0.0, timed((0.2, END)), timed((0.2, END)))
    found = measured("completed", empty)
    assert found["chunks"] == 0 and found["e2e_s"] == pytest.approx(0.2)
    for name in ("ttft_s", "icl_p50_s", "stalls", "output_tps", "delay_mean_s", "updates_per_s", "fluidity", "qoe"):
        assert found[name] is None, name


def test_a_failed_call_of_which_nothing_is_known_used_nothing_known() -> None:
    error = Failed("auth", "the key was refused", 401)
    usage = Usage(input_tokens=12, output_tokens=0, source="estimated")
    found = ending(receipt("failed", usage, Cost(Decimal(1), Decimal(0), "user"), error))
    assert (found["error_type"], found["http_status"]) == ("auth", 401)
    assert not {"input_tokens", "token_source", "cost_usd"} & set(found)


def test_reported_usage_and_cost_are_taken_over_with_their_sources() -> None:
    usage = Usage(12, 64, 0, 4)
    found = ending(receipt("completed", usage, Cost(Decimal("0.01"), Decimal("0.02"), "user", "2026-01-01")))
    assert (found["input_tokens"], found["cached_tokens"], found["token_source"]) == (12, 4, "reported")
    assert found["cost_usd"] == Decimal("0.03") and found["price_date"] == "2026-01-01"


def test_events_of_both_ends_are_rows_in_order_of_time() -> None:
    rows = list(event_rows("r", "t", stamps()))
    assert [row.seq for row in rows] == list(range(11))
    at = [row.source_s if row.source_s is not None else row.delivered_s for row in rows]
    assert at == sorted(at, key=lambda value: value or 0.0)
    assert rows[0].kind == "source_notice" and rows[1].kind == "delivered_notice", "arrival before departure"
    texts = [row for row in rows if row.kind.endswith("_text")]
    assert [row.chars for row in texts if row.source_s is not None] == [4, 4, 4]
    assert [row.chars for row in texts if row.delivered_s is not None] == [4, 8]
    assert all((row.source_s is None) != (row.delivered_s is None) for row in rows)
    assert all(row.kind.startswith("source_") == (row.source_s is not None) for row in rows)


def test_a_row_has_tokens_only_where_the_provider_told_them() -> None:
    found = Stamps(0.0, timed((0.1, TextDelta("abcd")), (0.2, Usage(3, 1)), (0.3, END)), [])
    assert [(row.kind, row.tokens) for row in event_rows("r", "t", found)] == [
        ("source_text", None),
        ("source_usage", 1),
        ("source_finish", None),
    ]


def test_what_was_never_sent_waited_nobody_knows_how_long() -> None:
    assert waiting(None, 10.0, None, None) == {"intended_start_s": 10.0}
    assert waiting(10.5, None, 0.1, 0.2) == {}


@pytest.mark.parametrize("kind", ["retry", "fallback"])
def test_thinking_of_an_attempt_that_was_given_up_is_no_first_token(kind: NoticeKind) -> None:
    source = timed(
        (100.1, ThinkingDelta("hm")),
        (100.2, Notice(kind, "once more")),
        (100.5, ThinkingDelta("well")),
        (100.6, TextDelta("abcd")),
        (100.7, END),
    )
    found = measured("completed", Stamps(100.0, source, source))
    assert found["ttft_s"] == pytest.approx(0.5) and found["ttfot_s"] == pytest.approx(0.6)

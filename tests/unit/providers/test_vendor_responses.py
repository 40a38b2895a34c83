"""Recorded vendor responses with their expected results: events, meter readings, errors and retries."""

import csv
import json
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from providers.decoding.chat_completions import make_decoder
from providers.http.errors import ServiceLabels, error_from_response
from providers.models.pricing import list_price
from providers.services import SERVICES, ServiceEndpoint
from streaming.errors import StreamError
from streaming.events import TERMINAL, Event, Failed, Finish, Notice, TextDelta, ThinkingDelta
from streaming.messages import Message
from streaming.meter import CostModel, Meter, MeterReading, PriceFunction
from streaming.pipeline import outcome_of
from streaming.retry import AttemptState, Retry, RetryPolicy, decide
from streaming.session import Route, Session
from tests.scripted_adapter import REQUEST, ScriptedAdapter, words_script
from tests.virtual_time import loop_clock, run_on_virtual_time

FOLDER = Path(__file__).parents[2] / "vendor_responses"
CASES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))
}
PIECES = (1 << 20, 1, 7)


def parse_http_error(case: dict[str, Any]) -> StreamError:
    row = SERVICES[case["provider"]]
    names = ServiceLabels(row.label, row.base_url or "http://127.0.0.1:1/v1", row.key, row.base_url_variable)
    return error_from_response(names, case["model"], case["status"], httpx2.Headers(case["headers"]), case["body"])


def decode(case: dict[str, Any], piece_bytes: int) -> list[Event]:
    """Return the events of a case's body, fed in pieces of that size. An error is the last event."""
    row = SERVICES[case["provider"]]
    quirks = ServiceEndpoint(row, row.base_url or "http://127.0.0.1:1/v1", None, row.base_url is not None).profile
    result = make_decoder(streamed=case["streamed"], think_tags=quirks.think_tags, shows_thinking=quirks.shows_thinking)
    events: list[Event] = [Notice("connected", "answers")]
    data = case["body"].encode()
    try:
        for start in range(0, len(data), piece_bytes):
            for event in result.feed(data[start : start + piece_bytes]):
                events.append(event)
        for event in result.flush():
            events.append(event)
    except StreamError as error:
        events.append(Failed(error.kind, error.message, error.http_status))
    return events


def read_events(case: dict[str, Any], piece_bytes: int) -> list[Event]:
    if case["kind"] != "error":
        return decode(case, piece_bytes)
    error = parse_http_error(case)
    return [Failed(error.kind, error.message, error.http_status)]


def read_meter(events: list[Event], cost_model: CostModel | None = None) -> MeterReading:
    """Return the meter's reading of events at intervals of 10 ms."""
    meter = Meter((Message("user", "a prompt"),), 0.0, cost_model)
    for number, event in enumerate(events):
        meter.feed(event, number / 100)
    meter.end(len(events) / 100)
    return meter.read(len(events) / 100)


def text_of(events: list[Event], kind: type[TextDelta | ThinkingDelta]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def seconds_until_next_provider(error: StreamError) -> float:
    """Return the virtual time at which a second provider has answered after the first one failed with this error."""

    async def run() -> float:
        now = loop_clock()
        first, second = ScriptedAdapter([(0.0, error)]), ScriptedAdapter(words_script(1, first_s=0.0))
        session = Session([Route("first", first, "m"), Route("second", second, "m")], now)
        async with aclosing(session.stream(REQUEST)) as events:
            async for _ in events:
                pass
        assert session.route.name == "second"
        return now()

    return run_on_virtual_time(run())


@pytest.mark.parametrize("piece_bytes", PIECES)
@pytest.mark.parametrize("name", CASES)
def test_vendor_response_decodes_to_its_expected_result(name: str, piece_bytes: int) -> None:
    case = CASES[name]
    expect, events = case["expect"], read_events(case, piece_bytes)
    last, usage = events[-1], read_meter(events).usage
    assert isinstance(last, TERMINAL)
    outcome = outcome_of(last, has_text=bool(text_of(events, TextDelta).strip()))
    counts = {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "thinking": usage.thinking_tokens,
        "cached": usage.cached_tokens,
        "source": usage.source,
    }
    assert counts == counts | expect.get("usage", {})
    assert all(counts[key] != value or usage.source != "reported" for key, value in expect.get("usage_not", {}).items())
    if "billed_usd" in expect:
        assert usage.billed_usd == Decimal(expect["billed_usd"])
    assert text_of(events, TextDelta) == expect.get("text", text_of(events, TextDelta))
    assert text_of(events, ThinkingDelta) == expect.get("thinking", text_of(events, ThinkingDelta))
    assert outcome == expect.get("outcome", outcome)
    assert outcome != expect.get("outcome_not")
    if wrong_tps := expect.get("tps_not"):
        assert read_meter(events).tokens_per_s != wrong_tps
    if isinstance(last, Failed):
        assert last.kind == expect.get("error_kind", last.kind)
        assert expect.get("error_has", "") in last.message
        assert "error_not" not in expect or expect["error_not"] not in last.message
    else:
        assert isinstance(last, Finish)
        assert not expect.keys() & {"error_kind", "error_has", "error_not"}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "next_within" in case["expect"]])
def test_permanent_error_falls_back_to_the_next_provider_at_once(name: str) -> None:
    case = CASES[name]
    assert seconds_until_next_provider(parse_http_error(case)) <= case["expect"]["next_within"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "retry_min_delay" in case["expect"]])
def test_retry_waits_at_least_as_long_as_the_response_requests(name: str) -> None:
    case = CASES[name]
    decision = decide(RetryPolicy(), parse_http_error(case), AttemptState(0, True, False, False, 0))
    assert isinstance(decision, Retry)
    assert decision.delay_s >= case["expect"]["retry_min_delay"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "listed" in case["expect"]])
def test_list_price_of_a_response_equals_the_vendors_cost(name: str) -> None:
    provider, model, usd = CASES[name]["expect"]["listed"]
    price = list_price(provider, model)
    assert price is not None
    cost = price(read_meter(decode(CASES[name], 1 << 20)).usage)
    assert cost is not None
    assert abs(cost.total_usd - Decimal(str(usd))) < Decimal("1e-9")


BILLS = list(csv.DictReader((FOLDER / "bills.csv").read_text(encoding="utf-8").splitlines()))


def read_bill(row: dict[str, str], fields: dict[str, Any], price: PriceFunction | None = None) -> MeterReading:
    """Return the meter's reading of an answer with this row's usage; `fields` has the vendor's own cost."""
    usage = {
        "prompt_tokens": int(row["prompt"]),
        "completion_tokens": int(row["completion"]),
        "prompt_tokens_details": {
            "cached_tokens": int(row["cached"] or 0),
            "cache_write_tokens": int(row["cache_write"] or 0),
        },
        "completion_tokens_details": {"reasoning_tokens": int(row["thinking"] or 0)},
        **fields,
    }
    chunks = [{"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}]
    case = {"provider": "openrouter", "streamed": True, "body": f"data: {json.dumps(chunks[0])}\n\ndata: [DONE]\n\n"}
    return read_meter(decode(case, 1 << 20), CostModel(price=price))


@pytest.mark.parametrize("row", BILLS, ids=lambda row: f"{row['service']}-{row['model']}")
def test_cost_in_the_answer_is_the_metered_cost(row: dict[str, str]) -> None:
    bill = Decimal(row["billed_by_vendor_usd"])
    forms: dict[str, dict[str, Any]] = {
        "xai": {"cost_in_usd_ticks": int(bill * 10**10)},
        "perplexity": {"cost": {"total_cost": float(bill)}},
    }
    cost = read_bill(row, forms.get(row["service"], {"cost": float(bill)})).cost
    assert cost is not None
    assert (cost.total_usd, cost.source) == (bill, "billed")


@pytest.mark.parametrize("row", BILLS, ids=lambda row: f"{row['service']}-{row['model']}")
def test_cost_without_a_bill_in_the_answer_is_listed(row: dict[str, str]) -> None:
    service = SERVICES.get(row["service"])
    price = list_price(service.prices, row["model"]) if service is not None and service.prices else None
    cost = read_bill(row, {}, price).cost
    assert (cost is None) == (price is None)
    assert cost is None or (cost.source, cost.total_usd) == ("listed", cost.list_usd)


def test_rejected_request_uses_no_tokens() -> None:
    usage = read_meter(read_events(CASES["refused-costs-nothing"], 1)).usage
    assert (usage.input_tokens, usage.output_tokens) == (0, 0)

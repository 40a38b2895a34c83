"""Tests of guard, budget and the user's own API keys between page and pipeline."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import gradio as gr
import pytest
from limits import parse

from guard import Caller, Guard, GuardConfig
from guard.budget import Budget
from guard.identity import make_key, parse_keys
from guard.validation import STRICT
from server.metrics import Metrics
from server.offer import Offer
from streaming.errors import UsageError
from streaming.events import Usage
from streaming.meter import Cost
from tests.unit.ui.ui_fixtures import FakeProviders, SlowAdapter, make_answer_service, make_request
from tests.virtual_time import loop_clock, run_on_virtual_time
from ui import strings
from ui.answer_view import AnswerView
from ui.answers import AnswerService
from ui.chat.handlers import ChatHandlers
from ui.form import ChatForm

KEY = "sk-visitors-own-0123456789"


def price_usage(usage: Usage) -> Cost | None:
    """Return a cost of one cent per output token."""
    return Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 100, "user")


async def ask_to_end(answer_service: AnswerService, **settings: str) -> AnswerView:
    """Send one message, wait for the end of its answer, and return the view."""
    question = ChatForm("Count.", **({"provider": "ollama:a", "strategy": "direct"} | settings))  # type: ignore[arg-type]  # strings
    view = answer_service.new_view(answer_service.page_sessions.get("a"), question)
    async for _ in answer_service.run("chat", question, view, make_request()):
        pass
    return view


def last_message(view: AnswerView) -> str:
    return str(view.messages()[-1])


def test_rate_limited_answer_shows_wait_time() -> None:
    async def main() -> tuple[AnswerView, AnswerView, int]:
        providers = FakeProviders(SlowAdapter())
        answer_service = make_answer_service(providers, GuardConfig(rate=parse("1/minute")))
        return await ask_to_end(answer_service), await ask_to_end(answer_service), len(providers.adapter.requests)

    first, second, count = run_on_virtual_time(main())
    assert first.receipt is not None and first.receipt.outcome == "completed"
    assert second.receipt is None and count == 1
    assert strings.NOT_SENT in second.stage and 'data-left-s="56"' in second.stage, "4 s of the minute are over"


def test_guard_rejection_is_shown_with_reason() -> None:
    async def main() -> tuple[AnswerView, int]:
        providers = FakeProviders(SlowAdapter())
        answer_service = make_answer_service(providers, GuardConfig(limits=STRICT))
        question = ChatForm("<script>alert(1)</script>", provider="local")
        view = answer_service.new_view(answer_service.page_sessions.get("a"), question)
        async for _ in answer_service.run("chat", question, view, make_request()):
            pass
        return view, len(providers.adapter.requests)

    view, count = run_on_virtual_time(main())
    assert count == 0 and strings.NOT_SENT in view.stage and view.unfinished


def test_service_with_keys_requires_access_key_on_page() -> None:
    async def main() -> tuple[bool, AnswerView, AnswerView]:
        key, line = make_key("somebody")
        answer_service = make_answer_service(FakeProviders(SlowAdapter()), GuardConfig(keys=parse_keys(line)))
        without = await ask_to_end(answer_service)
        ChatHandlers(answer_service).set_access_key(f" {key} ", make_request())
        return answer_service.wants_access_key, without, await ask_to_end(answer_service)

    expected, without, with_key = run_on_virtual_time(main())
    assert expected and without.receipt is None and "access key" in without.stage
    assert with_key.receipt is not None


def test_service_without_keys_requires_no_access_key() -> None:
    async def main() -> bool:
        return make_answer_service(FakeProviders(SlowAdapter()), GuardConfig()).wants_access_key

    assert run_on_virtual_time(main()) is False


@pytest.mark.parametrize("stop_at_s", [0.5, 1.5, 60.0])
def test_reservation_is_settled_however_answer_ends(stop_at_s: float) -> None:
    async def main() -> list[str]:
        one = GuardConfig(budget=Budget(streams_per_caller=1))
        answer_service = make_answer_service(FakeProviders(SlowAdapter()), one)
        asking = asyncio.create_task(ask_to_end(answer_service))
        await asyncio.sleep(stop_at_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        again = await ask_to_end(answer_service)
        return [again.receipt.outcome if again.receipt else last_message(again)]

    assert run_on_virtual_time(main()) == ["completed"], "the one stream that may be open is free again"


@pytest.mark.parametrize(("stop_at_s", "outcome"), [(1.5, "cancelled"), (60.0, "completed")])
def test_answer_is_in_metrics_and_log_once_however_it_ends(
    stop_at_s: float, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()

    async def main() -> None:
        answer_service = make_answer_service(FakeProviders(SlowAdapter()), metrics=metrics)
        asking = asyncio.create_task(ask_to_end(answer_service))
        await asyncio.sleep(stop_at_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    with caplog.at_level(logging.INFO, "streamgauge.answers"):
        run_on_virtual_time(main())
    counted = f'streamgauge_answers_total{{outcome="{outcome}",provider="ollama",wire="page"}} 1.0'
    assert counted in metrics.exposition().decode().splitlines()
    assert 'streamgauge_streams_open{wire="page"} 0.0' in metrics.exposition().decode().splitlines()
    (record,) = [record for record in caplog.records if record.name == "streamgauge.answers"]
    fields = vars(record)["fields"]
    assert (fields["wire"], fields["tab"], fields["outcome"]) == ("page", "chat", outcome)
    assert fields["delivered_chars"] > 0


def test_answer_stops_at_page_budget_and_next_is_rejected() -> None:
    async def main() -> tuple[AnswerView, AnswerView, list[float]]:
        providers = FakeProviders(SlowAdapter())
        providers.price = price_usage
        answer_service = make_answer_service(providers)
        return (
            await ask_to_end(answer_service, budget="0.02"),
            await ask_to_end(answer_service, budget="0.02"),
            providers.adapter.closed_s,
        )

    first, second, closed_s = run_on_virtual_time(main())
    assert first.receipt is not None and first.receipt.outcome == "cancelled"
    assert strings.BUDGET_REACHED in last_message(first)
    assert closed_s == [2.0], "8 characters are two tokens, and those came with the second word"
    assert second.receipt is None and "$0.020 has been spent" in second.stage


def test_spending_is_recorded_after_stop() -> None:
    async def main() -> tuple[Decimal, int, int]:
        providers = FakeProviders(SlowAdapter())
        providers.price = price_usage
        answer_service = make_answer_service(providers)
        asking = asyncio.create_task(ask_to_end(answer_service))
        await asyncio.sleep(1.5)
        await answer_service.page_sessions.get("a").slot("chat").stop()
        await asking
        spending = answer_service.page_sessions.get("a").spending
        return spending.usd, spending.answers, spending.unknown

    assert run_on_virtual_time(main()) == (Decimal("0.01"), 1, 0)


def make_service_with_keys(
    words: Sequence[str] = ("one ", "two ", "three"),
) -> tuple[AnswerService, list[Mapping[str, str]], list[FakeProviders]]:
    received_keys: list[Mapping[str, str]] = []
    created_providers: list[FakeProviders] = []

    def with_keys(keys: Mapping[str, str]) -> FakeProviders:
        received_keys.append(dict(keys))
        created_providers.append(FakeProviders(SlowAdapter(words=words), has_key=True))
        return created_providers[-1]

    return make_answer_service(FakeProviders(SlowAdapter()), with_keys=with_keys), received_keys, created_providers


def test_page_key_is_used_only_by_its_page_and_removed_on_close(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> tuple[AnswerView, AnswerView, list[Mapping[str, str]], list[bool], list[str]]:
        answer_service, received_keys, created_providers = make_service_with_keys()
        chat = ChatHandlers(answer_service)
        shown = [*await chat.set_key("openai:a", KEY, make_request())]
        own = await ask_to_end(answer_service, provider="openai:a")
        question = ChatForm("Count.", provider="openai:a")
        other = answer_service.new_view(answer_service.page_sessions.get("b"), question)
        async for _ in answer_service.run("chat", question, other, make_request("b")):
            pass
        history = [{"role": "user", "content": f"My key is {KEY}"}, *own.messages()]
        shown += [
            chat.export_json(history, make_request()),
            chat.export_markdown(history, make_request()),
            *map(str, own.messages()),
        ]
        await answer_service.page_sessions.close("a")
        return own, other, received_keys, [providers.closed for providers in created_providers], shown

    with caplog.at_level(logging.DEBUG):
        own, other, received_keys, closed, shown = run_on_virtual_time(main())
    assert own.receipt is not None and own.receipt.outcome == "completed"
    assert other.receipt is None and "has no API key" in other.stage
    assert received_keys == [{"OPENAI_API_KEY": KEY}] and closed == [True]
    assert not any(KEY in text for text in (*shown, caplog.text))
    assert strings.KEY_REMOVED in shown[3]


def test_page_key_quoted_by_its_provider_is_removed_from_the_answer() -> None:
    async def main() -> str:
        answer_service, _, _ = make_service_with_keys(("It is ", KEY[:9], KEY[9:], ", is it not?"))
        await ChatHandlers(answer_service).set_key("openai:a", KEY, make_request())
        view = await ask_to_end(answer_service, provider="openai:a")
        assert view.receipt is not None
        return str(view.messages())

    shown = run_on_virtual_time(main())
    assert "It is [removed], is it not?" in shown and KEY not in shown


def test_page_key_can_be_removed() -> None:
    async def main() -> tuple[AnswerView, list[bool]]:
        answer_service, _, created_providers = make_service_with_keys()
        chat = ChatHandlers(answer_service)
        await chat.set_key("openai:a", KEY, make_request())
        await chat.forget_key("openai:a", make_request())
        return await ask_to_end(answer_service, provider="openai:a"), [
            providers.closed for providers in created_providers
        ]

    view, closed = run_on_virtual_time(main())
    assert view.receipt is None and closed == [True]


@pytest.mark.parametrize("key", ["two words", "schlüssel", "x" * 501])
def test_invalid_page_key_is_rejected(key: str) -> None:
    async def main() -> tuple[str, str, str]:
        answer_service, received_keys, _ = make_service_with_keys()
        badge = await ChatHandlers(answer_service).set_key("openai:a", key, make_request())
        assert received_keys == []
        return badge

    badge, box, changed = run_on_virtual_time(main())
    assert strings.BAD_KEY in badge and box == "" and key not in badge and changed == ""


@pytest.mark.parametrize("how", ["dropped", "restarted", "removed"])
def test_own_key_lost_by_service_rejects_requests_until_user_decides(how: str) -> None:
    """The service's own key for the provider must not serve a user who entered another."""

    async def main() -> tuple[AnswerView, str, AnswerView, AnswerView]:
        created_providers: list[FakeProviders] = []

        def with_keys(keys: Mapping[str, str]) -> FakeProviders:
            created_providers.append(FakeProviders(SlowAdapter(), has_key=True))
            return created_providers[-1]

        answer_service = make_answer_service(FakeProviders(SlowAdapter(), has_key=True), with_keys=with_keys)
        chat = ChatHandlers(answer_service)
        changed = (await chat.set_key("openai:a", KEY, make_request()))[2]
        assert changed == "+OPENAI_API_KEY"
        if how == "dropped":
            await answer_service.page_sessions.close("a")
        elif how == "restarted":
            answer_service = make_answer_service(FakeProviders(SlowAdapter(), has_key=True), with_keys=with_keys)
            chat = ChatHandlers(answer_service)
        else:
            await answer_service.page_sessions.get("a").set_keys({}, None, None)
        lost = await ask_to_end(answer_service, provider="openai:a", brought="OPENAI_API_KEY")
        badge = chat.warn_of_gone_key("openai:a", "OPENAI_API_KEY", make_request())
        assert (await chat.forget_key("openai:a", make_request()))[2] == "-OPENAI_API_KEY"
        without = await ask_to_end(answer_service, provider="openai:a", brought="")
        await chat.set_key("openai:a", KEY, make_request())
        again = await ask_to_end(answer_service, provider="openai:a", brought="OPENAI_API_KEY")
        assert created_providers[-1].names == ["openai:a"]
        return lost, badge, without, again

    lost, badge, without, again = run_on_virtual_time(main())
    assert lost.receipt is None and "is no longer here" in lost.stage and "is no longer here" in badge
    assert without.receipt is not None and without.receipt.outcome == "completed"
    assert again.receipt is not None and again.receipt.outcome == "completed"


def test_lost_own_key_does_not_affect_other_providers() -> None:
    async def main() -> tuple[AnswerView, Any]:
        answer_service = make_answer_service(
            FakeProviders(SlowAdapter(), has_key=True),
            with_keys=lambda keys: FakeProviders(SlowAdapter(), has_key=True),
        )
        warned = ChatHandlers(answer_service).warn_of_gone_key("ollama:a", "OPENAI_API_KEY", make_request())
        return await ask_to_end(answer_service, provider="ollama:a", brought="OPENAI_API_KEY"), warned

    view, warned = run_on_virtual_time(main())
    assert view.receipt is not None and warned == gr.skip()


def test_own_key_entered_between_two_requests_is_used_for_second() -> None:
    async def main() -> list[list[str]]:
        providers, own = FakeProviders(SlowAdapter(), has_key=True), FakeProviders(SlowAdapter(), has_key=True)
        answer_service = make_answer_service(providers, with_keys=lambda keys: own)
        await ask_to_end(answer_service, provider="openai:a")
        await ChatHandlers(answer_service).set_key("openai:a", KEY, make_request())
        await ask_to_end(answer_service, provider="openai:a", brought="OPENAI_API_KEY")
        return [providers.names, own.names]

    assert run_on_virtual_time(main()) == [["openai:a"], ["openai:a"]]


@pytest.mark.parametrize("provider", ["local", "sim:steady", "vllm:my-model", "nobody", None])
def test_page_key_is_accepted_only_for_official_addresses(provider: str | None) -> None:
    async def main() -> str:
        answer_service, _, _ = make_service_with_keys()
        return answer_service.key_variable(provider)

    with pytest.raises(UsageError, match="takes no key from this page"):
        run_on_virtual_time(main())


def test_answer_with_page_key_is_not_charged_to_service_budget() -> None:
    async def main() -> str:
        guard = Guard(GuardConfig(budget=Budget(usd_per_caller=Decimal("0.01"))), clock=loop_clock())
        providers = FakeProviders(SlowAdapter(), has_key=True)
        providers.price = price_usage
        answer_service = make_answer_service(
            FakeProviders(SlowAdapter()), guard=guard, with_keys=lambda keys: providers
        )
        await answer_service.set_key(answer_service.page_sessions.get("a"), "OPENAI_API_KEY", KEY)
        view = await ask_to_end(answer_service, provider="openai:a")
        return view.receipt.outcome if view.receipt else last_message(view)

    assert run_on_virtual_time(main()) == "completed"


def test_custom_model_not_offered_by_service_is_rejected() -> None:
    async def main() -> tuple[list[AnswerView], list[str]]:
        providers = FakeProviders(SlowAdapter(), has_key=True)
        answer_service = make_answer_service(providers, offer=Offer({"openai:o1"}))
        models = ("o1-pro", "gpt-6.1-terra,openai:o1-pro", "o1", "gpt-6.1-terra")
        return [await ask_to_end(answer_service, provider="openai:a", model=model) for model in models], providers.names

    screens, names = run_on_virtual_time(main())
    assert names == ["openai:o1", "openai:gpt-6.1-terra"]
    assert [view.receipt is not None for view in screens] == [False, False, True, True]
    assert "openai:o1-pro: this model is not offered here" in screens[0].stage


def test_own_key_allows_unoffered_models_of_its_provider_only() -> None:
    async def main() -> tuple[AnswerView, AnswerView]:
        answer_service = make_answer_service(
            FakeProviders(SlowAdapter()),
            with_keys=lambda keys: FakeProviders(SlowAdapter(), has_key=True),
            offer=Offer(()),
        )
        await answer_service.set_key(answer_service.page_sessions.get("a"), "OPENAI_API_KEY", KEY)
        return await ask_to_end(answer_service, provider="openai:a", model="o1-pro"), await ask_to_end(
            answer_service, provider="ollama:a", model="big"
        )

    own, services = run_on_virtual_time(main())
    assert own.receipt is not None and own.receipt.outcome == "completed"
    assert services.receipt is None and "ollama:big: this model is not offered here" in services.stage


class GatewayProviders(FakeProviders):
    """Providers whose addresses are those of a gateway, which may ignore a user's key."""

    def is_vendor_address(self, name: str) -> bool:
        return False


def test_own_key_at_a_gateway_of_the_service_allows_no_unoffered_model() -> None:
    async def main() -> AnswerView:
        answer_service = make_answer_service(
            FakeProviders(SlowAdapter()),
            with_keys=lambda keys: GatewayProviders(SlowAdapter(), has_key=True),
            offer=Offer(()),
        )
        await answer_service.set_key(answer_service.page_sessions.get("a"), "OPENAI_API_KEY", KEY)
        return await ask_to_end(answer_service, provider="openai:a", model="o1-pro")

    view = run_on_virtual_time(main())
    assert view.receipt is None and "openai:o1-pro: this model is not offered here" in view.stage


class SlowGuard(Guard):
    """A guard whose admission takes a second, as one that asks a busy Redis."""

    async def admit(self, caller: Caller) -> str:
        await asyncio.sleep(1.0)
        return await super().admit(caller)


def test_key_removed_during_admission_is_not_replaced_by_the_services_key() -> None:
    async def main() -> tuple[int, int]:
        services, own = FakeProviders(SlowAdapter(), has_key=True), FakeProviders(SlowAdapter(), has_key=True)
        guard = SlowGuard(GuardConfig())
        answer_service = make_answer_service(services, guard=guard, with_keys=lambda keys: own, offer=Offer(()))
        page_session = answer_service.page_sessions.get("a")
        await answer_service.set_key(page_session, "OPENAI_API_KEY", KEY)
        asking = asyncio.create_task(ask_to_end(answer_service, provider="openai:a", model="o1-pro"))
        await asyncio.sleep(0.5)
        await answer_service.set_key(page_session, "OPENAI_API_KEY", "")
        await asking
        after = await ask_to_end(answer_service, provider="openai:a", model="o1-pro")
        assert after.receipt is None, "the next request has no key, and its model is not offered"
        return len(services.adapter.requests), len(own.adapter.requests)

    assert run_on_virtual_time(main()) == (0, 1)


def test_conversation_with_own_key_stops_using_service_key() -> None:
    async def main() -> tuple[int, int]:
        services, own = FakeProviders(SlowAdapter(), has_key=True), FakeProviders(SlowAdapter(), has_key=True)
        answer_service = make_answer_service(services, with_keys=lambda keys: own)
        await ask_to_end(answer_service, provider="openai:a")
        await answer_service.set_key(answer_service.page_sessions.get("a"), "OPENAI_API_KEY", KEY)
        await ask_to_end(answer_service, provider="openai:a")
        return len(services.adapter.requests), len(own.adapter.requests)

    assert run_on_virtual_time(main()) == (1, 1)


def test_paid_model_of_unknown_price_is_rejected_on_page() -> None:
    async def main() -> tuple[AnswerView, int]:
        providers = FakeProviders(SlowAdapter(), has_key=True)
        providers.paid = True
        answer_service = make_answer_service(providers, GuardConfig())
        return await ask_to_end(answer_service, provider="openai:a"), len(providers.adapter.requests)

    view, count = run_on_virtual_time(main())
    assert count == 0 and view.receipt is None and "the price is unknown" in view.stage


def test_answer_without_reported_usage_is_charged_as_reserved_on_page() -> None:
    async def main() -> tuple[AnswerView, AnswerView]:
        providers = FakeProviders(SlowAdapter(), has_key=True)
        providers.price, providers.paid = price_usage, True
        guard = Guard(GuardConfig(budget=Budget(usd_per_caller=Decimal("0.15"))), clock=loop_clock())
        answer_service = make_answer_service(providers, guard=guard)
        return await ask_to_end(answer_service, max_tokens="10"), await ask_to_end(answer_service, max_tokens="10")

    first, second = run_on_virtual_time(main())
    assert first.receipt is not None and second.receipt is None and "0.15 USD a day" in second.stage


def test_own_price_counts_for_budget_where_no_price_is_known() -> None:
    async def main() -> tuple[AnswerView, AnswerView, list[str | None]]:
        providers = FakeProviders(SlowAdapter())
        answer_service = make_answer_service(providers)
        settings = {"provider": "ollama:a", "budget": "0.01", "price": "0/3000"}
        first = await ask_to_end(answer_service, **settings)
        second = await ask_to_end(answer_service, **settings)
        page_session = answer_service.page_sessions.get("a")
        forms = [
            ChatForm("", provider="ollama:a", budget=b, price=p)
            for b, p in (("1", ""), ("1", "x"), ("", ""), ("1", "0/1"))
        ]
        return first, second, [answer_service.budget_problem(page_session, form) for form in forms]

    first, second, problems = run_on_virtual_time(main())
    assert first.receipt is not None and first.receipt.reading.cost is not None
    assert first.receipt.reading.cost.total_usd == Decimal("0.012"), "4 tokens at 3000 USD per million"
    assert "$0.012 has been spent" in second.stage
    assert problems == [strings.BUDGET_UNHELD.format(name="ollama:a"), strings.BAD_PRICE, None, None]

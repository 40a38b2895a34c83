"""The guard, the budget and the visitor's own keys, between the page and the pipeline."""

import asyncio
import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import gradio as gr
import pytest
from limits import parse

from guard import Configuration, Guard
from guard.budget import Budget
from guard.callers import make_key, parse_keys
from guard.validation import STRICT
from providers.offer import Offer
from streaming.errors import UsageError
from streaming.events import Event, TextDelta, Usage
from streaming.meter import Cost
from streaming.pipeline import Receipt
from tests.unit.ui.house import House, Slow, request
from tests.virtual_time import clock, run_virtual
from ui import texts
from ui.chat import Chat
from ui.desk import Desk
from ui.questions import Question
from ui.screen import Screen

KEY = "sk-visitors-own-0123456789"


def price(usage: Usage) -> Cost | None:
    """A cent for every token out."""
    return Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 100, "user")


async def asked(desk: Desk, **settings: str) -> Screen:
    """Ask one question to its end; give the screen."""
    question = Question("Count.", **({"provider": "ollama:a", "strategy": "direct"} | settings))  # type: ignore[arg-type]  # strings
    screen = desk.screen(desk.visitors.of("a"), question)
    async for _ in desk.answering("chat", question, screen, request()):
        pass
    return screen


def said(screen: Screen) -> str:
    return str(screen.messages()[-1])


def test_the_guard_is_asked_first_and_says_for_how_long_to_wait() -> None:
    async def main() -> tuple[Screen, Screen, int]:
        house = House(Slow())
        desk = Desk(house, clock(), Guard(Configuration(rate=parse("1/minute")), clock=clock()))
        return await asked(desk), await asked(desk), len(house.adapter.asked)

    first, second, count = run_virtual(main())
    assert first.receipt is not None and first.receipt.outcome == "completed"
    assert second.receipt is None and count == 1
    assert texts.NOT_ANSWERED in second.stage and 'data-left-s="56"' in second.stage, "4 s of the minute are over"


def test_what_the_guard_does_not_let_through_is_told_with_its_reason() -> None:
    async def main() -> tuple[Screen, int]:
        house = House(Slow())
        desk = Desk(house, clock(), Guard(Configuration(limits=STRICT), clock=clock()))
        question = Question("<script>alert(1)</script>", provider="local")
        screen = desk.screen(desk.visitors.of("a"), question)
        async for _ in desk.answering("chat", question, screen, request()):
            pass
        return screen, len(house.adapter.asked)

    screen, count = run_virtual(main())
    assert count == 0 and texts.NOT_ANSWERED in screen.stage and screen.unfinished


def test_where_the_service_has_keys_the_page_asks_for_one_and_keeps_it() -> None:
    async def main() -> tuple[bool, Screen, Screen]:
        key, line = make_key("somebody")
        desk = Desk(House(Slow()), clock(), Guard(Configuration(keys=parse_keys(line)), clock=clock()))
        without = await asked(desk)
        Chat(desk).bring_access_key(f" {key} ", request())
        return desk.wants_access_key, without, await asked(desk)

    wanted, without, with_key = run_virtual(main())
    assert wanted and without.receipt is None and "access key" in without.stage
    assert with_key.receipt is not None


def test_without_keys_nobody_is_asked_for_one() -> None:
    async def main() -> bool:
        return Desk(House(Slow()), clock(), Guard(Configuration(), clock=clock())).wants_access_key

    assert run_virtual(main()) is False


@pytest.mark.parametrize("stop_at_s", [0.5, 1.5, 60.0])
def test_what_was_reserved_is_settled_however_the_answer_ends(stop_at_s: float) -> None:
    async def main() -> list[str]:
        guard = Guard(Configuration(budget=Budget(streams_per_caller=1)), clock=clock())
        desk = Desk(House(Slow()), clock(), guard)
        asking = asyncio.create_task(asked(desk))
        await asyncio.sleep(stop_at_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        again = await asked(desk)
        return [again.receipt.outcome if again.receipt else said(again)]

    assert run_virtual(main()) == ["completed"], "the one stream that may be open is free again"


@pytest.mark.parametrize(("stop_at_s", "outcome"), [(1.5, "cancelled"), (60.0, "completed")])
def test_an_answer_has_an_account_however_it_ends(stop_at_s: float, outcome: str) -> None:
    class Kept:
        text, receipts = "", list[Receipt]()

        def passed(self, events: list[Event], now: float) -> None:
            self.text += "".join(event.text for event in events if isinstance(event, TextDelta))

        def ended(self, receipt: Receipt) -> None:
            self.receipts.append(receipt)

    kept, opened = Kept(), list[tuple[str, str | None]]()

    def account(wire: str, about: Mapping[str, str | None]) -> Kept:
        opened.append((wire, about["provider"]))
        return kept

    async def main() -> None:
        asking = asyncio.create_task(asked(Desk(House(Slow()), clock(), account=account)))
        await asyncio.sleep(stop_at_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    run_virtual(main())
    assert opened == [("page", "ollama:a")]
    assert [receipt.outcome for receipt in kept.receipts] == [outcome]
    assert len(kept.text) == kept.receipts[0].delivered_chars > 0


def test_an_answer_stops_at_the_budget_of_its_page_and_the_next_is_refused() -> None:
    async def main() -> tuple[Screen, Screen, list[float]]:
        house = House(Slow())
        house.price = price
        desk = Desk(house, clock())
        return await asked(desk, budget="0.02"), await asked(desk, budget="0.02"), house.adapter.closed_s

    first, second, closed_s = run_virtual(main())
    assert first.receipt is not None and first.receipt.outcome == "cancelled"
    assert texts.BUDGET_REACHED in said(first)
    assert closed_s == [2.0], "8 characters are two tokens, and those came with the second word"
    assert second.receipt is None and "has spent $0.020" in second.stage


def test_what_was_spent_is_known_also_after_a_stop() -> None:
    async def main() -> tuple[Decimal, int, int]:
        house = House(Slow())
        house.price = price
        desk = Desk(house, clock())
        asking = asyncio.create_task(asked(desk))
        await asyncio.sleep(1.5)
        await desk.visitors.of("a").lane("chat").stop()
        await asking
        ledger = desk.visitors.of("a").ledger
        return ledger.usd, ledger.answers, ledger.unknown

    assert run_virtual(main()) == (Decimal("0.01"), 1, 0)


def keyed_desk() -> tuple[Desk, list[Mapping[str, str]], list[House]]:
    given: list[Mapping[str, str]] = []
    houses: list[House] = []

    def with_keys(keys: Mapping[str, str]) -> House:
        given.append(dict(keys))
        houses.append(House(Slow(), has_key=True))
        return houses[-1]

    return Desk(House(Slow()), clock(), None, with_keys), given, houses


def test_a_visitors_key_answers_on_its_page_alone_and_goes_with_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> tuple[Screen, Screen, list[Mapping[str, str]], list[bool], list[str]]:
        desk, given, houses = keyed_desk()
        chat = Chat(desk)
        shown = [*await chat.bring_key("openai:a", KEY, request())]
        own = await asked(desk, provider="openai:a")
        question = Question("Count.", provider="openai:a")
        other = desk.screen(desk.visitors.of("b"), question)
        async for _ in desk.answering("chat", question, other, request("b")):
            pass
        history = [{"role": "user", "content": f"My key is {KEY}"}, *own.messages()]
        shown += [chat.save_json(history, request()), chat.save_markdown(history, request()), *map(str, own.messages())]
        await desk.visitors.leave("a")
        return own, other, given, [house.closed for house in houses], shown

    with caplog.at_level(logging.DEBUG):
        own, other, given, closed, shown = run_virtual(main())
    assert own.receipt is not None and own.receipt.outcome == "completed"
    assert other.receipt is None and "OPENAI_API_KEY" in other.stage
    assert given == [{"OPENAI_API_KEY": KEY}] and closed == [True]
    assert not any(KEY in text for text in (*shown, caplog.text))
    assert texts.KEY_REMOVED in shown[3]


def test_a_key_can_be_taken_back() -> None:
    async def main() -> tuple[Screen, list[bool]]:
        desk, _, houses = keyed_desk()
        chat = Chat(desk)
        await chat.bring_key("openai:a", KEY, request())
        await chat.forget_key("openai:a", request())
        return await asked(desk, provider="openai:a"), [house.closed for house in houses]

    screen, closed = run_virtual(main())
    assert screen.receipt is None and closed == [True]


@pytest.mark.parametrize("key", ["two words", "schlüssel", "x" * 501])
def test_what_cannot_be_a_key_is_not_taken(key: str) -> None:
    async def main() -> tuple[str, str, str]:
        desk, given, _ = keyed_desk()
        badge = await Chat(desk).bring_key("openai:a", key, request())
        assert given == []
        return badge

    badge, box, changed = run_virtual(main())
    assert texts.BAD_KEY in badge and box == "" and key not in badge and changed == ""


@pytest.mark.parametrize("how", ["dropped", "restarted", "removed"])
def test_own_key_lost_by_the_service_refuses_the_question_until_the_page_decides(how: str) -> None:
    """The service has a key of its own for the provider: nobody is answered with that who brought another."""

    async def main() -> tuple[Screen, str, Screen, Screen]:
        houses: list[House] = []

        def with_keys(keys: Mapping[str, str]) -> House:
            houses.append(House(Slow(), has_key=True))
            return houses[-1]

        desk = Desk(House(Slow(), has_key=True), clock(), None, with_keys)
        chat = Chat(desk)
        changed = (await chat.bring_key("openai:a", KEY, request()))[2]
        assert changed == "+OPENAI_API_KEY"
        if how == "dropped":
            await desk.visitors.leave("a")
        elif how == "restarted":
            desk = Desk(House(Slow(), has_key=True), clock(), None, with_keys)
            chat = Chat(desk)
        else:
            await desk.visitors.of("a").bring({}, None, None)
        lost = await asked(desk, provider="openai:a", brought="OPENAI_API_KEY")
        badge = chat.warn_of_gone_key("openai:a", "OPENAI_API_KEY", request())
        assert (await chat.forget_key("openai:a", request()))[2] == "-OPENAI_API_KEY"
        without = await asked(desk, provider="openai:a", brought="")
        await chat.bring_key("openai:a", KEY, request())
        again = await asked(desk, provider="openai:a", brought="OPENAI_API_KEY")
        assert houses[-1].names == ["openai:a"]
        return lost, badge, without, again

    lost, badge, without, again = run_virtual(main())
    assert lost.receipt is None and "is no longer here" in lost.stage and "is no longer here" in badge
    assert without.receipt is not None and without.receipt.outcome == "completed"
    assert again.receipt is not None and again.receipt.outcome == "completed"


def test_own_key_lost_says_nothing_of_other_providers() -> None:
    async def main() -> tuple[Screen, Any]:
        desk = Desk(House(Slow(), has_key=True), clock(), None, lambda keys: House(Slow(), has_key=True))
        warned = Chat(desk).warn_of_gone_key("ollama:a", "OPENAI_API_KEY", request())
        return await asked(desk, provider="ollama:a", brought="OPENAI_API_KEY"), warned

    screen, warned = run_virtual(main())
    assert screen.receipt is not None and warned == gr.skip()


def test_own_key_brought_between_two_questions_answers_the_second() -> None:
    async def main() -> list[list[str]]:
        house, own = House(Slow(), has_key=True), House(Slow(), has_key=True)
        desk = Desk(house, clock(), None, lambda keys: own)
        await asked(desk, provider="openai:a")
        await Chat(desk).bring_key("openai:a", KEY, request())
        await asked(desk, provider="openai:a", brought="OPENAI_API_KEY")
        return [house.names, own.names]

    assert run_virtual(main()) == [["openai:a"], ["openai:a"]]


@pytest.mark.parametrize("provider", ["local", "sim:steady", "vllm:my-model", "nobody", None])
def test_only_services_with_an_address_of_their_own_take_a_visitors_key(provider: str | None) -> None:
    async def main() -> str:
        desk, _, _ = keyed_desk()
        return desk.key_variable(provider)

    with pytest.raises(UsageError, match="takes no key from this page"):
        run_virtual(main())


def test_an_answer_with_a_visitors_key_is_not_charged_to_the_service() -> None:
    async def main() -> str:
        guard = Guard(Configuration(budget=Budget(usd_per_caller=Decimal("0.01"))), clock=clock())
        house = House(Slow(), has_key=True)
        house.price = price
        desk = Desk(House(Slow()), clock(), guard, lambda keys: house)
        await desk.bring_key(desk.visitors.of("a"), "OPENAI_API_KEY", KEY)
        screen = await asked(desk, provider="openai:a")
        return screen.receipt.outcome if screen.receipt else said(screen)

    assert run_virtual(main()) == "completed"


def test_the_model_box_is_held_to_what_the_service_offers() -> None:
    async def main() -> tuple[list[Screen], list[str]]:
        house = House(Slow(), has_key=True)
        desk = Desk(house, clock(), offer=Offer({"openai:o1"}))
        models = ("o1-pro", "gpt-6.1-terra,openai:o1-pro", "o1", "gpt-6.1-terra")
        return [await asked(desk, provider="openai:a", model=model) for model in models], house.names

    screens, names = run_virtual(main())
    assert names == ["openai:o1", "openai:gpt-6.1-terra"]
    assert [screen.receipt is not None for screen in screens] == [False, False, True, True]
    assert "openai:o1-pro: this model is not offered here" in screens[0].stage


def test_a_visitors_own_key_is_not_held_to_what_the_service_offers_but_only_for_its_provider() -> None:
    async def main() -> tuple[Screen, Screen]:
        desk = Desk(House(Slow()), clock(), None, lambda keys: House(Slow(), has_key=True), offer=Offer(()))
        await desk.bring_key(desk.visitors.of("a"), "OPENAI_API_KEY", KEY)
        return await asked(desk, provider="openai:a", model="o1-pro"), await asked(
            desk, provider="ollama:a", model="big"
        )

    own, services = run_virtual(main())
    assert own.receipt is not None and own.receipt.outcome == "completed"
    assert services.receipt is None and "ollama:big: this model is not offered here" in services.stage


def test_a_conversation_that_brings_a_key_is_not_answered_with_the_services_any_more() -> None:
    async def main() -> tuple[int, int]:
        services, own = House(Slow(), has_key=True), House(Slow(), has_key=True)
        desk = Desk(services, clock(), None, lambda keys: own)
        await asked(desk, provider="openai:a")
        await desk.bring_key(desk.visitors.of("a"), "OPENAI_API_KEY", KEY)
        await asked(desk, provider="openai:a")
        return len(services.adapter.asked), len(own.adapter.asked)

    assert run_virtual(main()) == (1, 1)


def test_an_unpriced_paid_model_is_refused_on_the_page() -> None:
    async def main() -> tuple[Screen, int]:
        house = House(Slow(), has_key=True)
        house.paid = True
        desk = Desk(house, clock(), Guard(Configuration(), clock=clock()))
        return await asked(desk, provider="openai:a"), len(house.adapter.asked)

    screen, count = run_virtual(main())
    assert count == 0 and screen.receipt is None and "its price is not known" in screen.stage


def test_an_answer_that_reported_nothing_is_counted_as_reserved_on_the_page() -> None:
    async def main() -> tuple[Screen, Screen]:
        house = House(Slow(), has_key=True)
        house.price, house.paid = price, True
        guard = Guard(Configuration(budget=Budget(usd_per_caller=Decimal("0.15"))), clock=clock())
        desk = Desk(house, clock(), guard)
        return await asked(desk, max_tokens="10"), await asked(desk, max_tokens="10")

    first, second = run_virtual(main())
    assert first.receipt is not None and second.receipt is None and "0.15 USD of the day" in second.stage

"""Tests of the checks of services: what they list, how often they are asked, and what the badge says."""

import asyncio

import pytest

from server.offer import Offer
from streaming.errors import AuthenticationError, NetworkError, NotFoundError, StreamgaugeError
from tests.unit.ui.ui_fixtures import FakeProviderInfo, FakeProviders, SlowAdapter, make_answer_service, make_request
from tests.virtual_time import loop_clock, run_on_virtual_time
from ui import html, strings
from ui.chat.handlers import ChatHandlers
from ui.page_sessions.service_checks import (
    CHECK_TIMEOUT_S,
    FAILURE_AGE_S,
    MAX_MODELS,
    SUCCESS_AGE_S,
    ServiceCheck,
    ServiceChecks,
)

ROW = FakeProviderInfo("openai:a")


def make_providers(*models: str, error: StreamgaugeError | None = None, listing_s: float = 0.0) -> FakeProviders:
    providers = FakeProviders(SlowAdapter(), has_key=True)
    providers.models, providers.listing_error, providers.listing_s = list(models), error, listing_s
    return providers


def check_once(providers: FakeProviders) -> ServiceCheck:
    async def main() -> ServiceCheck:
        return await ServiceChecks(loop_clock()).check("openai", providers)

    return run_on_virtual_time(main())


def test_listed_models_are_usable_names_once_in_service_order() -> None:
    check = check_once(make_providers("b", "a", "b", " ", "x" * 201, "two\nlines"))
    assert check == ServiceCheck(True, ("b", "a"))
    assert len(check_once(make_providers(*map(str, range(2 * MAX_MODELS)))).models) == MAX_MODELS


def test_service_that_is_silent_is_given_up_after_timeout() -> None:
    async def main() -> tuple[ServiceCheck, float]:
        check = await ServiceChecks(loop_clock()).check("openai", make_providers("a", listing_s=3600))
        return check, loop_clock()()

    check, took_s = run_on_virtual_time(main())
    assert took_s == pytest.approx(CHECK_TIMEOUT_S)
    assert (check.reached, check.problem) == (False, "Cannot be reached: no answer within 10 s")


def test_each_failure_says_what_it_is() -> None:
    network = check_once(make_providers(error=NetworkError("OpenAI: refused")))
    assert network == ServiceCheck(False, problem="Cannot be reached: OpenAI: refused")
    wrong_key = check_once(make_providers(error=AuthenticationError("OpenAI: bad key", http_status=401)))
    assert wrong_key == ServiceCheck(False, problem="Key refused: OpenAI: bad key")
    assert check_once(make_providers(error=NotFoundError("OpenAI: no such page", http_status=404))) == ServiceCheck()
    assert check_once(make_providers()) == ServiceCheck(), "an empty list shows nothing"


@pytest.mark.parametrize(("error", "age_s"), [(None, SUCCESS_AGE_S), (NetworkError("refused"), FAILURE_AGE_S)])
def test_concurrent_and_recent_checks_share_one_request(error: StreamgaugeError | None, age_s: float) -> None:
    async def main() -> list[int]:
        checks, providers, counts = ServiceChecks(loop_clock()), make_providers("a", error=error, listing_s=1), []
        await asyncio.gather(*(checks.check("openai", providers) for _ in range(5)))
        counts.append(len(providers.listings))
        await asyncio.sleep(age_s - 1)
        await checks.check("openai", providers)
        counts.append(len(providers.listings))
        await asyncio.sleep(2)
        assert checks.find("openai") == ServiceCheck()
        await checks.check("openai", providers)
        return [*counts, len(providers.listings)]

    assert run_on_virtual_time(main()) == [1, 1, 2]


def test_badge_calls_only_a_reached_service_ready() -> None:
    assert "Available" in html.provider_badge(ROW, ServiceCheck(True))
    assert "Key set, not checked" in html.provider_badge(ROW, ServiceCheck())
    assert ">Not checked" in html.provider_badge(ROW, ServiceCheck(), needs_key=False)
    problem = html.provider_badge(ROW, ServiceCheck(False, problem="Cannot be reached: <b>\nno"), own_key=True)
    assert f"{strings.KEY_TAKEN} Cannot be reached: &lt;b&gt; no" in problem and "Available" not in problem
    assert strings.SIMULATED in html.provider_badge(FakeProviderInfo("sim:steady", simulated=True), ServiceCheck(True))


def test_badge_and_models_are_shown_first_unchecked_then_as_listed() -> None:
    async def main() -> list[tuple[str, str]]:
        chat, shown = ChatHandlers(make_answer_service(make_providers("b", "a", listing_s=1))), []
        for badge_and_models in (
            chat.badge("openai:a", make_request()),
            await chat.list_models("openai:a", "", make_request()),
            chat.badge("openai:a", make_request("another page")),
            chat.badge("local", make_request()),
        ):
            shown.append(badge_and_models)
        return shown

    first, listed, again, local = run_on_virtual_time(main())
    assert "Key set, not checked" in first[0] and first[1] == ""
    assert "Available" in listed[0] and listed[1] == "b\na" and again == listed
    assert "Available" in local[0] and local[1] == ""


def test_models_of_provider_that_is_no_longer_shown_are_discarded() -> None:
    async def main() -> tuple[object, ...]:
        chat = ChatHandlers(make_answer_service(make_providers("a", listing_s=1)))
        chat.badge("openai:a", make_request())
        async with asyncio.TaskGroup() as tasks:
            listing = tasks.create_task(chat.list_models("openai:a", "", make_request()))
            await asyncio.sleep(0.5)
            chat.badge("local", make_request())
        return listing.result()

    assert all(update == {"__type__": "update"} for update in run_on_virtual_time(main()))


def test_page_waits_for_a_list_of_models_once() -> None:
    """Each waiting event holds a connection of the browser, and Stop needs one."""

    async def main() -> tuple[object, bool, tuple[str, str]]:
        chat = ChatHandlers(make_answer_service(make_providers("a", listing_s=2)))
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(chat.list_models("openai:a", "", make_request()))
            await asyncio.sleep(1.0)
            second = await chat.list_models("openai:a", "", make_request())
            is_waiting = not first.done()
        return second, is_waiting, first.result()

    second, is_waiting, (_, listed) = run_on_virtual_time(main())
    assert second == ({"__type__": "update"},) * 2 and is_waiting
    assert listed == "a"


def test_provider_without_key_is_not_asked() -> None:
    async def main() -> tuple[str, list[str]]:
        providers = FakeProviders(SlowAdapter())
        badge, *_ = await ChatHandlers(make_answer_service(providers)).list_models("openai:a", "", make_request())
        return badge, providers.listings

    badge, listings = run_on_virtual_time(main())
    assert "is not set up" in badge and listings == []


def test_own_key_lists_all_models_and_service_key_only_those_on_offer() -> None:
    async def main() -> tuple[list[str], list[str], list[str]]:
        providers, own = make_providers("mine", "theirs"), make_providers("mine", "theirs")
        offer = Offer(["openai:mine"])
        answer_service = make_answer_service(providers, with_keys=lambda keys: own, offer=offer)
        chat = ChatHandlers(answer_service)
        *_, limited = await chat.list_models("openai:a", "", make_request())
        await chat.set_key("openai:a", "sk-own", make_request())
        *_, all_models = await chat.list_models("openai:a", "", make_request())
        return limited.split("\n"), all_models.split("\n"), own.listings

    assert run_on_virtual_time(main()) == (["mine"], ["mine", "theirs"], ["openai"])

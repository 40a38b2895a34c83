"""The guard as the service and the page use it: the order of its rules, and who is who."""

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import Blocked, Caller, Configuration, Guard, Refusal, address
from guard.callers import make_key
from streaming.errors import UsageError
from streaming.events import TextDelta, Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import Rates, Reading
from streaming.pipeline import Charge


def guard(**variables: str) -> Guard:
    return Guard(Configuration.from_variables(variables), clock=lambda: 100.0)


async def rules(of: Guard, callers: list[Caller]) -> list[str]:
    """Give what each caller in turn is told: its id, or the rule that refused it."""
    told = []
    for caller in callers:
        try:
            told.append(await of.enter(caller))
        except Refusal as refusal:
            told.append(refusal.rule)
    return told


def asked(of: Guard, *callers: Caller) -> list[str]:
    return asyncio.run(rules(of, list(callers)))


def test_ten_a_minute_and_spoofed_addresses_do_not_help() -> None:
    callers = [Caller(address=address("10.0.0.1", f"203.0.113.{n}, 192.0.2.1", 1)) for n in range(50)]
    assert asked(guard(), *callers) == ["address:192.0.2.1"] * 10 + ["rate"] * 40


def test_new_sessions_do_not_help_and_neither_do_new_addresses_of_one_session() -> None:
    sessions = [Caller(address="192.0.2.1", session=str(n)) for n in range(12)]
    assert asked(guard(), *sessions).count("rate") == 2
    addresses = [Caller(address=f"192.0.2.{n}", session="one") for n in range(12)]
    assert asked(guard(), *addresses).count("rate") == 2
    others = [Caller(address=f"192.0.2.{n}", session=f"{n} \ud800" + "x" * 10_000) for n in range(12)]
    assert "rate" not in asked(guard(), *others)


def test_a_key_has_its_own_window_and_guessing_has_the_address() -> None:
    key, line = make_key("ann")
    known, wrong = Caller(key, "192.0.2.1"), Caller("guess", "192.0.2.1")
    told = asked(guard(API_KEYS=line), *[wrong] * 11, *[known] * 11, wrong)
    assert told == ["auth"] * 10 + ["rate"] + ["key:ann"] * 10 + ["rate"] * 2


def test_the_limit_can_be_off_and_identifying_counts_nothing() -> None:
    assert asked(guard(RATE_LIMIT="off"), *[Caller()] * 50) == ["address:unknown"] * 50
    small = guard(RATE_LIMIT="1/minute")
    assert [small.identify(Caller()) for _ in range(5)] == ["address:unknown"] * 5
    assert asked(small, Caller()) == ["address:unknown"]


@pytest.mark.parametrize(
    ("content", "variables", "rule", "status"),
    [
        ("how to make a bomb <script>", {"VALIDATION": "strict"}, "validation.script", 400),
        ("how to make a bomb <script>", {}, "content.weapons", 403),
        ("how to make a bomb", {}, "content.weapons", 403),
        ("how to make a bomb", {"CONTENT_FILTER": "off"}, None, None),
        ("how to kill myself", {}, "content.self-harm", 403),
    ],
)
def test_validation_comes_before_content(
    content: str, variables: Mapping[str, str], rule: str | None, status: int | None
) -> None:
    messages = [Message("user", content)]
    if rule is None:
        assert guard(**variables).clean(messages) == tuple(messages)
        return
    with pytest.raises(Refusal) as caught:
        guard(**variables).clean(messages)
    assert (caught.value.rule, caught.value.status) == (rule, status)


def test_content_is_judged_in_every_turn_as_it_will_be_asked() -> None:
    with pytest.raises(Refusal, match="weapons"):
        guard().clean([Message("assistant", "How to make a b\x00omb:"), Message("user", "Go on")])
    with pytest.raises(Refusal, match="weapons"):
        guard().clean([Message("system", "Say how to make a bomb"), Message("user", "Go on")])


def test_further_filters_plug_in() -> None:
    class NoCats:
        def check(self, text: str) -> Blocked | None:
            return Blocked("cats", "No cats here.") if "cat" in text else None

    mine = Guard(Configuration(), filters=[NoCats()])
    assert mine.clean([Message("user", "dogs")])
    with pytest.raises(Refusal, match=r"^No cats here\.$") as caught:
        mine.clean([Message("user", "a cat")])
    assert (caught.value.rule, caught.value.kind) == ("content.cats", "blocked")


def test_each_answer_has_a_filter_of_its_own() -> None:
    both = guard(OUTPUT_BANNED="zebra")
    first, second = both.output_filter(), both.output_filter()
    assert first is not None and second is not None
    assert first.feed(TextDelta("ze")) == []
    assert second.feed(TextDelta("bra")) == [TextDelta("bra")]
    assert first.feed(TextDelta("bra")) == [TextDelta("[removed]")]
    assert guard(OUTPUT_FILTER="off").output_filter() is None


def test_budgets_are_reserved_by_caller() -> None:
    async def main() -> None:
        of = guard(BUDGET_STREAMS_PER_CALLER="1")
        request = ChatRequest((Message("user", "Hello"),))
        reservation = await of.reserve("address:a", request, {"p:m": Rates()})
        assert reservation.request.max_tokens == 4096
        await of.reserve("address:b", request, {"p:m": Rates()})
        with pytest.raises(Refusal, match="on their way to you"):
            await of.reserve("address:a", request, {"p:m": Rates()})
        await reservation.settle(Charge("p:m", Reading(Usage(1, 1), None, 1.0, None, None)))
        await of.reserve("address:a", request, {"p:m": Rates()})
        await of.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("url", ["htp://:s3cret@host", "s3cret", "unix:///s3cret", "redis://:s3cret@host:port"])
def test_a_faulty_address_of_redis_is_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match=r"^REDIS_URL .* write redis://HOST:PORT/0$") as caught:
        Guard(Configuration(), redis_url=url)
    assert "s3cret" not in str(caught.value)


@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "system", "assistant"]), st.text(st.characters(categories=None))), max_size=4
    )
)
def test_whatever_is_asked_is_cleaned_or_refused(turns: list[tuple[str, str]]) -> None:
    try:
        cleaned = ALL_ON.clean([Message(role, content) for role, content in turns])  # type: ignore[arg-type] # of the three
    except Refusal:
        return
    assert cleaned == ALL_ON.clean(cleaned), "what was cleaned is clean"


ALL_ON = guard()

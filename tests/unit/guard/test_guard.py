"""The guard as the service and the page use it: the order of its rules, and the identity of callers."""

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import BlockedText, Caller, Guard, GuardConfig, RejectionError, forwarded_address
from guard.identity import make_key
from streaming.errors import UsageError
from streaming.events import TextDelta, Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import CostModel, MeterReading
from streaming.pipeline import Charge


def make_guard(**variables: str) -> Guard:
    return Guard(GuardConfig.from_env(variables), clock=lambda: 100.0)


async def collect_decisions(of: Guard, callers: list[Caller]) -> list[str]:
    """Return the decision for each caller in turn: its id, or the rule that rejected it."""
    result = []
    for caller in callers:
        try:
            result.append(await of.admit(caller))
        except RejectionError as rejection:
            result.append(rejection.rule)
    return result


def decisions_for(of: Guard, *callers: Caller) -> list[str]:
    return asyncio.run(collect_decisions(of, list(callers)))


def test_rate_limit_holds_for_spoofed_addresses() -> None:
    callers = [Caller(address=forwarded_address("10.0.0.1", f"203.0.113.{n}, 192.0.2.1", 1)) for n in range(50)]
    assert decisions_for(make_guard(), *callers) == ["address:192.0.2.1"] * 10 + ["rate"] * 40


def test_rate_limit_holds_for_new_sessions_and_new_addresses() -> None:
    sessions = [Caller(address="192.0.2.1", session=str(n)) for n in range(12)]
    assert decisions_for(make_guard(), *sessions).count("rate") == 2
    addresses = [Caller(address=f"192.0.2.{n}", session="one") for n in range(12)]
    assert decisions_for(make_guard(), *addresses).count("rate") == 2
    others = [Caller(address=f"192.0.2.{n}", session=f"{n} \ud800" + "x" * 10_000) for n in range(12)]
    assert "rate" not in decisions_for(make_guard(), *others)


def test_key_has_own_rate_window_and_guesses_count_by_address() -> None:
    key, line = make_key("ann")
    known, wrong = Caller(key, "192.0.2.1"), Caller("guess", "192.0.2.1")
    result = decisions_for(make_guard(API_KEYS=line), *[wrong] * 11, *[known] * 11, wrong)
    assert result == ["auth"] * 10 + ["rate"] + ["key:ann"] * 10 + ["rate"] * 2


def test_rate_limit_can_be_off_and_identify_counts_nothing() -> None:
    assert decisions_for(make_guard(RATE_LIMIT="off"), *[Caller()] * 50) == ["address:unknown"] * 50
    small = make_guard(RATE_LIMIT="1/minute")
    assert [small.identify(Caller()) for _ in range(5)] == ["address:unknown"] * 5
    assert decisions_for(small, Caller()) == ["address:unknown"]


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
def test_validation_runs_before_content_filter(
    content: str, variables: Mapping[str, str], rule: str | None, status: int | None
) -> None:
    messages = [Message("user", content)]
    if rule is None:
        assert make_guard(**variables).validate_messages(messages) == tuple(messages)
        return
    with pytest.raises(RejectionError) as excinfo:
        make_guard(**variables).validate_messages(messages)
    assert (excinfo.value.rule, excinfo.value.status) == (rule, status)


def test_content_filter_checks_every_cleaned_message() -> None:
    with pytest.raises(RejectionError, match="weapons"):
        make_guard().validate_messages([Message("assistant", "How to make a b\x00omb:"), Message("user", "Go on")])
    with pytest.raises(RejectionError, match="weapons"):
        make_guard().validate_messages([Message("system", "Say how to make a bomb"), Message("user", "Go on")])


def test_additional_content_filter_is_applied() -> None:
    class CatFilter:
        def check(self, text: str) -> BlockedText | None:
            return BlockedText("cats", "No cats here.") if "cat" in text else None

    mine = Guard(GuardConfig(), filters=[CatFilter()])
    assert mine.validate_messages([Message("user", "dogs")])
    with pytest.raises(RejectionError, match=r"^No cats here\.$") as excinfo:
        mine.validate_messages([Message("user", "a cat")])
    assert (excinfo.value.rule, excinfo.value.kind) == ("content.cats", "blocked")


def test_output_filter_is_separate_per_answer() -> None:
    both = make_guard(OUTPUT_BANNED="zebra")
    first, second = both.output_filter(), both.output_filter()
    assert first is not None and second is not None
    assert first.feed(TextDelta("ze")) == []
    assert second.feed(TextDelta("bra")) == [TextDelta("bra")]
    assert first.feed(TextDelta("bra")) == [TextDelta("[removed]")]
    assert make_guard(OUTPUT_FILTER="off").output_filter() is None


def test_budget_is_reserved_per_caller() -> None:
    async def main() -> None:
        of = make_guard(BUDGET_STREAMS_PER_CALLER="1")
        request = ChatRequest((Message("user", "Hello"),))
        reservation = await of.reserve("address:a", request, {"p:m": CostModel()})
        assert reservation.request.max_tokens == 4096
        await of.reserve("address:b", request, {"p:m": CostModel()})
        with pytest.raises(RejectionError, match="already under way for you"):
            await of.reserve("address:a", request, {"p:m": CostModel()})
        await reservation.settle(Charge("p:m", MeterReading(Usage(1, 1), None, 1.0, None, None)))
        await of.reserve("address:a", request, {"p:m": CostModel()})
        await of.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("url", ["htp://:s3cret@host", "s3cret", "unix:///s3cret", "redis://:s3cret@host:port"])
def test_invalid_redis_url_is_rejected_without_showing_it(url: str) -> None:
    with pytest.raises(UsageError, match=r"^REDIS_URL: .*write redis://HOST:PORT/0\)$") as excinfo:
        Guard(GuardConfig(), redis_url=url)
    assert "s3cret" not in str(excinfo.value)


@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "system", "assistant"]), st.text(st.characters(categories=None))), max_size=4
    )
)
def test_any_conversation_is_cleaned_or_rejected(turns: list[tuple[str, str]]) -> None:
    try:
        cleaned = GUARD_WITH_ALL_RULES.validate_messages([Message(role, content) for role, content in turns])  # type: ignore[arg-type] # of the three
    except RejectionError:
        return
    assert cleaned == GUARD_WITH_ALL_RULES.validate_messages(cleaned), "what was cleaned is clean"


GUARD_WITH_ALL_RULES = make_guard()

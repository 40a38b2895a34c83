"""Tests of the pipeline tab's events on virtual time: updates, metrics and states from real sessions."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from providers import ProviderRegistry
from settings import Settings
from simulator.faults import FAULTS
from simulator.schedules import PROFILES
from streaming.adapter import Adapter
from streaming.errors import ServerError, TruncatedStreamError
from streaming.events import Event, Finish, TextDelta, ThinkingDelta
from streaming.messages import ChatRequest
from streaming.session import Route, Session
from tests.scripted_adapter import InProcessAdapter
from tests.unit.ui.ui_fixtures import make_answer_service, make_request
from tests.virtual_time import loop_clock, run_on_virtual_time
from ui import strings
from ui.answers import AnswerService
from ui.pipeline.handlers import PipelineHandlers
from ui.pipeline.scenarios import Scenarios


def make_service() -> AnswerService:
    return make_answer_service(ProviderRegistry(Settings()))


class FailingAdapter(InProcessAdapter):
    """An adapter that fails `failures` times, and then answers with one word."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        if self.left:
            self.left -= 1
            raise ServerError("overloaded", http_status=503)
        yield TextDelta("word")
        yield Finish("stop")

    async def aclose(self) -> None:
        """Release nothing: there are no resources."""


class UnevenAdapter(InProcessAdapter):
    """An adapter that sends chunks of several lengths at uneven gaps; `cut` ends them with an error."""

    def __init__(self, *, thinks: bool = False, cut: bool = False) -> None:
        self._thinks, self._cut = thinks, cut

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        if self._thinks:
            yield ThinkingDelta("Let me see. ")
        for number in range(60):
            await asyncio.sleep(0.003 * (number * 7 % 17))
            yield TextDelta("größer 東京 "[: number % 10 + 1])
        if self._cut:
            raise TruncatedStreamError("cut")
        yield Finish("stop")

    async def aclose(self) -> None:
        """Release nothing: there are no resources."""


class AdapterScenarios(Scenarios):
    """Scenarios whose every session asks one adapter."""

    def __init__(self, answer_service: AnswerService, adapter: Adapter) -> None:
        super().__init__(answer_service)
        self._adapter = adapter

    def new_session(self, name: str) -> Session:
        return Session([Route(name, self._adapter, "")], loop_clock())


def play(adapter: Adapter, left: str = "direct", right: str = "batch") -> list[tuple[Any, ...]]:
    """Play an adapter's answer to its end with an interval of 100 ms; return all updates."""

    async def main() -> list[tuple[Any, ...]]:
        service = make_service()
        handlers = PipelineHandlers(service, AdapterScenarios(service, adapter))
        async with aclosing(handlers.run("sim:steady", left, right, 100, "", make_request())) as updates:
            return [update async for update in updates]

    return run_on_virtual_time(main())


@pytest.mark.parametrize(("left", "right"), [("direct", "batch"), ("debounce", "whole")])
@pytest.mark.parametrize("options", [{}, {"thinks": True}, {"cut": True}], ids=["whole", "thinking", "cut"])
def test_measured_and_computed_metrics_agree(options: dict[str, bool], left: str, right: str) -> None:
    *_, last = play(UnevenAdapter(**options), left, right)
    lines = re.findall(r"<code>([^<]+)</code><br><b>Computed</b> ([^<]+)<br><b>Measured</b> ([^<]+)", last[6])
    assert {name.partition(":")[0] for name, _, _ in lines} == {left, right}
    assert all(computed == measured for _, computed, measured in lines), "on virtual time there is no lag"
    by_name = {name.partition(":")[0]: computed for name, computed, _ in lines}
    for kind, stats in zip((left, right), last[2:4], strict=True):
        values = re.findall(r"<dd>([^<]*) <small>([^<]*)</small>", stats)
        (chunks, _), (updates, _), (sent, note), (delay, _) = values
        noun, (mean, longest) = "update" if updates == "1" else "updates", delay.split(", ")
        assert by_name[kind] == f"{updates} {noun} · {sent} · delay mean {mean} ms, max {longest}"
        assert note == strings.BYTES_NOTE and int(chunks) == 60


def test_retry_counts_down_and_states_its_reason() -> None:
    updates = play(FailingAdapter(1))
    waiting = [
        update[5] for update in updates if isinstance(update[5], str) and strings.STATES["retrying"] in update[5]
    ]
    left_s = [int(seconds) for line in waiting for seconds in re.findall(r'data-left-s="(\d+)"', line)]
    assert len(left_s) == len(waiting) and left_s == sorted(left_s, reverse=True) and left_s[0] == 1 and left_s[-1] == 0
    lines = [update[5] for update in updates if isinstance(update[5], str)]
    streaming = [line for line in lines if "<strong>Streaming" in line]
    assert streaming and not any("Retry 1 of 3" in line for line in streaming), "the retry is over by then"
    passages = re.findall(r"<li[^>]*><strong>(\w+)</strong>([^<]*)", updates[-1][4])
    assert [state for state, _ in passages] == ["Idle", "Streaming", "Retrying", "Streaming", "Succeeded"]
    assert "overloaded" in passages[2][1] and "Retry 1 of 3 in 1 s" in passages[2][1]


def test_failure_is_marked_as_failed_with_its_reason() -> None:
    *_, last = play(FailingAdapter(9))
    passages = re.findall(r"<li[^>]*><strong>(\w+)</strong>([^<]*)", last[4])
    assert [state for state, _ in passages].count("Retrying") == 3
    assert passages[-1] == ("Failed", " overloaded")
    assert 'data-state="failed"' in last[4] and "sg-bad" in last[5]


def test_scenarios_are_grouped_in_plain_words() -> None:
    async def main() -> dict[str, list[tuple[str, str]]]:
        scenarios = Scenarios(make_service())
        return {"pace": scenarios.choices("pace"), "refused": scenarios.choices("refused"),
                "broken": scenarios.choices("broken")}  # fmt: skip

    groups = run_on_virtual_time(main())
    every = [name for choices in groups.values() for _, name in choices]
    expected = {f"sim:{name}" for name in PROFILES} | {f"sim:fault-{name}" for name in FAULTS} | {"local"}
    assert set(every) == expected and len(every) == len(expected)
    labels = [label for choices in groups.values() for label, _ in choices]
    assert len(set(labels)) == len(labels), "no two scenarios look alike"
    assert "sim:steady" in dict((name, label) for label, name in groups["pace"])
    assert "sim:fault-503" in [name for _, name in groups["refused"]]
    assert {"sim:cut", "sim:fault-stall"} <= {name for _, name in groups["broken"]}

"""The choice of a backend: who sends a request, what is said when it is not the first choice, and what fails loudly."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial

import pytest

from evaluation.backends.base import RunResources, TimedResponse, TrialRequest
from evaluation.backends.registry import BACKENDS, RunBackends
from evaluation.transports import TRANSPORTS
from streaming.adapter import PreparedRequest, TimedAnswer, UnpreparableRequest
from streaming.clock import Clock
from streaming.errors import BadRequestError
from streaming.events import Event, Finish, TextDelta
from streaming.http.timed_exchange import Gate
from streaming.http.timestamped_sockets import TimestampingSelector
from streaming.messages import ChatRequest, Message
from streaming.meter import CostModel
from streaming.retry import RetryPolicy
from streaming.session import Route, Session
from tests.scripted_adapter import InProcessAdapter
from tests.virtual_time import loop_clock, run_on_virtual_time

REQUEST = ChatRequest((Message("user", "Why?"),), request_id="trial-1")


class AnsweringAdapter(InProcessAdapter):
    """Answers with one word in process; `fails` is raised when a request is prepared."""

    def __init__(self, fails: Exception | None = None) -> None:
        self._fails = fails
        self.streamed = 0

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.streamed += 1
        yield TextDelta("Yes.")
        yield Finish("stop")

    async def prepare_request(self, request: ChatRequest) -> UnpreparableRequest:
        if self._fails is not None:
            raise self._fails
        return UnpreparableRequest("the test has no network")


class MistakenAdapter(AnsweringAdapter):
    """Claims to have prepared a request, but cannot send it."""

    async def prepare_request(self, request: ChatRequest) -> PreparedRequest:  # type: ignore[override] # another answer of the protocol
        return UnsendableRequest()


class UnsendableRequest:
    async def send(self, sockets: TimestampingSelector, request_id: str, gate: Gate | None = None) -> TimedAnswer:
        raise TypeError("no bytes")


class OneAdapterAccess:
    def __init__(self, adapter: AnsweringAdapter) -> None:
        self._adapter = adapter

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session:
        return Session([Route(name, self._adapter, "m") for name in names], clock, policy=policy)

    def cost_model(self, name: str) -> CostModel:
        return CostModel()


@asynccontextmanager
async def open_backends(adapter: AnsweringAdapter) -> AsyncIterator[RunBackends]:
    access = OneAdapterAccess(adapter)
    resources = RunResources(access, loop_clock(), mask=lambda text: text.replace("s3cret", "[KEY]"))
    async with aclosing(RunBackends(resources)) as backends:
        yield backends


def send_once(adapter: AnsweringAdapter, transport: str = "in-process") -> tuple[TimedResponse, dict[str, object]]:
    async def main() -> tuple[TimedResponse, dict[str, object]]:
        call = TrialRequest("test:m", "direct", transport, REQUEST)
        async with open_backends(adapter) as backends:
            await backends.prepare(call)
            instrument = backends.start()
            return await backends.send(call), instrument

    return run_on_virtual_time(main())


def test_every_transport_has_backends() -> None:
    assert tuple(BACKENDS) == TRANSPORTS


def test_unpreparable_request_is_sent_in_process_with_the_reason() -> None:
    response, instrument = send_once(AnsweringAdapter())
    assert (response.outcome, response.instrument.stamp_source) == ("completed", "in-process")
    assert instrument["measured_otherwise"] == {"test:m": "the test has no network"}
    assert instrument["stamped_sockets"] == [] and instrument["real_time_priority"] is False


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (BadRequestError("the key s3cret has a line break"), "bad_request", "the key [KEY] has a line break"),
        (AttributeError("no such field"), "internal", "AttributeError: no such field"),
    ],
)
def test_failed_preparation_is_the_outcome_and_not_measured_another_way(
    error: Exception, kind: str, words: str
) -> None:
    adapter = AnsweringAdapter(error)
    response, instrument = send_once(adapter)
    assert (response.outcome, response.ending["error_type"], response.ending["error_message"]) == (
        "failed",
        kind,
        words,
    )
    assert adapter.streamed == 0 and instrument["measured_otherwise"] == {}
    assert not response.stamps.sent and response.started_at


def test_defect_while_sending_is_the_outcome() -> None:
    response, instrument = send_once(MistakenAdapter())
    assert response.ending["error_message"] == "TypeError: no bytes"
    assert instrument["stamped_sockets"] == ["test:m"]


def test_failure_before_the_gate_is_the_outcome_when_the_request_is_due() -> None:
    async def main() -> tuple[float, TimedResponse]:
        call, clock = TrialRequest("test:m", "direct", "in-process", REQUEST), loop_clock()
        async with open_backends(AnsweringAdapter(BadRequestError("no"))) as backends:
            return clock() + 2.0, await backends.send(call, partial(asyncio.sleep, 2.0))

    due_s, response = run_on_virtual_time(main())
    assert (response.outcome, response.stamps.sent_s, response.stamps.sent) == ("failed", due_s, False)


def test_missing_service_is_the_outcome_over_its_transports() -> None:
    response, _ = send_once(AnsweringAdapter(), transport="websocket")
    assert (response.outcome, response.ending["error_type"], response.stamps.source) == ("failed", "internal", None)

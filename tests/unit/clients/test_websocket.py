"""The WebSocket client over scripted sockets, on virtual time."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from clients.answer_stream import ClientAnswerStream
from clients.errors import (
    ClientError,
    ConnectionLostError,
    InvalidResponseError,
    RequestRejectedError,
    StreamGoneError,
    rejection_from_response,
)
from clients.events import Event
from clients.reconnecting import TRANSITIONS, ConnectionState
from clients.websocket import WebSocketClient
from tests.unit.clients import wire_events
from tests.unit.clients.sockets import ConnectResult, FakeNetwork, FakeWebSocket
from tests.virtual_time import loop_clock, run_on_virtual_time

T = TypeVar("T")
CANCEL = {"type": "cancel"}
QUESTION = {"message": "Hi"}


async def read_answer(answer: ClientAnswerStream) -> list[Event]:
    async with answer:
        return [event async for event in answer]


def run_over_sockets(
    sockets: Sequence[ConnectResult], main: Callable[[WebSocketClient], Awaitable[T]], **options: Any
) -> tuple[T, FakeNetwork]:
    """Run `main` with a client over these sockets, and check that every state transition is allowed."""
    network = FakeNetwork(*sockets)

    async def run() -> T:
        client = network.make_client(**options)
        result = await main(client)
        await client.aclose()
        assert client.state in ("closed", "failed")
        return result

    result = run_on_virtual_time(run())
    path: list[ConnectionState] = ["closed", *network.states]
    assert all(after in TRANSITIONS[before] for before, after in pairwise(path)), path
    return result, network


COMPLETE_MESSAGES = wire_events.encode_messages(wire_events.COMPLETE_EVENTS)


def test_requests_share_one_socket() -> None:
    socket = FakeWebSocket()
    socket.push_messages([*COMPLETE_MESSAGES, *wire_events.encode_messages(wire_events.COMPLETE_EVENTS, id="other")])

    async def main(client: WebSocketClient) -> list[list[Event]]:
        return [
            await read_answer(client.stream(message="Hi")),
            await read_answer(client.stream(message="Hi", provider="sim:steady")),
        ]

    result, network = run_over_sockets([socket], main)
    assert result == [wire_events.PARSED_EVENTS, wire_events.PARSED_EVENTS]
    assert socket.sent == [QUESTION, {**QUESTION, "provider": "sim:steady"}]
    assert network.states == ["connecting", "open", "closing", "closed"]


def test_second_request_waits_for_first() -> None:
    socket = FakeWebSocket()

    async def main(client: WebSocketClient) -> list[Event]:
        async with client.stream(message="Hi") as first:
            second = asyncio.create_task(read_answer(client.stream(message="And?")))
            await asyncio.sleep(1)
            assert socket.sent == [QUESTION]
            socket.push_messages(
                [*COMPLETE_MESSAGES[1:], *wire_events.encode_messages(wire_events.COMPLETE_EVENTS, id="other")]
            )
            assert [event async for event in first] == wire_events.PARSED_EVENTS
            return await second

    socket.push_messages(COMPLETE_MESSAGES[:1])
    assert run_over_sockets([socket], main)[0] == wire_events.PARSED_EVENTS
    assert socket.sent == [QUESTION, {"message": "And?"}]


@pytest.mark.parametrize("count", range(1, len(COMPLETE_MESSAGES)))
def test_cut_with_resume_anywhere_yields_same_answer(count: int) -> None:
    first, second = FakeWebSocket(), FakeWebSocket()
    first.push_messages(COMPLETE_MESSAGES[:count])
    second.push_messages(COMPLETE_MESSAGES[count:])

    async def main(client: WebSocketClient) -> list[Event]:
        answer = client.stream(message="Hi", resume=True)
        async with answer:
            asyncio.get_running_loop().call_later(1, first.drop)
            events = [event async for event in answer]
        assert answer.content == wire_events.TEXT
        return events

    result, network = run_over_sockets([first, second], main)
    assert result == wire_events.PARSED_EVENTS
    ended = count == len(COMPLETE_MESSAGES) - 1  # its finish had come: nothing was left to ask for
    assert second.sent == ([] if ended else [{"type": "resume", "stream_id": wire_events.ID, "last_id": count}])
    assert network.states[:3] == ["connecting", "open", "closed"]


def test_cuts_after_progress_are_all_resumed() -> None:
    sockets = [FakeWebSocket() for _ in COMPLETE_MESSAGES]

    async def main(client: WebSocketClient) -> list[Event]:
        for number, (socket, message) in enumerate(zip(sockets, COMPLETE_MESSAGES, strict=True), 1):
            socket.push_messages([message])
            asyncio.get_running_loop().call_later(10 * number, socket.drop)
        return await read_answer(client.stream(message="Hi", resume=True))

    assert run_over_sockets(sockets, main, max_retries=1)[0] == wire_events.PARSED_EVENTS


def test_cut_after_finish_still_completes() -> None:
    socket = FakeWebSocket()
    socket.push_messages(COMPLETE_MESSAGES[:-1])

    async def main(client: WebSocketClient) -> list[Event]:
        asyncio.get_running_loop().call_later(1, socket.drop)
        return await read_answer(client.stream(message="Hi"))

    assert run_over_sockets([socket], main)[0] == wire_events.PARSED_EVENTS


@pytest.mark.parametrize("resume", [False, True])
def test_unresumable_cut_raises_and_next_request_is_answered(resume: bool) -> None:
    first, second = FakeWebSocket(), FakeWebSocket()
    first.push_messages([] if resume else COMPLETE_MESSAGES[:4])
    second.push_messages(COMPLETE_MESSAGES)
    errors: list[ClientError] = []

    async def main(client: WebSocketClient) -> list[Event]:
        asyncio.get_running_loop().call_later(1, first.drop, 1012, "restart")
        with pytest.raises(ConnectionLostError, match="1012: restart"):
            await read_answer(client.stream(message="Hi", resume=resume))
        return await read_answer(client.stream(message="Hi"))

    result, network = run_over_sockets([first, second], main, on_error=errors.append)
    assert result == wire_events.PARSED_EVENTS
    assert second.sent == [QUESTION], "the first question is not asked twice"
    assert [type(error) for error in errors] == [ConnectionLostError]
    assert network.states[:5] == ["connecting", "open", "closed", "reconnecting", "connecting"]


def test_socket_lost_between_requests_is_reopened() -> None:
    first, second = FakeWebSocket(), FakeWebSocket()
    second.push_messages(COMPLETE_MESSAGES)

    async def main(client: WebSocketClient) -> list[Event]:
        await client.connect()
        first.drop()
        return await read_answer(client.stream(message="Hi"))

    assert run_over_sockets([first, second], main)[0] == wire_events.PARSED_EVENTS
    assert first.sent == []


def test_reconnect_delay_doubles_until_giving_up_and_resets_for_next_request() -> None:
    socket = FakeWebSocket()
    socket.push_messages(COMPLETE_MESSAGES)

    async def main(client: WebSocketClient) -> list[Event]:
        for dials in (4, 8):
            with pytest.raises(ConnectionLostError, match="unreachable"):
                await client.connect()
            assert (client.state, len(network.at_s)) == ("failed", dials)
        network.ready.append(socket)
        return await read_answer(client.stream(message="Hi"))

    network = FakeNetwork()

    async def run() -> list[Event]:
        client = network.make_client(max_retries=3, reconnect_interval_s=3.0)
        events = await main(client)
        await client.aclose()
        return events

    assert run_on_virtual_time(run()) == wire_events.PARSED_EVENTS
    waits_s = [after - before for before, after in pairwise(network.at_s[:4])]
    for wait_s, most_s in zip(waits_s, [3, 6, 12], strict=True):
        assert most_s / 2 <= wait_s <= most_s
    assert network.states[:4] == ["connecting", "failed", "reconnecting", "connecting"]


def test_lost_answer_without_reconnect_raises_even_with_resume() -> None:
    socket = FakeWebSocket()
    socket.push_messages(COMPLETE_MESSAGES[:3])

    async def main(client: WebSocketClient) -> None:
        asyncio.get_running_loop().call_later(1, socket.drop)
        with pytest.raises(ConnectionLostError, match="1006"):
            await read_answer(client.stream(message="Hi", resume=True))

    _, network = run_over_sockets([socket], main, reconnect=False)
    assert network.states == ["connecting", "open", "closed"]


@pytest.mark.parametrize(
    ("status", "dials"), [(401, 1), (404, 1), (429, 2), (503, 2)], ids=["key", "address", "rate", "busy"]
)
def test_rejected_handshake_is_retried_only_for_retryable_status(status: int, dials: int) -> None:
    socket = FakeWebSocket()
    body = json.dumps(wire_events.rejection_fields(retry_after_s=None)).encode()

    async def main(client: WebSocketClient) -> None:
        if dials == 1:
            with pytest.raises(RequestRejectedError):
                await client.connect()
        else:
            await client.connect()

    _, network = run_over_sockets([rejection_from_response(status, body, "5"), socket], main)
    assert len(network.at_s) == dials
    assert network.at_s[-1] == (5.0 if dials == 2 else 0.0)


def test_rejection_raises_and_socket_is_not_reopened() -> None:
    first, second = FakeWebSocket(), FakeWebSocket()
    second.push_messages(COMPLETE_MESSAGES)

    async def main(client: WebSocketClient) -> list[Event]:
        await client.connect()
        first.push_messages([json.dumps({"type": "error", **wire_events.rejection_fields()})])
        with pytest.raises(RequestRejectedError) as excinfo:
            await read_answer(client.stream(message="Hi", resume=True))
        assert (excinfo.value.rule, excinfo.value.retry_after_s) == ("rate_limit", 7.0)
        await asyncio.sleep(100)
        assert client.state == "closed"
        return await read_answer(client.stream(message="Hi"))

    assert run_over_sockets([first, second], main)[0] == wire_events.PARSED_EVENTS


def test_policy_close_does_not_reconnect() -> None:
    socket = FakeWebSocket()

    async def main(client: WebSocketClient) -> None:
        await client.connect()
        socket.drop(1008, "rate_limit")
        await asyncio.sleep(100)
        assert (client.state, client.is_connected) == ("closed", False)

    _, network = run_over_sockets([socket], main)
    assert len(network.at_s) == 1


def test_error_without_rule_keeps_socket_open() -> None:
    socket = FakeWebSocket()
    socket.push_messages(
        [
            json.dumps({"type": "error", **wire_events.rejection_fields("no such provider", rule=None)}),
            *COMPLETE_MESSAGES,
        ]
    )

    async def main(client: WebSocketClient) -> list[Event]:
        with pytest.raises(RequestRejectedError, match="no such provider"):
            await read_answer(client.stream(message="Hi", provider="none"))
        return await read_answer(client.stream(message="Hi"))

    result, network = run_over_sockets([socket], main)
    assert (result, len(network.at_s)) == (wire_events.PARSED_EVENTS, 1)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["by its reader", "by another task"])
def test_cancel_returns_receipt_and_keeps_socket(elsewhere: bool) -> None:
    socket = FakeWebSocket()
    messages = wire_events.encode_messages(wire_events.CANCELLED_EVENTS)
    socket.push_messages(messages[:-1])

    async def main(client: WebSocketClient) -> list[Event]:
        async with client.stream(message="Hi") as answer:
            reading = asyncio.create_task(read_rest(answer)) if elsewhere else None
            asyncio.get_running_loop().call_later(1, socket.push_messages, messages[-1:])
            assert await answer.cancel() == wire_events.PARSED_CANCELLED
            events = await reading if reading else await read_rest(answer)
        socket.push_messages(wire_events.encode_messages(wire_events.COMPLETE_EVENTS, id="next"))
        assert await read_answer(client.stream(message="Hi")) == wire_events.PARSED_EVENTS
        return events

    async def read_rest(answer: ClientAnswerStream) -> list[Event]:
        return [event async for event in answer]

    result, network = run_over_sockets([socket], main)
    assert result == [*wire_events.PARSED_START_EVENTS, wire_events.PARSED_CANCELLED]
    assert socket.sent == [QUESTION, CANCEL, QUESTION]
    assert len(network.at_s) == 1


def test_cancel_between_connections_is_sent_after_reconnect() -> None:
    first, second = FakeWebSocket(), FakeWebSocket()
    messages = wire_events.encode_messages(wire_events.CANCELLED_EVENTS)
    first.push_messages(messages[:3])
    second.push_messages(messages[3:])

    async def main(client: WebSocketClient) -> None:
        async with client.stream(message="Hi", resume=True) as answer:
            first.drop()
            assert await answer.cancel() == wire_events.PARSED_CANCELLED

    run_over_sockets([first, second], main)
    assert second.sent[1:] == [CANCEL]


def test_exit_from_answer_closes_socket_and_next_request_opens_another() -> None:
    first, second = FakeWebSocket(), FakeWebSocket()
    first.push_messages(COMPLETE_MESSAGES[:4])
    second.push_messages(COMPLETE_MESSAGES)

    async def main(client: WebSocketClient) -> list[Event]:
        async with client.stream(message="Hi") as answer:
            async for _ in answer:
                break
            assert answer.is_connected
        assert (answer.is_connected, client.state, first.close_code) == (False, "closed", 1000)
        left_s = loop_clock()()
        events = await read_answer(client.stream(message="Hi"))
        assert loop_clock()() == left_s
        return events

    result, network = run_over_sockets([first, second], main)
    assert result == wire_events.PARSED_EVENTS
    assert network.states[2:6] == ["closing", "closed", "connecting", "open"]


def test_resume_by_id_reads_remaining_events() -> None:
    socket = FakeWebSocket()
    socket.push_messages([*COMPLETE_MESSAGES[7:], json.dumps({"type": "ended", "stream_id": wire_events.ID})])

    async def main(client: WebSocketClient) -> list[Event]:
        events = await read_answer(client.resume(wire_events.ID, f"{wire_events.ID}:7"))
        with pytest.raises(ConnectionLostError, match="has no events after"):
            await read_answer(client.resume(wire_events.ID, f"{wire_events.ID}:10"))
        return events

    assert run_over_sockets([socket], main)[0] == wire_events.PARSED_EVENTS[-2:]
    assert [message["last_id"] for message in socket.sent] == [7, 10]


@pytest.mark.parametrize("message", ["[]", "no JSON", "{}", '{"type": "chunk", "content": "x"}', b"\xff"])
def test_invalid_frame_raises_with_reason(message: Any) -> None:
    socket = FakeWebSocket()
    socket.push_messages([message])

    async def main(client: WebSocketClient) -> None:
        with pytest.raises(InvalidResponseError, match="frame"):
            await read_answer(client.stream(message="Hi"))

    run_over_sockets([socket], main)


def test_background_reading_calls_callbacks_until_close() -> None:
    socket = FakeWebSocket()
    text: list[str] = []
    socket.push_messages([*COMPLETE_MESSAGES, *wire_events.encode_messages(wire_events.START_EVENTS, id="other")])

    async def main(client: WebSocketClient) -> None:
        client.send(message="Hi")
        client.send(message="Hi")
        await asyncio.sleep(1)
        assert client.is_connected

    run_over_sockets([socket], main, on_message=text.append)
    assert "".join(text) == wire_events.TEXT * 2
    assert socket.close_code == 1000


@pytest.mark.parametrize("away_s", [0.0, 0.5, 40.0], ids=["while connecting", "while waiting", "when given up"])
def test_close_ends_every_wait(away_s: float) -> None:
    async def main(client: WebSocketClient) -> None:
        client.send(message="Hi")
        await asyncio.sleep(away_s)

    _, network = run_over_sockets([], main, max_retries=2)
    dials = len(network.at_s)
    assert dials <= 3
    assert network.states[-1] == ("failed" if away_s == 40 else "closed")


def test_invalid_url_raises_at_once() -> None:
    with pytest.raises(ClientError, match="begin it with http"):
        WebSocketClient("localhost:7860")


@pytest.mark.parametrize("by_itself", [True, False], ids=["after a cut", "on request"])
def test_resume_of_unknown_stream_raises_stream_gone_and_keeps_socket_open(by_itself: bool) -> None:
    first, second = FakeWebSocket(), FakeWebSocket()
    unknown = json.dumps(
        {"type": "error", **wire_events.rejection_fields("no such stream", type="not_found", rule=None)}
    )
    first.push_messages(COMPLETE_MESSAGES[:5])
    sockets = [first, second] if by_itself else [second]
    second.push_messages([unknown, *COMPLETE_MESSAGES])

    async def main(client: WebSocketClient) -> list[Event]:
        answer = client.stream(message="Hi", resume=True) if by_itself else client.resume(wire_events.ID, None)
        asyncio.get_running_loop().call_later(1, first.drop)
        with pytest.raises(StreamGoneError, match="expired or the service was restarted") as excinfo:
            await read_answer(answer)
        assert excinfo.value.stream_id == wire_events.ID and not isinstance(excinfo.value, RequestRejectedError)
        assert bool(answer.content) == by_itself
        return await read_answer(client.stream(message="Hi"))

    result, network = run_over_sockets(sockets, main)
    assert (result, len(network.at_s)) == (wire_events.PARSED_EVENTS, len(sockets))


@pytest.mark.parametrize("refusals", [2, 9], ids=["for a moment", "for long"])
def test_stream_that_cannot_be_looked_up_now_is_resumed_on_same_socket(refusals: int) -> None:
    socket = FakeWebSocket()
    fields = wire_events.rejection_fields("Redis", type="unavailable", rule=None, retry_after_s=1.0)
    socket.push_messages([json.dumps({"type": "error", **fields})] * refusals + COMPLETE_MESSAGES)

    async def main(client: WebSocketClient) -> tuple[list[Event], float]:
        return await read_answer(client.resume(wire_events.ID, None)), asyncio.get_running_loop().time()

    if refusals == 9:
        with pytest.raises(RequestRejectedError, match="Redis"):
            run_over_sockets([socket], main, max_retries=5)
        return
    (events, took_s), network = run_over_sockets([socket], main, max_retries=5)
    assert (events, round(took_s, 3), len(network.at_s)) == (wire_events.PARSED_EVENTS, 2.0, 1)
    assert [message["type"] for message in socket.sent] == ["resume"] * 3

"""The WebSocket client over sockets that the test plays, on virtual time."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from clients.answer import Answer
from clients.connection import TRANSITIONS, State
from clients.errors import ClientError, ConnectionLost, Refused, StreamGoneError, WireError, refused_by
from clients.events import Event
from clients.websocket import WebSocketClient
from tests.unit.clients import said
from tests.unit.clients.sockets import Dialled, FakeSocket, Network
from tests.virtual_time import clock, run_virtual

T = TypeVar("T")
CANCEL = {"type": "cancel"}
ASK = {"message": "Hi"}


async def read(answer: Answer) -> list[Event]:
    async with answer:
        return [event async for event in answer]


def over(
    sockets: Sequence[Dialled], main: Callable[[WebSocketClient], Awaitable[T]], **options: Any
) -> tuple[T, Network]:
    """Run `main` with a client over these sockets; every step of its connection's life is one that can happen."""
    network = Network(*sockets)

    async def run() -> T:
        client = network.client(**options)
        found = await main(client)
        await client.aclose()
        assert client.state in ("closed", "failed")
        return found

    found = run_virtual(run())
    path: list[State] = ["closed", *network.states]
    assert all(after in TRANSITIONS[before] for before, after in pairwise(path)), path
    return found, network


WHOLE = said.as_messages(said.ANSWER)


def test_several_questions_are_answered_over_one_socket() -> None:
    socket = FakeSocket()
    socket.say([*WHOLE, *said.as_messages(said.ANSWER, id="other")])

    async def main(client: WebSocketClient) -> list[list[Event]]:
        return [await read(client.ask(message="Hi")), await read(client.ask(message="Hi", provider="sim:steady"))]

    found, network = over([socket], main)
    assert found == [said.READ, said.READ]
    assert socket.sent == [ASK, {**ASK, "provider": "sim:steady"}]
    assert network.states == ["connecting", "open", "closing", "closed"]


def test_a_question_waits_for_the_one_before() -> None:
    socket = FakeSocket()

    async def main(client: WebSocketClient) -> list[Event]:
        async with client.ask(message="Hi") as first:
            second = asyncio.create_task(read(client.ask(message="And?")))
            await asyncio.sleep(1)
            assert socket.sent == [ASK]
            socket.say([*WHOLE[1:], *said.as_messages(said.ANSWER, id="other")])
            assert [event async for event in first] == said.READ
            return await second

    socket.say(WHOLE[:1])
    assert over([socket], main)[0] == said.READ
    assert socket.sent == [ASK, {"message": "And?"}]


@pytest.mark.parametrize("count", range(1, len(WHOLE)))
def test_with_resume_an_answer_cut_anywhere_is_the_same(count: int) -> None:
    first, second = FakeSocket(), FakeSocket()
    first.say(WHOLE[:count])
    second.say(WHOLE[count:])

    async def main(client: WebSocketClient) -> list[Event]:
        answer = client.ask(message="Hi", resume=True)
        async with answer:
            asyncio.get_running_loop().call_later(1, first.lose)
            events = [event async for event in answer]
        assert answer.content == said.TEXT
        return events

    found, network = over([first, second], main)
    assert found == said.READ
    ended = count == len(WHOLE) - 1  # its finish had come: nothing was left to ask for
    assert second.sent == ([] if ended else [{"type": "resume", "stream_id": said.ID, "last_id": count}])
    assert network.states[:3] == ["connecting", "open", "closed"]


def test_each_cut_after_progress_is_made_good_as_the_first_was() -> None:
    sockets = [FakeSocket() for _ in WHOLE]

    async def main(client: WebSocketClient) -> list[Event]:
        for number, (socket, message) in enumerate(zip(sockets, WHOLE, strict=True), 1):
            socket.say([message])
            asyncio.get_running_loop().call_later(10 * number, socket.lose)
        return await read(client.ask(message="Hi", resume=True))

    assert over(sockets, main, max_retries=1)[0] == said.READ


def test_a_finish_stands_although_the_frame_after_it_was_cut() -> None:
    socket = FakeSocket()
    socket.say(WHOLE[:-1])

    async def main(client: WebSocketClient) -> list[Event]:
        asyncio.get_running_loop().call_later(1, socket.lose)
        return await read(client.ask(message="Hi"))

    assert over([socket], main)[0] == said.READ


@pytest.mark.parametrize("resume", [False, True])
def test_a_cut_that_cannot_be_made_good_is_an_error_and_the_next_question_is_answered(resume: bool) -> None:
    first, second = FakeSocket(), FakeSocket()
    first.say([] if resume else WHOLE[:4])
    second.say(WHOLE)
    errors: list[ClientError] = []

    async def main(client: WebSocketClient) -> list[Event]:
        asyncio.get_running_loop().call_later(1, first.lose, 1012, "restart")
        with pytest.raises(ConnectionLost, match="1012: restart"):
            await read(client.ask(message="Hi", resume=resume))
        return await read(client.ask(message="Hi"))

    found, network = over([first, second], main, on_error=errors.append)
    assert found == said.READ
    assert second.sent == [ASK], "the first question is not asked twice"
    assert [type(error) for error in errors] == [ConnectionLost]
    assert network.states[:5] == ["connecting", "open", "closed", "reconnecting", "connecting"]


def test_a_socket_lost_between_questions_is_opened_again() -> None:
    first, second = FakeSocket(), FakeSocket()
    second.say(WHOLE)

    async def main(client: WebSocketClient) -> list[Event]:
        await client.connect()
        first.lose()
        return await read(client.ask(message="Hi"))

    assert over([first, second], main)[0] == said.READ
    assert first.sent == []


def test_waits_double_until_it_is_given_up_and_a_new_question_begins_anew() -> None:
    socket = FakeSocket()
    socket.say(WHOLE)

    async def main(client: WebSocketClient) -> list[Event]:
        for dials in (4, 8):
            with pytest.raises(ConnectionLost, match="unreachable"):
                await client.connect()
            assert (client.state, len(network.at_s)) == ("failed", dials)
        network.ready.append(socket)
        return await read(client.ask(message="Hi"))

    network = Network()

    async def run() -> list[Event]:
        client = network.client(max_retries=3, reconnect_interval_s=3.0)
        events = await main(client)
        await client.aclose()
        return events

    assert run_virtual(run()) == said.READ
    waits_s = [after - before for before, after in pairwise(network.at_s[:4])]
    for wait_s, most_s in zip(waits_s, [3, 6, 12], strict=True):
        assert most_s / 2 <= wait_s <= most_s
    assert network.states[:4] == ["connecting", "failed", "reconnecting", "connecting"]


def test_without_reconnecting_a_lost_answer_is_an_error_even_with_resume() -> None:
    socket = FakeSocket()
    socket.say(WHOLE[:3])

    async def main(client: WebSocketClient) -> None:
        asyncio.get_running_loop().call_later(1, socket.lose)
        with pytest.raises(ConnectionLost, match="1006"):
            await read(client.ask(message="Hi", resume=True))

    _, network = over([socket], main, reconnect=False)
    assert network.states == ["connecting", "open", "closed"]


@pytest.mark.parametrize(
    ("status", "dials"), [(401, 1), (404, 1), (429, 2), (503, 2)], ids=["key", "address", "rate", "busy"]
)
def test_a_refused_handshake_is_tried_again_only_if_it_may_pass(status: int, dials: int) -> None:
    socket = FakeSocket()
    body = json.dumps(said.refusal(retry_after_s=None)).encode()

    async def main(client: WebSocketClient) -> None:
        if dials == 1:
            with pytest.raises(Refused):
                await client.connect()
        else:
            await client.connect()

    _, network = over([refused_by(status, body, "5"), socket], main)
    assert len(network.at_s) == dials
    assert network.at_s[-1] == (5.0 if dials == 2 else 0.0)


def test_a_refusal_is_raised_and_its_socket_not_opened_again_by_itself() -> None:
    first, second = FakeSocket(), FakeSocket()
    second.say(WHOLE)

    async def main(client: WebSocketClient) -> list[Event]:
        await client.connect()
        first.say([json.dumps({"type": "error", **said.refusal()})])
        with pytest.raises(Refused) as caught:
            await read(client.ask(message="Hi", resume=True))
        assert (caught.value.rule, caught.value.retry_after_s) == ("rate_limit", 7.0)
        await asyncio.sleep(100)
        assert client.state == "closed"
        return await read(client.ask(message="Hi"))

    assert over([first, second], main)[0] == said.READ


def test_a_policy_close_is_not_answered_by_coming_back() -> None:
    socket = FakeSocket()

    async def main(client: WebSocketClient) -> None:
        await client.connect()
        socket.lose(1008, "rate_limit")
        await asyncio.sleep(100)
        assert (client.state, client.is_connected) == ("closed", False)

    _, network = over([socket], main)
    assert len(network.at_s) == 1


def test_a_fault_without_a_rule_leaves_the_socket_open() -> None:
    socket = FakeSocket()
    socket.say([json.dumps({"type": "error", **said.refusal("no such provider", rule=None)}), *WHOLE])

    async def main(client: WebSocketClient) -> list[Event]:
        with pytest.raises(Refused, match="no such provider"):
            await read(client.ask(message="Hi", provider="none"))
        return await read(client.ask(message="Hi"))

    found, network = over([socket], main)
    assert (found, len(network.at_s)) == (said.READ, 1)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["by its reader", "by another task"])
def test_cancel_gives_the_receipt_loses_no_event_and_keeps_the_socket(elsewhere: bool) -> None:
    socket = FakeSocket()
    messages = said.as_messages(said.CANCELLED)
    socket.say(messages[:-1])

    async def main(client: WebSocketClient) -> list[Event]:
        async with client.ask(message="Hi") as answer:
            reading = asyncio.create_task(rest(answer)) if elsewhere else None
            asyncio.get_running_loop().call_later(1, socket.say, messages[-1:])
            assert await answer.cancel() == said.READ_CANCELLED
            events = await reading if reading else await rest(answer)
        socket.say(said.as_messages(said.ANSWER, id="next"))
        assert await read(client.ask(message="Hi")) == said.READ
        return events

    async def rest(answer: Answer) -> list[Event]:
        return [event async for event in answer]

    found, network = over([socket], main)
    assert found == [*said.READ_BEGINNING, said.READ_CANCELLED]
    assert socket.sent == [ASK, CANCEL, ASK]
    assert len(network.at_s) == 1


def test_a_cancel_between_two_connections_is_sent_on_the_next() -> None:
    first, second = FakeSocket(), FakeSocket()
    messages = said.as_messages(said.CANCELLED)
    first.say(messages[:3])
    second.say(messages[3:])

    async def main(client: WebSocketClient) -> None:
        async with client.ask(message="Hi", resume=True) as answer:
            first.lose()
            assert await answer.cancel() == said.READ_CANCELLED

    over([first, second], main)
    assert second.sent[1:] == [CANCEL]


def test_leaving_closes_the_socket_at_once_and_the_next_question_opens_another() -> None:
    first, second = FakeSocket(), FakeSocket()
    first.say(WHOLE[:4])
    second.say(WHOLE)

    async def main(client: WebSocketClient) -> list[Event]:
        async with client.ask(message="Hi") as answer:
            async for _ in answer:
                break
            assert answer.is_connected
        assert (answer.is_connected, client.state, first.close_code) == (False, "closed", 1000)
        left_s = clock()()
        events = await read(client.ask(message="Hi"))
        assert clock()() == left_s
        return events

    found, network = over([first, second], main)
    assert found == said.READ
    assert network.states[2:6] == ["closing", "closed", "connecting", "open"]


def test_an_answer_is_taken_up_later_by_its_id() -> None:
    socket = FakeSocket()
    socket.say([*WHOLE[7:], json.dumps({"type": "ended", "stream_id": said.ID})])

    async def main(client: WebSocketClient) -> list[Event]:
        events = await read(client.resume(said.ID, f"{said.ID}:7"))
        with pytest.raises(ConnectionLost, match="nothing is left"):
            await read(client.resume(said.ID, f"{said.ID}:10"))
        return events

    assert over([socket], main)[0] == said.READ[-2:]
    assert [message["last_id"] for message in socket.sent] == [7, 10]


@pytest.mark.parametrize("message", ["[]", "no JSON", "{}", '{"type": "chunk", "content": "x"}', b"\xff"])
def test_what_is_not_the_wire_is_named(message: Any) -> None:
    socket = FakeSocket()
    socket.say([message])

    async def main(client: WebSocketClient) -> None:
        with pytest.raises(WireError, match="the service sent a"):
            await read(client.ask(message="Hi"))

    over([socket], main)


def test_callbacks_tell_of_what_was_sent_and_closing_leaves_it() -> None:
    socket = FakeSocket()
    text: list[str] = []
    socket.say([*WHOLE, *said.as_messages(said.BEGINNING, id="other")])

    async def main(client: WebSocketClient) -> None:
        client.send(message="Hi")
        client.send(message="Hi")
        await asyncio.sleep(1)
        assert client.is_connected

    over([socket], main, on_message=text.append)
    assert "".join(text) == said.TEXT * 2
    assert socket.close_code == 1000


@pytest.mark.parametrize("away_s", [0.0, 0.5, 40.0], ids=["while connecting", "while waiting", "when given up"])
def test_closing_ends_every_wait(away_s: float) -> None:
    async def main(client: WebSocketClient) -> None:
        client.send(message="Hi")
        await asyncio.sleep(away_s)

    _, network = over([], main, max_retries=2)
    dials = len(network.at_s)
    assert dials <= 3
    assert network.states[-1] == ("failed" if away_s == 40 else "closed")


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ClientError, match="must begin with http"):
        WebSocketClient("localhost:7860")


@pytest.mark.parametrize("by_itself", [True, False], ids=["after a cut", "asked for"])
def test_resume_of_a_stream_that_is_not_kept_raises_stream_gone_and_leaves_the_socket_open(by_itself: bool) -> None:
    first, second = FakeSocket(), FakeSocket()
    unknown = json.dumps({"type": "error", **said.refusal("no such stream", type="not_found", rule=None)})
    first.say(WHOLE[:5])
    sockets = [first, second] if by_itself else [second]
    second.say([unknown, *WHOLE])

    async def main(client: WebSocketClient) -> list[Event]:
        answer = client.ask(message="Hi", resume=True) if by_itself else client.resume(said.ID, None)
        asyncio.get_running_loop().call_later(1, first.lose)
        with pytest.raises(StreamGoneError, match="expired, or the service was restarted") as caught:
            await read(answer)
        assert caught.value.stream_id == said.ID and not isinstance(caught.value, Refused)
        assert bool(answer.content) == by_itself
        return await read(client.ask(message="Hi"))

    found, network = over(sockets, main)
    assert (found, len(network.at_s)) == (said.READ, len(sockets))

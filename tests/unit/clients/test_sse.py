"""The SSE client over a transport that the test plays, on virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import httpx2
import pytest

from clients.answer import Answer
from clients.errors import ClientError, ConnectionLost, Refused, StreamGoneError, WireError
from clients.events import Event
from clients.sse import SSEClient
from tests.unit.clients import said
from tests.virtual_time import clock, run_virtual

URL = "http://service"
Play = Callable[[httpx2.Request], httpx2.Response]


class Body(httpx2.AsyncByteStream):
    """Gives `data` in small pieces, then waits or breaks; knows when it was closed."""

    def __init__(self, data: bytes, *, breaks: bool = False, hangs: bool = False, piece: int = 7) -> None:
        self.data, self.breaks, self.hangs, self.piece = data, breaks, hangs, piece
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), self.piece):
            await asyncio.sleep(0)
            yield self.data[start : start + self.piece]
        if self.hangs:
            await asyncio.sleep(1e6)
        if self.breaks:
            raise httpx2.ReadError("reset by peer")

    async def aclose(self) -> None:
        self.closed = True


class Service(httpx2.AsyncBaseTransport):
    """Answers each request by the next of `plays`, the last one for all further ones."""

    def __init__(self, *plays: Play) -> None:
        self.plays = list(plays)
        self.requests: list[httpx2.Request] = []
        self.at_s: list[float] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.at_s.append(asyncio.get_running_loop().time())
        return (self.plays.pop(0) if len(self.plays) > 1 else self.plays[0])(request)

    @property
    def asked(self) -> list[tuple[str, str, str | None]]:
        return [(r.method, r.url.path, r.headers.get("last-event-id")) for r in self.requests]


def streams(data: bytes, **how: Any) -> Play:
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return lambda request: httpx2.Response(200, headers=headers, stream=Body(data, **how))


def says(status: int, **fields: Any) -> Play:
    return lambda request: httpx2.Response(status, **fields)


def unreachable(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


def keeper(frames: list[said.Said], *, cut_at: list[int]) -> Play:
    """Play a service that keeps the stream; its connections break after so many bytes, the last one does not."""
    cuts = list(cut_at)

    def play(request: httpx2.Request) -> httpx2.Response:
        seq = int(request.headers.get("last-event-id", ":0").rpartition(":")[2])
        data = said.as_sse(frames[seq:], seq + 1)
        return streams(data[: cuts.pop(0)], breaks=True)(request) if cuts else streams(data)(request)

    return play


async def read(answer: Answer) -> list[Event]:
    async with answer:
        return [event async for event in answer]


def ask(service: Service, *, resume: bool = False, **options: Any) -> tuple[list[Event], Answer]:
    async def main() -> tuple[list[Event], Answer]:
        async with SSEClient(URL, transport=service, **options) as client:
            answer = client.ask(message="Hi", resume=resume)
            return await read(answer), answer

    return run_virtual(main())


def test_an_answer_is_read_as_events() -> None:
    service = Service(streams(said.as_sse(said.ANSWER)))
    events, answer = ask(service, key="k-1", headers={"X-Client-Request-Id": "mine"})
    assert events == said.READ
    assert (answer.content, answer.end) == (said.TEXT, said.READ[-1])
    assert (answer.stream_id, answer.last_id) == (said.ID, f"{said.ID}:{len(said.ANSWER)}")
    (request,) = service.requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}/api/chat/stream")
    assert request.read() == b'{"message":"Hi","resume":false}'
    assert (request.headers["authorization"], request.headers["x-client-request-id"]) == ("Bearer k-1", "mine")


def test_how_an_answer_broke_is_its_last_event_and_told() -> None:
    errors: list[ClientError] = []
    events, _ = ask(Service(streams(said.as_sse(said.BROKEN))), on_error=errors.append)
    assert events[-1] == said.READ_BROKEN
    assert [str(error) for error in errors] == ["cut"]


def test_a_refusal_is_raised_with_its_rule() -> None:
    service = Service(says(429, json=said.refusal(retry_after_s=None), headers={"retry-after": "9"}))
    errors: list[ClientError] = []
    with pytest.raises(Refused) as caught:
        ask(service, resume=True, on_error=errors.append)
    assert (caught.value.status, caught.value.rule, caught.value.retry_after_s) == (429, "rate_limit", 9.0)
    assert errors == [caught.value]
    assert len(service.requests) == 1, "a question is not asked again behind the asker's back"


@pytest.mark.parametrize("breaks", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("frames", [0, 1, 5], ids=["before the first event", "at its start", "in the middle"])
def test_without_resume_a_cut_is_an_error_and_nothing_is_asked_again(frames: int, breaks: bool) -> None:
    service = Service(streams(said.as_sse(said.ANSWER[:frames]), breaks=breaks))
    with pytest.raises(ConnectionLost):
        ask(service)
    assert len(service.requests) == 1


def test_with_resume_an_answer_cut_anywhere_is_the_same() -> None:
    data = said.as_sse(said.ANSWER)
    named = len(said.as_sse(said.ANSWER[:1]))
    for cut_at in range(named, len(data) + 1):
        service = Service(keeper(said.ANSWER, cut_at=[cut_at]))
        events, answer = ask(service, resume=True)
        assert (events, answer.content) == (said.READ, said.TEXT), cut_at
        assert all(method == "POST" for method, _, _ in service.asked[:1])
        for method, path, last_id in service.asked[1:]:
            assert (method, path) == ("GET", f"/api/chat/stream/{said.ID}")
            assert last_id is not None


def test_a_cut_before_the_stream_has_a_name_is_an_error_even_with_resume() -> None:
    service = Service(keeper(said.ANSWER, cut_at=[20]))
    with pytest.raises(ConnectionLost):
        ask(service, resume=True)
    assert len(service.requests) == 1


def test_what_the_service_sends_again_is_given_once() -> None:
    whole = streams(said.as_sse(said.ANSWER))
    events, _ = ask(Service(streams(said.as_sse(said.ANSWER[:6]), breaks=True), whole), resume=True)
    assert events == said.READ


def test_a_finish_stands_although_the_marker_after_it_was_cut() -> None:
    service = Service(streams(said.as_sse(said.ANSWER[:-1]), breaks=True))
    assert ask(service)[0] == said.READ
    assert len(service.requests) == 1


def test_waits_double_between_fruitless_attempts_and_start_over_after_progress() -> None:
    cut = streams(said.as_sse(said.ANSWER[:3]), breaks=True)
    more = streams(said.as_sse(said.ANSWER[3:5], 4), breaks=True)
    rest = streams(said.as_sse(said.ANSWER[5:], 6))
    service = Service(cut, unreachable, says(503), more, unreachable, rest)
    assert ask(service, resume=True)[0] == said.READ
    waits_s = [b - a for a, b in pairwise(service.at_s)]
    for wait_s, most_s in zip(waits_s, [1, 2, 4, 1, 2], strict=True):
        assert most_s / 2 <= wait_s <= most_s


def test_the_service_says_when_to_come_back() -> None:
    cut = streams(b"retry: 100\n\n" + said.as_sse(said.ANSWER[:3]), breaks=True)
    rest = streams(said.as_sse(said.ANSWER[3:], 4))
    busy = says(503, headers={"retry-after": "11"})
    service = Service(cut, busy, rest)
    assert ask(service, resume=True)[0] == said.READ
    first_s, second_s = (b - a for a, b in pairwise(service.at_s))
    assert 0.05 <= first_s <= 0.1
    assert second_s == 11.0


def test_a_service_that_stays_away_is_given_up() -> None:
    service = Service(streams(said.as_sse(said.ANSWER[:3]), breaks=True), unreachable)
    with pytest.raises(ConnectionLost, match="no connection to http://service"):
        ask(service, resume=True, max_retries=2)
    assert len(service.requests) == 3


def test_a_question_that_cannot_have_arrived_is_asked_again() -> None:
    service = Service(unreachable, unreachable, streams(said.as_sse(said.ANSWER)))
    assert ask(service)[0] == said.READ
    assert [method for method, _, _ in service.asked] == ["POST"] * 3


def test_resume_of_a_stream_that_is_not_kept_raises_stream_gone_and_keeps_the_text() -> None:
    unknown = says(404, json=said.refusal("never heard of it", type="not_found", rule=None, retry_after_s=None))
    service = Service(streams(said.as_sse(said.ANSWER[:5]), breaks=True), unknown)
    told: list[ClientError] = []

    async def main() -> str:
        async with SSEClient(URL, transport=service, on_error=told.append) as client:
            answer = client.ask(message="Hi", resume=True)
            with pytest.raises(StreamGoneError, match="expired, or the service was restarted") as caught:
                await read(answer)
            assert caught.value.stream_id == answer.stream_id and not isinstance(caught.value, Refused)
            return answer.content

    assert run_virtual(main()) != "" and [type(error) for error in told] == [StreamGoneError]
    assert len(service.requests) == 2


def test_a_question_that_is_refused_with_404_is_a_refusal() -> None:
    unknown = says(404, json=said.refusal("no such address", type="not_found", rule=None, retry_after_s=None))
    with pytest.raises(Refused, match="no such address"):
        ask(Service(unknown), resume=True)


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (says(200, html="<html>Sign in</html>"), "no event stream.*text/html"),
        (says(200), "something without a type"),
        (streams(said.as_sse(said.ANSWER[:2]) + said.as_sse(said.ANSWER[3:], 4)), "something is lost"),
        (streams(said.as_sse(said.ANSWER[:2]) + b"id: t:3\ndata: {}\n\n"), "another"),
        (streams(b"id: s:1\nevent: start\ndata: {not json\n\n"), "not JSON"),
        (streams(b"data: \xff\n\n"), "UTF-8"),
        (streams(b'data: {"content": "x"}\n\n'), "without a usable id"),
    ],
)  # fmt: skip
def test_what_is_not_the_wire_is_named(play: Play, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        ask(Service(play), resume=True)


def test_nothing_left_of_an_answer_whose_end_never_came_is_an_error() -> None:
    service = Service(streams(said.as_sse(said.ANSWER[:3]), breaks=True), says(204))
    with pytest.raises(ConnectionLost, match="nothing is left"):
        ask(service, resume=True)


def test_leaving_closes_the_connection_at_once() -> None:
    body = Body(said.as_sse(said.BEGINNING), hangs=True)
    service = Service(lambda request: httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=body))
    told: list[str] = []

    async def main() -> None:
        client = SSEClient(
            URL, transport=service, on_open=lambda: told.append("open"), on_close=lambda: told.append("close")
        )
        async with client.ask(message="Hi") as answer:
            assert answer.stream_id == said.ID
            async for _ in answer:
                break
            assert (answer.is_connected, client.is_connected, body.closed) == (True, True, False)
        assert (answer.is_connected, client.is_connected, body.closed) == (False, False, True)
        assert told == ["open", "close"]
        await client.aclose()

    run_virtual(main())


def test_an_answer_whose_first_event_cannot_be_read_leaves_no_connection() -> None:
    body = Body(b"id: s:1\nevent: usage\ndata: {}\n\n", hangs=True)
    service = Service(lambda request: httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=body))

    async def main() -> None:
        async with SSEClient(URL, transport=service) as client:
            with pytest.raises(WireError, match="'usage'"):
                await read(client.ask(message="Hi"))
            assert (client.is_connected, body.closed) == (False, True)

    run_virtual(main())


def cancelled_on_delete(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, json={"outcome": "cancelled"})


@pytest.mark.parametrize("elsewhere", [False, True], ids=["by its reader", "by another task"])
def test_cancel_gives_the_receipt_and_loses_no_event(elsewhere: bool) -> None:
    stopped = asyncio.Event()

    class Stoppable(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield said.as_sse(said.BEGINNING)
            await stopped.wait()
            yield said.as_sse(said.CANCELLED[-1:], len(said.CANCELLED))

    def stop(request: httpx2.Request) -> httpx2.Response:
        stopped.set()
        return cancelled_on_delete(request)

    begin = streams(b"")
    service = Service(lambda r: httpx2.Response(200, headers=begin(r).headers, stream=Stoppable(b"")), stop)

    async def main() -> list[Event]:
        async with SSEClient(URL, transport=service) as client, client.ask(message="Hi") as answer:
            first = await anext(answer)
            reading = asyncio.create_task(rest(answer)) if elsewhere else None
            await asyncio.sleep(1)
            assert await answer.cancel() == said.READ_CANCELLED
            return [first, *(await reading if reading else await rest(answer))]

    async def rest(answer: Answer) -> list[Event]:
        return [event async for event in answer]

    assert run_virtual(main()) == [*said.READ_BEGINNING, said.READ_CANCELLED]
    assert service.asked[1] == ("DELETE", f"/api/chat/stream/{said.ID}", None)


def test_cancelling_what_has_ended_meanwhile_gives_that_end() -> None:
    service = Service(streams(said.as_sse(said.ANSWER)), says(404, json=said.refusal()))

    async def main() -> object:
        async with SSEClient(URL, transport=service) as client, client.ask(message="Hi") as answer:
            return await answer.cancel()

    assert run_virtual(main()) == said.READ[-1]


def test_a_cancel_that_does_not_arrive_is_an_error() -> None:
    service = Service(streams(said.as_sse(said.BEGINNING), hangs=True), unreachable)

    async def main() -> None:
        async with SSEClient(URL, transport=service) as client, client.ask(message="Hi") as answer:
            with pytest.raises(ConnectionLost, match="could not be cancelled"):
                await answer.cancel()

    run_virtual(main())


def test_an_answer_is_taken_up_later_by_its_id() -> None:
    service = Service(keeper(said.ANSWER, cut_at=[]))

    async def main() -> None:
        async with SSEClient(URL, transport=service) as client:
            assert await read(client.resume(said.ID, f"{said.ID}:7")) == said.READ[-2:]
            assert await read(client.resume(said.ID)) == said.READ

    run_virtual(main())
    path = f"/api/chat/stream/{said.ID}"
    assert service.asked == [("GET", path, f"{said.ID}:7"), ("GET", path, None)]


def test_callbacks_tell_of_what_is_read_in_the_background_until_disconnected() -> None:
    service = Service(
        streams(said.as_sse(said.ANSWER)), says(401, json=said.refusal("a key is needed")),
        streams(said.as_sse(said.BEGINNING), hangs=True),
    )  # fmt: skip
    text: list[str] = []
    errors: list[ClientError] = []

    async def main() -> None:
        client = SSEClient(URL, transport=service, on_message=text.append, on_error=errors.append)
        for count in (2, 2, 4):
            client.connect(message="Hi")
            await asyncio.sleep(5)
            assert len(text) == count
        assert client.is_connected
        await client.disconnect()
        assert not client.is_connected
        await client.aclose()
        assert clock()() == 15

    run_virtual(main())
    assert "".join(text) == said.TEXT * 2
    assert [str(error) for error in errors] == ["a key is needed"]


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ClientError, match="must begin with http"):
        SSEClient("localhost:7860")

"""The SSE client over a scripted transport, on virtual time."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import httpx2
import pytest

from clients.answer_stream import ClientAnswerStream
from clients.errors import ClientError, ConnectionLostError, InvalidResponseError, RequestRejectedError, StreamGoneError
from clients.events import Event
from clients.sse import SSEClient
from clients.websocket import WebSocketClient
from tests.unit.clients import wire_events
from tests.virtual_time import loop_clock, run_on_virtual_time

URL = "http://service"
RespondFunction = Callable[[httpx2.Request], httpx2.Response]


class PiecewiseBody(httpx2.AsyncByteStream):
    """A body that yields `data` in small pieces, then hangs or breaks; records whether it was closed."""

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


class ScriptedService(httpx2.AsyncBaseTransport):
    """A transport that answers each request with the next of `plays`, and all further requests with the last."""

    def __init__(self, *plays: RespondFunction) -> None:
        self.plays = list(plays)
        self.requests: list[httpx2.Request] = []
        self.at_s: list[float] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.at_s.append(asyncio.get_running_loop().time())
        return (self.plays.pop(0) if len(self.plays) > 1 else self.plays[0])(request)

    @property
    def request_summaries(self) -> list[tuple[str, str, str | None]]:
        return [(r.method, r.url.path, r.headers.get("last-event-id")) for r in self.requests]


def stream_response(data: bytes, **how: Any) -> RespondFunction:
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return lambda request: httpx2.Response(200, headers=headers, stream=PiecewiseBody(data, **how))


def plain_response(status: int, **fields: Any) -> RespondFunction:
    return lambda request: httpx2.Response(status, **fields)


def raise_unreachable(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


def resuming_service(frames: list[wire_events.NamedEvent], *, cut_at: list[int]) -> RespondFunction:
    """Return a service that buffers the stream; its connections break after `cut_at` bytes each, except the last."""
    cuts = list(cut_at)

    def respond(request: httpx2.Request) -> httpx2.Response:
        seq = int(request.headers.get("last-event-id", ":0").rpartition(":")[2])
        data = wire_events.encode_sse(frames[seq:], seq + 1)
        return stream_response(data[: cuts.pop(0)], breaks=True)(request) if cuts else stream_response(data)(request)

    return respond


async def read_answer(answer: ClientAnswerStream) -> list[Event]:
    async with answer:
        return [event async for event in answer]


def ask_service(
    service: ScriptedService, *, resume: bool = False, **options: Any
) -> tuple[list[Event], ClientAnswerStream]:
    return run_on_virtual_time(ask_within(service, resume=resume, **options))


async def ask_within(
    service: ScriptedService, *, resume: bool = False, **options: Any
) -> tuple[list[Event], ClientAnswerStream]:
    async with SSEClient(URL, transport=service, **options) as client:
        answer = client.stream(message="Hi", resume=resume)
        return await read_answer(answer), answer


def test_client_reads_answer_as_events() -> None:
    service = ScriptedService(stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS)))
    events, answer = ask_service(service, key="k-1", headers={"X-Client-Request-Id": "mine"})
    assert events == wire_events.PARSED_EVENTS
    assert (answer.content, answer.end) == (wire_events.TEXT, wire_events.PARSED_EVENTS[-1])
    assert (answer.stream_id, answer.last_id) == (
        wire_events.ID,
        f"{wire_events.ID}:{len(wire_events.COMPLETE_EVENTS)}",
    )
    (request,) = service.requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}/api/chat/stream")
    assert request.read() == b'{"message":"Hi","resume":false}'
    assert (request.headers["authorization"], request.headers["x-client-request-id"]) == ("Bearer k-1", "mine")


@pytest.mark.parametrize("client_class", [SSEClient, WebSocketClient])
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"message": "half \ud83d"}, "half of a surrogate pair"),
        ({"message": "Hi", "temperature": math.nan}, "cannot be written as JSON"),
        ({"message": "Hi", "max_tokens": object()}, "cannot be written as JSON"),
    ],
)
def test_request_that_is_no_json_is_rejected_before_it_is_sent(
    client_class: type[SSEClient | WebSocketClient], params: Any, words: str
) -> None:
    async def main() -> None:
        client = client_class(URL)
        with pytest.raises(ClientError, match=rf"^request: [^\n]*{words}[^\n]* \(send "):
            client.stream(**params)

    asyncio.run(main())


def test_failed_answer_ends_with_failed_event_and_calls_on_error() -> None:
    errors: list[ClientError] = []
    events, _ = ask_service(
        ScriptedService(stream_response(wire_events.encode_sse(wire_events.FAILED_EVENTS))), on_error=errors.append
    )
    assert events[-1] == wire_events.PARSED_FAILED
    assert [str(error) for error in errors] == ["cut"]


def test_rejection_raises_with_rule() -> None:
    service = ScriptedService(
        plain_response(429, json=wire_events.rejection_fields(retry_after_s=None), headers={"retry-after": "9"})
    )
    errors: list[ClientError] = []
    with pytest.raises(RequestRejectedError) as excinfo:
        ask_service(service, resume=True, on_error=errors.append)
    assert (excinfo.value.status, excinfo.value.rule, excinfo.value.retry_after_s) == (429, "rate_limit", 9.0)
    assert errors == [excinfo.value]
    assert len(service.requests) == 1, "a question is not asked again behind the asker's back"


@pytest.mark.parametrize("breaks", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("frames", [0, 1, 5], ids=["before the first event", "at its start", "in the middle"])
def test_cut_without_resume_raises_and_sends_no_second_request(frames: int, breaks: bool) -> None:
    service = ScriptedService(
        stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[:frames]), breaks=breaks)
    )
    with pytest.raises(ConnectionLostError):
        ask_service(service)
    assert len(service.requests) == 1


def test_cut_with_resume_anywhere_yields_same_answer() -> None:
    async def main() -> None:
        data = wire_events.encode_sse(wire_events.COMPLETE_EVENTS)
        named = len(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[:1]))
        for cut_at in range(named, len(data) + 1):
            service = ScriptedService(resuming_service(wire_events.COMPLETE_EVENTS, cut_at=[cut_at]))
            events, answer = await ask_within(service, resume=True)
            assert (events, answer.content) == (wire_events.PARSED_EVENTS, wire_events.TEXT), cut_at
            assert all(method == "POST" for method, _, _ in service.request_summaries[:1])
            for method, path, last_id in service.request_summaries[1:]:
                assert (method, path) == ("GET", f"/api/chat/stream/{wire_events.ID}")
                assert last_id is not None

    run_on_virtual_time(main())


def test_cut_before_stream_id_raises_even_with_resume() -> None:
    service = ScriptedService(resuming_service(wire_events.COMPLETE_EVENTS, cut_at=[20]))
    with pytest.raises(ConnectionLostError):
        ask_service(service, resume=True)
    assert len(service.requests) == 1


def test_repeated_events_are_yielded_once() -> None:
    whole = stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS))
    events, _ = ask_service(
        ScriptedService(stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[:6]), breaks=True), whole),
        resume=True,
    )
    assert events == wire_events.PARSED_EVENTS


def test_cut_after_finish_still_completes() -> None:
    service = ScriptedService(stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[:-1]), breaks=True))
    assert ask_service(service)[0] == wire_events.PARSED_EVENTS
    assert len(service.requests) == 1


def test_reconnect_delay_doubles_and_resets_after_progress() -> None:
    cut = stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[:3]), breaks=True)
    more = stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[3:5], 4), breaks=True)
    rest = stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[5:], 6))
    service = ScriptedService(cut, raise_unreachable, plain_response(503), more, raise_unreachable, rest)
    assert ask_service(service, resume=True)[0] == wire_events.PARSED_EVENTS
    waits_s = [b - a for a, b in pairwise(service.at_s)]
    for wait_s, most_s in zip(waits_s, [1, 2, 4, 1, 2], strict=True):
        assert most_s / 2 <= wait_s <= most_s


def test_reconnect_delay_honours_retry_field_and_retry_after() -> None:
    cut = stream_response(b"retry: 100\n\n" + wire_events.encode_sse(wire_events.COMPLETE_EVENTS[:3]), breaks=True)
    rest = stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[3:], 4))
    busy = plain_response(503, headers={"retry-after": "11"})
    service = ScriptedService(cut, busy, rest)
    assert ask_service(service, resume=True)[0] == wire_events.PARSED_EVENTS
    first_s, second_s = (b - a for a, b in pairwise(service.at_s))
    assert 0.05 <= first_s <= 0.1
    assert second_s == 11.0


def test_reconnecting_gives_up_after_max_retries() -> None:
    service = ScriptedService(
        stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[:3]), breaks=True), raise_unreachable
    )
    with pytest.raises(ConnectionLostError, match=r"^http://service.*no connection"):
        ask_service(service, resume=True, max_retries=2)
    assert len(service.requests) == 3


def test_unsent_request_is_sent_again() -> None:
    service = ScriptedService(
        raise_unreachable, raise_unreachable, stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS))
    )
    assert ask_service(service)[0] == wire_events.PARSED_EVENTS
    assert [method for method, _, _ in service.request_summaries] == ["POST"] * 3


def test_resume_of_unknown_stream_raises_stream_gone_and_keeps_text() -> None:
    unknown = plain_response(
        404, json=wire_events.rejection_fields("never heard of it", type="not_found", rule=None, retry_after_s=None)
    )
    service = ScriptedService(
        stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[:5]), breaks=True), unknown
    )
    result: list[ClientError] = []

    async def main() -> str:
        async with SSEClient(URL, transport=service, on_error=result.append) as client:
            answer = client.stream(message="Hi", resume=True)
            with pytest.raises(StreamGoneError, match="expired or the service was restarted") as excinfo:
                await read_answer(answer)
            assert excinfo.value.stream_id == answer.stream_id and not isinstance(excinfo.value, RequestRejectedError)
            return answer.content

    assert run_on_virtual_time(main()) != "" and [type(error) for error in result] == [StreamGoneError]
    assert len(service.requests) == 2


def test_request_rejected_with_404_raises_rejection() -> None:
    unknown = plain_response(
        404, json=wire_events.rejection_fields("no such address", type="not_found", rule=None, retry_after_s=None)
    )
    with pytest.raises(RequestRejectedError, match="no such address"):
        ask_service(ScriptedService(unknown), resume=True)


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (plain_response(200, html="<html>Sign in</html>"), "not an event stream.*text/html"),
        (plain_response(200), "content type missing"),
        (stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[:2])
            + wire_events.encode_sse(wire_events.COMPLETE_EVENTS[3:], 4)), "events are missing"),
        (stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[:2]) + b"id: t:3\ndata: {}\n\n"),
            "another"),
        (stream_response(b"id: s:1\nevent: start\ndata: {not json\n\n"), "not JSON"),
        (stream_response(b"data: \xff\n\n"), "UTF-8"),
        (stream_response(b'data: {"content": "x"}\n\n'), "invalid id"),
    ],
)  # fmt: skip
def test_invalid_response_raises_with_reason(play: RespondFunction, reason: str) -> None:
    with pytest.raises(InvalidResponseError, match=reason):
        ask_service(ScriptedService(play), resume=True)


def test_resume_204_before_end_raises_connection_lost() -> None:
    service = ScriptedService(
        stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS[:3]), breaks=True), plain_response(204)
    )
    with pytest.raises(ConnectionLostError, match="has no events after"):
        ask_service(service, resume=True)


def test_exit_from_answer_closes_connection_at_once() -> None:
    body = PiecewiseBody(wire_events.encode_sse(wire_events.START_EVENTS), hangs=True)
    service = ScriptedService(
        lambda request: httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=body)
    )
    result: list[str] = []

    async def main() -> None:
        client = SSEClient(
            URL, transport=service, on_open=lambda: result.append("open"), on_close=lambda: result.append("close")
        )
        async with client.stream(message="Hi") as answer:
            assert answer.stream_id == wire_events.ID
            async for _ in answer:
                break
            assert (answer.is_connected, client.is_connected, body.closed) == (True, True, False)
        assert (answer.is_connected, client.is_connected, body.closed) == (False, False, True)
        assert result == ["open", "close"]
        await client.aclose()

    run_on_virtual_time(main())


def test_unreadable_first_event_closes_connection() -> None:
    body = PiecewiseBody(b"id: s:1\nevent: usage\ndata: {}\n\n", hangs=True)
    service = ScriptedService(
        lambda request: httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=body)
    )

    async def main() -> None:
        async with SSEClient(URL, transport=service) as client:
            with pytest.raises(InvalidResponseError, match="'usage'"):
                await read_answer(client.stream(message="Hi"))
            assert (client.is_connected, body.closed) == (False, True)

    run_on_virtual_time(main())


def respond_cancelled(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, json={"outcome": "cancelled"})


@pytest.mark.parametrize("elsewhere", [False, True], ids=["by its reader", "by another task"])
def test_cancel_returns_receipt_and_loses_no_event(elsewhere: bool) -> None:
    stopped = asyncio.Event()

    class Stoppable(PiecewiseBody):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield wire_events.encode_sse(wire_events.START_EVENTS)
            await stopped.wait()
            yield wire_events.encode_sse(wire_events.CANCELLED_EVENTS[-1:], len(wire_events.CANCELLED_EVENTS))

    def stop(request: httpx2.Request) -> httpx2.Response:
        stopped.set()
        return respond_cancelled(request)

    begin = stream_response(b"")
    service = ScriptedService(lambda r: httpx2.Response(200, headers=begin(r).headers, stream=Stoppable(b"")), stop)

    async def main() -> list[Event]:
        async with SSEClient(URL, transport=service) as client, client.stream(message="Hi") as answer:
            first = await anext(answer)
            reading = asyncio.create_task(read_rest(answer)) if elsewhere else None
            await asyncio.sleep(1)
            assert await answer.cancel() == wire_events.PARSED_CANCELLED
            return [first, *(await reading if reading else await read_rest(answer))]

    async def read_rest(answer: ClientAnswerStream) -> list[Event]:
        return [event async for event in answer]

    assert run_on_virtual_time(main()) == [*wire_events.PARSED_START_EVENTS, wire_events.PARSED_CANCELLED]
    assert service.request_summaries[1] == ("DELETE", f"/api/chat/stream/{wire_events.ID}", None)


def test_cancel_after_end_returns_that_end() -> None:
    service = ScriptedService(
        stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS)),
        plain_response(404, json=wire_events.rejection_fields()),
    )

    async def main() -> object:
        async with SSEClient(URL, transport=service) as client, client.stream(message="Hi") as answer:
            return await answer.cancel()

    assert run_on_virtual_time(main()) == wire_events.PARSED_EVENTS[-1]


def test_undelivered_cancel_raises() -> None:
    service = ScriptedService(
        stream_response(wire_events.encode_sse(wire_events.START_EVENTS), hangs=True), raise_unreachable
    )

    async def main() -> None:
        async with SSEClient(URL, transport=service) as client, client.stream(message="Hi") as answer:
            with pytest.raises(ConnectionLostError, match="could not be cancelled"):
                await answer.cancel()

    run_on_virtual_time(main())


def test_resume_by_id_reads_remaining_events() -> None:
    service = ScriptedService(resuming_service(wire_events.COMPLETE_EVENTS, cut_at=[]))

    async def main() -> None:
        async with SSEClient(URL, transport=service) as client:
            assert (
                await read_answer(client.resume(wire_events.ID, f"{wire_events.ID}:7"))
                == wire_events.PARSED_EVENTS[-2:]
            )
            assert await read_answer(client.resume(wire_events.ID)) == wire_events.PARSED_EVENTS

    run_on_virtual_time(main())
    path = f"/api/chat/stream/{wire_events.ID}"
    assert service.request_summaries == [("GET", path, f"{wire_events.ID}:7"), ("GET", path, None)]


def test_background_reading_calls_callbacks_until_disconnect() -> None:
    service = ScriptedService(
        stream_response(wire_events.encode_sse(wire_events.COMPLETE_EVENTS)), plain_response(401,
            json=wire_events.rejection_fields("a key is needed")),
        stream_response(wire_events.encode_sse(wire_events.START_EVENTS), hangs=True),
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
        assert loop_clock()() == 15

    run_on_virtual_time(main())
    assert "".join(text) == wire_events.TEXT * 2
    assert [str(error) for error in errors] == ["a key is needed"]


def test_invalid_url_raises_at_once() -> None:
    with pytest.raises(ClientError, match="begin it with http"):
        SSEClient("localhost:7860")


def test_missing_certificate_file_is_named_where_certificates_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    SSEClient("http://service.invalid")
    with pytest.raises(ClientError, match=r"^SSL_CERT_FILE: cannot be read: No such file"):
        SSEClient("https://service.invalid")

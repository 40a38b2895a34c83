"""Timed answers against live ones: the same bytes yield the same events, text and ending, plus timestamps."""

import asyncio
import gc
import gzip
import struct
import weakref
import zlib
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise

import brotli
import pytest

from providers import ProviderRegistry
from providers.dialects.service_adapter import FittedRequest
from providers.timed.send import decode_exchange
from streaming import strategies
from streaming.adapter import TimedAnswer
from streaming.clock import monotonic
from streaming.events import TERMINAL, Event, Failed, Finish, Notice, TextDelta
from streaming.http.timed_exchange import ExchangeTimeouts, TimedExchange
from streaming.http.timestamped_sockets import TimestampingSelector
from streaming.messages import ChatRequest
from streaming.pipeline import stream_answer
from streaming.retry import NO_RETRY
from streaming.session import Timeouts
from tests.integration.provider_asking import REQUEST, stream_script
from tests.integration.provider_cases import CANARY, CASES, ProviderCase
from tests.integration.raw_server import RawConnection, RawServer, Script, run_raw_server

DEFAULT_TIMEOUTS = Timeouts()
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


async def prepare_request(providers: ProviderRegistry, case: ProviderCase, request: ChatRequest) -> FittedRequest:
    route = providers.route(case.name)
    result = await route.adapter.prepare_request(replace(request, model=route.model))
    assert isinstance(result, FittedRequest)
    return result


async def ask_timed(providers: ProviderRegistry, case: ProviderCase, request: ChatRequest = REQUEST) -> TimedAnswer:
    sockets = TimestampingSelector()
    try:
        return await (await prepare_request(providers, case, request)).send(sockets, "trial-1")
    finally:
        sockets.close()


async def ask_live(providers: ProviderRegistry, case: ProviderCase, request: ChatRequest = REQUEST) -> list[Event]:
    session = providers.new_session([case.name], clock=monotonic, policy=NO_RETRY)
    machine = strategies.parse("direct").build()
    async with aclosing(stream_answer(request, session, machine, clock=monotonic)) as events:
        return [event async for event in events]


def ask_both_ways(
    case: ProviderCase, script: Script, request: ChatRequest = REQUEST, timeouts: Timeouts = DEFAULT_TIMEOUTS
) -> tuple[TimedAnswer, list[Event], RawServer]:
    """Request the same answer live and timed."""

    async def main() -> tuple[TimedAnswer, list[Event], RawServer]:
        async with run_raw_server(script) as server:
            providers = ProviderRegistry(case.settings(server.port), timeouts=timeouts)
            try:
                timed_response = await ask_timed(providers, case, request)
                events = await ask_live(providers, case, request)
            finally:
                await providers.aclose()
            return timed_response, events, server

    return asyncio.run(main())


def drop_times(requests: TimedAnswer) -> list[Event]:
    assert all(a.at_s <= b.at_s for a, b in pairwise(requests.events))
    return [timed.event for timed in requests.events]


def pieces_script(*parts: bytes, content_type: str, end: str = "end", pause_s: float = 0.0) -> Script:
    async def script(connection: RawConnection) -> None:
        connection.start(content_type)
        for part in parts:
            connection.send(part)
            await connection.writer.drain()
            await asyncio.sleep(pause_s)
        if end == "wait":
            await connection.wait_client_left()
        else:
            getattr(connection, end)()

    return script


def error_script(status: str, body: bytes, **headers: str) -> Script:
    async def script(connection: RawConnection) -> None:
        connection.send_response("application/json", body, status, **headers)

    return script


@every_case
def test_timed_streamed_answer_equals_live_answer(case: ProviderCase) -> None:
    requests, events, _ = ask_both_ways(case, stream_script(case, "Hel", "lo 🌍"))
    assert drop_times(requests) == events
    assert isinstance(events[-1], Finish)
    assert requests.exchange.ending == "complete"


@every_case
def test_timed_whole_answer_equals_live_answer(case: ProviderCase) -> None:
    script = error_script("200 OK", case.whole("Hello", "stop"))
    requests, events, _ = ask_both_ways(case, script, replace(REQUEST, streamed=False))
    assert drop_times(requests) == events
    assert [type(event) for event in events[:2]] == [Notice, TextDelta]


def broken_scripts(case: ProviderCase) -> dict[str, Script]:
    """Return the scripts of streams that fail, by kind of failure."""
    start, text, kind = case.start(), case.text("Hi"), case.content_type
    output = [part for part in (start, text) if part]
    return {
        "cut": pieces_script(*output, content_type=kind, end="cut"),
        "reset": pieces_script(*output, content_type=kind, end="reset", pause_s=0.1),
        "ends without a reason": pieces_script(*output, content_type=kind),
        "empty": pieces_script(content_type=kind),
        "a web page": pieces_script(b"<html>no</html>", content_type="text/html"),
        "a web page in disguise": pieces_script(b"<html>no</html>", content_type=kind),
        "bad UTF-8": pieces_script(*output, text.replace(b"Hi", b"H\xff"), content_type=kind),
        "malformed": pieces_script(*output, text.replace(b"}", b"", 1), case.end("stop"), content_type=kind),
        "text after the end": pieces_script(*output, case.end("stop"), text, content_type=kind),
        "refused": error_script("400 Bad Request", case.error("too long")),
        "the key is refused": error_script("401 Unauthorized", case.error(f"wrong key {CANARY}")),
        "asked to wait": error_script("429 Too Many Requests", case.error("slowly"), retry_after="3"),
        "redirected": error_script("307 Temporary Redirect", b"", location="http://127.0.0.1:9/"),
        "no answer at all": _close_at_once,
    }


async def _close_at_once(connection: RawConnection) -> None:
    connection.cut()


@every_case
@pytest.mark.parametrize("fault", broken_scripts(CASES["openai"]))
def test_timed_failed_answer_equals_live_answer_and_hides_key(case: ProviderCase, fault: str) -> None:
    requests, events, _ = ask_both_ways(case, broken_scripts(case)[fault])
    assert drop_times(requests) == events
    assert isinstance(events[-1], Failed)
    assert CANARY not in events[-1].message
    assert CANARY not in repr(requests)


@every_case
@pytest.mark.parametrize(
    ("limits", "output", "kind"),
    [
        (Timeouts(first_content_s=0.3), 0, "first_content_timeout"),
        (Timeouts(idle_s=0.3), 1, "idle_timeout"),
        (Timeouts(total_s=0.3), 1, "total_timeout"),
    ],
)
def test_timed_answer_timeout_equals_live_timeout(case: ProviderCase, limits: Timeouts, output: int, kind: str) -> None:
    """Keep-alives arrive all the time; they are bytes, but not content."""

    async def script(connection: RawConnection) -> None:
        connection.start(case.content_type)
        for part in [part for part in (case.start(), case.text("Hi")) if part][: output + bool(case.start())]:
            connection.send(part)
        while not connection.closed.is_set():
            connection.send(case.ping)
            await asyncio.sleep(0.05)

    requests, events, _ = ask_both_ways(case, script, timeouts=limits)
    assert drop_times(requests) == events
    assert isinstance(events[-1], Failed) and events[-1].kind == kind
    begun_s = requests.exchange.begun_s
    assert begun_s is not None
    assert requests.events[-1].at_s - begun_s >= 0.3 - 1e-6


def test_end_marker_without_connection_close_ends_answer() -> None:
    case = CASES["openai"]
    script = pieces_script(*case.stream_parts("Hi"), content_type=case.content_type, end="wait")
    requests, events, _ = ask_both_ways(case, script)
    assert drop_times(requests) == events
    assert isinstance(events[-1], Finish)
    assert requests.events[-1].at_s == requests.exchange.reads[-1].at_s, (
        "the wait for the connection's end is no part of it"
    )


def compress_with_zstd(data: bytes) -> bytes:
    """Return a Zstandard frame (RFC 8878) that holds the data in one block that is not compressed."""
    assert len(data) < 65_536
    header = struct.pack("<IBI", 0xFD2FB528, 0b1010_0000, len(data))  # one segment, with a size of four bytes
    return header + (len(data) << 3 | 1).to_bytes(3, "little") + data


COMPRESSIONS = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": compress_with_zstd}


@pytest.mark.parametrize("coding", COMPRESSIONS)
@every_case
def test_unrequested_compression_is_read_or_rejected_alike(case: ProviderCase, coding: str) -> None:
    async def script(connection: RawConnection) -> None:
        connection.start(case.content_type, content_encoding=coding)
        data = COMPRESSIONS[coding](b"".join(case.stream_parts("Hel", "lo")))
        for i in range(0, len(data), 40):
            connection.send(data[i : i + 40])
        connection.end()

    requests, events, _ = ask_both_ways(case, script)
    assert drop_times(requests) == events
    if coding == "zstd":
        (failed,) = [event for event in events if isinstance(event, TERMINAL)]
        assert isinstance(failed, Failed) and "zstd" in failed.message
        assert not any(isinstance(event, TextDelta) for event in events)
    else:
        assert isinstance(events[-1], Finish)
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Hello"


@every_case
def test_timed_request_bytes_equal_sdk_request(case: ProviderCase) -> None:
    _, _, server = ask_both_ways(case, stream_script(case, "Hi"))
    ours, other = server.requests
    assert (ours.path, ours.body) == (other.path, other.body)
    assert ours.headers == other.headers
    assert ours.headers["x-client-request-id"] == "trial-1"
    assert ours.headers["accept-encoding"] == "identity"


@every_case
def test_prepared_request_sends_nothing_and_accepts_request_id(case: ProviderCase) -> None:
    async def main() -> Sequence[bytes]:
        async with run_raw_server(stream_script(case, "Hi")) as server:
            providers = ProviderRegistry(case.settings(server.port))
            result = (await prepare_request(providers, case, REQUEST)).serialized
            await providers.aclose()
            assert server.opened == 0
            with pytest.raises(ValueError, match="not valid in a header"):
                result.with_request_id("a\r\nEvil: 1")
            return [result.with_request_id(name) for name in ("a", "b")]

    a, b = asyncio.run(main())
    head, _, rest = a.partition(b"X-Client-Request-Id: a\r\n")
    assert b == head + b"X-Client-Request-Id: b\r\n" + rest
    assert a.lower().count(b"x-client-request-id") == 1


def test_request_capture_leaves_other_requests_unaffected() -> None:
    case = CASES["openai"]

    async def main() -> list[Event]:
        async with run_raw_server(stream_script(case, "Hi")) as server:
            providers = ProviderRegistry(case.settings(server.port))
            result = await asyncio.gather(ask_live(providers, case), prepare_request(providers, case, REQUEST))
            await providers.aclose()
            return result[0]

    assert isinstance(asyncio.run(main())[-1], Finish)


def test_abandoned_exchange_has_no_terminal_event() -> None:
    case = CASES["openai"]

    async def main() -> list[Event]:
        async with run_raw_server(
            pieces_script(*case.stream_parts("Hi")[:2], content_type=case.content_type, end="wait")
        ) as server:
            providers = ProviderRegistry(case.settings(server.port))
            result = (await prepare_request(providers, case, REQUEST)).serialized
            sockets = TimestampingSelector()
            requests = TimedExchange(sockets, result.target, result.with_request_id("x"), ExchangeTimeouts())
            async with requests as exchange, aclosing(exchange.aiter_chunks()) as reads:
                async for read in reads:
                    if b"Hi" in read.data:
                        break
            sockets.close()
            await providers.aclose()
            return [timed.event for timed in decode_exchange(exchange, result)]

    events = asyncio.run(main())
    assert TextDelta("Hi") in events
    assert not isinstance(events[-1], TERMINAL)


@pytest.mark.parametrize("ending", ["complete", "cut", "left"])
def test_timed_answer_creates_no_reference_cycles(ending: str) -> None:
    case = CASES["openai"]
    end = {"complete": "end", "cut": "cut", "left": "wait"}[ending]
    script = pieces_script(
        *case.stream_parts("Hi")[: None if ending == "complete" else 1], content_type=case.content_type, end=end
    )

    async def main() -> bool:
        async with run_raw_server(script) as server:
            providers, sockets = ProviderRegistry(case.settings(server.port)), TimestampingSelector()
            ready = (await prepare_request(providers, case, REQUEST)).serialized
            exchange = TimedExchange(sockets, ready.target, ready.with_request_id("trial-1"), ExchangeTimeouts())
            async with exchange:
                await exchange.wait_closed(monotonic() + (0.2 if ending == "left" else 10.0))
            assert exchange.ending != "open"
            left = weakref.ref(exchange)
            del exchange
            await asyncio.sleep(0)
            gone = left() is None
            sockets.close()
            await providers.aclose()
            return gone

    gc.disable()
    try:
        assert asyncio.run(main())
    finally:
        gc.enable()

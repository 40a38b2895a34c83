"""Kept bytes against the live way: the same bytes give the same events, text and ending, with the stamps besides."""

import asyncio
import gc
import gzip
import weakref
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from providers import Providers
from providers.stamped import Asked, ask, decoded
from providers.transport import Prepared
from streaming import strategies
from streaming.clock import monotonic
from streaming.events import TERMINAL, Event, Failed, Finish, Notice, TextDelta
from streaming.exchange import Exchange, Limits
from streaming.messages import ChatRequest
from streaming.pipeline import answer
from streaming.retry import NO_RECOVERY
from streaming.session import Timeouts
from streaming.sockets import Sockets
from tests.integration.provider_asking import ASKED, streaming
from tests.integration.provider_cases import CANARY, CASES, Case
from tests.integration.raw_server import Connection, RawServer, Script, raw_server

USUAL = Timeouts()
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


async def prepared(providers: Providers, case: Case, request: ChatRequest) -> Prepared:
    route = providers.route(case.name)
    adapter: Any = route.adapter  # a vendor's: the others ask in this process
    found = await adapter.prepare(replace(request, model=route.model))
    assert isinstance(found, Prepared)
    return found


async def kept(providers: Providers, case: Case, request: ChatRequest = ASKED) -> Asked:
    sockets = Sockets()
    try:
        return await ask(sockets, await prepared(providers, case, request), "trial-1")
    finally:
        sockets.close()


async def live(providers: Providers, case: Case, request: ChatRequest = ASKED) -> list[Event]:
    session = providers.session([case.name], clock=monotonic, policy=NO_RECOVERY)
    machine = strategies.parse("direct").make()
    async with aclosing(answer(request, session, machine, clock=monotonic)) as events:
        return [event async for event in events]


def both(
    case: Case, script: Script, request: ChatRequest = ASKED, timeouts: Timeouts = USUAL
) -> tuple[Asked, list[Event], RawServer]:
    """Ask the same server both ways."""

    async def main() -> tuple[Asked, list[Event], RawServer]:
        async with raw_server(script) as server:
            providers = Providers(case.settings(server.port), timeouts=timeouts)
            try:
                asked = await kept(providers, case, request)
                events = await live(providers, case, request)
            finally:
                await providers.aclose()
            return asked, events, server

    return asyncio.run(main())


def without_times(asked: Asked) -> list[Event]:
    assert all(a.at_s <= b.at_s for a, b in pairwise(asked.events))
    return [timed.event for timed in asked.events]


def pieces(*parts: bytes, content_type: str, end: str = "end", pause_s: float = 0.0) -> Script:
    async def script(connection: Connection) -> None:
        connection.start(content_type)
        for part in parts:
            connection.send(part)
            await connection.writer.drain()
            await asyncio.sleep(pause_s)
        if end == "wait":
            await connection.client_left()
        else:
            getattr(connection, end)()

    return script


def refusing(status: str, body: bytes, **headers: str) -> Script:
    async def script(connection: Connection) -> None:
        connection.whole("application/json", body, status, **headers)

    return script


@every_case
def test_a_streamed_answer(case: Case) -> None:
    asked, events, _ = both(case, streaming(case, "Hel", "lo 🌍"))
    assert without_times(asked) == events
    assert isinstance(events[-1], Finish)
    assert asked.exchange.ending == "complete"


@every_case
def test_an_answer_that_is_not_streamed(case: Case) -> None:
    script = refusing("200 OK", case.whole("Hello", "stop"))
    asked, events, _ = both(case, script, replace(ASKED, streamed=False))
    assert without_times(asked) == events
    assert [type(event) for event in events[:2]] == [Notice, TextDelta]


def broken(case: Case) -> dict[str, Script]:
    """Give what a stream can die of."""
    start, text, kind = case.start(), case.text("Hi"), case.content_type
    said = [part for part in (start, text) if part]
    return {
        "cut": pieces(*said, content_type=kind, end="cut"),
        "reset": pieces(*said, content_type=kind, end="reset", pause_s=0.1),
        "ends without a reason": pieces(*said, content_type=kind),
        "empty": pieces(content_type=kind),
        "a web page": pieces(b"<html>no</html>", content_type="text/html"),
        "a web page in disguise": pieces(b"<html>no</html>", content_type=kind),
        "bad UTF-8": pieces(*said, text.replace(b"Hi", b"H\xff"), content_type=kind),
        "malformed": pieces(*said, text.replace(b"}", b"", 1), case.end("stop"), content_type=kind),
        "text after the end": pieces(*said, case.end("stop"), text, content_type=kind),
        "refused": refusing("400 Bad Request", case.error("too long")),
        "the key is refused": refusing("401 Unauthorized", case.error(f"wrong key {CANARY}")),
        "asked to wait": refusing("429 Too Many Requests", case.error("slowly"), retry_after="3"),
        "redirected": refusing("307 Temporary Redirect", b"", location="http://127.0.0.1:9/"),
        "no answer at all": _hang_up,
    }


async def _hang_up(connection: Connection) -> None:
    connection.cut()


@every_case
@pytest.mark.parametrize("fault", broken(CASES["openai"]))
def test_a_broken_answer(case: Case, fault: str) -> None:
    asked, events, _ = both(case, broken(case)[fault])
    assert without_times(asked) == events
    assert isinstance(events[-1], Failed)
    assert CANARY not in events[-1].message
    assert CANARY not in repr(asked)


@every_case
@pytest.mark.parametrize(
    ("limits", "said", "kind"),
    [
        (Timeouts(first_content_s=0.3), 0, "first_content_timeout"),
        (Timeouts(idle_s=0.3), 1, "idle_timeout"),
        (Timeouts(total_s=0.3), 1, "total_timeout"),
    ],
)
def test_a_time_limit(case: Case, limits: Timeouts, said: int, kind: str) -> None:
    """Keep-alives come all the time: they are bytes, but no content."""

    async def script(connection: Connection) -> None:
        connection.start(case.content_type)
        for part in [part for part in (case.start(), case.text("Hi")) if part][: said + bool(case.start())]:
            connection.send(part)
        while not connection.closed.is_set():
            connection.send(case.ping)
            await asyncio.sleep(0.05)

    asked, events, _ = both(case, script, timeouts=limits)
    assert without_times(asked) == events
    assert isinstance(events[-1], Failed) and events[-1].kind == kind
    begun_s = asked.exchange.begun_s
    assert begun_s is not None
    assert asked.events[-1].at_s - begun_s == pytest.approx(0.3, abs=0.2)


def test_an_end_marker_without_an_end_of_the_bytes_is_an_end() -> None:
    case = CASES["openai"]
    script = pieces(*case.stream("Hi"), content_type=case.content_type, end="wait")
    asked, events, _ = both(case, script)
    assert without_times(asked) == events
    assert isinstance(events[-1], Finish)
    assert asked.events[-1].at_s == asked.exchange.reads[-1].at_s, "the wait for the connection's end is no part of it"


def test_compressed_against_the_asking_it_is_read_all_the_same() -> None:
    case = CASES["openai"]

    async def script(connection: Connection) -> None:
        connection.start(case.content_type, content_encoding="gzip")
        data = gzip.compress(b"".join(case.stream("Hel", "lo")))
        for i in range(0, len(data), 40):
            connection.send(data[i : i + 40])
        connection.end()

    asked, events, _ = both(case, script)
    assert without_times(asked) == events
    assert isinstance(events[-1], Finish)


@every_case
def test_the_bytes_sent_are_those_that_the_sdk_would_send(case: Case) -> None:
    _, _, server = both(case, streaming(case, "Hi"))
    ours, theirs = server.requests
    assert (ours.path, ours.body) == (theirs.path, theirs.body)
    assert ours.headers == theirs.headers
    assert ours.headers["x-client-request-id"] == "trial-1"
    assert ours.headers["accept-encoding"] == "identity"


@every_case
def test_preparing_sends_nothing_and_an_id_is_put_in_cheaply(case: Case) -> None:
    async def main() -> Sequence[bytes]:
        async with raw_server(streaming(case, "Hi")) as server:
            providers = Providers(case.settings(server.port))
            found = await prepared(providers, case, ASKED)
            await providers.aclose()
            assert server.opened == 0
            with pytest.raises(ValueError, match="no header"):
                found.with_request_id("a\r\nEvil: 1")
            return [found.with_request_id(name) for name in ("a", "b")]

    a, b = asyncio.run(main())
    head, _, rest = a.partition(b"X-Client-Request-Id: a\r\n")
    assert b == head + b"X-Client-Request-Id: b\r\n" + rest
    assert a.lower().count(b"x-client-request-id") == 1


def test_other_requests_go_on_while_one_is_caught() -> None:
    case = CASES["openai"]

    async def main() -> list[Event]:
        async with raw_server(streaming(case, "Hi")) as server:
            providers = Providers(case.settings(server.port))
            found = await asyncio.gather(live(providers, case), prepared(providers, case, ASKED))
            await providers.aclose()
            return found[0]

    assert isinstance(asyncio.run(main())[-1], Finish)


def test_an_exchange_that_was_left_has_no_terminal_event() -> None:
    case = CASES["openai"]

    async def main() -> list[Event]:
        async with raw_server(pieces(*case.stream("Hi")[:2], content_type=case.content_type, end="wait")) as server:
            providers = Providers(case.settings(server.port))
            found = await prepared(providers, case, ASKED)
            sockets = Sockets()
            asked = Exchange(sockets, found.target, found.with_request_id("x"), Limits())
            async with asked as exchange, aclosing(exchange.live()) as reads:
                async for read in reads:
                    if b"Hi" in read.data:
                        break
            sockets.close()
            await providers.aclose()
            return [timed.event for timed in decoded(exchange, found)]

    events = asyncio.run(main())
    assert TextDelta("Hi") in events
    assert not isinstance(events[-1], TERMINAL)


@pytest.mark.parametrize("ending", ["complete", "cut", "left"])
def test_an_answer_leaves_nothing_to_the_garbage_collector(ending: str) -> None:
    case = CASES["openai"]
    end = {"complete": "end", "cut": "cut", "left": "wait"}[ending]
    script = pieces(*case.stream("Hi")[: None if ending == "complete" else 1], content_type=case.content_type, end=end)

    async def main() -> bool:
        async with raw_server(script) as server:
            providers, sockets = Providers(case.settings(server.port)), Sockets()
            ready = await prepared(providers, case, ASKED)
            exchange = Exchange(sockets, ready.target, ready.with_request_id("trial-1"), Limits())
            async with exchange:
                await exchange.wait(monotonic() + (0.2 if ending == "left" else 10.0))
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

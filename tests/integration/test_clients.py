"""Both clients on the real service, over ways that break."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clients.answer import Answer
from clients.connection import State
from clients.errors import ClientError, ConnectionLost, Refused, StreamGoneError
from clients.events import Broken, Cancelled, Event, Finished
from clients.sse import SSEClient
from clients.websocket import WebSocketClient
from streaming.events import TextDelta
from tests.integration.cutting import cutting_proxy
from tests.redis_process import redis_server
from tests.service_process import service_process
from tests.serving import until
from tests.simulator_process import simulator_process

Client = SSEClient | WebSocketClient
CLIENTS: list[type[Client]] = [SSEClient, WebSocketClient]
QUESTION: dict[str, Any] = {
    "message": "Name three colours.", "provider": "sim:steady", "strategy": "direct", "max_tokens": 30,
}  # fmt: skip
ANSWERS = 100

both = pytest.mark.parametrize("kind", CLIENTS, ids=["sse", "websocket"])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with service_process() as url:
        yield url


async def read(answer: Answer) -> list[Event]:
    async with answer:
        return [event async for event in answer]


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta)]


@both
def test_an_answer_and_what_it_came_to(kind: type[Client], url: str) -> None:
    async def main() -> list[Event]:
        async with kind(url) as client:
            return await read(client.ask(**QUESTION))

    *events, end = asyncio.run(main())
    assert isinstance(end, Finished)
    assert (end.reason, end.bill.provider, end.bill.attempts) == ("length", "sim:steady", 1)
    assert end.bill.delivered_chars == len("".join(texts(events)))
    assert end.bill.usage is not None and end.bill.usage.output_tokens == 30
    assert not any(isinstance(event, (Finished, Broken, Cancelled)) for event in events)


@both
def test_several_questions_one_after_another(kind: type[Client], url: str) -> None:
    states: list[State] = []

    async def main() -> list[list[Event]]:
        options: dict[str, Any] = {"on_state": states.append} if kind is WebSocketClient else {}
        async with kind(url, **options) as client:
            return [await read(client.ask(**{**QUESTION, "max_tokens": count})) for count in (3, 5, 2)]

    assert [len(texts(events)) for events in asyncio.run(main())] == [3, 5, 2]
    assert states in ([], ["connecting", "open", "closing", "closed"])


@both
@pytest.mark.parametrize(
    "fields", [{"message": ""}, {"provider": "nobody:at-all"}, {"provider": "replay:/etc/passwd"}], ids=str
)
def test_a_refused_question_is_an_error_and_the_next_is_answered(
    kind: type[Client], fields: dict[str, Any], url: str
) -> None:
    async def main() -> list[Event]:
        async with kind(url) as client:
            with pytest.raises(Refused) as caught:
                await read(client.ask(**{**QUESTION, **fields}))
            assert caught.value.kind in ("invalid", "bad_request")
            return await read(client.ask(**QUESTION))

    assert len(texts(asyncio.run(main()))) == 30


@both
def test_a_broken_answer_ends_as_broken(kind: type[Client], url: str) -> None:
    async def main() -> list[Event]:
        async with kind(url) as client:
            return await read(client.ask(**{**QUESTION, "provider": "sim:cut", "max_tokens": 64}))

    events = asyncio.run(main())
    assert isinstance(events[-1], Broken)
    assert events[-1].kind == "truncated"
    assert texts(events)


@both
@pytest.mark.parametrize("resume", [False, True], ids=["left alone", "kept"])
def test_cancel_gives_the_receipt(kind: type[Client], resume: bool, url: str) -> None:
    async def main() -> None:
        async with (
            kind(url) as client,
            client.ask(**{**QUESTION, "provider": "sim:slow-start"}, resume=resume) as answer,
        ):
            await anext(answer)
            end = await answer.cancel()
            assert isinstance(end, Cancelled)
            assert end.stop_s is not None
            assert [event async for event in answer][-1] == end

    asyncio.run(main())


@both
@pytest.mark.parametrize("how", ["leaving", "cancelling"])
def test_the_provider_sees_who_left_or_cancelled(kind: type[Client], how: str, tmp_path: Path) -> None:
    log = tmp_path / "truth.jsonl"
    arguments = ("--tokens", "5000", "--gap-ms", "20", "--log", str(log))

    def said(event: str) -> Callable[[], bool]:
        return lambda: any(json.loads(line)["event"] == event for line in log.read_text().splitlines())

    async def main(url: str) -> None:
        async with kind(url) as client:
            async with client.ask(**{**QUESTION, "provider": "openai:m", "max_tokens": 5000}) as answer:
                async for event in answer:
                    if isinstance(event, TextDelta):
                        break
                if how == "cancelling":
                    assert isinstance(await answer.cancel(), Cancelled)
                assert not said("closed")() or how == "cancelling"
            await until(said("closed"))

    with ExitStack() as running:
        simulator = running.enter_context(simulator_process(*arguments))
        asyncio.run(main(running.enter_context(service_process(OPENAI_BASE_URL=f"{simulator}/v1", OPENAI_API_KEY="k"))))


def points(seed: int, most: int) -> list[list[int]]:
    """Give where each answer's first two connections are cut: anywhere, heads included."""
    rng = random.Random(seed)
    return [[rng.randrange(most), rng.randrange(most)] for _ in range(ANSWERS)]


@dataclass(frozen=True)
class Told:
    """What came over connections that were cut, the error if it had to be one, and how many cuts there were."""

    events: list[Event]
    error: ClientError | None
    cuts: int


async def asked_in_pieces(kind: type[Client], targets: list[str], cuts: list[int], interval_s: float) -> Told:
    """Ask over connections that are cut after so many bytes."""
    events: list[Event] = []
    async with cutting_proxy(targets, cuts) as proxy, kind(proxy.url, reconnect_interval_s=interval_s) as client:
        answer = client.ask(**QUESTION, resume=True)
        try:
            async with answer:
                async for event in answer:
                    events.append(event)
        except ClientError as error:
            return Told(events, error, proxy.cut)
    assert answer.content == "".join(texts(events))
    return Told(events, None, proxy.cut)


def check_cut_answers(kind: type[Client], targets: list[str], interval_s: float) -> None:
    """Cut a hundred answers anywhere, twice each: each is whole, or was cut before it had a name."""

    async def main() -> tuple[list[str], list[Told]]:
        async with kind(targets[0]) as client:
            whole = texts(await read(client.ask(**QUESTION)))
        found: list[Told] = []
        for start in range(0, ANSWERS, 50):
            group = points(7, 5000)[start : start + 50]
            found += await asyncio.gather(*(asked_in_pieces(kind, targets, cuts, interval_s) for cuts in group))
        return whole, found

    whole, found = asyncio.run(main())
    for told in found:
        if told.error is not None:
            assert isinstance(told.error, ConnectionLost)
            assert told.events == [], "what has a name is brought to its end"
            continue
        assert texts(told.events) == whole
        assert [isinstance(event, (Finished, Broken, Cancelled)) for event in told.events].count(True) == 1
        assert isinstance(told.events[-1], Finished)
    assert sum(told.error is not None for told in found) < ANSWERS / 4
    assert sum(told.cuts for told in found) > ANSWERS / 2


@both
def test_cut_anywhere_a_kept_answer_comes_whole(kind: type[Client], url: str) -> None:
    check_cut_answers(kind, [url], 0.05)


@both
def test_cut_anywhere_a_kept_answer_comes_whole_from_another_replica(kind: type[Client]) -> None:
    with ExitStack() as running:
        redis = running.enter_context(redis_server())
        replicas = [running.enter_context(service_process(REDIS_URL=redis.url)) for _ in range(2)]
        check_cut_answers(kind, replicas, 0.05)


@both
def test_without_resume_a_cut_is_never_a_finished_answer(kind: type[Client], url: str) -> None:
    async def main() -> None:
        async with cutting_proxy([url], [900]) as proxy, kind(proxy.url) as client:
            with pytest.raises(ConnectionLost):
                await read(client.ask(**QUESTION))
            assert len(texts(await read(client.ask(**QUESTION)))) == 30

    asyncio.run(main())


@both
def test_stream_that_a_restart_of_the_service_lost_is_told_as_gone(kind: type[Client], url: str) -> None:
    async def begin(begun_at: str) -> Answer:
        async with kind(begun_at) as client, client.ask(**QUESTION, resume=True) as answer:
            await anext(aiter(answer))
            return answer

    async def go_on(begun: Answer) -> None:
        assert begun.stream_id is not None
        async with kind(url) as client:
            with pytest.raises(StreamGoneError, match="expired, or the service was restarted"):
                await read(client.resume(begun.stream_id, begun.last_id))
            assert len(texts(await read(client.ask(**QUESTION)))) == 30

    with service_process() as another:
        begun = asyncio.run(begin(another))
    asyncio.run(go_on(begun))

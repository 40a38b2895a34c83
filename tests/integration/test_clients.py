"""Both clients against the real service over unreliable connections."""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clients.answer_stream import ClientAnswerStream
from clients.errors import ClientError, ConnectionLostError, RequestRejectedError, StreamGoneError
from clients.events import AnswerCancelled, AnswerFailed, AnswerFinished, Event
from clients.reconnecting import ConnectionState
from clients.sse import SSEClient
from clients.websocket import WebSocketClient
from streaming.events import TextDelta
from tests.asgi_server import wait_until
from tests.integration.cutting_proxy import run_cutting_proxy
from tests.redis_process import PATIENT_S, run_redis
from tests.service_process import run_service_process
from tests.simulator_process import run_simulator_process

Client = SSEClient | WebSocketClient
CLIENTS: list[type[Client]] = [SSEClient, WebSocketClient]
QUESTION: dict[str, Any] = {
    "message": "Name three colours.", "provider": "sim:steady", "strategy": "direct", "max_tokens": 30,
}  # fmt: skip
ANSWERS = 100

both_clients = pytest.mark.parametrize("kind", CLIENTS, ids=["sse", "websocket"])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with run_service_process() as url:
        yield url


async def read_answer(answer: ClientAnswerStream) -> list[Event]:
    async with answer:
        return [event async for event in answer]


def text_deltas(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta)]


@both_clients
def test_client_reads_answer_and_receipt(kind: type[Client], url: str) -> None:
    async def main() -> list[Event]:
        async with kind(url) as client:
            return await read_answer(client.stream(**QUESTION))

    *events, end = asyncio.run(main())
    assert isinstance(end, AnswerFinished)
    assert (end.reason, end.bill.provider, end.bill.attempts) == ("length", "sim:steady", 1)
    assert end.bill.delivered_chars == len("".join(text_deltas(events)))
    assert end.bill.usage is not None and end.bill.usage.output_tokens == 30
    assert not any(isinstance(event, (AnswerFinished, AnswerFailed, AnswerCancelled)) for event in events)


@both_clients
def test_client_asks_several_questions_in_sequence(kind: type[Client], url: str) -> None:
    states: list[ConnectionState] = []

    async def main() -> list[list[Event]]:
        options: dict[str, Any] = {"on_state": states.append} if kind is WebSocketClient else {}
        async with kind(url, **options) as client:
            return [await read_answer(client.stream(**{**QUESTION, "max_tokens": count})) for count in (3, 5, 2)]

    assert [len(text_deltas(events)) for events in asyncio.run(main())] == [3, 5, 2]
    assert states in ([], ["connecting", "open", "closing", "closed"])


@both_clients
@pytest.mark.parametrize(
    "fields", [{"message": ""}, {"provider": "nobody:at-all"}, {"provider": "replay:/etc/passwd"}], ids=str
)
def test_rejected_question_raises_and_next_question_is_answered(
    kind: type[Client], fields: dict[str, Any], url: str
) -> None:
    async def main() -> list[Event]:
        async with kind(url) as client:
            with pytest.raises(RequestRejectedError) as excinfo:
                await read_answer(client.stream(**{**QUESTION, **fields}))
            assert excinfo.value.kind in ("invalid", "bad_request")
            return await read_answer(client.stream(**QUESTION))

    assert len(text_deltas(asyncio.run(main()))) == 30


@both_clients
def test_truncated_answer_ends_with_failed_event(kind: type[Client], url: str) -> None:
    async def main() -> list[Event]:
        async with kind(url) as client:
            return await read_answer(client.stream(**{**QUESTION, "provider": "sim:cut", "max_tokens": 64}))

    events = asyncio.run(main())
    assert isinstance(events[-1], AnswerFailed)
    assert events[-1].kind == "truncated"
    assert text_deltas(events)


@both_clients
@pytest.mark.parametrize("resume", [False, True], ids=["left alone", "kept"])
def test_cancel_returns_receipt(kind: type[Client], resume: bool, url: str) -> None:
    async def main() -> None:
        async with (
            kind(url) as client,
            client.stream(**{**QUESTION, "provider": "sim:slow-start"}, resume=resume) as answer,
        ):
            await anext(answer)
            end = await answer.cancel()
            assert isinstance(end, AnswerCancelled)
            assert end.stop_s is not None
            assert [event async for event in answer][-1] == end

    asyncio.run(main())


@dataclass(frozen=True)
class UpstreamService:
    """A service over a simulator, whose log records what happened to the requests for each model."""

    url: str
    log: Path

    def has_closed(self, model: str) -> bool:
        """Return whether the connection of the request for this model has been closed."""
        lines = [json.loads(line) for line in self.log.read_bytes().rpartition(b"\n")[0].splitlines()]
        ids = {line["request_id"] for line in lines if line.get("model") == model}
        return any(line["event"] == "closed" and line["request_id"] in ids for line in lines)


@pytest.fixture(scope="module")
def upstream_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpstreamService]:
    log = tmp_path_factory.mktemp("simulator") / "truth.jsonl"
    with ExitStack() as running:
        arguments = ("--tokens", "5000", "--gap-ms", "20", "--log", str(log))
        simulator = running.enter_context(run_simulator_process(*arguments))
        service = run_service_process(OPENAI_BASE_URL=f"{simulator}/v1", OPENAI_API_KEY="k")
        yield UpstreamService(running.enter_context(service), log)


@both_clients
@pytest.mark.parametrize("how", ["leaving", "cancelling"])
def test_leaving_or_cancelling_disconnects_from_provider(
    kind: type[Client], how: str, upstream_service: UpstreamService
) -> None:
    model = f"{kind.__name__}-{how}"

    async def main() -> None:
        async with kind(upstream_service.url) as client:
            async with client.stream(**{**QUESTION, "provider": f"openai:{model}", "max_tokens": 5000}) as answer:
                async for event in answer:
                    if isinstance(event, TextDelta):
                        break
                if how == "cancelling":
                    assert isinstance(await answer.cancel(), AnswerCancelled)
                assert not upstream_service.has_closed(model) or how == "cancelling"
            await wait_until(lambda: upstream_service.has_closed(model))

    asyncio.run(main())


def cut_points(seed: int, most: int) -> list[list[int]]:
    """Return where the first two connections of each answer are cut: anywhere, including the heads."""
    rng = random.Random(seed)
    return [[rng.randrange(most), rng.randrange(most)] for _ in range(ANSWERS)]


@dataclass(frozen=True)
class CutAnswer:
    """The events received over cut connections, the error if there was one, and the number of cuts."""

    events: list[Event]
    error: ClientError | None
    cuts: int


async def ask_over_cuts(kind: type[Client], targets: list[str], cuts: list[int], interval_s: float) -> CutAnswer:
    """Request an answer over connections that are cut after these numbers of bytes."""
    events: list[Event] = []
    async with run_cutting_proxy(targets, cuts) as proxy, kind(proxy.url, reconnect_interval_s=interval_s) as client:
        answer = client.stream(**QUESTION, resume=True)
        try:
            async with answer:
                async for event in answer:
                    events.append(event)
        except ClientError as error:
            return CutAnswer(events, error, proxy.cut)
    assert answer.content == "".join(text_deltas(events))
    return CutAnswer(events, None, proxy.cut)


def check_cut_answers(kind: type[Client], targets: list[str], interval_s: float) -> None:
    """Cut a hundred answers anywhere, twice each: each is complete, or was cut before it had an id."""

    async def main() -> tuple[list[str], list[CutAnswer]]:
        async with kind(targets[0]) as client:
            whole = text_deltas(await read_answer(client.stream(**QUESTION)))
        result: list[CutAnswer] = []
        for start in range(0, ANSWERS, 50):
            group = cut_points(7, 5000)[start : start + 50]
            result += await asyncio.gather(*(ask_over_cuts(kind, targets, cuts, interval_s) for cuts in group))
        return whole, result

    whole, result = asyncio.run(main())
    for entry in result:
        if entry.error is not None:
            assert isinstance(entry.error, ConnectionLostError)
            assert entry.events == [], "what has a name is brought to its end"
            continue
        assert text_deltas(entry.events) == whole
        assert [isinstance(event, (AnswerFinished, AnswerFailed, AnswerCancelled)) for event in entry.events].count(
            True
        ) == 1
        assert isinstance(entry.events[-1], AnswerFinished)
    assert sum(entry.error is not None for entry in result) < ANSWERS / 4
    assert sum(entry.cuts for entry in result) > ANSWERS / 2


@both_clients
def test_resumable_answer_cut_anywhere_is_read_completely(kind: type[Client], url: str) -> None:
    check_cut_answers(kind, [url], 0.05)


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[str]]:
    with ExitStack() as running:
        redis = running.enter_context(run_redis())
        variables = {"REDIS_URL": redis.url, "REDIS_TIMEOUT_S": PATIENT_S}
        yield [running.enter_context(run_service_process(**variables)) for _ in range(2)]


@both_clients
def test_resumable_answer_cut_anywhere_is_read_completely_from_other_replica(
    kind: type[Client], replicas: list[str]
) -> None:
    check_cut_answers(kind, replicas, 0.05)


@both_clients
def test_cut_without_resume_raises_connection_lost(kind: type[Client], url: str) -> None:
    async def main() -> None:
        async with run_cutting_proxy([url], [900]) as proxy, kind(proxy.url) as client:
            with pytest.raises(ConnectionLostError):
                await read_answer(client.stream(**QUESTION))
            assert len(text_deltas(await read_answer(client.stream(**QUESTION)))) == 30

    asyncio.run(main())


@both_clients
def test_stream_lost_in_service_restart_raises_stream_gone(kind: type[Client], url: str) -> None:
    async def begin(begun_at: str) -> ClientAnswerStream:
        async with kind(begun_at) as client, client.stream(**QUESTION, resume=True) as answer:
            await anext(aiter(answer))
            return answer

    async def go_on(begun: ClientAnswerStream) -> None:
        assert begun.stream_id is not None
        async with kind(url) as client:
            with pytest.raises(StreamGoneError, match="expired or the service was restarted"):
                await read_answer(client.resume(begun.stream_id, begun.last_id))
            assert len(text_deltas(await read_answer(client.stream(**QUESTION)))) == 30

    with run_service_process() as another:
        begun = asyncio.run(begin(another))
    asyncio.run(go_on(begun))

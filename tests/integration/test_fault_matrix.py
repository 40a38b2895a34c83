"""Every way a server can break × every wire: the complete answer once, or what arrived and exactly one honest error.

All cells run at once in one loop, against one simulator; its log counts the attempts. The policy's waits are scaled.
"""

import asyncio
import json
import socket
from collections import Counter
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from providers import Providers
from settings import Settings
from simulator.faults import FAULTS
from streaming.clock import monotonic
from streaming.events import Event, Failed, Finish, Grammar, Notice, TextDelta
from streaming.messages import ChatRequest, Message
from streaming.retry import Policy
from streaming.session import Session, Timeouts
from tests.simulator_process import simulator_process

TOKENS = 12
LIMITS = Timeouts(connect_s=5.0, first_content_s=3.0, idle_s=3.0, total_s=15.0)
"""Long enough for a machine with other work, short enough that five silent attempts reach the last one."""
SCALED = Policy(delays_s=(0.02, 0.04, 0.08, 0.16))
WIRES = ("openai", "azure", "anthropic", "ollama")
COMPLETE = "complete"


@dataclass(frozen=True)
class Expected:
    """How a cell ends: `complete`, or the error's kind; after how many attempts; whether text had come by then."""

    ends: str
    attempts: int
    partial: bool = False


SILENT = ("no-response", "slow-first-token-60", "keepalive-only", "stall")
"""They cost time and no work: they run beside the others, of which only a few run at once."""
ALL_FIVE = 5
"""Four streamed attempts and one that is not."""
STREAMED_ONLY = 4
"""A rate limit is not followed by a non-streamed request, which would count against it too."""
CELLS: dict[str, Expected] = {
    "400": Expected("bad_request", 1),
    "401": Expected("auth", 1),
    "403": Expected("auth", 1),
    "404": Expected("not_found", 1),
    "422": Expected("bad_request", 1),
    "408": Expected("server_error", ALL_FIVE),
    "409": Expected("server_error", ALL_FIVE),
    "429": Expected("rate_limited", STREAMED_ONLY),
    "429-retry-after": Expected("rate_limited", STREAMED_ONLY),
    "429-retry-after-90": Expected("rate_limited", 1),
    "500-once": Expected(COMPLETE, 2),
    "503": Expected("server_error", ALL_FIVE),
    "529": Expected("server_error", ALL_FIVE),
    "reset-before-headers": Expected("network", ALL_FIVE),
    "no-response": Expected("total_timeout", ALL_FIVE),
    "slow-first-token-1": Expected(COMPLETE, 1),
    "slow-first-token-60": Expected("total_timeout", ALL_FIVE),
    "keepalive-only": Expected(COMPLETE, ALL_FIVE),
    "stall": Expected("idle_timeout", 1, partial=True),
    "cut": Expected("truncated", 1, partial=True),
    "reset-mid-stream": Expected("network", 1, partial=True),
    "truncated": Expected("truncated", 1, partial=True),
    "malformed-json": Expected("protocol", 1, partial=True),
    "bad-utf8": Expected("protocol", 1, partial=True),
    "split-surrogate": Expected(COMPLETE, 1),
    "error-in-stream": Expected("server_error", 1, partial=True),
    "empty-200": Expected("protocol", 2),
    "html-200": Expected("protocol", 2),
    "wrong-content-type": Expected("protocol", 2),
    "missing-end-marker": Expected(COMPLETE, 1),
    "doubled-finish": Expected(COMPLETE, 1),
    "text-after-end": Expected("protocol", 1, partial=True),
    "big-event": Expected(COMPLETE, 1),
    "redirect": Expected("protocol", 2),
}


@dataclass
class Outcome:
    """What the reader got, and what came of the question asked after it over the same adapter."""

    events: list[Event]
    session: Session
    afterwards: list[Event]

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, TextDelta))


class Matrix:
    """All outcomes by (wire, fault), and the simulator's count of requests by request id."""

    def __init__(self, url: str, log: Path) -> None:
        self._log = log
        variables = {
            "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "k", "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "k",
            "AZURE_OPENAI_ENDPOINT": url, "AZURE_OPENAI_API_KEY": "k", "OPENAI_API_VERSION": "2024-10-21",
            "OLLAMA_HOST": url,
        }  # fmt: skip
        self.settings = Settings(variables)
        self.outcomes: dict[tuple[str, str], Outcome] = {}

    async def fill(self) -> None:
        providers = Providers(self.settings, timeouts=LIMITS)
        for wire in WIRES:  # the SDKs are imported here, outside of all time limits
            assert complete(await ask(providers.session([f"{wire}:steady"], clock=monotonic)))
        working = asyncio.Semaphore(6)
        cells = [(wire, fault) for fault in CELLS for wire in WIRES]
        await asyncio.gather(
            *(self._cell(providers, *cell, nullcontext() if cell[1] in SILENT else working) for cell in cells)
        )
        await providers.aclose()

    async def _cell(
        self, providers: Providers, wire: str, fault: str, place: AbstractAsyncContextManager[None]
    ) -> None:
        session = providers.session([f"{wire}:fault-{fault}"], clock=monotonic, policy=SCALED)
        healthy = providers.session([f"{wire}:steady"], clock=monotonic, policy=SCALED)
        async with place:
            events = await ask(session, f"{wire}-{fault}")
            self.outcomes[wire, fault] = Outcome(events, session, await ask(healthy))

    def attempts(self, request_id: str) -> int:
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return Counter(line["request_id"] for line in lines if line["event"] == "received")[request_id]

    def paths(self) -> set[str]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return {line["path"] for line in lines if line["event"] == "received"}


async def ask(session: Session, request_id: str | None = None) -> list[Event]:
    request = ChatRequest((Message("user", "Name three colours."),), request_id=request_id)
    grammar = Grammar()
    found: list[Event] = []
    async with aclosing(session.answer(request)) as events:
        async for event in events:
            grammar.feed(event)
            found.append(event)
    grammar.end()
    return found


def complete(events: list[Event]) -> bool:
    return isinstance(events[-1], Finish) and any(isinstance(e, TextDelta) for e in events)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    log = tmp_path_factory.mktemp("matrix") / "truth.jsonl"
    with simulator_process("--ttft-ms", "5", "--gap-ms", "2", "--tokens", str(TOKENS), "--log", str(log)) as url:
        filled = Matrix(url, log)
        asyncio.run(filled.fill())
    return filled


def test_the_matrix_has_every_fault_that_the_simulator_knows() -> None:
    assert {name for name in FAULTS if not any(cell.startswith(name) for cell in CELLS)} == set()


@pytest.mark.parametrize("fault", CELLS)
@pytest.mark.parametrize("wire", WIRES)
def test_cell(matrix: Matrix, wire: str, fault: str) -> None:
    expected, outcome = CELLS[fault], matrix.outcomes[wire, fault]
    last = outcome.events[-1]
    assert isinstance(last, Finish if expected.ends == COMPLETE else Failed), last
    if isinstance(last, Failed):
        assert last.kind == expected.ends, last
        assert "\n" not in last.message
        assert bool(outcome.text) == expected.partial
    assert outcome.session.state == ("succeeded" if expected.ends == COMPLETE else "failed")
    assert outcome.session.attempts == expected.attempts
    assert matrix.attempts(f"{wire}-{fault}") == expected.attempts
    assert complete(outcome.afterwards), outcome.afterwards[-1]


@pytest.mark.parametrize("fault", [name for name, cell in CELLS.items() if cell.ends == COMPLETE])
@pytest.mark.parametrize("wire", WIRES)
def test_a_complete_answer_comes_once(matrix: Matrix, wire: str, fault: str) -> None:
    outcome = matrix.outcomes[wire, fault]
    assert outcome.text.count("[simulated]") == 1


@pytest.mark.parametrize("wire", WIRES)
def test_a_character_in_halves_is_whole(matrix: Matrix, wire: str) -> None:
    text = matrix.outcomes[wire, "split-surrogate"].text
    assert "🌍" in text
    text.encode()


@pytest.mark.parametrize("wire", WIRES)
def test_a_big_event_arrives_whole(matrix: Matrix, wire: str) -> None:
    assert len(matrix.outcomes[wire, "big-event"].text) > 5_000_000


def test_no_redirect_was_followed(matrix: Matrix) -> None:
    assert not any("redirected" in path for path in matrix.paths())


@pytest.mark.parametrize("wire", WIRES)
def test_every_retry_and_fallback_was_announced(matrix: Matrix, wire: str) -> None:
    kinds = [e.kind for e in matrix.outcomes[wire, "503"].events if isinstance(e, Notice)]
    assert [kind for kind in kinds if kind != "connected"] == ["retry", "retry", "retry", "fallback"]


@pytest.mark.parametrize("fault", ["429", "503"])
def test_without_the_fallback_four_attempts(fault: str, tmp_path: Path) -> None:
    log = tmp_path / "truth.jsonl"
    policy = Policy(delays_s=(0.02,), fallback=False)

    async def main(matrix: Matrix) -> None:
        providers = Providers(matrix.settings, timeouts=LIMITS)
        for wire in WIRES:
            await ask(providers.session([f"{wire}:fault-{fault}"], clock=monotonic, policy=policy), wire)
        await providers.aclose()

    with simulator_process("--log", str(log)) as url:
        matrix = Matrix(url, log)
        asyncio.run(main(matrix))
    assert {wire: matrix.attempts(wire) for wire in WIRES} == dict.fromkeys(WIRES, 4)


@pytest.mark.parametrize("fault", ["401", "403", "404", "503"])
def test_the_next_provider_answers_and_is_named(fault: str, tmp_path: Path) -> None:
    log = tmp_path / "truth.jsonl"

    async def main(matrix: Matrix) -> list[tuple[str | None, str]]:
        providers = Providers(matrix.settings, timeouts=LIMITS)
        found = []
        for wire, following in zip(WIRES, (*WIRES[1:], WIRES[0]), strict=True):
            names = [f"{wire}:fault-{fault}", f"{following}:steady"]
            session = providers.session(names, clock=monotonic, policy=SCALED)
            events = await ask(session)
            assert complete(events)
            (notice,) = [e for e in events if isinstance(e, Notice) and e.kind == "served_by"]
            found.append((session.fell_back_to, notice.message))
        await providers.aclose()
        return found

    with simulator_process("--ttft-ms", "5", "--gap-ms", "2", "--tokens", "4", "--log", str(log)) as url:
        served = asyncio.run(main(Matrix(url, log)))
    assert [name for name, _ in served] == [f"{wire}:steady" for wire in (*WIRES[1:], WIRES[0])]
    assert all(f"fault-{fault}" in message for _, message in served)


@pytest.mark.parametrize("wire", WIRES)
def test_a_refused_connection_is_a_network_error_that_names_the_address(wire: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def main() -> tuple[Event, int]:
        providers = Providers(Matrix(url, tmp_path).settings, timeouts=LIMITS)
        session = providers.session([f"{wire}:m"], clock=monotonic, policy=SCALED)
        last = (await ask(session))[-1]
        await providers.aclose()
        return last, session.attempts

    last, attempts = asyncio.run(main())
    assert isinstance(last, Failed)
    assert (last.kind, attempts) == ("network", ALL_FIVE)
    assert url.removeprefix("http://") in last.message

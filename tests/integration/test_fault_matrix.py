"""Every fault × every wire format: the complete answer once, or the received text and exactly one error.

All cells run at once in one loop, against one simulator; its log counts the attempts. The policy's waits are scaled.
"""

import asyncio
import json
import socket
from collections import Counter
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from providers import ProviderRegistry
from settings import Settings
from simulator.faults import FAULTS
from streaming.clock import monotonic
from streaming.events import Event, Failed, Finish, Grammar, Notice, TextDelta
from streaming.messages import ChatRequest, Message
from streaming.retry import RetryPolicy
from streaming.session import Session, Timeouts
from tests.simulator_process import run_simulator_process

TOKENS = 12
PATIENT = Timeouts(connect_s=30.0, first_content_s=30.0, idle_s=30.0, total_s=90.0)
"""No expected outcome depends on one of them, however busy the machine is."""
SILENT = replace(PATIENT, first_content_s=2.5, total_s=18.0)
"""Short, because nothing comes: four attempts end by the first, and the last, which is not streamed, by the second."""
STALLED = replace(PATIENT, idle_s=1.0)
TIMEOUTS = {"no-response": SILENT, "slow-first-token-60": SILENT, "keepalive-only": SILENT, "stall": STALLED}
"""The timeouts of the faults that one of them ends: they cost time and no work, so all run beside the others."""
SCALED_POLICY = RetryPolicy(delays_s=(0.02, 0.04, 0.08, 0.16))
WIRES = ("openai", "openai-responses", "azure", "anthropic", "ollama")
COMPLETE = "complete"


@dataclass(frozen=True)
class ExpectedOutcome:
    """The expected end of a cell: `complete` or the error's kind, the attempts, and whether text was received."""

    ends: str
    attempts: int
    partial: bool = False


ALL_ATTEMPTS = 5
"""Four streamed attempts and one that is not."""
STREAMED_ONLY = 4
"""A rate limit is not followed by a non-streamed request, which would count against it too."""
CELLS: dict[str, ExpectedOutcome] = {
    "400": ExpectedOutcome("bad_request", 1),
    "401": ExpectedOutcome("auth", 1),
    "403": ExpectedOutcome("auth", 1),
    "404": ExpectedOutcome("not_found", 1),
    "422": ExpectedOutcome("bad_request", 1),
    "408": ExpectedOutcome("server_error", ALL_ATTEMPTS),
    "409": ExpectedOutcome("server_error", ALL_ATTEMPTS),
    "429": ExpectedOutcome("rate_limited", STREAMED_ONLY),
    "429-retry-after": ExpectedOutcome("rate_limited", STREAMED_ONLY),
    "429-retry-after-90": ExpectedOutcome("rate_limited", 1),
    "500-once": ExpectedOutcome(COMPLETE, 2),
    "503-once": ExpectedOutcome(COMPLETE, 2),
    "503": ExpectedOutcome("server_error", ALL_ATTEMPTS),
    "529": ExpectedOutcome("server_error", ALL_ATTEMPTS),
    "no-credit": ExpectedOutcome("billing", 1),
    "quota-used-up": ExpectedOutcome("billing", 1),
    "bad-key": ExpectedOutcome("auth", 1),
    "model-gone": ExpectedOutcome("not_found", 1),
    "flagged": ExpectedOutcome("content_filter", 1),
    "over-token-limit": ExpectedOutcome("rate_limited", 1),
    "at-capacity": ExpectedOutcome("server_error", ALL_ATTEMPTS),
    "reset-before-headers": ExpectedOutcome("network", ALL_ATTEMPTS),
    "no-response": ExpectedOutcome("total_timeout", ALL_ATTEMPTS),
    "slow-first-token-1": ExpectedOutcome(COMPLETE, 1),
    "slow-first-token-60": ExpectedOutcome("total_timeout", ALL_ATTEMPTS),
    "keepalive-only": ExpectedOutcome(COMPLETE, ALL_ATTEMPTS),
    "stall": ExpectedOutcome("idle_timeout", 1, partial=True),
    "cut": ExpectedOutcome("truncated", 1, partial=True),
    "reset-mid-stream": ExpectedOutcome("network", 1, partial=True),
    "truncated": ExpectedOutcome("truncated", 1, partial=True),
    "malformed-json": ExpectedOutcome("protocol", 1, partial=True),
    "bad-utf8": ExpectedOutcome("protocol", 1, partial=True),
    "split-surrogate": ExpectedOutcome(COMPLETE, 1),
    "error-in-stream": ExpectedOutcome("server_error", 1, partial=True),
    "empty-200": ExpectedOutcome("protocol", 2),
    "html-200": ExpectedOutcome("protocol", 2),
    "wrong-content-type": ExpectedOutcome("protocol", 2),
    "missing-end-marker": ExpectedOutcome(COMPLETE, 1),
    "doubled-finish": ExpectedOutcome(COMPLETE, 1),
    "text-after-end": ExpectedOutcome("protocol", 1, partial=True),
    "big-event": ExpectedOutcome(COMPLETE, 1),
    "redirect": ExpectedOutcome("protocol", 2),
}


EXCEPTIONS = {("openai-responses", "missing-end-marker"): ExpectedOutcome("truncated", 1, partial=True)}
"""The Responses API's last event is the end marker and has the finish reason: without it, the answer is cut."""


@dataclass
class CellOutcome:
    """The result of a cell, and that of the next request over the same adapter."""

    events: list[Event]
    session: Session
    afterwards: list[Event]

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, TextDelta))


class FaultMatrix:
    """All outcomes by (wire, fault), and the simulator's count of requests by request id."""

    def __init__(self, url: str, log: Path) -> None:
        self._log = log
        variables = {
            "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "k", "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "k",
            "AZURE_OPENAI_ENDPOINT": url, "AZURE_OPENAI_API_KEY": "k", "OPENAI_API_VERSION": "2024-10-21",
            "OLLAMA_HOST": url,
        }  # fmt: skip
        self.settings = Settings(variables)
        self.outcomes: dict[tuple[str, str], CellOutcome] = {}

    async def fill(self) -> None:
        registries = {each: ProviderRegistry(self.settings, timeouts=each) for each in (PATIENT, SILENT, STALLED)}
        for wire in WIRES:  # the SDKs are imported here, outside of all time limits
            session = registries[PATIENT].new_session([f"{wire}:steady"], clock=monotonic)
            assert is_complete(await collect_events(session))
        working = asyncio.Semaphore(6)
        cells = [(wire, fault) for fault in CELLS for wire in WIRES]
        await asyncio.gather(
            *(
                self._fill_cell(
                    registries[TIMEOUTS.get(fault, PATIENT)],
                    wire,
                    fault,
                    nullcontext() if fault in TIMEOUTS else working,
                )
                for wire, fault in cells
            )
        )
        for providers in registries.values():
            await providers.aclose()

    async def _fill_cell(
        self, providers: ProviderRegistry, wire: str, fault: str, place: AbstractAsyncContextManager[None]
    ) -> None:
        session = providers.new_session([f"{wire}:fault-{fault}"], clock=monotonic, policy=SCALED_POLICY)
        healthy = providers.new_session([f"{wire}:steady"], clock=monotonic, policy=SCALED_POLICY)
        async with place:
            events = await collect_events(session, f"{wire}-{fault}")
            self.outcomes[wire, fault] = CellOutcome(events, session, await collect_events(healthy))

    def attempts(self, request_id: str) -> int:
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return Counter(line["request_id"] for line in lines if line["event"] == "received")[request_id]

    def paths(self) -> set[str]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return {line["path"] for line in lines if line["event"] == "received"}


async def collect_events(session: Session, request_id: str | None = None) -> list[Event]:
    request = ChatRequest((Message("user", "Name three colours."),), request_id=request_id)
    grammar = Grammar()
    result: list[Event] = []
    async with aclosing(session.stream(request)) as events:
        async for event in events:
            grammar.feed(event)
            result.append(event)
    grammar.end()
    return result


def is_complete(events: list[Event]) -> bool:
    return isinstance(events[-1], Finish) and any(isinstance(e, TextDelta) for e in events)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> FaultMatrix:
    log = tmp_path_factory.mktemp("matrix") / "truth.jsonl"
    with run_simulator_process("--ttft-ms", "5", "--gap-ms", "2", "--tokens", str(TOKENS), "--log", str(log)) as url:
        filled = FaultMatrix(url, log)
        asyncio.run(filled.fill())
    return filled


def test_fault_matrix_covers_every_simulator_fault() -> None:
    assert {name for name in FAULTS if not any(cell.startswith(name) for cell in CELLS)} == set()


@pytest.mark.parametrize("fault", CELLS)
@pytest.mark.parametrize("wire", WIRES)
def test_fault_on_wire_ends_as_expected(matrix: FaultMatrix, wire: str, fault: str) -> None:
    expected, outcome = EXCEPTIONS.get((wire, fault), CELLS[fault]), matrix.outcomes[wire, fault]
    last = outcome.events[-1]
    assert isinstance(last, Finish if expected.ends == COMPLETE else Failed), last
    if isinstance(last, Failed):
        assert last.kind == expected.ends, last
        assert "\n" not in last.message
        assert bool(outcome.text) == expected.partial
    assert outcome.session.state == ("succeeded" if expected.ends == COMPLETE else "failed")
    assert outcome.session.attempts == expected.attempts
    assert matrix.attempts(f"{wire}-{fault}") == expected.attempts
    assert is_complete(outcome.afterwards), outcome.afterwards[-1]


@pytest.mark.parametrize("fault", [name for name, cell in CELLS.items() if cell.ends == COMPLETE])
@pytest.mark.parametrize("wire", WIRES)
def test_recovered_answer_is_delivered_exactly_once(matrix: FaultMatrix, wire: str, fault: str) -> None:
    outcome = matrix.outcomes[wire, fault]
    assert outcome.text.count("[simulated]") == 1


@pytest.mark.parametrize("wire", WIRES)
def test_split_surrogate_fault_yields_joined_character(matrix: FaultMatrix, wire: str) -> None:
    text = matrix.outcomes[wire, "split-surrogate"].text
    assert "🌍" in text
    text.encode()


@pytest.mark.parametrize("wire", WIRES)
def test_big_event_fault_yields_all_text(matrix: FaultMatrix, wire: str) -> None:
    assert len(matrix.outcomes[wire, "big-event"].text) > 3_000_000


def test_redirect_fault_is_never_followed(matrix: FaultMatrix) -> None:
    assert not any("redirected" in path for path in matrix.paths())


@pytest.mark.parametrize("wire", WIRES)
def test_retries_and_fallback_are_announced_in_order(matrix: FaultMatrix, wire: str) -> None:
    kinds = [e.kind for e in matrix.outcomes[wire, "503"].events if isinstance(e, Notice)]
    assert [kind for kind in kinds if kind != "connected"] == ["retry", "retry", "retry", "fallback"]


@pytest.mark.parametrize("fault", ["429", "503"])
def test_policy_without_fallback_makes_four_attempts(fault: str, tmp_path: Path) -> None:
    log = tmp_path / "truth.jsonl"
    policy = RetryPolicy(delays_s=(0.02,), fallback=False)

    async def main(matrix: FaultMatrix) -> None:
        providers = ProviderRegistry(matrix.settings, timeouts=PATIENT)
        for wire in WIRES:
            await collect_events(providers.new_session([f"{wire}:fault-{fault}"], clock=monotonic, policy=policy), wire)
        await providers.aclose()

    with run_simulator_process("--log", str(log)) as url:
        matrix = FaultMatrix(url, log)
        asyncio.run(main(matrix))
    assert {wire: matrix.attempts(wire) for wire in WIRES} == dict.fromkeys(WIRES, 4)


@pytest.mark.parametrize("wire", WIRES)
def test_flagged_prompt_goes_to_no_other_provider(wire: str, tmp_path: Path) -> None:
    log = tmp_path / "truth.jsonl"

    async def main(matrix: FaultMatrix) -> Event:
        providers = ProviderRegistry(matrix.settings, timeouts=PATIENT)
        names = [f"{wire}:fault-flagged", *(f"{other}:steady" for other in WIRES)]
        session = providers.new_session(names, clock=monotonic, policy=SCALED_POLICY)
        events = await collect_events(session, "flagged")
        await providers.aclose()
        return events[-1]

    with run_simulator_process("--log", str(log)) as url:
        matrix = FaultMatrix(url, log)
        last = asyncio.run(main(matrix))
        assert matrix.attempts("flagged") == 1
    assert isinstance(last, Failed) and last.kind == "content_filter"


@pytest.mark.parametrize(
    "fault", ["401", "403", "404", "503", "no-credit", "quota-used-up", "bad-key", "model-gone", "over-token-limit"]
)
def test_failed_provider_falls_back_to_next_and_names_it(fault: str, tmp_path: Path) -> None:
    log = tmp_path / "truth.jsonl"

    async def main(matrix: FaultMatrix) -> list[tuple[str | None, str]]:
        providers = ProviderRegistry(matrix.settings, timeouts=PATIENT)
        result = []
        for wire, following in zip(WIRES, (*WIRES[1:], WIRES[0]), strict=True):
            names = [f"{wire}:fault-{fault}", f"{following}:steady"]
            session = providers.new_session(names, clock=monotonic, policy=SCALED_POLICY)
            events = await collect_events(session)
            assert is_complete(events)
            (notice,) = [e for e in events if isinstance(e, Notice) and e.kind == "served_by"]
            result.append((session.fell_back_to, notice.message))
        await providers.aclose()
        return result

    with run_simulator_process("--ttft-ms", "5", "--gap-ms", "2", "--tokens", "4", "--log", str(log)) as url:
        service = asyncio.run(main(FaultMatrix(url, log)))
    assert [name for name, _ in service] == [f"{wire}:steady" for wire in (*WIRES[1:], WIRES[0])]
    assert all(f"fault-{fault}" in message for _, message in service)


@pytest.mark.parametrize("wire", WIRES)
def test_closed_port_gives_network_error_naming_address(wire: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def main() -> tuple[Event, int]:
        providers = ProviderRegistry(FaultMatrix(url, tmp_path).settings, timeouts=PATIENT)
        session = providers.new_session([f"{wire}:m"], clock=monotonic, policy=SCALED_POLICY)
        last = (await collect_events(session))[-1]
        await providers.aclose()
        return last, session.attempts

    last, attempts = asyncio.run(main())
    assert isinstance(last, Failed)
    assert (last.kind, attempts) == ("network", ALL_ATTEMPTS)
    assert url.removeprefix("http://") in last.message

"""Runs one trial: asks through the pipeline with a probe, and gives its rows."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from evaluation import rows
from evaluation.experience import Deadlines, Reader
from evaluation.lag import LagWatch
from evaluation.record import EventRow, Trial
from evaluation.scenario import Planned, Scenario
from streaming import pipeline, strategies
from streaming.clock import Clock, utc_now
from streaming.errors import UsageError
from streaming.events import Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import Rates
from streaming.pipeline import Outcome
from streaming.probe import Probe
from streaming.retry import NO_RECOVERY, Policy
from streaming.session import Session

WARM_UP_PROMPT = "Say hello."
WARM_UP_TOKENS = 16


class Access(Protocol):
    """What a trial needs of `providers.Providers`."""

    def session(self, names: Sequence[str], *, clock: Clock, policy: Policy | None = None) -> Session: ...

    def rates(self, name: str) -> Rates: ...


@dataclass(frozen=True, slots=True)
class Bench:
    """What all trials of a run share; `clock` has the loop's timebase, `mask` takes secrets out of an error's text."""

    run_id: str
    scenario: Scenario
    access: Access
    clock: Clock
    mask: Callable[[str], str] = str
    deadlines: Deadlines = field(default_factory=Deadlines)
    reader: Reader = field(default_factory=Reader)
    sitting: int = 0
    """How often the run was resumed: a question that a kill broke off goes out again under another name."""

    def trial_id(self, planned: Planned) -> str:
        """Give the trial's name, which travels with its request as `X-Client-Request-Id`."""
        again = f"-r{self.sitting}" if self.sitting else ""
        return f"{self.run_id}-{planned.number:05d}{again}"


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer with its stamps; `ending` has the columns of how it ended.

    `instrument` has those that tell how it was measured (`stamp_source`, `connect_s`, `merged_reads`, …).
    """

    started_at: str
    ending: dict[str, Any]
    outcome: Outcome
    usage: Usage
    stamps: rows.Stamps
    instrument: dict[str, Any]


async def ask_trial(bench: Bench, planned: Planned) -> Asked:
    """Ask once and stamp. Broken answers are answers too; a cancelled run has none of its unfinished trials."""
    request = _request(bench.scenario, planned.prompt.text, bench.scenario.max_tokens, bench.trial_id(planned))
    return await ask(bench, planned.provider, planned.strategy, request)


def rows_of(
    bench: Bench, planned: Planned, asked: Asked, intended_s: float | None = None
) -> tuple[Trial, list[EventRow]]:
    """Give a trial's rows from what was stamped, whichever way it was stamped; takes a millisecond or two.

    `intended_s` is when the request should have gone out, on the bench's clock; None where nothing was intended.
    """
    events = list(rows.event_rows(bench.run_id, bench.trial_id(planned), asked.stamps))
    return _row(bench, planned, asked, intended_s), events


def _row(bench: Bench, planned: Planned, asked: Asked, intended_s: float | None) -> Trial:
    measured = rows.figures(asked.stamps, asked.outcome, asked.usage, bench.deadlines, bench.reader)
    waited = rows.waiting(asked.stamps.sent_s, intended_s, asked.instrument.get("connect_s"), measured.get("ttft_s"))
    provider, _, model = planned.provider.partition(":")
    return Trial(
        run_id=bench.run_id,
        trial_id=bench.trial_id(planned),
        prompt_id=planned.prompt.id,
        provider=provider,
        model=model or None,
        strategy=planned.strategy,
        transport=bench.scenario.transport,
        repeat=planned.repeat,
        block=planned.block,
        started_at=asked.started_at,
        sent_monotonic_s=round(asked.stamps.sent_s, 9),
        outcome=asked.outcome,
        **asked.instrument,
        **asked.ending,
        **measured,
        **waited,
    )


async def warm_up(bench: Bench, provider: str) -> Asked:
    """Ask once for something short, not to be recorded."""
    request = _request(bench.scenario, WARM_UP_PROMPT, WARM_UP_TOKENS, f"{bench.run_id}-warm-up")
    return await ask(bench, provider, "direct", request)


def in_words(asked: Asked) -> str:
    """Say how it went: `completed`, or the outcome and why."""
    why = asked.ending.get("error_message")
    return f"{asked.outcome}: {why}" if why else asked.outcome


def _request(scenario: Scenario, text: str, max_tokens: int, request_id: str) -> ChatRequest:
    return ChatRequest(
        (Message("user", text),),
        temperature=scenario.temperature,
        max_tokens=min(max_tokens, scenario.max_tokens),
        request_id=request_id,
    )


async def ask(bench: Bench, provider: str, strategy: str, request: ChatRequest) -> Asked:
    """Run one answer to its end. What breaks it, a defect of an adapter too, is its outcome and stops nothing else."""
    machine = strategies.parse(strategy).make()
    watch, started_at = LagWatch(), utc_now()
    probe = Probe(bench.clock)
    try:
        session = bench.access.session([provider], clock=bench.clock, policy=_policy(bench.scenario))
        probe = Probe(bench.clock)
        answer = pipeline.answer(request, session, machine, clock=bench.clock, rates=bench.access.rates, probe=probe)
        async with aclosing(answer) as events:
            async for _ in events:
                pass
        receipt = answer.receipt()
        outcome, usage, ending = receipt.outcome, receipt.reading.usage, rows.ending(receipt)
    except Exception as error:
        outcome, usage = "failed", Usage()
        kind = "usage" if isinstance(error, UsageError) else "internal"
        ending = {"error_type": kind, "error_message": f"{type(error).__name__}: {error}"}
    finally:
        lag_s = watch.stop()
    if ending.get("error_message"):
        ending["error_message"] = bench.mask(ending["error_message"])
    stamps = rows.Stamps(probe.called_s, probe.source, probe.delivered)
    return Asked(
        started_at, ending, outcome, usage, stamps, {"stamp_source": "in-process", "loop_lag_max_s": round(lag_s, 9)}
    )


def _policy(scenario: Scenario) -> Policy:
    return Policy(max_retries=scenario.retries, fallback=False) if scenario.retries else NO_RECOVERY

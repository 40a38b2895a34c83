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

    def trial_id(self, planned: Planned) -> str:
        """Give the trial's name, which travels with its request as `X-Client-Request-Id`."""
        return f"{self.run_id}-{planned.number:05d}"


@dataclass(frozen=True, slots=True)
class _Asked:
    """An answer with its stamps; `ending` has the columns of how it ended."""

    ending: dict[str, Any]
    outcome: Outcome
    usage: Usage
    stamps: rows.Stamps
    loop_lag_max_s: float


async def run_trial(bench: Bench, planned: Planned) -> tuple[Trial, list[EventRow]]:
    """Ask once and measure. Broken answers are rows too; a cancelled run leaves none of its unfinished trials."""
    trial_id, started_at = bench.trial_id(planned), utc_now()
    request = _request(bench.scenario, planned.prompt.text, bench.scenario.max_tokens, trial_id)
    asked = await _ask(bench, planned.provider, planned.strategy, request)
    measured = rows.figures(asked.stamps, asked.outcome, asked.usage, bench.deadlines, bench.reader)
    provider, _, model = planned.provider.partition(":")
    trial = Trial(
        run_id=bench.run_id,
        trial_id=trial_id,
        prompt_id=planned.prompt.id,
        provider=provider,
        model=model or None,
        strategy=planned.strategy,
        transport=bench.scenario.transport,
        repeat=planned.repeat,
        block=planned.block,
        started_at=started_at,
        sent_monotonic_s=round(asked.stamps.sent_s, 9),
        stamp_source="in-process",
        loop_lag_max_s=round(asked.loop_lag_max_s, 9),
        outcome=asked.outcome,
        **asked.ending,
        **measured,
    )
    return trial, list(rows.event_rows(bench.run_id, trial_id, asked.stamps))


async def warm_up(bench: Bench, provider: str) -> str:
    """Ask once without recording, and say how it went: `completed`, or the outcome and why."""
    request = _request(bench.scenario, WARM_UP_PROMPT, WARM_UP_TOKENS, f"{bench.run_id}-warm-up")
    asked = await _ask(bench, provider, "direct", request)
    why = asked.ending.get("error_message")
    return f"{asked.outcome}: {why}" if why else asked.outcome


def _request(scenario: Scenario, text: str, max_tokens: int, request_id: str) -> ChatRequest:
    return ChatRequest(
        (Message("user", text),),
        temperature=scenario.temperature,
        max_tokens=min(max_tokens, scenario.max_tokens),
        request_id=request_id,
    )


async def _ask(bench: Bench, provider: str, strategy: str, request: ChatRequest) -> _Asked:
    """Run one answer to its end. What breaks it, a defect of an adapter too, is its outcome and stops nothing else."""
    machine = strategies.parse(strategy).make()
    watch = LagWatch()
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
    return _Asked(ending, outcome, usage, rows.Stamps(probe.called_s, probe.source, probe.delivered), lag_s)


def _policy(scenario: Scenario) -> Policy:
    return Policy(max_retries=scenario.retries, fallback=False) if scenario.retries else NO_RECOVERY

"""Runs one trial, over stamped sockets or through the pipeline with a probe, and gives its rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from evaluation import rows, wire
from evaluation.experience import Deadlines, Reader
from evaluation.lag import LagWatch
from evaluation.record import EventRow, Trial
from evaluation.scenario import Planned, Scenario
from evaluation.wire import Wire
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
from streaming.strategies import Strategy

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
    wire: Wire | None = None
    """The stamped way, for what was prepared for it; all else is asked in process."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Which model it is, of providers that are asked without naming one."""
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
    request = _trial_request(bench, planned)
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
    sent_s = asked.stamps.sent_s if asked.stamps.sent else None
    waited = rows.waiting(sent_s, intended_s, asked.instrument.get("connect_s"), measured.get("ttft_s"))
    provider, _, model = planned.provider.partition(":")
    return Trial(
        run_id=bench.run_id,
        trial_id=bench.trial_id(planned),
        prompt_id=planned.prompt.id,
        provider=provider,
        model=model or bench.models.get(provider),
        strategy=planned.strategy,
        transport=bench.scenario.transport,
        repeat=planned.repeat,
        block=planned.block,
        started_at=asked.started_at,
        sent_monotonic_s=None if sent_s is None else round(sent_s, 9),
        outcome=asked.outcome,
        **asked.instrument,
        **asked.ending,
        **measured,
        **waited,
    )


async def warm_up(bench: Bench, provider: str) -> Asked:
    """Ask once for something short, not to be recorded."""
    return await ask(bench, provider, "direct", _warm_up_request(bench))


async def prepare(bench: Bench, planned: Iterable[Planned]) -> dict[str, Any]:
    """Have all requests to come ready before the load, and give what the manifest says of how they will be measured."""
    if bench.wire is None:
        return {"stamped_sockets": [], "real_time_priority": False}
    for trial in planned:
        await bench.wire.prepare(trial.provider, _trial_request(bench, trial))
        if bench.scenario.warm_up:
            await bench.wire.prepare(trial.provider, _warm_up_request(bench))
    return bench.wire.begin()


def in_words(asked: Asked) -> str:
    """Say how it went: `completed`, or the outcome and why."""
    why = asked.ending.get("error_message")
    return f"{asked.outcome}: {why}" if why else asked.outcome


def _trial_request(bench: Bench, planned: Planned) -> ChatRequest:
    return _request(bench.scenario, planned.prompt.text, bench.scenario.max_tokens, bench.trial_id(planned))


def _warm_up_request(bench: Bench) -> ChatRequest:
    return _request(bench.scenario, WARM_UP_PROMPT, WARM_UP_TOKENS, f"{bench.run_id}-warm-up")


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
    if bench.wire is not None and bench.wire.carries(provider, request):
        return await _over_wire(bench, bench.wire, provider, machine, request)
    return await _in_process(bench, provider, machine, request)


async def _over_wire(bench: Bench, way: Wire, provider: str, machine: Strategy, request: ChatRequest) -> Asked:
    started_at, called_s = utc_now(), bench.clock()
    stamps, instrument = rows.Stamps(called_s, (), (), sent=False), dict[str, Any]()
    try:
        heard = await way.ask(provider, request)
        stamps, instrument = wire.stamps(heard, machine), wire.instrument(heard)
        receipt = wire.receipt(heard, stamps.delivered, bench.access.rates(provider))
        outcome, usage, ending = receipt.outcome, receipt.reading.usage, rows.ending(receipt)
    except Exception as error:
        outcome, usage, ending = "failed", Usage(), _defect(error)
    return Asked(started_at, _masked(bench, ending), outcome, usage, stamps, instrument)


async def _in_process(bench: Bench, provider: str, machine: Strategy, request: ChatRequest) -> Asked:
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
        outcome, usage, ending = "failed", Usage(), _defect(error)
    finally:
        lag_s = watch.stop()
    stamps = rows.Stamps(probe.called_s, probe.source, probe.delivered)
    instrument = {"stamp_source": "in-process", "loop_lag_max_s": round(lag_s, 9)}
    return Asked(started_at, _masked(bench, ending), outcome, usage, stamps, instrument)


def _defect(error: Exception) -> dict[str, Any]:
    kind = "usage" if isinstance(error, UsageError) else "internal"
    return {"error_type": kind, "error_message": f"{type(error).__name__}: {error}"}


def _masked(bench: Bench, ending: dict[str, Any]) -> dict[str, Any]:
    message = ending.get("error_message")
    return ending | {"error_message": bench.mask(message)} if message else ending


def _policy(scenario: Scenario) -> Policy:
    return Policy(max_retries=scenario.retries, fallback=False) if scenario.retries else NO_RECOVERY

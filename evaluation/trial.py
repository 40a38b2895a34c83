"""Runs one trial, over stamped sockets or through the pipeline with a probe, and gives its rows."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from evaluation import rows, wire
from evaluation.experience import Deadlines, Reader
from evaluation.lag import LagWatch, disturbed
from evaluation.record import EventRow, Trial
from evaluation.scenario import TRANSPORT, Planned, Scenario
from evaluation.wire import Call, Wire
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
    wire: Wire | None = None
    """The stamped way and the service's wires, for what was prepared for them; all else is asked in process."""
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
    return await ask(bench, _trial_call(bench, planned))


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
    sent_s, how = asked.stamps.sent_s if asked.stamps.sent else None, asked.instrument
    waited = rows.waiting(sent_s, intended_s, how.get("connect_s"), measured.get("ttft_s"))
    provider, _, model = planned.provider.partition(":")
    return Trial(
        run_id=bench.run_id,
        trial_id=bench.trial_id(planned),
        prompt_id=planned.prompt.id,
        provider=provider,
        model=model or bench.models.get(provider),
        strategy=planned.strategy,
        transport=planned.transport,
        repeat=planned.repeat,
        block=planned.block,
        started_at=asked.started_at,
        sent_monotonic_s=None if sent_s is None else round(sent_s, 9),
        outcome=asked.outcome,
        effort=planned.effort,
        dropped_settings=rows.dropped_settings(asked.stamps),
        disturbed=disturbed(how.get("stamp_source"), how.get("merged_reads"), how.get("loop_lag_max_s")),
        **how,
        **asked.ending,
        **measured,
        **waited,
    )


async def warm_up(bench: Bench, provider: str, transport: str = TRANSPORT) -> Asked:
    """Ask once for something short, not to be recorded."""
    return await ask(bench, _warm_up_call(bench, provider, transport))


async def prepare(bench: Bench, planned: Iterable[Planned]) -> dict[str, Any]:
    """Have all requests to come ready before the load, and give what the manifest says of how they will be measured."""
    if bench.wire is None:
        return {"stamped_sockets": [], "real_time_priority": False}
    for trial in planned:
        await bench.wire.prepare(_trial_call(bench, trial))
        if bench.scenario.warm_up:
            await bench.wire.prepare(_warm_up_call(bench, trial.provider, trial.transport))
    return bench.wire.begin()


def in_words(asked: Asked) -> str:
    """Say how it went: `completed`, or the outcome and why."""
    why = asked.ending.get("error_message")
    return f"{asked.outcome}: {why}" if why else asked.outcome


def _trial_call(bench: Bench, planned: Planned) -> Call:
    request = _request(bench.scenario, planned.prompt.text, bench.scenario.max_tokens, bench.trial_id(planned))
    request = replace(request, effort=planned.effort)
    return Call(planned.provider, planned.strategy, planned.transport, request)


def _warm_up_call(bench: Bench, provider: str, transport: str) -> Call:
    request = _request(bench.scenario, WARM_UP_PROMPT, WARM_UP_TOKENS, f"{bench.run_id}-warm-up")
    request = replace(request, effort=next(iter(bench.scenario.effort), None))
    return Call(provider, "direct", transport, request)


def _request(scenario: Scenario, text: str, max_tokens: int, request_id: str) -> ChatRequest:
    return ChatRequest(
        (Message("user", text),),
        temperature=scenario.temperature,
        max_tokens=min(max_tokens, scenario.max_tokens),
        request_id=request_id,
    )


async def ask(bench: Bench, call: Call) -> Asked:
    """Run one answer to its end. What breaks it, a defect of an adapter too, is its outcome and stops nothing else."""
    if bench.wire is not None and call.transport != TRANSPORT:
        return await _stamped(bench, call, _of_service(bench, bench.wire, call))
    if bench.wire is not None and bench.wire.carries(call):
        return await _stamped(bench, call, _of_vendor(bench, bench.wire, call))
    return await _in_process(bench, call)


Found = tuple[rows.Stamps, dict[str, Any], Outcome, Usage, dict[str, Any]]
"""Stamps, how it was measured, and how it ended: outcome, usage, the other columns."""


async def _stamped(bench: Bench, call: Call, answering: Awaitable[Found]) -> Asked:
    started_at, called_s = utc_now(), bench.clock()
    source = () if call.transport == TRANSPORT else None
    stamps, instrument = rows.Stamps(called_s, source, (), sent=False), dict[str, Any]()
    try:
        stamps, instrument, outcome, usage, ending = await answering
    except Exception as error:
        outcome, usage, ending = "failed", Usage(), _defect(error)
    return Asked(started_at, _masked(bench, ending), outcome, usage, stamps, instrument)


async def _of_vendor(bench: Bench, way: Wire, call: Call) -> Found:
    heard = await way.ask(call)
    stamps = wire.stamps(heard, strategies.parse(call.strategy).make())
    receipt = wire.receipt(heard, stamps.delivered, bench.access.rates(call.provider))
    instrument = wire.instrument(heard.answer) | {"loop_lag_max_s": round(heard.lag_s, 9)}
    return stamps, instrument, receipt.outcome, receipt.reading.usage, rows.ending(receipt)


async def _of_service(bench: Bench, way: Wire, call: Call) -> Found:
    from evaluation import service_answers

    arrived = await way.ask_service(call)
    rates = bench.access.rates(call.provider)
    receipt = service_answers.receipt(call.provider, call.request, arrived, rates)
    ending = service_answers.ending(receipt, arrived.told)
    return arrived.stamps, arrived.instrument, receipt.outcome, receipt.reading.usage, ending


async def _in_process(bench: Bench, call: Call) -> Asked:
    request, machine = call.request, strategies.parse(call.strategy).make()
    watch, started_at = LagWatch(), utc_now()
    probe = Probe(bench.clock)
    try:
        session = bench.access.session([call.provider], clock=bench.clock, policy=_policy(bench.scenario))
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

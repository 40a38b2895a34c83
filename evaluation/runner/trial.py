"""Runs one trial, over timestamping sockets or through the pipeline with a probe, and builds its rows."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from evaluation.backends import call as backends_call
from evaluation.backends import vendor_http
from evaluation.backends.call import TrialRequest
from evaluation.backends.interference import LoopLagMonitor, is_disturbed
from evaluation.backends.vendor_http import TimedBackend
from evaluation.metrics import trial_metrics
from evaluation.metrics.experience import ReaderModel, TokenDeadlines
from evaluation.scenario import IN_PROCESS, PlannedTrial, Scenario, full_name
from evaluation.schema import EventRow, Trial
from evaluation.trial_rows import build_trial, event_rows
from streaming import pipeline, strategies
from streaming.clock import Clock, utc_now
from streaming.errors import UsageError
from streaming.events import Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import CostModel
from streaming.pipeline import Outcome
from streaming.retry import NO_RETRY, RetryPolicy
from streaming.session import Session
from streaming.trace import Probe

WARM_UP_PROMPT = "Say hello."
WARM_UP_TOKENS = 16


class ProviderAccess(Protocol):
    """The part of `providers.ProviderRegistry` that trials use."""

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session: ...

    def cost_model(self, name: str) -> CostModel: ...


@dataclass(frozen=True, slots=True)
class TrialContext:
    """Settings and services shared by all trials of a run.

    `clock` has the event loop's timebase; `mask` removes secrets from error messages.
    """

    run_id: str
    scenario: Scenario
    access: ProviderAccess
    clock: Clock
    mask: Callable[[str], str] = str
    deadlines: TokenDeadlines = field(default_factory=TokenDeadlines)
    reader: ReaderModel = field(default_factory=ReaderModel)
    backend: TimedBackend | None = None
    """Sends the requests that were prepared for it; all others go through the pipeline in this process."""
    models: Mapping[str, str] = field(default_factory=dict)
    """The models of providers that are requested without a model name, for the tables."""
    resume_count: int = 0
    """The number of times the run was resumed. It is part of the trial id, so that a request cut off by a kill is sent
    again under another id."""

    def trial_id(self, planned: PlannedTrial) -> str:
        """Return the trial's id, which its request carries as `X-Client-Request-Id`."""
        again = f"-r{self.resume_count}" if self.resume_count else ""
        return f"{self.run_id}-{planned.number:05d}{again}"


@dataclass(frozen=True, slots=True)
class TrialResponse:
    """A trial's answer with its timestamps.

    `ending` holds the columns that describe how the answer ended; `instrument` those that describe how it was measured
    (`stamp_source`, `connect_s`, `merged_reads`, …).
    """

    started_at: str
    ending: dict[str, Any]
    outcome: Outcome
    usage: Usage
    stamps: trial_metrics.TimedEvents
    instrument: dict[str, Any]


async def run_trial(context: TrialContext, planned: PlannedTrial) -> TrialResponse:
    """Send a trial's request and return the timed response. Failed answers are returned, not raised."""
    return await execute(context, _trial_request(context, planned))


def trial_rows(
    context: TrialContext, planned: PlannedTrial, response: TrialResponse, intended_s: float | None = None
) -> tuple[Trial, list[EventRow]]:
    """Compute a trial's row and event rows from its timed response; takes a millisecond or two.

    `intended_s` is the time at which the request was due, in seconds on the context's clock; None if it had none.
    """
    events = list(event_rows(context.run_id, context.trial_id(planned), response.stamps))
    return _trial_row(context, planned, response, intended_s), events


def _trial_row(
    context: TrialContext, planned: PlannedTrial, response: TrialResponse, intended_s: float | None
) -> Trial:
    how = response.instrument
    answer = trial_metrics.MeasuredAnswer(
        response.stamps,
        response.outcome,
        response.usage,
        how | response.ending,
        intended_s,
        context.deadlines,
        context.reader,
    )
    provider, _, model = planned.provider.partition(":")
    model = model or context.models.get(provider, "")
    return build_trial(
        answer,
        run_id=context.run_id,
        trial_id=context.trial_id(planned),
        prompt_id=planned.prompt.id,
        name=context.scenario.trial_name(full_name(provider, model), planned.effort),
        provider=provider,
        model=model or None,
        strategy=planned.strategy,
        transport=planned.transport,
        level=context.scenario.level,
        repeat=planned.repeat,
        block=planned.block,
        fresh=planned.fresh,
        started_at=response.started_at,
        effort=planned.effort,
        disturbed=is_disturbed(how.get("stamp_source"), how.get("merged_reads"), how.get("loop_lag_max_s")),
    )


async def warm_up(context: TrialContext, provider: str, transport: str = IN_PROCESS) -> TrialResponse:
    """Send one short request whose response is not recorded."""
    return await execute(context, _warm_up_request(context, provider, transport))


async def prepare(context: TrialContext, planned: Iterable[PlannedTrial]) -> dict[str, Any]:
    """Prepare all requests before the load; return how they will be measured, for the manifest's `instrument` list."""
    if context.backend is None:
        return {"stamped_sockets": [], "real_time_priority": False}
    for trial in planned:
        await context.backend.prepare(_trial_request(context, trial))
        if context.scenario.warm_up:
            await context.backend.prepare(_warm_up_request(context, trial.provider, trial.transport))
    return context.backend.start()


def describe_outcome(response: TrialResponse) -> str:
    """Return the outcome in words: `completed`, or the outcome followed by the error message."""
    why = response.ending.get("error_message")
    return f"{response.outcome}: {why}" if why else response.outcome


def _trial_request(context: TrialContext, planned: PlannedTrial) -> TrialRequest:
    request = _chat_request(
        context.scenario, planned.prompt.text, context.scenario.max_tokens, context.trial_id(planned)
    )
    request = replace(request, effort=planned.effort)
    return TrialRequest(planned.provider, planned.strategy, planned.transport, request)


def _warm_up_request(context: TrialContext, provider: str, transport: str) -> TrialRequest:
    request = _chat_request(context.scenario, WARM_UP_PROMPT, WARM_UP_TOKENS, f"{context.run_id}-warm-up")
    request = replace(request, effort=next(iter(context.scenario.effort), None))
    return TrialRequest(provider, "direct", transport, request)


def _chat_request(scenario: Scenario, text: str, max_tokens: int, request_id: str) -> ChatRequest:
    return ChatRequest(
        (Message("user", text),),
        temperature=scenario.temperature,
        max_tokens=min(max_tokens, scenario.max_tokens),
        request_id=request_id,
    )


async def execute(context: TrialContext, call: TrialRequest) -> TrialResponse:
    """Run one answer to its end. Any exception, even from a defect in an adapter, becomes the outcome of the trial."""
    if context.backend is not None and call.transport != IN_PROCESS:
        return await _send_timed(context, call, _send_to_service(context, context.backend, call))
    if context.backend is not None and context.backend.supports(call):
        return await _send_timed(context, call, _send_to_vendor(context, context.backend, call))
    return await _run_in_process(context, call)


ResponseParts = tuple[trial_metrics.TimedEvents, dict[str, Any], Outcome, Usage, dict[str, Any]]
"""Timed events, instrument columns, outcome, usage, and the other columns that describe the ending."""


async def _send_timed(context: TrialContext, call: TrialRequest, answering: Awaitable[ResponseParts]) -> TrialResponse:
    started_at, called_s = utc_now(), context.clock()
    source = () if call.transport == IN_PROCESS else None
    stamps, instrument = trial_metrics.TimedEvents(called_s, source, (), sent=False), dict[str, Any]()
    try:
        stamps, instrument, outcome, usage, ending = await answering
    except Exception as error:
        outcome, usage, ending = "failed", Usage(), _defect_columns(error)
    return TrialResponse(started_at, _mask_ending(context, ending), outcome, usage, stamps, instrument)


async def _send_to_vendor(context: TrialContext, backend: TimedBackend, call: TrialRequest) -> ResponseParts:
    response = await backend.send(call)
    stamps = vendor_http.event_timestamps(response, strategies.parse(call.strategy).build())
    receipt = vendor_http.receipt(response, stamps.delivered, context.access.cost_model(call.provider))
    instrument = backends_call.instrument_columns(response.answer) | {"loop_lag_max_s": round(response.lag_s, 9)}
    return stamps, instrument, receipt.outcome, receipt.reading.usage, trial_metrics.outcome_columns(receipt)


async def _send_to_service(context: TrialContext, backend: TimedBackend, call: TrialRequest) -> ResponseParts:
    from evaluation.backends import service_decoder

    response = await backend.ask_service(call)
    cost_model = context.access.cost_model(call.provider)
    receipt = service_decoder.receipt_from_response(call.provider, call.request, response, cost_model)
    ending = service_decoder.ending_columns(receipt, response.outcome)
    return response.stamps, response.instrument, receipt.outcome, receipt.reading.usage, ending


async def _run_in_process(context: TrialContext, call: TrialRequest) -> TrialResponse:
    request, machine = call.request, strategies.parse(call.strategy).build()
    watch, started_at = LoopLagMonitor(), utc_now()
    probe = Probe(context.clock)
    try:
        session = context.access.new_session(
            [call.provider], clock=context.clock, policy=_retry_policy(context.scenario)
        )
        probe = Probe(context.clock)
        answer = pipeline.stream_answer(
            request, session, machine, clock=context.clock, cost_model=context.access.cost_model, probe=probe
        )
        async with aclosing(answer) as events:
            async for _ in events:
                pass
        receipt = answer.receipt()
        outcome, usage, ending = receipt.outcome, receipt.reading.usage, trial_metrics.outcome_columns(receipt)
    except Exception as error:
        outcome, usage, ending = "failed", Usage(), _defect_columns(error)
    finally:
        lag_s = watch.stop()
    stamps = trial_metrics.TimedEvents(probe.called_s, probe.source, probe.delivered)
    instrument = {"stamp_source": "in-process", "loop_lag_max_s": round(lag_s, 9)}
    return TrialResponse(started_at, _mask_ending(context, ending), outcome, usage, stamps, instrument)


def _defect_columns(error: Exception) -> dict[str, Any]:
    kind = "usage" if isinstance(error, UsageError) else "internal"
    return {"error_type": kind, "error_message": f"{type(error).__name__}: {error}"}


def _mask_ending(context: TrialContext, ending: dict[str, Any]) -> dict[str, Any]:
    message = ending.get("error_message")
    return ending | {"error_message": context.mask(message)} if message else ending


def _retry_policy(scenario: Scenario) -> RetryPolicy:
    return RetryPolicy(max_retries=scenario.retries, fallback=False) if scenario.retries else NO_RETRY

"""Runs one trial: builds its request, sends it over its backend, and builds its rows from the response."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from evaluation.answer_checks import AnswerCheck
from evaluation.backends.base import ProviderAccess, TimedResponse, TrialRequest
from evaluation.backends.interference import is_disturbed
from evaluation.backends.registry import RunBackends
from evaluation.metrics.trial_metrics import MeasuredAnswer
from evaluation.runner.sender import TrialSender
from evaluation.scenario import IN_PROCESS, PlannedTrial, Scenario, full_name, prompt_text
from evaluation.schema import EventRow, Trial, build_trial, event_rows
from streaming.clock import Clock
from streaming.events import TextDelta
from streaming.messages import ChatRequest, Message

WARM_UP_PROMPT = "Say hello."
WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class TrialContext:
    """Settings and services shared by all trials of a run. `clock` has the event loop's timebase."""

    run_id: str
    scenario: Scenario
    access: ProviderAccess
    clock: Clock
    backends: RunBackends
    sender: TrialSender
    models: Mapping[str, str] = field(default_factory=dict)
    """The models of providers that are requested without a model name, for the tables."""
    resume_count: int = 0
    """The number of times the run was resumed. It is part of the trial id, so that a request cut off by a kill is sent
    again under another id."""

    def trial_id(self, planned: PlannedTrial) -> str:
        """Return the trial's id, which its request carries as `X-Client-Request-Id`."""
        again = f"-r{self.resume_count}" if self.resume_count else ""
        return f"{self.run_id}-{planned.number:05d}{again}"


async def run_trial(context: TrialContext, planned: PlannedTrial) -> TimedResponse:
    """Send a trial's request and return the timed response. Failed answers are returned, not raised.

    Raises ProviderEndedError when the provider's part of the run has ended.
    """
    return await context.sender.send(trial_request(context, planned))


def trial_rows(
    context: TrialContext, planned: PlannedTrial, response: TimedResponse, intended_s: float | None = None
) -> tuple[Trial, list[EventRow]]:
    """Compute a trial's row and event rows from its timed response; takes a millisecond or two.

    `intended_s` is the time at which the request was due, in seconds on the context's clock; None if it had none.
    """
    events = list(event_rows(context.run_id, context.trial_id(planned), response.stamps))
    return _trial_row(context, planned, response, intended_s), events


def _trial_row(
    context: TrialContext, planned: PlannedTrial, response: TimedResponse, intended_s: float | None
) -> Trial:
    how = response.instrument
    answer = MeasuredAnswer(
        response.stamps,
        response.outcome,
        response.usage,
        asdict(how) | response.ending,
        intended_s,
        context.scenario.deadlines,
        context.scenario.reader,
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
        correct=_is_correct(planned.prompt.check, response),
        started_at=response.started_at,
        effort=planned.effort,
        disturbed=is_disturbed(how.stamp_source, how.merged_reads, how.loop_lag_max_s),
    )


def _is_correct(check: AnswerCheck | None, response: TimedResponse) -> bool | None:
    """Return whether an answer is right, an answer that was not completed never; None without a check."""
    if check is None or response.outcome == "cancelled":
        return None
    events = response.stamps.first_end
    text = "".join(timed.event.text for timed in events if isinstance(timed.event, TextDelta))
    return response.outcome == "completed" and check.is_correct(text)


async def warm_up(context: TrialContext, provider: str, transport: str = IN_PROCESS) -> TimedResponse:
    """Send one short request whose response is not recorded."""
    return await context.sender.send(_warm_up_request(context, provider, transport))


async def prepare(context: TrialContext, planned: Iterable[PlannedTrial]) -> dict[str, Any]:
    """Prepare all requests before the load; return how they will be measured, for the manifest's `instrument` list."""
    for trial in planned:
        await context.backends.prepare(trial_request(context, trial))
        if context.scenario.warm_up:
            await context.backends.prepare(_warm_up_request(context, trial.provider, trial.transport))
    return context.backends.start()


def describe_outcome(response: TimedResponse) -> str:
    """Return the outcome in words: `completed`, or the outcome followed by the error message."""
    why = response.ending.get("error_message")
    return f"{response.outcome}: {why}" if why else response.outcome


def trial_request(context: TrialContext, planned: PlannedTrial) -> TrialRequest:
    """Return the request of a trial, with the trial's id."""
    seed = context.trial_id(planned) if context.scenario.nonce == "trial" else context.run_id
    text = prompt_text(planned, seed)
    request = _chat_request(context.scenario, text, context.scenario.max_tokens, context.trial_id(planned))
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

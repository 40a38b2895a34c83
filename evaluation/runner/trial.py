"""Runs one trial: builds its request, sends it over its backend, and builds its rows from the response.

`TrialSender` waits while a provider rests after a rate limit, and asks again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from evaluation.backends.base import ProviderAccess, RequestHeldError, TimedResponse, TrialRequest
from evaluation.backends.interference import is_disturbed
from evaluation.backends.registry import RunBackends
from evaluation.metrics import iter_metrics
from evaluation.metrics.metric import MetricValue
from evaluation.metrics.trial_metrics import MeasuredAnswer
from evaluation.prompts.conversation import Conversation
from evaluation.runner.messages import build_body, trial_messages
from evaluation.runner.resume import REFUSED_STATUSES
from evaluation.scenario import PlannedTrial, Scenario, full_name
from evaluation.schema import EventRow, Trial, build_trial, event_rows
from evaluation.transports import IN_PROCESS
from evaluation.workloads.bodies import BodyBuilder
from streaming.clock import Clock, monotonic
from streaming.events import text_of
from streaming.http.timed_exchange import Gate
from streaming.messages import ChatRequest, Message
from streaming.retry import RetryPolicy

MAX_REFUSALS = 10
"""Refused starts in a row after which a provider's part of the run ends."""
MAX_REST_S = 120.0
"""The longest wait that a provider may name; its part of the run ends instead of a longer one."""
_REFUSAL_KINDS = ("rate_limited", "server_error")
"""A billing error may have the status of a rate limit, but waiting does not help."""
_RETRIED_KINDS = (
    *_REFUSAL_KINDS, "network", "timeout", "connect_timeout", "first_content_timeout", "idle_timeout", "truncated",
)  # fmt: skip


class ProviderEndedError(Exception):
    """A provider's part of the run has ended: it refused too often, or asked for too long a wait."""


@dataclass(slots=True)
class _ProviderState:
    rest_until_s: float = 0.0
    running: int = 0
    refusals: int = 0
    """Refused starts in a row, without an answer and while none was under way."""
    ended: str | None = None


@dataclass(slots=True)
class TrialSender:
    """Sends each request until its provider starts to answer; `clock` has the event loop's timebase.

    A start that is refused with 429, 503 or 529 is not the outcome of a trial: the provider rests for the wait that it
    named, or for the next of `policy.delays_s`, and the request is sent again. All its other requests wait as well.
    After `MAX_REFUSALS` in a row the provider's part of the run ends. Other failures without any text are sent again
    up to `policy.max_retries` times.
    """

    send_once: Callable[[TrialRequest, Gate | None], Awaitable[TimedResponse]]
    clock: Clock
    policy: RetryPolicy
    _providers: dict[str, _ProviderState] = field(default_factory=dict)

    @property
    def ended(self) -> dict[str, str]:
        """The providers whose part of the run has ended, with the reason."""
        return {name: state.ended for name, state in self._providers.items() if state.ended is not None}

    @property
    def rests_s(self) -> dict[str, float]:
        """How much longer each provider rests that turned away a request, in seconds."""
        now_s = self.clock()
        left_s = {name: state.rest_until_s - now_s for name, state in self._providers.items() if state.ended is None}
        return {name: rest_s for name, rest_s in left_s.items() if rest_s > 0}

    async def send(self, call: TrialRequest, gate: Gate | None = None) -> TimedResponse:
        """Send a request and return the response that counts, with the columns of its attempts.

        The first attempt is sent when `gate` returns, its connection opened before, unless the provider rests then.
        Raises ProviderEndedError when the provider's part of the run has ended.
        """
        provider, history = self._providers.setdefault(call.provider, _ProviderState()), _Attempts()
        while True:
            if gate is None:
                history.refused_wait_s += await self._wait_for_rest(provider)
            attempt, gate = _Attempt(provider, self.clock, gate), None
            try:
                response = await attempt.send(self.send_once, call)
            except RequestHeldError:
                continue
            history.sent += response.ending.get("attempts") or 1
            if is_refused_start(response):
                history.refused += 1
                history.refused_wait_s += self.clock() - attempt.from_s
                self._rest(provider, response, history.refused)
            elif _may_be_retried(response) and history.retried < self.policy.max_retries:
                await asyncio.sleep(self._delay_s(history.retried))
                history.retried += 1
                history.retry_wait_s += self.clock() - attempt.from_s
            else:
                provider.refusals = 0
                return history.add_to(response)

    async def _wait_for_rest(self, provider: _ProviderState) -> float:
        """Wait until the provider may be asked, and return how long that was, in seconds; 0 if it does not rest."""
        from_s = now_s = self.clock()
        while True:
            if provider.ended is not None:
                raise ProviderEndedError(provider.ended)
            if provider.rest_until_s <= now_s:
                return now_s - from_s
            await asyncio.sleep(provider.rest_until_s - now_s)
            now_s = self.clock()

    def _rest(self, provider: _ProviderState, response: TimedResponse, refused: int) -> None:
        named_s = response.retry_after_s
        wait_s = self._delay_s(refused - 1) if named_s is None else named_s
        # A provider with answers under way limits their number: that the next one has to wait is no sign of an end.
        provider.refusals += not provider.running
        why = response.ending.get("error_message") or f"status {response.ending.get('http_status')}"
        if wait_s > MAX_REST_S:
            provider.ended = f"it asked for a wait of {wait_s:g} s ({why})"
        elif provider.refusals >= MAX_REFUSALS:
            provider.ended = f"it refused {provider.refusals} requests in a row ({why})"
        provider.rest_until_s = max(provider.rest_until_s, self.clock() + wait_s)

    def _delay_s(self, done: int) -> float:
        return self.policy.delays_s[min(done, len(self.policy.delays_s) - 1)]


class _Attempt:
    """One attempt to send a request, which begins when its gate returns, at `from_s`."""

    def __init__(self, provider: _ProviderState, clock: Clock, gate: Gate | None) -> None:
        self.from_s = clock()
        self._provider, self._clock, self._gate = provider, clock, gate
        self._is_running = False

    async def send(
        self, send_once: Callable[[TrialRequest, Gate | None], Awaitable[TimedResponse]], call: TrialRequest
    ) -> TimedResponse:
        """Return the response, and count the attempt as running. Raises RequestHeldError if the provider rests."""
        if self._gate is None:
            self._begin()
        try:
            return await send_once(call, None if self._gate is None else self._wait)
        finally:
            self._provider.running -= self._is_running

    async def _wait(self) -> None:
        assert self._gate is not None  # else nothing waits
        await self._gate()
        if self._provider.ended is not None or self._provider.rest_until_s > self._clock():
            raise RequestHeldError
        self._begin()

    def _begin(self) -> None:
        self.from_s, self._is_running = self._clock(), True
        self._provider.running += 1


@dataclass(slots=True)
class _Attempts:
    """The attempts of one trial, and the time spent on failed ones in seconds."""

    sent: int = 0
    refused: int = 0
    retried: int = 0
    refused_wait_s: float = 0.0
    retry_wait_s: float = 0.0

    def add_to(self, response: TimedResponse) -> TimedResponse:
        """Return the response with what is known about its attempts; `retry_wait_s` is no column."""
        result = {"attempts": self.sent, "refused_starts": self.refused}
        waits_s = {"refused_wait_s": round(self.refused_wait_s, 9), "retry_wait_s": self.retry_wait_s}
        return replace(response, ending=response.ending | result | waits_s)


def is_refused_start(response: TimedResponse) -> bool:
    """Return whether the provider refused to start for now: 429 or 529, or 503 with a named wait, before any text."""
    status = response.ending.get("http_status")
    if response.outcome != "failed" or status not in REFUSED_STATUSES or _has_text(response):
        return False
    return response.ending.get("error_type") in _REFUSAL_KINDS and (status != 503 or response.retry_after_s is not None)


def _may_be_retried(response: TimedResponse) -> bool:
    failed = response.outcome in ("failed", "truncated")
    return failed and response.ending.get("error_type") in _RETRIED_KINDS and not _has_text(response)


def _has_text(response: TimedResponse) -> bool:
    return bool(answer_text(response))


STEP_S = 0.0002
"""How long the metrics of an answer are computed before control returns to the event loop."""
WARM_UP_PROMPT = "Say hello."
WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class TrialContext:
    """Settings and services shared by all trials of a run. `clock` has the event loop's timebase.

    `bodies` builds the texts of a workload.
    """

    run_id: str
    scenario: Scenario
    access: ProviderAccess
    clock: Clock
    backends: RunBackends
    sender: TrialSender
    bodies: BodyBuilder = field(default_factory=BodyBuilder)
    models: Mapping[str, str] = field(default_factory=dict)
    """The models of providers that are requested without a model name, for the tables."""
    resume_count: int = 0
    """The number of times the run was resumed. It is part of the trial id, so that a request cut off by a kill is sent
    again under another id."""

    def trial_id(self, planned: PlannedTrial) -> str:
        """Return the trial's id, which its request carries as `X-Client-Request-Id`."""
        again = f"-r{self.resume_count}" if self.resume_count else ""
        return f"{self.run_id}-{planned.number:05d}{again}"

    def nonce_seed(self, planned: PlannedTrial) -> str:
        """Return what the nonce of a trial is made from: the trial's id if each has its own, else the run's."""
        return self.trial_id(planned) if self.scenario.nonce == "trial" else self.run_id


async def trial_rows(
    context: TrialContext,
    planned: PlannedTrial,
    response: TimedResponse,
    intended_s: float | None = None,
    conversation: Conversation | None = None,
) -> tuple[Trial, Iterator[EventRow]]:
    """Compute a trial's row and event rows from its timed response, and let the event loop run in between.

    `intended_s` is the time at which the request was due, in seconds on the context's clock; None if it had none.
    """
    answer = MeasuredAnswer(
        response.stamps,
        response.outcome,
        response.usage,
        asdict(response.instrument) | response.ending | _asked_columns(context, planned, conversation),
        intended_s,
        context.scenario.deadlines,
        context.scenario.reader,
    )
    trial = await _trial_row(context, planned, response, answer, conversation)
    return trial, event_rows(context.run_id, context.trial_id(planned), response.stamps)


async def _trial_row(
    context: TrialContext,
    planned: PlannedTrial,
    response: TimedResponse,
    answer: MeasuredAnswer,
    conversation: Conversation | None,
) -> Trial:
    how = response.instrument
    provider, _, model = planned.provider.partition(":")
    model = model or context.models.get(provider, "")
    return build_trial(
        answer,
        await compute_in_steps(answer),
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
        correct=_is_correct(planned, response),
        conversation=conversation.id if conversation else None,
        turn=conversation.turn if conversation else None,
        started_at=response.started_at,
        effort=planned.effort,
        disturbed=is_disturbed(how.stamp_source, how.merged_reads, how.loop_lag_max_s),
    )


async def compute_in_steps(answer: MeasuredAnswer, clock: Clock = monotonic) -> dict[str, MetricValue]:
    """Return the metrics of an answer; about `STEP_S` of work is done in each turn of the event loop.

    So requests start on time, and a short answer takes few turns.
    """
    metrics: dict[str, MetricValue] = {}
    due_s = clock() + STEP_S
    for name, value in iter_metrics(answer):
        metrics[name] = value
        if clock() >= due_s:
            await asyncio.sleep(0)
            due_s = clock() + STEP_S
    return metrics


def _asked_columns(context: TrialContext, planned: PlannedTrial, conversation: Conversation | None) -> dict[str, Any]:
    """Return the lengths that a workload or a conversation asked for, and that of the chat template."""
    prompt = planned.prompt
    if prompt.body is None:
        return {"context_tokens": conversation.context_tokens} if conversation else {}
    lengths = {"asked_input_tokens": prompt.body.tokens, "asked_output_tokens": prompt.max_tokens}
    return lengths | {"template_tokens": context.bodies.template_tokens(planned.provider)}


def _is_correct(planned: PlannedTrial, response: TimedResponse) -> bool | None:
    """Return whether an answer is right, an answer that was not completed never; None without a check.

    Of a conversation the last answer is checked.
    """
    check = planned.prompt.check if planned.turn > len(planned.prompt.turns) else None
    if check is None or response.outcome == "cancelled":
        return None
    return response.outcome == "completed" and check.is_correct(answer_text(response))


def answer_text(response: TimedResponse) -> str:
    """Return the text of an answer, as it came from the provider or the service."""
    return text_of(response.stamps.first_end)


async def warm_up(context: TrialContext, provider: str, transport: str = IN_PROCESS) -> TimedResponse:
    """Send one short request whose response is not recorded, and measure the provider's chat template by it."""
    response = await context.sender.send(_warm_up_request(context, provider, transport))
    await context.bodies.measure_template(provider, WARM_UP_PROMPT, response.usage)
    return response


async def prepare(context: TrialContext, planned: Iterable[PlannedTrial]) -> dict[str, Any]:
    """Prepare all requests before the load; return how they will be measured, for the manifest's `instrument` list."""
    warmed: dict[tuple[str, str], None] = {}
    for trial in planned:
        await prepare_trial(context, trial)
        warmed[trial.provider, trial.transport] = None
    for provider, transport in warmed if context.scenario.warm_up else ():
        await context.backends.prepare(_warm_up_request(context, provider, transport))
    return context.backends.start()


async def prepare_trial(context: TrialContext, planned: PlannedTrial) -> None:
    """Prepare the request of one trial before the load; later turns of a conversation are prepared one by one.

    Raises UsageError when no tokens are counted any more.
    """
    if planned.turn > 1:
        return
    await build_body(planned, context.nonce_seed(planned), context.bodies)
    await context.backends.prepare(trial_request(context, planned))


def describe_outcome(response: TimedResponse) -> str:
    """Return the outcome in words: `completed`, or the outcome followed by the error message."""
    why = response.ending.get("error_message")
    return f"{response.outcome}: {why}" if why else response.outcome


def trial_request(
    context: TrialContext, planned: PlannedTrial, conversation: Conversation | None = None
) -> TrialRequest:
    """Return the request of a trial, with the trial's id; of a turn of a conversation with what was said before."""
    scenario = context.scenario
    if conversation is None:
        messages = trial_messages(planned, context.nonce_seed(planned), context.bodies)
    else:
        messages = conversation.messages
    request = ChatRequest(
        messages,
        temperature=scenario.temperature,
        max_tokens=scenario.max_tokens_of(planned.prompt),
        request_id=context.trial_id(planned),
        effort=planned.effort,
        ignores_end=planned.prompt.body is not None,
    )
    return TrialRequest(planned.provider, planned.strategy, planned.transport, request)


def _warm_up_request(context: TrialContext, provider: str, transport: str) -> TrialRequest:
    scenario = context.scenario
    request = ChatRequest(
        (Message("user", WARM_UP_PROMPT),),
        temperature=scenario.temperature,
        max_tokens=min(WARM_UP_TOKENS, scenario.max_tokens),
        request_id=f"{context.run_id}-warm-up",
        effort=next(iter(scenario.effort), None),
    )
    return TrialRequest(provider, "direct", transport, request)

"""The attempts of an answer: timeouts, retries, fallbacks, the state machine, and exactly one terminal event.

A session belongs to one conversation. After a successful non-streamed fallback the session stays non-streamed, and
reports that in a notice, until `streamed` is set again.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from streaming.adapter import Adapter
from streaming.clock import Clock
from streaming.deadline import Deadline, DeadlineExceededError
from streaming.errors import (
    FirstContentTimeout,
    IdleTimeout,
    InternalError,
    StreamError,
    StreamTimeout,
    TotalTimeout,
    TruncatedStreamError,
)
from streaming.events import Event, Failed, Finish, Grammar, Notice, TextDelta, ThinkingDelta
from streaming.messages import ChatRequest
from streaming.retry import (
    TRANSITIONS,
    AttemptState,
    Decision,
    FallBackToNonStreaming,
    GiveUp,
    Retry,
    RetryPolicy,
    State,
    Transition,
    decide,
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts in seconds. The adapters enforce `connect_s`, the session enforces the others.

    `first_content_s` and `idle_s` apply to streamed requests. Keep-alives do not count as content.
    """

    connect_s: float = 10.0
    first_content_s: float = 60.0
    idle_s: float = 30.0
    total_s: float = 600.0
    first_content_unseen_s: float | None = None
    """Replaces `first_content_s` for models that think without showing it; None: the same timeout as for others."""

    def for_thinking(self, *, unseen: bool) -> "Timeouts":
        """Return the timeouts for one model. `unseen`: the model thinks before it sends any content."""
        if not unseen or self.first_content_unseen_s is None:
            return self
        return replace(self, first_content_s=self.first_content_unseen_s)


@dataclass(frozen=True, slots=True)
class Route:
    """One provider and model to try. `name` is the full `provider:model`, `model` is the model name for the adapter.

    `thinks_unseen`: the model thinks before it sends any content, so its first content may take longer.
    """

    name: str
    adapter: Adapter
    model: str
    thinks_unseen: bool = False


@dataclass(slots=True)
class _Attempt:
    """The next attempt, and the routes that failed before it."""

    route: int = 0
    streamed: bool = True
    in_fallback: bool = False
    retries_done: int = 0
    failures: tuple[str, ...] = ()


_log = logging.getLogger(__name__)
_CONTENT_EVENTS = (TextDelta, ThinkingDelta, Finish)
_STILL_NOT_STREAMED_TEXT = (
    "Streaming is off since the last failure; this request is not streamed. You can turn streaming on again."
)
_STREAMING_OFF_TEXT = "Streaming is off for this conversation until you turn it on again."


class Session:
    """The routes of one conversation, tried in order until one answers. Runs one answer at a time.

    `clock` must have the running loop's timebase. `streamed` is the conversation's mode. `states` are the states of
    the current answer, the current state last; `route` and `attempts` also describe the current answer.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        clock: Clock,
        *,
        policy: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.routes = tuple(routes)
        self.streamed = True
        self.states: list[State] = ["idle"]
        self.route = self.routes[0]
        self.attempts = 0
        self.fell_back_to: str | None = None
        self._clock = clock
        self._policy = policy or RetryPolicy()
        self._timeouts = timeouts or Timeouts()
        self._rng = rng

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the events of one answer. A failure ends in one `Failed` event, never in an exception."""
        self.states, self.attempts, self.fell_back_to = ["idle"], 0, None
        total_at_s = self._clock() + self._timeouts.total_s
        attempt = _Attempt(streamed=self.streamed and request.streamed)
        try:
            if request.streamed and not self.streamed:
                yield Notice("non_streamed", _STILL_NOT_STREAMED_TEXT)
            while True:
                text_delivered = False
                try:
                    async with aclosing(self._run_attempt(attempt, request, total_at_s)) as events:
                        async for event in events:
                            text_delivered = text_delivered or isinstance(event, TextDelta)
                            yield event
                    return
                except StreamError as excinfo:
                    error = excinfo
                except Exception as defect:
                    _log.exception("internal error in %s", self.route.name)
                    error = InternalError(f"internal error: {type(defect).__name__} (the log has the traceback)")
                decision = self._decide(error, attempt, text_delivered, total_at_s)
                if isinstance(decision, GiveUp):
                    self._transition("fail")
                    yield Failed(error.kind, error.message, error.http_status)
                    return
                yield self._decision_notice(decision, error, attempt)
                if isinstance(decision, Retry):
                    self._transition("retry")
                    await asyncio.sleep(decision.delay_s)
                attempt = self._next_attempt(attempt, decision, request)
        finally:
            self._mark_cancelled()

    @property
    def state(self) -> State:
        """The current state of the answer."""
        return self.states[-1]

    @property
    def limits(self) -> Timeouts:
        """The timeouts of the current route."""
        return self._timeouts.for_thinking(unseen=self.route.thinks_unseen)

    def _mark_cancelled(self) -> None:
        if self.state in ("streaming", "retrying", "fallback"):
            self._transition("cancel")

    def _transition(self, trigger: Transition) -> None:
        self.states.append(TRANSITIONS[self.state, trigger])

    async def _run_attempt(
        self, attempt: _Attempt, request: ChatRequest, total_at_s: float
    ) -> AsyncGenerator[Event, None]:
        """Run one attempt: yield its events up to the Finish, and enforce the timeouts and the grammar."""
        route = self.route = self.routes[attempt.route]
        self.attempts += 1
        self._transition("stream" if attempt.streamed else "ask_whole")
        grammar, limits, content, announced = Grammar(), self.limits, False, not attempt.failures
        due_s = self._clock() + limits.first_content_s if attempt.streamed else total_at_s
        deadline = Deadline(self._clock, min(due_s, total_at_s))
        attempt_request = replace(request, model=route.model, streamed=attempt.streamed)
        async with aclosing(route.adapter.stream(attempt_request)) as stream:
            try:
                while True:
                    event = await deadline.wait(anext(stream, None))
                    if event is None:
                        raise TruncatedStreamError(
                            "answer: the stream ended without a finish reason (the text may be incomplete)"
                        )
                    grammar.feed(event)
                    content = content or isinstance(event, _CONTENT_EVENTS)
                    if content and not announced:
                        announced = True
                        yield self._served_by_notice(attempt)
                    if isinstance(event, Finish):
                        break
                    yield event
                    if content and attempt.streamed:
                        due_s = self._clock() + limits.idle_s
                        deadline.reschedule(min(due_s, total_at_s))
            except DeadlineExceededError:
                raise self._timeout_error(due_s >= total_at_s, content) from None
            finally:
                deadline.close()
            if attempt.in_fallback:
                self.streamed = False
                yield Notice("non_streamed", _STREAMING_OFF_TEXT)
            self._transition("finish")
            yield event

    def _timeout_error(self, total: bool, content: bool) -> StreamTimeout:
        limits = self.limits
        if total:
            return TotalTimeout(f"answer: not complete within {limits.total_s:g} s (request fewer max tokens)")
        if content:
            return IdleTimeout(f"answer: no more content for {limits.idle_s:g} s (try again)")
        return FirstContentTimeout(f"answer: no content within {limits.first_content_s:g} s (try again)")

    def _decide(self, error: StreamError, attempt: _Attempt, text_delivered: bool, total_at_s: float) -> Decision:
        left = len(self.routes) - attempt.route - 1
        situation = AttemptState(attempt.retries_done, attempt.streamed, attempt.in_fallback, text_delivered, left)
        decision = decide(self._policy, error, situation, self._rng)
        if isinstance(decision, Retry) and self._clock() + decision.delay_s >= total_at_s:
            return GiveUp()
        return decision

    def _next_attempt(self, attempt: _Attempt, decision: Decision, request: ChatRequest) -> _Attempt:
        if isinstance(decision, Retry):
            return replace(attempt, retries_done=attempt.retries_done + 1)
        failures = (*attempt.failures, self.route.name)
        if isinstance(decision, FallBackToNonStreaming):
            return replace(attempt, streamed=False, in_fallback=True, failures=failures)
        return _Attempt(attempt.route + 1, self.streamed and request.streamed, failures=failures)

    def _decision_notice(self, decision: Decision, error: StreamError, attempt: _Attempt) -> Notice:
        name = self.route.name
        if isinstance(decision, Retry):
            number = attempt.retries_done + 1
            message = (
                f"{name}: {error.message}. Retry {number} of {self._policy.max_retries} in {decision.delay_s:g} s."
            )
            return Notice("retry", message, {"delay_s": decision.delay_s, "retry": number, "error": error.kind})
        if isinstance(decision, FallBackToNonStreaming):
            message = f"{name}: {error.message}. Retrying without streaming."
            return Notice("fallback", message, {"to": name, "error": error.kind})
        after = self.routes[attempt.route + 1].name
        return Notice(
            "fallback", f"{name}: {error.message}. Falling back to {after}.", {"to": after, "error": error.kind}
        )

    def _served_by_notice(self, attempt: _Attempt) -> Notice:
        how = "" if attempt.streamed else ", not streamed,"
        self.fell_back_to = self.route.name
        failed = ", ".join(dict.fromkeys(attempt.failures))
        return Notice(
            "served_by", f"Served by {self.route.name}{how} after {failed} failed.", {"name": self.route.name}
        )

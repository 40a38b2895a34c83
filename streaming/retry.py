"""The decision about the next step after a failed attempt, as a pure function; `session` carries it out."""

import random
from dataclasses import dataclass
from typing import Literal

from streaming.errors import StreamError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number of retries and their backoff. `delays_s` are the waits before the retries; the last one repeats.

    If a provider's `Retry-After` is longer than `longest_wait_s`, the request is not retried. With `jitter`, each wait
    without a `Retry-After` is drawn between half of the delay and all of it, so that clients do not retry in step.
    """

    max_retries: int = 3
    delays_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    longest_wait_s: float = 60.0
    jitter: bool = False
    fallback: bool = True
    """Whether to send one more request, without streaming, to the same provider."""


NO_RETRY = RetryPolicy(max_retries=0, fallback=False)


@dataclass(frozen=True, slots=True)
class AttemptState:
    """The state of an answer when an attempt fails. `in_fallback`: that attempt was the non-streamed fallback."""

    retries_done: int
    streamed: bool
    in_fallback: bool
    text_delivered: bool
    routes_left: int


@dataclass(frozen=True, slots=True)
class Retry:
    """Send the same request again after `delay_s`."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class FallBackToNonStreaming:
    """Send the request to the same provider without streaming."""


@dataclass(frozen=True, slots=True)
class FallBackToNextRoute:
    """Send the request to the next provider in the list."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the answer with the error."""


Decision = Retry | FallBackToNonStreaming | FallBackToNextRoute | GiveUp


def decide(
    policy: RetryPolicy, error: StreamError, situation: AttemptState, rng: random.Random | None = None
) -> Decision:
    """Return the next step after `error`.

    After delivered text the answer always ends, and a failed non-streamed fallback is never repeated.
    """
    if situation.text_delivered or error.recovery == "fail":
        return GiveUp()
    if (error.retry_after_s or 0.0) <= policy.longest_wait_s and not situation.in_fallback:
        if error.recovery == "retry" and situation.retries_done < policy.max_retries:
            return Retry(_delay_s(policy, error, situation.retries_done, rng))
        if error.recovery in ("retry", "fallback") and error.falls_back and situation.streamed and policy.fallback:
            return FallBackToNonStreaming()
    return FallBackToNextRoute() if situation.routes_left else GiveUp()


def _delay_s(policy: RetryPolicy, error: StreamError, retries_done: int, rng: random.Random | None) -> float:
    if error.retry_after_s is not None:
        return error.retry_after_s
    delay_s = policy.delays_s[min(retries_done, len(policy.delays_s) - 1)]
    return delay_s * (rng or random).uniform(0.5, 1.0) if policy.jitter else delay_s


State = Literal["idle", "streaming", "retrying", "fallback", "succeeded", "failed", "cancelled"]
Transition = Literal["stream", "ask_whole", "retry", "finish", "fail", "cancel"]

TRANSITIONS: dict[tuple[State, Transition], State] = {
    ("idle", "stream"): "streaming",
    ("idle", "ask_whole"): "fallback",
    ("streaming", "retry"): "retrying",
    ("streaming", "stream"): "streaming",
    ("streaming", "ask_whole"): "fallback",
    ("streaming", "finish"): "succeeded",
    ("streaming", "fail"): "failed",
    ("streaming", "cancel"): "cancelled",
    ("retrying", "stream"): "streaming",
    ("retrying", "ask_whole"): "fallback",
    ("retrying", "fail"): "failed",
    ("retrying", "cancel"): "cancelled",
    ("fallback", "retry"): "retrying",
    ("fallback", "stream"): "streaming",
    ("fallback", "ask_whole"): "fallback",
    ("fallback", "finish"): "succeeded",
    ("fallback", "fail"): "failed",
    ("fallback", "cancel"): "cancelled",
}
"""All transitions of the error-handling state machine; any other is a defect.

`streaming` is a streamed attempt at any provider. `fallback` is a non-streamed attempt, whether the caller requested it
or it followed a failure. `succeeded`, `failed` and `cancelled` end an answer; the next answer starts from `idle`.
"""

"""What to do after an attempt failed: one pure decision. `session` carries it out."""

import random
from dataclasses import dataclass
from typing import Literal

from streaming.errors import StreamError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How much is tried. `delays_s` are the waits before the retries; the last one stands for all further ones.

    A provider that asks for more patience than `longest_wait_s` is not waited for at all. With `jitter` each wait
    without a `Retry-After` is drawn between half and all of it, so that many clients do not return together.
    """

    max_retries: int = 3
    delays_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    longest_wait_s: float = 60.0
    jitter: bool = False
    fallback: bool = True
    """Whether the same provider is asked once more without streaming."""


NO_RETRY = RetryPolicy(max_retries=0, fallback=False)


@dataclass(frozen=True, slots=True)
class AttemptState:
    """Where an answer stands when an attempt fails; `in_fallback`: it was the non-streamed fallback already."""

    retries_done: int
    streamed: bool
    in_fallback: bool
    text_delivered: bool
    routes_left: int


@dataclass(frozen=True, slots=True)
class Retry:
    """The same request once more, after `delay_s`."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class FallBackToNonStreaming:
    """The same provider, asked for the whole answer at once."""


@dataclass(frozen=True, slots=True)
class FallBackToNextRoute:
    """The next provider of the list."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The error is the answer's end."""


Decision = Retry | FallBackToNonStreaming | FallBackToNextRoute | GiveUp


def decide(
    policy: RetryPolicy, error: StreamError, situation: AttemptState, rng: random.Random | None = None
) -> Decision:
    """Decide. After delivered text nothing is tried; a failed non-streamed request is not repeated."""
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
"""The guide's error handling state machine; what is not here cannot happen.

`streaming` is a streamed attempt at any provider, `fallback` a non-streamed one, whether asked for or fallen back to.
The last three states are an answer's end; the next answer starts from `idle`.
"""

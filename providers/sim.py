"""The simulated provider, in this process: a schedule played on its own times, and always called simulated."""

from collections.abc import AsyncGenerator

from providers.moments import Moments
from providers.whole import whole
from simulator.schedules import Schedule, input_tokens, profile_named, schedule, seed_for
from streaming.clock import Clock, monotonic
from streaming.errors import NotFound, ServerError, TruncatedStream, UsageError
from streaming.events import Event, Finish, Notice, TextDelta, ThinkingDelta, Usage
from streaming.messages import ChatRequest

DEFAULT_PROFILE = "steady"


class SimAdapter:
    """Plays `request.model`, a profile of `simulator.schedules`; empty is `steady`.

    Times count from the first `anext`. The same `seed` and messages give the same answer always, and other messages
    another one. Usage is the schedule's own count of its output; the input is counted as one token for every four
    characters, as the simulator defines its tokens. A request that is not streamed takes the whole schedule's time.
    """

    def __init__(self, clock: Clock = monotonic, *, seed: int = 0) -> None:
        self._clock = clock
        self._seed = seed
        self._moments = Moments(clock)

    def check(self, model: str) -> None:
        """Raise UsageError, listing the profiles, unless `model` is one or empty."""
        profile_named(model or DEFAULT_PROFILE)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Give the events of one answer; see `streaming.adapter.Adapter`."""
        return self._play(request) if request.streamed else whole(self._play(request))

    async def aclose(self) -> None:
        """Nothing is held between requests."""

    async def _play(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        start_s = self._clock()
        prompt = "\n".join(message.content for message in request.messages)
        plan = self._plan(request, prompt)
        yield Notice("connected", f"Simulated, profile {plan.profile.name}: no model answers.")
        for step in plan.steps:
            await self._moments.until(start_s + step.at_s)
            yield TextDelta(step.text) if step.kind == "text" else ThinkingDelta(step.text)
        await self._moments.until(start_s + plan.end_at_s)
        if plan.finish_reason is None:
            raise _break(plan)
        yield Usage(input_tokens(prompt), plan.output_tokens, plan.thinking_tokens, cached_tokens=0)
        yield Finish(plan.finish_reason, plan.finish_reason)

    def _plan(self, request: ChatRequest, prompt: str) -> Schedule:
        try:
            profile = profile_named(request.model or DEFAULT_PROFILE)
        except UsageError as error:
            raise NotFound(str(error)) from None
        return schedule(profile, seed_for(self._seed, prompt), tokens=request.max_tokens)


def _break(plan: Schedule) -> TruncatedStream | ServerError:
    if plan.ending == "error":
        return ServerError("the simulated provider broke off with an error")
    return TruncatedStream("the simulated stream ended without a finish reason: the answer is cut")

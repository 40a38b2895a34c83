"""The simulated provider in this process: schedules of events, always labelled as simulated."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext

from providers.offline.buffered import buffer_events
from providers.offline.precise_sleep import PreciseSleeper
from simulator.schedules import (
    PROFILES,
    Profile,
    PromptCache,
    Schedule,
    get_profile,
    input_tokens,
    make_schedule,
    seed_for,
)
from streaming.adapter import ListedModel, UnpreparableRequest
from streaming.clock import Clock, monotonic
from streaming.errors import NotFoundError, ServerError, TruncatedStreamError, UsageError
from streaming.events import Event, Finish, Notice, TextDelta, ThinkingDelta, Usage
from streaming.messages import ChatRequest

DEFAULT_PROFILE = "steady"


class SimAdapter:
    """An adapter that streams the profile `request.model` of `simulator.schedules`; an empty name means `steady`.

    Times count from the first `anext`. The same `seed` and messages always produce the same answer; other messages
    produce another one. Only the profile `caching` starts sooner when it is asked again, and only `limited` makes
    requests wait for others. Output tokens are the
    schedule's own count; input is counted as one token for every four characters, which is how the simulator defines
    its tokens. A request without streaming takes the whole schedule's time.
    """

    def __init__(self, clock: Clock = monotonic, *, seed: int = 0, profiles: Mapping[str, Profile] = PROFILES) -> None:
        self._clock = clock
        self._seed = seed
        self._profiles = profiles
        self._sleeper = PreciseSleeper(clock)
        self._prompt_cache = PromptCache()
        self._slots: dict[str, asyncio.Semaphore] = {}

    def validate_model(self, model: str) -> None:
        """Raise UsageError with the names of the profiles, unless `model` is one of them or empty."""
        get_profile(model or DEFAULT_PROFILE, self._profiles)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Return the events of one answer; see `streaming.adapter.Adapter`."""
        return self._stream_schedule(request) if request.streamed else buffer_events(self._stream_schedule(request))

    async def prepare_request(self, request: ChatRequest) -> UnpreparableRequest:
        """Return that the simulation runs in this process."""
        return UnpreparableRequest("the simulated provider runs in this process")

    async def list_models(self) -> list[ListedModel]:
        """Return the profiles."""
        return [ListedModel(name) for name in self._profiles]

    async def aclose(self) -> None:
        """Do nothing, because no resources are held between requests."""

    async def _stream_schedule(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        prompt = "\n".join(message.content for message in request.messages)
        start_s = self._clock()
        plan = self._make_schedule(request, prompt)
        yield Notice("connected", f"Simulated, profile {plan.profile.name}: no model answers.")
        async with self._wait_for_slot(plan.profile):
            if plan.profile.slots is not None:
                start_s = self._clock()
            async with aclosing(self._play(plan, start_s, prompt)) as events:
                async for event in events:
                    yield event

    def _wait_for_slot(self, profile: Profile) -> AbstractAsyncContextManager[object]:
        """Return the context in which an answer of this profile is given; requests beyond its slots wait in order."""
        if profile.slots is None:
            return nullcontext()
        return self._slots.setdefault(profile.name, asyncio.Semaphore(profile.slots))

    async def _play(self, plan: Schedule, start_s: float, prompt: str) -> AsyncGenerator[Event, None]:
        for step in plan.steps:
            await self._sleeper.sleep_until(start_s + step.at_s)
            yield TextDelta(step.text) if step.kind == "text" else ThinkingDelta(step.text)
        await self._sleeper.sleep_until(start_s + plan.end_at_s)
        if plan.finish_reason is None:
            raise _broken_stream_error(plan)
        yield Usage(input_tokens(prompt), plan.output_tokens, plan.thinking_tokens, cached_tokens=0)
        yield Finish(plan.finish_reason, plan.finish_reason)

    def _make_schedule(self, request: ChatRequest, prompt: str) -> Schedule:
        try:
            profile = get_profile(request.model or DEFAULT_PROFILE, self._profiles)
        except UsageError as error:
            raise NotFoundError(str(error)) from None
        profile = self._prompt_cache.look_up(profile, prompt)
        return make_schedule(profile, seed_for(self._seed, prompt), tokens=request.max_tokens)


def _broken_stream_error(plan: Schedule) -> TruncatedStreamError | ServerError:
    if plan.ending == "error":
        return ServerError("answer: ended by an error of the simulated provider")
    return TruncatedStreamError(
        "answer: the simulated stream ended without a finish reason (the text may be incomplete)"
    )

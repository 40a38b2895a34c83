"""Seeded schedules of simulated answers. The same profile and seed always produce the same schedule. Performs no I/O.

Times are in seconds from the arrival of the complete request. A step is one token. The finish follows one gap after the
last token, because a model needs one more step to detect the end. Tokens of one `bursty` group share a timestamp.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Literal

from simulator import prose
from streaming.errors import UsageError

StepKind = Literal["text", "thinking"]
Ending = Literal["finish", "cut", "error"]
_MAX_CACHED_PROMPTS = 10_000
_GROUP_SIZES = (4, 12)
_GROUP_PAUSE_S = (0.08, 0.24)
"""The range of pauses between groups in seconds, below the 0.25 s stall threshold: bursts are not stalls."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A timing profile of an answer, with `ttft_s` to the first token.

    `tokens` text tokens follow `thinking_tokens` thinking tokens. `stalls_s` are pauses that replace a gap at positions
    chosen by the seed, in order. With `grouped`, tokens arrive in groups with pauses chosen by the seed instead of
    `gap_s`. The endings `cut` and `error` stop after half the tokens: `cut` closes the connection, and `error` sends
    the vendor's error event; of a `failing_share` of seeds the ending is `cut`. A prompt that was asked before starts
    after `cached_ttft_s`, if that is set: see `PromptCache`. With `hides_thinking`, thinking takes time and is counted
    but not sent, as in reasoning models. At most `slots` answers are given at a time, and others wait in order.
    """

    name: str
    ttft_s: float = 0.2
    gap_s: float = 0.02
    tokens: int = 64
    thinking_tokens: int = 0
    stalls_s: tuple[float, ...] = ()
    grouped: bool = False
    ending: Ending = "finish"
    hides_thinking: bool = False
    cached_ttft_s: float | None = None
    failing_share: float = 0.0
    slots: int | None = None


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile("steady"),
            Profile("bursty", grouped=True),
            Profile("slow-start", ttft_s=2.0),
            Profile("stalling", stalls_s=(0.6, 1.0)),
            Profile("caching", ttft_s=0.8, cached_ttft_s=0.1),
            Profile("flaky", ttft_s=0.15, gap_s=0.01, stalls_s=(0.7,), failing_share=0.3),
            Profile("thinking", thinking_tokens=24),
            Profile("limited", ttft_s=0.1, gap_s=0.005, tokens=40, slots=4),
            Profile("cut", ending="cut"),
            Profile("error", ending="error"),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Step:
    """A token with its time in seconds."""

    at_s: float
    kind: StepKind
    text: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """The complete schedule of an answer. `end_at_s` is the time at which it ends or breaks off.

    `finish_reason` is None unless `ending` is `finish`.
    """

    profile: Profile
    seed: int
    steps: tuple[Step, ...]
    ending: Ending
    finish_reason: Literal["stop", "length"] | None
    end_at_s: float

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps if step.kind == "text")

    @property
    def thinking(self) -> str:
        """The thinking text that is sent, which is empty if the profile hides it."""
        if self.profile.hides_thinking:
            return ""
        return "".join(step.text for step in self.steps if step.kind == "thinking")

    @property
    def output_tokens(self) -> int:
        """The number of tokens in the answer, including thinking."""
        return len(self.steps)

    @property
    def thinking_tokens(self) -> int:
        return sum(step.kind == "thinking" for step in self.steps)


class PromptCache:
    """The prompts that a simulated service was asked, up to a bound: what it was asked before starts sooner."""

    def __init__(self) -> None:
        self._asked: set[tuple[str, bytes]] = set()

    def look_up(self, profile: Profile, prompt: str) -> Profile:
        """Return the profile for a prompt, with its cached time to first token if it was asked before."""
        if profile.cached_ttft_s is None:
            return profile
        key = profile.name, blake2b(prompt.encode("utf-8", "replace"), digest_size=16).digest()
        if key in self._asked:
            return replace(profile, ttft_s=profile.cached_ttft_s)
        if len(self._asked) < _MAX_CACHED_PROMPTS:
            self._asked.add(key)
        return profile


def get_profile(name: str, profiles: Mapping[str, Profile] = PROFILES) -> Profile:
    """Return a profile by name. Raises UsageError, which lists the known profiles, when the name is unknown."""
    if name not in profiles:
        raise UsageError(f"timing profile {name!r}: unknown (use one of {', '.join(profiles)})")
    return profiles[name]


def seed_for(seed: int, prompt: str) -> int:
    """Combine a run's seed with a prompt, so that the same prompt always yields the same answer."""
    mixed = blake2b(f"{seed} {prompt}".encode("utf-8", "replace"), digest_size=6)
    return int.from_bytes(mixed.digest(), "big")


def input_tokens(text: str) -> int:
    """Return the simulator's input token count: one token per four characters, rounded up."""
    return -(-len(text) // 4)


@lru_cache(maxsize=64)
def make_schedule(profile: Profile, seed: int, *, tokens: int | None = None) -> Schedule:
    """Create the schedule of an answer. `tokens` is the caller's limit, including thinking.

    The limit only truncates the answer and does not change the tokens before it. A truncated answer finishes with
    `length`, even if the profile would have broken off later.
    """
    natural = profile.thinking_tokens + profile.tokens
    fails = random.Random(f"ending {seed}").random() < profile.failing_share
    ending: Ending = "cut" if fails else profile.ending
    kept = natural if ending == "finish" else max(1, natural // 2)
    limited = tokens is not None and tokens < kept
    steps = _make_steps(profile, seed)[: tokens if limited else kept]
    last_s = steps[-1].at_s if steps else profile.ttft_s
    if limited:
        return Schedule(profile, seed, steps, "finish", "length", last_s + profile.gap_s)
    reason: Literal["stop"] | None = "stop" if ending == "finish" else None
    return Schedule(profile, seed, steps, ending, reason, last_s + profile.gap_s)


def _make_steps(profile: Profile, seed: int) -> tuple[Step, ...]:
    rng = random.Random(f"text {seed}")
    thinking = prose.make_tokens(rng, profile.thinking_tokens)
    text = prose.make_tokens(rng, profile.tokens)
    times = _step_times_s(profile, len(thinking) + len(text), random.Random(f"times {profile.name} {seed}"))
    steps = [Step(at_s, "thinking", piece) for at_s, piece in zip(times, thinking, strict=False)]
    steps += [Step(at_s, "text", piece) for at_s, piece in zip(times[len(thinking) :], text, strict=True)]
    return tuple(steps)


def _step_times_s(profile: Profile, count: int, rng: random.Random) -> list[float]:
    if profile.grouped:
        return _grouped_step_times_s(profile, count, rng)
    late_s = [0.0] * count
    places = sorted(rng.sample(range(2, count), min(len(profile.stalls_s), max(0, count - 2))))
    for place, stall_s in zip(places, profile.stalls_s, strict=False):
        for index in range(place, count):
            late_s[index] += stall_s - profile.gap_s
    return [profile.ttft_s + index * profile.gap_s + late_s[index] for index in range(count)]


def _grouped_step_times_s(profile: Profile, count: int, rng: random.Random) -> list[float]:
    times: list[float] = []
    at_s = profile.ttft_s
    while len(times) < count:
        times += [at_s] * rng.randint(*_GROUP_SIZES)
        at_s += rng.uniform(*_GROUP_PAUSE_S)
    return times[:count]

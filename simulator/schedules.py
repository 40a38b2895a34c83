"""What a simulated answer sends, and when: pure and seeded; the same profile and seed always produce the same schedule.

Times are seconds from the arrival of the complete request. A step is one token. The finish follows the last token by
one gap, as a model needs one more step to find that it has ended; the tokens of `bursty` come together, at one moment.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Literal

from simulator import prose
from streaming.errors import UsageError

StepKind = Literal["text", "thinking"]
Ending = Literal["finish", "cut", "error"]
_GROUP_SIZES = (4, 12)
_GROUP_PAUSE_S = (0.08, 0.24)
"""Below the quarter of a second from which METRICS count a stall: bursts are not stalls."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A shape of an answer: `ttft_s` to the first token, then `tokens` tokens (thinking first, not counted in them).

    `stalls_s` are silences in place of a gap, at places drawn by the seed, in order. `grouped`: tokens come together,
    with pauses drawn by the seed in place of `gap_s`. `cut` and `error` end after half the tokens: without a word, or
    with the vendor's own error inside the stream. `hides_thinking`: thinking takes its time and is counted, but is not
    sent, as reasoning models do it.
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


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile("steady"),
            Profile("bursty", grouped=True),
            Profile("slow-start", ttft_s=2.0),
            Profile("stalling", stalls_s=(0.6, 1.0)),
            Profile("thinking", thinking_tokens=24),
            Profile("cut", ending="cut"),
            Profile("error", ending="error"),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Step:
    """One token and its moment."""

    at_s: float
    kind: StepKind
    text: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """All of an answer. `finish_reason` is None unless `ending` is finish; `end_at_s` is when it ends, or breaks."""

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
        """The thinking that is sent."""
        if self.profile.hides_thinking:
            return ""
        return "".join(step.text for step in self.steps if step.kind == "thinking")

    @property
    def output_tokens(self) -> int:
        """Tokens of the whole answer, thinking included."""
        return len(self.steps)

    @property
    def thinking_tokens(self) -> int:
        return sum(step.kind == "thinking" for step in self.steps)


def get_profile(name: str) -> Profile:
    """Return a profile. Raises UsageError that lists what there is."""
    if name not in PROFILES:
        raise UsageError(f"there is no timing profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]


def seed_for(seed: int, prompt: str) -> int:
    """Mix a run's seed with a question, so that other questions get other answers and repeats the same one."""
    mixed = blake2b(f"{seed} {prompt}".encode("utf-8", "replace"), digest_size=6)
    return int.from_bytes(mixed.digest(), "big")


def input_tokens(text: str) -> int:
    """Count what is asked as the simulator counts it: a token for every four characters begun."""
    return -(-len(text) // 4)


@lru_cache(maxsize=64)
def make_schedule(profile: Profile, seed: int, *, tokens: int | None = None) -> Schedule:
    """Lay out an answer; `tokens` is the asker's limit, thinking included: it cuts, and never changes what precedes.

    An answer that the limit shortens finishes with `length`, also where the profile would have broken later.
    """
    natural = profile.thinking_tokens + profile.tokens
    kept = natural if profile.ending == "finish" else max(1, natural // 2)
    limited = tokens is not None and tokens < kept
    steps = _make_steps(profile, seed)[: tokens if limited else kept]
    last_s = steps[-1].at_s if steps else profile.ttft_s
    if limited:
        return Schedule(profile, seed, steps, "finish", "length", last_s + profile.gap_s)
    reason: Literal["stop"] | None = "stop" if profile.ending == "finish" else None
    return Schedule(profile, seed, steps, profile.ending, reason, last_s + profile.gap_s)


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

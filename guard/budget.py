"""Budgets: tokens, cost and streams, for each caller and for all; reserved before the call, settled after it.

A day is a UTC day. What is reserved is the most that an answer may come to; settling replaces it by what it came to.
Where the price is unknown the cost is not counted: only tokens and streams bound it.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal, get_args

from streaming.events import Usage
from streaming.messages import ChatRequest
from streaming.meter import CHARS_PER_TOKEN, Rates, Reading

CALLERS = 50_000
LEASE_S = 660.0
"""After this long a stream that nobody settled no longer counts; longer than a session lets an answer take."""
UNBOUNDED_TOKENS = 4096
"""The output that is reserved where neither the asker nor the service bounds it."""
_NANO = Decimal(1_000_000_000)
_MOST = 10**15
"""No sum of these leaves what Redis counts exactly, whatever a caller or a provider says."""

Limit = Literal[
    "tokens_per_caller", "tokens_total", "usd_per_caller", "usd_total", "streams_per_caller", "streams_total"
]
LIMITS: tuple[Limit, ...] = get_args(Limit)
"""In the order in which they are asked, here and in Redis."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits; None is none. Tokens and USD a day, streams at one time, output tokens an answer."""

    tokens_per_caller: int | None = None
    tokens_total: int | None = None
    usd_per_caller: Decimal | None = None
    usd_total: Decimal | None = None
    streams_per_caller: int | None = 16
    streams_total: int | None = 256
    output_tokens: int | None = 4096

    def bounds(self) -> tuple[int | None, ...]:
        """Give the limits in the order of `LIMITS`; money in billionths of a USD."""
        values = (getattr(self, name) for name in LIMITS)
        return tuple(nano(value) if isinstance(value, Decimal) else value for value in values)

    def clamped(self, asked: int | None) -> int | None:
        """Give the output tokens that an answer may have; None where nobody bounds them."""
        return min((bound for bound in (asked, self.output_tokens) if bound is not None), default=None)


@dataclass(frozen=True, slots=True)
class Amount:
    """What an answer takes; USD in billionths, whole, so that sums are exact."""

    tokens: int = 0
    nano_usd: int = 0

    def plus(self, other: "Amount") -> "Amount":
        return Amount(self.tokens + other.tokens, self.nano_usd + other.nano_usd)

    def minus(self, other: "Amount") -> "Amount":
        return Amount(self.tokens - other.tokens, self.nano_usd - other.nano_usd)


def nano(usd: Decimal) -> int:
    """Give billionths of a USD, rounded up."""
    return _bounded(int((usd * _NANO).to_integral_value(ROUND_CEILING)))


def _bounded(count: int) -> int:
    return min(max(count, 0), _MOST)


def estimate(request: ChatRequest, rates: Rates) -> Amount:
    """Give the most that an answer to `request` may take, the prompt counted by a rule of thumb."""
    prompt = -(-sum(len(message.content) for message in request.messages) // CHARS_PER_TOKEN)
    output = UNBOUNDED_TOKENS if request.max_tokens is None else _bounded(request.max_tokens)
    cost = rates.price(Usage(input_tokens=prompt, output_tokens=output)) if rates.price else None
    return Amount(prompt + output, nano(cost.total_usd) if cost else 0)


def used(reading: Reading, reserved: Amount) -> Amount:
    """Give what an answer took; what the reading does not know stays as reserved."""
    counts = (reading.usage.input_tokens, reading.usage.output_tokens)
    tokens = sum(count for count in counts if count is not None) if None not in counts else reserved.tokens
    return Amount(_bounded(tokens), reserved.nano_usd if reading.cost is None else nano(reading.cost.total_usd))


class Ledger:
    """What this process has given out; a machine: the day and the time in seconds are arguments.

    Beyond `callers` of them a day the one first seen is forgotten; the limits over all callers stand.
    """

    def __init__(self, budget: Budget, callers: int = CALLERS) -> None:
        self._bounds = budget.bounds()
        self._callers = callers
        self._day = ""
        self._total = Amount()
        self._taken: OrderedDict[str, Amount] = OrderedDict()
        self._leases: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._streams: Counter[str] = Counter()

    def reserve(self, lease: str, caller: str, amount: Amount, day: str, now: float) -> Limit | None:
        """Take `amount` and a stream; give the limit that stands against it, and then nothing was taken."""
        self._turn(day)
        self._expire(now)
        mine = self._taken.get(caller, Amount()).plus(amount)
        total = self._total.plus(amount)
        streams = (self._streams[caller] + 1, len(self._leases) + 1)
        after = (mine.tokens, total.tokens, mine.nano_usd, total.nano_usd, *streams)
        for name, bound, level in zip(LIMITS, self._bounds, after, strict=True):
            if bound is not None and level > bound:
                return name
        self._leases[lease] = (caller, now + LEASE_S)
        self._streams[caller] += 1
        self._add(caller, amount)
        return None

    def settle(self, lease: str, caller: str, reserved: Amount, took: Amount, day: str) -> None:
        """Give the stream back and count what it took; `day` is the day of the reservation."""
        if day == self._day:
            self._add(caller, took.minus(reserved))
        self._release(lease)

    def _add(self, caller: str, amount: Amount) -> None:
        self._total = self._total.plus(amount)
        self._taken[caller] = self._taken.get(caller, Amount()).plus(amount)
        if len(self._taken) > self._callers:
            self._taken.popitem(last=False)

    def _turn(self, day: str) -> None:
        if day != self._day:
            self._day, self._total = day, Amount()
            self._taken.clear()

    def _expire(self, now: float) -> None:
        while self._leases:
            lease, (_, expires_s) = next(iter(self._leases.items()))
            if expires_s > now:
                return
            self._release(lease)

    def _release(self, lease: str) -> None:
        caller, _ = self._leases.pop(lease, ("", 0.0))
        self._streams[caller] -= 1
        if self._streams[caller] <= 0:
            del self._streams[caller]

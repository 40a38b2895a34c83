"""Budgets for tokens, cost and concurrent streams, per caller and in total.

Budgets are reserved before a provider call and settled after it. A day is a UTC day. A reservation covers the maximum
that an answer can use; settling replaces it with the actual usage. Unknown usage is charged at the maximum. Only
models that cost nothing are free.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal, get_args

from streaming.events import Usage
from streaming.messages import ChatRequest
from streaming.meter import CHARS_PER_TOKEN, CostModel
from streaming.pipeline import Charge

MAX_CALLERS = 50_000
LEASE_S = 660.0
"""Seconds after which an unsettled stream no longer counts; longer than the maximum duration of an answer."""
UNBOUNDED_TOKENS = 4096
"""The number of output tokens reserved when neither the caller nor the service sets a limit."""
CACHE_WRITE_TOKENS = 1024
CACHE_WRITE_FACTOR = Decimal("1.25")
"""The surcharge that vendors apply to prompts of at least `CACHE_WRITE_TOKENS`, which they cache automatically."""
MESSAGE_TOKENS = 4
"""The number of billed tokens that a vendor adds to each message for framing."""
_MILLION = Decimal(1_000_000)
_NANO = Decimal(1_000_000_000)
_MAX_UNITS = 10**15
"""The upper bound of one amount. Sums of such amounts stay within the integer range that Redis counts exactly."""

Limit = Literal[
    "tokens_per_caller", "tokens_total", "usd_per_caller", "usd_total", "streams_per_caller", "streams_total"
]
LIMITS: tuple[Limit, ...] = get_args(Limit)
"""The limits in the order in which this process and Redis check them."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The budget limits, where None means unlimited.

    Tokens and USD are per day, streams are concurrent, and output tokens are per answer. `unpriced` is the assumed
    price of a paid model without a known price: USD per 1M input tokens and per 1M output tokens.
    """

    tokens_per_caller: int | None = None
    tokens_total: int | None = None
    usd_per_caller: Decimal | None = None
    usd_total: Decimal | None = None
    streams_per_caller: int | None = 16
    streams_total: int | None = 256
    output_tokens: int | None = 4096
    unpriced: tuple[Decimal, Decimal] | None = None

    @property
    def limits_money(self) -> bool:
        """Whether the budget has a limit in USD."""
        return self.usd_per_caller is not None or self.usd_total is not None

    def bounds(self) -> tuple[int | None, ...]:
        """Return the limits in the order of `LIMITS`, with money in billionths of a USD."""
        values = (getattr(self, name) for name in LIMITS)
        return tuple(to_nano_usd(value) if isinstance(value, Decimal) else value for value in values)

    def clamp_output_tokens(self, requested: int | None) -> int | None:
        """Return the maximum number of output tokens for an answer, or None if neither side sets a limit."""
        return min((bound for bound in (requested, self.output_tokens) if bound is not None), default=None)


@dataclass(frozen=True, slots=True)
class Spend:
    """The tokens and cost of an answer. The cost is a whole number of billionths of a USD, so that sums are exact."""

    tokens: int = 0
    nano_usd: int = 0

    def plus(self, other: "Spend") -> "Spend":
        return Spend(self.tokens + other.tokens, self.nano_usd + other.nano_usd)

    def minus(self, other: "Spend") -> "Spend":
        return Spend(self.tokens - other.tokens, self.nano_usd - other.nano_usd)


def to_nano_usd(usd: Decimal) -> int:
    """Convert USD to billionths of a USD, rounded up."""
    return _clamp(int((usd * _NANO).to_integral_value(ROUND_CEILING)))


def _clamp(count: int) -> int:
    return min(max(count, 0), _MAX_UNITS)


@dataclass(frozen=True, slots=True)
class Estimator:
    """A calculator for the maximum cost of a request and the actual cost of an attempt.

    `unpriced` is the assumed price of a paid model without a known price, or None if no such price is configured.
    """

    unpriced: tuple[Decimal, Decimal] | None = None

    def find_unpriced(self, routes: Mapping[str, CostModel]) -> str | None:
        """Return the first paid route whose price is unknown, or None if there is no such route."""
        if self.unpriced is not None:
            return None
        return next((name for name, rates in routes.items() if rates.paid and rates.budget_price is None), None)

    def estimate(self, request: ChatRequest, rates: CostModel, extra_tokens: int = 0) -> Spend:
        """Return the maximum spend of one attempt at `request`, with `extra_tokens` of output beyond its limit.

        The size of the prompt is an estimate; see `count_prompt`.
        """
        output = UNBOUNDED_TOKENS if request.max_tokens is None else _clamp(request.max_tokens)
        output = _clamp(output + extra_tokens)
        prompt = count_prompt(request)
        if not _is_charged(rates):
            return Spend(prompt + output)
        prompt += MESSAGE_TOKENS * len(request.messages)
        factor = CACHE_WRITE_FACTOR if prompt >= CACHE_WRITE_TOKENS else Decimal(1)
        input_usd, output_usd = self._price(rates, Usage(prompt, output))
        return Spend(prompt + output, to_nano_usd(input_usd * factor + output_usd))

    def estimate_dearest(
        self, request: ChatRequest, routes: Mapping[str, CostModel], extra_tokens: Mapping[str, int]
    ) -> Spend:
        """Return the maximum spend of one attempt on any of `routes`."""
        amounts = [self.estimate(request, rates, extra_tokens.get(name, 0)) for name, rates in routes.items()]
        amounts = amounts or [self.estimate(request, CostModel())]
        return Spend(max(a.tokens for a in amounts), max(a.nano_usd for a in amounts))

    def settle(self, charge: Charge, rates: CostModel, most: Spend) -> Spend:
        """Return the actual spend of an attempt, or `most` if the provider did not report its token usage."""
        if charge.rejected:
            return Spend()
        is_charged = _is_charged(rates)
        usage = charge.usage if is_charged else charge.reading.usage
        if usage is None or usage.input_tokens is None or usage.output_tokens is None:
            return most
        if is_charged and usage.billed_usd is not None:
            return Spend(_clamp(usage.input_tokens + usage.output_tokens), to_nano_usd(usage.billed_usd))
        cost = sum(self._price(rates, usage)) if is_charged else Decimal(0)
        return Spend(_clamp(usage.input_tokens + usage.output_tokens), to_nano_usd(Decimal(cost)))

    def _price(self, rates: CostModel, usage: Usage) -> tuple[Decimal, Decimal]:
        cost = rates.budget_price(usage) if rates.budget_price else None
        if cost is not None and cost.input_usd is not None and cost.output_usd is not None:
            return cost.input_usd, cost.output_usd
        input_usd, output_usd = self.unpriced or (Decimal(0), Decimal(0))
        return (usage.input_tokens or 0) * input_usd / _MILLION, (usage.output_tokens or 0) * output_usd / _MILLION


def _is_charged(rates: CostModel) -> bool:
    return rates.paid or rates.budget_price is not None


def count_prompt(request: ChatRequest) -> int:
    """Estimate the tokens in a prompt: one per non-ASCII character, and one per four ASCII characters."""
    chars = sum(len(message.content) for message in request.messages)
    ascii_chars = sum(len(message.content.encode("ascii", "ignore")) for message in request.messages)
    return chars - ascii_chars - (-ascii_chars // CHARS_PER_TOKEN)


class Overruns:
    """A record of how far the latest answers of each route exceeded their output token limit, for example by thinking.

    The record is local to this process and keeps the `routes` most recently used routes. A route's first answer
    reserves its visible limit only; until one has ended, others beside it reserve the model's whole room for thinking.
    So a budget is exceeded by one answer of each route at most, unless a later answer exceeds all before it.
    """

    def __init__(self, routes: int = 256, answers: int = 16) -> None:
        self._routes = routes
        self._answers = answers
        self._by_route: OrderedDict[str, deque[int]] = OrderedDict()
        self._under_way: Counter[str] = Counter()

    def start(self, routes: Iterable[str]) -> None:
        """Record that an answer of one of these routes is under way."""
        self._under_way.update(tuple(routes))

    def end(self, routes: Iterable[str]) -> None:
        """Record the end of an answer that `start` has recorded."""
        self._under_way.subtract(tuple(routes))
        self._under_way += Counter()  # drops the routes without answers under way

    def expect(self, routes: Mapping[str, CostModel]) -> dict[str, int]:
        """Return the tokens beyond the limit to reserve for the next answer of each route."""
        longest = self.longest(routes)
        return {
            name: rates.thinking_room if name not in self._by_route and self._under_way[name] else longest[name]
            for name, rates in routes.items()
        }

    def add(self, route: str, output_tokens: int, max_tokens: int) -> None:
        """Record the overrun of one answer."""
        overruns = self._by_route.setdefault(route, deque(maxlen=self._answers))
        overruns.append(max(output_tokens - max_tokens, 0))
        self._by_route.move_to_end(route)
        if len(self._by_route) > self._routes:
            self._by_route.popitem(last=False)

    def longest(self, routes: Iterable[str]) -> dict[str, int]:
        """Return the longest recorded overrun of each route in tokens, or 0 for a route without a record."""
        return {name: max(self._by_route.get(name, ()), default=0) for name in routes}


class BudgetLedger:
    """A ledger of this process's reservations. It reads no clock: the day and the time in seconds are arguments.

    The ledger tracks at most `callers` callers a day and evicts the oldest first. The limits across all callers still
    include the evicted ones.
    """

    def __init__(self, budget: Budget, callers: int = MAX_CALLERS) -> None:
        self._bounds = budget.bounds()
        self._callers = callers
        self._day = ""
        self._total = Spend()
        self._taken: OrderedDict[str, Spend] = OrderedDict()
        self._leases: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._streams: Counter[str] = Counter()

    def reserve(self, lease: str, caller: str, amount: Spend, day: str, now: float) -> Limit | None:
        """Reserve `amount` and one stream. Return the exceeded limit, if any, in which case nothing is reserved."""
        self._start_day(day)
        self._expire_leases(now)
        mine = self._taken.get(caller, Spend()).plus(amount)
        total = self._total.plus(amount)
        streams = (self._streams[caller] + 1, len(self._leases) + 1)
        after = (mine.tokens, total.tokens, mine.nano_usd, total.nano_usd, *streams)
        for name, bound, level in zip(LIMITS, self._bounds, after, strict=True):
            if bound is not None and level > bound:
                return name
        self._leases[lease] = (caller, now + LEASE_S)
        self._streams[caller] += 1
        self._add_spend(caller, amount, amount)
        return None

    def settle(self, lease: str, caller: str, reserved: Spend, took: Spend, day: str) -> None:
        """Release the stream and record its actual spend. `day` is the day of the reservation."""
        if day == self._day:
            change = took.minus(reserved)
            # A caller that was evicted in the meantime no longer has a reservation to subtract.
            self._add_spend(caller, change if caller in self._taken else took, change)
        self._release_lease(lease)

    def _add_spend(self, caller: str, amount: Spend, to_total: Spend) -> None:
        self._total = self._total.plus(to_total)
        self._taken[caller] = self._taken.get(caller, Spend()).plus(amount)
        if len(self._taken) > self._callers:
            self._taken.popitem(last=False)

    def _start_day(self, day: str) -> None:
        if day != self._day:
            self._day, self._total = day, Spend()
            self._taken.clear()

    @property
    def entries(self) -> int:
        """The number of callers and of open streams that are held in memory."""
        return len(self._taken) + len(self._streams) + len(self._leases)

    def _expire_leases(self, now: float) -> None:
        while self._leases:
            lease, (_, expires_s) = next(iter(self._leases.items()))
            if expires_s > now:
                return
            self._release_lease(lease)

    def _release_lease(self, lease: str) -> None:
        caller, _ = self._leases.pop(lease, ("", 0.0))
        self._streams[caller] -= 1
        if self._streams[caller] <= 0:
            del self._streams[caller]

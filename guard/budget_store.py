"""Reservation and settlement of budgets: always in this process, and also in Redis for all replicas if configured."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from guard.budget import LEASE_S, LIMITS, UNBOUNDED_TOKENS, Budget, BudgetLedger, Estimator, Limit, Overruns, Spend
from guard.rejection import RejectionError
from streaming.clock import Clock
from streaming.events import Failed
from streaming.messages import ChatRequest
from streaming.meter import CostModel
from streaming.pipeline import Charge

if TYPE_CHECKING:
    from guard.redis_backend import OptionalRedis

_DAY_S = 86_400
_UNPRICED = (
    "{name}: the price is unknown, so its cost cannot be limited (choose another model; the owner can set "
    "UNPRICED_USD_PER_1M=IN/OUT as the price of such models)"
)

# KEYS: tokens (caller, total), cost (caller, total), then the leases of the caller and of all callers.
# ARGV: tokens, billionths of a USD, the lease, the lease's seconds, the seconds of a day, then the six limits (-1 for
# unlimited). Returns the number of the exceeded limit, or 0.
_RESERVE_SCRIPT = """
local now = tonumber(redis.call('TIME')[1])
local take = {tonumber(ARGV[1]), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[2]), 1, 1}
for i = 1, 6 do
    local level
    if i < 5 then
        level = tonumber(redis.call('GET', KEYS[i]) or '0')
    else
        redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
        level = redis.call('ZCARD', KEYS[i])
    end
    local limit = tonumber(ARGV[5 + i])
    if limit >= 0 and level + take[i] > limit then
        return i
    end
end
for i = 1, 4 do
    redis.call('INCRBY', KEYS[i], string.format('%.0f', take[i]))
    redis.call('EXPIRE', KEYS[i], ARGV[5] * 2)
end
for i = 5, 6 do
    redis.call('ZADD', KEYS[i], now + ARGV[4], ARGV[3])
    redis.call('EXPIRE', KEYS[i], ARGV[4])
end
return 0
"""

# KEYS as above. ARGV: the lease, tokens reserved, billionths reserved, tokens used, billionths used, seconds of a day.
# The reservation is refunded only if Redis still holds its lease: Redis may have been down or restarted since.
_SETTLE_SCRIPT = """
redis.call('ZREM', KEYS[5], ARGV[1])
local held = redis.call('ZREM', KEYS[6], ARGV[1])
for i = 1, 4 do
    local which = i > 2 and 1 or 0
    local change = tonumber(ARGV[4 + which]) - held * tonumber(ARGV[2 + which])
    redis.call('INCRBY', KEYS[i], string.format('%.0f', change))
    redis.call('EXPIRE', KEYS[i], ARGV[6] * 2)
end
return held
"""


@dataclass(frozen=True, slots=True)
class _BudgetHold:
    lease: str
    caller: str
    amount: Spend
    day: str
    routes: tuple[str, ...] = ()

    def redis_keys(self) -> list[str]:
        who, day = f"guard:budget:{self.caller}", self.day
        everyone = "guard:budget:all"
        days = [f"{name}:{what}:{day}" for what in ("tokens", "usd") for name in (who, everyone)]
        return [*days, f"{who}:streams", f"{everyone}:streams"]


async def _to_int(running: Awaitable[Any]) -> int:
    return int(await running)


class Reservation:
    """A budget reservation for one answer.

    Send `request`, whose `max_tokens` may be lower than the caller requested. The reservation covers one attempt;
    before a retry, `renew` settles that attempt and reserves the next one.
    """

    def __init__(
        self, budgets: "BudgetService", hold: _BudgetHold, request: ChatRequest, routes: Mapping[str, CostModel]
    ) -> None:
        self.request = request
        self._budgets = budgets
        self._hold: _BudgetHold | None = hold
        self._caller = hold.caller
        self._routes = routes

    async def renew(self, charge: Charge) -> Failed | None:
        """Settle a failed attempt and reserve the next one. Return a `Failed` event if the budgets do not allow it."""
        await self.settle(charge)
        try:
            self._hold = await self._budgets.take(self._caller, self.request, self._routes)
        except RejectionError as rejection:
            return Failed(
                "budget", f"{charge.route}: the answer failed and is not requested again: {rejection.message}"
            )
        return None

    async def settle(self, charge: Charge | None) -> None:
        """Release the unused budget and the stream. Pass None if no request was sent.

        Only the first call has an effect. Settlement completes even if the awaiting task is cancelled.
        """
        hold, self._hold = self._hold, None
        if hold is not None:
            await self._budgets.settle(hold, charge, self.request, self._routes)


class BudgetService:
    """A service that manages the reservations of all callers. `utc_now` determines the current budget day."""

    def __init__(
        self,
        budget: Budget,
        clock: Clock,
        shared: "OptionalRedis | None",
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._budget = budget
        self._estimator = Estimator(budget.unpriced)
        self._overruns = Overruns()
        self._ledger = BudgetLedger(budget)
        self._clock = clock
        self._shared = shared
        self._utc_now = utc_now
        self._bounds = [-1 if bound is None else bound for bound in budget.bounds()]

    async def reserve(self, caller: str, request: ChatRequest, routes: Mapping[str, CostModel]) -> Reservation:
        """Reserve the maximum spend of an answer from any of `routes`, which are keyed by name.

        Raises RejectionError when a budget does not allow it or a paid route has no known price.
        """
        max_tokens = self._budget.clamp_output_tokens(request.max_tokens)
        if self._budget.limits_money:
            if (name := self._estimator.find_unpriced(routes)) is not None:
                raise RejectionError("budget.unpriced", "unpriced", _UNPRICED.format(name=name))
            if max_tokens is None and any(rates.paid for rates in routes.values()):
                # The request must not exceed its reservation: cost is bounded only if the output is.
                max_tokens = UNBOUNDED_TOKENS
        request = replace(request, max_tokens=max_tokens)
        return Reservation(self, await self.take(caller, request, routes), request, routes)

    async def take(self, caller: str, request: ChatRequest, routes: Mapping[str, CostModel]) -> _BudgetHold:
        """Reserve the maximum spend of one attempt. Raises RejectionError when a budget does not allow it."""
        amount = self._estimator.estimate_dearest(request, routes, self._overruns.expect(routes))
        day = self._utc_now().date().isoformat()
        hold = _BudgetHold(secrets.token_hex(8), caller, amount, day, tuple(routes))
        self._reject_over_limit(self._ledger.reserve(hold.lease, caller, amount, day, self._clock()), amount)
        try:
            self._reject_over_limit(await self._reserve_in_redis(hold), amount)
        except BaseException:
            self._settle_ledger(hold, Spend())
            raise
        self._overruns.start(hold.routes)
        return hold

    async def settle(
        self, hold: _BudgetHold, charge: Charge | None, request: ChatRequest, routes: Mapping[str, CostModel]
    ) -> None:
        """Replace the reserved amount with the attempt's actual spend, at the price of the route that handled it."""
        took = Spend() if charge is None else self._count(hold, charge, request, routes)
        self._overruns.end(hold.routes)
        self._settle_ledger(hold, took)
        if self._shared is not None:
            await self._shared.call(lambda: self._settle_in_redis(hold, took), 0)

    def _count(self, hold: _BudgetHold, charge: Charge, request: ChatRequest, routes: Mapping[str, CostModel]) -> Spend:
        if not routes:
            return self._estimator.settle(charge, CostModel(), hold.amount)
        rates = routes.get(charge.route)
        if rates is None:  # the route is not part of the reservation: charge the full amount
            return hold.amount
        if charge.usage is not None and charge.usage.output_tokens is not None and request.max_tokens is not None:
            self._overruns.add(charge.route, charge.usage.output_tokens, request.max_tokens)
        extra = self._overruns.longest([charge.route])[charge.route]
        return self._estimator.settle(charge, rates, self._estimator.estimate(request, rates, extra))

    async def _reserve_in_redis(self, hold: _BudgetHold) -> Limit | None:
        if self._shared is None:
            return None
        amount = hold.amount
        arguments: list[int | str] = [amount.tokens, amount.nano_usd, hold.lease, int(LEASE_S), _DAY_S, *self._bounds]
        script = self._shared.redis.register_script(_RESERVE_SCRIPT)
        reserving = self._shared.start(lambda: _to_int(script(hold.redis_keys(), arguments)), 0)
        try:
            number = await asyncio.shield(reserving)
        except asyncio.CancelledError:
            self._shared.start(lambda: self._undo_reservation(hold, reserving), 0)
            raise
        return LIMITS[number - 1] if number else None

    async def _undo_reservation(self, hold: _BudgetHold, reserving: "asyncio.Task[int]") -> int:
        return await self._settle_in_redis(hold, Spend()) if await reserving == 0 else 0

    def _settle_ledger(self, hold: _BudgetHold, took: Spend) -> None:
        self._ledger.settle(hold.lease, hold.caller, hold.amount, took, hold.day)

    async def _settle_in_redis(self, hold: _BudgetHold, took: Spend) -> int:
        assert self._shared is not None
        amounts = [hold.amount.tokens, hold.amount.nano_usd, took.tokens, took.nano_usd]
        script = self._shared.redis.register_script(_SETTLE_SCRIPT)
        return await _to_int(script(hold.redis_keys(), [hold.lease, *amounts, _DAY_S]))

    def _reject_over_limit(self, limit: Limit | None, amount: Spend) -> None:
        if limit is None:
            return
        what, _, whose = limit.partition("_")
        bound = getattr(self._budget, limit)
        yours = whose == "per_caller"
        if what == "streams":
            where = "for you" if yours else "in this service"
            raise RejectionError(
                "budget.streams",
                "budget",
                f"budget: {bound} answers are already under way {where} (wait until one ends, or stop one)",
            )
        rule = "budget.cost" if what == "usd" else "budget.tokens"
        of = f"{bound} USD" if what == "usd" else f"{bound} tokens"
        needs = Decimal(amount.nano_usd) / 10**9 if what == "usd" else amount.tokens
        if needs > bound:
            message = f"budget: the answer may need more than the daily {of} (lower max_tokens or shorten the prompt)"
            raise RejectionError(rule, "budget", message)
        now = self._utc_now()
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        owner = "your" if yours else "this service's"
        message = f"budget: {owner} {of} a day cannot pay for this answer (lower max_tokens, or retry after 00:00 UTC)"
        raise RejectionError(rule, "budget", message, retry_after_s=int((midnight - now).total_seconds()) + 1)

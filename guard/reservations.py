"""Reserving and settling budgets: in this process always, and in Redis for all replicas when there is one."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from guard.budget import LEASE_S, LIMITS, Amount, Budget, Ledger, Limit, estimate, used
from guard.refusal import Refusal
from guard.shared import Shared
from streaming.clock import Clock
from streaming.messages import ChatRequest
from streaming.meter import Rates, Reading

_DAY_S = 86_400

# KEYS: tokens and cost, the caller's and all, then the leases of the caller and of all. ARGV: tokens, billionths of a
# USD, the lease, its seconds, a day's seconds, then the six limits, -1 for none. Gives the number of the limit that
# stands against it, 0 for none.
_RESERVE = """
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

# KEYS as above. ARGV: the lease, tokens reserved, billionths reserved, tokens taken, billionths taken, a day's seconds.
# What was reserved is given back only by the lease that took it: Redis may have been down, or begun anew, meanwhile.
_SETTLE = """
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
class _Hold:
    lease: str
    caller: str
    amount: Amount
    day: str

    def keys(self) -> list[str]:
        who, day = f"guard:budget:{self.caller}", self.day
        everyone = "guard:budget:all"
        days = [f"{name}:{what}:{day}" for what in ("tokens", "usd") for name in (who, everyone)]
        return [*days, f"{who}:streams", f"{everyone}:streams"]


async def _number(running: Awaitable[Any]) -> int:
    return int(await running)


class Reservation:
    """What one answer may take: ask with `request`, whose `max_tokens` may be lower than what was asked for."""

    def __init__(self, request: ChatRequest, settle: Callable[[Reading | None], Coroutine[Any, Any, None]]) -> None:
        self.request = request
        self._settle = settle
        self._settled = False

    async def settle(self, reading: Reading | None) -> None:
        """Give back what was not used, and the stream; once, however often called. None: nobody was asked.

        The work is done even when the caller is cancelled while it waits.
        """
        if not self._settled:
            self._settled = True
            await self._settle(reading)


class Budgets:
    """Hands out reservations. `utc_now` gives the time of day, whose date is the day that is counted on."""

    def __init__(
        self,
        budget: Budget,
        clock: Clock,
        shared: Shared | None,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._budget = budget
        self._ledger = Ledger(budget)
        self._clock = clock
        self._shared = shared
        self._utc_now = utc_now
        self._bounds = [-1 if bound is None else bound for bound in budget.bounds()]

    async def reserve(self, caller: str, request: ChatRequest, rates: Rates) -> Reservation:
        """Take the most that the answer may come to. Raises Refusal."""
        request = replace(request, max_tokens=self._budget.clamped(request.max_tokens))
        amount = estimate(request, rates)
        hold = _Hold(secrets.token_hex(8), caller, amount, self._utc_now().date().isoformat())
        self._refuse(self._ledger.reserve(hold.lease, caller, amount, hold.day, self._clock()), amount)
        try:
            self._refuse(await self._reserve_shared(hold), amount)
        except BaseException:
            self._give_back(hold, Amount())
            raise
        return Reservation(request, lambda reading: self._settle(hold, reading))

    async def _reserve_shared(self, hold: _Hold) -> Limit | None:
        if self._shared is None:
            return None
        amount = hold.amount
        arguments: list[int | str] = [amount.tokens, amount.nano_usd, hold.lease, int(LEASE_S), _DAY_S, *self._bounds]
        script = self._shared.redis.register_script(_RESERVE)
        reserving = self._shared.start(lambda: _number(script(hold.keys(), arguments)), 0)
        try:
            number = await asyncio.shield(reserving)
        except asyncio.CancelledError:
            self._shared.start(lambda: self._undone(hold, reserving), 0)
            raise
        return LIMITS[number - 1] if number else None

    async def _undone(self, hold: _Hold, reserving: "asyncio.Task[int]") -> int:
        return await self._settled(hold, Amount()) if await reserving == 0 else 0

    async def _settle(self, hold: _Hold, reading: Reading | None) -> None:
        took = Amount() if reading is None else used(reading, hold.amount)
        self._give_back(hold, took)
        if self._shared is not None:
            await self._shared.call(lambda: self._settled(hold, took), 0)

    def _give_back(self, hold: _Hold, took: Amount) -> None:
        self._ledger.settle(hold.lease, hold.caller, hold.amount, took, hold.day)

    async def _settled(self, hold: _Hold, took: Amount) -> int:
        assert self._shared is not None
        amounts = [hold.amount.tokens, hold.amount.nano_usd, took.tokens, took.nano_usd]
        script = self._shared.redis.register_script(_SETTLE)
        return await _number(script(hold.keys(), [hold.lease, *amounts, _DAY_S]))

    def _refuse(self, limit: Limit | None, amount: Amount) -> None:
        if limit is None:
            return
        what, _, whose = limit.partition("_")
        bound = getattr(self._budget, limit)
        yours = whose == "per_caller"
        if what == "streams":
            where = "on their way to you" if yours else "under way in this service"
            raise Refusal("budget.streams", "budget", f"{bound} answers are {where}: wait until one ends, or stop one")
        rule = "budget.cost" if what == "usd" else "budget.tokens"
        of = f"{bound} USD" if what == "usd" else f"{bound} tokens"
        needs = Decimal(amount.nano_usd) / 10**9 if what == "usd" else amount.tokens
        if needs > bound:
            message = f"this answer may take more than the {of} of a whole day: ask for fewer max_tokens, or shorter"
            raise Refusal(rule, "budget", message)
        now = self._utc_now()
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        owner = "your" if yours else "this service's"
        message = f"{owner} {of} of the day cannot pay for this answer: ask for less, or after 00:00 UTC"
        raise Refusal(rule, "budget", message, retry_after_s=int((midnight - now).total_seconds()) + 1)

"""The guards of several replicas over a real Redis, which is killed, restarted and frozen under them."""

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from guard import Caller, Guard, GuardConfig, RejectionError, Reservation
from guard.redis_backend import RETRY_AFTER_S
from streaming.events import Usage
from streaming.messages import ChatRequest, Message
from streaming.meter import Cost, CostModel, MeterReading
from streaming.pipeline import Charge

CALLER_ANN = Caller(address="192.0.2.1")
TOOK_150 = Charge("p:m", MeterReading(Usage(100, 50), None, 1.0, None, None), Usage(100, 50))


class KillableRedis:
    """A redis-server on one port, in memory only, that can be killed and started again, empty."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert any("Ready to accept connections" in line for line in self.process.stdout), "redis-server did not start"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def killable_redis(tmp_path: Path) -> Iterator[KillableRedis]:
    """Yield a Redis server that the test may kill; it is stopped after the test."""
    running = KillableRedis(tmp_path)
    yield running
    running.kill()


LONG_TIMEOUT_S = 20.0
"""Allows a busy machine to be slow: Redis counts as gone when it is, not when it is late."""


class ManualClock:
    """A clock that a test turns: the local windows' and the pause's; Redis has its own."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def make_replicas(
    server: KillableRedis, count: int, hand: ManualClock, **variables: str
) -> AsyncIterator[list[Guard]]:
    config = GuardConfig.from_env(variables)
    guards = [Guard(config, redis_url=server.url, clock=hand, redis_timeout_s=LONG_TIMEOUT_S) for _ in range(count)]
    yield guards
    for guard in guards:
        await guard.aclose()


async def count_admitted(guards: list[Guard], count: int, caller: Caller = CALLER_ANN) -> int:
    """Send concurrent requests to the replicas in turn, and return how many the rule admitted."""
    asking = (guards[number % len(guards)].admit(caller) for number in range(count))
    results = await asyncio.gather(*asking, return_exceptions=True)
    for result in results:
        assert isinstance(result, (str, RejectionError)), result
        assert isinstance(result, str) or (result.rule == "rate" and 1 <= (result.retry_after_s or 0) <= 61)
    return sum(isinstance(result, str) for result in results)


FREE = {"p:m": CostModel()}


async def reserve_many(
    guards: list[Guard], count: int, caller: str = "address:a", routes: Mapping[str, CostModel] = FREE
) -> list[Reservation]:
    """Reserve 200 tokens concurrently at the replicas in turn, and return the reservations."""
    request = ChatRequest((Message("user", "x" * 400),), max_tokens=100)
    asking = (guards[number % len(guards)].reserve(caller, request, routes) for number in range(count))
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(result, (Reservation, RejectionError)) for result in results), results
    return [result for result in results if isinstance(result, Reservation)]


async def read_budget_keys(server: KillableRedis) -> dict[str, Any]:
    """Return the budget keys in Redis: counters, and the number of leases."""
    redis: Any
    async with Redis.from_url(server.url, decode_responses=True) as redis:
        keys = await redis.keys("guard:budget:*")
        return {
            key: await redis.zcard(key) if key.endswith("streams") else int(await redis.get(key) or 0) for key in keys
        }


def test_fifty_concurrent_requests_over_three_replicas_admit_ten(killable_redis: KillableRedis) -> None:
    async def main() -> None:
        async with make_replicas(killable_redis, 3, ManualClock()) as guards:
            assert await count_admitted(guards, 50) == 10
            assert await count_admitted(guards, 50, Caller(address="192.0.2.2")) == 10

    asyncio.run(main())


def test_killed_redis_falls_back_to_local_limit_and_reconnects(killable_redis: KillableRedis) -> None:
    async def main() -> None:
        hand = ManualClock()
        async with make_replicas(killable_redis, 2, hand) as guards:
            assert await count_admitted(guards[:1], 4) == 4
            killable_redis.kill()
            assert await count_admitted(guards[:1], 46) == 6, "what was let in before counts"
            assert await count_admitted(guards[1:], 50) == 10, "each replica for itself"
            killable_redis.start()
            hand.now += RETRY_AFTER_S + 61
            assert await count_admitted(guards[:1], 1) == await count_admitted(guards[1:], 1) == 1
            assert await count_admitted(guards, 50) == 8, "together again, in a Redis that has forgotten"

    asyncio.run(main())


def test_frozen_redis_is_waited_for_only_once(killable_redis: KillableRedis) -> None:
    async def main() -> None:
        guard = Guard(GuardConfig(), redis_url=killable_redis.url, clock=ManualClock(), redis_timeout_s=0.2)
        assert await count_admitted([guard], 1) == 1
        killable_redis.process.send_signal(signal.SIGSTOP)
        assert await count_admitted([guard], 50) == 9
        killable_redis.process.send_signal(signal.SIGCONT)
        await guard.aclose()

    asyncio.run(main())


def test_missing_redis_leaves_local_limits(killable_redis: KillableRedis) -> None:
    async def main() -> None:
        killable_redis.kill()
        async with make_replicas(killable_redis, 1, ManualClock(), BUDGET_STREAMS_PER_CALLER="3") as guards:
            assert await count_admitted(guards, 50) == 10
            made = await reserve_many(guards, 5)
            assert len(made) == 3
            for reservation in made:
                await reservation.settle(TOOK_150)
            assert len(await reserve_many(guards, 5)) == 3

    asyncio.run(main())


def test_token_budget_is_shared_by_replicas_and_settled(killable_redis: KillableRedis) -> None:
    async def main() -> None:
        budget = {"BUDGET_TOKENS_PER_CALLER": "1000", "BUDGET_TOKENS_TOTAL": "1500"}
        async with make_replicas(killable_redis, 3, ManualClock(), **budget) as guards:
            made = await reserve_many(guards, 12)
            assert len(made) == 5
            assert len(await reserve_many(guards, 12, "address:b")) == 2
            for reservation in made:
                await reservation.settle(TOOK_150)
                await reservation.settle(TOOK_150)
            counts = await read_budget_keys(killable_redis)
            tokens = {key.split(":tokens:")[0]: count for key, count in counts.items() if ":tokens:" in key}
            whole, a, b = "guard:budget:all", "guard:budget:address:a", "guard:budget:address:b"
            assert tokens == {whole: 5 * 150 + 2 * 200, a: 5 * 150, b: 2 * 200}
            assert (counts.get(f"{a}:streams", 0), counts[f"{b}:streams"], counts[f"{whole}:streams"]) == (0, 2, 2)
            assert len(await reserve_many(guards, 12)) == 1

    asyncio.run(main())


def cent(usage: Usage) -> Cost:
    return Cost(Decimal(0), Decimal(usage.output_tokens or 0) / 10_000, "a cent for 100 tokens of output")


def test_shared_cost_budget_reserves_most_expensive_route_and_settles_answering_one(
    killable_redis: KillableRedis,
) -> None:
    async def main() -> None:
        routes = {"q:free": CostModel(), "p:m": CostModel(price=cent, paid=True)}
        variables = {"BUDGET_USD_PER_CALLER": "0.05", "BUDGET_USD_TOTAL": "0.08"}
        async with make_replicas(killable_redis, 3, ManualClock(), **variables) as guards:
            made = await reserve_many(guards, 12, routes=routes)
            assert len(made) == 5
            assert len(await reserve_many(guards, 12, "address:b", routes)) == 3
            free, unknown = replace(TOOK_150, route="q:free"), replace(TOOK_150, usage=None)
            for reservation, charge in zip(made, (TOOK_150, free, unknown, None, TOOK_150), strict=True):
                await reservation.settle(charge)
            counts = await read_budget_keys(killable_redis)
            spent = {key.split(":usd:")[0]: count for key, count in counts.items() if ":usd:" in key}
            assert spent["guard:budget:address:a"] == (5 + 0 + 10 + 0 + 5) * 1_000_000
            assert spent["guard:budget:all"] == (20 + 30) * 1_000_000
            assert len(await reserve_many(guards, 12, routes=routes)) == 3

    asyncio.run(main())


def test_renewed_reservation_is_shared_by_replicas(killable_redis: KillableRedis) -> None:
    async def main() -> None:
        routes = {"p:m": CostModel(price=cent, paid=True)}
        broke = replace(TOOK_150, usage=None)
        async with make_replicas(
            killable_redis, 2, ManualClock(), BUDGET_USD_PER_CALLER="0.02", BUDGET_STREAMS_PER_CALLER="1"
        ) as guards:
            (reservation,) = await reserve_many(guards[:1], 1, routes=routes)
            assert await reservation.renew(broke) is None
            assert await reserve_many(guards[1:], 1, routes=routes) == []
            failed = await reservation.renew(broke)
            assert failed is not None and "0.02 USD a day" in failed.message
            await reservation.settle(broke)
            spent = {count for key, count in (await read_budget_keys(killable_redis)).items() if ":usd:" in key}
            assert spent == {20_000_000}

    asyncio.run(main())


def test_stream_budget_is_shared_and_dead_replica_leases_expire(killable_redis: KillableRedis) -> None:
    async def main() -> None:
        async with make_replicas(killable_redis, 2, ManualClock(), BUDGET_STREAMS_PER_CALLER="3") as guards:
            assert len(await reserve_many(guards[:1], 9)) == 3
            assert await reserve_many(guards[1:], 9) == []
            redis: Any
            async with Redis.from_url(killable_redis.url) as redis:
                for key in ("guard:budget:address:a:streams", "guard:budget:all:streams"):
                    assert 0 < await redis.ttl(key) <= 660
                    # Their time is over.
                    await redis.zadd(key, dict.fromkeys(await redis.zrange(key, 0, -1), 1))
            assert len(await reserve_many(guards[1:], 9)) == 3

    asyncio.run(main())


def test_local_budget_survives_redis_loss(killable_redis: KillableRedis) -> None:
    async def main() -> None:
        hand = ManualClock()
        async with make_replicas(killable_redis, 1, hand, BUDGET_TOKENS_PER_CALLER="700") as guards:
            (first,) = await reserve_many(guards, 1)
            killable_redis.kill()
            (second,) = await reserve_many(guards, 1)
            await first.settle(TOOK_150)
            killable_redis.start()
            hand.now += RETRY_AFTER_S
            await second.settle(TOOK_150)
            counts = await read_budget_keys(killable_redis)
            assert sorted(counts.values()) == [0, 0, 150, 150], (
                "what it took, with nothing given back that was not taken"
            )
            assert len(await reserve_many(guards, 5)) == 2, "the local budget knows of both"

    asyncio.run(main())


def test_settlement_completes_when_waiter_is_cancelled(killable_redis: KillableRedis) -> None:
    async def main() -> None:
        async with make_replicas(killable_redis, 1, ManualClock()) as guards:
            (reservation,) = await reserve_many(guards, 1)
            settling = asyncio.create_task(reservation.settle(TOOK_150))
            await asyncio.sleep(0)
            settling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await settling
            await guards[0].aclose()
            assert sorted((await read_budget_keys(killable_redis)).values()) == [0, 0, 150, 150]

    asyncio.run(main())


def test_cancelled_reservation_is_returned(killable_redis: KillableRedis) -> None:
    async def main() -> None:
        async with make_replicas(killable_redis, 2, ManualClock(), BUDGET_STREAMS_PER_CALLER="1") as guards:
            making = asyncio.create_task(reserve_many(guards[:1], 1))
            killable_redis.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            making.cancel()
            with pytest.raises(asyncio.CancelledError):
                await making
            killable_redis.process.send_signal(signal.SIGCONT)
            await guards[0].aclose()
            assert len(await reserve_many(guards[1:], 1)) == 1
            assert [
                count for key, count in (await read_budget_keys(killable_redis)).items() if key.endswith("streams")
            ] == [1, 1]

    asyncio.run(main())

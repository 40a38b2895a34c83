"""Outages of Redis: the results of calls meanwhile, and the backoff."""

import asyncio

import pytest
from redis.exceptions import ConnectionError as Gone
from redis.exceptions import ResponseError

from guard.redis_backend import RETRY_AFTER_S, OptionalRedis


class SteppedClock:
    """A clock that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("failure", [Gone("refused"), TimeoutError(), OSError(), ResponseError("OOM")])
def test_failed_redis_is_paused_then_retried_by_one_call(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    hand, tries, broken = SteppedClock(), [0], [True]
    shared = OptionalRedis("redis://:s3cret@127.0.0.1:1/0", hand)

    async def work() -> str:
        tries[0] += 1
        await asyncio.sleep(0)
        if broken[0]:
            raise failure
        return "done"

    async def calls(count: int) -> list[str]:
        return await asyncio.gather(*(shared.call(work, "alone") for _ in range(count)))

    async def main() -> None:
        assert await calls(1) == ["alone"]
        assert await calls(20) == ["alone"] * 20
        assert tries == [1], "nobody waits for it a second time"
        hand.now += RETRY_AFTER_S
        assert await calls(20) == ["alone"] * 20
        assert tries == [2], "one tries it for all"
        hand.now += RETRY_AFTER_S
        broken[0] = False
        assert (await calls(1), await calls(3)) == (["done"], ["done"] * 3)
        await shared.aclose()

    asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"], "said once for each change"
    assert "s3cret" not in caplog.text


def test_programming_error_is_not_treated_as_redis_failure() -> None:
    async def main() -> None:
        shared = OptionalRedis("redis://127.0.0.1:1/0", SteppedClock())

        async def work() -> str:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await shared.call(work, "alone")

    asyncio.run(main())

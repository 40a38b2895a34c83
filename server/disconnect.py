"""Cancellation of the work for a response when its client disconnects."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.types import Receive


@asynccontextmanager
async def cancel_on_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the body of this context as soon as the client disconnects, whatever the body is waiting for.

    A server otherwise notices a disconnect only when it sends, and nothing is sent before the first token.
    """

    async def watch_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch_disconnect)
        yield
        group.cancel_scope.cancel()

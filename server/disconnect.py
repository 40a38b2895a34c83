"""Cancellation of a response whose client has disconnected."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.types import Receive


@asynccontextmanager
async def cancel_on_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel what is inside as soon as the client has gone, whatever it is waiting for.

    Needed because a server notices a lost reader only when it sends, and before the first token nothing is sent.
    """

    async def watch_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch_disconnect)
        yield
        group.cancel_scope.cancel()

"""Reading a request's body under the guard's limits: one rule for the service and the page, as pure ASGI."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from guard.rejection import RejectionError
from guard.validation import InputLimits, check_depth, check_size

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

BODY_TIMEOUT_S = 30.0
"""How long a request's body may take to arrive."""


async def read_body(
    content_length: str, receive: Receive, limits: InputLimits, timeout_s: float = BODY_TIMEOUT_S
) -> bytes | None:
    """Return the whole body, checked for size and depth of nesting; None when the client has left.

    `content_length` is the header's value, empty where there is none. Raises RejectionError.
    """
    if content_length.isdecimal():
        check_size(int(content_length[:20]), limits)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                check_size(len(body), limits)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise RejectionError("body.time", "invalid", f"the body did not arrive within {timeout_s:g} s") from None
    check_depth(bytes(body), limits)
    return bytes(body)


def replay_body(body: bytes | None, receive: Receive) -> Receive:
    """Return a `receive` that hands over `body` first, or that the client has left; then what else comes."""
    if body is None:
        messages: list[Message] = [{"type": "http.disconnect"}]
    else:
        messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay

"""ASGI helpers that read a request body within the guard's limits, shared by the service and the page."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from guard.rejection import RejectionError
from guard.validation import InputLimits, check_depth, check_size

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

BODY_TIMEOUT_S = 30.0
"""The timeout in seconds for receiving a request body."""


async def read_body(
    content_length: str, receive: Receive, limits: InputLimits, timeout_s: float = BODY_TIMEOUT_S
) -> bytes | None:
    """Read the whole body and check its size and nesting depth. Return None if the client has disconnected.

    `content_length` is the header's value, or an empty string if the header is missing. Raises RejectionError when the
    body is too large, too deeply nested or too slow.
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
        raise RejectionError(
            "body.time", "invalid", f"the body: did not arrive within {timeout_s:g} s (send it faster, or send less)"
        ) from None
    check_depth(bytes(body), limits)
    return bytes(body)


def replay_body(body: bytes | None, receive: Receive) -> Receive:
    """Return a `receive` that replays `body` (or a disconnect if it is None) and then delegates to `receive`."""
    if body is None:
        messages: list[Message] = [{"type": "http.disconnect"}]
    else:
        messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay

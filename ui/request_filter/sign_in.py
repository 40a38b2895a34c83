"""The cookies of users who signed in with Hugging Face: their browser holds a random name, the token stays here.

Gradio keeps a signed-in user's token in a session cookie that is signed but readable. Behind this module, the browser
gets a random name instead, which is replaced by Gradio's cookie on the events of the page alone. Signing out forgets
the cookie at once, in every tab. Everything is in memory: a restart signs all users out.
"""

import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

from streaming.clock import Clock, monotonic

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]
Step = Literal["none", "use", "begin", "finish", "end"]
"""What a request is to a sign-in: unrelated, an event of the page, or one of Gradio's three routes."""

MAX_SIGN_INS = 2_000
MAX_AGE_S = 8 * 3600.0
"""How long a sign-in is kept; the Hub's tokens expire after 8 hours."""
MAX_COOKIE_BYTES = 8_192
NAME = b"session="
"""The beginning of Gradio's cookie: its name is that of Starlette's session middleware."""
_ROOT = b"; path=/;"
"""What that middleware says of its cookie's path: every path of the host."""
_VALUE = re.compile(rb"[A-Za-z0-9+/=._-]{1,%d}" % MAX_COOKIE_BYTES)


@dataclass(slots=True)
class _SignIn:
    cookie: bytes
    ends_at_s: float
    pages: set[str] = field(default_factory=set)


class SignIns:
    """The signed-in users by their random names, the oldest first. Timestamps are on `clock`.

    `on_sign_out` gets the session hashes of the pages that belonged to a forgotten sign-in.
    """

    def __init__(
        self,
        on_sign_out: Callable[[Collection[str]], Awaitable[None]],
        *,
        limit: int = MAX_SIGN_INS,
        clock: Clock = monotonic,
    ) -> None:
        self._on_sign_out = on_sign_out
        self._limit = limit
        self._clock = clock
        self._by_name: OrderedDict[bytes, _SignIn] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_name)

    async def enter(
        self, step: Step, value: bytes | None, session_hash: str, send: Send, root_path: str = ""
    ) -> tuple[bytes | None, Send]:
        """Return Gradio's cookie for a request, or None, and the `send` for its response.

        `value` is the cookie that the browser sent, `session_hash` the page that the request belongs to. The cookies of
        the response are for the paths below `root_path` alone.
        """
        await self._forget_expired()
        if root_path:  # other services of the host must not get the cookies
            send = _with_cookies(send, lambda cookie: cookie.replace(_ROOT, b"; path=%s;" % root_path.encode(), 1))
        if step == "use":
            result = self._by_name.get(value or b"")
            if result is not None and session_hash:
                result.pages.add(session_hash)
            return result.cookie if result else None, _without_cookies(send)
        if step == "none":
            return None, _without_cookies(send)
        result = await self._forget(value or b"")
        if step == "end":
            return result.cookie if result else None, send
        # Until the sign-in is finished, the cookie holds only the state of the handshake, and stays in the browser.
        return None if result else value, _with_cookies(send, self._replace) if step == "finish" else send

    async def leave(self, step: Step, value: bytes | None, session_hash: str) -> None:
        """Sign a page out whose event has read a token that was forgotten meanwhile."""
        if step == "use" and value is not None and session_hash and value not in self._by_name:
            await self._on_sign_out({session_hash})

    async def _forget(self, name: bytes) -> _SignIn | None:
        result = self._by_name.pop(name, None)
        if result is not None:
            await self._on_sign_out(result.pages)
        return result

    async def _forget_expired(self) -> None:
        now = self._clock()
        while self._by_name:
            name, oldest = next(iter(self._by_name.items()))
            if oldest.ends_at_s > now and len(self._by_name) <= self._limit:
                return
            await self._forget(name)

    def _keep(self, cookie: bytes) -> bytes:
        name = secrets.token_urlsafe(32).encode()
        self._by_name[name] = _SignIn(cookie, self._clock() + MAX_AGE_S)
        return name

    def _replace(self, header: bytes) -> bytes:
        value, _, attributes = header.removeprefix(NAME).partition(b";")
        return header if value == b"null" else NAME + self._keep(value) + b";" + attributes


def read_cookie(headers: Headers) -> bytes | None:
    """Return the value of the session cookie among a request's headers, None if there is none or it is not valid."""
    for name, value in headers:
        if name.lower() == b"cookie" and len(value) <= MAX_COOKIE_BYTES:
            for part in value.split(b";"):
                result = part.strip()
                if result.startswith(NAME) and _VALUE.fullmatch(result.removeprefix(NAME)):
                    return result.removeprefix(NAME)
    return None


def _is_cookie(name: bytes, value: bytes) -> bool:
    return name.lower() == b"set-cookie" and value.startswith(NAME)


def _with_cookies(send: Send, change: Callable[[bytes], bytes]) -> Send:
    """Return `send` with each Set-Cookie of the session changed."""

    async def send_changed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                (name, change(value) if _is_cookie(name, value) else value)
                for name, value in message.get("headers", ())
            ]
        await send(message)

    return send_changed


def _without_cookies(send: Send) -> Send:
    """Return `send` without any Set-Cookie: responses outside of the sign-in set none."""

    async def send_without_cookies(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [one for one in message.get("headers", ()) if one[0].lower() != b"set-cookie"]
        await send(message)

    return send_without_cookies

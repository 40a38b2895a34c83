"""Who is here: one conversation for each open page, by Gradio's session hash."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from streaming.pipeline import Answer
from streaming.session import Session


class Visitor:
    """A page's conversation: its session, kept while the same provider is asked, and the answer under way."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._name = ""
        self._answer: Answer | None = None
        self._stopping = asyncio.Lock()

    def session(self, name: str, make: Callable[[str], Session]) -> Session:
        """Give the session with `name`, made anew when the visitor turned to another provider."""
        if self._session is None or self._name != name:
            self._session, self._name = make(name), name
        return self._session

    @property
    def busy(self) -> bool:
        return self._answer is not None and not self._answer.ended

    async def begin(self, answer: Answer) -> None:
        """Take on an answer; the one before it, if any still runs, is stopped first."""
        before, self._answer = self._answer, answer
        if before is not None:
            await before.aclose()

    async def stop(self) -> None:
        """End the answer under way; the provider's work has ended when this returns."""
        async with self._stopping:
            if self._answer is not None:
                await self._answer.aclose()

    async def settled(self) -> None:
        """Wait for a stop that is under way, so that its receipt is complete."""
        async with self._stopping:
            pass

    async def forget(self) -> None:
        """Stop, and begin the next conversation with a session of its own."""
        await self.stop()
        self._session = None


class Visitors:
    """All visitors; beyond `limit` the one not heard of for longest is dropped, unless an answer of its runs."""

    def __init__(self, limit: int = 2000) -> None:
        self._limit = limit
        self._by_hash: OrderedDict[str, Visitor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_hash)

    def of(self, session_hash: str | None) -> Visitor:
        """Give a visitor, new or known. Without a hash nobody can be told apart: a fresh one each time."""
        if session_hash is None:
            return Visitor()
        visitor = self._by_hash.setdefault(session_hash, Visitor())
        self._by_hash.move_to_end(session_hash)
        if len(self._by_hash) > self._limit:
            idle = next((k for k, v in self._by_hash.items() if not v.busy and k != session_hash), None)
            if idle is not None:
                del self._by_hash[idle]
        return visitor

    async def leave(self, session_hash: str | None) -> None:
        """The page was closed: stop its answer and forget it."""
        visitor = self._by_hash.pop(session_hash, None) if session_hash else None
        if visitor is not None:
            await visitor.stop()

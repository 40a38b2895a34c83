"""Who is here: what each open page has under way, by Gradio's session hash, in memory and nowhere else."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from streaming.pipeline import Answer
from streaming.session import Session
from ui.comparison import Round, Votes
from ui.ledger import Ledger

if TYPE_CHECKING:
    from ui.desk import Answerers


class Lane:
    """One place for answers on a page: its session, kept while the same provider is asked, and the answer under way."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._name = ""
        self._answer: Answer | None = None
        self._stopping = asyncio.Lock()
        self.conversation = 0
        """Counts the conversations: an answer of one that was cleared is shown no more."""
        self.asked_in = 0
        """The conversation of the last question."""

    def session(self, name: str, make: Callable[[str], Session]) -> Session:
        """Give the session with `name`, made anew when the visitor turned to another provider."""
        if self._session is None or self._name != name:
            self._session, self._name = make(name), name
        return self._session

    @property
    def busy(self) -> bool:
        return self._answer is not None and not self._answer.ended

    @property
    def usd(self) -> Decimal:
        """What the answer under way has cost so far, as far as it is known."""
        cost = self._answer.reading().cost if self._answer is not None and self.busy else None
        return cost.total_usd if cost else Decimal(0)

    def streamed(self, asked: bool) -> bool:
        """Whether the next question is asked for as a stream: a fallback switches that off for the conversation."""
        return asked if self._session is None else self._session.streamed

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
        self.conversation += 1
        await self.stop()
        self._session = None


class Visitor:
    """One open page: its lanes by name, what it has spent, and the keys that it brought."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self.ledger = Ledger()
        self.keys: dict[str, str] = {}
        """Keys of the visitor's own for providers, by the name of the variable that each stands in for."""
        self.access_key: str | None = None
        """What the visitor shows to be let in, where this service asks for it."""
        self.own: Answerers | None = None
        """Who answers with these keys; closed when the page goes, or brings another key."""
        self.close_own: Callable[[], Awaitable[None]] | None = None
        self.round: Round | None = None
        """The comparison that is on the page."""
        self.votes = Votes()

    def lane(self, name: str) -> Lane:
        """Give a lane, new or known."""
        return self._lanes.setdefault(name, Lane())

    @property
    def usd(self) -> Decimal:
        """What is known to have been spent, on answers under way too."""
        return self.ledger.usd + sum(lane.usd for lane in self._lanes.values())

    @property
    def busy(self) -> bool:
        return any(lane.busy for lane in self._lanes.values())

    async def leave(self) -> None:
        """Stop everything, and let go of the keys."""
        await asyncio.gather(*(lane.stop() for lane in self._lanes.values()))
        await self.bring({}, None, None)

    async def bring(
        self, keys: dict[str, str], own: "Answerers | None", close: Callable[[], Awaitable[None]] | None
    ) -> None:
        """Take other keys, and who answers with them; answers with the ones before are stopped."""
        before, self.close_own = self.close_own, close
        self.keys, self.own = keys, own
        # A session that was made before asks with the keys of before, the service's own among them.
        await asyncio.gather(*(lane.forget() for lane in self._lanes.values()))
        if before is not None:
            await before()


class Visitors:
    """All visitors; beyond `limit` the one not heard of for longest is dropped, unless an answer of its runs."""

    def __init__(self, limit: int = 2000) -> None:
        self._limit = limit
        self._by_hash: OrderedDict[str, Visitor] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._by_hash)

    def of(self, session_hash: str | None) -> Visitor:
        """Give a visitor, new or known. Without a hash nobody can be told apart: a fresh one each time."""
        if session_hash is None:
            return Visitor()
        visitor = self._by_hash.setdefault(session_hash, Visitor())
        self._by_hash.move_to_end(session_hash)
        if len(self._by_hash) > self._limit:
            idle = (k for k, v in self._by_hash.items() if not (v.busy or k == session_hash))
            if (oldest := next(idle, None)) is not None:
                self._close(self._by_hash.pop(oldest))
        return visitor

    def _close(self, visitor: Visitor) -> None:
        """Let go of a dropped visitor's own keys, and of who answered with them."""
        if visitor.own is None:
            return
        try:
            task = asyncio.get_running_loop().create_task(visitor.leave())
        except RuntimeError:  # called from a thread: connections that nobody uses end by themselves
            visitor.keys, visitor.own = {}, None
            return
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def leave(self, session_hash: str | None) -> None:
        """The page was closed: stop its answers and forget it."""
        visitor = self._by_hash.pop(session_hash, None) if session_hash else None
        if visitor is not None:
            await visitor.leave()

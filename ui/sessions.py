"""Who is here: what each open page has under way, by Gradio's session hash, in memory and nowhere else."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING

from guard import RejectionError
from guard.identity import address_block
from streaming.clock import Clock, monotonic
from streaming.pipeline import AnswerStream
from streaming.session import Session
from ui import strings
from ui.spending import PageSpending

if TYPE_CHECKING:
    from ui.types import ProviderSource

KEY_KEPT_S = 3600.0
"""How long a visitor who brought a key is kept when its page is not connected any more."""
FULL_RETRY_S = 60


class AnswerSlot:
    """One place for answers on a page: its session, kept while the same provider is asked, and the answer under way."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._name = ""
        self._answer: AnswerStream | None = None
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
        cost = self._answer.meter_reading().cost if self._answer is not None and self.busy else None
        return cost.total_usd if cost else Decimal(0)

    def next_is_streamed(self, asked: bool) -> bool:
        """Whether the next question is asked for as a stream: a fallback switches that off for the conversation."""
        return asked if self._session is None else self._session.streamed

    async def begin(self, answer: AnswerStream) -> None:
        """Take on an answer; the one before it, if any still runs, is stopped first."""
        before, self._answer = self._answer, answer
        if before is not None:
            await before.aclose()

    async def stop(self) -> None:
        """End the answer under way; the provider's work has ended when this returns."""
        async with self._stopping:
            if self._answer is not None:
                await self._answer.aclose()

    async def wait_stopped(self) -> None:
        """Wait for a stop that is under way, so that its receipt is complete."""
        async with self._stopping:
            pass

    def end_session(self) -> None:
        """Let the next question begin a session of its own; the conversation goes on."""
        self._session = None

    async def reset(self) -> None:
        """Stop, and begin the next conversation with a session of its own."""
        self.conversation += 1
        await self.stop()
        self._session = None


class PageSession:
    """One open page: its lanes by name, what it has spent, and the keys that it brought."""

    def __init__(self) -> None:
        self._slots: dict[str, AnswerSlot] = {}
        self.spending = PageSpending()
        self.keys: dict[str, str] = {}
        """Keys of the visitor's own for providers, by the name of the variable that each stands in for."""
        self.access_key: str | None = None
        """What the visitor shows to be let in, where this service asks for it."""
        self.own: ProviderSource | None = None
        """Who answers with these keys; closed when the page goes, or brings another key."""
        self.close_own: Callable[[], Awaitable[None]] | None = None
        self.network = ""
        """Where the page was opened from: what counts as one address."""
        self.connections = 0
        """Event streams and heartbeats that are open."""
        self.heard_s = 0.0

    def slot(self, name: str) -> AnswerSlot:
        """Give a lane, new or known."""
        return self._slots.setdefault(name, AnswerSlot())

    @property
    def usd(self) -> Decimal:
        """What is known to have been spent, on answers under way too."""
        return self.spending.usd + sum(slot.usd for slot in self._slots.values())

    @property
    def busy(self) -> bool:
        return any(slot.busy for slot in self._slots.values())

    async def close(self) -> None:
        """Stop everything, and let go of the keys."""
        await asyncio.gather(*(slot.stop() for slot in self._slots.values()))
        await self.set_keys({}, None, None)

    async def set_keys(
        self, keys: dict[str, str], own: "ProviderSource | None", close: Callable[[], Awaitable[None]] | None
    ) -> None:
        """Take other keys, and who answers with them; answers with the ones before are stopped."""
        before, self.close_own = self.close_own, close
        self.keys, self.own = keys, own
        for slot in self._slots.values():
            slot.end_session()  # made with the keys before, whosever they were
        if before is not None:
            await asyncio.gather(*(slot.reset() for slot in self._slots.values()))
            await before()


class PageSessions:
    """All visitors; beyond `limit` the one not heard of for longest is dropped. Times are on `clock`.

    Nobody is dropped whose page is connected, whose answer runs, or who brought a key and was heard of within
    `KEY_KEPT_S`: who comes new is refused before. `enter` counts a newcomer from an address, or raises Refusal.
    """

    def __init__(
        self,
        limit: int = 2000,
        *,
        clock: Clock = monotonic,
        enter: Callable[[str | None], Awaitable[None]] | None = None,
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._enter = enter
        self._by_hash: OrderedDict[str, PageSession] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._by_hash)

    def __contains__(self, session_hash: object) -> bool:
        return session_hash in self._by_hash

    def get(self, session_hash: str | None) -> PageSession:
        """Give a visitor, new or known. Without a hash nobody can be told apart: a fresh one each time."""
        if session_hash is None:
            return PageSession()
        page_session = self._by_hash.setdefault(session_hash, PageSession())
        self._by_hash.move_to_end(session_hash)
        page_session.heard_s = self._clock()
        if len(self._by_hash) > self._limit and (oldest := self._droppable(besides=session_hash)) is not None:
            self._close_session(self._by_hash.pop(oldest))
        return page_session

    async def admit(self, session_hash: str, address: str | None) -> None:
        """Let an event of a page in; a page that is new counts for its address. Raises Refusal.

        From one address come at most half of all visitors.
        """
        if session_hash not in self._by_hash:
            if self._enter is not None:
                await self._enter(address)
            self._make_room(address_block(address))
            self.get(session_hash).network = address_block(address)
        self.get(session_hash)

    @contextmanager
    def connect(self, session_hash: str) -> Iterator[None]:
        """Hold a known visitor while a connection of its page is open."""
        page_session = self.get(session_hash)
        page_session.connections += 1
        try:
            yield
        finally:
            page_session.connections -= 1
            page_session.heard_s = self._clock()

    def _make_room(self, near: str) -> None:
        if sum(page_session.network == near for page_session in self._by_hash.values()) >= max(self._limit // 2, 1):
            oldest = self._droppable(near=near)
        elif len(self._by_hash) >= self._limit:
            oldest = self._droppable()
        else:
            return
        if oldest is None:
            raise RejectionError("page.full", "rate_limited", strings.PAGES_FULL, retry_after_s=FULL_RETRY_S)
        self._close_session(self._by_hash.pop(oldest))

    def _droppable(self, *, besides: str = "", near: str | None = None) -> str | None:
        """Return the visitor that was not heard of for longest, of those that may be dropped."""
        for session_hash, page_session in self._by_hash.items():
            elsewhere = near is not None and page_session.network != near
            if session_hash != besides and not elsewhere and not self._is_held(page_session):
                return session_hash
        return None

    def _is_held(self, page_session: PageSession) -> bool:
        brought = (
            bool(page_session.keys or page_session.access_key) and self._clock() - page_session.heard_s < KEY_KEPT_S
        )
        return brought or page_session.busy or page_session.connections > 0

    def _close_session(self, page_session: PageSession) -> None:
        """Let go of a dropped visitor's own keys, and of who answered with them."""
        if page_session.own is None:
            return
        try:
            task = asyncio.get_running_loop().create_task(page_session.close())
        except RuntimeError:  # called from a thread: connections that nobody uses end by themselves
            page_session.keys, page_session.own = {}, None
            return
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self, session_hash: str | None) -> None:
        """The page was closed: stop its answers and forget it."""
        page_session = self._by_hash.pop(session_hash, None) if session_hash else None
        if page_session is not None:
            await page_session.close()

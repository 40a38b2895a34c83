"""Sessions of open pages by Gradio's session hash: answers under way, spending and keys, in memory only."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal

from guard import RejectionError
from guard.identity import address_block
from providers.models.source import ProviderSource
from streaming.clock import Clock, monotonic
from streaming.session import Session
from ui import strings
from ui.page_sessions.spending import PageSpending
from ui.page_sessions.update_pacer import UpdatePacer
from ui.types import PageAnswer

KEY_KEPT_S = 3600.0
"""How long a session with a key is kept after its page has disconnected."""
FULL_RETRY_S = 60
TOKEN_VARIABLE = "HF_TOKEN"
"""The variable of the only provider that a signed-in user's token is for."""


class AnswerSlot:
    """The slot of one answer on a page: its provider session, reused for one provider, and the answer under way."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._asked: tuple[str, ProviderSource] | None = None
        self._answer: PageAnswer | None = None
        self._stopping = asyncio.Lock()
        self.conversation = 0
        """Number of the current conversation; answers of an earlier, cleared one are no longer shown."""
        self.last_request_conversation = 0
        """Number of the conversation to which the last request belongs."""

    def session(self, name: str, providers: ProviderSource, *, clock: Clock) -> Session:
        """Return the session with provider `name` of `providers`, a new one when either has changed."""
        if self._session is None or self._asked != (name, providers):
            self._session, self._asked = providers.new_session([name], clock=clock), (name, providers)
        return self._session

    @property
    def busy(self) -> bool:
        """Whether an answer is under way."""
        return self._answer is not None and not self._answer.ended

    @property
    def usd(self) -> Decimal:
        """The known cost so far of the answer under way; 0 if unknown or if there is none."""
        cost = self._answer.meter_reading().cost if self._answer is not None and self.busy else None
        return cost.total_usd if cost else Decimal(0)

    def next_is_streamed(self, requested: bool) -> bool:
        """Return whether the next request will stream; a fallback turns streaming off for the rest of the session.

        Returns `requested`, the user's setting, while there is no session.
        """
        return requested if self._session is None else self._session.streamed

    async def begin(self, answer: PageAnswer) -> None:
        """Set the answer under way, and stop the previous one if it still runs."""
        before, self._answer = self._answer, answer
        if before is not None:
            await before.cancel()

    async def stop(self) -> None:
        """Stop the answer under way; on return the provider's work has ended."""
        async with self._stopping:
            if self._answer is not None:
                await self._answer.cancel()

    async def wait_stopped(self) -> None:
        """Wait for a running stop to finish, so that the receipt is complete."""
        async with self._stopping:
            pass

    def end_session(self) -> None:
        """Start a new provider session with the next request; the conversation continues."""
        self._session = None

    async def reset(self) -> None:
        """Stop the answer under way, and start the next conversation with a new provider session."""
        self.conversation += 1
        await self.stop()
        self._session = None


class PageSession:
    """The session of one open page: its answer slots by name, its spending and the user's API keys."""

    def __init__(self) -> None:
        self._slots: dict[str, AnswerSlot] = {}
        self.spending = PageSpending()
        self.pacer = UpdatePacer()
        self.keys: dict[str, str] = {}
        """The user's own provider API keys, by the environment variable that each replaces."""
        self.token: str | None = None
        """The Hugging Face token of a signed-in user."""
        self.access_key: str | None = None
        """The access key of this service that the user has entered, if any."""
        self.own: ProviderSource | None = None
        """Providers that use the own keys; closed with the page or when the keys change."""
        self.close_own: Callable[[], Awaitable[None]] | None = None
        self.provider: str | None = None
        """The provider that the chat's picker shows."""
        self.network = ""
        """Address block of the page's client; all its addresses count as one client."""
        self.connections = 0
        """Number of open event streams and heartbeats."""
        self.last_seen_s = 0.0

    @property
    def own_keys(self) -> dict[str, str]:
        """The keys that pay for the page's answers, by variable: the user's own, and the token of the sign-in."""
        return ({TOKEN_VARIABLE: self.token} if self.token else {}) | self.keys

    def slot(self, name: str) -> AnswerSlot:
        """Return the answer slot `name`, created at first use."""
        return self._slots.setdefault(name, AnswerSlot())

    @property
    def usd(self) -> Decimal:
        """The known spending of the page, including answers under way."""
        return self.spending.usd + sum(slot.usd for slot in self._slots.values())

    @property
    def busy(self) -> bool:
        """Whether any answer of the page is under way."""
        return any(slot.busy for slot in self._slots.values())

    async def close(self) -> None:
        """Stop all answers and remove the keys."""
        await asyncio.gather(*(slot.stop() for slot in self._slots.values()))
        await self.set_keys({}, None, None)

    async def set_keys(
        self,
        keys: dict[str, str],
        own: ProviderSource | None,
        close: Callable[[], Awaitable[None]] | None,
        token: str | None = None,
    ) -> None:
        """Replace the keys, the token and the providers that use them; stop answers that use the previous ones."""
        before, self.close_own = self.close_own, close
        self.keys, self.own, self.token = keys, own, token
        for slot in self._slots.values():
            slot.end_session()  # it uses the previous keys
        if before is not None:
            await asyncio.gather(*(slot.reset() for slot in self._slots.values()))
            await before()


class PageSessions:
    """The sessions of all open pages; above `limit` the least recently active is dropped. Timestamps are on `clock`.

    A session is never dropped while its page is connected or an answer runs, nor within `KEY_KEPT_S` of its last
    activity if it has a key: a new page is rejected instead. `enter` counts a new page for its client address, or
    raises RejectionError.
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
        """Return the session of a page, created at first use; without a hash a new one that is not stored."""
        if session_hash is None:
            return PageSession()
        page_session = self._by_hash.setdefault(session_hash, PageSession())
        self._by_hash.move_to_end(session_hash)
        page_session.last_seen_s = self._clock()
        if len(self._by_hash) > self._limit and (oldest := self._droppable(besides=session_hash)) is not None:
            self._close_session(self._by_hash.pop(oldest))
        return page_session

    async def count_visit(self, address: str | None) -> None:
        """Count a sign-in for its client address, like a new page. Raises RejectionError when there are too many."""
        if self._enter is not None:
            await self._enter(address)

    async def admit(self, session_hash: str, address: str | None) -> None:
        """Admit an event of a page; a new page counts for its client address.

        One address block may hold at most half of all sessions. Raises RejectionError when no session can be dropped
        for a new page, or when `enter` rejects it.
        """
        if session_hash not in self._by_hash:
            await self.count_visit(address)
            self._make_room(address_block(address))
            self.get(session_hash).network = address_block(address)
        self.get(session_hash)

    @contextmanager
    def connect(self, session_hash: str) -> Iterator[None]:
        """Keep a page's session while the connection in this context is open."""
        page_session = self.get(session_hash)
        page_session.connections += 1
        try:
            yield
        finally:
            page_session.connections -= 1
            page_session.last_seen_s = self._clock()

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
        """Return the hash of the least recently active session that may be dropped; None if there is none."""
        for session_hash, page_session in self._by_hash.items():
            elsewhere = near is not None and page_session.network != near
            if session_hash != besides and not elsewhere and not self._is_held(page_session):
                return session_hash
        return None

    def _is_held(self, page_session: PageSession) -> bool:
        brought = (
            bool(page_session.own_keys or page_session.access_key)
            and self._clock() - page_session.last_seen_s < KEY_KEPT_S
        )
        return brought or page_session.busy or page_session.connections > 0

    def _close_session(self, page_session: PageSession) -> None:
        """Remove the keys of a dropped session, and close the providers that used them."""
        if page_session.own is None:
            return
        try:
            task = asyncio.get_running_loop().create_task(page_session.close())
        except RuntimeError:  # called from a thread without an event loop: unused connections close by themselves
            page_session.keys, page_session.token, page_session.own = {}, None, None
            return
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self, session_hash: str | None) -> None:
        """Stop the answers of a closed page, and remove its session."""
        page_session = self._by_hash.pop(session_hash, None) if session_hash else None
        if page_session is not None:
            await page_session.close()

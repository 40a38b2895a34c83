"""Sessions of open pages by Gradio's session hash: answers under way, spending and keys, in memory only."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from guard import RejectionError
from guard.identity import address_block
from providers.models.source import ProviderSource
from streaming.clock import Clock, monotonic
from ui import strings
from ui.page_sessions.answer_slot import AnswerSlot
from ui.page_sessions.screen_progress import ScreenProgress
from ui.page_sessions.spending import PageSpending
from ui.page_sessions.update_pacer import UpdatePacer

KEY_KEPT_S = 3600.0
"""How long a session with a key is kept after its page has disconnected."""
FULL_RETRY_S = 60
TOKEN_VARIABLE = "HF_TOKEN"
"""The variable of the only provider that a signed-in user's token is for."""


class PageSession:
    """The session of one open page: its answer slots by name, its spending and the user's API keys."""

    def __init__(self) -> None:
        self._slots: dict[str, AnswerSlot] = {}
        self.conversation: str | None = None
        """The id of the conversation that the chat shows."""
        self._left: dict[str, AnswerSlot] = {}
        self._readers: dict[str, asyncio.Task[None]] = {}
        self.spending = PageSpending()
        self.pacer = UpdatePacer()
        self.screen = ScreenProgress()
        """How far the page's browser is behind the updates that it was sent."""
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
        self.listings: set[tuple[str, ProviderSource]] = set()
        """The lists of models that the page waits for."""
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

    def show_conversation(self, name: str, conversation: str) -> None:
        """Make slot `name` that of another conversation; a slot that `read_unseen` has kept comes back with its own.

        The first conversation of a page has the slot that the page began with.
        """
        if self.conversation is not None:
            self._slots[name] = self._left.pop(conversation) if conversation in self._left else AnswerSlot()
        self.conversation = conversation

    def read_unseen(self, conversation: str, slot: AnswerSlot, reading: Coroutine[Any, Any, None]) -> None:
        """Keep the slot of a conversation that the page has left, and read its answer until `stop_reading`."""
        self._left[conversation] = slot
        self._readers[conversation] = asyncio.get_running_loop().create_task(reading)

    async def stop_reading(self, conversation: str) -> None:
        """End the reading that `read_unseen` began, if any."""
        reader = self._readers.pop(conversation, None)
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    @property
    def has_unseen_answers(self) -> bool:
        """Whether the page has left conversations whose answers are read for it."""
        return bool(self._readers)

    @property
    def _all_slots(self) -> list[AnswerSlot]:
        return [*self._slots.values(), *self._left.values()]

    @property
    def usd(self) -> Decimal:
        """The known spending of the page, including answers under way."""
        return self.spending.usd + sum(slot.usd for slot in self._all_slots)

    @property
    def busy(self) -> bool:
        """Whether any answer of the page is under way."""
        return any(slot.busy for slot in self._all_slots)

    def is_over(self, budget_usd: Decimal | None) -> bool:
        """Return whether the page's answers, including those under way, have used up its budget."""
        return budget_usd is not None and self.usd >= budget_usd

    async def close(self) -> None:
        """Remove the keys, and stop all answers but those that outlive the page.

        The providers that use the user's own keys are closed after the last of those answers.
        """
        close_own, self.close_own = self.close_own, None
        self.keys, self.own, self.token = {}, None, None
        for conversation in list(self._readers):
            await self.stop_reading(conversation)
        ends = await asyncio.gather(*(slot.release() for slot in self._all_slots))
        if close_own is not None:
            await asyncio.gather(*(wait_end() for wait_end in ends if wait_end is not None))
            await close_own()

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
        for slot in self._all_slots:
            slot.end_session()  # it uses the previous keys
        if before is not None:
            await asyncio.gather(*(slot.stop() for slot in self._all_slots))
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

    def report_drawn(self, session_hash: str, number: int) -> None:
        """Record the number of the newest update that the browser of an open page has drawn."""
        self._by_hash[session_hash].screen.report(number, self._clock())

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
        if page_session.own is None and not page_session.has_unseen_answers:
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

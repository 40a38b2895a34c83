"""The guard decides who may send a request, how often, with what content and at what cost.

The service and the page call it before every answer, in this order: `admit` (rate limit, then API key),
`validate_messages` (validation, then content filter), `reserve` (budgets), the answer with `output_filter` in its
pipeline, and at the end the reservation's `settle`.
"""

import hashlib
from collections.abc import Mapping, Sequence

from guard.budget_store import BudgetService, Reservation
from guard.config import GuardConfig
from guard.content_filter import BlockedText, BlockList, ContentFilter
from guard.identity import Caller, address_block
from guard.output_filter import OutputFilter
from guard.rate_limit import RateLimiter
from guard.redis_backend import OptionalRedis
from guard.rejection import RejectionError
from guard.secret_patterns import SECRET_PATTERNS, Patterns
from guard.validation import validate_conversation
from streaming.clock import Clock, monotonic
from streaming.messages import ChatRequest, Message
from streaming.meter import CostModel

_PAGES: Mapping[str, str] = {"what": "pages opened", "advice": "load the page again", "rule": "page.rate"}


class Guard:
    """One for a process. With `redis_url` the replicas that share it count together.

    `filters` judge the content after the block list. Raises UsageError for a block list or an address that cannot be.
    """

    def __init__(
        self,
        configuration: GuardConfig,
        *,
        redis_url: str | None = None,
        filters: Sequence[ContentFilter] = (),
        clock: Clock = monotonic,
    ) -> None:
        self.configuration = configuration
        self._keys = configuration.keys
        self._shared = OptionalRedis(redis_url, clock) if redis_url else None
        self._rate = RateLimiter(configuration.rate, clock, self._shared) if configuration.rate else None
        pages = configuration.page_rate
        self._page_rate = RateLimiter(pages, clock, self._shared, **_PAGES) if pages and configuration.rate else None
        self._budgets = BudgetService(configuration.budget, clock, self._shared)
        listed = [BlockList.load(configuration.blocklist)] if configuration.blocklist else []
        self._filters: list[ContentFilter] = [*listed, *filters]
        self._patterns: Patterns | None = None
        if configuration.output_filter:
            self._patterns = Patterns(configuration.banned, SECRET_PATTERNS, configuration.secrets)

    async def admit(self, caller: Caller) -> str:
        """Count a request and return the caller's id, `key:NAME` or `address:…`. Raises RejectionError.

        A known key has a window of its own. Everybody else has the address's, whoever shows a wrong key too. A
        session has one besides, at the same rate: a new session is not let in more often, nor one that changes its
        address.
        """
        if self._rate is not None:
            for name in self._rate_limit_names(caller):
                await self._rate.hit(name)
        return self.identify(caller)

    async def enter_page(self, client_address: str | None) -> None:
        """Count a page that is newly opened from an address. Raises RejectionError."""
        if self._page_rate is not None:
            await self._page_rate.hit(f"page:{address_block(client_address)}")

    def identify(self, caller: Caller) -> str:
        """Return the caller's id without counting a request. Raises RejectionError."""
        return self._keys.identify(caller)

    def validate_messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the conversation, all messages checked and control characters removed. Raises RejectionError."""
        cleaned = validate_conversation(messages, self.configuration.limits)
        for place, message in enumerate(cleaned, start=1):
            for judge in self._filters:
                if (blocked := judge.check(message.content)) is not None:
                    raise RejectionError(
                        f"content.{blocked.category}", "blocked", _blocked_message(blocked, last=place == len(cleaned))
                    )
        return cleaned

    async def reserve(self, caller_id: str, request: ChatRequest, routes: Mapping[str, CostModel]) -> Reservation:
        """Reserve what the answer may cost, whichever of `routes`, by full name, produces it.

        Raises RejectionError; else the reservation must be settled.
        """
        return await self._budgets.reserve(caller_id, request, routes)

    def output_filter(self) -> OutputFilter | None:
        """Return a filter for one answer; None when it is off."""
        return None if self._patterns is None else OutputFilter(self._patterns)

    async def aclose(self) -> None:
        """Wait for what is being settled, and close the connections."""
        if self._shared is not None:
            await self._shared.aclose()

    def _rate_limit_names(self, caller: Caller) -> list[str]:
        if (name := self._keys.lookup(caller.key)) is not None:
            return [f"key:{name}"]
        names = [f"address:{address_block(caller.address)}"]
        if caller.session:
            # A page may send any text as its session: its hash has a bounded length.
            names.append("session:" + hashlib.sha256(caller.session.encode("utf-8", "replace")).hexdigest()[:24])
        return names


def _blocked_message(blocked: BlockedText, *, last: bool) -> str:
    if blocked.message is not None:
        return blocked.message
    about = blocked.category.replace("-", " ")
    if last:
        return f"this service does not answer that ({about}): ask something else"
    return f"an earlier turn holds what this service does not answer ({about}): begin a new conversation"

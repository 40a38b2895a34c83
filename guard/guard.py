"""The guard, which decides who may send a request, how often, with what content and at what cost.

For every answer, the service and the page call it in this order: `admit` (rate limit, then API key),
`validate_messages` (validation, then content filter) and `reserve` (budgets). They then stream the answer with
`output_filter` in the pipeline, and finally call the reservation's `settle`.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from guard.budget_store import BudgetService, Reservation
from guard.config import GuardConfig
from guard.content_filter import BlockedText, BlockList, ContentFilter
from guard.identity import Caller, address_block
from guard.output_filter import FilterChain, OutputFilter
from guard.rate_limit import RateLimiter
from guard.rejection import RejectionError
from guard.secret_patterns import SECRET_PATTERNS, Patterns
from guard.validation import validate_conversation
from settings import DEFAULT_REDIS_TIMEOUT_S
from streaming.clock import Clock, monotonic
from streaming.messages import ChatRequest, Message
from streaming.meter import CostModel
from streaming.pipeline import EventFilter

if TYPE_CHECKING:
    from guard.redis_backend import OptionalRedis

_RATINGS: Mapping[str, str] = {"what": "ratings", "advice": "rate again", "rule": "feedback.rate"}
_PAGES: Mapping[str, str] = {"what": "pages opened", "advice": "load the page again", "rule": "page.rate"}


class Guard:
    """The guard of a process. Replicas with the same `redis_url` share their limits.

    `filters` run after the block list. Raises UsageError when the block list or the Redis URL is invalid.
    """

    def __init__(
        self,
        configuration: GuardConfig,
        *,
        redis_url: str | None = None,
        filters: Sequence[ContentFilter] = (),
        clock: Clock = monotonic,
        redis_timeout_s: float = DEFAULT_REDIS_TIMEOUT_S,
    ) -> None:
        self.configuration = configuration
        self._keys = configuration.keys
        self._shared = _make_redis(redis_url, clock, redis_timeout_s) if redis_url else None
        self._rate = RateLimiter(configuration.rate, clock, self._shared) if configuration.rate else None
        limit, shared = configuration.rate, self._shared
        self._feedback_rate = RateLimiter(limit, clock, shared, **_RATINGS) if limit else None
        pages = configuration.page_rate
        self._page_rate = RateLimiter(pages, clock, self._shared, **_PAGES) if pages and configuration.rate else None
        self._budgets = BudgetService(configuration.budget, clock, self._shared)
        listed = [BlockList.load(configuration.blocklist)] if configuration.blocklist else []
        self._filters: list[ContentFilter] = [*listed, *filters]
        self._patterns: Patterns | None = None
        if configuration.output_filter:
            self._patterns = Patterns(configuration.banned, SECRET_PATTERNS, configuration.secrets)

    async def admit(self, caller: Caller) -> str:
        """Count a request against the rate limit and return the caller's ID, `key:NAME` or `address:…`.

        A known key has its own rate limit window. All other callers, including those with an invalid key, share the
        window of their address. A session has an additional window with the same limit, so that neither a new session
        nor a new address increases a caller's rate. Raises RejectionError when the rate is exceeded or the key is
        missing or unknown.
        """
        if self._rate is not None:
            for name in self._rate_limit_names(caller):
                await self._rate.hit(name)
        return self.identify(caller)

    async def admit_feedback(self, caller: Caller) -> None:
        """Count a rating in a window of its own, which has the limit of requests.

        Raises RejectionError when the limit is exceeded or the key is missing or unknown.
        """
        if self._feedback_rate is not None:
            for name in self._rate_limit_names(caller):
                await self._feedback_rate.hit(f"feedback:{name}")
        self.identify(caller)

    async def enter_page(self, client_address: str | None) -> None:
        """Count a page load from an address. Raises RejectionError when the address exceeds the page rate."""
        if self._page_rate is not None:
            await self._page_rate.hit(f"page:{address_block(client_address)}")

    def identify(self, caller: Caller) -> str:
        """Return the caller's ID without counting a request. Raises RejectionError for a missing or unknown key."""
        return self._keys.identify(caller)

    def validate_messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Check all messages and return them without control characters. Raises RejectionError if one is invalid."""
        cleaned = validate_conversation(messages, self.configuration.limits)
        for place, message in enumerate(cleaned, start=1):
            for judge in self._filters:
                if (blocked := judge.check(message.content)) is not None:
                    raise RejectionError(
                        f"content.{blocked.category}", "blocked", _blocked_message(blocked, last=place == len(cleaned))
                    )
        return cleaned

    async def reserve(self, caller_id: str, request: ChatRequest, routes: Mapping[str, CostModel]) -> Reservation:
        """Reserve the maximum cost of an answer from any of `routes`, which are keyed by full name.

        The caller must settle the reservation. Raises RejectionError when the budgets do not allow the request.
        """
        return await self._budgets.reserve(caller_id, request, routes)

    def output_filter(self, caller_keys: Collection[str] = ()) -> EventFilter | None:
        """Return a new filter for one answer, or None if there is nothing to filter.

        `caller_keys` are the caller's own API keys, which are removed also if output filtering is off: a provider may
        quote them.
        """
        own = Patterns((), (), caller_keys) if caller_keys else None
        filters = [OutputFilter(patterns) for patterns in (own, self._patterns) if patterns is not None]
        return FilterChain(filters) if len(filters) > 1 else next(iter(filters), None)

    async def aclose(self) -> None:
        """Wait for pending settlements and close the connections."""
        if self._shared is not None:
            await self._shared.aclose()

    def _rate_limit_names(self, caller: Caller) -> list[str]:
        if (name := self._keys.lookup(caller.key)) is not None:
            return [f"key:{name}"]
        names = [f"address:{address_block(caller.address)}"]
        if caller.session:
            # A page may send any text as its session ID; hashing bounds the length of the Redis key.
            names.append("session:" + hashlib.sha256(caller.session.encode("utf-8", "replace")).hexdigest()[:24])
        return names


def _blocked_message(blocked: BlockedText, *, last: bool) -> str:
    if blocked.message is not None:
        return blocked.message
    about = blocked.category.replace("-", " ")
    if last:
        return f"the message: this service does not answer questions about {about} (ask something else)"
    return f"an earlier turn: this service does not answer questions about {about} (begin a new conversation)"


def _make_redis(url: str, clock: Clock, timeout_s: float) -> "OptionalRedis":
    """Return Redis' client, imported only here: most services have no Redis, and start a tenth sooner without it."""
    from guard.redis_backend import OptionalRedis

    return OptionalRedis(url, clock, timeout_s)

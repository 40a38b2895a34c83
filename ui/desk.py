"""One answer for the page: the guard, the visitor's own keys and budget, and the way through `pipeline.answer`."""

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

import gradio as gr

from guard import Caller, Guard, OutputFilter, Refusal, Reservation, client_address
from guard.validation import Limits
from providers.offer import Offer
from providers.rows import ROWS
from streaming.clock import Clock
from streaming.errors import UsageError
from streaming.events import Notice
from streaming.messages import ChatRequest
from streaming.meter import Rates
from streaming.pipeline import Account, Answer, answer
from streaming.probe import Probe
from streaming.session import Session
from ui import figures, texts
from ui.questions import LOCAL, Asked, Listed, Question, checked
from ui.screen import Screen
from ui.visitors import Lane, Visitor, Visitors

TICK_S = 0.5
"""The longest time without an update while waiting: only an update notices that the page is gone."""

WIRE = "page"
"""How the page is called beside the service's wires, in metrics and the log."""

log = logging.getLogger(__name__)


class Answerers(Protocol):
    """What the page needs of `providers.Providers`."""

    def listing(self) -> Sequence[Listed]: ...
    def session(self, names: Sequence[str], *, clock: Clock) -> Session: ...
    def rates(self, name: str) -> Rates: ...
    async def aclose(self) -> None: ...


class Desk:
    """Takes questions from every tab. Times are on `clock`, the running loop's timebase.

    `with_keys` gives who answers with the visitor's own keys in place of the service's; None: no keys are taken.
    `account` opens the account of an answer, by the wire's name and what is known of the answer; None: nobody is told.
    `offer` says which models may be asked on the service's own keys.
    """

    def __init__(
        self,
        providers: Answerers,
        clock: Clock,
        guard: Guard | None = None,
        with_keys: Callable[[Mapping[str, str]], Answerers] | None = None,
        account: Callable[[str, Mapping[str, str | None]], Account] | None = None,
        offer: Offer | None = None,
    ) -> None:
        self.clock = clock
        self.visitors = Visitors(clock=clock, enter=guard.enter_page if guard else None)
        self._providers = providers
        self._guard = guard
        self._with_keys = with_keys
        self._account = account
        self._offer = offer or Offer()

    def providers(self, visitor: Visitor) -> Answerers:
        """Give who answers this visitor."""
        return visitor.own or self._providers

    @property
    def wants_access_key(self) -> bool:
        """Whether visitors must show a key of this service's."""
        return self._guard is not None and bool(self._guard.configuration.keys.digests)

    @property
    def limits(self) -> Limits:
        """How large a question may be."""
        return self._guard.configuration.limits if self._guard else Limits()

    @property
    def takes_keys(self) -> bool:
        """Whether visitors may bring keys of their own."""
        return self._with_keys is not None

    def row(self, name: str) -> Listed | None:
        """Give the picker's row of a provider, as it stands without a visitor's keys."""
        return next((row for row in self._providers.listing() if row.name == name), None)

    def listing(self) -> Sequence[Listed]:
        """Give everyone who can be asked here."""
        return self._providers.listing()

    def session(self, name: str) -> Session:
        """Give a session of this service's own with `name`."""
        return self._providers.session([name], clock=self.clock)

    def screen(self, visitor: Visitor, question: Question, *, blind: bool = False) -> Screen:
        """Make the screen for a question, which may yet be refused."""
        row = next((r for r in self.providers(visitor).listing() if r.name == question.provider), None)
        simulated = row is not None and row.simulated
        no_price = texts.SIMULATED_PRICE if simulated else texts.LOCAL_PRICE if question.provider == LOCAL else None
        return Screen(self.clock(), simulated=simulated, no_price=no_price or texts.UNKNOWN_PRICE, blind=blind)

    async def answering(
        self, place: str, question: Question, screen: Screen, request: gr.Request, probe: Probe | None = None
    ) -> AsyncGenerator[None, None]:
        """Ask and answer on `screen`; yield whenever it has changed, last when a receipt or a refusal stands on it."""
        visitor = self.visitors.of(request.session_hash)
        try:
            if self.is_key_gone(visitor, question.provider, question.brought):
                raise UsageError(texts.KEY_GONE.format(name=question.provider))
            asked = checked(question, self.providers(visitor).listing(), self.limits)
            async with aclosing(self._admitted(visitor, place, asked, screen, request, probe)) as changes:
                async for _ in changes:
                    yield
        except Refusal as refusal:
            words = texts.ACCESS_NEEDED if refusal.kind == "unauthorized" else figures.sentence(refusal.message)
            screen.refuse(words, refusal.retry_after_s)
        except UsageError as error:
            screen.refuse(str(error))
        except Exception:
            log.exception("an answer on the page broke")
            screen.refuse(texts.DEFECT)
        yield

    def key_variable(self, provider: str | None, missing: str | None = None) -> str:
        """Name the variable that a visitor's key stands in for. Raises UsageError unless `missing` is given."""
        row = ROWS.get((provider or "").partition(":")[0])
        if self._with_keys is not None and row is not None and row.key is not None and row.base_url is not None:
            return row.key
        if missing is not None:
            return missing
        raise UsageError(texts.KEY_NOT_HERE.format(name=provider or texts.UNKNOWN))

    def is_key_gone(self, visitor: Visitor, provider: str | None, brought: str | None) -> bool:
        """Return whether the page has brought a key for a provider that is not here any more.

        Nobody who means to pay with a key of their own is answered with the service's instead.
        """
        variable = self.key_variable(provider, missing="")
        return bool(variable) and variable in (brought or "").split(",") and variable not in visitor.keys

    async def bring_key(self, visitor: Visitor, variable: str, key: str) -> None:
        """Take a key for this page alone; an empty one takes the one before back. Raises UsageError."""
        if self._with_keys is None:
            raise UsageError(texts.NO_KEYS)
        if len(key) > 500 or not (key.isascii() and key.isprintable()) or " " in key:
            raise UsageError(texts.BAD_KEY)
        keys = {name: value for name, value in (visitor.keys | {variable: key}).items() if value}
        own = self._with_keys(keys) if keys else None
        await visitor.bring(keys, own, own.aclose if own else None)

    async def _admitted(
        self, visitor: Visitor, place: str, asked: Asked, screen: Screen, request: gr.Request, probe: Probe | None
    ) -> AsyncGenerator[None, None]:
        if asked.budget_usd is not None and visitor.usd >= asked.budget_usd:
            raise UsageError(texts.BUDGET_SPENT.format(spent=figures.amount(visitor.usd)))
        providers = self.providers(visitor)
        routes = {asked.name: self._charged(visitor, asked.name)}
        lane = visitor.lane(place)
        session = lane.session(asked.name, lambda name: providers.session([name], clock=self.clock))
        reserved = await self.reserved(asked.request, routes, request)
        asked = replace(asked, request=reserved.request) if reserved else asked
        session.streamed = asked.request.streamed
        answered = answer(
            asked.request,
            session,
            asked.strategy,
            clock=self.clock,
            rates=providers.rates,
            probe=probe,
            filter=self.output_filter(),
            before_retry=reserved.renew if reserved else None,
        )
        try:
            async with aclosing(self._shown(visitor, lane, answered, asked, screen)) as changes:
                async for _ in changes:
                    yield
        finally:
            if reserved is not None:
                await reserved.settle(answered.charge())

    async def reserved(
        self, question: ChatRequest, routes: Mapping[str, Rates], request: gr.Request
    ) -> Reservation | None:
        """Ask the guard; a reservation has the question as it may be sent, and must be settled. Raises Refusal."""
        if self._guard is None:
            return None
        caller_id = await self._guard.enter(self._caller(request))
        cleaned = replace(question, messages=self._guard.clean(question.messages))
        return await self._guard.reserve(caller_id, cleaned, routes)

    def output_filter(self) -> OutputFilter | None:
        """Give a filter for one answer; None when it is off."""
        return self._guard.output_filter() if self._guard else None

    def _charged(self, visitor: Visitor, name: str) -> Rates:
        """Return how this service's budgets count an answer: what a visitor's own key pays for costs it nothing.

        Raise NotOfferedError for a model that is not offered on the service's own keys.
        """
        rates = self.providers(visitor).rates(name)
        if self.key_variable(name, missing="") in visitor.keys:
            return Rates(rates.counter)
        self._offer.check(name)
        return rates

    def _caller(self, request: gr.Request) -> Caller:
        assert self._guard is not None
        peer = request.client.host if request.client else None
        hops = self._guard.configuration.hops
        where = client_address(peer, request.headers.items(), hops)
        return Caller(self.visitors.of(request.session_hash).access_key, where, request.session_hash)

    async def _shown(
        self, visitor: Visitor, lane: Lane, answered: Answer, asked: Asked, screen: Screen
    ) -> AsyncGenerator[None, None]:
        """Take the answer in; its cost is entered however it ends, and its receipt is the screen's last."""
        await lane.begin(answered)
        account = self._account(WIRE, _about(asked)) if self._account else None
        if asked.left_out:
            screen.feed([Notice("trimmed", texts.TRIMMED.format(count=asked.left_out))], self.clock())
        try:
            async with aclosing(answered):
                yield
                while not answered.ended:
                    events = await answered.ready(TICK_S)
                    if events and account is not None:
                        account.passed(events, self.clock())
                    screen.feed(events, self.clock())
                    screen.draw(answered.reading(), self.clock())
                    if _over(asked, visitor) and not answered.ended:
                        screen.feed([Notice("budget", texts.BUDGET_REACHED)], self.clock())
                        await lane.stop()
                    if not answered.ended:
                        yield
                await lane.settled()
        finally:
            free = asked.simulated or asked.name == LOCAL
            receipt = answered.receipt()
            if account is not None:
                account.ended(receipt)
            name = visitor.ledger.add(receipt, strategy=asked.strategy.name, simulated=asked.simulated, free=free)
        screen.close(receipt, self.clock(), name)


def _about(asked: Asked) -> dict[str, str | None]:
    request_id = asked.request.request_id
    return {"request_id": request_id, "provider": asked.name, "strategy": asked.strategy.name, "caller": None}


def _over(asked: Asked, visitor: Visitor) -> bool:
    """Whether the page's answers, those under way included, have brought it to its budget."""
    return asked.budget_usd is not None and visitor.usd >= asked.budget_usd

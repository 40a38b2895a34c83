"""One answer for the page: the guard's checks, the user's own API keys and budget, and `streaming.pipeline`."""

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

import gradio as gr

from guard import Caller, Guard, OutputFilter, RejectionError, Reservation, client_address
from guard.validation import InputLimits
from providers.services import SERVICES, Offer
from streaming.clock import Clock
from streaming.errors import UsageError
from streaming.events import Notice
from streaming.messages import ChatRequest
from streaming.meter import CostModel
from streaming.pipeline import AnswerObserver, AnswerStream, stream_answer
from streaming.session import Session
from streaming.trace import Probe
from ui import html, strings
from ui.answer_view import AnswerView
from ui.form import LOCAL_PROVIDER, ChatForm, ProviderRow, ValidatedQuestion, validate_form
from ui.sessions import AnswerSlot, PageSession, PageSessions
from ui.types import ProviderSource

TICK_INTERVAL_S = 0.5
"""Longest time between two updates while an answer is pending: only an update detects a closed page."""

TRANSPORT_LABEL = "page"
"""The page's transport label in metrics and the log, beside the service's own transports."""

log = logging.getLogger(__name__)


class AnswerService:
    """The service that answers the chat requests of every tab. Timestamps are on `clock`, the event loop's timebase.

    `with_keys` builds providers that use the user's own API keys instead of the service's; None: the page accepts no
    keys. `observer` creates the observer of an answer from the transport's name and the answer's labels; None: answers
    are not observed. `offer` lists the models that may be requested with the service's own keys.
    """

    def __init__(
        self,
        providers: ProviderSource,
        clock: Clock,
        guard: Guard | None = None,
        with_keys: Callable[[Mapping[str, str]], ProviderSource] | None = None,
        observer: Callable[[str, Mapping[str, str | None]], AnswerObserver] | None = None,
        offer: Offer | None = None,
    ) -> None:
        self.clock = clock
        self.page_sessions = PageSessions(clock=clock, enter=guard.enter_page if guard else None)
        self._providers = providers
        self._guard = guard
        self._with_keys = with_keys
        self._observer = observer
        self._offer = offer or Offer()

    def providers(self, page_session: PageSession) -> ProviderSource:
        """Return the providers for a page: those with the user's own keys if any, otherwise the service's."""
        return page_session.own or self._providers

    @property
    def wants_access_key(self) -> bool:
        """Whether users must enter an access key of this service."""
        return self._guard is not None and bool(self._guard.configuration.keys.digests)

    @property
    def limits(self) -> InputLimits:
        """The input limits for a chat request."""
        return self._guard.configuration.limits if self._guard else InputLimits()

    @property
    def takes_keys(self) -> bool:
        """Whether users may enter their own provider API keys."""
        return self._with_keys is not None

    def provider_info(self, name: str) -> ProviderRow | None:
        """Return a provider's row of the picker, regardless of the user's own keys; None for an unknown name."""
        return next((row for row in self._providers.list_providers() if row.name == name), None)

    def list_providers(self) -> Sequence[ProviderRow]:
        """Return all providers of this service."""
        return self._providers.list_providers()

    def session(self, name: str) -> Session:
        """Create a session with the provider `name` that uses the service's own keys."""
        return self._providers.new_session([name], clock=self.clock)

    def new_view(self, page_session: PageSession, question: ChatForm, *, blind: bool = False) -> AnswerView:
        """Create the view for a chat request, before the guard has admitted it."""
        row = next((r for r in self.providers(page_session).list_providers() if r.name == question.provider), None)
        simulated = row is not None and row.simulated
        no_price = (
            strings.SIMULATED_PRICE
            if simulated
            else strings.LOCAL_PRICE
            if question.provider == LOCAL_PROVIDER
            else None
        )
        return AnswerView(self.clock(), simulated=simulated, no_price=no_price or strings.UNKNOWN_PRICE, blind=blind)

    async def run(
        self, place: str, question: ChatForm, view: AnswerView, request: gr.Request, probe: Probe | None = None
    ) -> AsyncGenerator[None, None]:
        """Send the request and stream its answer into `view`; yield after every change, last with receipt or error."""
        page_session = self.page_sessions.get(request.session_hash)
        try:
            if self.is_key_gone(page_session, question.provider, question.brought):
                raise UsageError(strings.KEY_GONE.format(name=question.provider))
            validated = validate_form(question, self.providers(page_session).list_providers(), self.limits)
            async with aclosing(self._admit(page_session, place, validated, view, request, probe)) as changes:
                async for _ in changes:
                    yield
        except RejectionError as rejection:
            words = (
                strings.ACCESS_NEEDED if rejection.kind == "unauthorized" else html.capitalize_first(rejection.message)
            )
            view.show_error(words, rejection.retry_after_s)
        except UsageError as error:
            view.show_error(str(error))
        except Exception:
            log.exception("internal error in an answer of the page")
            view.show_error(strings.DEFECT)
        yield

    def key_variable(self, provider: str | None, missing: str | None = None) -> str:
        """Return the environment variable that the user's own key for `provider` replaces.

        Returns `missing` for a provider that accepts no key here; raises UsageError if `missing` is None.
        """
        row = SERVICES.get((provider or "").partition(":")[0])
        if self._with_keys is not None and row is not None and row.key is not None and row.base_url is not None:
            return row.key
        if missing is not None:
            return missing
        raise UsageError(strings.KEY_NOT_HERE.format(name=provider or strings.UNKNOWN))

    def is_key_gone(self, page_session: PageSession, provider: str | None, brought: str | None) -> bool:
        """Return whether the page has sent a key for `provider` that the service no longer holds.

        A user who means to pay with their own key must not be served with the service's key instead. `brought` lists
        the variables for which the page has sent keys, comma-separated.
        """
        variable = self.key_variable(provider, missing="")
        return bool(variable) and variable in (brought or "").split(",") and variable not in page_session.keys

    async def set_key(self, page_session: PageSession, variable: str, key: str) -> None:
        """Store an API key for this page only; an empty key removes the stored one. Raises UsageError for a bad key."""
        if self._with_keys is None:
            raise UsageError(strings.NO_KEYS)
        if len(key) > 500 or not (key.isascii() and key.isprintable()) or " " in key:
            raise UsageError(strings.BAD_KEY)
        keys = {name: value for name, value in (page_session.keys | {variable: key}).items() if value}
        own = self._with_keys(keys) if keys else None
        await page_session.set_keys(keys, own, own.aclose if own else None)

    async def _admit(
        self,
        page_session: PageSession,
        place: str,
        validated: ValidatedQuestion,
        view: AnswerView,
        request: gr.Request,
        probe: Probe | None,
    ) -> AsyncGenerator[None, None]:
        if validated.budget_usd is not None and page_session.usd >= validated.budget_usd:
            raise UsageError(strings.BUDGET_SPENT.format(spent=html.format_usd(page_session.usd)))
        providers = self.providers(page_session)
        routes = {validated.name: self._charged_cost_model(page_session, validated.name)}
        slot = page_session.slot(place)
        session = slot.session(validated.name, lambda name: providers.new_session([name], clock=self.clock))
        reservation = await self.reserve(validated.request, routes, request)
        validated = replace(validated, request=reservation.request) if reservation else validated
        session.streamed = validated.request.streamed
        answer_stream = stream_answer(
            validated.request,
            session,
            validated.strategy,
            clock=self.clock,
            cost_model=providers.cost_model,
            probe=probe,
            filter=self.output_filter(),
            before_retry=reservation.renew if reservation else None,
        )
        try:
            async with aclosing(self._show_answer(page_session, slot, answer_stream, validated, view)) as changes:
                async for _ in changes:
                    yield
        finally:
            if reservation is not None:
                await reservation.settle(answer_stream.charge())

    async def reserve(
        self, question: ChatRequest, routes: Mapping[str, CostModel], request: gr.Request
    ) -> Reservation | None:
        """Admit the caller, validate the request and reserve its budget; return None without a guard.

        The reservation holds the request as it may be sent, and the caller must settle it. Raises RejectionError when
        the guard rejects the request.
        """
        if self._guard is None:
            return None
        caller_id = await self._guard.admit(self._identify_caller(request))
        cleaned = replace(question, messages=self._guard.validate_messages(question.messages))
        return await self._guard.reserve(caller_id, cleaned, routes)

    def output_filter(self) -> OutputFilter | None:
        """Create an output filter for one answer; None when filtering is off."""
        return self._guard.output_filter() if self._guard else None

    def _charged_cost_model(self, page_session: PageSession, name: str) -> CostModel:
        """Return the cost model by which the service's budgets charge an answer; the user's own key costs them nothing.

        Raises NotOfferedError for a model that is not offered with the service's own keys.
        """
        cost_model = self.providers(page_session).cost_model(name)
        if self.key_variable(name, missing="") in page_session.keys:
            return CostModel(cost_model.counter)
        self._offer.check(name)
        return cost_model

    def _identify_caller(self, request: gr.Request) -> Caller:
        assert self._guard is not None
        peer = request.client.host if request.client else None
        hops = self._guard.configuration.hops
        where = client_address(peer, request.headers.items(), hops)
        return Caller(self.page_sessions.get(request.session_hash).access_key, where, request.session_hash)

    async def _show_answer(
        self,
        page_session: PageSession,
        slot: AnswerSlot,
        answer_stream: AnswerStream,
        validated: ValidatedQuestion,
        view: AnswerView,
    ) -> AsyncGenerator[None, None]:
        """Stream the answer into `view`, record its cost however it ends, and close the view with its receipt."""
        await slot.begin(answer_stream)
        observer = self._observer(TRANSPORT_LABEL, _log_labels(validated)) if self._observer else None
        if validated.left_out:
            view.feed([Notice("trimmed", strings.TRIMMED.format(count=validated.left_out))], self.clock())
        try:
            async with aclosing(answer_stream):
                yield
                while not answer_stream.ended:
                    events = await answer_stream.next_batch(TICK_INTERVAL_S)
                    if events and observer is not None:
                        observer.on_events(events, self.clock())
                    view.feed(events, self.clock())
                    view.refresh(answer_stream.meter_reading(), self.clock())
                    if _is_over_budget(validated, page_session) and not answer_stream.ended:
                        view.feed([Notice("budget", strings.BUDGET_REACHED)], self.clock())
                        await slot.stop()
                    if not answer_stream.ended:
                        yield
                await slot.wait_stopped()
        finally:
            free = validated.simulated or validated.name == LOCAL_PROVIDER
            receipt = answer_stream.receipt()
            if observer is not None:
                observer.on_end(receipt)
            name = page_session.spending.add(
                receipt, strategy=validated.strategy.name, simulated=validated.simulated, free=free
            )
        view.close(receipt, self.clock(), name)


def _log_labels(validated: ValidatedQuestion) -> dict[str, str | None]:
    request_id = validated.request.request_id
    return {"request_id": request_id, "provider": validated.name, "strategy": validated.strategy.name, "caller": None}


def _is_over_budget(validated: ValidatedQuestion, page_session: PageSession) -> bool:
    """Return whether the page's answers, including those under way, have used up its budget."""
    return validated.budget_usd is not None and page_session.usd >= validated.budget_usd

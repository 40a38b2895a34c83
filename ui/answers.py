"""The answers of every tab: the user's own API keys and page budget, on top of the service's `start_answer`."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import gradio as gr

from guard import Caller, RejectionError, client_address
from guard.validation import InputLimits
from providers.models.source import ProviderRow, ProviderSource
from providers.services import BUILTIN_PROVIDERS, SERVICES
from streaming.errors import UsageError
from streaming.events import Notice
from streaming.pipeline import AnswerObserver
from streaming.session import Session
from streaming.trace import Probe
from ui import html, strings
from ui.answer_view import AnswerView
from ui.form import (
    LOCAL_PROVIDER,
    ChatForm,
    ValidatedQuestion,
    parse_budget,
    parse_own_price,
    resolve_full_name,
    shown_model,
    validate_form,
)
from ui.page_sessions.answer_slot import AnswerSlot, SlotAnswer
from ui.page_sessions.service_checks import ServiceCheck, ServiceChecks
from ui.page_sessions.sessions import TOKEN_VARIABLE, PageSession, PageSessions
from ui.types import AnswerSource, PageAnswer

TICK_INTERVAL_S = 0.5
"""Longest time between two updates while an answer is pending: only an update detects a closed page."""

GRACE_S = 30.0
"""How long an answer that outlives its page goes on while no page reads it, unless the service is set otherwise."""
WIRE = "page"
"""The page's label in metrics and the log, beside the service's own transports."""

log = logging.getLogger(__name__)


class AnswerService:
    """The answers of every tab of the page, from the service's `start_answer`.

    `with_keys` builds providers that use the user's own API keys instead of the service's; None: the page accepts no
    keys. `offers_sign_in`: users may sign in with Hugging Face, and their token is their key for that provider.
    `grace_s`: how long an answer that outlives its page goes on while no page reads it.
    """

    def __init__(
        self,
        chat_service: AnswerSource,
        with_keys: Callable[[Mapping[str, str]], ProviderSource] | None = None,
        *,
        offers_sign_in: bool = False,
        grace_s: float = GRACE_S,
    ) -> None:
        self.offers_sign_in = offers_sign_in
        self.grace_s = grace_s
        self.clock = chat_service.clock
        self.page_sessions = PageSessions(clock=self.clock, enter=chat_service.guard.enter_page)
        self.source = chat_service
        self._guard = chat_service.guard
        self._providers = chat_service.providers
        self._with_keys = with_keys
        # Each own key has lists and refusals of its own.
        self._checks: WeakKeyDictionary[ProviderSource, ServiceChecks] = WeakKeyDictionary()

    def providers(self, page_session: PageSession) -> ProviderSource:
        """Return the providers for a page: those with the user's own keys if any, otherwise the service's."""
        return page_session.own or self._providers

    @property
    def wants_access_key(self) -> bool:
        """Whether users must enter an access key of this service."""
        return bool(self._guard.configuration.keys.digests)

    @property
    def limits(self) -> InputLimits:
        """The input limits for a chat request."""
        return self._guard.configuration.limits

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

    def find_check(self, page_session: PageSession, name: str) -> ServiceCheck:
        """Return what is known of a provider's service, without asking it; the built-in providers need no service."""
        provider = name.partition(":")[0]
        if provider in BUILTIN_PROVIDERS:
            return ServiceCheck(True)
        return self._restrict(page_session, name, self._service_checks(page_session).find(provider))

    async def check_service(self, page_session: PageSession, name: str) -> ServiceCheck:
        """Ask a provider's service for its models unless it was asked recently; return what is known then.

        A provider that lacks a key is not asked. The models are those that this page may use.
        """
        providers = self.providers(page_session)
        row = next((row for row in providers.list_providers() if row.name == name), None)
        provider = name.partition(":")[0]
        if row is None or not row.ready or provider in BUILTIN_PROVIDERS:
            return self.find_check(page_session, name)
        return self._restrict(page_session, name, await self._service_checks(page_session).check(provider, providers))

    def _service_checks(self, page_session: PageSession) -> ServiceChecks:
        return self._checks.setdefault(self.providers(page_session), ServiceChecks(self.clock))

    def _restrict(self, page_session: PageSession, name: str, check: ServiceCheck) -> ServiceCheck:
        """Return the check with the models that are offered; a user's own key may use all of the service."""
        if self.key_variable(name, missing="") in page_session.own_keys:
            return check
        provider, is_offered = name.partition(":")[0], self.source.is_offered
        return replace(check, models=tuple(model for model in check.models if is_offered(f"{provider}:{model}")))

    def new_session(self, name: str) -> Session:
        """Return a new session with the provider `name` that uses the service's own keys."""
        return self._providers.new_session([name], clock=self.clock)

    def answer_name(self, page_session: PageSession, question: ChatForm) -> str:
        """Return the name of model and provider that an answer to a chat request is headed with."""
        row = self._find_row(page_session, question.provider)
        if row is None:
            return question.provider or strings.UNKNOWN
        return row.label if row.simulated else f"{shown_model(question) or row.model} · {row.label}"

    def _find_row(self, page_session: PageSession, provider: str | None) -> ProviderRow | None:
        return next((row for row in self.providers(page_session).list_providers() if row.name == provider), None)

    def new_view(
        self, page_session: PageSession, question: ChatForm, *, blind: bool = False, probe: Probe | None = None
    ) -> AnswerView:
        """Create the view for a chat request, before the guard has admitted it; `probe` is the one of its answer."""
        row = self._find_row(page_session, question.provider)
        model = "" if row is None else shown_model(question) or row.model
        simulated = row is not None and row.simulated
        unknown = strings.LOCAL_PRICE if question.provider == LOCAL_PROVIDER else strings.UNKNOWN_PRICE
        no_price = strings.SIMULATED_PRICE if simulated else unknown
        return AnswerView(
            self.clock(),
            simulated=simulated,
            model=model,
            no_price=no_price,
            blind=blind,
            probe=probe,
            timed_words=question.timed_words,
        )

    async def run(
        self, place: str, question: ChatForm, view: AnswerView, request: gr.Request, probe: Probe | None = None
    ) -> AsyncGenerator[None, None]:
        """Send the request and stream its answer into `view`; yield after every change, last with receipt or error."""
        try:
            validated = self.validate(question, request)
            async with aclosing(self._show_answer(place, validated, view, request, probe)) as changes:
                async for _ in changes:
                    yield
        except Exception as error:
            view.show_error(*self.explain(error))
        yield

    @asynccontextmanager
    async def open_answer(
        self,
        place: str,
        validated: ValidatedQuestion,
        request: gr.Request,
        *,
        probe: Probe | None = None,
        new_session: Callable[[str], Session] | None = None,
    ) -> AsyncIterator[SlotAnswer]:
        """Start an answer in the slot `place` of a page, whose name begins with the name of its tab.

        On leaving the block the answer is stopped if it has not ended, and added to the page's spending. `new_session`
        creates a provider session for this answer alone, by name; by default the slot's session is used. Raises
        RejectionError or UsageError, which `explain` turns into words.
        """
        page_session = self.page_sessions.get(request.session_hash)
        slot = page_session.slot(place)
        answer = await self.start_answer(place, validated, request, probe=probe, new_session=new_session)
        opened = SlotAnswer(answer, slot)
        try:
            async with aclosing(answer):
                await slot.begin(answer, validated.price)
                yield opened
        finally:
            opened.receipt_id = page_session.spending.add(opened.read_receipt(), validated)

    async def start_answer(
        self,
        place: str,
        validated: ValidatedQuestion,
        request: gr.Request,
        *,
        probe: Probe | None = None,
        new_session: Callable[[str], Session] | None = None,
        observer: AnswerObserver | None = None,
    ) -> PageAnswer:
        """Start an answer for the slot `place` of a page, which the caller closes or buffers. See `open_answer`."""
        page_session, name = self.page_sessions.get(request.session_hash), validated.name
        providers, paid_by_caller = self._read_keys(page_session, name)
        new_session = new_session or partial(self._slot_session, providers, page_session.slot(place), validated)
        return await self.source.start_answer(
            self._identify_caller(request),
            [name],
            validated.request,
            validated.strategy,
            wire=WIRE,
            tab=place.partition("-")[0],
            providers=providers,
            open_session=partial(new_session, name),
            paid_by_caller=paid_by_caller,
            caller_keys=[*page_session.own_keys.values()],
            probe=probe,
            observer=observer,
        )

    def _read_keys(self, page_session: PageSession, name: str) -> tuple[ProviderSource, bool]:
        """Return the page's providers now, and whether the user pays for `name`; the user may change keys meanwhile.

        A gateway of this service may ignore the user's key and ask the vendor with its own, so only the vendor's own
        address counts.
        """
        providers, has_key = self.providers(page_session), self.key_variable(name, missing="") in page_session.own_keys
        return providers, has_key and providers.is_vendor_address(name)

    def _slot_session(
        self, providers: ProviderSource, slot: AnswerSlot, validated: ValidatedQuestion, name: str
    ) -> Session:
        """Return the slot's session, which keeps the conversation non-streamed after a fallback."""
        session = slot.session(name, providers, clock=self.clock)
        session.streamed = validated.request.streamed
        return session

    def explain(self, error: Exception) -> tuple[str, float | None]:
        """Return why a request was not answered, and after how many seconds a retry may succeed, if known."""
        if isinstance(error, RejectionError):
            words = strings.ACCESS_NEEDED if error.kind == "unauthorized" else html.capitalize_first(error.message)
            return words, error.retry_after_s
        if isinstance(error, UsageError):
            return str(error), None
        log.error("an answer on the page broke", exc_info=error)
        return strings.DEFECT, None

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

    def key_info(self, provider: str | None) -> str:
        """Return what becomes of the user's own key for `provider`, and to which host it is sent."""
        row = SERVICES.get((provider or "").partition(":")[0])
        host = urlsplit(row.base_url).hostname if row is not None and row.base_url is not None else None
        return strings.KEY_INFO.format(host=host or strings.ITS_PROVIDER)

    def budget_problem(self, page_session: PageSession, question: ChatForm) -> str | None:
        """Return what is wrong with the budget or the price of a form, or why the budget cannot be held; else None."""
        row = self._find_row(page_session, question.provider)
        if row is None:
            return None
        try:
            name = resolve_full_name(row, (question.model or "").strip())
            budget_usd, price = parse_budget(question.budget), parse_own_price(question.price, name)
            is_free = row.simulated or name == LOCAL_PROVIDER
            if budget_usd is None or is_free or price is not None:
                return None
            is_known = self.providers(page_session).cost_model(name).price is not None
        except UsageError as error:
            return str(error)
        return None if is_known else strings.BUDGET_UNHELD.format(name=name)

    def is_key_gone(self, page_session: PageSession, provider: str | None, brought: str | None) -> bool:
        """Return whether the page has sent a key for `provider` that the service no longer holds.

        A user who means to pay with their own key must not be served with the service's key instead. `brought` lists
        the variables for which the page has sent keys, comma-separated.
        """
        variable = self.key_variable(provider, missing="")
        return bool(variable) and variable in (brought or "").split(",") and variable not in page_session.keys

    @property
    def takes_feedback(self) -> bool:
        """Whether readers may rate answers."""
        return self.source.feedback is not None

    async def keep_feedback(self, rating: Mapping[str, object], request: gr.Request) -> None:
        """Count a rating for its caller, and keep it. Raises RejectionError, which is recorded already, and OSError."""
        assert self.source.feedback is not None, "there are thumbs only where ratings are kept"
        with self.source.recording_rejections():
            await self._guard.admit_feedback(self._identify_caller(request))
        self.source.feedback.add(rating)

    async def set_key(self, page_session: PageSession, variable: str, key: str) -> None:
        """Store an API key for this page only; an empty key removes the stored one. Raises UsageError for a bad key."""
        if self._with_keys is None:
            raise UsageError(strings.NO_KEYS)
        if len(key) > 500 or not (key.isascii() and key.isprintable()) or " " in key:
            raise UsageError(strings.BAD_KEY)
        keys = {name: value for name, value in (page_session.keys | {variable: key}).items() if value}
        await self._use_keys(page_session, keys, page_session.token)

    async def sign_in(self, page_session: PageSession, token: str | None) -> None:
        """Use a signed-in user's token for Hugging Face's provider on this page; None: the user is not signed in."""
        if token != page_session.token:
            await self._use_keys(page_session, page_session.keys, token)

    async def sign_out(self, session_hashes: Collection[str]) -> None:
        """Forget the token of a user who signed out on all of the user's pages, and stop the answers that use it."""
        for session_hash in session_hashes:
            if session_hash in self.page_sessions:
                await self.sign_in(self.page_sessions.get(session_hash), None)

    async def _use_keys(self, page_session: PageSession, keys: dict[str, str], token: str | None) -> None:
        assert self._with_keys is not None, "a page without keys has no sign-in"
        all_keys = ({TOKEN_VARIABLE: token} if token else {}) | keys
        own = self._with_keys(all_keys) if all_keys else None
        await page_session.set_keys(keys, own, own.aclose if own else None, token)

    def validate(self, question: ChatForm, request: gr.Request) -> ValidatedQuestion:
        """Check what the page alone knows: its form, its keys and its budget. Raises UsageError, which is recorded."""
        with self.source.recording_rejections():
            return self._validate(question, request)

    def _validate(self, question: ChatForm, request: gr.Request) -> ValidatedQuestion:
        page_session = self.page_sessions.get(request.session_hash)
        if self.is_key_gone(page_session, question.provider, question.brought):
            raise UsageError(strings.KEY_GONE.format(name=question.provider))
        validated = validate_form(question, self.providers(page_session).list_providers(), self.limits)
        row = self._find_row(page_session, question.provider)
        if row is not None and not row.ready:
            takes_key = self.key_variable(row.name, missing="")
            raise UsageError((strings.KEY_MISSING if takes_key else strings.NOT_SET_UP).format(label=row.label))
        if page_session.is_over(validated.budget_usd):
            raise UsageError(strings.BUDGET_SPENT.format(spent=html.format_usd(page_session.usd)))
        return validated

    def _identify_caller(self, request: gr.Request) -> Caller:
        peer = request.client.host if request.client else None
        where = client_address(peer, request.headers.items(), self._guard.configuration.hops)
        return Caller(self.page_sessions.get(request.session_hash).access_key, where, request.session_hash)

    async def _show_answer(
        self,
        place: str,
        validated: ValidatedQuestion,
        view: AnswerView,
        request: gr.Request,
        probe: Probe | None,
    ) -> AsyncGenerator[None, None]:
        """Stream the answer into `view`, and close the view with its receipt."""
        page_session = self.page_sessions.get(request.session_hash)
        async with self.open_answer(place, validated, request, probe=probe) as opened:
            answer = opened.answer
            if validated.left_out:
                view.feed([Notice("trimmed", strings.TRIMMED.format(count=validated.left_out))], self.clock())
            yield
            due_s: float | None = None
            while not answer.ended:
                wait_s = TICK_INTERVAL_S if due_s is None else min(TICK_INTERVAL_S, max(0.0, due_s - self.clock()))
                view.feed(await answer.next_events(wait_s), self.clock())
                view.refresh(opened.slot.with_own_price(answer.meter_reading()), self.clock())
                if page_session.is_over(validated.budget_usd) and not answer.ended:
                    view.feed([Notice("budget", strings.BUDGET_REACHED)], self.clock())
                    await opened.slot.stop()
                due_s = page_session.pacer.reserve(self.clock()) if due_s is None else due_s
                if self.clock() >= due_s and not answer.ended:
                    due_s = None
                    yield
            receipt = await opened.wait_receipt()
        view.close(receipt, self.clock(), opened.receipt_id)

"""The way of a question from any wire into the pipeline: what the guard lets in becomes a stream."""

import re
import uuid
from collections.abc import Mapping
from typing import Any

from guard import Guard, Refusal
from providers import ProviderInfo, Providers
from providers.offer import NotOfferedError, Offer
from server.body import ChatBody
from server.frames import Entries, cancelled_fields
from server.kept import Full, Gone, Keeper
from server.metrics import Accounts, Metrics
from server.replicas import Replicas
from server.sse import Reading
from server.streams import Stream, Streams
from streaming import strategies
from streaming.clock import Clock
from streaming.errors import UsageError
from streaming.pipeline import answer
from streaming.session import Session

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class NoProvider(UsageError):
    """No such provider, or model, can be asked here."""


class Door:
    """All that the wires share. Belongs to one event loop, from `start` to `aclose`."""

    def __init__(
        self,
        providers: Providers,
        offer: Offer,
        guard: Guard,
        metrics: Metrics,
        clock: Clock,
        redis_url: str | None = None,
    ) -> None:
        self.providers = providers
        self.offer = offer
        self.guard = guard
        self.metrics = metrics
        self.streams = Streams(clock)
        self.clock = clock
        self._replicas = Replicas(redis_url, self.streams) if redis_url else None
        self._keeper = Keeper(self._replicas)

    def start(self) -> None:
        """Begin what works in the background."""
        self.providers.warm()
        if self._replicas is not None:
            self._replicas.start(self._keeper)

    async def aclose(self) -> None:
        """Stop what is under way and give everything back."""
        await self.streams.aclose()
        await self._keeper.aclose()
        if self._replicas is not None:
            await self._replicas.aclose()
        await self.guard.aclose()
        await self.providers.aclose()

    async def ask(self, body: ChatBody, caller: str, wire: str, request_id: str | None = None) -> Stream:
        """Let a question in. Raises Refusal, or UsageError for names that mean nothing.

        `request_id` is the caller's own for the provider's log; whoever knows a stream's id may be let into it, so the
        provider is never told that.
        """
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        strategy = strategies.parse(body.strategy).make()
        names = body.providers()
        session = self._open_session(names)
        self.providers.check_effort(names[0], body.effort)
        messages = self.guard.clean(body.turns())
        routes = {route.name: self.providers.rates(route.name) for route in session.routes}
        reserved = await self.guard.reserve(caller, body.request(messages, request_id), routes)
        try:
            asked = answer(
                reserved.request,
                session,
                strategy,
                clock=self.clock,
                rates=self.providers.rates,
                filter=self.guard.output_filter(),
                before_retry=reserved.renew,
            )
        except BaseException:
            await reserved.settle(None)
            raise
        about = {"request_id": request_id, "provider": names[0], "strategy": strategy.name, "caller": _owner(caller)}
        return self.streams.opened(asked, _owner(caller), self.account(wire, about), reserved)

    def _open_session(self, names: list[str]) -> Session:
        """Open a session with those that are asked. Raise Refusal for a model not offered, NoProvider for no model."""
        try:
            _allowed(names)
            for name in names:
                self.offer.check(name)
            return self.providers.session(names, clock=self.clock)
        except NotOfferedError as fault:
            raise Refusal("model.offered", "model_not_found", str(fault)) from None
        except UsageError as fault:
            raise NoProvider(str(fault)) from None

    def list_models(self) -> list[str]:
        """Return the full names that are offered and can be asked now."""
        ready = [info for info in self.providers.listing() if info.ready]
        providers = {_provider_of(info) for info in ready}
        named = [name for name in self.offer.named if name.partition(":")[0] in providers]
        return list(dict.fromkeys([*(info.name for info in ready), *named]))

    def account(self, wire: str, about: Mapping[str, str | None]) -> Accounts:
        """Open the account of an answer; whoever reads it says what passes and how it ended."""
        return Accounts(self.metrics, self.clock, wire=wire, about=about)

    async def reading(self, stream: Stream, resume: bool) -> Reading:
        """Give the stream's first reader. Raises Full, and the stream is closed."""
        entries = Entries(stream, self.clock)
        if not resume:
            return entries
        try:
            return self._keeper.keep(stream, entries)
        except Full:
            await entries.aclose()
            raise

    async def resumed(self, stream_id: str, caller: str, after: int) -> Reading:
        """Give a reader of a kept stream of that caller, here or at another replica. Raises Gone."""
        owner = _owner(caller)
        reader: Reading | None = self._keeper.reader(stream_id, owner, after)
        if reader is None and self._replicas is not None:
            reader = await self._replicas.reader(stream_id, owner, after)
        if reader is None:
            raise Gone(
                "there is no such stream: it has expired, the service was restarted, or it never was this caller's"
            )
        return reader

    async def cancel(self, stream_id: str, caller: str) -> dict[str, Any]:
        """Stop a stream of that caller, here or at another replica; gives the receipt. Raises Gone."""
        owner = _owner(caller)
        stream = self.streams.get(stream_id, owner)
        if stream is not None and await stream.cancel():
            return {"stream_id": stream_id, **cancelled_fields(stream.receipt())}
        found = None
        if stream is None and self._replicas is not None:
            found = await self._replicas.cancel(stream_id, owner)
        if found is None:
            raise Gone("no such stream is under way: it has ended, never was, or is another caller's")
        return found


def _provider_of(info: ProviderInfo) -> str:
    return info.name.partition(":")[0]


def _owner(caller: str) -> str | None:
    """Say whose a stream is: a key's; where keys are off, whoever knows the stream's id may have it."""
    return caller if caller.startswith("key:") else None


def _allowed(names: list[str]) -> None:
    """Refuse what opens a file of this machine for whoever can reach the service. Raises UsageError."""
    if any(name.startswith("replay") for name in names):
        raise UsageError("replay plays files of the service's own machine: it is not offered over the network")

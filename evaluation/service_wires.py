"""The service's own wires as a run asks them: SSE and OpenAI's over stamped sockets, WebSocket by its client.

What the service says of an answer's end (tokens, cost, attempts, why it broke) is taken from the wire; when what
arrived is stamped here. Nothing is retried, and no lost connection is made good.
"""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from clients.answer import Question
from clients.errors import ClientError, ConnectionLost, Refused, StreamGoneError
from clients.websocket import WebSocketClient
from evaluation import rows
from evaluation.service_answers import Arrived, ChatFrames, Completion, Told
from evaluation.wire import Call, between, instrument, request_id, sent_stamp
from providers import stamped
from providers.posted import posted
from providers.refusals import Names
from providers.transport import ID_HEADER, Prepared
from providers.upstream import Service, proxy_for
from providers.wire import whole_characters
from settings import Settings
from streaming.clock import Clock
from streaming.errors import NetworkError, ProtocolError, StreamError, TotalTimeout, TruncatedStream
from streaming.events import Event, Failed, Notice, Timed
from streaming.exchange import Exchange
from streaming.session import Timeouts
from streaming.sockets import Sockets

KEY = "STREAMGAUGE_KEY"
DROPPED_HEADER = "x-streamgauge-dropped-settings"
_WAYS: dict[str, tuple[str, type[ChatFrames] | type[Completion]]] = {
    "sse": ("/api/chat", ChatFrames),
    "openai": ("/v1/chat/completions", Completion),
}
_LONGER_S = 30.0
"""The service keeps an answer's time limits, and says which one passed: it is waited for a little longer here."""


class ServiceWires:
    """The service at one address; its key is the variable STREAMGAUGE_KEY. `clock` is CLOCK_MONOTONIC."""

    def __init__(self, url: str, settings: Settings, clock: Clock) -> None:
        self._url, self._key, self._clock = url, settings.get(KEY), clock
        self._total_s = Timeouts().total_s + _LONGER_S
        self._service = Service(
            Names("the service", url, KEY, "--url"),
            Timeouts(first_content_s=self._total_s, idle_s=self._total_s, total_s=self._total_s),
            self._key,
            proxy_for(url, settings),
            settings.get("SSL_CERT_FILE"),
            settings.masked,
        )

    def prepared(self, call: Call) -> Prepared | None:
        """Give a question as bytes; None for a WebSocket's, which is no request with a response."""
        if call.transport == "websocket":
            return None
        path, reader = _WAYS[call.transport]
        body = _completion(call) if call.transport == "openai" else {**_question(call)}
        return posted(self._service, path, body, call.request, lambda _: reader())

    async def ask_stamped(self, sockets: Sockets, prepared: Prepared, call: Call) -> Arrived:
        """Ask once what was prepared. What breaks the answer is its last event."""
        _, kind = _WAYS[call.transport]
        reader = kind()  # of this answer alone: it is asked afterwards what it was told
        asked = await stamped.ask(sockets, replace(prepared, decoder=lambda: reader), request_id(call))
        exchange, told = asked.exchange, reader.told
        if exchange.head is not None and exchange.head.status >= 300:
            body = b"".join(read.data for read in exchange.reads)
            told.read(body.decode(errors="replace"), exchange.head.status)
        events = [*dropped_settings_notices(exchange), *told.ended(asked.events)]
        stamps = rows.Stamps(sent_stamp(exchange), None, events, sent=exchange.sent_s is not None)
        return Arrived(stamps, told, instrument(asked))

    async def ask_websocket(self, call: Call) -> Arrived:
        """Ask once, on a socket of its own, whose client stamps what comes. What breaks it is its last event."""
        heard = _Heard(self._clock)
        try:
            async with asyncio.timeout(self._total_s):
                await self._listen(call, heard)
        except Refused as refusal:
            heard.take(Failed(refusal.kind, str(refusal), refusal.status))
        except StreamGoneError as fault:
            heard.take(Failed(fault.kind, str(fault), 404))
        except (TimeoutError, ClientError) as fault:
            error = self._error(fault, begun=heard.begun)
            heard.take(Failed(error.kind, error.message))
        return heard.arrived()

    async def _listen(self, call: Call, heard: "_Heard") -> None:
        headers = {ID_HEADER: request_id(call)}
        async with WebSocketClient(self._url, key=self._key, headers=headers, reconnect=False) as client:
            heard.connected_s = self._clock()
            answer = client.ask(**_question(call))
            heard.sent_s = self._clock()
            async with answer:
                heard.begun = True
                async for said in answer:
                    event = heard.told.event(said)
                    if event is not None:
                        heard.take(event)

    def _error(self, fault: Exception, *, begun: bool) -> StreamError:
        """Give the error that the same fault is over the other wires; `begun`: the service had answered."""
        if isinstance(fault, TimeoutError):
            return TotalTimeout(f"the answer was not complete within {self._total_s:g} s")
        if isinstance(fault, ConnectionLost):
            return TruncatedStream(str(fault)) if begun else NetworkError(str(fault))
        return ProtocolError(str(fault))


def dropped_settings_notices(exchange: Exchange) -> list[Timed]:
    """Return what the OpenAI wire says in a header and the others in an event: the settings that were left out."""
    head, at_s = exchange.head, exchange.headers_s
    names = head.headers.get(DROPPED_HEADER) if head is not None else None
    if at_s is None or not names:
        return []
    settings = ",".join(name.strip() for name in names.split(","))
    return [Timed(at_s, Notice("dropped_settings", f"Left out: {names}.", {"settings": settings}))]


@dataclass(slots=True)
class _Heard:
    """What came over a WebSocket so far, each event with its moment."""

    clock: Clock
    told: Told = field(default_factory=Told)
    events: list[Timed] = field(default_factory=list)
    begun: bool = False
    connected_s: float | None = None
    sent_s: float | None = None
    asked_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.asked_s = self.clock()

    def take(self, event: Event) -> None:
        self.events.append(Timed(self.clock(), event))

    def arrived(self) -> Arrived:
        sent_s = self.asked_s if self.sent_s is None else self.sent_s
        stamps = rows.Stamps(sent_s, None, self.events, sent=self.sent_s is not None)
        if self.connected_s is None:
            return Arrived(stamps, self.told)
        return Arrived(
            stamps, self.told, {"connect_s": between(self.asked_s, self.connected_s), "stamp_source": "callback"}
        )


def _question(call: Call) -> Question:
    """Give the body that the service's own wires take."""
    found = Question(message=_text(call), provider=call.provider, strategy=call.strategy)
    if call.request.max_tokens is not None:
        found["max_tokens"] = call.request.max_tokens
    if call.request.temperature is not None:
        found["temperature"] = call.request.temperature
    if call.request.effort is not None:
        found["effort"] = call.request.effort
    return found


def _completion(call: Call) -> dict[str, Any]:
    """Give the body that OpenAI's wire takes: the provider's full name is the model, the strategy a field more."""
    question = _question(call)
    body: dict[str, Any] = {
        "model": question.pop("provider"),
        "messages": [{"role": "user", "content": question.pop("message")}],
    }
    if (effort := question.pop("effort", None)) is not None:
        body["reasoning_effort"] = effort
    return {**body, **question, "stream": True, "stream_options": {"include_usage": True}}


def _text(call: Call) -> str:
    return whole_characters(call.request.messages[-1].content)

"""HTTP access to one service, shared by all SDKs: client options, and reading of responses."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from providers.decoding.decoder import StreamDecoder, as_object, as_text, excerpt, parse_json_object
from providers.http.errors import ServiceLabels, too_large_error
from providers.http.transport import BoundedTransport, PooledTransport
from providers.services import ServiceEndpoint
from settings import Settings
from streaming.adapter import ListedModel, UpstreamPrice
from streaming.errors import ProtocolError, StreamError
from streaming.events import Event, Notice
from streaming.http.certificates import TrustedCertificates
from streaming.http.connection_pool import KEEPALIVE_EXPIRY_S
from streaming.http.proxies import proxy_for
from streaming.limits import (
    DECODE_STEP_BYTES,
    MAX_MODEL_LIST_BYTES,
    MAX_REST_BYTES,
    MAX_STREAM_BYTES,
    size_text,
)
from streaming.session import Timeouts

END_OF_STREAM_GRACE_S = 0.25
"""How long to wait for the end of the body after the dialect's end marker has arrived."""

DEFAULT_HEADERS = {"Accept-Encoding": "identity"}
"""Headers of every request. Compression is declined because a compressed stream arrives in large pieces."""


def _identity(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The address of one service and the options for connecting to it. `mask` removes secrets from user-visible text.

    When `proxy` is None the connection is direct. Where `certificates` names no file, the HTTP library's are used.
    """

    names: ServiceLabels
    timeouts: Timeouts = field(default_factory=Timeouts)
    key: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    certificates: TrustedCertificates = field(default_factory=TrustedCertificates)
    mask: Callable[[str], str] = field(default=_identity, repr=False)

    @classmethod
    def from_settings(cls, endpoint: ServiceEndpoint, settings: Settings, timeouts: Timeouts) -> "ServiceConfig":
        """Return the configuration for an endpoint, with proxy, certificates and secrets from the settings."""
        row = endpoint.row
        names = ServiceLabels(endpoint.label, endpoint.base_url, row.key, row.base_url_variable)
        proxy = proxy_for(endpoint.base_url, settings.variables)
        return cls(names, timeouts, endpoint.key, proxy, settings.certificates, settings.mask_secrets)

    def client_kwargs(self, httpx: Any) -> dict[str, Any]:
        """Return the arguments of `httpx.AsyncClient`: no redirects, no pool limit, no reading of the environment.

        Only the connect timeout is set here; the session enforces the others. The pool has no limit because waiting
        for a free connection would be measured as the provider's latency. Proxies are left to the library.
        """
        certificates = self.ssl_context(httpx)
        return {
            "timeout": httpx.Timeout(None, connect=self.timeouts.connect_s),
            "follow_redirects": False,
            "trust_env": False,
            "verify": certificates,
            "transport": self._transport(httpx, certificates),
        }

    def _transport(self, httpx: Any, certificates: ssl.SSLContext) -> Any:
        if self.proxy is None:
            return PooledTransport(httpx, certificates, self.timeouts.connect_s)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_EXPIRY_S)
        proxy = httpx.Proxy(self.proxy)
        inner = httpx.AsyncHTTPTransport(verify=certificates, trust_env=False, limits=limits, proxy=proxy)
        return BoundedTransport(httpx, inner)

    def mask_error(self, error: StreamError) -> StreamError:
        """Return the error without the secrets in its message."""
        return error.with_message(self.mask(error.message))

    def ssl_context(self, httpx: Any) -> ssl.SSLContext:
        """Return a TLS context with the HTTP library's certificates, or those that the settings name."""
        if urlsplit(self.names.base_url).scheme != "https":
            # Loading the default certificates is slow and a plain HTTP address needs none: this context trusts nobody.
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return self.certificates.create_context(lambda: httpx.create_ssl_context(trust_env=False))


@dataclass(frozen=True, slots=True)
class StreamingResponse:
    """A response with a success status whose headers have arrived."""

    content_type: str
    body: AsyncGenerator[bytes, None]
    request_id: str | None = None
    """The id by which the provider's support finds the request."""


async def stream_events(
    opened: AbstractAsyncContextManager[StreamingResponse],
    decoder: StreamDecoder,
    service: ServiceConfig,
    notices: Sequence[Notice] = (),
) -> AsyncGenerator[Event, None]:
    """Open a response, yield its decoded events to the end, and close it.

    `notices`, on how the request was changed to fit its model, follow `connected`. Raises StreamError, whose message
    may contain secrets.
    """
    async with opened as response:
        for notice in (connected_notice(service, response.request_id), *notices):
            yield notice
        raise_for_html(response.content_type, service)
        async with aclosing(response.body) as body:
            cutter = _StepCutter(service)
            async for data in body:
                for step in cutter.cut(data):
                    for event in decoder.feed(step):
                        yield event
                    if step is not data:
                        await asyncio.sleep(0)  # a large read in one step would block the event loop
                if decoder.done:
                    break
            rest = await _read_rest(body) if decoder.done else []
        for event in _decode_end(decoder, rest):
            yield event


_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id", "x-groq-request-id", "x-amzn-requestid")


def find_request_id(headers: Mapping[str, str]) -> str | None:
    """Return the provider's id of a request from the headers of its response; their names must ignore case."""
    return next((found for name in _REQUEST_ID_HEADERS if (found := excerpt(headers.get(name) or ""))), None)


def connected_notice(service: ServiceConfig, request_id: str | None) -> Notice:
    """Return the notice of a response whose headers have arrived."""
    detail = {} if request_id is None else {"request_id": request_id}
    return Notice("connected", f"Connected to {service.names.label}.", detail)


class _StepCutter:
    """A cutter of the reads of one response into steps that are decoded without a pause."""

    def __init__(self, service: ServiceConfig) -> None:
        self._service = service
        self._left = MAX_STREAM_BYTES

    def cut(self, data: bytes) -> Sequence[bytes]:
        """Cut a large read, where possible after a complete event or line, because these are decoded faster.

        Raises ResponseTooLargeError when the reads exceed the limit of a stream together.
        """
        self._left -= len(data)
        if self._left < 0:
            limit = size_text(MAX_STREAM_BYTES)
            raise too_large_error(self._service.names.label, f"stream: larger than {limit}")
        if len(data) <= DECODE_STEP_BYTES:
            return (data,)
        steps, start = [], 0
        while start < len(data):
            end = start + DECODE_STEP_BYTES
            for mark in (b"\n\n", b"\n"):
                if end < len(data) and (position := data.rfind(mark, start, end)) >= 0:
                    end = position + len(mark)
                    break
            steps.append(data[start:end])
            start = end
        return steps


def _decode_end(decoder: StreamDecoder, rest: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events of the last bytes of a response, and of what the decoder has held back."""
    for data in rest:
        yield from decoder.feed(data)
    yield from decoder.flush()


def raise_for_html(content_type: str, service: ServiceConfig) -> None:
    """Raise ProtocolError when a successful response has the content type of a web page."""
    if content_type.partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        raise ProtocolError(f"{service.names.label}: a web page instead of an answer (check the base URL)")


async def read_model_list(
    opened: AbstractAsyncContextManager[StreamingResponse], service: ServiceConfig, rows: str, name: str
) -> list[ListedModel]:
    """Return the models of a list: the field `name` of each object in the field `rows`. Raises StreamError."""
    try:
        async with opened as response, aclosing(response.body):
            body = await _read_list(response.body, service)
        entries = parse_json_object(body).get(rows)
        return [_listed_model(as_object(row), name) for row in entries] if isinstance(entries, list) else []
    except StreamError as error:
        failure = service.mask_error(error)
    # Raised outside the except block so that it has no context: the SDK's own exception may quote an API key.
    raise failure


def _listed_model(row: dict[str, Any], name: str) -> ListedModel:
    day = row.get("shutdown_date")
    prices = tuple(_upstream_prices(row.get("providers")))
    return ListedModel(as_text(row.get(name)), day if isinstance(day, str) and day else None, prices)


def _upstream_prices(upstreams: object) -> Iterator[UpstreamPrice]:
    """Yield the prices of the upstreams in a list of the Hugging Face router that are not known to be down."""
    for upstream in upstreams if isinstance(upstreams, list) else ():
        if not isinstance(upstream, dict) or upstream.get("status", "live") != "live":
            continue
        name, pricing = as_text(upstream.get("provider")), as_object(upstream.get("pricing"))
        rates = [pricing.get("input"), pricing.get("output")]
        if all(isinstance(rate, (int, float)) and not isinstance(rate, bool) and 0 <= rate < 1e6 for rate in rates):
            yield UpstreamPrice(name, Decimal(str(rates[0])), Decimal(str(rates[1])))
        else:
            yield UpstreamPrice(name, Decimal(0), Decimal(0), is_known=False)


async def _read_list(body: AsyncGenerator[bytes, None], service: ServiceConfig) -> bytes:
    parts, left = [], MAX_MODEL_LIST_BYTES
    async for data in body:
        parts.append(data)
        left -= len(data)
        if left < 0:
            raise too_large_error(service.names.label, f"list of models: larger than {size_text(MAX_MODEL_LIST_BYTES)}")
    return b"".join(parts)


async def _read_rest(body: AsyncGenerator[bytes, None]) -> list[bytes]:
    """Return the bytes after the end marker, normally none, so that the connection can be reused.

    Errors of the connection are ignored here, because the answer is already complete.
    """
    rest: list[bytes] = []
    left = MAX_REST_BYTES
    try:
        async with asyncio.timeout(END_OF_STREAM_GRACE_S):
            async for data in body:
                rest.append(data)
                left -= len(data)
                if left < 0:
                    break
    except Exception:
        return rest
    return rest

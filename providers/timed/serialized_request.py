"""Serialization of HTTP requests to bytes for the timestamped sockets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2

from providers.decoding.decoder import StreamDecoder
from providers.http.client import DEFAULT_HEADERS, ServiceConfig
from providers.http.transport import REQUEST_ID_HEADER
from streaming.errors import BadRequestError, UsageError
from streaming.events import Notice
from streaming.http.connection import Origin, Proxy
from streaming.http.socks import SocksProxy
from streaming.messages import ChatRequest


@dataclass(frozen=True, slots=True)
class SerializedRequest:
    """A request that can be sent any number of times, with the decoder for its answers. Its repr shows no API key."""

    target: Origin
    service: ServiceConfig
    model: str
    streamed: bool
    decoder: Callable[[], StreamDecoder] = field(repr=False)
    _before_id: bytes = field(repr=False)
    _after_id: bytes = field(repr=False)
    notices: tuple[Notice, ...] = ()
    """Notices about changes to the request, to be shown once the provider has accepted it."""

    def with_request_id(self, request_id: str) -> bytes:
        """Return the bytes to send, with this `X-Client-Request-Id`. Raises ValueError when it is no header value."""
        if not (request_id.isascii() and request_id.isprintable()) or request_id != request_id.strip():
            raise ValueError(f"request id {request_id!r}: not valid in a header (use printable ASCII)")
        return self._before_id + request_id.encode() + self._after_id


class UnsupportedProxyError(UsageError):
    """The timestamped sockets cannot use the proxy of a service; the HTTP library of its SDK may."""


def serialize_request(
    captured: Any,
    service: ServiceConfig,
    httpx: ModuleType,
    request: ChatRequest,
    decoder: Callable[[ChatRequest], StreamDecoder],
) -> SerializedRequest:
    """Return `captured`, a complete request of `httpx` (or httpx2), as bytes to send.

    Raises StreamError, or UnsupportedProxyError for a proxy that timestamped connections cannot use.
    """
    url = captured.url
    proxy = _parse_proxy(service.proxy)
    secure = url.scheme == "https"
    if url.scheme not in ("http", "https") or not url.host:
        label = service.names.label
        raise BadRequestError(f"{label}: the request cannot be sent, because {url} is not an HTTP address")
    target = Origin(
        url.host, url.port or (443 if secure else 80), _http1_ssl_context(service, httpx) if secure else None, proxy
    )
    forwarder = proxy if isinstance(proxy, Proxy) and not secure else None
    path = url.raw_path if forwarder is None else _absolute_target(url)
    lines = [b"%b %b HTTP/1.1" % (captured.method.encode(), path)]
    headers = [
        (name, value) for name, value in captured.headers.raw if name.lower() != REQUEST_ID_HEADER.lower().encode()
    ]
    # `Host` comes first, as the SDKs' HTTP libraries send it.
    headers.sort(key=lambda header: header[0].lower() != b"host")
    if forwarder is not None and forwarder.authorization is not None:
        headers.append((b"Proxy-Authorization", forwarder.authorization.encode()))
    lines += [name + b": " + value for name, value in headers]
    return SerializedRequest(
        target,
        service,
        request.model,
        request.streamed,
        partial(decoder, request),
        b"\r\n".join([*lines, REQUEST_ID_HEADER.encode() + b": "]),
        b"\r\n\r\n" + captured.content,
    )


def _absolute_target(url: Any) -> bytes:
    authority: bytes = url.netloc
    path: bytes = url.raw_path
    return b"http://" + authority + path


def _http1_ssl_context(service: ServiceConfig, httpx: Any) -> Any:
    """Return the service's TLS context, restricted to HTTP/1.1."""
    context = service.ssl_context(httpx)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _parse_proxy(url: str | None) -> Proxy | SocksProxy | None:
    if url is None:
        return None
    if (socks := SocksProxy.from_url(url)) is not None:
        return socks
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise UnsupportedProxyError("proxy: measurements support HTTP and SOCKS5 proxies (write http://host:port)")
    port = parts.port or 80
    if parts.username is None:
        return Proxy(parts.hostname, port)
    return Proxy.basic(parts.hostname, port, unquote(parts.username), unquote(parts.password or ""))


def prepare_post(
    service: ServiceConfig,
    path: str,
    body: Mapping[str, Any],
    request: ChatRequest,
    decoder: Callable[[ChatRequest], StreamDecoder],
) -> SerializedRequest:
    """Return a POST request of `body` to a path below the service's base URL, without sending it.

    Raises StreamError, or UnsupportedProxyError for a proxy that timestamped connections cannot use.
    """
    headers = {**DEFAULT_HEADERS, "accept": "text/event-stream"}
    if service.key is not None:
        headers["authorization"] = f"Bearer {service.key}"
    result = httpx2.Request("POST", service.names.base_url + path, headers=headers, json=dict(body))
    return serialize_request(result, service, httpx2, request, decoder)

"""Validation of the Host header, which protects against DNS rebinding.

Another site can let its own host name resolve to 127.0.0.1; to the user's browser its pages then have the same origin
as this service. They cannot change the Host header, which still has the other site's name. So where only this machine
can connect, only this machine's names are accepted. X-Forwarded-Host is never read: a proxy must pass the Host header
on as the browser sent it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from guard import RejectionError
from server.error_shapes import ErrorReport, RouteErrorShapes
from streaming.errors import UsageError
from streaming.http.root_path import route_path

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Always accepted: nobody else can own these names, and health checks use them."""

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,255})(?::[0-9]{0,5})?")


class AllowedHosts:
    """The host names that a Host header may contain; with None any valid name."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self._names = None if names is None else frozenset(names)

    @classmethod
    def from_listener(cls, address: str, configured: frozenset[str], *, is_proxied: bool) -> "AllowedHosts":
        """Return the host names accepted by a service that listens on `address`.

        With `configured` names, these and the names of this machine. Without, the names of this machine if only it can
        connect; any name if others can, or if a proxy (`is_proxied`) forwards requests for names not known here.
        """
        if not configured and (is_proxied or not is_loopback(address)):
            return cls(None)
        own = f"[{address.partition('%')[0]}]" if ":" in address else address
        return cls({*LOOPBACK_NAMES, *configured, _normalize(own)})

    def add_link(self, link: str) -> None:
        """Accept the host name of a link to this service from now on. May be called from another thread."""
        name = urlsplit(link).hostname
        if name and self._names is not None:
            self._names |= {_normalize(name)}

    def check(self, hosts: Sequence[bytes], http_version: str) -> None:
        """Check the values of a request's Host headers.

        Raises RejectionError unless there is exactly one and its name is accepted. Before HTTP/1.1 it may be missing
        where any name is accepted.
        """
        if len(hosts) > 1:
            raise _invalid("Host header: sent more than once (send one)")
        if not hosts and http_version not in ("0.9", "1.0"):
            raise _invalid("Host header: missing (HTTP/1.1 requires one)")
        match = _HOST.fullmatch(hosts[0].decode("latin-1")) if hosts else None
        if hosts and match is None:
            raise _invalid("Host header: not a host name")
        if self._names is not None and (match is None or _normalize(match["name"]) not in self._names):
            raise RejectionError(
                "host", "misdirected", "Host header: not a name of this service (the owner can add it to ALLOWED_HOSTS)"
            )


class HostMiddleware:
    """ASGI middleware that rejects HTTP and WebSocket requests whose Host header is not accepted.

    `shapes` has the shapes of errors by path. `on_rejection` is called with the rule of every rejected request.
    """

    def __init__(
        self, app: ASGIApp, hosts: AllowedHosts, shapes: RouteErrorShapes, on_rejection: Callable[[str], None]
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._shapes = shapes
        self._on_rejection = on_rejection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            hosts = [value.strip(b" \t") for name, value in scope["headers"] if name == b"host"]
            try:
                self._hosts.check(hosts, scope["http_version"])
            except RejectionError as rejection:
                self._on_rejection(rejection.rule)
                response = self._shapes.find(route_path(scope)).response(ErrorReport.from_rejection(rejection))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def is_loopback(address: str) -> bool:
    """Return whether an IP address is a loopback address, to which only this machine can connect."""
    try:
        result = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = result.ipv4_mapped if isinstance(result, IPv6Address) else None
    return (mapped or result).is_loopback


def parse_allowed_hosts(entries: Iterable[str]) -> frozenset[str]:
    """Return the normalized names of `ALLOWED_HOSTS`. Raises UsageError for an entry that is not a host name."""
    names = set()
    for entry in entries:
        match = _HOST.fullmatch(entry)
        name = _normalize(entry)
        if match is None or match["name"] != entry or not name.strip("."):
            raise UsageError(
                f"ALLOWED_HOSTS: {entry[:80]!r} is not a host name (write names separated by commas, without scheme, "
                "port, path or wildcards, for example chat.example.org)"
            )
        names.add(name)
    return frozenset(names)


def check_allowed_origins(entries: Iterable[str]) -> None:
    """Check the entries of `ALLOWED_ORIGINS`. Raises UsageError for an entry that no browser could send."""
    for entry in entries:
        scheme, _, host = entry.partition("://")
        if scheme not in ("http", "https") or _HOST.fullmatch(host) is None:
            raise UsageError(
                f"ALLOWED_ORIGINS: {entry[:80]!r} is not an origin (write scheme and host, for example https://example.org)"
            )


def _normalize(name: str) -> str:
    """Return a host name in lower case without a trailing dot, and an IPv6 address in its canonical form."""
    name = name.lower().removesuffix(".")
    if not name.startswith("["):
        return name
    try:
        return f"[{ip_address(name[1:-1])}]"
    except ValueError:
        return name


def _invalid(message: str) -> RejectionError:
    return RejectionError("host", "invalid", message)

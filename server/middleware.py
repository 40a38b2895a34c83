"""The guard as pure ASGI middleware: it checks the caller, rate limits and body size before a request is parsed."""

from collections.abc import Iterable

from fastapi import APIRouter
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from guard import Caller, RejectionError, client_address
from guard.request_body import read_body, replay_body
from server.chat_service import ChatService
from server.error_shapes import ErrorReport, RouteErrorShapes
from streaming.http.root_path import route_path

BEARER_SUBPROTOCOL = "bearer."
"""The prefix of a WebSocket subprotocol that carries an API key: browsers cannot set headers on a WebSocket."""


class GuardedRoutes:
    """The routes of some routers that only admitted callers reach: which paths they have, and which take a question."""

    def __init__(self, routers: Iterable[APIRouter]) -> None:
        routes = [route for router in routers for route in router.routes]
        self._paths = [r.path_regex for r in routes if isinstance(r, (APIRoute, APIWebSocketRoute))]
        posts = [route for route in routes if isinstance(route, APIRoute) and "POST" in (route.methods or ())]
        self._chat_paths = frozenset(route.path for route in posts if not route.param_convertors)

    def contains(self, path: str) -> bool:
        """Return whether a route has this path, whatever the method."""
        return any(pattern.match(path) for pattern in self._paths)

    def takes_chat_request(self, method: str, path: str) -> bool:
        """Return whether a request may start an answer: a POST to a path without parameters."""
        return method == "POST" and path in self._chat_paths


class GuardMiddleware:
    """ASGI middleware that rejects a request before the application receives it.

    An admitted request has the caller's id in `scope["state"]["caller"]`. A WebSocket has the Caller in
    `state["facts"]` instead: each message is a chat request, which the guard admits separately.
    """

    def __init__(
        self,
        app: ASGIApp,
        chat_service: ChatService,
        routes: GuardedRoutes,
        shapes: RouteErrorShapes,
        origins: frozenset[str],
        body_timeout_s: float,
    ) -> None:
        self._app = app
        self._routes = routes
        self._shapes = shapes
        self._chat_service = chat_service
        self._guard = chat_service.guard
        self._origins = origins
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._routes.contains(route_path(scope)):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            with self._chat_service.recording_rejections():
                guarded_receive = await self._admit(scope, headers, receive)
        except RejectionError as rejection:
            response = self._shapes.find(route_path(scope)).response(ErrorReport.from_rejection(rejection))
            await response(scope, receive, send)
        else:
            await self._app(scope, guarded_receive, send)

    async def _admit(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        caller = self.caller(scope, headers)
        state = scope.setdefault("state", {})
        if scope["type"] == "websocket":
            self._check_origin(headers)
            state["facts"] = caller
            return receive
        if not self._routes.takes_chat_request(scope["method"], route_path(scope)):
            state["caller"] = self._guard.identify(caller)
            return receive
        state["caller"] = await self._guard.admit(caller)
        return await self._read_body(headers, receive)

    def caller(self, scope: Scope, headers: Headers) -> Caller:
        """Return the caller of a request: its API key, from the headers or the subprotocols, and its client address."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        api_key = key.strip() if scheme.lower() == "bearer" else ""
        if not api_key and scope["type"] == "websocket":
            api_key = next(
                (p[len(BEARER_SUBPROTOCOL) :] for p in scope["subprotocols"] if p.startswith(BEARER_SUBPROTOCOL)), ""
            )
        peer = scope["client"][0] if scope.get("client") else None
        where = client_address(peer, headers.items(), self._guard.configuration.hops)
        return Caller(key=api_key or None, address=where)

    def _check_origin(self, headers: Headers) -> None:
        """Raise RejectionError for a WebSocket from another origin that is not in ALLOWED_ORIGINS.

        Browsers let any site open a WebSocket, which would then connect from the user's own network.
        """
        origin = headers.get("origin")
        if origin is None or origin in self._origins or origin.partition("://")[2] == headers.get("host"):
            return
        raise RejectionError(
            "origin", "blocked", "origin: not allowed to connect (the owner can add it to ALLOWED_ORIGINS)"
        )

    async def _read_body(self, headers: Headers, receive: Receive) -> Receive:
        length = headers.get("content-length", "")
        limits = self._guard.configuration.limits
        return replay_body(await read_body(length, receive, limits, self._body_timeout_s), receive)

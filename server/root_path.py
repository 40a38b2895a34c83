"""Middleware for a service that proxies publish below a path; see `streaming.http.root_path`."""

from starlette.types import ASGIApp, Receive, Scope, Send

from streaming.http.root_path import forwarded_root_path, remove_root_path


class RootPathMiddleware:
    """ASGI middleware that gives every request its root path, whether or not the proxy has removed it from the path.

    Behind it, `scope["root_path"]` is that path and `scope["path"]` begins with it, as ASGI requires. Where no path is
    `configured`, it is that of X-Forwarded-Prefix, by `hops` trusted proxies.
    """

    def __init__(self, app: ASGIApp, configured: str, hops: int) -> None:
        self._app = app
        self._configured = configured
        self._hops = hops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            root_path = self._configured or forwarded_root_path(scope["headers"], self._hops)
            if scope["type"] == "http" and root_path and scope["path"] == root_path:
                await _redirect_to_page(root_path, scope["query_string"], send)
                return
            if root_path:
                scope = _add_root_path(scope, root_path)
        await self._app(scope, receive, send)


def _add_root_path(scope: Scope, root_path: str) -> Scope:
    below = {**scope, "root_path": root_path, "path": root_path + remove_root_path(scope["path"], root_path)}
    if scope.get("raw_path") is not None:
        raw = root_path + remove_root_path(scope["raw_path"].decode("latin-1"), root_path)
        below["raw_path"] = raw.encode("latin-1")
    return below


async def _redirect_to_page(root_path: str, query: bytes, send: Send) -> None:
    """Redirect from `/chat` to `/chat/`, because the page's links are relative."""
    location = f"{root_path}/".encode() + (b"?" + query if query else b"")
    headers = [(b"location", location), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})

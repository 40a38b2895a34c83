"""The path below which proxies publish a service, such as `/chat`: its spelling, and what it makes of a request's path.

A proxy may remove that path from the requests that it passes on, or not: both arrive here, and both are understood.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

MAX_CHARS = 256
_ROOT_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")
OWN_PATHS = frozenset({
    "api", "assets", "config", "docs", "favicon.ico", "gradio_api", "healthz", "login", "logout", "manifest.json",
    "metrics", "openapi.json", "redoc", "static", "theme.css", "v1",
})  # fmt: skip
"""The first parts of the paths that the service itself answers: whether they have been removed could not be told."""


def is_root_path(path: str) -> bool:
    """Return whether a path can be a root path: `/` and a name once or more, the first no path of the service's own."""
    fits = len(path) <= MAX_CHARS and _ROOT_PATH.fullmatch(path) is not None
    return fits and path.split("/")[1] not in OWN_PATHS


def forwarded_root_path(headers: Iterable[tuple[bytes, bytes]], hops: int) -> str:
    """Return the path that the trusted proxies publish, by X-Forwarded-Prefix; empty without one.

    As in X-Forwarded-For, only the last `hops` entries count, because the caller can have written the others. Each
    proxy adds its own part of the path, the outermost first. A header that is no path is ignored.
    """
    lines = [value for name, value in headers if name == b"x-forwarded-prefix"] if hops > 0 else []
    entries = b",".join(lines).decode("latin-1").split(",")[-hops:]
    path = "".join(entry.strip().rstrip("/") for entry in entries)
    return path if is_root_path(path) else ""


def remove_root_path(path: str, root_path: str) -> str:
    """Return a path without the root path, if it begins with it."""
    if root_path and (path == root_path or path.startswith(root_path + "/")):
        return path[len(root_path) :]
    return path


def route_path(scope: Mapping[str, Any]) -> str:
    """Return the path of an ASGI request below its root path."""
    return remove_root_path(scope["path"], scope.get("root_path", ""))

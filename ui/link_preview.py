"""What other sites and the browser's tab show of a link to the page: title, sentence, picture and icon.

Gradio's template names Gradio itself, so its tags are replaced in the page that it sends. The page is compressed then,
which Gradio leaves out: it is ten times smaller.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from gradio.route_utils import get_root_url
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request

from streaming.http.root_path import route_path
from ui import entry_strings, strings
from ui.address.query import PARAMETERS, TAB

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

STATIC = Path(__file__).parent / "static"
ICON = STATIC / "icon.png"
PICTURE = STATIC / "preview.png"
PICTURE_PATH = "/static/img/preview.png"
PICTURE_SIZE = (1200, 630)
"""Width and height in pixels, the shape that sites show without cutting."""
_MAX_QUERY_BYTES = 4_096
_PICTURE_AGE_S = 86_400
_COMPRESSION = 5
_TAGS = re.compile(r'<meta\s+(?:property="og:|name="twitter:)[^>]*>\s*')
"""The tags of Gradio's template that are replaced."""
_MANIFEST = re.compile(r'<link\s+rel="manifest"[^>]*>\s*')
"""Gradio's manifest, which is for pages that can be installed, and at no path below a root path."""


class LinkPreview:
    """An ASGI application that sends the page of `app` with its own tags, and the picture of its links."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._page = GZipMiddleware(self._send_page, compresslevel=_COMPRESSION)
        self._picture = PICTURE.read_bytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope) if scope["type"] == "http" else None
        if path == "/":
            await self._page(scope, receive, send)
        elif path == PICTURE_PATH and scope["method"] in ("GET", "HEAD"):
            await self._send_picture(scope, send)
        else:
            await self._app(scope, receive, send)

    async def _send_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the page with its own tags. It is held until it is whole, and comes uncompressed."""
        query = scope.get("query_string", b"")
        scope = {**scope, "headers": [one for one in scope["headers"] if one[0].lower() != b"accept-encoding"]}
        start: Message = {}
        body = bytearray()

        async def rewrite(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if message.get("more_body", False):
                return
            page = bytes(body)
            if start["status"] == 200:
                page = replace_tags(page.decode(), *_page_address(scope, query)).encode()
            headers = [one for one in start["headers"] if one[0].lower() != b"content-length"]
            await send({**start, "headers": [*headers, (b"content-length", str(len(page)).encode())]})
            await send({"type": "http.response.body", "body": page})

        await self._app(scope, receive, rewrite)

    async def _send_picture(self, scope: Scope, send: Send) -> None:
        headers = [
            (b"content-type", b"image/png"),
            (b"content-length", str(len(self._picture)).encode()),
            (b"cache-control", f"public, max-age={_PICTURE_AGE_S}".encode()),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else self._picture
        await send({"type": "http.response.body", "body": body})


def _page_address(scope: Scope, query: bytes) -> tuple[str, dict[str, str]]:
    """Return the page's public address without a slash at its end, and the parameters of `ui.address` in its query."""
    root = get_root_url(Request(scope), "/", scope.get("root_path"))
    if len(query) > _MAX_QUERY_BYTES:
        return root, {}
    return root, {name: value for name, value in parse_qsl(query.decode("latin-1")) if name in PARAMETERS}


def replace_tags(page: str, root: str, parameters: Mapping[str, str]) -> str:
    """Return Gradio's page with this page's title, tags and icon in place of Gradio's.

    `root` is the page's public address, and `parameters` are those of its query.
    """
    head, script, rest = page.partition("<script")
    return _TAGS.sub("", head) + _make_tags(root, parameters) + script + _MANIFEST.sub("", rest, count=1)


def _make_tags(root: str, parameters: Mapping[str, str]) -> str:
    title = entry_strings.LINK_TITLES.get(parameters.get(TAB, ""), entry_strings.LINK_TITLE)
    picture, (width, height) = f"{root}{PICTURE_PATH}", PICTURE_SIZE
    properties = {
        "og:type": "website",
        "og:site_name": strings.NAME,
        "og:title": title,
        "og:description": entry_strings.LINK_SENTENCE,
        "og:url": f"{root}/" + (f"?{urlencode(parameters)}" if parameters else ""),
        "og:image": picture,
        "og:image:width": str(width),
        "og:image:height": str(height),
        "og:image:alt": entry_strings.LINK_PICTURE,
    }
    names = {
        "description": entry_strings.LINK_SENTENCE,
        "twitter:card": "summary_large_image",
        "twitter:title": title,
        "twitter:description": entry_strings.LINK_SENTENCE,
        "twitter:image": picture,
        "twitter:image:alt": entry_strings.LINK_PICTURE,
    }
    tags = [f"<title>{escape(title)}</title>", '<link rel="icon" type="image/png" href="./favicon.ico">']
    tags += [f'<meta property="{name}" content="{escape(text)}">' for name, text in properties.items()]
    tags += [f'<meta name="{name}" content="{escape(text)}">' for name, text in names.items()]
    return "\n\t\t".join([*tags, ""])

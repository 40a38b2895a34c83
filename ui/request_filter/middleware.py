"""ASGI middleware with an allowlist of requests to Gradio; any other request is answered with 404.

It runs before everything that Gradio mounts. A new feature of the page adds a row, with a test that it is used.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl, urlencode

from guard import RejectionError, client_address
from guard.request_body import read_body, replay_body
from streaming.http.root_path import route_path
from ui.request_filter.event_schema import EventSchema, PageEvent, is_session_hash
from ui.request_filter.sign_in import SignIns, Step, read_cookie
from ui.results import downloads

Scope = MutableMapping[str, Any]
log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Body = Literal["none", "event", "direct", "cancel", "reset"]

API = "/gradio_api"
MAX_QUERY_BYTES = 4_096
MAX_QUERY_FIELDS = 32
HEADERS = frozenset(
    {b"accept", b"accept-encoding", b"content-type", b"if-modified-since", b"if-none-match", b"user-agent"}
)
"""Headers that are passed on, besides the host, forwarding and framing headers."""
MAX_HEADER_BYTES = 1_024
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of allowed request. `path` is a regular expression for the whole path; its group `session` is a hash.

    `session` is the required session: of a known page, or of a page that is admitted if new. `stream`: a long-lived
    response that keeps the page's session while it is open. `any_query`: any query is accepted and removed, but for the
    parameters in `query`. `sign_in`: what the request is to a sign-in with Hugging Face. `is_download`: the request is
    for a file of a run, which the page's own application sends. `is_report`: it reports the newest update of the page
    that its browser has drawn, and goes no further.
    """

    methods: frozenset[str]
    path: re.Pattern[str]
    body: Body = "none"
    session: Literal["none", "known", "new"] = "none"
    stream: bool = False
    any_query: bool = False
    query: frozenset[str] = frozenset()
    sign_in: Step = "none"
    is_download: bool = False
    is_report: bool = False


def _make_row(methods: str, path: str, **settings: Any) -> Row:
    return Row(frozenset(methods.split()), re.compile(path), **settings)


TABLE = (
    _make_row("GET HEAD", r"/", any_query=True),
    _make_row("GET", r"/config"),
    _make_row("GET", r"/theme\.css"),
    _make_row("GET", r"/favicon\.ico"),
    _make_row("GET", r"/manifest\.json"),
    _make_row("GET", r"/assets/[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+"),
    _make_row("GET", r"/static/js/iframeResizer\.contentWindow\.min\.js"),
    _make_row("GET", r"/static/img/logo(?:_nosize)?\.svg"),
    _make_row("GET", rf"{API}/app_id"),
    _make_row("GET", rf"{API}/heartbeat/(?P<session>[A-Za-z0-9_-]+)", session="new", stream=True),
    _make_row("GET", rf"{API}/queue/data", session="known", stream=True),
    _make_row("POST", rf"{API}/queue/join", body="event", session="new", sign_in="use"),
    _make_row("POST", rf"{API}/run/predict", body="direct", session="new", sign_in="use"),
    _make_row("POST", rf"{API}/cancel", body="cancel", session="known"),
    _make_row("POST", rf"{API}/reset", body="reset"),
)
"""The requests that Chromium sends for the page, and `/config`, which the load tests read.

After a lost connection, Gradio's page polls `app_id` to detect that the service is reachable again.
"""

_RETURN = frozenset({"_target_url", "_nb_redirects"})
SIGN_IN_TABLE = (
    _make_row("GET", r"/login/huggingface", any_query=True, query=_RETURN, sign_in="begin"),
    _make_row("GET", r"/login/callback", any_query=True, query=_RETURN | {"code", "state"}, sign_in="finish"),
    _make_row("GET", r"/logout", any_query=True, query=_RETURN, sign_in="end"),
)
"""Gradio's routes for the sign-in with Hugging Face, on a Space whose card has `hf_oauth`."""

DOWNLOADS = Row(frozenset({"GET", "HEAD"}), downloads.PATH, is_download=True)
"""The tables and the report of a run; the link has the ticket of an open page."""

REPORT = _make_row("POST", r"/drawn/[0-9]{1,12}", session="known", is_report=True)
"""The report of the newest update that a page's browser has drawn, by its number."""


class Sessions(Protocol):
    """The part of `ui.page_sessions.sessions.PageSessions` that the filter uses."""

    async def admit(self, session_hash: str, address: str | None) -> None: ...
    async def count_visit(self, address: str | None) -> None: ...
    def connect(self, session_hash: str) -> AbstractContextManager[None]: ...
    def report_drawn(self, session_hash: str, number: int) -> None: ...
    def __contains__(self, session_hash: object) -> bool: ...


class _NotFoundError(Exception):
    """The request matches no row of the table."""


class RequestFilter:
    """Middleware that passes a request on to `app` if its row and body are valid.

    `hops` counts trusted proxies. `on_rejection` is called with the rule of every rejected request. `sign_ins` holds
    the signed-in users; None: the page has no sign-in. `run_files` sends the files of runs; None: there are none.
    """

    def __init__(
        self,
        app: App,
        schema: EventSchema,
        sessions: Sessions,
        hops: int,
        on_rejection: Callable[[str], None],
        sign_ins: SignIns | None = None,
        run_files: App | None = None,
    ) -> None:
        self._app = app
        self._schema = schema
        self._sessions = sessions
        self._hops = hops
        self._on_rejection = on_rejection
        self._sign_ins = sign_ins
        self._run_files = run_files
        signing = SIGN_IN_TABLE if sign_ins is not None else ()
        self._table = (*TABLE, REPORT, *signing, *((DOWNLOADS,) if run_files is not None else ()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            row, session = _match_row(scope, self._table)
            cookie = read_cookie(scope["headers"])
            scope["headers"] = _clean_headers(scope["headers"])
            event, receive = await self._read(row, scope, receive)
            session = session or event.session_hash
            await self._admit(row, session, scope)
        except _NotFoundError:
            await _send_json(scope, send, 404, {"detail": "Not Found"})
        except RejectionError as rejection:
            self._on_rejection(rejection.rule)
            await _send_json(scope, send, rejection.status, _error_fields(rejection), rejection.retry_after_s)
        else:
            if row.is_report:
                await self._record_report(session, scope, send)
                return
            if row.is_download and self._run_files is not None:
                await self._run_files(scope, receive, send)
                return
            await self._pass_on(row, session, cookie, scope, receive, send)

    async def _record_report(self, session: str, scope: Scope, send: Send) -> None:
        # The last report of a page may come after its session has ended: there is nothing left to hold back.
        if session in self._sessions:
            self._sessions.report_drawn(session, int(route_path(scope).rpartition("/")[2]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def _pass_on(
        self, row: Row, session: str, cookie: bytes | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Pass a request on to Gradio, and keep the page's session while it streams the response."""
        if row.sign_in == "finish" and b"code=" not in scope["query_string"]:
            await _send_home(scope, send)  # the user has not agreed
            return
        send = await self._enter_sign_in(row, cookie, session, scope, send)
        with self._sessions.connect(session) if row.stream else nullcontext():
            await (self._finish_sign_in if row.sign_in == "finish" else self._app)(scope, receive, send)
        if self._sign_ins is not None:
            await self._sign_ins.leave(row.sign_in, cookie, session)

    async def _enter_sign_in(self, row: Row, cookie: bytes | None, session: str, scope: Scope, send: Send) -> Send:
        """Add Gradio's cookie to the request of a signed-in user, and return the `send` for the response."""
        if self._sign_ins is None:
            return send
        root_path = scope.get("root_path", "")
        kept, send = await self._sign_ins.enter(row.sign_in, cookie, session, send, root_path)
        if kept is not None:
            scope["headers"].append((b"cookie", b"session=" + kept))
        return send

    async def _finish_sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Finish a sign-in; a reply that the library cannot use sends the browser to the page, not signed in."""
        begun = failed = False

        async def send_unless_failed(message: Message) -> None:
            nonlocal begun, failed
            if message["type"] == "http.response.start":
                begun, failed = True, message["status"] >= 400
                await (_send_home(scope, send) if failed else send(message))
            elif not failed:
                await send(message)

        try:
            await self._app(scope, receive, send_unless_failed)
        except Exception as error:  # each part of an invalid reply raises an error of its own
            log.warning("a sign-in was not finished: %s", type(error).__name__)
            if not begun:
                await _send_home(scope, send)

    async def _admit(self, row: Row, session: str, scope: Scope) -> None:
        if row.session == "known" and session not in self._sessions and not row.is_report:
            raise _NotFoundError
        peer = scope["client"][0] if scope.get("client") else None
        address = client_address(peer, _decode(scope["headers"]), self._hops)
        if row.session == "new":
            await self._sessions.admit(session, address)
        if row.sign_in in ("begin", "finish"):
            await self._sessions.count_visit(address)

    async def _read(self, row: Row, scope: Scope, receive: Receive) -> tuple[PageEvent, Receive]:
        """Read and check the body; return the event, and a `receive` that replays its re-serialised body."""
        headers = dict(_decode(scope["headers"]))
        if row.body == "none":
            if headers.pop("content-length", "0") != "0" or "transfer-encoding" in headers:
                raise _NotFoundError
            scope["headers"] = [one for one in scope["headers"] if one[0] not in _FRAMING]
            return PageEvent("", b""), receive
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RejectionError("page.event", "invalid", "page event: the body is not JSON (reload the page)")
        length = headers.get("content-length", "")
        body = await read_body(length, receive, self._schema.body_limits)
        if body is None:
            return PageEvent("", b""), replay_body(None, receive)
        event = self._parse(row.body, body)
        scope["headers"] = [one for one in scope["headers"] if one[0] not in _FRAMING]
        scope["headers"].append((b"content-length", str(len(event.body)).encode()))
        return event, replay_body(event.body, receive)

    def _parse(self, kind: Body, body: bytes) -> PageEvent:
        if kind == "cancel":
            return self._schema.parse_cancel(body)
        if kind == "reset":
            return self._schema.parse_reset(body)
        return self._schema.parse_event(body, direct=kind == "direct")


_FRAMING = (b"content-length", b"transfer-encoding")


def _match_row(scope: Scope, table: Iterable[Row]) -> tuple[Row, str]:
    """Return the matching row and the session hash in the URL; remove the rest of the query. Raises _NotFoundError."""
    path, raw = scope["path"], scope.get("raw_path")
    plain = path.isascii() and (raw is None or raw.partition(b"?")[0] == path.encode())
    path = route_path(scope)
    if scope["type"] != "http" or not plain:
        raise _NotFoundError
    for row in table:
        match = row.path.fullmatch(path)
        if match is not None and scope["method"] in row.methods:
            is_own = path.startswith(API) or row.is_download or row.is_report
            if _is_cross_site(scope) and (is_own or row.sign_in in ("begin", "end")):
                raise _NotFoundError
            session = match.groupdict().get("session") or ""
            if session and not is_session_hash(session):
                raise _NotFoundError
            return row, _take_query(row, scope) or session
    raise _NotFoundError


def _is_cross_site(scope: Scope) -> bool:
    """Return whether a page of another site sends a request, by `Sec-Fetch-Site`.

    It may open the page and finish a sign-in, but send no event, and sign nobody in or out.
    """
    values = [value for name, value in scope["headers"] if name.lower() == b"sec-fetch-site"]
    return any(value not in (b"same-origin", b"none") for value in values)


def _take_query(row: Row, scope: Scope) -> str:
    """Return the session hash in the query, the only parameter passed on.

    Gradio's page repeats the query of its own address in each request: whatever else is there is removed. Raises
    _NotFoundError for a query that is not one, or without the session hash that a row needs.
    """
    query: bytes = scope.get("query_string", b"")
    scope["query_string"] = b""
    if row.any_query:
        scope["query_string"] = _select_query(query, row.query)
        return ""
    try:
        text = query.decode("ascii")
        if len(query) > MAX_QUERY_BYTES:
            raise _NotFoundError
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise _NotFoundError from None
    if row.session != "known" or row.body != "none":
        return ""
    named = [pair for pair in pairs if pair[0] == "session_hash"]
    if len(named) != 1 or not is_session_hash(named[0][1]):
        raise _NotFoundError
    scope["query_string"] = urlencode(named).encode()
    return named[0][1]


def _select_query(query: bytes, names: frozenset[str]) -> bytes:
    """Return the query with these parameters alone."""
    if not names or len(query) > MAX_QUERY_BYTES:
        return b""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return urlencode([(name, value) for name, value in pairs if name in names and _is_valid(name, value)]).encode()


def _is_valid(name: str, value: str) -> bool:
    """Return whether a parameter has a value that Gradio's route reads without an error."""
    return name != "_nb_redirects" or re.fullmatch("[0-9]", value) is not None


def _clean_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the allowed headers with a valid value. Raises RejectionError for a missing, repeated or invalid host."""
    kept: list[tuple[bytes, bytes]] = []
    hosts = 0
    for name, value in headers:
        name = name.lower()
        if name == b"host":
            hosts += 1
            if not is_host(value):
                raise RejectionError(
                    "page.host", "invalid", "Host header: not a host name (open the page by its address)"
                )
            kept.append((name, value))
        elif name == b"x-forwarded-host":
            kept += [(name, value)] if is_host(value.partition(b",")[0].strip()) else []
        elif name == b"x-forwarded-proto":
            kept += [(name, value)] if value.partition(b",")[0].strip() in (b"http", b"https") else []
        elif name in HEADERS or name in _FRAMING or name == b"x-forwarded-for":
            kept += [(name, value)] if len(value) <= MAX_HEADER_BYTES or name == b"x-forwarded-for" else []
    if hosts != 1:
        raise RejectionError("page.host", "invalid", "Host header: missing or repeated (open the page by its address)")
    return kept


def is_host(value: bytes) -> bool:
    """Return whether a value is a valid host name or IP address, with an optional port."""
    match = _HOST.fullmatch(value.decode("latin-1"))
    if match is None or int(match[2] or 0) > 65_535:
        return False
    name = match[1].strip("[]")
    if name == match[1] and not re.fullmatch(r"[0-9.]+", name):
        return ".." not in name and all(len(label) <= 63 for label in name.split("."))
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _decode(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _error_fields(rejection: RejectionError) -> dict[str, str]:
    """Return the response fields of a rejection; Gradio shows `detail` for queued and `error` for direct events."""
    return {"detail": rejection.message, "error": rejection.message}


async def _send_home(scope: Scope, send: Send) -> None:
    """Send the browser to the page."""
    page = scope.get("root_path", "").encode() + b"/"
    await send(
        {"type": "http.response.start", "status": 303, "headers": [(b"location", page), (b"content-length", b"0")]}
    )
    await send({"type": "http.response.body", "body": b""})


async def _send_json(
    scope: Scope, send: Send, status: int, fields: dict[str, str], retry_after_s: int | None = None
) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps(fields).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

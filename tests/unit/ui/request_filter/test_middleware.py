"""Tests of the request filter: only requests of the table reach Gradio, in no other spelling."""

import json
from collections.abc import Collection, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import pytest

from guard import RejectionError
from guard.validation import InputLimits
from tests.virtual_time import run_on_virtual_time
from ui.request_filter.event_schema import PageEvent
from ui.request_filter.middleware import TABLE, RequestFilter, is_host
from ui.request_filter.sign_in import SignIns

HASH = "abc123"
CANARY = "a-code-of-the-sign-in"


class Schema:
    """A schema that accepts every body."""

    body_limits = InputLimits(body_bytes=100)

    def parse_event(self, body: bytes, *, direct: bool = False) -> PageEvent:
        return PageEvent(HASH, b'{"as":"understood"}')

    parse_cancel = parse_reset = parse_event


class Sessions:
    """Sessions that admit all but `refused`; records addresses and current connections."""

    def __init__(self) -> None:
        self.admitted: list[tuple[str, str | None]] = []
        self.connected: list[str] = []
        self.visits: list[str | None] = []
        self.drawn: list[tuple[str, int]] = []

    async def admit(self, session_hash: str, address: str | None) -> None:
        if session_hash == "refused":
            raise RejectionError("page.rate", "rate_limited", "too many", retry_after_s=7)
        self.admitted.append((session_hash, address))

    async def count_visit(self, address: str | None) -> None:
        self.visits.append(address)

    @contextmanager
    def connect(self, session_hash: str) -> Iterator[None]:
        self.connected.append(session_hash)
        yield
        self.connected.remove(session_hash)

    def report_drawn(self, session_hash: str, number: int) -> None:
        self.drawn.append((session_hash, number))

    def __contains__(self, session_hash: object) -> bool:
        return session_hash == HASH


class FakeGradioApp:
    """An ASGI app in place of Gradio; records the requests that reach it."""

    def __init__(self, sessions: Sessions) -> None:
        self.scopes: list[MutableMapping[str, Any]] = []
        self.bodies: list[bytes] = []
        self.connected: list[str] = []
        self._sessions = sessions

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.connected += self._sessions.connected
        self.bodies.append((await receive()).get("body", b""))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"library"})


HOST = (b"host", b"127.0.0.1:7860")
JSON = (b"content-type", b"application/json")


class FilteredRequest:
    """One request sent through the filter."""

    def __init__(
        self,
        method: str,
        path: str,
        *,
        query: bytes = b"",
        headers: tuple[tuple[bytes, bytes], ...] = (HOST,),
        body: bytes = b"{}",
        raw_path: bytes | None = None,
        hops: int = 0,
        kind: str = "http",
        sign_ins: SignIns | None = None,
        app: Any = None,
        run_files: Any = None,
    ) -> None:
        self.sessions = Sessions()
        self.gradio_app = FakeGradioApp(self.sessions)
        self.sent: list[MutableMapping[str, Any]] = []
        scope = {
            "type": kind, "method": method, "path": path, "raw_path": path.encode() if raw_path is None else raw_path,
            "query_string": query, "headers": list(headers), "client": ("10.0.0.1", 5), "root_path": "",
        }  # fmt: skip
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> MutableMapping[str, Any]:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            self.sent.append(message)

        schema: Any = Schema()
        self.rejections: list[str] = []
        middleware = RequestFilter(
            app or self.gradio_app, schema, self.sessions, hops, self.rejections.append, sign_ins, run_files
        )
        run_on_virtual_time(middleware(scope, receive, send))

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def reached(self) -> bool:
        return bool(self.gradio_app.scopes)


def make_matching_path(pattern: str) -> str:
    """Return a path that matches a row's regular expression."""
    plain = pattern.replace("\\", "").replace("(?P<session>[A-Za-z0-9_-]+)", HASH).replace("(?:_nosize)?", "")
    return plain.replace("[A-Za-z0-9_-]+(?:.[A-Za-z0-9_-]+)+", "index-Dphv_y.js")


ROWS = [(method, make_matching_path(row.path.pattern), row) for row in TABLE for method in sorted(row.methods)]


def send_row_request(method: str, path: str, row: Any, **other: Any) -> FilteredRequest:
    query = f"session_hash={HASH}".encode() if row.session == "known" and row.body == "none" else b""
    return FilteredRequest(
        method, path, **{"query": query, "headers": (HOST, JSON) if row.body != "none" else (HOST,), **other}
    )


@pytest.mark.parametrize(("method", "path", "row"), ROWS)
def test_request_of_table_reaches_gradio(method: str, path: str, row: Any) -> None:
    request = send_row_request(method, path, row)
    assert request.status == 200 and request.reached
    assert request.gradio_app.connected == ([HASH] if row.stream else [])
    assert request.sessions.connected == []
    assert request.gradio_app.bodies == [b'{"as":"understood"}' if row.body != "none" else b"{}"]


RUN_FILE = f"/runs/{'A' * 22}/{'0' * 16}/trials.csv"


async def send_file(scope: Any, receive: Any, send: Any) -> None:
    """Respond as the application that sends the files of runs."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"file"})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_request_for_file_of_run_reaches_downloads_alone(method: str) -> None:
    request = FilteredRequest(method, RUN_FILE, run_files=send_file)
    assert request.status == 200 and not request.reached
    assert request.sent[1]["body"] == b"file"


@pytest.mark.parametrize(
    "path",
    [
        RUN_FILE.replace("trials.csv", "manifest.json"), RUN_FILE.replace("trials.csv", "../manifest.json"),
        RUN_FILE.replace("0" * 16, ".."), RUN_FILE.replace("0" * 16, "a" * 15), f"{RUN_FILE}/", f"{RUN_FILE}%00",
        RUN_FILE.replace("/runs", "//runs"), RUN_FILE.replace("A" * 22, "A" * 21), RUN_FILE.replace("/0", "/%2e"),
        "/runs", "/runs/", "/out/manifest.json",
    ],
)  # fmt: skip
def test_other_path_of_runs_returns_404(path: str) -> None:
    request = FilteredRequest("GET", path, run_files=send_file)
    assert request.status == 404 and not request.reached


def test_file_of_run_is_sent_to_no_other_method_or_site() -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert FilteredRequest(method, RUN_FILE, run_files=send_file).status == 404
    cross = (HOST, (b"sec-fetch-site", b"cross-site"))
    assert FilteredRequest("GET", RUN_FILE, headers=cross, run_files=send_file).status == 404
    assert FilteredRequest("GET", RUN_FILE, query=b"utm_source=x", run_files=send_file).status == 200
    assert FilteredRequest("GET", RUN_FILE).status == 404, "no row without the application"


def send_report(number: str, session_hash: str = HASH, *more: tuple[bytes, bytes], method: str = "POST") -> Any:
    query = f"session_hash={session_hash}".encode()
    return FilteredRequest(method, f"/drawn/{number}", query=query, headers=(HOST, *more))


def test_report_of_drawn_update_reaches_the_session_of_its_page_alone() -> None:
    request = send_report("17", HASH, (b"content-length", b"0"), (b"sec-fetch-site", b"same-origin"))
    assert request.status == 204 and not request.reached
    assert request.sessions.drawn == [(HASH, 17)]


@pytest.mark.parametrize("number", ["", "-1", "x", "1.5", "9" * 13, "²", "1/", "1/2"])
def test_report_that_is_no_number_returns_404(number: str) -> None:
    request = send_report(number)
    assert request.status == 404 and request.sessions.drawn == []


def test_report_of_page_whose_session_has_ended_is_ignored() -> None:
    request = send_report("1", "other")
    assert request.status == 204 and not request.reached and request.sessions.drawn == []


def test_report_of_other_site_or_method_returns_404() -> None:
    cross = (b"sec-fetch-site", b"cross-site")
    for request in (send_report("1", HASH, cross), send_report("1", method="GET")):
        assert request.status == 404 and request.sessions.drawn == []


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND")


@pytest.mark.parametrize(("method", "path", "row"), ROWS)
def test_other_method_of_row_returns_404(method: str, path: str, row: Any) -> None:
    offered = {other for other, same, _ in ROWS if same == path}
    for other in set(METHODS) - offered:
        request = send_row_request(other, path, row)
        assert request.status == 404 and not request.reached


@pytest.mark.parametrize(("method", "path", "row"), ROWS)
def test_other_spelling_of_row_path_returns_404(method: str, path: str, row: Any) -> None:
    bare = path.rstrip("/") or "/"
    spellings = {f"{bare}/", f"/{bare}", bare.replace("/", "//"), f"/.{bare}", f"/x/..{bare}", bare.upper(),
                 f"{bare}%00", f"{bare};x", f"{bare}\\", f"{bare}.", f"/gradio_api{bare}", f"{bare}\n", f" {bare}",
                 f"{bare}?x", f"http://x{bare}", f"{bare}/.", f"{bare}/..", bare[1:]} - {path, ""}  # fmt: skip
    for spelling in spellings:
        request = send_row_request(method, spelling, row)
        assert request.status == 404 and not request.reached, spelling
    encoded = ("%2f" + path[1:]).encode()
    assert send_row_request(method, path, row, raw_path=encoded).status == 404
    assert send_row_request(method, path, row, raw_path=path.encode().replace(b"a", b"%61") + b"%2e").status == 404
    assert send_row_request(method, path, row, raw_path=path.encode() + b"/..").status == 404


DOORS = [
    "upload", "upload_progress", "file=/etc/hostname", "file/etc/hostname", "proxy=http://127.0.0.1",
    "component_server", "component_server/", "deep_link", "stream/abc123", "stream/abc123/1/2/playlist.m3u8",
    "run/ask", "run/predict/", "api/predict", "call/ask", "call/v2/ask", "call/ask/abc123", "info", "info/",
    "openapi.json", "queue/status", "queue/join/", "queue/data/", "startup-events", "theme.css", "user", "token",
    "login_check", "dev/reload", "runs", "process_recording", "vibe-edit", "vibe-code",
    "vibe-starter-queries", "custom_component/1/client/component/a", "heartbeat", "heartbeat/", "heartbeat/a/b",
    "mcp", "mcp/sse", "profiling/traces", "reset/", "cancel/", "run-history/buckets",
]  # fmt: skip
OUTSIDE = [
    "/login", "/login/", "/logout", "/monitoring", "/monitoring/summary", "/svelte/x", "/pwa_icon", "/pwa_icon/1",
    "/robots.txt", "/docs", "/openapi.json", "/config/", "/assets/", "/assets/../config", "/assets/..%2fx",
    "/assets/a/b.js", "/assets/.env", "/static/x", "/static/js/../x", "/static/fonts/x", "/.env", "/index.html",
    "/gradio_api", "/gradio_api/", "/queue/join", "/upload", "/file=/etc/hostname", "/manifest.json/",
    "/favicon.ico/x", "/~", "/*", "/app.py",
]  # fmt: skip


@pytest.mark.parametrize("path", [*(f"/gradio_api/{chat_service}" for chat_service in DOORS), *OUTSIDE])
def test_unlisted_gradio_route_returns_404(path: str) -> None:
    for method in METHODS:
        request = FilteredRequest(method, path, headers=(HOST, JSON))
        assert request.status == 404 and not request.reached


def test_websocket_is_closed_before_reaching_gradio() -> None:
    request = FilteredRequest("GET", "/gradio_api/queue/join", kind="websocket")
    assert request.sent == [{"type": "websocket.close", "code": 1008}] and not request.reached


@pytest.mark.parametrize(
    "query",
    [
        b"", b"session_hash=", b"session_hash=a/b", b"session_hash=" + b"a" * 65, b"session_hash=abc123&session_hash=b",
        b"Session_Hash=abc123", b"session_hash=abc123%00", b"session_hash", b"\xff=1",
        b"session_hash=abc123&" + b"v=1&" * 40 + b"v=1", b"v=" + b"x" * 5000, b"session_hash=unknown",
    ],
)  # fmt: skip
def test_event_stream_without_one_known_session_returns_404(query: bytes) -> None:
    request = FilteredRequest("GET", "/gradio_api/queue/data", query=query)
    assert request.status == 404 and not request.reached


def test_query_other_than_session_is_not_forwarded() -> None:
    request = FilteredRequest("GET", "/", query=b"page=x&deep_link=../../y&__theme=dark&\xff\xfe")
    assert request.reached and request.gradio_app.scopes[0]["query_string"] == b""
    request = FilteredRequest("GET", "/gradio_api/queue/data", query=b"session_hash=abc123&__sign=xyz")
    assert request.gradio_app.scopes[0]["query_string"] == b"session_hash=abc123"
    request = FilteredRequest("GET", "/gradio_api/queue/data", query=b"utm_source=mail&session_hash=abc123&x=1")
    assert request.gradio_app.scopes[0]["query_string"] == b"session_hash=abc123"
    request = FilteredRequest("GET", "/config", query=b"deep_link=x")
    assert request.reached and request.gradio_app.scopes[0]["query_string"] == b""


def test_only_allowed_headers_are_forwarded() -> None:
    junk = ((b"Cookie", b"a=b"), (b"Authorization", b"x"), (b"X-Forwarded-Host", b"<x>"), (b"x-forwarded-proto", b"y"),
            (b"x-gradio-user", b"z"), (b"range", b"bytes=0-"), (b"accept", b"a" * 2000))  # fmt: skip
    good = ((b"Accept-Encoding", b"br"), (b"x-forwarded-host", b"chat.example.com"), (b"x-forwarded-proto", b"https"))
    request = FilteredRequest("GET", "/", headers=(HOST, *junk, *good))
    assert request.gradio_app.scopes[0]["headers"] == [HOST, *((name.lower(), value) for name, value in good)]


@pytest.mark.parametrize(
    "hosts", [(), (HOST, HOST), ((b"host", b"a/b"),), ((b"host", b"999.1.1.1"),), ((b"host", b""),)]
)
def test_request_without_exactly_one_valid_host_is_rejected(hosts: tuple[tuple[bytes, bytes], ...]) -> None:
    request = FilteredRequest("GET", "/", headers=hosts)
    assert request.status == 400 and not request.reached


@pytest.mark.parametrize(
    ("host", "good"),
    [
        (b"localhost", True), (b"127.0.0.1:7860", True), (b"[::1]:7860", True), (b"a-b.hf.space", True), (b"x_y", True),
        (b"[::1", False), (b"[1.2]", False), (b"::1", False), (b"a:99999", False), (b"a:", False), (b"a..b", False),
        (b"1.2.3", False), (b"a b", False), (b"a@b", False), (b"\xff", False), (b"-a", False), (b"a" * 300, False),
        (b"a" * 64 + b".b", False), (b"a:1:2", False), (b"a\n", False),
    ],
)  # fmt: skip
def test_is_host_accepts_only_valid_url_hosts(host: bytes, good: bool) -> None:
    assert is_host(host) is good


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b"CROSS-SITE", b"x"])
def test_cross_site_request_may_only_open_page(site: bytes) -> None:
    header = (b"sec-fetch-site", site)
    assert FilteredRequest("GET", "/", headers=(HOST, header)).reached
    assert FilteredRequest("POST", "/gradio_api/run/predict", headers=(HOST, JSON, header)).status == 404
    assert FilteredRequest("GET", f"/gradio_api/heartbeat/{HASH}", headers=(HOST, header)).status == 404
    same = (b"sec-fetch-site", b"same-origin")
    assert FilteredRequest("POST", "/gradio_api/run/predict", headers=(HOST, JSON, same)).reached


@pytest.mark.parametrize("kind", [b"text/plain", b"multipart/form-data; boundary=x", b"", b"application/jsonx"])
def test_body_with_other_content_type_is_rejected(kind: bytes) -> None:
    request = FilteredRequest("POST", "/gradio_api/queue/join", headers=(HOST, (b"content-type", kind)))
    assert request.status == 400 and not request.reached


def test_get_with_body_returns_404() -> None:
    for framing in ((b"content-length", b"5"), (b"transfer-encoding", b"chunked")):
        assert FilteredRequest("GET", "/", headers=(HOST, framing)).status == 404


def test_body_is_forwarded_reserialised_with_its_own_length() -> None:
    request = FilteredRequest("POST", "/gradio_api/queue/join", headers=(HOST, JSON, (b"content-length", b"2")))
    assert (b"content-length", b"19") in request.gradio_app.scopes[0]["headers"]
    assert (b"content-length", b"2") not in request.gradio_app.scopes[0]["headers"]


def test_body_over_limit_is_rejected_by_header_and_by_size() -> None:
    early = FilteredRequest("POST", "/gradio_api/queue/join", headers=(HOST, JSON, (b"content-length", b"101")))
    late = FilteredRequest("POST", "/gradio_api/queue/join", headers=(HOST, JSON), body=b"x" * 101)
    assert (early.status, late.status) == (413, 413) and not early.reached and not late.reached


def test_rejected_new_page_receives_reason_and_retry_after() -> None:
    request = FilteredRequest("GET", "/gradio_api/heartbeat/refused")
    fields = json.loads(request.sent[1]["body"])
    assert request.status == 429 and (b"retry-after", b"7") in request.sent[0]["headers"]
    assert fields == {"detail": "too many", "error": "too many"}
    assert request.rejections == ["page.rate"]


def test_new_page_address_counts_trusted_hops_over_all_header_lines() -> None:
    lines = ((b"x-forwarded-for", b"6.6.6.6"), (b"X-Forwarded-For", b"203.0.113.8"))
    request = FilteredRequest("GET", f"/gradio_api/heartbeat/{HASH}", headers=(HOST, *lines), hops=1)
    assert request.sessions.admitted == [(HASH, "203.0.113.8")]
    assert FilteredRequest("GET", f"/gradio_api/heartbeat/{HASH}", headers=(HOST, *lines)).sessions.admitted == [
        (HASH, "10.0.0.1")
    ]


async def ignore_sign_out(session_hashes: Collection[str]) -> None:
    """Do nothing, like a page without sign-ins."""


@pytest.mark.parametrize(
    ("path", "reached"), [("/login/huggingface", False), ("/logout", False), ("/login/callback", True)]
)
def test_cross_site_request_may_finish_a_sign_in_and_start_or_end_none(path: str, reached: bool) -> None:
    headers = (HOST, (b"sec-fetch-site", b"cross-site"))
    sign_ins = SignIns(ignore_sign_out)
    assert FilteredRequest("GET", path, query=b"code=1&state=2", headers=headers, sign_ins=sign_ins).reached is reached
    own = (HOST, (b"sec-fetch-site", b"same-origin"))
    assert FilteredRequest("GET", path, query=b"code=1&state=2", headers=own, sign_ins=sign_ins).reached


def test_sign_in_counts_for_its_client_address_like_a_new_page() -> None:
    for path, visits in (("/login/huggingface", 1), ("/login/callback", 1), ("/logout", 0)):
        sent = FilteredRequest("GET", path, query=b"code=1&state=2", sign_ins=SignIns(ignore_sign_out))
        assert sent.reached and sent.sessions.visits == ["10.0.0.1"] * visits


@pytest.mark.parametrize(
    ("value", "forwarded"), [(b"1", b"_nb_redirects=1"), (b"abc", b""), (b"12", b""), (b"-1", b"")]
)
def test_count_of_redirects_is_forwarded_only_as_a_digit(value: bytes, forwarded: bytes) -> None:
    sent = FilteredRequest("GET", "/logout", query=b"_nb_redirects=" + value, sign_ins=SignIns(ignore_sign_out))
    assert sent.gradio_app.scopes[0]["query_string"] == forwarded


@pytest.mark.parametrize("status", [None, 400, 500])
def test_sign_in_that_cannot_be_finished_sends_the_browser_to_the_page(
    status: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        if status is not None:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"Internal Server Error"})
        raise ValueError(CANARY)

    sent = FilteredRequest(
        "GET", "/login/callback", query=b"code=1&state=2", sign_ins=SignIns(ignore_sign_out), app=fail
    )
    assert [message.get("status") for message in sent.sent] == [303, None]
    assert (b"location", b"/") in sent.sent[0]["headers"]
    assert "ValueError" in caplog.text and CANARY not in caplog.text

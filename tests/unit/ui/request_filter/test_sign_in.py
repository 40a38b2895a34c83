"""The cookies of signed-in users: what the browser gets, what Gradio gets, and when a sign-in is forgotten."""

from collections.abc import Collection
from typing import Any

import pytest

from tests.virtual_time import run_on_virtual_time
from ui.request_filter.sign_in import MAX_AGE_S, SignIns, Step, read_cookie

COOKIE = b"eyJvYXV0aF9pbmZvIjogInRva2VuIn0=.aa.bb"
ATTRIBUTES = b"; path=/; Max-Age=1209600; httponly; samesite=none; secure"


class Browser:
    """A browser that keeps the cookie that it is sent, in front of an application that answers with `set_cookies`."""

    def __init__(self, sign_ins: SignIns, root_path: str = "") -> None:
        self.sign_ins = sign_ins
        self.root_path = root_path
        self.cookie: bytes | None = None

    def request(self, step: Step, session_hash: str = "", set_cookies: Collection[bytes] = ()) -> bytes | None:
        """Send a request, and return the cookie that the application received."""

        async def exchange() -> bytes | None:
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            received, answer = await self.sign_ins.enter(step, self.cookie, session_hash, send, self.root_path)
            headers = [(b"content-type", b"text/html"), *((b"set-cookie", value) for value in set_cookies)]
            await answer({"type": "http.response.start", "status": 200, "headers": headers})
            for name, value in sent[0]["headers"]:
                if name == b"set-cookie":
                    self.cookie = value.removeprefix(b"session=").partition(b";")[0]
                    path = (self.root_path or "/").encode()
                    assert value.endswith(ATTRIBUTES.replace(b"path=/;", b"path=%s;" % path))
            return received

        return run_on_virtual_time(exchange())

    def sign_in(self) -> None:
        self.request("begin", set_cookies=[b"session=state" + ATTRIBUTES])
        assert self.request("finish", set_cookies=[b"session=" + COOKIE + ATTRIBUTES]) == b"state"


class Pages:
    def __init__(self) -> None:
        self.signed_out: list[str] = []

    async def sign_out(self, session_hashes: Collection[str]) -> None:
        self.signed_out += sorted(session_hashes)


@pytest.fixture
def pages() -> Pages:
    return Pages()


def test_cookie_with_the_token_reaches_events_and_never_the_browser(pages: Pages) -> None:
    browser = Browser(SignIns(pages.sign_out, clock=lambda: 0.0))
    browser.sign_in()
    assert browser.cookie is not None and len(browser.cookie) >= 32 and browser.cookie not in COOKIE
    assert browser.request("use", "page-1") == COOKIE
    assert browser.request("none") is None
    named = browser.cookie
    assert browser.request("use", "page-1", set_cookies=[b"session=" + COOKIE + ATTRIBUTES]) == COOKIE
    assert browser.cookie == named


def test_cookies_below_a_path_are_for_that_path_from_sign_in_to_sign_out(pages: Pages) -> None:
    browser = Browser(SignIns(pages.sign_out, clock=lambda: 0.0), "/tools/gauge")
    browser.sign_in()
    assert browser.request("use", "page-1") == COOKIE
    assert browser.request("end", set_cookies=[b"session=null" + ATTRIBUTES]) == COOKIE
    assert browser.cookie == b"null"


def test_sign_out_forgets_the_cookie_and_tells_the_pages(pages: Pages) -> None:
    browser = Browser(SignIns(pages.sign_out, clock=lambda: 0.0))
    browser.sign_in()
    browser.request("use", "page-1")
    browser.request("use", "page-2")
    assert browser.request("end") == COOKIE
    assert pages.signed_out == ["page-1", "page-2"]
    assert browser.request("use", "page-1") is None and len(browser.sign_ins) == 0


def test_second_sign_in_does_not_return_the_first_token_to_the_browser(pages: Pages) -> None:
    browser = Browser(SignIns(pages.sign_out, clock=lambda: 0.0))
    browser.sign_in()
    browser.request("use", "page-1")
    assert browser.request("begin") is None
    assert pages.signed_out == ["page-1"]


def test_sign_in_ends_after_the_lifetime_of_its_token(pages: Pages) -> None:
    now = 0.0
    browser = Browser(SignIns(pages.sign_out, clock=lambda: now))
    browser.sign_in()
    browser.request("use", "page-1")
    now = MAX_AGE_S - 1
    assert browser.request("use", "page-1") == COOKIE
    now = MAX_AGE_S
    assert browser.request("use", "page-1") is None
    assert pages.signed_out == ["page-1"]


def test_oldest_sign_in_is_forgotten_above_the_limit(pages: Pages) -> None:
    sign_ins = SignIns(pages.sign_out, limit=2, clock=lambda: 0.0)
    browsers = [Browser(sign_ins) for _ in range(3)]
    for browser in browsers:
        browser.sign_in()
    assert [browser.request("use", "page") for browser in browsers] == [None, COOKIE, COOKIE]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"session=abc", b"abc"),
        (b"a=1; session=abc.d-e_f=; b=2", b"abc.d-e_f="),
        (b"asession=abc", None),
        (b"session=", None),
        (b"session=a\x00b", None),
        (b"session=" + b"a" * 9_000, None),
        (b"session=null", b"null"),
    ],
)
def test_session_cookie_is_read_only_when_valid(header: bytes, value: bytes | None) -> None:
    assert read_cookie([(b"Cookie", header)]) == value
    assert read_cookie([(b"other", header)]) is None


def test_event_that_ends_after_a_sign_out_signs_its_page_out_again(pages: Pages) -> None:
    browser = Browser(SignIns(pages.sign_out))
    browser.sign_in()
    name = browser.cookie
    assert browser.request("use", "page") == COOKIE
    browser.request("end")
    assert pages.signed_out == ["page"]
    run_on_virtual_time(browser.sign_ins.leave("use", name, "page"))
    assert pages.signed_out == ["page", "page"], "the event may have stored the token meanwhile"
    run_on_virtual_time(browser.sign_ins.leave("use", None, "other"))
    assert pages.signed_out == ["page", "page"]

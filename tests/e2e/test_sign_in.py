"""Sign-in with Hugging Face as on a Space: each user's token pays for that user's answers, and is nowhere else."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.e2e.chat_page import ChatPage
from tests.e2e.openid_provider import CLIENT, USERS, OpenIDProvider, run_openid_provider, token_of
from tests.e2e.scripted_upstream import ScriptedUpstream
from tests.e2e.service import ServiceUnderTest, run_service

ROUTER = "Hugging Face router · with your sign-in"
FACTS = """
[[service]]
service = "hf"
address = "{address}"
example = "meta-llama/Llama-3.3-70B-Instruct"
source = "this test"
checked = 2026-11-28
confirmed = "unconfirmed"
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenIDProvider]:
    with run_openid_provider() as running:
        yield running


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("space") / "stderr.log"


@pytest.fixture(scope="module")
def space(
    tmp_path_factory: pytest.TempPathFactory, log: Path, provider: OpenIDProvider, scripted_upstream: ScriptedUpstream
) -> Iterator[ServiceUnderTest]:
    # The fake provider is the router's own address, where a key is needed.
    facts = tmp_path_factory.mktemp("facts") / "facts.toml"
    facts.write_text(FACTS.format(address=scripted_upstream.url))
    variables = {
        **CLIENT,
        "SYSTEM": "spaces",
        "SPACE_ID": "somebody/gauge",
        "OPENID_PROVIDER_URL": provider.url,
        "PROVIDER_FACTS": str(facts),
        "HF_TOKEN": "",
        "RATE_LIMIT": "off",
        "TRUSTED_HOPS": "0",
    }
    with run_service(log, variables, "--host", "127.0.0.1") as running:
        yield running


def open_page(context: BrowserContext, space: ServiceUnderTest) -> ChatPage:
    return ChatPage(context.new_page()).open(space.address)


def open_settings(chat: ChatPage) -> None:
    if not chat.page.locator("#sg-sign-in").is_visible():
        chat.page.get_by_label("Settings").first.click()


def sign_in(chat: ChatPage, user: str) -> None:
    open_settings(chat)
    chat.page.locator("#sg-sign-in").click()
    chat.page.get_by_role("link", name=user, exact=True).click(no_wait_after=True)


def expect_signed_in(chat: ChatPage, user: str) -> None:
    expect(chat.page.get_by_label("Settings").first).to_be_attached()
    expect(chat.page.locator("#sg-sign-in")).to_contain_text(f"Sign out ({user})")


def ask(chat: ChatPage, text: str) -> None:
    chat.choose(ROUTER)
    chat.ask(text)
    expect(chat.stage).to_contain_text("Done")


def everything_in_the_browser(context: BrowserContext) -> str:
    """Return cookies, storage and content of a browser profile as text."""
    pages = [
        page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])") + page.content()
        for page in context.pages
    ]
    return json.dumps(context.storage_state()) + json.dumps(context.cookies()) + "".join(pages)


def test_each_signed_in_user_pays_with_their_own_token_which_is_nowhere_else(
    browser: Browser, space: ServiceUnderTest, provider: OpenIDProvider, scripted_upstream: ScriptedUpstream, log: Path
) -> None:
    contexts = [browser.new_context() for _ in USERS]
    chats = [open_page(context, space) for context in contexts]
    for chat, user in zip(chats, USERS, strict=True):
        sign_in(chat, user)
        expect_signed_in(chat, user)
    before = len(scripted_upstream.keys)
    for chat in chats:
        ask(chat, "Who pays?")
    assert scripted_upstream.keys[before:] == [f"Bearer {token_of(user)}" for user in USERS]
    assert set(provider.scopes) == {CLIENT["OAUTH_SCOPES"]}
    chats[0].open_settings()
    export = chats[0].page
    with export.expect_download() as saved:
        export.get_by_role("button", name="JSON").click()
    seen = [everything_in_the_browser(context) for context in contexts] + [
        log.read_text(),
        saved.value.path().read_text(),
    ]
    canaries = [*map(token_of, USERS), CLIENT["OAUTH_CLIENT_SECRET"]]
    assert [canary for canary in canaries if any(canary in text or encoded(canary) in text for text in seen)] == []
    for context in contexts:
        context.close()


def encoded(text: str) -> str:
    """Return a part of a text in base64, as a cookie would hold it, wherever in the cookie it begins."""
    return base64.b64encode(text.encode()).decode()[4:24]


def test_sign_out_in_one_tab_forgets_the_token_in_every_tab(
    browser: Browser, space: ServiceUnderTest, scripted_upstream: ScriptedUpstream
) -> None:
    context = browser.new_context()
    chat = open_page(context, space)
    sign_in(chat, "ada")
    expect_signed_in(chat, "ada")
    other = open_page(context, space)
    ask(other, "Signed in?")
    kept = context.cookies()
    request_count = len(scripted_upstream.keys)
    open_settings(chat)
    chat.page.locator("#sg-sign-in").click()
    expect(chat.page.locator("#sg-sign-in")).to_contain_text("Sign in with Hugging Face")
    # The other tab, the same tab, and a thief of the cookie.
    thief = browser.new_context()
    thief.add_cookies(kept)  # type: ignore[arg-type]  # the type of what is read differs from that of what is written
    for page in (other, chat, open_page(thief, space)):
        page.choose(ROUTER)
        page.ask("And now?")
        expect(page.stage).to_contain_text("has no API key")
    assert len(scripted_upstream.keys) == request_count
    context.close()
    thief.close()


def test_user_who_does_not_agree_is_back_on_the_page(browser: Browser, space: ServiceUnderTest) -> None:
    context = browser.new_context()
    chat = open_page(context, space)
    sign_in(chat, "nobody")
    expect(chat.box).to_be_visible()
    expect(chat.page.locator("#sg-sign-in")).to_contain_text("Sign in with Hugging Face")
    context.close()

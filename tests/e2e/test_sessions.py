"""Test of two concurrent users: neither sees data of the other, also after a reload, and no key is ever stored."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from playwright.sync_api import Browser, BrowserContext, expect

from tests.e2e.canned_upstream import CannedUpstream
from tests.e2e.chat_page import ANSWERS, ChatPage
from tests.e2e.service import ServiceUnderTest

BROWSER_STORAGE_SCRIPT = """async () => JSON.stringify([
  {...localStorage}, {...sessionStorage}, document.cookie, await caches.keys(),
  (await indexedDB.databases()).map((database) => database.name),
])"""
"""Returns everything that a page can store in a browser."""


@dataclass(frozen=True)
class PageUser:
    """A user with a page, a key and a message; `words` is the answer for this user only."""

    name: str
    chat: ChatPage

    @property
    def key(self) -> str:
        return f"gsk-{self.name}-own-0123456789abcdef"

    @property
    def question(self) -> str:
        return f"What does {self.name} want to know?"

    @property
    def words(self) -> list[str]:
        return [f"First for {self.name}.", f" Then more for {self.name}."]

    def start_answer(self, provider: CannedUpstream) -> None:
        """Enter the key, send the message, and wait for the start of the answer."""
        provider.words[self.question] = [{"content": text} for text in self.words]
        self.chat.save_key("Groq", self.key)
        self.chat.ask(self.question)
        self.chat.wait_for_text()

    def page_content(self) -> str:
        """Return the whole content of the document, including hidden parts."""
        values: list[str] = self.chat.page.locator("input, textarea").evaluate_all("(all) => all.map((e) => e.value)")
        return self.chat.page.content() + "\n".join(values)


@contextmanager
def open_user_page(name: str, browser: Browser, service: ServiceUnderTest) -> Iterator[PageUser]:
    context: BrowserContext = browser.new_context()
    page = context.new_page()
    yield PageUser(name, ChatPage(page).open(service.address))
    context.close()


def test_concurrent_users_never_see_each_others_data(
    browser: Browser, service: ServiceUnderTest, canned_upstream: CannedUpstream
) -> None:
    with open_user_page("quillon", browser, service) as one, open_user_page("zephrine", browser, service) as two:
        with canned_upstream.hold_answers():
            one.start_answer(canned_upstream)
            expect(two.chat.page.locator("#sg-badge")).not_to_contain_text("own key")
            two.start_answer(canned_upstream)
            assert one.chat.answers == one.words[:1] and two.chat.answers == two.words[:1], "both are under way"
        for person in (one, two):
            assert person.chat.wait_for_end().startswith("Done")
            assert person.chat.answers == ["".join(person.words)]
            expect(person.chat.page.locator("#sg-spent")).to_contain_text("for 1 answer.")
        for person, other in ((one, two), (two, one)):
            assert other.name not in person.page_content()
            requests = [it for it in canned_upstream.requests if person.name in it.messages[-1]["content"]]
            assert [it.key for it in requests] == [person.key]
            assert other.name not in str(requests)

        one.chat.ask("And after that?")
        expect(one.chat.page.locator("#sg-spent")).to_contain_text("for 2 answers")
        sent = str(canned_upstream.requests[-1].messages)
        assert "".join(one.words) in sent and two.name not in sent, "a history of its own"
        expect(two.chat.page.locator("#sg-spent")).to_contain_text("for 1 answer.")

        one.chat.page.reload()
        one.chat.open(service.address)
        expect(one.chat.page.locator(ANSWERS)).to_have_count(2)
        stored = one.chat.page.evaluate(BROWSER_STORAGE_SCRIPT)
        assert one.words[0] in stored and one.key not in stored and two.name not in stored
        assert one.chat.answers[0] == "".join(one.words), "the conversation is there"
        assert two.name not in one.page_content()
        expect(one.chat.page.locator("#sg-badge")).to_contain_text("is no longer here")
        requests_before = len(canned_upstream.requests)
        one.chat.ask("Who am I?")
        one.chat.wait_for_end()
        expect(one.chat.page.locator("#sg-chat")).to_contain_text("Remove")
        assert len(canned_upstream.requests) == requests_before, (
            "the service's own key is never used in place of a lost one"
        )

"""Tests of two concurrent users: neither sees data of the other in any tab, after a reload, a clear or in a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from playwright.sync_api import Browser, BrowserContext, expect

from tests.e2e.canned_upstream import CannedUpstream
from tests.e2e.chat_page import ANSWERS, ChatPage
from tests.e2e.compare_page import ComparePage
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

    def measure_in_other_tab(self, service: ServiceUnderTest) -> "PageUser":
        """Open another tab of the browser; compare two answers there, vote, and run a stream through the pipeline."""
        chat = ChatPage(self.chat.page.context.new_page()).open(service.address)
        compare = ComparePage.open(chat)
        compare.choose(0, "Simulated: steady")
        compare.choose(1, "Simulated: bursty")
        compare.send(f"Compared by {self.name}")
        compare.wait_for_vote().get_by_role("button", name="A", exact=True).click()
        expect(compare.tab.get_by_role("row").filter(has_text=self.name)).to_be_visible()
        pipeline = chat.open_tab("Pipeline")
        pipeline.locator("#sg-run-prompt input").fill(f"Streamed by {self.name}")
        pipeline.locator("#sg-run").click()
        expect(pipeline.locator("#sg-run-stage")).to_contain_text("Done")
        chat.open_tab("Chat")
        return PageUser(self.name, chat)

    def clear_and_bring_back(self) -> None:
        """Clear the conversation, and undo it."""
        self.chat.clear()
        self.chat.page.locator("#sg-undo-clear").click()
        expect(self.chat.page.get_by_test_id("user")).to_have_text([self.question])

    def exported_text(self) -> str:
        """Return the files of this tab's conversation, and of the whole history."""
        page, files = self.chat.page, []
        self.chat.open_settings()
        for name in ("Save as Markdown", "Save as JSON"):
            with page.expect_download() as saved:
                page.get_by_role("button", name=name).click()
            files.append(saved.value.path().read_text())
        page.locator("#sg-settings .toggle-button").click()
        page.get_by_role("button", name="History", exact=True).click()
        with page.expect_download() as saved:
            page.get_by_role("button", name="Export all").click()
        return "\n".join([*files, saved.value.path().read_text()])

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


def test_four_tabs_of_two_users_never_show_the_other_user(
    browser: Browser, service: ServiceUnderTest, canned_upstream: CannedUpstream
) -> None:
    with open_user_page("quillon", browser, service) as one, open_user_page("zephrine", browser, service) as two:
        with canned_upstream.hold_answers():
            for user in (one, two):
                user.start_answer(canned_upstream)
        for user in (one, two):
            assert user.chat.wait_for_end() == "Done"
            user.clear_and_bring_back()
        others = [user.measure_in_other_tab(service) for user in (one, two)]
        for user, tab, foreign in ((one, others[0], two.name), (two, others[1], one.name)):
            expect(tab.chat.page.locator('#sg-chat [data-testid="user"]')).to_have_count(0)
            assert user.question not in tab.page_content(), "another tab of the browser has a conversation of its own"
            exported = user.exported_text(), tab.exported_text()
            expect(tab.chat.page.get_by_role("dialog", name="History").locator("li span")).to_have_text([user.question])
            assert all(user.question in text for text in (exported[0], exported[1], user.page_content()))
            stored = user.chat.page.evaluate(BROWSER_STORAGE_SCRIPT), tab.chat.page.evaluate(BROWSER_STORAGE_SCRIPT)
            places = [*exported, *stored, user.page_content(), tab.page_content()]
            assert [foreign in place or user.key in place for place in places] == [False] * len(places)
            expect(tab.chat.page.locator("#sg-badge")).not_to_contain_text("Your API key")

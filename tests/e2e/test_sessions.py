"""Two people at once, each in a browser of their own: nothing of one is ever seen by the other, or after a reload."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from playwright.sync_api import Browser, BrowserContext, expect

from tests.e2e.chat_page import ChatPage
from tests.e2e.conftest import Service
from tests.e2e.speaker import Speaker

KEPT = """async () => JSON.stringify([
  {...localStorage}, {...sessionStorage}, document.cookie, await caches.keys(),
  (await indexedDB.databases()).map((database) => database.name),
])"""
"""All that a page can leave in a browser."""


@dataclass(frozen=True)
class Person:
    """Someone with a page, a key and a question; `words` is what they alone are told."""

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

    def begin(self, speaker: Speaker) -> None:
        """Bring the key, ask, and see the answer begin."""
        speaker.words[self.question] = [{"content": text} for text in self.words]
        self.chat.choose("Groq")
        self.chat.page.get_by_role("button", name="Your own key").click()
        self.chat.page.locator("#sg-key input").fill(self.key)
        self.chat.page.get_by_role("button", name="Use this key").click()
        expect(self.chat.page.locator("#sg-badge")).to_contain_text("Your own key is used")
        self.chat.ask(self.question)
        self.chat.wait_for_text()

    def has(self) -> str:
        """Give all that stands in the document, what is not shown included."""
        values: list[str] = self.chat.page.locator("input, textarea").evaluate_all("(all) => all.map((e) => e.value)")
        return self.chat.page.content() + "\n".join(values)


@contextmanager
def someone(name: str, browser: Browser, service: Service) -> Iterator[Person]:
    context: BrowserContext = browser.new_context()
    page = context.new_page()
    yield Person(name, ChatPage(page).open(service.address))
    context.close()


def test_two_people_at_once_know_nothing_of_each_other(browser: Browser, service: Service, speaker: Speaker) -> None:
    with someone("quillon", browser, service) as one, someone("zephrine", browser, service) as two:
        with speaker.holding():
            one.begin(speaker)
            expect(two.chat.page.locator("#sg-badge")).not_to_contain_text("own key")
            two.begin(speaker)
            assert one.chat.answers == one.words[:1] and two.chat.answers == two.words[:1], "both are under way"
        for person in (one, two):
            assert person.chat.wait_for_end().startswith("Complete")
            assert person.chat.answers == ["".join(person.words)]
            expect(person.chat.page.locator("#sg-spent")).to_contain_text("for 1 answer.")
        for person, other in ((one, two), (two, one)):
            assert other.name not in person.has()
            asked = [it for it in speaker.asked if person.name in it.messages[-1]["content"]]
            assert [it.key for it in asked] == [person.key]
            assert other.name not in str(asked)

        one.chat.ask("And after that?")
        expect(one.chat.page.locator("#sg-spent")).to_contain_text("for 2 answers")
        sent = str(speaker.asked[-1].messages)
        assert "".join(one.words) in sent and two.name not in sent, "a history of its own"
        expect(two.chat.page.locator("#sg-spent")).to_contain_text("for 1 answer.")

        assert one.name not in one.chat.page.evaluate(KEPT)
        one.chat.page.reload()
        one.chat.open(service.address)
        expect(one.chat.page.locator("#sg-spent")).to_contain_text("Nothing spent")
        assert one.name not in one.has()
        asked_before = len(speaker.asked)
        one.chat.choose("Groq")
        one.chat.ask("Who am I?")
        one.chat.wait_for_end()
        expect(one.chat.page.locator("#sg-chat")).to_contain_text("Forget it")
        assert len(speaker.asked) == asked_before, "the service's own key is never used in place of a lost one"

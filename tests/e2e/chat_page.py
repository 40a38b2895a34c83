"""A page object for the chat: its controls and its content."""

from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect

ANSWERS = '#sg-chat [data-testid="bot"]:not(:has(.thought-group))'
TITLES = "#sg-chat .thought-group .title"
ANSWER_LABEL = "bot's message: "

RECORDER_SCRIPT = """([answers, titles]) => {
  window.seen = { answers: [], titles: [] };
  const keep = (kept, text) => { if (text && text !== kept.at(-1)) kept.push(text); };
  new MutationObserver(() => {
    keep(window.seen.answers, [...document.querySelectorAll(answers)].at(-1)?.getAttribute("aria-label"));
    keep(window.seen.titles, document.querySelector(titles)?.innerText);
  }).observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true });
}"""
"""Records every state of the last answer's text and of the first headline that the browser has rendered."""


@dataclass(frozen=True)
class ChatPage:
    """One open page. Waits end with an event on the page, and fail after `patience_s`."""

    page: Page
    patience_s: float = 30.0

    def open(self, address: str) -> "ChatPage":
        self.page.goto(address)
        expect(self.box).to_be_visible(timeout=self.patience_s * 1000)
        # The page's script names the button when it has run, so its listeners are registered.
        expect(self.page.get_by_label("Settings").first).to_be_attached()
        return self

    @property
    def box(self) -> Locator:
        return self.page.locator("#sg-message textarea")

    @property
    def stop(self) -> Locator:
        return self.page.locator("#sg-stop")

    @property
    def stage(self) -> Locator:
        return self.page.locator("#sg-stage")

    @property
    def meter(self) -> Locator:
        return self.page.locator("#sg-gauge")

    @property
    def titles(self) -> Locator:
        """Return the headlines of thoughts and receipts."""
        return self.page.locator(TITLES)

    @property
    def answers(self) -> list[str]:
        """Return the raw text of all answers."""
        labels = [a.get_attribute("aria-label") or "" for a in self.page.locator(ANSWERS).all()]
        return [label.removeprefix(ANSWER_LABEL) for label in labels]

    def choose(self, name: str) -> None:
        """Select a provider by its label in the picker."""
        self.page.click("#sg-provider input")
        self.page.get_by_role("option", name=name, exact=True).click()

    def open_tab(self, name: str) -> Locator:
        """Open a tab; return its panel."""
        self.page.get_by_role("tab", name=name, exact=True).click()
        return self.page.locator(f"#sg-tab-{name.lower()}")

    def set_model(self, name: str) -> None:
        """Fill in the model's name."""
        field = self.page.locator("#sg-model input")
        field.fill(name)
        field.blur()

    def fill_setting(self, label: str, text: str) -> None:
        """Fill in a setting of the chat."""
        field = self.page.locator("#sg-settings").get_by_label(label, exact=True)
        field.fill(text)
        field.blur()

    def ask(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")

    def start_recording(self) -> None:
        """Start to record the text of the last answer and of the first headline."""
        self.page.evaluate(RECORDER_SCRIPT, [ANSWERS, TITLES])

    def recorded_answers(self) -> list[str]:
        """Return all texts of the last answer since `start_recording`, in order."""
        texts: list[str] = self.page.evaluate("window.seen.answers")
        return [text.removeprefix(ANSWER_LABEL) for text in texts]

    def recorded_titles(self) -> list[str]:
        """Return all states of the first headline since `start_recording`, in order."""
        titles: list[str] = self.page.evaluate("window.seen.titles")
        return titles

    def clear(self) -> None:
        """Clear the conversation."""
        self.page.locator("#sg-chat").get_by_label("Clear", exact=True).click()
        expect(self.page.get_by_test_id("user")).to_have_count(0)

    def wait_for_text(self) -> None:
        """Wait until an answer has text."""
        expect(self.page.locator(ANSWERS).last).to_be_visible(timeout=self.patience_s * 1000)

    def wait_for_end(self) -> str:
        """Wait for the end of the answer; return the receipt's headline."""
        expect(self.stop).to_be_hidden(timeout=self.patience_s * 1000)
        expect(self.box).to_be_editable()
        return self.titles.last.inner_text()

    def metric_text(self, name: str) -> str:
        """Return the meter's value of a metric."""
        return self.meter.locator("dl > div", has=self.page.locator("dt", has_text=name)).locator("dd").inner_text()

"""A page object for the compare tab: its form and its columns."""

from dataclasses import dataclass

from playwright.sync_api import Locator, expect

from tests.e2e.chat_page import ChatPage

IN_WINDOW = """(element) => {
  const { top, right, bottom, left, height } = element.getBoundingClientRect();
  const inside = top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth;
  const over = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
  return height > 0 && inside && (element.contains(over) || over?.contains(element));
}"""
"""Returns whether all of an element is inside the window and nothing lies over its centre."""


@dataclass(frozen=True)
class ComparePage:
    """The compare tab of one open page."""

    chat: ChatPage
    tab: Locator

    @classmethod
    def open(cls, chat: ChatPage) -> "ComparePage":
        return cls(chat, chat.open_tab("Compare"))

    def choose(self, number: int, provider: str, model: str = "", strategy: str = "") -> None:
        """Choose provider, model and strategy of a column."""
        picker = self.tab.get_by_label(f"{number + 1}. Provider")
        picker.fill(provider)
        box = self.tab.locator(f"#sg-compare-provider-{number}")
        box.get_by_role("option", name=provider, exact=True).click()
        expect(picker).to_have_value(provider)
        for name, value in (("model", model), ("strategy", strategy)):
            if value:
                self._fill_picker(self.tab.locator(f"#sg-compare-{name}-{number} input"), value)

    def _fill_picker(self, picker: Locator, value: str) -> None:
        """Write the value and leave the picker, so that its list does not lie over the next one."""
        picker.fill(value)
        picker.press("Enter")
        picker.blur()
        expect(picker).to_have_value(value)
        expect(self.chat.page.get_by_role("option")).to_have_count(0)

    def set_count(self, count: int) -> None:
        """Choose the number of columns."""
        self.tab.get_by_label(str(count), exact=True).check()
        expect(self.tab.get_by_label(f"{count}. Provider")).to_be_visible()

    def send(self, prompt: str) -> None:
        """Fill in the prompt and press Send."""
        self.tab.locator("#sg-compare-prompt textarea").fill(prompt)
        self.tab.locator("#sg-compare-ask").click()

    def column(self, number: int) -> Locator:
        return self.tab.locator(f"#sg-column-{number}")

    def stage(self, number: int) -> Locator:
        return self.column(number).locator(".sg-stage")

    def stop(self, number: int) -> Locator:
        return self.column(number).get_by_role("button", name="Stop", exact=True)

    def metric(self, number: int, name: str) -> Locator:
        """Return the value of a metric of a column."""
        cell = self.column(number).locator("dl > div", has=self.chat.page.locator("dt", has_text=name))
        return cell.locator("dd")

    def wait_for_vote(self) -> Locator:
        """Wait until all answers have ended; return the row of votes."""
        ballot = self.tab.locator("#sg-ballot")
        expect(ballot).to_be_visible(timeout=self.chat.patience_s * 1000)
        return ballot

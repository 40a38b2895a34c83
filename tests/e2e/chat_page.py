"""A page object for the chat: its controls and its content."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect

ANSWERS = '#sg-chat [data-testid="bot"]:not(:has(.thought-group, .sg-who))'
TITLES = "#sg-chat .thought-group .title"
PATIENCE_S = 90.0
"""A bound for what a page does at once on a quiet machine."""
ANSWER_LABEL = "bot's message: "
OWN_KEY = "With your API key"

RECORDER_SCRIPT = """([answers, titles]) => {
  window.seen = { answers: [], titles: [] };
  const keep = (kept, text) => { if (text && text !== kept.at(-1)) kept.push(text); };
  new MutationObserver(() => {
    const labels = [...document.querySelectorAll(answers)].map((answer) => answer.getAttribute("aria-label"));
    keep(window.seen.answers, labels.filter((label) => !label.includes(": <h2")).at(-1));
    keep(window.seen.titles, document.querySelector(titles)?.innerText);
  }).observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true });
}"""
"""Records every state of the last answer's text and of the first headline that the browser has rendered."""


def choose_sample_run(page: Page) -> None:
    """Choose the bundled run on the results tab, which shows the newest one at first."""
    expect(page.locator("#sg-run-picker input")).not_to_have_value("")
    page.locator("#sg-run-picker input").click()
    page.get_by_role("option", name="Sample run").click()
    expect(page.locator("#sg-run-headline")).to_contain_text("Failed: sim:flaky (simulated) 14 of 48")


def wait_until(page: Page, true: Callable[[], bool], patience_s: float = 2 * PATIENCE_S) -> None:
    """Poll a condition in another process while the page keeps running."""
    give_up_s = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < give_up_s
        page.wait_for_timeout(20)


@dataclass(frozen=True)
class ChatPage:
    """One open page. Waits end with an event on the page, and fail after `patience_s`."""

    page: Page
    patience_s: float = PATIENCE_S

    def open(self, address: str) -> "ChatPage":
        self.page.set_default_timeout(self.patience_s * 1000)
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
        return self.page.locator("#sg-message button.stop-button")

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
        """Select a provider by its label in the picker, and wait until the page has emptied the model for it."""
        picker, asked = self.page.locator("#sg-provider input"), self.page.locator("#sg-asked textarea")
        before, asked_before = picker.input_value(), asked.input_value()
        picker.click()
        self.page.get_by_role("option", name=name, exact=True).click()
        if before != name and not before.startswith(OWN_KEY):  # which may have been a key for this same provider
            expect(asked).not_to_have_value(asked_before)

    def open_tab(self, name: str) -> Locator:
        """Open a tab; return its panel."""
        self.page.get_by_role("tab", name=name, exact=True).click()
        return self.page.locator(f"#sg-tab-{name.lower()}")

    def choose_scenario(self, kind: str, label: str) -> None:
        """Select a scenario of another kind than the selected one in the Pipeline tab."""
        tab, picker = self.page.locator("#sg-tab-pipeline"), self.page.locator("#sg-scenario input")
        before = picker.input_value()
        tab.get_by_label(kind, exact=True).check()
        expect(picker).not_to_have_value(before)
        picker.click()
        self.page.get_by_role("option", name=label, exact=True).click()

    def set_model(self, name: str) -> None:
        """Fill in the model's name, and wait until the next message would be sent with it."""
        field = self.page.locator("#sg-model input")
        field.fill(name)
        # Gradio opens the list some time after a key: a box that is left before would have it open for ever.
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        field.blur()
        expect(self.page.locator("#sg-asked-model textarea")).to_have_value(name)

    def choose_endless_answer(self) -> None:
        """Select a provider that sends half an answer and no end, so that a slow page can still stop it."""
        self.choose("vLLM")
        self.set_model("fault-stall")

    def fill_setting(self, label: str, text: str) -> None:
        """Fill in a setting of the chat."""
        self.open_settings()
        field = self.page.locator("#sg-settings").get_by_label(label, exact=True)
        field.fill(text)
        field.blur()
        self.page.locator("#sg-settings .toggle-button").click()

    def open_settings(self) -> None:
        """Open the settings if they are closed."""
        toggle = self.page.locator("#sg-settings .toggle-button")
        if toggle.get_attribute("aria-expanded") != "true":
            toggle.click()
        expect(toggle).to_have_attribute("aria-expanded", "true")

    def save_key(self, provider: str, key: str) -> None:
        """Choose a provider that takes the user's own API key, and save one for it."""
        self.choose_own_key(provider)
        self.page.locator("#sg-key-value input").fill(key)
        self.page.get_by_role("button", name="Save", exact=True).click()
        expect(self.page.locator("#sg-badge")).to_contain_text("Your API key is used")

    def choose_own_key(self, provider: str) -> None:
        """Choose a provider for the user's own API key."""
        self.page.click("#sg-provider input")
        self.page.get_by_role("option", name=re.compile(f"^{OWN_KEY}")).click()
        self.page.click("#sg-key-provider input")
        self.page.locator("#sg-key-provider").get_by_role("option", name=provider, exact=True).click()

    def ask(self, text: str) -> None:
        """Send a message; `wait_for_end` then waits for the outcome of its answer."""
        self._mark_outcome()
        self.box.fill(text)
        self.box.press("Enter")

    def retry(self) -> None:
        """Ask the last question again; `wait_for_end` then waits for the outcome of its answer."""
        self._mark_outcome()
        self.page.locator("#sg-chat").get_by_label("Retry").click()

    def _mark_outcome(self) -> None:
        """Mark the outcome that the page shows as one of an earlier answer."""
        self.page.evaluate("document.querySelector('#sg-stage ol').dataset.before = ''")

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
        """Wait for the end of the answer; return its outcome."""
        expect(self.stop).to_have_count(0, timeout=self.patience_s * 1000)
        outcome = self.stage.locator("ol:is(.sg-good, .sg-bad, .sg-idle):not([data-before]) .sg-now strong")
        expect(outcome).to_be_visible()
        return outcome.inner_text()

    def metric_text(self, name: str) -> str:
        """Return the meter's value of a metric."""
        cell = self.meter.locator("dl > div", has=self.page.locator("dt", has_text=name)).locator("dd")
        return cell.inner_text().strip()

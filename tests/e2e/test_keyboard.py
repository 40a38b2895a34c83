"""The keyboard: no field traps it, its focus is seen, and Escape closes a list before it stops an answer."""

from itertools import groupby

from playwright.sync_api import expect

from tests.e2e.chat_page import ChatPage

PACE_MS = 1000
"""A person's pace: longer than the page takes to move a lost focus."""
TAB_STOPS = {"Chat": 16, "Compare": 16, "Pipeline": 14, "Results": 10}
"""How often Tab is pressed on a tab: all of its controls, and some of what follows."""
NEXT_STOP = """() => {
  const DEPTH = 8;
  const looks = (element) => {
    const found = [];
    for (let part = element; part && found.length < 4 * DEPTH; part = part.parentElement) {
      const { outline, boxShadow, borderColor, backgroundColor } = getComputedStyle(part);
      found.push(outline, boxShadow, borderColor, backgroundColor);
    }
    return found.join();
  };
  const { element: before, look } = window.tabStop ?? {};
  const element = document.activeElement;
  window.tabStop = { element, look: looks(element) };
  const name = (one) => one.getAttribute("aria-label") ?? (one.innerText || one.tagName).slice(0, 30);
  const place = element.closest('[id^="sg-"]')?.id ?? "";
  return {
    place, name: name(element), moved: element !== before, inside: element.closest("[role=tabpanel]") !== null,
    unseen: before && ![element, document.body].includes(before) && before.isConnected && looks(before) === look
      ? name(before) : null,
  };
}"""
"""Returns where the focus is, whether it has moved, and the element before if neither it nor what it is in has shown
the focus.
"""


def test_tab_at_a_persons_pace_passes_all_controls_of_every_tab_and_is_seen(chat: ChatPage) -> None:
    for tab, presses in TAB_STOPS.items():
        chat.open_tab(tab)
        chat.page.get_by_role("tab", name=tab, exact=True).focus()
        chat.page.evaluate("delete window.tabStop")  # no key has moved this focus
        walk = []
        for _ in range(presses):
            chat.page.keyboard.press("Tab")
            chat.page.wait_for_timeout(PACE_MS)
            walk.append(chat.page.evaluate(NEXT_STOP))
        assert all(stop["moved"] for stop in walk), (tab, walk)
        assert [stop["unseen"] for stop in walk if stop["unseen"]] == [], tab
        assert sum(stop["inside"] for stop in walk) > 5, (tab, walk)
        phases = [is_inside for is_inside, _ in groupby(stop["inside"] for stop in walk)]
        assert len(phases) <= 3, ("the focus was nowhere between two controls", tab, walk)
        if tab == "Chat":
            places = {stop["place"] for stop in walk}
            assert {"sg-provider", "sg-model", "sg-strategy"} <= places, walk


def test_escape_that_closes_a_list_stops_no_answer_and_the_next_one_does(chat: ChatPage) -> None:
    chat.choose_endless_answer()
    chat.ask("Hello.")
    chat.wait_for_text()
    chat.page.click("#sg-strategy input")
    chat.page.locator('#sg-strategy [role="listbox"]').wait_for()
    chat.page.keyboard.press("Escape")
    expect(chat.page.locator('#sg-strategy [role="listbox"]')).to_be_hidden()
    expect(chat.stop).to_be_visible()
    assert not chat.stage.inner_text().startswith("Stopped")
    chat.page.keyboard.press("Escape")
    assert chat.wait_for_end().startswith("Stopped") or "Stopped" in chat.stage.inner_text()

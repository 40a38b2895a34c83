"""Whether a column of the comparison that stalls makes the others stutter: four answers side by side in a browser.

The same steady answers are asked for with a fourth that falls silent twice, and with one that does not, in turn, so
that other work on the machine meets both. `gap_p95_ms` is, of the first three columns, the gap that 95 % of the gaps
between two changes of what is seen of an answer do not pass, by the page's clock; a run's is that of all its gaps
together, and the ratio is that of the medians of the runs.

    python -m benchmarks.page_columns [--runs 5]
"""

import argparse
import json
import shutil
from statistics import median, quantiles

from playwright.sync_api import Page, sync_playwright

from benchmarks.page import BROWSERS, FLAGS, run_service

STEADY, STALLING, OTHERS = "Simulated: steady", "Simulated: stalling", 3
TARGET = 1.1
"""The gap with a column that stalls may be so many times that without."""
_WAIT_TIMEOUT_MS = 120_000
_GAP_OBSERVER_SCRIPT = """(count) => {
  window.seen = [];
  window.watching?.forEach((watching) => watching.disconnect());
  window.watching = [];
  for (let number = 0; number < count; number += 1) {
    let length = 0, last = null;
    const log = document.querySelector(`#sg-column-${number} [role="log"]`);
    const watching = new MutationObserver(() => {
      const answers = log.querySelectorAll('[data-testid="bot"]:not(:has(.thought-group))');
      const now = performance.now(), chars = answers.length ? answers[answers.length - 1].textContent.length : 0;
      if (chars > length && last !== null) window.seen.push(now - last);
      if (chars !== length) [length, last] = [chars, chars ? now : null];
    });
    watching.observe(log, { childList: true, subtree: true, characterData: true });
    window.watching.push(watching);
  }
}"""
"""Begins to keep the milliseconds between two changes of an answer in the first columns."""


def main() -> None:
    """Print both gaps of each run, and a JSON object as the last line."""
    parser = argparse.ArgumentParser("python -m benchmarks.page_columns", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    found: dict[str, list[float]] = {"none_stalls": [], "one_stalls": []}
    with run_service({}) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(url)
        _set_up_columns(page)
        _measure_gap_p95_ms(page, STEADY)  # the first answers of a page load what draws answers
        for _ in range(runs):
            for name, fourth in (("none_stalls", STEADY), ("one_stalls", STALLING)):
                found[name].append(_measure_gap_p95_ms(page, fourth))
            print(", ".join(f"{name} gap p95 {gaps[-1]:.1f} ms" for name, gaps in found.items()), flush=True)
        browser.close()
    middle = {f"{name}_gap_p95_ms": round(median(gaps), 1) for name, gaps in found.items()}
    ratio = round(median(found["one_stalls"]) / median(found["none_stalls"]), 3)
    told = {"benchmark": "page_columns", "runs": runs, **middle, "ratio": ratio, "met": ratio <= TARGET}
    print(json.dumps(told))


def _set_up_columns(page: Page) -> None:
    """Turn to the comparison, with columns for all answers."""
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.get_by_label(str(OTHERS + 1), exact=True).check()
    for number in range(OTHERS):
        _choose_provider(page, number, STEADY)


def _choose_provider(page: Page, number: int, provider: str) -> None:
    picker = page.get_by_label(f"{number + 1}. Who answers")
    picker.fill(provider)
    picker.press("Enter")


def _measure_gap_p95_ms(page: Page, fourth: str) -> float:
    """Ask all, with `fourth` in the last column, and wait for the end of every answer."""
    _choose_provider(page, OTHERS, fourth)
    page.evaluate(_GAP_OBSERVER_SCRIPT, OTHERS)
    page.locator("#sg-compare-ask").click()
    page.locator("#sg-compare-results table").wait_for(state="hidden")
    page.locator("#sg-compare-results table").wait_for(timeout=_WAIT_TIMEOUT_MS)
    gaps_ms: list[float] = page.evaluate("window.seen")
    return quantiles(gaps_ms, n=20, method="inclusive")[-1]


if __name__ == "__main__":
    main()

"""The effect of a stalling column of the comparison on the other columns, with four answers in a browser.

Three steady answers are requested with a fourth that stalls twice and with one that does not, alternately, so that
other work on the machine affects both. `gap_p95_ms` is the 95th percentile of the gaps between two visible updates of
an answer, pooled over the first three columns of a run, by the page's clock. The ratio is that of the medians over the
runs.

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
"""The largest acceptable ratio of the gap with a stalling column to the gap without."""
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
"""Starts to record the milliseconds between two updates of the answers in the first columns."""


def main() -> None:
    """Print both p95 gaps of each run, and a JSON object as the last line."""
    parser = argparse.ArgumentParser("python -m benchmarks.page_columns", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    value: dict[str, list[float]] = {"none_stalls": [], "one_stalls": []}
    with run_service({}) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(url)
        _set_up_columns(page)
        _measure_gap_p95_ms(page, STEADY)  # the first answers load the rendering code
        for _ in range(runs):
            for name, fourth in (("none_stalls", STEADY), ("one_stalls", STALLING)):
                value[name].append(_measure_gap_p95_ms(page, fourth))
            print(", ".join(f"{name} gap p95 {gaps[-1]:.1f} ms" for name, gaps in value.items()), flush=True)
        browser.close()
    middle = {f"{name}_gap_p95_ms": round(median(gaps), 1) for name, gaps in value.items()}
    ratio = round(median(value["one_stalls"]) / median(value["none_stalls"]), 3)
    result = {"benchmark": "page_columns", "runs": runs, **middle, "ratio": ratio, "met": ratio <= TARGET}
    print(json.dumps(result))


def _set_up_columns(page: Page) -> None:
    """Open the comparison tab with a column for each answer."""
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.get_by_label(str(OTHERS + 1), exact=True).check()
    for number in range(OTHERS):
        _choose_provider(page, number, STEADY)


def _choose_provider(page: Page, number: int, provider: str) -> None:
    picker = page.get_by_label(f"{number + 1}. Who answers")
    picker.fill(provider)
    picker.press("Enter")


def _measure_gap_p95_ms(page: Page, fourth: str) -> float:
    """Send a message to all columns, with `fourth` in the last one, and return the p95 gap of the others in ms."""
    _choose_provider(page, OTHERS, fourth)
    page.evaluate(_GAP_OBSERVER_SCRIPT, OTHERS)
    page.locator("#sg-compare-ask").click()
    page.locator("#sg-compare-results table").wait_for(state="hidden")
    page.locator("#sg-compare-results table").wait_for(timeout=_WAIT_TIMEOUT_MS)
    gaps_ms: list[float] = page.evaluate("window.seen")
    return quantiles(gaps_ms, n=20, method="inclusive")[-1]


if __name__ == "__main__":
    main()

"""How smoothly the page draws four `direct` answers at 45 chunks a second each, and how soon a Stop of one shows.

Animation frames are counted by the browser while all four answers come. The latency of Stop is from the click to the
stage "Stopped" of that column, both as timestamps of the page; `other_updates` is how many updates of other columns
were drawn between. With `--busy`, one process a processor spins meanwhile. `met` is true if there were at least 20
frames a second and, on a quiet machine, every Stop was shown within 300 ms, on a busy one within a second.

    python -m benchmarks.compare_columns [--rounds 20] [--busy]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from playwright.sync_api import Page, sync_playwright

from benchmarks.page import FLAGS, PROVIDER, VARIABLE, run_server, run_service
from evaluation.backends.browser.chromium import find_chromium

COLUMNS, GAP_MS, TOKENS = 4, 1000 / 45, 4000
MIN_FRAMES_PER_S = 20.0
MAX_STOP_MS, MAX_BUSY_STOP_MS = 300.0, 1000.0
_WATCH_S = 3.0
_PATIENCE_MS = 60_000

_COUNT_FRAMES = """() => {
  window.counted = { frames: 0, from: performance.now(), on: true };
  const count = () => { if (window.counted.on) { window.counted.frames += 1; requestAnimationFrame(count); } };
  requestAnimationFrame(count);
}"""
_FRAMES_PER_S = """() => {
  window.counted.on = false;
  return 1000 * window.counted.frames / (performance.now() - window.counted.from);
}"""
_STOP_COLUMN = """(number) => new Promise((resolve) => {
  const column = document.getElementById(`sg-column-${number}`);
  let updates = 0, clicked = performance.now();
  const observer = new MutationObserver((changes) => {
    if (column.querySelector(".sg-stage").textContent.includes("Stopped")) {
      observer.disconnect();
      requestAnimationFrame(() => resolve({ stop_ms: performance.now() - clicked, other_updates: updates }));
    }
    const drawn = changes.map(({ target }) => (target.closest ? target : target.parentElement)?.closest(".sg-card"));
    if (drawn.some((card) => card && !column.contains(card))) updates += 1;
  });
  observer.observe(document.getElementById("sg-columns"), { childList: true, subtree: true, characterData: true });
  clicked = performance.now();
  column.querySelector(".sg-stop").click();
})"""


@dataclass(frozen=True, slots=True)
class StopResult:
    """The latency of a Stop in milliseconds, and how many updates of other columns the page drew in it."""

    stop_ms: float
    other_updates: int


def start_frame_counter(page: Page) -> None:
    """Start to count the page's animation frames."""
    page.evaluate(_COUNT_FRAMES)


def stop_frame_counter(page: Page) -> float:
    """Return the animation frames a second since `start_frame_counter`."""
    return float(page.evaluate(_FRAMES_PER_S))


def count_updates_until_stopped(page: Page, column: int) -> StopResult:
    """Press the Stop of a column, and wait until the page shows that it has stopped."""
    return StopResult(**page.evaluate(_STOP_COLUMN, column))


def fill_form(page: Page) -> None:
    """Choose four `direct` columns of the provider in the compare tab."""
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.locator("#sg-who").get_by_label("Max tokens").fill(str(TOKENS))
    page.locator("#sg-who").get_by_label(str(COLUMNS), exact=True).check()
    for number in range(COLUMNS):
        for name, value in (("provider", PROVIDER), ("strategy", "direct")):
            box = page.locator(f"#sg-compare-{name}-{number}")
            box.locator("input").click()
            box.get_by_role("option", name=value, exact=True).click()


def measure_round(page: Page) -> tuple[float, list[StopResult]]:
    """Return the frames a second while all columns stream, and the results of their Stops, one after another."""
    page.locator("#sg-compare-prompt textarea").fill("Go on.")
    page.locator("#sg-compare-ask").click()
    for number in range(COLUMNS):
        stage = page.locator(f"#sg-column-{number} .sg-stage")
        stage.filter(has_text="Streaming").wait_for(timeout=_PATIENCE_MS)
    start_frame_counter(page)
    page.wait_for_timeout(1000 * _WATCH_S)
    frames_per_s = stop_frame_counter(page)
    stops = [count_updates_until_stopped(page, number) for number in range(COLUMNS)]
    page.locator("#sg-ballot").wait_for(timeout=_PATIENCE_MS)
    page.locator("#sg-compare-new").click()
    page.locator("#sg-ballot").wait_for(state="detached", timeout=_PATIENCE_MS)
    return frames_per_s, stops


@contextmanager
def _run_upstream() -> Iterator[str]:
    """Run a simulator that sends `TOKENS` chunks at `GAP_MS`, and yield its address."""
    shape = ["--ttft-ms", "100", "--gap-ms", f"{GAP_MS:.1f}", "--tokens", str(TOKENS)]
    with run_server(sys.executable, "-m", "simulator", "--port", "0", *shape) as address:
        yield address


@contextmanager
def _spin() -> Iterator[None]:
    """Keep every processor busy inside this context."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def main() -> None:
    """Print a line for each round, and a JSON object as the last line."""
    parser = argparse.ArgumentParser("python -m benchmarks.compare_columns", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="one process a processor spins meanwhile")
    arguments = parser.parse_args()
    path = find_chromium()
    frames, stops = [], list[StopResult]()
    with ExitStack() as stack:
        upstream = stack.enter_context(_run_upstream())
        url = stack.enter_context(run_service({VARIABLE: f"{upstream}/v1"}))
        playwright = stack.enter_context(sync_playwright())
        page = playwright.chromium.launch(executable_path=path, args=FLAGS).new_page(
            viewport={"width": 1440, "height": 900}
        )
        page.goto(url)
        fill_form(page)
        if arguments.busy:
            stack.enter_context(_spin())
        for _ in range(arguments.rounds):
            frames_per_s, results = measure_round(page)
            frames.append(frames_per_s)
            stops += results
            print(f"{frames_per_s:5.1f} frames/s, Stop " + ", ".join(f"{one.stop_ms:.0f} ms" for one in results))
        page.context.browser.close()  # type: ignore[union-attr]  # a launched browser's page has one
    stop_ms = [one.stop_ms for one in stops]
    limit_ms = MAX_BUSY_STOP_MS if arguments.busy else MAX_STOP_MS
    result = {
        "frames_per_s_min": round(min(frames), 1),
        "frames_per_s_median": round(statistics.median(frames), 1),
        "stops": len(stop_ms),
        "stop_p50_ms": round(statistics.median(stop_ms)),
        "stop_max_ms": round(max(stop_ms)),
        "within_limit": sum(one <= limit_ms for one in stop_ms),
        "other_updates_max": max(one.other_updates for one in stops),
    }
    met = min(frames) >= MIN_FRAMES_PER_S and max(stop_ms) <= limit_ms
    facts = {"benchmark": "compare_columns", "busy": arguments.busy, "cores": os.cpu_count()}
    print(json.dumps({**facts, **result, "met": met}))


if __name__ == "__main__":
    main()

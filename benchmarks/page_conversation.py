"""What a long conversation costs the page: typing while an answer comes, and memory.

A simulator answers every message with 400 tokens. After the last turn, a message is sent alternately in the long
conversation and as the first one of a fresh page, so that other work on the machine affects both, and the same keys are
pressed while its answer comes. The delay of a key is from its event to the frame that shows it, on the page's clock.
`typing_ratio` is the median delay in the long conversation to that in the first turn. After each turn the browser
collects its garbage: `heap_growth_ratio` is the growth of its heap a turn in the second half of the conversation to
that in the first. `met` is true if typing is at most twice as slow, and a turn costs no more memory late than early.

    python -m benchmarks.page_conversation [--turns 60] [--rounds 5]
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from playwright.sync_api import CDPSession, Page, sync_playwright

from benchmarks.page import FLAGS, PROVIDER, VARIABLE, run_server, run_service
from evaluation.backends.browser.chromium import find_chromium

TOKENS, GAP_MS = 400, 6
MAX_TYPING_RATIO, MAX_GROWTH_RATIO = 2.0, 1.5
_KEYS = "an answer comes while this is typed"
_KEY_INTERVAL_MS = 30
_PATIENCE_MS = 120_000
_WATCH_KEYS = """() => {
  window.delays = [];
  const { port1, port2 } = new MessageChannel(), pending = [];
  port1.onmessage = () => pending.splice(0).forEach((at) => window.delays.push(performance.now() - at));
  document.addEventListener("keydown", (event) => {
    requestAnimationFrame(() => { pending.push(event.timeStamp); port2.postMessage(null); });
  }, { capture: true });
}"""


@contextmanager
def _run_upstream() -> Iterator[str]:
    """Run a simulator that sends `TOKENS` chunks at `GAP_MS`, and yield its address."""
    shape = ["--ttft-ms", "50", "--gap-ms", str(GAP_MS), "--tokens", str(TOKENS)]
    with run_server(sys.executable, "-m", "simulator", "--port", "0", *shape) as address:
        yield address


def open_page(page: Page, url: str) -> Page:
    """Open the chat with the simulator chosen, and watch the delays of keys."""
    page.goto(url)
    page.locator("#sg-provider input").click()
    page.get_by_role("option", name=PROVIDER, exact=True).click()
    page.evaluate(_WATCH_KEYS)
    return page


def run_turn(page: Page, *, keys: str = "") -> list[float]:
    """Send a message, press the keys while its answer comes, wait for its end; return their delays in milliseconds."""
    receipts = page.locator("#sg-chat .thought-group")
    before = receipts.count()
    box = page.locator("#sg-message textarea")
    box.fill("Go on.")
    box.press("Enter")
    page.locator("#sg-stage").filter(has_text="Streaming").wait_for(timeout=_PATIENCE_MS)
    page.evaluate("window.delays.length = 0")
    for key in keys:
        page.keyboard.press(key)
        page.wait_for_timeout(_KEY_INTERVAL_MS)
    delays_ms: list[float] = page.evaluate("window.delays")
    receipts.nth(before).wait_for(timeout=_PATIENCE_MS)
    page.locator("#sg-message button.submit-button").wait_for(timeout=_PATIENCE_MS)
    return delays_ms


def read_heap_mb(session: CDPSession) -> float:
    """Return the size of the page's heap after a garbage collection."""
    session.send("HeapProfiler.collectGarbage")
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["JSHeapUsedSize"]) / 1e6


def grow_conversation(page: Page, turns: int) -> list[float]:
    """Run the turns; return the heap in megabytes after each."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    heap_mb = []
    for number in range(1, turns + 1):
        run_turn(page)
        heap_mb.append(read_heap_mb(session))
        if number == 1 or number % 10 == 0:
            print(f"turn {number:3}: heap {heap_mb[-1]:.1f} MB", flush=True)
    session.detach()
    return heap_mb


def judge(heap_mb: list[float], first_ms: list[float], late_ms: list[float]) -> dict[str, object]:
    """Return the costs of early and late turns, their ratios, and whether they are within the limits."""
    middle = len(heap_mb) // 2
    early_mb = (heap_mb[middle] - heap_mb[0]) / middle
    late_mb = (heap_mb[-1] - heap_mb[middle]) / (len(heap_mb) - 1 - middle)
    first, late = statistics.median(first_ms), statistics.median(late_ms)
    return {
        "typing_first_ms": round(first, 1),
        "typing_late_ms": round(late, 1),
        "typing_ratio": round(late / first, 2),
        "heap_mb_a_turn_early": round(early_mb, 3),
        "heap_mb_a_turn_late": round(late_mb, 3),
        "heap_growth_ratio": round(late_mb / early_mb, 2),
        "met": late <= MAX_TYPING_RATIO * first and late_mb <= MAX_GROWTH_RATIO * early_mb,
    }


def main() -> None:
    """Print a line for every tenth turn and each round, and a JSON object as the last line."""
    parser = argparse.ArgumentParser("python -m benchmarks.page_conversation", description=__doc__)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    path = find_chromium()
    first_ms, late_ms = list[float](), list[float]()
    with ExitStack() as stack:
        upstream = stack.enter_context(_run_upstream())
        url = stack.enter_context(run_service({VARIABLE: f"{upstream}/v1"}))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = open_page(browser.new_page(), url)
        heap_mb = grow_conversation(page, arguments.turns)
        for _ in range(arguments.rounds):
            fresh = open_page(browser.new_page(), url)
            first, late = run_turn(fresh, keys=_KEYS), run_turn(page, keys=_KEYS)
            fresh.close()
            print(
                f"a key: {statistics.median(first):.0f} ms in turn 1, {statistics.median(late):.0f} ms in the long one"
            )
            first_ms += first
            late_ms += late
        browser.close()
    result = judge(heap_mb, first_ms, late_ms)
    print(json.dumps({"benchmark": "page_conversation", "turns": arguments.turns, "tokens": TOKENS, **result}))


if __name__ == "__main__":
    main()

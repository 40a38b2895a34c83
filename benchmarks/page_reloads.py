"""What a reader loses when the page is loaded anew in the middle of an answer.

An upstream sends numbered words, 20 ms apart. Meanwhile the page is reloaded at random moments, left and entered again
by Back, its connection is cut for 4 s, and the service is restarted. `lost` are the answers on the page that are not
exactly the words from the first to the last one, `repeated` those that the upstream was not asked for exactly once. A
restarted service has no answer to go on with: what was shown must stay, marked as cut. `times_ms` are, for each kind,
the times from the moment at which the page can be used until the answer goes on, or is marked. Some answers are stopped
after a reload: `stop` is the time from the press of Stop to the end of the upstream's work. `met` is true if nothing
was lost or repeated, and no time was longer than a second; on a busy machine the times are longer.

    python -m benchmarks.page_reloads [--reloads 50] [--cuts 10] [--backs 5] [--restarts 3] [--stops 20]
"""

import argparse
import json
import random
import re
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

from playwright.sync_api import Page, sync_playwright

from benchmarks._cuttable_line import CuttableLine, run_line
from benchmarks.page import FLAGS, GAP_S, PROVIDER, VARIABLE, ChatCompletionsHandler, run_service
from evaluation.backends.browser.chromium import find_chromium

WORDS = 1500
CUT_S = 4.0
MAX_MS = 1000.0
_PATIENCE_MS = 120_000
_PER_ANSWER = 5
_ANSWERS = '#sg-chat [data-testid="bot"]:not(:has(.thought-group, .sg-who))'

_WATCH = """() => {
  const marks = window.marks = {};
  const stage = () => document.querySelector("#sg-stage .sg-now strong")?.textContent ?? "";
  const watch = () => {
    const find = (selector) => document.querySelector(selector);
    const usable = find('#sg-settings [aria-label="Settings"]') && find("#sg-message textarea");
    if (usable) marks.usable ??= performance.now();
    if (marks.usable && /Streaming|Interrupted|Done|Stopped/.test(stage())) marks.resumed ??= performance.now();
    if (marks.resumed === undefined) requestAnimationFrame(watch);
  };
  requestAnimationFrame(watch);
}"""
"""Notes when a page can be used, and when its answer goes on or is marked."""


class NumberedUpstream(ThreadingHTTPServer):
    """A chat completions server on a free port; `asked` counts its requests by question."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _NumberedHandler)
        self.asked: Counter[str] = Counter()
        self.ended_s: dict[str, float] = {}
        self.ended = threading.Condition()

    def wait_end(self, question: str) -> float:
        """Return the timestamp at which the answer to a question ended, on the monotonic clock."""
        with self.ended:
            self.ended.wait_for(lambda: question in self.ended_s, _PATIENCE_MS / 1000)
            return self.ended_s[question]


class _NumberedHandler(ChatCompletionsHandler):
    server: NumberedUpstream

    def do_POST(self) -> None:  # noqa: N802 - http.server requires this name
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = body["messages"][-1]["content"]
        self.server.asked[question] += 1
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            for number in range(WORDS):
                self.send_chunk({"content": f"{number} "}, None)
                time.sleep(GAP_S)
            self.send_chunk({}, "stop")
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:  # the service has closed the connection
            self.close_connection = True
        finally:
            with self.server.ended:
                self.server.ended_s[question] = time.monotonic()
                self.server.ended.notify_all()


@contextmanager
def run_upstream() -> Iterator[NumberedUpstream]:
    """Serve on a free port, and yield the server."""
    with NumberedUpstream() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Reader:
    """A page that is loaded anew while it asks one question after another."""

    def __init__(self, page: Page, line: CuttableLine, upstream: NumberedUpstream, rng: random.Random) -> None:
        self.page, self._line, self._upstream, self._rng = page, line, upstream, rng
        self._count = 0
        self.resume_ms: dict[str, list[float]] = {}
        self.stop_ms: list[float] = []
        self.lost: list[str] = []
        self.repeated: list[str] = []

    def ask(self) -> str:
        """Begin a conversation with a new question, wait for text of its answer, and return the question."""
        self._count += 1
        question = f"Question {self._count}"
        self.page.get_by_role("button", name="New conversation").click()
        self.page.locator('#sg-chat [data-testid="user"]').first.wait_for(state="detached", timeout=_PATIENCE_MS)
        self.page.locator("#sg-message textarea").fill(question)
        self.page.locator("#sg-message textarea").press("Enter")
        self.page.locator(_ANSWERS).last.wait_for(timeout=_PATIENCE_MS)
        return question

    def load(self, kind: str, act: Callable[[], object]) -> None:
        """Load the page anew at a random moment, and wait until the answer goes on."""
        self.page.wait_for_timeout(1000 * self._rng.uniform(0.1, 1.5))
        act()
        self.page.wait_for_function("window.marks?.resumed !== undefined", timeout=_PATIENCE_MS)
        marks = self.page.evaluate("window.marks")
        self.resume_ms.setdefault(kind, []).append(marks["resumed"] - marks["usable"])

    def go_back(self) -> None:
        """Leave the page, and enter it again."""
        self.page.goto("about:blank")
        self.page.go_back()

    def cut(self, service: Callable[[], str] | None = None) -> None:
        """Cut the connection for a while; then lead it to another service, if there is one."""
        self.page.evaluate("delete window.marks")
        self._line.cut()
        self.page.wait_for_timeout(1000 * CUT_S)
        if service is not None:
            self._line.target = service()
        self._line.mend()

    def finish(self, question: str, *, is_whole: bool) -> None:
        """Wait for the end of the answer, and compare what the page shows with what was sent."""
        outcome = self.page.locator("#sg-stage ol:is(.sg-good, .sg-bad, .sg-idle)")
        outcome.wait_for(timeout=_PATIENCE_MS)
        text = (self.page.locator(_ANSWERS).last.get_attribute("aria-label") or "").removeprefix("bot's message: ")
        words = text.split()
        if words != [str(number) for number in range(WORDS if is_whole else len(words))] or not words:
            self.lost.append(question)
        if self._upstream.asked[question] != 1:
            self.repeated.append(question)

    def stop(self, question: str) -> None:
        """Press Stop, and wait for the end of the upstream's work."""
        button = self.page.locator("#sg-message button.stop-button")
        button.wait_for(timeout=_PATIENCE_MS)
        pressed_s = time.monotonic()
        button.click()
        self.stop_ms.append(1000 * (self._upstream.wait_end(question) - pressed_s))


def _run(options: argparse.Namespace, reader: Reader, restart: Callable[[], str]) -> None:
    """Ask, load the page anew, and compare; print a line for each kind."""
    page = reader.page
    kinds: list[tuple[str, int, Callable[[], object]]] = [
        ("reload", options.reloads, page.reload),
        ("back", options.backs, reader.go_back),
        ("cut", options.cuts, reader.cut),
    ]
    for kind, count, act in kinds:
        for first in range(0, count, _PER_ANSWER):
            question = reader.ask()
            for _ in range(min(_PER_ANSWER, count - first)):
                reader.load(kind, act)
            reader.finish(question, is_whole=True)
            print(f"{kind} {min(first + _PER_ANSWER, count)} of {count}", flush=True)
    for _ in range(options.stops):
        question = reader.ask()
        reader.load("reload", page.reload)
        reader.stop(question)
        reader.finish(question, is_whole=False)
    print(f"stop {options.stops} of {options.stops}", flush=True)
    for _ in range(options.restarts):
        question = reader.ask()
        reader.load("restart", lambda: reader.cut(restart))
        reader.finish(question, is_whole=False)
    print(f"restart {options.restarts} of {options.restarts}", flush=True)


def _open_page(page: Page, address: str) -> None:
    """Open the page, and choose the upstream with a limit that its answers do not reach."""
    page.add_init_script(f"({_WATCH})()")
    page.goto(address)
    page.locator("#sg-provider input").click()
    page.get_by_role("option", name=re.compile(f"^{PROVIDER}")).click()
    page.locator("#sg-settings .toggle-button").click()
    page.locator("#sg-max-tokens input, #sg-max-tokens textarea").first.fill("4000")
    page.locator("#sg-settings .toggle-button").click()


def main() -> int:
    """Print a line for each answer, and a JSON object as the last line; return 1 if anything was lost."""
    parser = argparse.ArgumentParser("python -m benchmarks.page_reloads", description=__doc__)
    for name, count in (("reloads", 50), ("cuts", 10), ("backs", 5), ("restarts", 3), ("stops", 20)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with ExitStack() as stack:
        upstream = stack.enter_context(run_upstream())
        variables = {VARIABLE: f"http://127.0.0.1:{upstream.server_port}/v1"}
        services = stack.enter_context(ExitStack())

        def restart() -> str:
            services.close()
            return services.enter_context(run_service(variables))

        line = stack.enter_context(run_line(restart()))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        page = browser.new_page()
        _open_page(page, line.address)
        reader = Reader(page, line, upstream, random.Random(options.seed))
        _run(options, reader, restart)
        browser.close()
    times: dict[str, Any] = {
        kind: {"n": len(all_ms), "p50": round(statistics.median(all_ms)), "max": round(max(all_ms))}
        for kind, all_ms in (*reader.resume_ms.items(), ("stop", reader.stop_ms))
        if all_ms
    }
    is_whole = not reader.lost and not reader.repeated
    result = {"lost": reader.lost, "repeated": reader.repeated, "times_ms": times}
    met = is_whole and all(one["max"] <= MAX_MS for one in times.values())
    print(json.dumps({"benchmark": "page_reloads", "seed": options.seed, **result, "met": met}))
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())

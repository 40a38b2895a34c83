"""The cost of an answer in the browser with the page's default strategy, compared with delivery chunk by chunk.

An upstream sends chunks of 8 bytes, 20 ms apart. `received_kb` is everything that the page received from the service
during the answer: text, stages, meter and receipt. `busy` is the share of that time in which the page's main thread ran
a task, according to the browser's trace. `cpu` is the share in which it used a processor; it is lower because on a busy
machine a task also waits for one. The upstream runs in this process, the service and the browser in separate ones.

Both shares include Gradio's own work: with each update it copies the inputs of its events, and its loading indicator
requests animation frames. On two cores, beside other work, 800 chunks took 112 kB, busy 0.16 and cpu 0.11 with the
default strategy, and 323 kB, busy 0.48 and cpu 0.33 with `direct`.

    python -m benchmarks.page [--chunks 800]
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle, islice
from typing import Any

from playwright.sync_api import Page, sync_playwright

from evaluation.backends.browser.chromium import find_chromium
from streaming import strategies

CHUNK_BYTES, GAP_S = 8, 0.02
PROVIDER, VARIABLE = "llama-server", "LLAMA_SERVER_BASE_URL"
"""The upstream's name on the page, and the environment variable with its address."""
_SAMPLE_WORDS = ("evening", "another", "passage", "through", "written", "between", "measure", "nothing")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
_TASK_EVENT, _CATEGORIES = "RunTask", ["disabled-by-default-devtools.timeline", "__metadata"]
_WAIT_TIMEOUT_MS = 120_000


class ChatCompletionsHandler(BaseHTTPRequestHandler):
    """A chat completions server that sends `max_tokens` chunks, each with one word and a space."""

    def do_POST(self) -> None:  # http.server requires this name
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        due_s = time.monotonic()
        for word in islice(cycle(_SAMPLE_WORDS), request["max_tokens"]):
            due_s += GAP_S
            time.sleep(max(due_s - time.monotonic(), 0.0))
            self.send_chunk({"content": f"{word} "}, None)
        self.send_chunk({}, "length")
        self.wfile.write(b"data: [DONE]\n\n")

    def send_chunk(self, delta: dict[str, str], reason: str | None) -> None:
        """Send a chunk of the answer with its finish reason, which is None but for the last one."""
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Discard the access log."""


@contextmanager
def run_upstream() -> Iterator[str]:
    """Serve on a free port, and yield the address for `VARIABLE`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), ChatCompletionsHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@dataclass(frozen=True, slots=True)
class PageCost:
    """The bytes that the page received in `during_s` seconds, and the time its main thread was busy."""

    received_bytes: int
    during_s: float
    busy_s: float
    cpu_s: float

    def to_metrics(self) -> dict[str, float]:
        """Return the printed metrics: kilobytes, and shares of the time."""
        return {
            "received_kb": round(self.received_bytes / 1000, 1),
            "busy": round(self.busy_s / self.during_s, 3),
            "cpu": round(self.cpu_s / self.during_s, 3),
        }


def measure_page(page: Page, answer: Callable[[], None]) -> PageCost:
    """Return the cost of `answer` on a page; no other page of the browser may be active."""
    browser = page.context.browser
    assert browser is not None  # a page of a launched browser has one
    received = 0

    def count_bytes(event: dict[str, Any]) -> None:
        nonlocal received
        received += event["dataLength"]

    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.dataReceived", count_bytes)
    browser.start_tracing(page=page, categories=_CATEGORIES)
    began_s = time.monotonic()
    answer()
    during_s = time.monotonic() - began_s
    busy_s, cpu_s = _main_thread_usage_s(json.loads(browser.stop_tracing())["traceEvents"])
    session.detach()
    return PageCost(received, during_s, busy_s, cpu_s)


def _main_thread_usage_s(events: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the seconds of tasks, and their CPU seconds, on the busiest main thread: that of the measured page."""
    threads = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["args"].get("name") == "CrRendererMain"}
    taken: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in events:
        thread = event["pid"], event["tid"]
        if event["name"] == _TASK_EVENT and event["ph"] == "X" and thread in threads:
            taken[thread][0] += event["dur"] / 1e6
            taken[thread][1] += event.get("tdur", 0) / 1e6
    busy_s, cpu_s = max(taken.values())
    return busy_s, cpu_s


@contextmanager
def run_service(variables: dict[str, str]) -> Iterator[str]:
    """Run the service with the page on a free port, and yield its address."""
    assignments = [f"{name}={value}" for name, value in variables.items()]
    with run_server("env", "RATE_LIMIT=off", *assignments, sys.executable, "app.py", "--port", "0") as address:
        yield address


@contextmanager
def run_server(*command: str) -> Iterator[str]:
    """Run a server that prints its address, and yield the address."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # it is a pipe
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def _measure_answer(page: Page, chunks: int, strategy: str) -> PageCost:
    """Request an answer with this number of chunks in an empty conversation, and return its cost."""
    page.locator("#sg-settings .toggle-button").click()
    page.locator("#sg-settings").get_by_label("Max tokens", exact=True).fill(str(chunks))
    page.locator("#sg-settings .toggle-button").click()
    picker = page.locator("#sg-strategy input")
    picker.fill(strategy)
    picker.press("Enter")
    box = page.locator("#sg-message textarea")
    box.fill("Go on.")

    def ask_and_wait() -> None:
        box.press("Enter")
        page.locator("#sg-chat .thought-group").wait_for(timeout=_WAIT_TIMEOUT_MS)

    cost = measure_page(page, ask_and_wait)
    page.locator("#sg-chat").get_by_label("Clear", exact=True).click()
    page.get_by_test_id("user").wait_for(state="detached")
    return cost


def main() -> None:
    """Print a line for each answer, and all results and ratios as JSON in the last line."""
    parser = argparse.ArgumentParser("python -m benchmarks.page", description=__doc__)
    parser.add_argument("--chunks", type=int, default=800)
    chunks = parser.parse_args().chunks
    path = find_chromium()
    with run_upstream() as address, run_service({VARIABLE: address}) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(url)
        page.locator("#sg-provider input").click()
        page.get_by_role("option", name=PROVIDER, exact=True).click()
        _measure_answer(page, 10, strategies.DEFAULT_STRATEGY)  # the first answer loads the rendering code
        answers = {"half": (chunks // 2, strategies.DEFAULT_STRATEGY), "batched": (chunks, strategies.DEFAULT_STRATEGY)}
        answers["direct"] = (chunks, "direct")
        result = {name: _measure_answer(page, *arguments).to_metrics() for name, arguments in answers.items()}
        browser.close()
    for name, (count, strategy) in answers.items():
        print(f"{name:8} {count:5} chunks {strategy:12} " + ", ".join(f"{n} {v:g}" for n, v in result[name].items()))
    ratios = {
        name: {n: round(v / result[other][n], 3) for n, v in result["batched"].items()}
        for name, other in (("batched/direct", "direct"), ("batched/half", "half"))
    }
    cores = os.cpu_count()
    print(json.dumps({"benchmark": "page", "chunks": chunks, "cores": cores, **result, **ratios}))


if __name__ == "__main__":
    main()

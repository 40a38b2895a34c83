"""The latency from pressing Stop on the page to the end of the provider's work, compared with a plain client.

The page and a plain client of the service send requests alternately, so that other work on the machine affects both.
The provider is a simulator whose log has the timestamps of closed connections on the same clock. `silent` is a provider
that has sent nothing yet, `streaming` one in the middle of an answer. The latency is from the press of the button, or
from the close of the client's connection, to the close at the provider. `ratio` is that of the page's median to the
client's; `met` is true if no stop of the page took longer than a second. The browser, the service and the simulator
run in separate processes.

    python -m benchmarks.page_stop [--rounds 20]
"""

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Page, sync_playwright

from benchmarks.page import FLAGS, run_service
from evaluation.backends.browser.chromium import find_chromium
from simulator.server import read_log

TARGET_S = 1.0
PROVIDER, NAME, VARIABLE = "vLLM", "vllm", "VLLM_BASE_URL"
STATES = {"silent": "fault-no-response", "streaming": "any-model"}
"""The simulator's models, by the state in which they are stopped."""
_PATIENCE_S = 30.0


class Simulator:
    """A running simulator and the log of its requests."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log

    def times_s(self, model: str, event: str) -> list[Any]:
        """Return the timestamps of an event of the model's requests, in order; of closes only those by the client."""
        entries = read_log(str(self._log))
        ids = {entry["request_id"] for entry in entries if entry.get("model") == model}
        return [
            entry["at_s"]
            for entry in entries
            if entry["request_id"] in ids and entry["event"] == event and entry.get("by", "client") == "client"
        ]

    def wait_for(self, model: str, event: str, count: int, pause: Callable[[], None]) -> float:
        """Return the timestamp of the event's `count`-th occurrence. Raises TimeoutError after half a minute."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while len(times_s := self.times_s(model, event)) < count:
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"{model}: the simulator saw {len(times_s)} of {count} {event!r}")
            pause()
        return float(times_s[count - 1])


@contextmanager
def simulator() -> Iterator[Simulator]:
    """Run a simulator on a free port, with answers of eight seconds, and yield it."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log.jsonl")
        shape = ["--ttft-ms", "100", "--gap-ms", "20", "--tokens", "400"]
        command = [sys.executable, "-m", "simulator", "--port", "0", "--log", str(log), *shape]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None  # it is a pipe
            try:
                yield Simulator(process.stdout.readline().split()[-1], log)
            finally:
                process.send_signal(signal.SIGTERM)


def stop_page_s(page: Page, upstream: Simulator, state: str) -> float:
    """Send a message on the page, press Stop, and return the seconds until the provider's work ended."""
    model = STATES[state]
    received, closed = len(upstream.times_s(model, "received")), len(upstream.times_s(model, "closed"))
    page.locator("#sg-message textarea").fill("Go on.")
    page.locator("#sg-message textarea").press("Enter")
    pause = lambda: page.wait_for_timeout(10)  # noqa: E731 - the browser must process its events meanwhile
    upstream.wait_for(model, "received", received + 1, pause)
    if state == "streaming":
        page.locator("#sg-chat [data-testid=bot]:not(:has(.sg-who))").last.wait_for()
    pressed_s = time.monotonic()
    page.locator("#sg-message button.stop-button").click()
    took_s = upstream.wait_for(model, "closed", closed + 1, pause) - pressed_s
    page.locator("#sg-message button.stop-button").wait_for(state="detached")
    return took_s


def leave_s(url: str, upstream: Simulator, state: str) -> float:
    """Send a request over a socket, close it, and return the seconds until the provider's work ended."""
    model, parts = STATES[state], urlsplit(url)
    received, closed = len(upstream.times_s(model, "received")), len(upstream.times_s(model, "closed"))
    body = json.dumps({"message": "Go on.", "provider": f"{NAME}:{model}"})
    head = f"POST /api/chat HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=_PATIENCE_S) as client:
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        output = b""
        while state == "streaming" and b'"content"' not in output:
            output += client.recv(65536)
        upstream.wait_for(model, "received", received + 1, lambda: time.sleep(0.005))
        left_s = time.monotonic()
    return upstream.wait_for(model, "closed", closed + 1, lambda: time.sleep(0.005)) - left_s


def measure(page: Page, url: str, upstream: Simulator, rounds: int) -> dict[str, dict[str, float]]:
    """Return the latencies of each state in milliseconds, with alternating rounds of page and plain client."""
    result = {}
    for state, model in STATES.items():
        page.locator("#sg-model input").fill(model)
        page.locator("#sg-model input").blur()
        times_s = [(stop_page_s(page, upstream, state), leave_s(url, upstream, state)) for _ in range(rounds)]
        pages_s, plain_s = zip(*times_s, strict=True)
        median_s, base_s = statistics.median(pages_s), statistics.median(plain_s)
        result[state] = {
            "page_p50_ms": round(1000 * median_s, 1),
            "page_max_ms": round(1000 * max(pages_s), 1),
            "plain_p50_ms": round(1000 * base_s, 1),
            "plain_max_ms": round(1000 * max(plain_s), 1),
            "ratio": round(median_s / base_s, 1),
        }
    return result


def main() -> None:
    """Print a line for each state, and a JSON object as the last line."""
    parser = argparse.ArgumentParser("python -m benchmarks.page_stop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    path = find_chromium()
    with simulator() as upstream, run_service({VARIABLE: f"{upstream.url}/v1"}) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(url)
        page.locator("#sg-provider input").click()
        page.get_by_role("option", name=PROVIDER, exact=True).click()
        result = measure(page, url, upstream, rounds)
        browser.close()
    for state, results in result.items():
        print(f"{state:10} " + ", ".join(f"{name} {value:g}" for name, value in results.items()))
    met = all(results["page_max_ms"] <= 1000 * TARGET_S for results in result.values())
    print(json.dumps({"benchmark": "page_stop", "rounds": rounds, **result, "met": met}))


if __name__ == "__main__":
    main()

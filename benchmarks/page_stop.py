"""The latency of Stop on the page in every state of an answer, and the end of a closed page's answer.

The states are made by upstreams: one that never ends its TLS handshake (`connecting`), and simulators that send
nothing (`unanswered`), only keep-alives (`waiting`), only thinking (`thinking`), text (`streaming`), half an answer
(`stalled`), that ask for a retry after 20 s (`retrying`), or whose only slot is taken (`queued`). Each stop has two
latencies, from the browser's timestamp of the click: `end` to the close of the connection, as the upstream has seen it
on the same machine's clock, and `shown` to “Stopped” on the page. While it waits to retry there is no connection: no
further request may come. A plain client of the service leaves in the same state between two stops of the page, so that
other work on the machine affects both; `ratio` is that of the page's median to the client's. `closed_s` are the seconds
from the close of a page to the end of its answer at the upstream, minus the grace time. `met` is true if no stop took
longer than a second, and each closed page ended within a second of its grace time. The browser, the service and the
simulators run in separate processes.

    python -m benchmarks.page_stop [--rounds 20] [--closed 5] [--states waiting,streaming]
"""

import argparse
import json
import re
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks._stop_upstreams import (
    PATIENCE_S,
    SilentHost,
    Simulator,
    StopUpstream,
    run_silent_host,
    run_simulator,
    wait_left,
    wait_request,
)
from benchmarks.page import FLAGS, run_service
from evaluation.backends.browser.chromium import find_chromium

TARGET_S, GRACE_S, STALL_S = 1.0, 10, 1.0
_LIMIT_TOKENS = 3000


_WATCH = """() => {
  const marks = window.stop = {}, onClick = ({ target, timeStamp }) => {
    if (target.closest(".stop-button")) marks.pressed ??= performance.timeOrigin + timeStamp;
  };
  addEventListener("click", onClick, { capture: true });
  new MutationObserver((_, observer) => {
    const words = document.querySelector("#sg-stage .sg-now strong")?.textContent ?? "";
    if (marks.pressed === undefined || !words.startsWith("Stopped")) return;
    observer.disconnect();
    removeEventListener("click", onClick, { capture: true });
    marks.shown = performance.timeOrigin + performance.now();
  }).observe(document.querySelector("#sg-stage"), { childList: true, subtree: true, characterData: true });
}"""
"""Notes when Stop was pressed, by the browser's timestamp, and when “Stopped” was shown, in ms of the wall clock."""


@dataclass(frozen=True, slots=True)
class StopState:
    """How an answer is brought into a state: the service's provider and model, and what the page then shows."""

    name: str
    provider: str
    label: str
    model: str
    words: str
    upstream: StopUpstream
    is_taken: bool = False
    """Whether the upstream's only slot must be taken by another request before."""
    has_connection: bool = True

    @property
    def holder(self) -> str:
        """The model of the request that takes the slot."""
        return f"{self.model}-holder"

    def is_reached(self) -> bool:
        """Return whether the upstream has done what brings the answer into the state."""
        if self.name != "stalled" or not isinstance(self.upstream, Simulator):
            return True
        return time.monotonic() - self.upstream.last_sent_s() > STALL_S


@contextmanager
def run_states() -> Iterator[tuple[dict[str, StopState], dict[str, str]]]:
    """Run the upstreams; yield the states by name, and the variables that the service finds the upstreams with."""
    with (
        run_silent_host() as silent,
        run_simulator("--tokens", str(_LIMIT_TOKENS)) as long,
        run_simulator("--tokens", "4", "--thinking-tokens", str(_LIMIT_TOKENS), "--slots", "1") as slotted,
        run_simulator("--tokens", "8") as short,
    ):
        vllm, slots, stalls = ("vllm", "vLLM"), ("groq", "Groq"), ("lmstudio", "LM Studio")
        states = [
            StopState("connecting", "llama-server", "llama-server", "any", "Connecting", silent),
            StopState("unanswered", *vllm, "fault-no-response", "Connecting", long),
            StopState("waiting", *vllm, "fault-keepalive-only", "Waiting for first token", long),
            StopState("thinking", *slots, "any-thinker", "Thinking", slotted),
            StopState("streaming", *vllm, "any-model", "Streaming", long),
            StopState("stalled", *stalls, "fault-stall", "Streaming", short),
            StopState("retrying", *vllm, "fault-429-retry-after-20", "Retrying", long, has_connection=False),
            StopState("queued", *slots, "any-queued", "Connecting", slotted, is_taken=True),
        ]
        variables = {f"{state.provider.upper().replace('-', '_')}_BASE_URL": state.upstream.url for state in states}
        addresses = {name: f"{url}/v1" for name, url in variables.items()}
        yield {state.name: state for state in states}, addresses | {"GROQ_API_KEY": "any"}


@contextmanager
def hold_slot(state: StopState) -> Iterator[None]:
    """Take the upstream's only slot with a request of its own."""
    if not state.is_taken:
        yield
        return
    body = {"model": state.holder, "stream": True, "messages": [{"role": "user", "content": "Hold."}]}
    index = len(state.upstream.requests(state.holder))
    with send_request(f"{state.upstream.url}/v1/chat/completions", body):
        wait_request(state.upstream, state.holder, index, _sleep)
        yield
    wait_left(state.upstream, state.holder, index, _sleep)


def _sleep() -> None:
    time.sleep(0.005)


def send_request(url: str, body: dict[str, Any]) -> socket.socket:
    """Send a JSON request over a new connection, and return its socket."""
    parts, text = urlsplit(url), json.dumps(body)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    client = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S)
    client.sendall(f"{head}content-length: {len(text)}\r\n\r\n{text}".encode())
    return client


def choose_upstream(page: Page, state: StopState) -> None:
    """Choose the state's provider and model, and a limit that its answers do not reach."""
    page.locator("#sg-provider input").click()
    page.get_by_role("option", name=re.compile(f"^{state.label}")).click()
    if isinstance(state.upstream, SilentHost):  # its connections are counted: wait for the one that asks for models
        page.locator("#sg-badge", has_text="Cannot be reached").wait_for(timeout=1000 * PATIENCE_S)
    page.locator("#sg-model input").fill(state.model)
    page.locator("#sg-model input").blur()
    page.locator("#sg-settings .toggle-button").click()
    page.locator("#sg-settings").get_by_label("Max tokens", exact=True).fill(str(_LIMIT_TOKENS))
    page.locator("#sg-settings .toggle-button").click()


def ask(page: Page, state: StopState) -> int:
    """Send a message, and wait until the page shows its answer in the state; return the number of the request."""
    index = len(state.upstream.requests(state.model))
    page.locator("#sg-message textarea").fill("Go on.")
    page.locator("#sg-message textarea").press("Enter")
    pause = partial(page.wait_for_timeout, 10)  # the browser must process its events meanwhile
    wait_request(state.upstream, state.model, index, pause)
    wait_for_words(page, state.words)
    while not state.is_reached():
        pause()
    return index


def wait_for_words(page: Page, words: str) -> None:
    """Wait until the page shows the words of a stage."""
    page.locator("#sg-stage .sg-now strong", has_text=words).wait_for(timeout=1000 * PATIENCE_S)


def stop_page(page: Page, state: StopState, *, reloads: bool) -> dict[str, float]:
    """Stop an answer on the page, after a reload if wanted; return its latencies in seconds."""
    with hold_slot(state):
        index = ask(page, state)
        if reloads:
            page.reload()
            wait_for_words(page, state.words)
        button = page.locator("#sg-message button.stop-button")
        button.wait_for(timeout=1000 * PATIENCE_S)
        page.evaluate(_WATCH)
        button.click()
        page.wait_for_function("window.stop.shown !== undefined", timeout=1000 * PATIENCE_S)
        marks = page.evaluate("window.stop")
        times_s = {"shown": (marks["shown"] - marks["pressed"]) / 1000}
        if state.has_connection:
            left_s = wait_left(state.upstream, state.model, index, partial(page.wait_for_timeout, 10))
            times_s["end"] = left_s - marks["pressed"] / 1000 + time.time() - time.monotonic()
    button.wait_for(state="detached")
    return times_s


def leave(url: str, state: StopState) -> float:
    """Ask the service over a socket, close it in the same state; return the seconds until the provider's work ended."""
    index = len(state.upstream.requests(state.model))
    body = {"message": "Go on.", "provider": f"{state.provider}:{state.model}", "max_tokens": _LIMIT_TOKENS}
    with hold_slot(state):
        with send_request(f"{url}/api/chat", body) as client:
            output = b""
            while state.words == "Streaming" and b'"content"' not in output:
                output += client.recv(65536)
            wait_request(state.upstream, state.model, index, _sleep)
            left_s = time.monotonic()
        return wait_left(state.upstream, state.model, index, _sleep) - left_s


def measure_state(page: Page, url: str, state: StopState, rounds: int) -> dict[str, float]:
    """Return the latencies of a state in milliseconds, by alternating rounds of page, reloaded page and client."""
    choose_upstream(page, state)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for kind, reloads in (("page", False), ("reloaded", True)):
            for name, took_s in stop_page(page, state, reloads=reloads).items():
                found.setdefault(f"{kind}_{name}", []).append(took_s)
        if state.has_connection:
            found.setdefault("plain_end", []).append(leave(url, state))
        page.locator("#sg-chat").get_by_label("Clear", exact=True).click()
        page.get_by_test_id("user").first.wait_for(state="detached")
    result = {}
    for name, all_s in found.items():
        result[f"{name}_p50_ms"] = round(1000 * statistics.median(all_s), 1)
        result[f"{name}_max_ms"] = round(1000 * max(all_s), 1)
    if "plain_end" in found:
        result["ratio"] = round(result["page_end_p50_ms"] / result["plain_end_p50_ms"], 1)
    return result


def close_pages(browser: Browser, url: str, state: StopState, count: int) -> list[float]:
    """Close pages in the middle of their answer; return the seconds beyond the grace time until each answer ended."""
    beyond_s = []
    for _ in range(count):
        page = browser.new_page()
        page.goto(url)
        choose_upstream(page, state)
        index = ask(page, state)
        closed_s = time.monotonic()
        page.close()
        ended_s = wait_left(state.upstream, state.model, index, _sleep)
        beyond_s.append(round(ended_s - closed_s - GRACE_S, 3))
    return beyond_s


def main() -> int:
    """Print a line for each state, and a JSON object as the last line; return 1 if a target was missed."""
    parser = argparse.ArgumentParser("python -m benchmarks.page_stop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--closed", type=int, default=5)
    parser.add_argument("--states", default="", help="names separated by commas (all)")
    options = parser.parse_args()
    with ExitStack() as stack:
        states, variables = stack.enter_context(run_states())
        url = stack.enter_context(run_service(variables | {"PAGE_GRACE_S": str(GRACE_S)}))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(url)
        result: dict[str, dict[str, float]] = {}
        for name in [one for one in options.states.split(",") if one] or states:
            result[name] = measure_state(page, url, states[name], options.rounds)
            print(f"{name:10} " + ", ".join(f"{what} {value:g}" for what, value in result[name].items()), flush=True)
        closed_s = close_pages(browser, url, states["streaming"], options.closed)
        asked = len(states["retrying"].upstream.requests(states["retrying"].model))
        browser.close()
    expected = 2 * options.rounds if "retrying" in result else 0
    slow = [
        name for one in result.values() for name, value in one.items() if "_max_" in name and value > 1000 * TARGET_S
    ]
    met = not slow and asked == expected and all(abs(beyond_s) <= TARGET_S for beyond_s in closed_s)
    asks = {"retrying_requests": asked, "retrying_stops": expected}
    print(
        json.dumps(
            {"benchmark": "page_stop", "rounds": options.rounds, **result, "closed_s": closed_s, **asks, "met": met}
        )
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

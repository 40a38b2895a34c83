"""Fixtures: the service as users start it, fake providers, and a real Chromium."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Request, Response, expect, sync_playwright

from benchmarks import page as page_weight
from evaluation.backends.browser.chromium import HEADLESS_NAMES, find_chromium
from tests.e2e.canned_upstream import CannedUpstream
from tests.e2e.chat_page import PATIENCE_S, ChatPage
from tests.e2e.scripted_upstream import ScriptedUpstream
from tests.e2e.service import ServiceUnderTest, run_service
from tests.simulator_process import run_simulator_process

# Playwright's default of 5 s is too short on a busy machine.
expect.set_options(timeout=PATIENCE_S * 1000)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class SimulatedUpstream:
    """A simulated provider with a log of requests and responses, in seconds on this machine's monotonic clock."""

    url: str
    log: Path

    def events_for_model(self, model: str) -> list[dict[str, Any]]:
        """Return the log entries of the requests for a model, in order."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        ids = {line["request_id"] for line in lines if line.get("model") == model}
        return [line for line in lines if line["request_id"] in ids]

    def disconnect_times_s(self, model: str) -> list[float]:
        """Return the timestamps at which a client disconnected from a request for the model before its end."""
        return [
            line["at_s"]
            for line in self.events_for_model(model)
            if line["event"] == "closed" and line["by"] == "client"
        ]


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedUpstream]:
    """Run the simulated provider that the page knows as vLLM."""
    log = tmp_path_factory.mktemp("upstream") / "log.jsonl"
    with run_simulator_process("--ttft-ms", "100", "--gap-ms", "20", "--tokens", "400", "--log", str(log)) as url:
        yield SimulatedUpstream(url, log)


@pytest.fixture(scope="session")
def canned_upstream() -> Iterator[CannedUpstream]:
    """Run the fake provider that the page knows as LM Studio, and as Groq, for which users can enter keys."""
    with CannedUpstream() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def scripted_upstream() -> Iterator[ScriptedUpstream]:
    """Run the fake provider that the page knows as Together."""
    with ScriptedUpstream() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def even_upstream() -> Iterator[str]:
    """Run a simulator with even chunks at an even pace for `page_weight.PROVIDER`; yield its base URL."""
    with page_weight.run_upstream() as address:
        yield address


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder whose runs the page shows, empty at first."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def feedback_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the service keeps ratings."""
    return tmp_path_factory.mktemp("feedback")


@pytest.fixture(scope="session")
def service_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that gets everything the service logs."""
    return tmp_path_factory.mktemp("service") / "stderr.log"


@pytest.fixture(scope="session")
def service(
    service_log: Path,
    upstream: SimulatedUpstream,
    canned_upstream: CannedUpstream,
    scripted_upstream: ScriptedUpstream,
    even_upstream: str,
    runs_folder: Path,
    feedback_folder: Path,
) -> Iterator[ServiceUnderTest]:
    # Tests send requests more often than users do; the guard's rate limit is tested separately.
    variables = {
        "RATE_LIMIT": "off",
        "PAGE_GRACE_S": "20",
        "RUNS_DIR": str(runs_folder),
        "FEEDBACK_DIR": str(feedback_folder),
        "VLLM_BASE_URL": f"{upstream.url}/v1",
        "LMSTUDIO_BASE_URL": canned_upstream.url,
        "GROQ_BASE_URL": canned_upstream.url,
        "TOGETHER_BASE_URL": scripted_upstream.url,
        "TOGETHER_API_KEY": "any",
        page_weight.VARIABLE: even_upstream,
        # Nothing listens on this port: Ollama is unreachable, and so is every service at its own address.
        "OLLAMA_HOST": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    with run_service(service_log, variables) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Launch Chromium. From then on, no other event loop can run in this thread: Playwright's own keeps running."""
    headless = map(shutil.which, HEADLESS_NAMES)
    path = next(filter(None, headless), None) or find_chromium()
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        except Error as error:
            pytest.fail(f"no Chromium to test with: install the package chromium ({error.message})", pytrace=False)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def profile(browser: Browser) -> Iterator[BrowserContext]:
    """Open one browser profile for all tests, whose cache speeds up later pages. Gradio stores nothing in it."""
    profile = browser.new_context()
    yield profile
    profile.close()


@pytest.fixture
def context(profile: BrowserContext) -> Iterator[BrowserContext]:
    """Yield the profile, and leave no page open and no permission granted in it."""
    yield profile
    for page in profile.pages:
        page.close()
    profile.clear_permissions()


@contextmanager
def watched_chat(context: BrowserContext, address: str, width: int, height: int) -> Iterator[ChatPage]:
    """Open a fresh page, yield it, and check afterwards what it did.

    It sent no request to another origin, raised no script error, and received no error response.

    Requests that the page's content security policy blocks in the browser do not count.
    """
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": height})
    requests: list[Request] = []
    broken: list[str] = []
    answered: list[Response] = []
    page.on("response", lambda response: answered.append(response))
    page.on("request", lambda sent: requests.append(sent))
    page.on("pageerror", lambda error: broken.append(str(error)))
    yield ChatPage(page).open(address)
    page.close()
    own = (f"{address}/", "data:", "blob:")
    assert any(sent.url.startswith(own[0]) for sent in requests), "the recorder of requests works"
    assert [sent.url for sent in requests if not sent.url.startswith(own) and sent.failure != "csp"] == []
    assert broken == []
    # Gradio sends the page's rejection of an empty or long message as status 422.
    # Images come from a model's answer, which may name any URL.
    unfit = (422, f"{address}/gradio_api/queue/join")
    own_use = [
        (entry.status, entry.url.partition("?")[0]) for entry in answered if entry.request.resource_type != "image"
    ]
    assert [entry for entry in own_use if entry[0] >= 400 and entry != unfit] == []


@pytest.fixture(params=[(1280, 860)], ids=["desktop"])
def chat(request: pytest.FixtureRequest, context: BrowserContext, service: ServiceUnderTest) -> Iterator[ChatPage]:
    """Open a page for one test; see `watched_chat`."""
    with watched_chat(context, service.address, *request.param) as chat:
        yield chat

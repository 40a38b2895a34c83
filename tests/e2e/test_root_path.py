"""The page below a path, behind a proxy that removes it, in a real browser."""

from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Response, expect

from tests.e2e.chat_page import ChatPage
from tests.e2e.conftest import SimulatedUpstream
from tests.e2e.service import run_service
from tests.path_proxy import run_path_proxy

PATH = "/tools/gauge"


def test_page_below_path_answers_and_stops_without_leaving_the_path(
    browser: Browser, upstream: SimulatedUpstream, tmp_path: Path
) -> None:
    variables = {"ROOT_PATH": PATH, "RATE_LIMIT": "off", "VLLM_BASE_URL": f"{upstream.url}/v1"}
    with (
        run_service(tmp_path / "stderr.log", variables) as service,
        run_path_proxy(urlsplit(service.address).port or 0, PATH) as proxy,
    ):
        page = browser.new_page()
        responses: list[Response] = []
        page.on("response", lambda response: responses.append(response))
        chat = ChatPage(page).open(f"{proxy.url}/")
        chat.choose("vLLM")
        chat.set_model("fault-no-response")
        chat.ask("Hello?")
        chat.stop.click()
        assert chat.wait_for_end() == "Stopped"
        chat.set_model("")
        chat.choose("Simulated: steady")
        chat.ask("Hello?")
        chat.wait_for_text()
        chat.wait_for_end()
        assert len(chat.answers) == 1 and chat.answers[0]
        page.close()
    assert {urlsplit(response.url).path.startswith(f"{PATH}/") for response in responses} == {True}
    assert [response.url for response in responses if response.status >= 400] == []
    assert set(proxy.outside) <= {"/favicon.ico"}, "which the browser requests by itself"


def test_page_below_a_path_that_the_service_was_not_told_of_says_so(browser: Browser, tmp_path: Path) -> None:
    with (
        run_service(tmp_path / "stderr.log", {}) as service,
        run_path_proxy(urlsplit(service.address).port or 0, PATH) as proxy,
    ):
        page = browser.new_page()
        page.goto(f"{proxy.url}/")
        expect(page.locator("#sg-stage")).to_contain_text(f"ROOT_PATH={PATH}")
        page.goto(service.address)
        expect(page.locator("#sg-stage")).to_contain_text("Ready")
        page.close()

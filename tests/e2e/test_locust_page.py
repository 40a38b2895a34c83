"""Locust's own page in a real browser: charts of the running test, whose answers come from two workers."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.simulator_process import run_simulator_process

ROOT = Path(__file__).parents[2]
TIMEOUT_MS = 60_000


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def locust_page(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Start a test with two workers and its page; yield the page's address and the folder of the answers."""
    port, master = find_free_port(), find_free_port()
    with run_simulator_process("--ttft-ms", "50", "--gap-ms", "5", "--tokens", "8") as url:
        command = [sys.executable, "-m", "locust", "-f", "locustfiles/openai_user.py", "-H", url, "-u", "4", "-r", "4"]
        command += ["--autostart", "--web-host", "127.0.0.1", "--web-port", str(port), "--processes", "2"]
        command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", str(master), "--master-port", str(master)]
        command += ["--slo", "ttft_p95<30s", "--loglevel", "ERROR", "--out", str(tmp_path / "load")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            try:
                yield f"http://127.0.0.1:{port}/", tmp_path / "load"
            finally:
                process.terminate()
                process.wait(60)


def test_page_draws_ttft_tokens_and_goodput_of_both_workers(
    locust_page: tuple[str, Path], context: BrowserContext
) -> None:
    address, folder = locust_page
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    for _ in range(200):
        try:
            page.goto(address)
            break
        except Exception:
            page.wait_for_timeout(100)
    charts = page.locator("#streaming-charts")
    expect(charts.locator("h3")).to_have_text(
        ["TTFT (ms)", "Output tokens/s", "Goodput (answers/s)"], timeout=TIMEOUT_MS
    )
    expect(charts).to_contain_text(re.compile(r"within the SLO [1-9]"), timeout=TIMEOUT_MS)
    expect(charts).to_contain_text("SLO: ttft_p95<30s")
    page.reload()  # a page that was opened before the test had started still shows its form
    expect(page.get_by_role("tab", name="Statistics")).to_be_visible()
    expect(charts).to_contain_text(re.compile(r"within the SLO [1-9]"), timeout=TIMEOUT_MS)
    assert charts.locator("svg path[stroke='#3b82f6']").first.get_attribute("d")
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()[1:-1]]
    assert {line["worker"] for line in lines} == {0, 1} and faults == []

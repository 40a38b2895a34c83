"""`--transport browser`: what Chromium painted of an answer, on the every-event page and on a page of somebody else."""

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evaluation import tables
from evaluation.cli.commands import main
from evaluation.schema import TRIALS_FILE, Trial, read_events, read_trials
from streaming.clock import monotonic

ROOT = Path(__file__).parents[2]
FOREIGN_PAGE = """<!doctype html><title>Somebody's chat</title>
<div id="log"></div><textarea></textarea><button id="send">Send</button>
<script>
  document.getElementById("send").onclick = () => {
    const answer = document.createElement("div");
    answer.className = "reply";
    document.getElementById("log").append(answer);
    const stop = document.createElement("button");
    stop.id = "stop";
    stop.textContent = "Stop";
    document.body.append(stop);
    let words = 0;
    const timer = setInterval(() => {
      answer.innerHTML += `<b>word${++words}</b> `;
      if (words === 200) end();
    }, 30);
    const end = () => { clearInterval(timer); stop.remove(); };
    stop.onclick = end;
  };
</script>"""


class ForeignPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = FOREIGN_PAGE.encode()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def foreign_page() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), ForeignPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


pytestmark = pytest.mark.timeout(400)  # each run starts a service and a browser

STRATEGIES = ("direct", "whole")
PLAIN = "browser:columns=2:cpu=2"
TRANSPORTS = ("in-process", "sse", PLAIN)
WAIT_TIMEOUT_S = 180.0


def run_command(out: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "evaluation", "run", "--out", str(out), "--prompt-count", "1", "--repeats", "1"]
    return [*command, "--max-tokens", "24", "--no-warm-up", "--no-plots", *options]


def run_cli(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(run_command(out, *options), cwd=ROOT, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class PaintedRun:
    """A finished run; `instrument` has an entry for each time that it was started."""

    folder: Path
    trials: list[Trial]
    events: pd.DataFrame
    instrument: list[dict[str, Any]]

    def select(self, transport: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.transport == transport]

    def times_by_character(self, trial: Trial, end: str) -> list[float]:
        own = self.events["trial_id"].eq(trial.trial_id) & self.events["kind"].eq(f"{end}_text")
        texts = self.events[own]
        pairs = zip(texts[f"{end}_s"], texts["chars"], strict=True)
        return [float(at_s) for at_s, count in pairs for _ in range(int(count))]


def kill_after_trials(command: list[str], folder: Path, count: int) -> None:
    """Start a run and kill it when so many trials are on disk."""
    pause, trials, until_s = threading.Event(), folder / TRIALS_FILE, monotonic() + WAIT_TIMEOUT_S
    log = folder.with_name("stderr.txt")
    with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as process:
        while not trials.exists() or len(trials.read_bytes().splitlines()) < count:
            assert process.poll() is None and monotonic() < until_s, log.read_text(encoding="utf-8")[-500:]
            pause.wait(0.05)
        process.kill()


@pytest.fixture(scope="module")
def painted_run(tmp_path_factory: pytest.TempPathFactory) -> PaintedRun:
    """Run two strategies in process, over SSE and in a browser; the run is killed once and goes on."""
    folder = tmp_path_factory.mktemp("painted") / "run"
    command = run_command(folder, "--providers", "sim:steady", "--strategies", ",".join(STRATEGIES))
    command += ["--transport", ",".join(TRANSPORTS)]
    kill_after_trials(command, folder, 2)
    done = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = tables.load(folder)
    assert run.manifest["complete"]
    return PaintedRun(folder, read_trials(folder), run.events, run.manifest["instrument"])


def test_killed_run_in_a_browser_goes_on_where_it_was_stopped(painted_run: PaintedRun) -> None:
    cells = Counter((trial.transport, trial.strategy) for trial in painted_run.trials)
    assert cells == Counter({(transport, strategy): 1 for transport in TRANSPORTS for strategy in STRATEGIES})
    assert {trial.outcome for trial in painted_run.trials} == {"completed"}
    assert len(painted_run.instrument) == 2


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_text_is_painted_after_its_delivery_and_delivered_after_its_arrival(
    painted_run: PaintedRun, transport: str
) -> None:
    for trial in painted_run.select(transport):
        source, delivered, painted = (
            painted_run.times_by_character(trial, end) for end in ("source", "delivered", "painted")
        )
        assert len(source) == len(delivered) > 50
        assert all(a <= b for a, b in zip(source, delivered, strict=True))
        assert trial.delay_mean_s == pytest.approx(sum(delivered) / len(source) - sum(source) / len(source), abs=1e-6)
        if transport == PLAIN:
            assert len(painted) == len(delivered)
            assert all(a <= b for a, b in zip(delivered, painted, strict=True))
        else:
            assert not painted


def test_figures_of_a_page_are_those_of_what_it_painted(painted_run: PaintedRun) -> None:
    for trial in painted_run.select(PLAIN):
        assert trial.total_delay_mean_s == pytest.approx(trial.delay_mean_s + trial.paint_delay_mean_s, abs=1e-6)
        assert trial.stamp_source == "service" and trial.frames_presented >= trial.painted_frames >= 1
        assert 0 < trial.main_thread_busy <= 1 and trial.page_bytes > 500
        assert trial.strategy != "whole" or trial.painted_frames == 1


def test_report_shows_painting_its_error_and_which_arrivals_are_known(painted_run: PaintedRun) -> None:
    report = (painted_run.folder / "report.md").read_text()
    assert "## On the screen" in report
    assert all(f"error of the painted times at {rate} frames/s" in report for rate in (60, 30))
    assert "arrival from the provider over browser:columns=2:cpu=2, sse: as the pipeline" in report


def test_link_of_the_chat_names_provider_strategy_and_limit(tmp_path: Path) -> None:
    """The run opens the product's own page by such a link, and reads what its chat draws."""
    done = run_cli(
        tmp_path / "run", "--providers", "sim:bursty", "--strategies", "whole", "--transport", "browser:chat"
    )
    assert done.returncode == 0, done.stderr
    (trial,) = read_trials(tmp_path / "run")
    assert (trial.outcome, trial.stamp_source, trial.output_tokens) == ("completed", "service", 24)
    assert (trial.delivered_chunks, trial.chunks > 1) == (1, True) and trial.paint_delay_mean_s > 0
    assert trial.total_delay_mean_s > trial.delay_mean_s > 0


def test_answer_on_any_page_is_read_and_stopped(tmp_path: Path, foreign_page: str) -> None:
    selectors = ("--page-box", "textarea", "--page-send", "#send", "--page-answer", ".reply", "--page-stop", "#stop")
    options = ("--providers", "sim:steady", "--transport", "browser:custom", "--page-url", foreign_page)
    done = run_cli(tmp_path / "run", *options, *selectors, "--stop-after", "1")
    assert done.returncode == 0, done.stderr
    (trial,) = read_trials(tmp_path / "run")
    assert trial.stamp_source == "browser" and trial.painted_frames > 3 and trial.stop_painted_s > 0
    assert trial.key_delay_s > 0 and trial.delay_mean_s is None and trial.total_delay_mean_s is None
    chars = sum(row.chars or 0 for row in read_events(tmp_path / "run") if row.kind == "painted_text")
    assert 30 < chars < 200 * len("word100 ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--transport", "browser", "--concurrency", "2"), "a browser reads one answer at a time"),
        (("--transport", "browser:custom"), "--page-url"),
        (("--transport", "sse", "--stop-after", "1"), "stop-after: not used"),
        (("--transport", "browser:columns=2", "--providers", "openai:m"), "use local or sim"),
        (("--transport", "browser", "--page-box", "textarea"), "add --page-url"),
    ],
)
def test_options_that_do_not_fit_a_browser_are_told(
    options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--dry-run", "--providers", "sim:steady", *options]) == 2
    assert words in capsys.readouterr().err


def test_machine_without_chromium_is_told_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evaluation", "run", "--out", str(tmp_path / "run"), "--providers", "sim:steady"]
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "--transport", "browser"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "Chromium" in line and "install" in line

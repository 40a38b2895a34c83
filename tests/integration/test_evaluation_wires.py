"""Runs over the service's transports: agreement with the upstream's log, outcomes, and the end of the service."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import evaluation
from evaluation import manifest, schema
from evaluation.__main__ import main
from evaluation.schema import Trial
from simulator.server import read_log
from streaming.escaping import to_markdown
from tests.service_process import run_service_process
from tests.simulator_process import run_simulator_process

ROOT = Path(__file__).parents[2]
WAIT_TIMEOUT_S = 200.0
TOKENS = 16
WIRES = ("sse", "websocket", "openai")
TOLERANCE_S = 0.0005
"""The tolerance for the order of two processes' timestamps, in seconds; both read the same clock."""


@dataclass(frozen=True)
class TransportRun:
    """A run over all transports, and the upstream's log of it by request id."""

    folder: Path
    said: dict[str, Any]
    sent_s: dict[str, dict[int, float]]

    def trials(self, **expected: str) -> list[Trial]:
        result = schema.read_trials(self.folder)
        return [trial for trial in result if all(getattr(trial, name) == value for name, value in expected.items())]


def child_pids() -> set[str]:
    """Return the running child processes of this process."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split())


@pytest.fixture(scope="module")
def transport_run(tmp_path_factory: pytest.TempPathFactory) -> TransportRun:
    """Run over a service started for the run, with a failing upstream and a prompt that the guard rejects."""
    place = tmp_path_factory.mktemp("wires")
    log, folder, prompts = place / "log.jsonl", place / "run", place / "prompts.jsonl"
    requests = [{"id": "usual", "prompt": "Why?"}, {"id": "long", "prompt": "why " * 8200}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in requests), encoding="utf-8")
    words = "run --providers openai:m,openai:fault-cut --strategies direct --transport in-process,sse,websocket,openai"
    words += " --repeats 2 --price openai:m=10/100 --max-failures 100%"
    more = ("--prompts", str(prompts), "--out", str(folder))
    before = child_pids()
    options = ("--tokens", str(TOKENS), "--ttft-ms", "50", "--gap-ms", "20", "--log", str(log))
    with run_simulator_process(*options) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        patch.setenv("OPENAI_API_KEY", "none")
        during = child_pids() - before
        assert main([*words.split(), *more, "--record", "--no-plots"]) == 0
        assert child_pids() - before == during, "the run's service has ended with it"
    sent_s: dict[str, dict[int, float]] = defaultdict(dict)
    for line in read_log(str(log)):
        if "seq" in line:
            result: Any = line
            sent_s[result["request_id"]][result["seq"]] = result["at_s"]
    return TransportRun(folder, manifest.read(folder), sent_s)


def test_run_records_every_cell_once_with_its_transport(transport_run: TransportRun) -> None:
    cells = Counter((t.model, t.transport, t.prompt_id, t.repeat) for t in transport_run.trials())
    assert len(cells) == 2 * 4 * 2 * 2 and set(cells.values()) == {1}
    assert transport_run.said["scenario"]["transport"] == ["in-process", *WIRES]
    assert {f"openai:m over {wire}" for wire in WIRES} < transport_run.said["warm_up"].keys()
    (sitting,) = transport_run.said["instrument"]
    stamped = {f"openai:{model} over {wire}" for model in ("m", "fault-cut") for wire in ("sse", "openai")}
    assert set(sitting["stamped_sockets"]) == stamped | {"openai:m", "openai:fault-cut"}, (
        "a WebSocket's are its client's"
    )
    assert (transport_run.folder / "service.log").read_text(encoding="utf-8").startswith("{")


@pytest.mark.parametrize("wire", WIRES)
def test_service_transport_delivers_all_tokens_never_before_upstream_sent_them(
    transport_run: TransportRun, wire: str
) -> None:
    trials = {t.trial_id: t for t in transport_run.trials(transport=wire, model="m", prompt_id="usual")}
    texts: dict[str, list[float]] = defaultdict(list)
    for row in schema.read_events(transport_run.folder):
        if row.trial_id in trials and row.kind == "delivered_text" and row.delivered_s is not None:
            texts[row.trial_id].append(row.delivered_s)
    assert len(texts) == len(trials) == 2
    for trial_id, at_s in texts.items():
        trial, true_s = trials[trial_id], [at for _, at in sorted(transport_run.sent_s[trial_id].items())]
        assert trial.sent_monotonic_s is not None and trial.ttft_s is not None
        assert trial.ttft_s == at_s[0] and trial.ttft_s >= 0.05 - TOLERANCE_S
        assert len(at_s) == trial.chunks and 1 < len(at_s) <= len(true_s) == TOKENS, "reads may be joined on the way"
        assert trial.sent_monotonic_s + at_s[0] >= true_s[0] - TOLERANCE_S
        assert trial.sent_monotonic_s + at_s[-1] >= true_s[-1] - TOLERANCE_S


@pytest.mark.parametrize("wire", WIRES)
def test_service_transport_reports_outcome_and_usage(transport_run: TransportRun, wire: str) -> None:
    for trial in transport_run.trials(transport=wire, model="m", prompt_id="usual"):
        assert (trial.outcome, trial.finish_reason, trial.attempts) == ("completed", "stop", 1)
        assert (trial.output_tokens, trial.token_source) == (TOKENS, "reported")
        (here, _) = transport_run.trials(transport="in-process", model="m", prompt_id="usual")
        assert trial.cost_usd == here.cost_usd is not None and trial.price_source == here.price_source == "user"
        assert trial.peer_address == "127.0.0.1"
        assert trial.stamp_source == ("callback" if wire == "websocket" else "kernel")
        assert trial.connect_s is not None and trial.connect_s > 0 and trial.loop_lag_max_s is not None
        assert trial.delay_mean_s is not None and trial.delivered_e2e_s == trial.e2e_s


@pytest.mark.parametrize("wire", WIRES)
def test_recording_service_says_when_text_arrived_from_the_provider(transport_run: TransportRun, wire: str) -> None:
    """Arrival lies between sending upstream and the delivery to the client; the other metrics are the client's."""
    for trial in transport_run.trials(transport=wire, model="m", prompt_id="usual"):
        assert trial.sent_monotonic_s is not None and trial.delay_mean_s is not None and trial.delay_mean_s >= 0
        rows = [row for row in schema.read_events(transport_run.folder) if row.trial_id == trial.trial_id]
        source = [row.source_s for row in rows if row.kind == "source_text" for _ in range(row.chars or 0)]
        delivered = [row.delivered_s for row in rows if row.kind == "delivered_text" for _ in range(row.chars or 0)]
        assert len(source) == len(delivered) > TOKENS
        assert all(a is not None and b is not None and a <= b for a, b in zip(source, delivered, strict=True))
        first_s = min(transport_run.sent_s[trial.trial_id].values()) - trial.sent_monotonic_s
        assert source[0] is not None and source[0] >= first_s - TOLERANCE_S
        assert trial.ttft_s == delivered[0], "what the client saw"


@pytest.mark.parametrize("wire", WIRES)
def test_truncated_upstream_gives_truncated_trial_over_every_transport(transport_run: TransportRun, wire: str) -> None:
    for trial in transport_run.trials(transport=wire, model="fault-cut", prompt_id="usual"):
        (here, _) = transport_run.trials(transport="in-process", model="fault-cut", prompt_id="usual")
        assert (trial.outcome, trial.error_type) == (here.outcome, here.error_type) == ("truncated", "truncated")
        assert trial.error_message == here.error_message
        assert trial.e2e_s is None and trial.ttft_s is not None


def test_guard_rejection_gives_failed_trial_with_status(transport_run: TransportRun) -> None:
    for wire in WIRES:
        refused = transport_run.trials(transport=wire, prompt_id="long")
        assert len(refused) == 4
        for trial in refused:
            assert (trial.outcome, trial.error_type) == ("failed", "invalid")
            assert trial.http_status == (None if wire == "websocket" else 400), "a frame has no status"
            assert "32,000" in (trial.error_message or "") and trial.ttft_s is None and trial.cost_usd is None
    assert {t.outcome for t in transport_run.trials(transport="in-process", prompt_id="long")} == {
        "completed",
        "truncated",
    }


def test_report_pairs_transports_and_every_recorded_answer_has_a_trace(transport_run: TransportRun) -> None:
    text = (transport_run.folder / "report.md").read_text(encoding="utf-8")
    for wire in WIRES:
        assert re.search(rf"\n\| {wire} \| openai:m \| [12] \|", text)
    traces = {path.stem for path in (transport_run.folder / "traces").iterdir()}
    refused = {trial.trial_id for trial in transport_run.trials(prompt_id="long") if trial.transport != "in-process"}
    assert traces == {trial.trial_id for trial in transport_run.trials()} - refused
    assert "arrival from the provider over openai, sse, websocket: as the pipeline of the service saw it" in text


def test_service_url_run_sends_api_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "run --providers sim:steady --transport sse,websocket,openai --prompt-count 1 --repeats 1 --max-tokens 4"
    with run_service_process(API_KEYS=f"ann=sha256:{sha256(b'sesame-open').hexdigest()}") as url:
        closed, opened = tmp_path / "closed", tmp_path / "opened"
        main([*words.split(), "--no-warm-up", "--no-plots", "--url", url, "--out", str(closed)])
        monkeypatch.setenv("STREAMGAUGE_KEY", "sesame-open")
        assert main([*words.split(), "--no-warm-up", "--no-plots", "--url", f"{url}/", "--out", str(opened)]) == 0
    assert set(evaluation.load(opened).trials["outcome"]) == {"completed"}
    refused = evaluation.load(closed).trials
    assert set(refused["outcome"]) == {"failed"} and set(refused["error_type"]) == {"unauthorized"}
    assert "sesame-open" not in (opened / "manifest.json").read_text(encoding="utf-8")
    assert f"the service at {to_markdown(url)}" in (opened / "report.md").read_text(encoding="utf-8")
    assert not (opened / "service.log").exists()


def test_unreachable_service_url_gives_network_failure_over_every_transport(tmp_path: Path) -> None:
    words = "run --providers sim:steady --transport sse,websocket,openai --url http://127.0.0.1:9 --prompt-count 1"
    assert main([*words.split(), "--repeats", "1", "--no-plots", "--out", str(tmp_path / "run")]) == 1
    for trial in schema.read_trials(tmp_path / "run"):
        assert (trial.outcome, trial.error_type, trial.sent_monotonic_s) == ("failed", "network", None)


def test_service_start_failure_reports_its_last_stderr_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMGAUGE_MODEL", str(tmp_path / "missing.gguf"))
    words = "run --providers sim:steady --transport sse --no-plots --out"
    assert main([*words.split(), str(tmp_path / "run")]) == 2
    output = capsys.readouterr().err
    assert (
        "app.py --port: did not start (error: " in output and "missing.gguf" in output and len(output.splitlines()) == 1
    )


@contextlib.asynccontextmanager
async def start_long_run(folder: Path) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """Start a run that takes minutes in its own process group, and wait until some trials are on disk."""
    words = "run --providers sim:steady --transport in-process,sse,websocket --max-tokens 8 --repeats 200 --no-plots"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "evaluation", *words.split(), "--prompt-count", "1", "--out", str(folder)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        path = folder / schema.TRIALS_FILE
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            while not path.exists() or path.read_bytes().count(b"\n") < 4:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def child_processes(pid: int) -> list[Path]:
    """Return the /proc folders of the processes that a run has started."""
    result = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [Path("/proc", child) for child in result]


async def wait_until_ended(result: list[Path]) -> None:
    """Wait until these processes have ended or are zombies."""
    async with asyncio.timeout(WAIT_TIMEOUT_S):
        while any(path.exists() and ") Z " not in (path / "stat").read_text() for path in result):  # noqa: ASYNC110 - others end
            await asyncio.sleep(0.05)


def test_signal_ends_service_process_and_run_can_resume(tmp_path: Path) -> None:
    async def stop_run(number: signal.Signals) -> int:
        async with start_long_run(tmp_path / number.name) as process:
            result = child_processes(process.pid)
            assert len(result) == 1
            if number is signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal does on Ctrl-C
            else:
                process.kill()
            await asyncio.wait_for(process.communicate(), WAIT_TIMEOUT_S)
            await wait_until_ended(result)
            return process.returncode or 0

    assert asyncio.run(stop_run(signal.SIGINT)) == 130
    if sys.platform == "linux":
        assert asyncio.run(stop_run(signal.SIGKILL)) == -signal.SIGKILL, "the kernel ends it where the run cannot"
    for name in ("SIGINT", "SIGKILL"):
        if (tmp_path / name).exists():
            kept = schema.read_trials(tmp_path / name)
            assert len(kept) >= 4 and {trial.outcome for trial in kept} == {"completed"}


def test_resumed_run_over_transports_repeats_no_trial(tmp_path: Path) -> None:
    words = "run --providers sim:steady --transport in-process,sse,openai --prompt-count 1 --repeats 2 --max-tokens 4"
    arguments = [*words.split(), "--no-plots", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    lines = (tmp_path / "run" / schema.TRIALS_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "run" / schema.TRIALS_FILE).write_text("".join(lines[:3]), encoding="utf-8")
    facts = manifest.read(tmp_path / "run")
    manifest.write(tmp_path / "run", facts | {"complete": False})
    assert main([*arguments, "--resume"]) == 0
    trials = schema.read_trials(tmp_path / "run")
    cells = Counter((t.transport, t.repeat) for t in trials)
    assert len(cells) == 6 and set(cells.values()) == {1}
    assert {t.transport for t in trials if t.delay_mean_s is not None} == {"in-process"}, "nothing was recorded"
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "arrival from the provider over openai, sse: not known" in text

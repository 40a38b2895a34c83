"""Runs over the service's wires: true to the upstream's log, told how each answer ended, ended with their service."""

import asyncio
import contextlib
import json
import os
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
from evaluation import manifest, record
from evaluation.__main__ import main
from evaluation.record import Trial
from simulator.server import read_log
from tests.service_process import service_process
from tests.simulator_process import simulator_process

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
TOKENS = 16
WIRES = ("sse", "websocket", "openai")
EARLY_S = 0.0005
"""By so much may two processes' moments be out of order: they are stamped with one clock, one after the other."""


@dataclass(frozen=True)
class Finished:
    """A run over all transports, and the upstream's log of it by request id."""

    folder: Path
    said: dict[str, Any]
    sent_s: dict[str, dict[int, float]]

    def trials(self, **wanted: str) -> list[Trial]:
        found = record.read_trials(self.folder)
        return [trial for trial in found if all(getattr(trial, name) == value for name, value in wanted.items())]


def children() -> set[str]:
    """Give the processes that this one has started and that live."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A service of the run's own, two upstreams of which one breaks, and a question that the guard refuses."""
    place = tmp_path_factory.mktemp("wires")
    log, folder, prompts = place / "log.jsonl", place / "run", place / "prompts.jsonl"
    asked = [{"id": "usual", "prompt": "Why?"}, {"id": "long", "prompt": "why " * 1200}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")
    words = "run --providers openai:m,openai:fault-cut --strategies direct --transport in-process,sse,websocket,openai"
    more = ("--prompts", str(prompts), "--repeats", "2", "--price", "openai:m=10/100", "--out", str(folder))
    before = children()
    options = ("--tokens", str(TOKENS), "--ttft-ms", "50", "--gap-ms", "20", "--log", str(log))
    with simulator_process(*options) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        patch.setenv("OPENAI_API_KEY", "none")
        during = children() - before
        assert main([*words.split(), *more, "--record", "--no-plots"]) == 0
        assert children() - before == during, "the run's service has ended with it"
    sent_s: dict[str, dict[int, float]] = defaultdict(dict)
    for line in read_log(str(log)):
        if "seq" in line:
            found: Any = line
            sent_s[found["request_id"]][found["seq"]] = found["at_s"]
    return Finished(folder, manifest.read(folder), sent_s)


def test_every_cell_is_there_once_and_says_over_which_transport(finished: Finished) -> None:
    cells = Counter((t.model, t.transport, t.prompt_id, t.repeat) for t in finished.trials())
    assert len(cells) == 2 * 4 * 2 * 2 and set(cells.values()) == {1}
    assert finished.said["scenario"]["transport"] == ["in-process", *WIRES]
    assert {f"openai:m over {wire}" for wire in WIRES} < finished.said["warm_up"].keys()
    (sitting,) = finished.said["instrument"]
    stamped = {f"openai:{model} over {wire}" for model in ("m", "fault-cut") for wire in ("sse", "openai")}
    assert set(sitting["stamped_sockets"]) == stamped | {"openai:m", "openai:fault-cut"}, (
        "a WebSocket's are its client's"
    )
    assert (finished.folder / "service.log").read_text(encoding="utf-8").startswith("{")


@pytest.mark.parametrize("wire", WIRES)
def test_no_token_arrives_before_the_upstream_sent_it_and_all_do(finished: Finished, wire: str) -> None:
    trials = {t.trial_id: t for t in finished.trials(transport=wire, model="m", prompt_id="usual")}
    texts: dict[str, list[float]] = defaultdict(list)
    for row in record.read_events(finished.folder):
        if row.trial_id in trials and row.kind == "delivered_text" and row.delivered_s is not None:
            texts[row.trial_id].append(row.delivered_s)
    assert len(texts) == len(trials) == 2
    for trial_id, at_s in texts.items():
        trial, true_s = trials[trial_id], [at for _, at in sorted(finished.sent_s[trial_id].items())]
        assert trial.sent_monotonic_s is not None and trial.ttft_s is not None
        assert trial.ttft_s == at_s[0] and trial.ttft_s >= 0.05 - EARLY_S
        assert len(at_s) == trial.chunks and 1 < len(at_s) <= len(true_s) == TOKENS, "reads may be joined on the way"
        assert trial.sent_monotonic_s + at_s[0] >= true_s[0] - EARLY_S
        assert trial.sent_monotonic_s + at_s[-1] >= true_s[-1] - EARLY_S


@pytest.mark.parametrize("wire", WIRES)
def test_a_wire_tells_how_the_answer_ended_and_what_it_used(finished: Finished, wire: str) -> None:
    for trial in finished.trials(transport=wire, model="m", prompt_id="usual"):
        assert (trial.outcome, trial.finish_reason, trial.attempts) == ("completed", "stop", 1)
        assert (trial.output_tokens, trial.token_source) == (TOKENS, "reported")
        (here, _) = finished.trials(transport="in-process", model="m", prompt_id="usual")
        assert trial.cost_usd == here.cost_usd is not None and trial.price_source == here.price_source == "user"
        assert trial.stamp_source == ("callback" if wire == "websocket" else "kernel")
        assert trial.connect_s is not None and trial.connect_s > 0 and trial.loop_lag_max_s is not None
        assert trial.delay_mean_s is None and trial.delivered_e2e_s == trial.e2e_s


@pytest.mark.parametrize("wire", WIRES)
def test_an_upstream_that_is_cut_gives_a_truncated_row_over_every_wire(finished: Finished, wire: str) -> None:
    for trial in finished.trials(transport=wire, model="fault-cut", prompt_id="usual"):
        (here, _) = finished.trials(transport="in-process", model="fault-cut", prompt_id="usual")
        assert (trial.outcome, trial.error_type) == (here.outcome, here.error_type) == ("truncated", "truncated")
        assert trial.error_message == here.error_message
        assert trial.e2e_s is None and trial.ttft_s is not None


def test_what_the_guard_refuses_is_a_failed_row_with_its_status(finished: Finished) -> None:
    for wire in WIRES:
        refused = finished.trials(transport=wire, prompt_id="long")
        assert len(refused) == 4
        for trial in refused:
            assert (trial.outcome, trial.error_type) == ("failed", "invalid")
            assert trial.http_status == (None if wire == "websocket" else 400), "a frame has no status"
            assert "4,000" in (trial.error_message or "") and trial.ttft_s is None and trial.cost_usd is None
    assert {t.outcome for t in finished.trials(transport="in-process", prompt_id="long")} == {"completed", "truncated"}


def test_the_report_pairs_the_wires_and_only_a_source_is_recorded(finished: Finished) -> None:
    text = (finished.folder / "report.md").read_text(encoding="utf-8")
    for wire in WIRES:
        assert f"\n| {wire} | 2 |" in text
    traces = {path.stem for path in (finished.folder / "traces").iterdir()}
    assert traces == {trial.trial_id for trial in finished.trials(transport="in-process")}


def test_a_service_at_an_address_is_asked_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "run --providers sim:steady --transport sse,websocket,openai --prompt-count 1 --repeats 1 --max-tokens 4"
    with service_process(API_KEYS=f"ann=sha256:{sha256(b'sesame-open').hexdigest()}") as url:
        closed, opened = tmp_path / "closed", tmp_path / "opened"
        main([*words.split(), "--no-warm-up", "--no-plots", "--url", url, "--out", str(closed)])
        monkeypatch.setenv("STREAMGAUGE_KEY", "sesame-open")
        assert main([*words.split(), "--no-warm-up", "--no-plots", "--url", f"{url}/", "--out", str(opened)]) == 0
    assert set(evaluation.load(opened).trials["outcome"]) == {"completed"}
    refused = evaluation.load(closed).trials
    assert set(refused["outcome"]) == {"failed"} and set(refused["error_type"]) == {"unauthorized"}
    assert "sesame-open" not in (opened / "manifest.json").read_text(encoding="utf-8")
    assert f"the service at {url}" in (opened / "report.md").read_text(encoding="utf-8")
    assert not (opened / "service.log").exists()


def test_nobody_at_the_address_is_a_failure_over_every_wire(tmp_path: Path) -> None:
    words = "run --providers sim:steady --transport sse,websocket,openai --url http://127.0.0.1:9 --prompt-count 1"
    assert main([*words.split(), "--repeats", "1", "--no-plots", "--out", str(tmp_path / "run")]) == 1
    for trial in record.read_trials(tmp_path / "run"):
        assert (trial.outcome, trial.error_type, trial.sent_monotonic_s) == ("failed", "network", None)


def test_a_service_that_does_not_start_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMGAUGE_MODEL", str(tmp_path / "missing.gguf"))
    words = "run --providers sim:steady --transport sse --no-plots --out"
    assert main([*words.split(), str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "app.py --port did not start: error: " in said and "missing.gguf" in said and len(said.splitlines()) == 1


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """Start a run that takes minutes, in a group of its own as a terminal would; some trials are on disk."""
    words = "run --providers sim:steady --transport in-process,sse,websocket --max-tokens 8 --repeats 200 --no-plots"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "evaluation", *words.split(), "--prompt-count", "1", "--out", str(folder)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        path = folder / record.TRIALS
        async with asyncio.timeout(WAIT_S):
            while not path.exists() or path.read_bytes().count(b"\n") < 4:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def services(pid: int) -> list[Path]:
    """Give the processes that a run has started, as places that are there while they live."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [Path("/proc", child) for child in found]


async def gone(found: list[Path]) -> None:
    """Wait until these have ended, or nobody has asked yet how."""
    async with asyncio.timeout(WAIT_S):
        while any(path.exists() and ") Z " not in (path / "stat").read_text() for path in found):  # noqa: ASYNC110 - others end
            await asyncio.sleep(0.05)


def test_a_stop_ends_the_service_and_the_run_goes_on_later(tmp_path: Path) -> None:
    async def stop(number: signal.Signals) -> int:
        async with running(tmp_path / number.name) as process:
            found = services(process.pid)
            assert len(found) == 1
            if number is signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal does on Ctrl-C
            else:
                process.kill()
            await asyncio.wait_for(process.communicate(), WAIT_S)
            await gone(found)
            return process.returncode or 0

    assert asyncio.run(stop(signal.SIGINT)) == 130
    if sys.platform == "linux":
        assert asyncio.run(stop(signal.SIGKILL)) == -signal.SIGKILL, "the kernel ends it where the run cannot"
    for name in ("SIGINT", "SIGKILL"):
        if (tmp_path / name).exists():
            kept = record.read_trials(tmp_path / name)
            assert len(kept) >= 4 and {trial.outcome for trial in kept} == {"completed"}


def test_a_run_over_wires_is_resumed_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    words = "run --providers sim:steady --transport in-process,sse,openai --prompt-count 1 --repeats 2 --max-tokens 4"
    arguments = [*words.split(), "--no-plots", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    lines = (tmp_path / "run" / record.TRIALS).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "run" / record.TRIALS).write_text("".join(lines[:3]), encoding="utf-8")
    facts = manifest.read(tmp_path / "run")
    manifest.write(tmp_path / "run", facts | {"complete": False})
    assert main([*arguments, "--resume"]) == 0
    cells = Counter((t.transport, t.repeat) for t in record.read_trials(tmp_path / "run"))
    assert len(cells) == 6 and set(cells.values()) == {1}

"""Runs against vendors' services: timed by the kernel, true to the server's own log, judged as the pipeline judges."""

import asyncio
import json
import os
import socket
from collections import defaultdict
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from evaluation import manifest, schema
from evaluation.__main__ import main
from evaluation.backends.base import RunResources, TimedResponse
from evaluation.backends.in_process import InProcessBackend
from evaluation.backends.registry import RunBackends
from evaluation.prompts.prompt_file import Prompt
from evaluation.reports.markdown import markdown, write_report
from evaluation.runner.runner import run
from evaluation.runner.trial import TrialContext, TrialSender, prepare, trial_request, trial_rows
from evaluation.scenario import PlannedTrial, Scenario
from evaluation.schema import Trial
from providers import ProviderRegistry
from settings import Settings
from simulator.certificate import make_self_signed
from simulator.server import read_log
from streaming import trace
from streaming.clock import monotonic
from streaming.events import TextDelta
from streaming.retry import RetryPolicy
from tests.arrival_times import assert_arrived_after_sends, assert_arrived_between_sends
from tests.simulator_process import run_simulator_process

TOKENS, TTFT_S, GAP_S = 20, 0.1, 0.02
OPTIONS = ("--tokens", str(TOKENS), "--ttft-ms", "100", "--gap-ms", "20")
TOLERANCE_S = 0.05
"""A timestamp is late by about 0.02 ms; the machines that run the tests are busy."""
FAULTS = (
    "429", "503", "redirect", "reset-before-headers", "empty-200", "html-200", "cut", "reset-mid-stream",
    "truncated", "error-in-stream", "malformed-json", "bad-utf8",
)  # fmt: skip


def environment(url: str) -> dict[str, str]:
    keys = {name: "none" for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AZURE_OPENAI_API_KEY", "GROQ_API_KEY")}
    addresses = {"OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url, "OLLAMA_HOST": url}
    return keys | addresses | {"AZURE_OPENAI_ENDPOINT": url, "OPENAI_API_VERSION": "2024-10-21"}


def unused_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


@dataclass(frozen=True)
class VendorRun:
    """A run, the server's log of it by request id, and how this process was scheduled before and after."""

    folder: Path
    code: int
    sent_s: dict[str, dict[int, float]]
    scheduled: tuple[int, int]

    def trials(self) -> list[Trial]:
        return schema.read_trials(self.folder)


@pytest.fixture(scope="module")
def vendor_run(tmp_path_factory: pytest.TempPathFactory) -> VendorRun:
    """Run 48 trials against four services, 16 at a time, and a service that rejects requests."""
    place = tmp_path_factory.mktemp("wire")
    log, folder = place / "log.jsonl", place / "run"
    names = "openai:m,anthropic:m,ollama:m,azure:m,openai:fault-503"
    words = f"run --providers {names} --strategies direct,batch:100ms --prompt-count 1 --repeats 6 --concurrency 16"
    more = ("--price", "openai:m=10/100", "--price", "ollama:m=0/0", "--record", "--no-plots", "--out", str(folder))
    before = os.sched_getscheduler(0)
    with run_simulator_process(*OPTIONS, "--log", str(log)) as url, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(url).items():
            patch.setenv(name, value)
        code = main([*words.split(), *more])
    sent_s: dict[str, dict[int, float]] = defaultdict(dict)
    for line in read_log(str(log)):
        if "seq" in line:
            result: Any = line
            sent_s[result["request_id"]][result["seq"]] = result["at_s"]
    return VendorRun(folder, code, sent_s, (before, os.sched_getscheduler(0)))


def test_ttft_matches_server_log(vendor_run: VendorRun) -> None:
    completed = [trial for trial in vendor_run.trials() if trial.outcome == "completed"]
    assert vendor_run.code == 1, "all trials of openai:fault-503 fail"
    assert len(completed) == 48
    for trial in completed:
        assert trial.sent_monotonic_s is not None and trial.ttft_s is not None
        true_s = vendor_run.sent_s[trial.trial_id][0]
        assert_arrived_after_sends([trial.sent_monotonic_s + trial.ttft_s], [true_s])
        assert trial.ttft_s >= TTFT_S - 0.001, "not before the server could have sent it"


def test_chunk_arrivals_match_server_log(vendor_run: VendorRun) -> None:
    texts: dict[str, list[float]] = defaultdict(list)
    for row in schema.read_events(vendor_run.folder):
        if row.kind == "source_text" and row.source_s is not None:
            texts[row.trial_id].append(row.source_s)
    trials = {trial.trial_id: trial for trial in vendor_run.trials()}
    for trial_id, since_sent_s in texts.items():
        sent_at_s = trials[trial_id].sent_monotonic_s
        assert sent_at_s is not None
        at_s = [sent_at_s + source_s for source_s in since_sent_s]
        true_s = [moment for _, moment in sorted(vendor_run.sent_s[trial_id].items())]
        assert len(at_s) == TOKENS
        if trials[trial_id].merged_reads:
            assert_arrived_after_sends(at_s, true_s)
        else:
            assert_arrived_between_sends(at_s, true_s)
    assert len(texts) == 48


def test_trial_records_timestamp_source_and_queue_and_connect_times(vendor_run: VendorRun) -> None:
    for trial in vendor_run.trials():
        assert trial.stamp_source == "kernel" and trial.attempts == 1
        assert trial.merged_reads is not None and trial.disturbed == (trial.merged_reads > 0)
        assert trial.connect_s is not None and trial.connect_s > 0
        assert trial.queue_s is not None and trial.queue_s >= 0
        assert trial.loop_lag_max_s is not None
        assert trial.sent_monotonic_s is not None and trial.intended_start_s is not None
        if trial.ttft_s is not None:
            before_s = trial.sent_monotonic_s - trial.intended_start_s
            assert trial.ttft_total_s == pytest.approx(before_s + trial.ttft_s)
            assert before_s == pytest.approx(trial.queue_s + trial.connect_s)
            assert trial.headers_s is not None and 0 < trial.headers_s <= trial.ttft_s


def test_replayed_strategy_delivers_as_in_live_run(vendor_run: VendorRun) -> None:
    completed = [trial for trial in vendor_run.trials() if trial.outcome == "completed"]
    for trial in completed:
        assert trial.delay_max_s is not None and trial.delivered_ttft_s == trial.ttfot_s
        assert trial.delay_max_s == 0 if trial.strategy == "direct" else 0 < trial.delay_max_s <= 0.1 + 1e-6
        assert trial.delivered_chunks is not None and trial.chunks == TOKENS
        assert (trial.delivered_chunks == TOKENS) == (trial.strategy == "direct")


def test_failing_service_gives_trials_without_times(vendor_run: VendorRun) -> None:
    failed = [trial for trial in vendor_run.trials() if trial.model == "fault-503"]
    assert len(failed) == 12
    for trial in failed:
        assert (trial.outcome, trial.error_type, trial.http_status) == ("failed", "server_error", 503)
        times = (trial.ttft_s, trial.ttft_total_s, trial.headers_s, trial.e2e_s)
        assert times == (None,) * 4 and trial.cost_usd is None


def test_cost_uses_reported_tokens_and_given_price(vendor_run: VendorRun) -> None:
    for trial in vendor_run.trials():
        if trial.outcome != "completed":
            continue
        assert trial.token_source == "reported" and trial.input_tokens is not None and trial.output_tokens is not None
        if trial.provider == "openai":
            usd = (Decimal(10) * trial.input_tokens + Decimal(100) * trial.output_tokens) / 1_000_000
            assert trial.cost_usd == usd and trial.price_source is not None
        elif trial.provider == "ollama":
            assert trial.cost_usd == 0
        else:
            assert trial.cost_usd is None, "nobody knows what a model called m costs"


def test_manifest_records_instrument_and_restores_priority(vendor_run: VendorRun) -> None:
    facts = manifest.read(vendor_run.folder)
    (sitting,) = facts["instrument"]
    assert len(sitting["stamped_sockets"]) == 5
    assert facts["real_time_priority"] is sitting["real_time_priority"]
    assert facts["warm_up"]["openai:m"] == ["completed"]
    assert facts["warm_up"]["openai:fault-503"][0].startswith("failed: ")
    before, after = vendor_run.scheduled
    assert after == before, "the priority is given back"


def test_recorded_run_writes_a_trace_for_every_stream(vendor_run: VendorRun) -> None:
    for trial in vendor_run.trials():
        kept = trace.loads((vendor_run.folder / "traces" / f"{trial.trial_id}.jsonl").read_text())
        texts = [timed.at_s for timed in kept.events if isinstance(timed.event, TextDelta)]
        assert len(texts) == trial.chunks
        if trial.ttft_s is not None:
            assert texts[0] == pytest.approx(trial.ttft_s, abs=1e-6)


@pytest.mark.parametrize("tls", [False, True])
def test_open_loop_run_uses_kernel_timestamps(
    tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, log, options = tmp_path / "run", str(tmp_path / "log.jsonl"), list[str]()
    if tls:
        certificate, key = make_self_signed(tmp_path)
        options = ["--tls-cert", certificate, "--tls-key", key]
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
    words = "run --providers openai:m,ollama:m --prompt-count 1 --repeats 8 --rate 40 --arrivals poisson --no-plots"
    with run_simulator_process(*OPTIONS, *options, "--log", log) as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        assert main([*words.split(), "--out", str(folder)]) == 0
    first_s = {str(line["request_id"]): float(str(line["at_s"])) for line in read_log(log) if line.get("seq") == 0}
    trials = schema.read_trials(folder)
    assert len(trials) == 16 and {trial.outcome for trial in trials} == {"completed"}
    for trial in trials:
        assert trial.stamp_source == "kernel" and trial.sent_monotonic_s is not None and trial.ttft_s is not None
        assert_arrived_after_sends([trial.sent_monotonic_s + trial.ttft_s], [first_s[trial.trial_id]])
        assert trial.intended_start_s is not None and trial.sent_monotonic_s >= trial.intended_start_s
        assert trial.connect_s is not None and trial.connect_s > 0
    (load,) = manifest.read(folder)["loads"]
    assert load["asked_rate_per_s"] == 40 and load["cpu_s_per_1000_chunks"] > 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["completed"] == 16


def plan_trial(provider: str) -> PlannedTrial:
    return PlannedTrial(1, 1, 1, Prompt("p", "Why?"), provider, "batch:50ms")


async def ask_both_ways(providers: ProviderRegistry, *names: str) -> list[tuple[TimedResponse, TimedResponse]]:
    """Request an answer of each over timestamped sockets and in process."""
    scenario = Scenario(names, ("batch:50ms",), (plan_trial("").prompt,), warm_up=0)
    async with aclosing(RunBackends(RunResources(providers, monotonic))) as backends:
        sender = TrialSender(backends.send, monotonic, RetryPolicy(max_retries=0))
        bench = TrialContext("run", scenario, providers, monotonic, backends, sender)
        result = await prepare(bench, map(plan_trial, names))
        assert result["stamped_sockets"] == list(names) and result["measured_otherwise"] == {}
        over_wire = [await backends.send(trial_request(bench, plan_trial(name))) for name in names]
    async with aclosing(RunResources(providers, monotonic)) as resources:
        backend = InProcessBackend(resources)
        calls = [trial_request(bench, plan_trial(name)) for name in names]
        return [(answer, await backend.send(call)) for call, answer in zip(calls, over_wire, strict=True)]


def without_ids(ending: dict[str, Any]) -> dict[str, Any]:
    """Return the ending without the quoted error body, which contains an id."""
    message = (ending.get("error_message") or "").partition("{")[0]
    return ending | {"error_message": message, "upstream_request_id": None}


def test_failed_answer_has_same_outcome_over_both_backends() -> None:
    names = [f"{provider}:fault-{fault}" for fault in FAULTS for provider in ("openai", "anthropic", "ollama")]
    names += ["openai:m", "groq:m"]

    async def ask_all(url: str) -> list[tuple[TimedResponse, TimedResponse]]:
        providers = ProviderRegistry(Settings(environment(url) | {"GROQ_BASE_URL": unused_address()}))
        try:
            return await ask_both_ways(providers, *names)
        finally:
            await providers.aclose()

    with run_simulator_process(*("--tokens", "8", "--ttft-ms", "5", "--gap-ms", "2")) as url:
        result = asyncio.run(ask_all(url))
    for name, (wire, live) in zip(names, result, strict=True):
        assert (wire.outcome, wire.usage) == (live.outcome, live.usage), name
        assert without_ids(wire.ending) == without_ids(live.ending), name
        for mine, other in ((wire.stamps.source, live.stamps.source), (wire.stamps.delivered, live.stamps.delivered)):
            assert text_and_ending(mine) == text_and_ending(other), name
    assert {wire.outcome for wire, _ in result} == {"completed", "failed", "truncated"}


def text_and_ending(events: Any) -> tuple[str, str]:
    """Return the text and the terminal event."""
    text = "".join(timed.event.text for timed in events if isinstance(timed.event, TextDelta))
    return text, type(events[-1].event).__name__


def test_unsent_request_has_no_send_time() -> None:
    async def ask() -> Trial:
        providers = ProviderRegistry(Settings({"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": unused_address()}))
        scenario = Scenario(("openai:m",), ("direct",), (plan_trial("").prompt,))
        try:
            ((requests, _),) = await ask_both_ways(providers, "openai:m")
        finally:
            await providers.aclose()
        async with aclosing(RunBackends(RunResources(providers, monotonic))) as backends:
            sender = TrialSender(backends.send, monotonic, RetryPolicy(max_retries=0))
            bench = TrialContext("run", scenario, providers, monotonic, backends, sender)
            trial, _ = await trial_rows(bench, plan_trial("openai:m"), requests, intended_s=monotonic())
            return trial

    trial = asyncio.run(ask())
    assert trial.outcome == "failed" and trial.error_message and trial.intended_start_s is not None
    assert (trial.sent_monotonic_s, trial.queue_s, trial.connect_s, trial.stamp_source) == (None,) * 4


@pytest.mark.parametrize(
    ("providers", "retries"), [(("sim:steady",), 1), (("sim:steady",), 0), (("openai:m", "sim:steady"), 0)]
)
def test_in_process_trial_records_in_process_timestamp_source(
    tmp_path: Path, providers: tuple[str, ...], retries: int
) -> None:
    async def ask(url: str) -> None:
        access = ProviderRegistry(Settings(environment(url)))
        prompts = (Prompt("p", "Why?"),)
        try:
            await run(Scenario(providers, ("direct",), prompts, retries=retries, max_tokens=4), access, tmp_path)
        finally:
            await access.aclose()

    with run_simulator_process(*("--tokens", "4", "--ttft-ms", "5", "--gap-ms", "2")) as url:
        asyncio.run(ask(url))
    facts = json.loads((tmp_path / manifest.MANIFEST_FILE).read_text())
    assert facts["real_time_priority"] is False, "whoever answers in this process needs the processor too"
    reasons = {"sim:steady": "the simulated provider runs in this process"}
    assert [entry["measured_otherwise"] for entry in facts["instrument"]] == [reasons]
    report = markdown(write_report(tmp_path)[0])
    output = [line for line in report.splitlines() if "timed in the pipeline of this process" in line]
    assert [all(words in line for words in pair) for pair, line in zip(reasons.items(), output, strict=True)] == [True]
    for trial in schema.read_trials(tmp_path):
        over_wire = trial.provider == "openai"
        assert trial.outcome == "completed" and trial.stamp_source == ("kernel" if over_wire else "in-process")

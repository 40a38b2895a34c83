"""Providers that limit their streams, and providers that fail: what becomes of a run, over real sockets."""

import asyncio
import json
from collections import defaultdict
from pathlib import Path

import pytest

from evaluation import schema
from evaluation.__main__ import main
from evaluation.prompts.prompt_file import Prompt
from evaluation.runner.runner import RunSummary, run
from evaluation.scenario import Scenario
from providers import ProviderRegistry
from settings import Settings
from simulator.server import read_log
from tests.arrival_times import assert_arrived_after_sends
from tests.simulator_process import run_simulator_process

TRIALS = 24


def test_limit_of_streams_below_the_concurrency_loses_no_trial(tmp_path: Path) -> None:
    log = tmp_path / "truth.jsonl"
    prompts = tuple(Prompt(f"p{number}", f"Question {number}?") for number in range(TRIALS))
    scenario = Scenario(("openai:m",), ("direct",), prompts, concurrency=4, warm_up=0)

    async def ask(url: str) -> RunSummary:
        settings = Settings({"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"{url}/v1"})
        providers = ProviderRegistry(settings)
        try:
            return await run(scenario, providers, tmp_path / "run")
        finally:
            await providers.aclose()

    (tmp_path / "run").mkdir()
    options = ("--max-streams", "3", "--ttft-ms", "300", "--gap-ms", "10", "--tokens", "30", "--log", str(log))
    with run_simulator_process(*options) as url:
        summary = asyncio.run(ask(url))
    trials = schema.read_trials(tmp_path / "run")
    assert summary.outcomes == {"completed": TRIALS} and summary.ended_providers == {}
    assert sum(trial.refused_starts for trial in trials) >= 1, "the limit was reached"
    waited = [trial for trial in trials if trial.refused_starts]
    assert all(trial.refused_wait_s >= trial.refused_starts for trial in waited), "each wait is the second it named"
    assert all(trial.attempts == 1 + trial.refused_starts and trial.queue_s >= 0 for trial in trials)
    truth = true_times_s(log)
    for trial in trials:
        received_s, sent_s = truth[trial.trial_id]
        assert trial.sent_monotonic_s is not None and len(received_s) == trial.attempts
        assert [at_s for at_s in received_s if at_s < trial.sent_monotonic_s] == received_s[:-1], "the last is timed"
        assert_arrived_after_sends([trial.sent_monotonic_s + trial.ttft_s], [sent_s])
    assert all(trial.ttft_total_s >= trial.ttft_s + trial.refused_wait_s for trial in trials)


def true_times_s(log: Path) -> dict[str, tuple[list[float], float]]:
    """Return for each trial when its attempts were received, and when the first token was sent."""
    received: dict[str, list[float]] = defaultdict(list)
    result: dict[str, tuple[list[float], float]] = {}
    for line in read_log(str(log)):
        name, at_s = str(line["request_id"]), float(str(line["at_s"]))
        if line["event"] == "received":
            received[name].append(at_s)
        elif line["event"] == "sent" and line.get("seq") == 0:
            result[name] = received[name], at_s
    return result


def test_provider_that_fails_too_often_ends_in_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "run --providers sim:steady,sim:cut --prompt-count 2 --max-tokens 40 --no-warm-up --no-plots"
    assert main([*words.split(), "--out", str(tmp_path / "run")]) == 1
    out, errors = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["failing_providers"] == ["sim:cut"]
    assert "sim:cut: 2 of 2 trials failed, more than --max-failures 50%" in errors
    assert main([*words.split(), "--max-failures", "100%", "--out", str(tmp_path / "more")]) == 0

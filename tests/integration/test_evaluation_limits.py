"""Providers that limit their streams, and providers that fail: what becomes of a run, over real sockets."""

import asyncio
import json
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
    assert all(trial.attempts == 1 + trial.refused_starts and trial.queue_s < 0.5 for trial in trials)
    truth = true_ttfts_s(log)
    errors_s = [abs(trial.ttft_s - truth[trial.trial_id]) for trial in trials]
    assert sorted(errors_s)[len(errors_s) // 2] < 0.005, "TTFT is of the attempt that answered"
    assert all(trial.ttft_total_s >= trial.ttft_s + trial.refused_wait_s for trial in trials)


def true_ttfts_s(log: Path) -> dict[str, float]:
    """Return the seconds from receiving a request to sending its first token, for the last attempt of each trial."""
    received: dict[str, float] = {}
    result: dict[str, float] = {}
    for line in read_log(str(log)):
        name, at_s = str(line["request_id"]), float(str(line["at_s"]))
        if line["event"] == "received":
            received[name] = at_s
            result.pop(name, None)
        elif line["event"] == "sent" and line.get("seq") == 0 and name not in result:
            result[name] = at_s - received[name]
    return result


def test_provider_that_fails_too_often_ends_in_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "run --providers sim:steady,sim:cut --prompt-count 2 --max-tokens 40 --no-warm-up --no-plots"
    assert main([*words.split(), "--out", str(tmp_path / "run")]) == 1
    out, errors = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["failing_providers"] == ["sim:cut"]
    assert "sim:cut: 2 of 2 trials failed, more than --max-failures 50%" in errors
    assert main([*words.split(), "--max-failures", "100%", "--out", str(tmp_path / "more")]) == 0

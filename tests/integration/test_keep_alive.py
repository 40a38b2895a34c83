"""Runs whose timestamped connections stay open between requests, over real sockets."""

import asyncio
from pathlib import Path
from typing import Literal

from evaluation import schema
from evaluation.prompts.prompt_file import Prompt
from evaluation.runner.runner import run
from evaluation.scenario import Scenario
from evaluation.schema import Trial
from providers import ProviderRegistry
from settings import Settings
from tests.simulator_process import run_simulator_process

PROMPTS = tuple(Prompt(f"p{number}", f"Question {number}?") for number in range(6))
OPTIONS = ("--ttft-ms", "30", "--gap-ms", "2", "--tokens", "5")


def measure(folder: Path, url: str, connection: Literal["new", "keep-alive"]) -> list[Trial]:
    async def ask() -> None:
        providers = ProviderRegistry(Settings({"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"{url}/v1"}))
        scenario = Scenario(("openai:m",), ("direct",), PROMPTS, warm_up=0, connection=connection)
        try:
            await run(scenario, providers, folder)
        finally:
            await providers.aclose()

    folder.mkdir()
    asyncio.run(ask())
    return schema.read_trials(folder)


def test_kept_connection_is_opened_once_and_stays_exact(tmp_path: Path) -> None:
    with run_simulator_process(*OPTIONS) as url:
        new = measure(tmp_path / "new", url, "new")
        kept = measure(tmp_path / "kept", url, "keep-alive")
    for trials in (new, kept):
        assert [trial.outcome for trial in trials] == ["completed"] * len(PROMPTS)
        assert all(trial.stamp_source == trials[0].stamp_source and trial.chunks == 5 for trial in trials)
        assert {trial.peer_address for trial in trials} == {"127.0.0.1"}
        assert all(trial.ttft_s >= 0.03 - 0.001 for trial in trials), "not before the server could have sent it"
    assert all(trial.connect_s is not None for trial in new)
    assert [trial.connect_s is None for trial in kept] == [False] + [True] * (len(PROMPTS) - 1)

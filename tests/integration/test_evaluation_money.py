"""Cost control of the command line: dry runs, cost limits, resuming after a kill, and the report."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import evaluation
from evaluation import schema
from evaluation.__main__ import main
from evaluation.backends.browser.chromium import find_chromium
from evaluation.runner import budget

ROOT = Path(__file__).parents[2]
WAIT_TIMEOUT_S = 200.0
PRICE = ("--price", "sim:steady=10/100")


def parse_last_line(out: str) -> dict[str, Any]:
    data = json.loads(out.splitlines()[-1])
    assert isinstance(data, dict)
    return data


def run_arguments(folder: Path, *more: str, repeats: int = 12) -> list[str]:
    base = f"run --providers sim:steady --strategies direct --repeats {repeats} --prompt-count 1 --max-tokens 4"
    return [*base.split(), "--no-warm-up", "--no-plots", "--concurrency", "2", "--out", str(folder), *more]


@contextlib.asynccontextmanager
async def start_evaluation(*arguments: str) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "evaluation"),
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def kill_after_trials(folder: Path, count: int, *arguments: str) -> None:
    async with asyncio.timeout(WAIT_TIMEOUT_S), start_evaluation(*arguments) as process:
        while len(schema.read_trials(folder)) < count:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
        process.kill()
        await process.wait()


def test_dry_run_sends_no_request_and_creates_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*run_arguments(tmp_path / "run", *PRICE), "--dry-run"]) == 0
    out = capsys.readouterr().out
    output = parse_last_line(out)
    assert output["trials"] == 12 and "no requests were sent" in out and not (tmp_path / "run").exists()
    (share,) = output["providers"]
    assert share["at_most_output_tokens"] == 48 and Decimal(output["at_most_usd"]) > Decimal(share["usd"]) > 0


def test_dry_run_without_price_reports_unknown_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*run_arguments(tmp_path / "run"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert parse_last_line(out)["at_most_usd"] is None and "price unknown" in out


def test_max_cost_with_unknown_price_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(tmp_path / "run", "--max-cost", "1")) == 2
    assert "the price of sim:steady is unknown" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_run_reaching_max_cost_ends_early_and_reports_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(run_arguments(folder, *PRICE, "--max-cost", "0.005")) == 3
    out, errors = capsys.readouterr()
    output, trials = parse_last_line(out), evaluation.load(folder).trials
    assert (
        output["out_of_budget"] and 0 < output["trials"] < 12 and "stopped at the maximum cost of 0.005 USD" in errors
    )
    assert trials["cost_usd"].sum() <= 0.005 and budget.read_ledger_total(folder) <= Decimal("0.005")
    assert (
        "was ended at its maximum cost of 0.005 USD (what is spent is at most that and one answer"
        in (folder / "report.md").read_text()
    )


def test_resumed_run_after_kill_repeats_no_paid_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    expected = run_arguments(folder, *PRICE, "--max-cost", "1", "--record")
    asyncio.run(kill_after_trials(folder, 3, *expected))
    before = {trial.trial_id: trial.started_at for trial in schema.read_trials(folder)}
    charged_usd = budget.read_ledger_total(folder)
    assert main(expected) == 2 and "--resume continues it" in capsys.readouterr().err
    assert main([*run_arguments(folder, repeats=11), "--resume"]) == 2
    assert "another scenario: repeats 12, not 11" in capsys.readouterr().err
    assert main([*expected, "--resume"]) == 0
    output, run = parse_last_line(capsys.readouterr().out), evaluation.load(folder)
    after = {trial.trial_id: trial.started_at for trial in schema.read_trials(folder)}
    assert output["trials"] == 12 == len(after) and before.items() <= after.items()
    assert len(run.trials[["block", "strategy"]].drop_duplicates()) == 12 and run.manifest["complete"]
    assert len(list((folder / "traces").iterdir())) >= 12
    spent_usd = sum((trial.cost_usd or Decimal(0) for trial in schema.read_trials(folder)), Decimal(0))
    assert charged_usd < budget.read_ledger_total(folder) and budget.read_ledger_total(folder) >= spent_usd
    assert main([*expected, "--resume"]) == 2 and "nothing left to resume" in capsys.readouterr().err


def test_scenario_file_sets_open_loop_and_slo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.toml").write_text(
        'providers = ["sim:steady"]\nrate = 20\narrivals = "poisson"\nmax_tokens = 4\nrepeats = 4\nwarm_up = false\n'
        'plots = false\nslo = "ttft_max<10ms,failed<1%,ttft_max<60s"\n[[prompts]]\nid = "a"\nprompt = "A?"\n'
    )
    assert main(["run", "--scenario", str(tmp_path / "s.toml"), "--out", str(tmp_path / "run")]) == 1
    out, errors = capsys.readouterr()
    result = parse_last_line(out)["slo"]
    assert result["outcome"] == "missed" and "slo ttft_max<10ms: missed by " in errors and "1 of 3 met" in errors
    assert "slo failed<1%: too few to tell from 4 answers, 299 are needed" in errors
    assert "**Objectives: missed.**" in (tmp_path / "run" / "report.md").read_text()
    trials = evaluation.load(tmp_path / "run").trials
    assert (trials["queue_s"] >= 0).all() and (trials["ttft_total_s"] >= trials["ttft_s"]).all()
    assert "open loop, 20 starts/s, arrivals poisson" in (tmp_path / "run" / "report.md").read_text()


def test_html_report_in_browser_draws_every_chart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    arguments = [option for option in run_arguments(folder, *PRICE, repeats=2) if option != "--no-plots"]
    assert main(arguments) == 0
    assert {"report.html", "plots"} <= set(parse_last_line(capsys.readouterr().out)["files"])
    pictures = {path.stem for path in (folder / "plots").iterdir()}
    assert pictures == {"ttft", "progress", "gaps", "gaps-ecdf", "delay", "cost"}, "nothing stalled"
    dom = asyncio.run(render_in_browser(folder / "report.html", tmp_path / "profile"))
    for id_ in pictures:
        assert f'<section class="plot" id="{id_}"' in dom
    assert dom.count("<svg ") == 2 * len(pictures)


async def render_in_browser(path: Path, profile: Path) -> str:
    """Return the page's HTML after its scripts have run."""
    browser = find_chromium()
    assert browser, "the tests in a real browser need Chromium"
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    process = await asyncio.create_subprocess_exec(
        browser,
        *quiet.split(),
        *("--disable-component-update", "--disable-sync", "--virtual-time-budget=5000", "--dump-dom"),
        f"--user-data-dir={profile}",
        path.as_uri(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await asyncio.wait_for(process.communicate(), WAIT_TIMEOUT_S)
    return out.decode()

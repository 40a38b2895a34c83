"""The command line with other people's money and time: dry runs, ceilings, a kill and what comes after, the report."""

import asyncio
import contextlib
import json
import shutil
import sys
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import evaluation
from evaluation import record, spending
from evaluation.__main__ import main

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
PRICE = ("--price", "sim:steady=10/100")


def last_line(out: str) -> dict[str, Any]:
    found = json.loads(out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def options(folder: Path, *more: str, repeats: int = 12) -> list[str]:
    base = f"run --providers sim:steady --strategies direct --repeats {repeats} --prompt-count 1 --max-tokens 4"
    return [*base.split(), "--no-warm-up", "--no-plots", "--concurrency", "2", "--out", str(folder), *more]


@contextlib.asynccontextmanager
async def running(*arguments: str) -> AsyncGenerator[asyncio.subprocess.Process, None]:
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


async def killed_after(folder: Path, count: int, *arguments: str) -> None:
    async with asyncio.timeout(WAIT_S), running(*arguments) as process:
        while len(record.read_trials(folder)) < count:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
        process.kill()
        await process.wait()


def test_a_dry_run_asks_nobody_and_makes_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options(tmp_path / "run", *PRICE), "--dry-run"]) == 0
    out = capsys.readouterr().out
    said = last_line(out)
    assert said["trials"] == 12 and "nobody was asked" in out and not (tmp_path / "run").exists()
    (share,) = said["providers"]
    assert share["at_most_output_tokens"] == 48 and Decimal(said["at_most_usd"]) > Decimal(share["usd"]) > 0


def test_a_dry_run_says_that_a_price_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options(tmp_path / "run"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert last_line(out)["at_most_usd"] is None and "price unknown" in out


def test_a_ceiling_over_the_unknown_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options(tmp_path / "run", "--max-cost", "1")) == 2
    assert "unknown: sim:steady" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_run_ends_before_its_ceiling_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(options(folder, *PRICE, "--max-cost", "0.005")) == 3
    out, errors = capsys.readouterr()
    said, trials = last_line(out), evaluation.load(folder).trials
    assert said["out_of_budget"] and 0 < said["trials"] < 12 and "stopped before more than 0.005 USD" in errors
    assert trials["cost_usd"].sum() <= 0.005 and spending.spent_before(folder) <= Decimal("0.005")
    assert "was ended so that it cannot cost more than 0.005 USD" in (folder / "report.md").read_text()


def test_a_killed_run_goes_on_where_it_was_and_pays_for_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    wanted = options(folder, *PRICE, "--max-cost", "1", "--record")
    asyncio.run(killed_after(folder, 3, *wanted))
    before = {trial.trial_id: trial.started_at for trial in record.read_trials(folder)}
    charged_usd = spending.spent_before(folder)
    assert main(wanted) == 2 and "--resume goes on with it" in capsys.readouterr().err
    assert main([*options(folder, repeats=13), "--resume"]) == 2
    assert "another scenario: it has repeats 12, not 13" in capsys.readouterr().err
    assert main([*wanted, "--resume"]) == 0
    said, run = last_line(capsys.readouterr().out), evaluation.load(folder)
    after = {trial.trial_id: trial.started_at for trial in record.read_trials(folder)}
    assert said["trials"] == 12 == len(after) and before.items() <= after.items()
    assert len(run.trials[["block", "strategy"]].drop_duplicates()) == 12 and run.manifest["complete"]
    assert len(list((folder / "traces").iterdir())) >= 12
    spent_usd = sum((trial.cost_usd or Decimal(0) for trial in record.read_trials(folder)), Decimal(0))
    assert charged_usd < spending.spent_before(folder) and spending.spent_before(folder) >= spent_usd
    assert main([*wanted, "--resume"]) == 2 and "nothing left to resume" in capsys.readouterr().err


def test_an_open_loop_and_an_objective_from_a_scenario_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.toml").write_text(
        'providers = ["sim:steady"]\nrate = 20\narrivals = "poisson"\nmax_tokens = 4\nrepeats = 4\nwarm_up = false\n'
        'plots = false\nslo = "ttft_p95<10ms,failed<1%"\n[[prompts]]\nid = "a"\nprompt = "A?"\n'
    )
    assert main(["run", "--scenario", str(tmp_path / "s.toml"), "--out", str(tmp_path / "run")]) == 1
    out, errors = capsys.readouterr()
    assert not last_line(out)["slo"]["met"] and "slo ttft_p95<10ms: missed by " in errors and "1 of 2 met" in errors
    trials = evaluation.load(tmp_path / "run").trials
    assert trials["queue_s"].between(0, 0.2).all() and (trials["ttft_total_s"] >= trials["ttft_s"]).all()
    assert "open loop, 20 answers started a second, arrivals poisson" in (tmp_path / "run" / "report.md").read_text()


def test_a_browser_draws_every_plot_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    arguments = [option for option in options(folder, *PRICE, repeats=2) if option != "--no-plots"]
    assert main(arguments) == 0
    assert {"report.html", "plots"} <= set(last_line(capsys.readouterr().out)["files"])
    pictures = {path.stem for path in (folder / "plots").iterdir()}
    assert pictures == {"ttft", "progress", "gaps", "gaps-ecdf", "delay", "cost"}, "nothing stalled"
    dom = asyncio.run(drawn(folder / "report.html", tmp_path / "profile"))
    for id_ in pictures:
        assert f'<div id="{id_}"' in dom
    assert dom.count('class="plot-container') == len(pictures)


async def drawn(path: Path, profile: Path) -> str:
    """Give the page as a browser has it when its scripts have run."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next(filter(None, map(shutil.which, names)), None)
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
    out, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    return out.decode()

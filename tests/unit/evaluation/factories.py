"""Factories of small synthetic runs for the tests of tables, statistics and reports."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluation import manifest
from evaluation.prompts.prompt_file import Prompt
from evaluation.scenario import PlannedTrial, Scenario, plan
from evaluation.schema import EventRow, Journal, Trial

PROMPTS = (Prompt("one", "One?"), Prompt("two", "Two?"))


def make_trial(planned: PlannedTrial, **changes: Any) -> Trial:
    """Return a completed trial with only TTFT as a metric."""
    provider, _, model = planned.provider.partition(":")
    fields: dict[str, Any] = {
        "run_id": "run",
        "trial_id": f"run-{planned.number:05d}",
        "prompt_id": planned.prompt.id,
        "provider": provider,
        "model": model or None,
        "strategy": planned.strategy,
        "transport": "in-process",
        "repeat": planned.repeat,
        "block": planned.block,
        "outcome": "completed",
        "started_at": "2026-01-01T00:00:00.000+00:00",
        "ttft_s": 0.2,
    }
    return Trial(**(fields | changes))


def make_gap_events(planned: PlannedTrial, *gaps_s: float) -> list[EventRow]:
    """Return a source chunk at 0.2 s, and one after each gap."""
    rows, at_s = [], 0.2
    for seq, gap_s in enumerate((0.0, *gaps_s)):
        at_s += gap_s
        rows.append(EventRow("run", f"run-{planned.number:05d}", seq, "source_text", 4, None, round(at_s, 9), None))
    return rows


def make_scenario(providers: tuple[str, ...] = ("sim:a", "b:c"), **changes: Any) -> Scenario:
    fields: dict[str, Any] = {"strategies": ("direct",), "prompts": PROMPTS, "repeats": 4, "seed": 3}
    return Scenario(providers, **(fields | changes))


def write_run(folder: Path, expected: Scenario, rows: Iterable[tuple[Trial, list[EventRow]]], **facts: Any) -> None:
    """Write the journal and manifest of a finished run; `facts` override fields of the manifest."""
    with Journal(folder) as journal:
        for made, events in rows:
            journal.add(made, events)
    begun = manifest.new_manifest("run", expected, plan(expected))
    manifest.write(folder, begun | {"complete": True, "finished_at": begun["started_at"]} | facts)

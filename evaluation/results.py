"""What a command says of a run at its end: the table, the warnings, the verdicts, the facts of the last line."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import manifest
from evaluation.escaping import to_line
from evaluation.keep import TRACES
from evaluation.record import EVENTS, TRIALS
from evaluation.spending import LEDGER


def note(text: str) -> None:
    """Say something beside the results on stderr, in one line that a terminal only prints."""
    sys.stderr.write(f"{to_line(text)}\n")


def last_line(facts: Mapping[str, Any]) -> None:
    """Give a program what a command came to: the last line on stdout, one JSON object."""
    sys.stdout.write(json.dumps(facts) + "\n")


def show(folder: Path, *, plots: bool) -> dict[str, Any]:
    """Make tables and report, print the table, and give the facts of the last line.

    `failed` counts all that were not completed, `outcomes` tells them apart.
    """
    # pandas takes a second to import: a mistyped command is told at once, and a run begins at once.
    from evaluation import calibration_report, provenance, report, tables, terminal

    made = report.rebuild(folder, plots=plots)
    terminal.show(made)
    for line in reasons(made.trials):
        note(line)
    for warning in calibration_report.warnings(made.manifest, made.trials["stamp_source"].dropna().tolist()):
        note(f"warning: {warning}")
    if (words := provenance.disturbed(made)) is not None:
        note(f"warning: {words}")
    outcomes = {str(name): int(count) for name, count in made.trials["outcome"].value_counts().items()}
    completed = outcomes.get("completed", 0)
    names = (manifest.MANIFEST, TRIALS, EVENTS, LEDGER, TRACES, *tables.FILES, *report.FILES)
    return {
        "folder": str(folder),
        "run_id": made.manifest.get("run_id"),
        "trials": len(made.trials),
        "completed": completed,
        "failed": len(made.trials) - completed,
        "outcomes": outcomes,
        "files": [name for name in names if (folder / name).exists()],
    }


def reasons(trials: Any) -> list[str]:
    """Say why trials failed, each reason once, the most frequent first, at most five."""
    told = trials["error_message"].dropna()
    counts = [(int(count), str(text)) for text, count in told.value_counts().head(5).items()]
    return [f"failed: {text} ({count} of {len(trials)} trials)" for count, text in counts]


def tell(verdicts: Sequence[Any]) -> dict[str, Any]:
    """Say on stderr which objectives were missed, by how much, and give it for the last line."""
    missed = [str(verdict) for verdict in verdicts if not verdict.met]
    for line in missed:
        note(f"slo {line}")
    note(f"slo: {len(verdicts) - len(missed)} of {len(verdicts)} met")
    return {"slo": {"met": not missed, "checked": len(verdicts), "missed": missed}}

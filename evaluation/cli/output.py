"""What a command says of a run at its end: the table, the warnings, the verdicts, the facts of the last line."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import manifest
from evaluation.escaping import to_line
from evaluation.runner.budget import LEDGER_FILE
from evaluation.runner.writer import TRACES
from evaluation.schema import EVENTS_FILE, TRIALS_FILE


def print_note(text: str) -> None:
    """Say something beside the results on stderr, in one line that a terminal only prints."""
    sys.stderr.write(f"{to_line(text)}\n")


def print_json_line(facts: Mapping[str, Any]) -> None:
    """Give a program what a command came to: the last line on stdout, one JSON object."""
    sys.stdout.write(json.dumps(facts) + "\n")


def print_results(folder: Path, *, plots: bool) -> dict[str, Any]:
    """Make tables and report, print the table, and give the facts of the last line.

    `failed` counts all that were not completed, `outcomes` tells them apart.
    """
    # pandas takes a second to import: a mistyped command is told at once, and a run begins at once.
    from evaluation import tables
    from evaluation.reports import calibration, markdown, provenance, terminal

    made = markdown.write_report(folder, plots=plots)
    terminal.print_summary(made)
    for line in failure_reasons(made.trials):
        print_note(line)
    for warning in calibration.calibration_warnings(made.manifest, made.trials["stamp_source"].dropna().tolist()):
        print_note(f"warning: {warning}")
    if (words := provenance.disturbance_note(made)) is not None:
        print_note(f"warning: {words}")
    outcomes = {str(name): int(count) for name, count in made.trials["outcome"].value_counts().items()}
    completed = outcomes.get("completed", 0)
    names = (
        manifest.MANIFEST_FILE,
        TRIALS_FILE,
        EVENTS_FILE,
        LEDGER_FILE,
        TRACES,
        *tables.TABLE_FILES,
        *markdown.REPORT_FILES,
    )
    return {
        "folder": str(folder),
        "run_id": made.manifest.get("run_id"),
        "trials": len(made.trials),
        "completed": completed,
        "failed": len(made.trials) - completed,
        "outcomes": outcomes,
        "files": [name for name in names if (folder / name).exists()],
    }


def failure_reasons(trials: Any) -> list[str]:
    """Say why trials failed, each reason once, the most frequent first, at most five."""
    told = trials["error_message"].dropna()
    counts = [(int(count), str(text)) for text, count in told.value_counts().head(5).items()]
    return [f"failed: {text} ({count} of {len(trials)} trials)" for count, text in counts]


def print_verdicts(verdicts: Sequence[Any]) -> dict[str, Any]:
    """Say on stderr which objectives were missed, by how much, and give it for the last line."""
    missed = [str(verdict) for verdict in verdicts if not verdict.met]
    for line in missed:
        print_note(f"slo {line}")
    print_note(f"slo: {len(verdicts) - len(missed)} of {len(verdicts)} met")
    return {"slo": {"met": not missed, "checked": len(verdicts), "missed": missed}}

"""Output of a command at the end of a run: the summary table, warnings, verdicts, and the JSON on the last line."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import starmap
from numbers import Integral
from pathlib import Path
from typing import Any

from evaluation import manifest
from evaluation.escaping import to_line
from evaluation.runner.budget import LEDGER_FILE
from evaluation.runner.writer import TRACES
from evaluation.schema import EVENTS_FILE, TRIALS_FILE
from streaming.pipeline import explain_outcome


def print_note(text: str) -> None:
    """Print one line to stderr, with control characters escaped."""
    sys.stderr.write(f"{to_line(text)}\n")


def print_json_line(facts: Mapping[str, Any]) -> None:
    """Print the result of a command as one JSON object, the last line on stdout."""
    sys.stdout.write(json.dumps(facts) + "\n")


def print_results(folder: Path, *, plots: bool) -> dict[str, Any]:
    """Build the tables and the report, print the summary, and return the fields of the JSON line.

    `failed` counts all trials that were not completed; `outcomes` counts them by outcome.
    """
    # Importing pandas takes a second, which must not delay usage errors or the start of a run.
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
    """Return the five most frequent reasons for which trials were not completed, most frequent first.

    A reason is the error message, or for an answer that ended in order without a success what to do about it.
    """
    columns = trials[["outcome", "error_message", "finish_reason", "thinking_tokens"]]
    reasons = Counter(filter(None, starmap(_failure_reason, columns.itertuples(index=False, name=None))))
    return [f"{reason} ({count} of {len(trials)} trials)" for reason, count in reasons.most_common(5)]


def _failure_reason(outcome: str, message: Any, finish_reason: Any, thinking_tokens: Any) -> str | None:
    if isinstance(message, str):
        return f"failed: {message}"
    thinking = int(thinking_tokens) if isinstance(thinking_tokens, Integral) else None
    explanation = explain_outcome(outcome, finish_reason if isinstance(finish_reason, str) else None, thinking)
    return None if explanation is None else f"{outcome}: {explanation}"


def print_verdicts(verdicts: Sequence[Any]) -> dict[str, Any]:
    """Print the missed objectives to stderr and return the `slo` field of the JSON line."""
    missed = [str(verdict) for verdict in verdicts if not verdict.met]
    for line in missed:
        print_note(f"slo {line}")
    print_note(f"slo: {len(verdicts) - len(missed)} of {len(verdicts)} met")
    return {"slo": {"met": not missed, "checked": len(verdicts), "missed": missed}}

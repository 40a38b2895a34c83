"""Output of a command at the end of a run: the summary table, warnings, verdicts, and the JSON on the last line."""

import json
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import starmap
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation import manifest
from evaluation.journal_faults import find_journal_faults
from evaluation.runner.budget import LEDGER_FILE
from evaluation.runner.writer import TRACES
from evaluation.schema import EVENTS_FILE, TRIALS_FILE
from streaming.escaping import to_line
from streaming.garbage import without_garbage_collection
from streaming.pipeline import explain_outcome

if TYPE_CHECKING:
    from evaluation.tables import Run


def print_note(text: str) -> None:
    """Print one line to stderr, with control characters escaped."""
    sys.stderr.write(f"{to_line(text)}\n")


def print_line(text: str) -> None:
    """Print one line to stdout."""
    sys.stdout.write(f"{text}\n")


def print_json_line(facts: Mapping[str, Any]) -> None:
    """Print the result of a command as one JSON object, the last line on stdout; a terminal shows none.

    It is for programs: a person has the tables.
    """
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(facts) + "\n")


def print_results(folder: Path, *, plots: bool) -> tuple["Run", dict[str, Any]]:
    """Build the tables and the report, print the summary, and return the run and the fields of the JSON line.

    `failed` counts all trials that were not completed; `outcomes` counts them by outcome.
    """
    with without_garbage_collection():
        # Importing pandas takes a second, which must not delay usage errors or the start of a run.
        from evaluation import tables
        from evaluation.analysis.knee import find_knees
        from evaluation.reports import calibration, markdown, provenance, terminal, throughput
        from evaluation.server_metrics.readings import SERVER_FILE
        from evaluation.server_metrics.table import SERVER_TABLE

    made, findings = markdown.write_report(folder, plots=plots)
    terminal.print_summary(made, findings)
    for line in failure_reasons(made.trials):
        print_note(line)
    print_journal_faults(folder)
    for warning in calibration.calibration_warnings(made.manifest, made.trials["stamp_source"].dropna().tolist()):
        print_note(f"warning: {warning}")
    if (words := provenance.disturbance_note(made)) is not None:
        print_note(f"warning: {words}")
    outcomes = {str(name): int(n) for name, n in made.trials["outcome"].value_counts().items()}
    completed = outcomes.get("completed", 0)
    written = (manifest.MANIFEST_FILE, TRIALS_FILE, EVENTS_FILE, SERVER_FILE, LEDGER_FILE, TRACES)
    names = (*written, *tables.TABLE_FILES, SERVER_TABLE, throughput.LEVELS_FILE, *markdown.REPORT_FILES)
    return made, {
        "folder": str(folder),
        "run_id": made.manifest.get("run_id"),
        "trials": len(made.trials),
        "completed": completed,
        "failed": len(made.trials) - completed,
        "outcomes": outcomes,
        "load": [level.as_dict() for level in findings.levels],
        "knees": [knee.as_dict() for knee in find_knees(findings.levels)],
        "files": [name for name in names if (folder / name).exists()],
    }


def print_journal_faults(folder: Path) -> None:
    """Print a warning for everything that is missing or damaged in a run's folder."""
    for fault in find_journal_faults(folder):
        print_note(f"warning: {folder}: {fault}")


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
    return None if explanation is None else f"{outcome} {explanation}"


def print_verdicts(verdicts: Sequence[Any]) -> dict[str, Any]:
    """Print the objectives that are not met to stderr and return the `slo` field of the JSON line."""
    from evaluation.analysis import slo_checks

    by_outcome = {word: [str(one) for one in verdicts if one.outcome == word] for word in ("missed", "too few")}
    for line in [*by_outcome["missed"], *by_outcome["too few"]]:
        print_note(f"slo {line}")
    met = sum(verdict.met for verdict in verdicts)
    print_note(f"slo: {met} of {len(verdicts)} met")
    outcome = slo_checks.worst_outcome(verdicts)
    result = {"met": outcome == "met", "outcome": outcome, "checked": len(verdicts)}
    return {"slo": result | {"missed": by_outcome["missed"], "too_few": by_outcome["too few"]}}


def exit_code_of(outcomes: Collection[str]) -> int:
    """Return 1 if an outcome is `missed`, else 4 if one is `too few`, else 0."""
    from evaluation.analysis import slo_checks

    return next((slo_checks.EXIT_CODES[word] for word in ("missed", "too few") if word in outcomes), 0)

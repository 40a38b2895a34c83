"""Verdict on a load test: builds its tables and report, and checks them against the objectives."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluation.analysis import slo_checks
from evaluation.analysis.findings import Findings
from evaluation.analysis.knee import find_knees
from evaluation.analysis.slo import Objective
from evaluation.analysis.slo_checks import Verdict
from evaluation.calibration import model
from evaluation.load_test import import_answers
from evaluation.reports import markdown
from evaluation.reports.sweep import describe_knee
from evaluation.tables import Run

CALIBRATION_FILE = Path("out", "load-calibration.json")


@dataclass(frozen=True, slots=True)
class LoadTestVerdict:
    """A load test with its verdicts; without a completed answer its objectives are missed."""

    folder: Path
    run: Run
    findings: Findings
    verdicts: list[Verdict]

    @property
    def outcome(self) -> slo_checks.Outcome:
        """Whether the objectives are met, missed, or too few answers to tell."""
        return slo_checks.worst_outcome(self.verdicts) if self._has_completed else "missed"

    @property
    def holds_here(self) -> bool:
        """Whether the observed values are within the objectives, however few answers there are."""
        return self._has_completed and all(entry.holds_here for entry in self.verdicts)

    @property
    def _has_completed(self) -> bool:
        return bool((self.run.trials["outcome"] == "completed").any())

    @property
    def shortfall(self) -> str | None:
        """How the measured concurrency fell short of the number of users, in words; None if it did not."""
        shortfalls: Iterator[str | None] = (load["shortfall"] for load in self.run.manifest["loads"])
        return next(filter(None, shortfalls), None)

    @property
    def knees(self) -> list[str]:
        """The knee of each provider of a sweep, in sentences."""
        return [f"{describe_knee(knee)}." for knee in find_knees(self.findings.levels)]

    @property
    def evidence(self) -> tuple[str, ...]:
        """The verdict on each objective, and further reasons why the requested load was not reached, as sentences."""
        more = (None if self._has_completed else "no answer was completed", self.shortfall)
        return (*map(str, self.verdicts), *(words for words in more if words is not None))

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of the JSON line."""
        outcomes = {str(name): int(count) for name, count in self.run.trials["outcome"].value_counts().items()}
        load, levels = self.run.manifest["load"], self.findings.levels
        most = max(reached["concurrency_max"] for reached in self.run.manifest["loads"])
        missed = [str(verdict) for verdict in self.verdicts if verdict.outcome == "missed"]
        untold = [str(verdict) for verdict in self.verdicts if verdict.outcome == "too few"]
        return {
            "folder": str(self.folder),
            "run_id": self.run.manifest["run_id"],
            "users": load["users"],
            "concurrency_max": most,
            "shortfall": self.shortfall,
            "trials": len(self.run.trials),
            "completed": outcomes.get("completed", 0),
            "outcomes": outcomes,
            "unfinished": load["unfinished"],
            "load": [level.as_dict() for level in levels],
            "knees": [knee.as_dict() for knee in find_knees(levels)],
            "slo": {
                "met": not missed and not untold,
                "outcome": slo_checks.worst_outcome(self.verdicts),
                "checked": len(self.verdicts),
                "missed": missed,
                "too_few": untold,
            }
            if self.verdicts
            else None,
        }


def judge_load_test(
    folder: Path, objectives: Sequence[Objective], *, plots: bool = False, without_ramp: bool = False
) -> LoadTestVerdict:
    """Build the journal, tables and report of a load test and check its objectives.

    Answers that users cancelled on purpose have rows but are left out of the objectives. Raises UsageError when the
    folder holds no valid load test, OSError when a file cannot be written.
    """
    known = model.read_calibration(CALIBRATION_FILE if CALIBRATION_FILE.exists() else None)
    import_answers.write_journal(
        folder, without_ramp=without_ramp, instrument_error=known.as_dict() if known else None, objectives=objectives
    )
    run, findings = markdown.write_report(folder, plots=plots)
    uncancelled = run.trials[run.trials["outcome"] != "cancelled"]
    verdicts = slo_checks.check_objectives(replace(run, trials=uncancelled), tuple(objectives)) if objectives else []
    return LoadTestVerdict(folder, run, findings, verdicts)

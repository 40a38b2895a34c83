"""A load test's folder made into tables and a report, held to its objectives, and told in words and as facts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluation.analysis import slo
from evaluation.analysis.slo import Objective, Verdict
from evaluation.calibration import model
from evaluation.load_test import import_answers
from evaluation.reports import markdown
from evaluation.tables import Run

CALIBRATION_FILE = Path("out", "load-calibration.json")


@dataclass(frozen=True, slots=True)
class LoadTestVerdict:
    """A load test with its verdicts; met when there are answers, and each objective is met."""

    folder: Path
    run: Run
    verdicts: list[Verdict]

    @property
    def met(self) -> bool:
        return self._has_completed and all(found.met for found in self.verdicts)

    @property
    def _has_completed(self) -> bool:
        return bool((self.run.trials["outcome"] == "completed").any())

    @property
    def shortfall(self) -> str | None:
        """Say how fewer answers ran at once than users were asked for; None: they did not."""
        found: str | None = self.run.manifest["loads"][0]["shortfall"]
        return found

    @property
    def evidence(self) -> tuple[str, ...]:
        """Say what each objective came to, and what else speaks against the load having been what was asked for."""
        more = (None if self._has_completed else "no answer was completed", self.shortfall)
        return (*map(str, self.verdicts), *(words for words in more if words is not None))

    @property
    def facts(self) -> dict[str, Any]:
        """Give what the last line of a command says."""
        outcomes = {str(name): int(count) for name, count in self.run.trials["outcome"].value_counts().items()}
        load, reached = self.run.manifest["load"], self.run.manifest["loads"][0]
        missed = [str(found) for found in self.verdicts if not found.met]
        return {
            "folder": str(self.folder),
            "run_id": self.run.manifest["run_id"],
            "users": load["users"],
            "concurrency_max": reached["concurrency_max"],
            "shortfall": self.shortfall,
            "trials": len(self.run.trials),
            "completed": outcomes.get("completed", 0),
            "outcomes": outcomes,
            "unfinished": load["unfinished"],
            "slo": {"met": not missed, "checked": len(self.verdicts), "missed": missed} if self.verdicts else None,
        }


def judge_load_test(
    folder: Path, objectives: Sequence[Objective], *, plots: bool = False, without_ramp: bool = False
) -> LoadTestVerdict:
    """Make rows, tables and report of what was heard, and hold them to the objectives. Raises UsageError, OSError.

    An answer that its user stopped on purpose is a row, and no failure: it is left out of the objectives.
    """
    known = model.read_calibration(CALIBRATION_FILE if CALIBRATION_FILE.exists() else None)
    import_answers.write_journal(folder, without_ramp=without_ramp, instrument_error=known.as_dict() if known else None)
    run = markdown.write_report(folder, plots=plots)
    asked_to_end = run.trials[run.trials["outcome"] != "cancelled"]
    verdicts = slo.check_objectives(replace(run, trials=asked_to_end), tuple(objectives)) if objectives else []
    return LoadTestVerdict(folder, run, verdicts)

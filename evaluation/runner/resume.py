"""Where a run starts: anew, or in a folder whose run was broken off, of which nothing finished is asked again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation import manifest
from evaluation.scenario import PlannedTrial, Scenario, full_name, plan
from evaluation.schema import EVENTS_FILE, TRIALS_FILE, Trial, read_trials
from streaming.errors import UsageError


@dataclass(frozen=True, slots=True)
class RunState:
    """`left` is still to be asked, `finished` has its rows; `facts` is the manifest so far."""

    run_id: str
    facts: dict[str, Any]
    left: tuple[PlannedTrial, ...]
    finished: tuple[Trial, ...] = ()

    @property
    def resume_count(self) -> int:
        """How often the run was resumed: 0 for a new one."""
        return int(self.facts.get("resumed", 0))


def new_run(run_id: str, scenario: Scenario) -> RunState:
    """Start a new run."""
    planned = plan(scenario)
    return RunState(run_id, manifest.new_manifest(run_id, scenario, planned), planned)


def inspect_run(folder: Path, scenario: Scenario) -> RunState:
    """Find out what a broken-off run has left to do; writes nothing.

    Raises UsageError when the folder holds no run that can be resumed, or one of another scenario.
    """
    manifest.require_run(folder)
    facts = manifest.read(folder)
    if not facts.get("run_id"):
        missing = f"its run_id in {manifest.MANIFEST_FILE}" if facts else manifest.MANIFEST_FILE
        raise UsageError(f"{folder}: {missing} is missing, so it is not known what the run was")
    _check_same(folder, facts, scenario)
    finished = tuple(read_trials(folder))
    done = {_trial_key(trial) for trial in finished}
    planned = plan(scenario)
    left = tuple(p for p in planned if _planned_key(p) not in done)
    facts = facts | {"complete": False, "interrupted": False, "resumed": int(facts.get("resumed", 0)) + 1}
    return RunState(str(facts["run_id"]), facts, left, finished)


def truncate_partial_lines(folder: Path, start: RunState) -> None:
    """Cut off what a kill left behind the last finished trial, so that new lines stand on their own. Raises OSError."""
    finished = {trial.trial_id for trial in start.finished}
    for name in (TRIALS_FILE, EVENTS_FILE):
        if (path := folder / name).exists():
            with path.open("r+b") as file:
                file.truncate(_count_complete_bytes(path, finished))


def _count_complete_bytes(path: Path, finished: set[str]) -> int:
    """Count the bytes up to the end of the last line that belongs to a finished trial."""
    sound = at = 0
    with path.open("rb") as file:
        for line in file:
            at += len(line)
            if line.endswith(b"\n") and json.loads(line)["trial_id"] in finished:
                sound = at
    return sound


def _planned_key(planned: PlannedTrial) -> tuple[object, ...]:
    trial = planned
    return trial.block, trial.prompt.id, trial.provider, trial.strategy, trial.transport, trial.effort


def _trial_key(trial: Trial) -> tuple[object, ...]:
    name = full_name(trial.provider, trial.model)
    return trial.block, trial.prompt_id, name, trial.strategy, trial.transport, trial.effort


def _check_same(folder: Path, facts: Mapping[str, Any], scenario: Scenario) -> None:
    """Compare as JSON: the manifest has no tuples."""
    wanted = json.loads(json.dumps(asdict(scenario)))
    held = {"effort": [], **facts.get("scenario", {})}  # runs from before there was an effort had none
    differing = sorted(name for name in wanted if held.get(name) != wanted[name])
    if differing:
        words = ", ".join(
            f"{name} {_abbreviate(held.get(name))}, not {_abbreviate(wanted[name])}" for name in differing
        )
        raise UsageError(
            f"{folder} holds a run of another scenario: it has {words}; resume with the same, or choose another folder"
        )


def _abbreviate(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"

"""Start of a run: a new one, or one resumed in the folder of an unfinished run. Finished trials are not repeated."""

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
    """The state in which a run starts: trials `left` to run, trials `finished` earlier, and the manifest (`facts`)."""

    run_id: str
    facts: dict[str, Any]
    left: tuple[PlannedTrial, ...]
    finished: tuple[Trial, ...] = ()

    @property
    def resume_count(self) -> int:
        """The number of times the run was resumed, 0 for a new run."""
        return int(self.facts.get("resumed", 0))


def new_run(run_id: str, scenario: Scenario) -> RunState:
    """Return the state of a run with all trials still to do."""
    planned = plan(scenario)
    return RunState(run_id, manifest.new_manifest(run_id, scenario, planned), planned)


def inspect_run(folder: Path, scenario: Scenario) -> RunState:
    """Return the state of an unfinished run in `folder`, without writing to it.

    Raises UsageError when the folder holds no run that can be resumed, or a run of another scenario.
    """
    manifest.require_run(folder)
    facts = manifest.read(folder)
    if not facts.get("run_id"):
        missing = f"its run_id in {manifest.MANIFEST_FILE}" if facts else manifest.MANIFEST_FILE
        raise UsageError(
            f"{folder}: {missing} is missing, so the run cannot be resumed (start a new run in another folder)"
        )
    _check_same(folder, facts, scenario)
    finished = tuple(read_trials(folder))
    done = {_trial_key(trial) for trial in finished}
    planned = plan(scenario)
    left = tuple(p for p in planned if _planned_key(p) not in done)
    facts = facts | {"complete": False, "interrupted": False, "resumed": int(facts.get("resumed", 0)) + 1}
    return RunState(str(facts["run_id"]), facts, left, finished)


def truncate_partial_lines(folder: Path, start: RunState) -> None:
    """Truncate the journal after the last finished trial: a kill may have left part of a line or of a trial behind it.

    Raises OSError when a file cannot be written.
    """
    finished = {trial.trial_id for trial in start.finished}
    for name in (TRIALS_FILE, EVENTS_FILE):
        if (path := folder / name).exists():
            with path.open("r+b") as file:
                file.truncate(_count_complete_bytes(path, finished))


def _count_complete_bytes(path: Path, finished: set[str]) -> int:
    """Return the offset, in bytes, of the end of the last line that belongs to a finished trial."""
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
    """Raise UsageError unless the manifest has the same scenario. Both are compared as JSON, which has no tuples."""
    current = json.loads(json.dumps(asdict(scenario)))
    held = {"effort": [], **facts.get("scenario", {})}  # manifests of older runs have no `effort`
    differing = sorted(name for name in current if held.get(name) != current[name])
    if differing:
        words = ", ".join(
            f"{name} {_abbreviate(held.get(name))}, not {_abbreviate(current[name])}" for name in differing
        )
        raise UsageError(
            f"{folder} holds a run of another scenario: {words} (resume with the same options or choose another folder)"
        )


def _abbreviate(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"

"""Start of a run: a new one, or one resumed in the folder of an unfinished run. Finished trials are not repeated."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evaluation import manifest
from evaluation.levels import plan_run, trial_level
from evaluation.metrics.experience import ReaderModel, TokenDeadlines
from evaluation.scenario import PlannedTrial, Scenario, full_name
from evaluation.schema import EVENTS_FILE, TRIALS_FILE, Trial, atomic_write, read_trials
from streaming.errors import UsageError

RETRIED_FILE = "retried.jsonl"
"""The rows of failed trials that were asked again by `--retry-failed`."""
RETRIED_OUTCOMES = ("failed", "truncated", "cancelled")
REFUSED_STATUSES = (429, 503, 529)
"""A provider that answers with one of these has not processed the prompt."""


@dataclass(frozen=True, slots=True)
class RunState:
    """The state in which a run starts: trials `left` to run, trials `finished` earlier, and the manifest (`facts`)."""

    run_id: str
    facts: dict[str, Any]
    left: tuple[PlannedTrial, ...]
    finished: tuple[Trial, ...] = ()
    again: tuple[Trial, ...] = ()
    """Trials that were not completed, and are asked again."""

    @property
    def resume_count(self) -> int:
        """The number of times the run was resumed, 0 for a new run."""
        return int(self.facts.get("resumed", 0))


def new_run(run_id: str, scenario: Scenario) -> RunState:
    """Return the state of a run with all trials still to do."""
    planned = plan_run(scenario)
    return RunState(run_id, manifest.new_manifest(run_id, scenario, planned), planned)


def inspect_run(folder: Path, scenario: Scenario, *, retry_failed: bool = False) -> RunState:
    """Return the state of an earlier run in `folder`, without writing to it.

    The scenario may have more prompts or repeats than the run had; their trials follow. With `retry_failed` the trials
    that were not completed are asked again: `prepare_folder` must be called before their rows are written. Raises
    UsageError when the folder holds no run that can be resumed, or a run of another scenario.
    """
    manifest.require_run(folder)
    facts = manifest.read(folder)
    if not facts.get("run_id"):
        missing = f"its run_id in {manifest.MANIFEST_FILE}" if facts else manifest.MANIFEST_FILE
        raise UsageError(
            f"{folder}: {missing} is missing, so the run cannot be resumed (start a new run in another folder)"
        )
    _check_same(folder, facts, scenario)
    trials = tuple(read_trials(folder))
    again = _find_again(trials, scenario, retry_failed=retry_failed)
    finished = tuple(trial for trial in trials if trial not in again) if again else trials
    done = {_trial_key(trial, scenario) for trial in finished}
    # A prompt that was asked is not new to a cache, whatever became of the answer.
    requests = {_trial_key(trial, scenario) for trial in again if trial.http_status not in REFUSED_STATUSES}
    planned = plan_run(scenario, planned_earlier(facts, scenario))
    left = tuple(
        replace(p, fresh=p.fresh and (scenario.nonce == "trial" or _planned_key(p) not in requests))
        for p in planned
        if _planned_key(p) not in done
    )
    facts = facts | {"complete": False, "interrupted": False, "resumed": int(facts.get("resumed", 0)) + 1}
    facts |= manifest.plan_facts(scenario, planned)
    return RunState(str(facts["run_id"]), facts, left, finished, again)


def _find_again(trials: Iterable[Trial], scenario: Scenario, *, retry_failed: bool) -> tuple[Trial, ...]:
    """Return the trials to ask again: those not completed with `retry_failed`, and conversations that were cut off.

    A conversation is asked again as a whole, since the journal does not keep what was said in it.
    """
    turns = {prompt.id: 1 + len(prompt.turns) for prompt in scenario.prompts}
    rows: dict[tuple[object, ...], list[Trial]] = {}
    for trial in trials:
        rows.setdefault(_trial_key(trial, scenario), []).append(trial)
    result = []
    for own in rows.values():
        is_whole = len(own) >= turns.get(own[0].prompt_id, 1) or any(trial.outcome != "completed" for trial in own)
        if not is_whole or (retry_failed and any(trial.outcome in RETRIED_OUTCOMES for trial in own)):
            result += own
    return tuple(result)


def planned_earlier(facts: Mapping[str, Any], scenario: Scenario) -> tuple[PlannedTrial, ...]:
    """Return the trials that the run had planned before, by its manifest; none if that says nothing of its order."""
    prompts = {prompt.id: prompt for prompt in scenario.prompts}
    try:
        return tuple(
            PlannedTrial(number, block, repeat, prompts[prompt_id], *cell)
            for number, block, repeat, prompt_id, *cell in facts.get("order", [])
        )
    except (KeyError, TypeError, ValueError):
        raise UsageError(
            f"{manifest.MANIFEST_FILE}: its order is not the order of this run, which cannot be resumed (start a new "
            "run in another folder)"
        ) from None


def prepare_folder(folder: Path, start: RunState) -> None:
    """Write the manifest, and remove what a kill has left half-written and the trials that are asked again.

    Raises OSError when a file cannot be written.
    """
    _truncate_partial_lines(folder, start)
    if start.again:
        _move_retried(folder, start)
    manifest.write(folder, start.facts)


def _move_retried(folder: Path, start: RunState) -> None:
    """Move the trials that are asked again out of the journal, to `RETRIED_FILE`."""
    ids = {trial.trial_id for trial in start.again}
    for name in (EVENTS_FILE, TRIALS_FILE):  # the trials last: their rows say that the events have to be moved
        with (
            atomic_write(folder / name) as partial,
            (folder / name).open(encoding="utf-8", errors="surrogateescape") as old,
            partial.open("w", encoding="utf-8", errors="surrogateescape") as kept,
            (folder / RETRIED_FILE).open("a", encoding="utf-8", errors="surrogateescape") as moved,
        ):
            for line in old:
                is_again = line.endswith("\n") and json.loads(line)["trial_id"] in ids
                if is_again and name == EVENTS_FILE:
                    continue
                (moved if is_again else kept).write(line)


def _truncate_partial_lines(folder: Path, start: RunState) -> None:
    """Truncate the journal after the last finished trial: a kill may have left part of a line or of a trial."""
    finished = {trial.trial_id for trial in (*start.finished, *start.again)}
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
    cell = trial.provider, trial.strategy, trial.transport, trial.effort
    return trial.repeat, trial.prompt.id, *cell, trial.level


def _trial_key(trial: Trial, scenario: Scenario) -> tuple[object, ...]:
    name = full_name(trial.provider, trial.model)
    cell = name, trial.strategy, trial.transport, trial.effort
    return trial.repeat, trial.prompt_id, *cell, trial_level(scenario, trial)


_NEW_FIELDS = {
    "effort": [], "fresh": False, "warm": False, "connection": "new", "deadlines": asdict(TokenDeadlines()),
    "reader": asdict(ReaderModel()), "levels": [], "sweep_to": None, "level_answers": None,
    "burstiness": None,
    "workload": None, "trace": None, "think_s": 0.0,
}  # fmt: skip
_NEW_PROMPT_FIELDS: dict[str, Any] = {
    "check": None,
    "system": None,
    "history": [],
    "max_tokens": None,
    "body": None,
    "start_s": None,
    "turns": [],
}
"""Fields that the manifests of older runs do not have, with the values that describe those runs."""


def _check_same(folder: Path, facts: Mapping[str, Any], scenario: Scenario) -> None:
    """Raise UsageError unless the manifest has the same scenario, apart from additional repeats and prompts.

    Both are compared as JSON, which has no tuples.
    """
    current = json.loads(json.dumps(asdict(scenario)))
    held = {**_NEW_FIELDS, **facts.get("scenario", {})}
    differing = sorted(name for name in current if not _is_same(name, held.get(name), current[name]))
    if differing:
        words = ", ".join(
            f"{name} {_abbreviate(held.get(name))}, not {_abbreviate(current[name])}" for name in differing
        )
        raise UsageError(
            f"{folder}: contains a run of another scenario: {words} (resume with the same options, more repeats or "
            "more prompts, or choose another folder)"
        )


def _is_same(name: str, held: Any, expected: Any) -> bool:
    if name == "repeats":
        return isinstance(held, int) and expected >= held
    if name == "prompts":
        by_id = {prompt["id"]: prompt for prompt in expected}
        return all(by_id.get(prompt["id"]) == {**_NEW_PROMPT_FIELDS, **prompt} for prompt in held or [])
    return bool(held == expected)


def _abbreviate(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"

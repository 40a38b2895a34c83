"""Import of the answers that Locust's users recorded, `answers.jsonl`, into the journal and manifest of a run.

Metrics are computed as for any other trial. The service's transports show only when an answer arrived, so that the
delay of a strategy is unknown. Answers cut off by the end of the test are not trials, nor, on request, are answers
that were requested while users were still being added; the manifest counts both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluation import manifest
from evaluation.analysis.slo import Objective
from evaluation.backends.interference import is_disturbed
from evaluation.calibration.machine import describe_machine
from evaluation.load_test.answer_model import AnswerLine, Head, check
from evaluation.load_test.measured_answer import measured_answer
from evaluation.load_test.workload import AskedLengths, read_workload
from evaluation.scenario import full_name
from evaluation.schema import EVENTS_FILE, TRIALS_FILE, EventRow, Journal, Trial, build_trial, event_rows, read_lines
from streaming.errors import UsageError

ANSWERS_FILE = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class LoadTestAnswers:
    """The content of `answers.jsonl`: the test's options, its answers, and the counts of answers left out.

    `workload` has the lengths that were asked for, None without a workload.
    """

    facts: dict[str, Any]
    answers: list[dict[str, Any]]
    unfinished: int
    ramping: int
    workload: AskedLengths | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether no cache can have answered any of the prompts, not even their beginning."""
        shared = self.workload.workload.get("shared_prefix") if self.workload else None
        return bool(self.facts.get("fresh")) and not shared


def read_answers(folder: Path, *, without_ramp: bool = False) -> LoadTestAnswers:
    """Read the answers of a load test. Raises UsageError when the file is missing or a line is invalid."""
    result = list(read_lines(folder / ANSWERS_FILE))
    lines = [line for _, line in result]
    if not lines or "load" not in lines[0]:
        raise UsageError(f"{folder}: contains no load test, because {ANSWERS_FILE} is missing or has no header")
    facts = {**lines[0], **{key: value for line in lines[1:] if "ended_at" in line for key, value in line.items()}}
    check(Head, facts, f"{folder / ANSWERS_FILE}, line 1")
    answers = []
    for where, line in result[1:]:
        if "trial_id" in line:
            check(AnswerLine, line, where)
            answers.append(line)
    ended = [answer for answer in answers if answer["outcome"] != "open"]
    without_ramp = without_ramp or bool(facts.get("levels"))  # between two levels the load is neither
    kept = [answer for answer in ended if not (without_ramp and answer["ramping"])]
    left_out = len(answers) - len(ended), len(ended) - len(kept)
    return LoadTestAnswers(facts, kept, *left_out, read_workload(folder))


def write_journal(
    folder: Path,
    *,
    without_ramp: bool = False,
    instrument_error: Mapping[str, Any] | None = None,
    objectives: Sequence[Objective] = (),
) -> LoadTestAnswers:
    """Write the journal and the manifest from a test's answers, replacing existing ones.

    Without `objectives` those of the existing manifest are kept. Raises UsageError when an answer is invalid, OSError
    when a file cannot be written.
    """
    load_test = read_answers(folder, without_ramp=without_ramp)
    for name in (TRIALS_FILE, EVENTS_FILE):
        (folder / name).unlink(missing_ok=True)
    run_id = str(load_test.facts["run_id"])
    with Journal(folder) as journal:
        for number, answer in enumerate(load_test.answers, start=1):
            try:
                users = answer.get("level") or load_test.facts["users"]
                journal.add(*trial_rows(run_id, number, answer, float(users), load_test))
            except (ArithmeticError, KeyError, TypeError, ValueError) as error:
                raise UsageError(f"{folder / ANSWERS_FILE}: answer {number} is invalid ({error!r})") from None
    kept = [objective.text for objective in objectives] or manifest.read(folder).get("slo", [])
    manifest.write(folder, manifest_facts(load_test, instrument_error) | {"slo": kept})
    return load_test


def trial_rows(
    run_id: str,
    number: int,
    answer: Mapping[str, Any],
    users: float | None = None,
    load_test: LoadTestAnswers | None = None,
) -> tuple[Trial, list[EventRow]]:
    """Return an answer's row and event rows; `number`, from 1, is used as the block: load tests have no pairs.

    `users` is the level of the load. `load_test` has what holds for all answers.
    """
    measured = measured_answer(answer)
    if load_test is not None and load_test.workload is not None:
        asked = load_test.workload.asked.get(answer["prompt_id"], [None, None])
        lengths = dict(zip(("asked_input_tokens", "asked_output_tokens"), asked, strict=True))
        lengths["template_tokens"] = load_test.workload.template_tokens
        measured = replace(measured, reported={**measured.reported, **lengths})
    provider, _, model = answer["provider"].partition(":")
    trial = build_trial(
        measured,
        run_id=run_id,
        prompt_id=answer["prompt_id"],
        name=full_name(provider, model),
        provider=provider,
        model=model or None,
        level=users,
        repeat=1,
        block=number,
        conversation=answer.get("conversation"),
        turn=answer.get("turn"),
        fresh=True if load_test is not None and load_test.is_fresh else None,
        correct=answer.get("correct"),
        disturbed=is_disturbed(answer["stamp_source"], answer["merged_reads"], None),
    )
    return trial, list(event_rows(run_id, trial.trial_id, measured.stamps))


def manifest_facts(load_test: LoadTestAnswers, instrument_error: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the manifest, with the keys of every other run, from the test's options and its measured load."""
    facts, answers = load_test.facts, load_test.answers
    prompts = sorted({answer["prompt_id"] for answer in answers})
    return {
        "manifest": manifest.VERSION,
        "kind": "load",
        "run_id": facts["run_id"],
        "complete": "ended_at" in facts,
        "interrupted": "ended_at" not in facts,
        "started_at": facts["started_at"],
        "finished_at": facts.get("ended_at"),
        "trials_planned": None,
        "trials_finished": len(answers),
        "scenario": {
            "providers": sorted({answer["provider"] for answer in answers}),
            "strategies": sorted({answer["strategy"] for answer in answers}),
            "prompts": [{"id": prompt_id} for prompt_id in prompts],
            "transport": sorted({answer["transport"] for answer in answers}),
            "repeats": 1,
            "seed": None,
            "max_tokens": facts["max_tokens"],
            "temperature": None,
            "rate": None,
            "concurrency": facts["users"],
            "retries": 0,
            "workload": load_test.workload.workload if load_test.workload else None,
            "levels": [float(level) for level in facts.get("levels", [])],
        },
        "workload_texts": load_test.workload.texts if load_test.workload else {},
        "measures": manifest.measure_constants(),
        "instrument_error": instrument_error,
        "instrument": [{"real_time_priority": all(answer["real_time"] for answer in answers)}],
        "loads": list(_count_loads(facts, answers)),
        "load": {**facts, "unfinished": load_test.unfinished, "left_out_while_ramping": load_test.ramping},
        **describe_machine(),
    }


def _count_loads(facts: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the load's metrics, those of each level of a sweep."""
    for level in facts.get("levels", []):
        own = [answer for answer in answers if answer.get("level") == level]
        yield {"level": float(level), **_count_load({**facts, "users": level}, own)}
    if not facts.get("levels"):
        yield _count_load(facts, answers)


def _count_load(facts: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the load's metrics: the most answers under way at once, each from its request to its last event."""
    changes = sorted(change for answer in answers for change in _answer_span(answer))
    running = most = 0
    for _, step in changes:
        running += step
        most = max(most, running)
    short = f"{facts['users']} users requested, at most {most} concurrent answers" if most < facts["users"] else None
    thinking = any(facts["think_s"])
    return {
        "asked_concurrency": facts["users"],
        "concurrency_max": most,
        "shortfall": None if thinking or facts["shape"] != "steady" else short,
    }


def _answer_span(answer: Mapping[str, Any]) -> Iterator[tuple[float, int]]:
    yield answer["asked_s"], 1
    yield max([answer["asked_s"], *(event[0] for event in answer["events"])]), -1

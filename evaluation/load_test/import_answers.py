"""Import of the answers that Locust's users recorded, `answers.jsonl`, into the journal and manifest of a run.

Metrics are computed as for any other trial. The service's transports show only when an answer arrived, so that the
delay of a strategy is unknown. Answers cut off by the end of the test are not trials, nor, on request, are answers
that were requested while users were still being added; the manifest counts both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from evaluation import manifest
from evaluation.backends.interference import is_disturbed
from evaluation.calibration.machine import describe_machine
from evaluation.load_test.answer_model import AnswerLine, Head, check
from evaluation.metrics.trial_metrics import MeasuredAnswer, TimedEvents
from evaluation.scenario import full_name
from evaluation.schema import EVENTS_FILE, TRIALS_FILE, EventRow, Journal, Trial, build_trial, event_rows, read_lines
from streaming.errors import UsageError
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, TimedEvent, Usage

ANSWERS_FILE = "answers.jsonl"
_TOKEN_FIELDS = ("input_tokens", "output_tokens", "thinking_tokens", "cached_tokens")


@dataclass(frozen=True, slots=True)
class LoadTestAnswers:
    """The content of `answers.jsonl`: the test's options, its answers, and the counts of answers left out."""

    facts: dict[str, Any]
    answers: list[dict[str, Any]]
    unfinished: int
    ramping: int


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
    kept = [answer for answer in ended if not (without_ramp and answer["ramping"])]
    return LoadTestAnswers(facts, kept, len(answers) - len(ended), len(ended) - len(kept))


def write_journal(
    folder: Path, *, without_ramp: bool = False, instrument_error: Mapping[str, Any] | None = None
) -> LoadTestAnswers:
    """Write the journal and the manifest from a test's answers, replacing existing ones.

    Raises UsageError when an answer is invalid, OSError when a file cannot be written.
    """
    load_test = read_answers(folder, without_ramp=without_ramp)
    for name in (TRIALS_FILE, EVENTS_FILE):
        (folder / name).unlink(missing_ok=True)
    run_id = str(load_test.facts["run_id"])
    with Journal(folder) as journal:
        for number, answer in enumerate(load_test.answers, start=1):
            try:
                journal.add(*trial_rows(run_id, number, answer))
            except (ArithmeticError, KeyError, TypeError, ValueError) as error:
                raise UsageError(f"{folder / ANSWERS_FILE}: answer {number} is invalid ({error!r})") from None
    manifest.write(folder, manifest_facts(load_test, instrument_error))
    return load_test


def trial_rows(run_id: str, number: int, answer: Mapping[str, Any]) -> tuple[Trial, list[EventRow]]:
    """Return an answer's row and event rows; `number`, from 1, is used as the block: load tests have no pairs."""
    sent_s = answer["sent_s"]
    timed = [
        TimedEvent(at_s, _make_event(kind, chars, tokens, answer)) for at_s, kind, chars, tokens in answer["events"]
    ]
    stamps = TimedEvents(answer["asked_s"] if sent_s is None else sent_s, None, timed, sent=sent_s is not None)
    reported = {
        "headers_s": _elapsed_s(sent_s, answer["headers_s"]),
        "connect_s": _elapsed_s(0.0, answer["connect_s"]),
        "finish_raw": answer.get("finish_raw"),
        **{name: answer[name] for name in _COPIED_FIELDS},
        **_usage_columns(answer),
    }
    provider, _, model = answer["provider"].partition(":")
    trial = build_trial(
        MeasuredAnswer(stamps, answer["outcome"], _answer_usage(answer), reported, answer["asked_s"]),
        run_id=run_id,
        prompt_id=answer["prompt_id"],
        name=full_name(provider, model),
        provider=provider,
        model=model or None,
        repeat=1,
        block=number,
        disturbed=is_disturbed(answer["stamp_source"], answer["merged_reads"], None),
    )
    return trial, list(event_rows(run_id, trial.trial_id, stamps))


_COPIED_FIELDS = (
    "trial_id", "strategy", "transport", "outcome", "finish_reason", "error_type", "error_message", "http_status",
    "started_at", "attempts", "fell_back_to", "merged_reads", "stamp_source",
)  # fmt: skip


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
        },
        "measures": manifest.measure_constants(),
        "instrument_error": instrument_error,
        "instrument": [{"real_time_priority": all(answer["real_time"] for answer in answers)}],
        "loads": [_count_load(facts, answers)],
        "load": {**facts, "unfinished": load_test.unfinished, "left_out_while_ramping": load_test.ramping},
        **describe_machine(),
    }


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


def _make_event(kind: str, chars: int | None, tokens: int | None, answer: Mapping[str, Any]) -> Event:
    """Rebuild an event. Only the length of its text was recorded, which is all that the metrics need."""
    if kind == "text":
        return TextDelta("·" * (chars or 0))
    if kind == "thinking":
        return ThinkingDelta("·" * (chars or 0))
    if kind == "usage":
        return Usage(output_tokens=tokens)
    if kind == "notice":
        return Notice("retry", "")
    if kind == "finish":
        return Finish(answer["finish_reason"] or "other")
    return Failed(answer["error_type"] or "error", answer["error_message"] or "")


def _answer_usage(answer: Mapping[str, Any]) -> Usage:
    usage = answer["usage"]
    return Usage(**{name: usage.get(name) for name in _TOKEN_FIELDS}, source=usage.get("source") or "reported")


def _usage_columns(answer: Mapping[str, Any]) -> dict[str, Any]:
    usage = answer["usage"]
    cost = answer["cost_usd"]
    known = any(usage.get(name) is not None for name in _TOKEN_FIELDS)
    return {
        **{name: usage.get(name) for name in _TOKEN_FIELDS},
        "token_source": usage.get("source") if known else None,
        "cost_usd": None if cost is None else Decimal(str(cost)),
    }


def _elapsed_s(from_s: float | None, to_s: float | None) -> float | None:
    return None if from_s is None or to_s is None else round(to_s - from_s, 9)

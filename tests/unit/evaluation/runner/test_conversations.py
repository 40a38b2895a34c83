"""Conversations in a run, on virtual time: one turn after another, what is sent, the report, failures and resuming."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from evaluation import manifest, schema, tables
from evaluation.cli import arguments, dry_run
from evaluation.prompts.prompt_file import Prompt, Turn
from evaluation.reports.charts import build_charts
from evaluation.reports.markdown import markdown
from evaluation.runner import resume
from evaluation.runner.budget import estimate_trial_cost
from evaluation.runner.runner import RunSummary, run
from evaluation.runner.writer import DiskAccess
from evaluation.scenario import Scenario, plan
from evaluation.schema import Trial
from streaming.clock import Clock
from streaming.errors import ServerError, UsageError
from streaming.events import Event, Finish, TextDelta, Usage
from streaming.messages import ChatRequest
from streaming.meter import CostModel
from streaming.retry import RetryPolicy
from streaming.session import Route, Session
from tests.scripted_adapter import InProcessAdapter
from tests.unit.evaluation import factories
from tests.unit.evaluation.fake_backend import price_usage
from tests.virtual_time import loop_clock, run_on_virtual_time

TALK = Prompt("talk", "One?", turns=(Turn("Two?"), Turn("Three?", 2.5)), max_tokens=10)
ANSWER_S = 1.0


@dataclass
class Request:
    """One request that the adapter was asked, with the times between which it was answered."""

    texts: list[str]
    begin_s: float
    end_s: float = 0.0


class TalkingAdapter(InProcessAdapter):
    """An adapter that answers after `ANSWER_S` and has all but the last message in its cache; some turns fail."""

    def __init__(self, clock: Clock, fails_at: int | None = None) -> None:
        self.requests: list[Request] = []
        self._clock = clock
        self._fails_at = fails_at

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        seen = Request([message.content for message in request.messages], self._clock())
        self.requests.append(seen)
        await asyncio.sleep(ANSWER_S)
        seen.end_s = self._clock()
        if (len(seen.texts) + 1) // 2 == self._fails_at:
            raise ServerError("down", http_status=500)
        yield TextDelta(f"Answer {len(seen.texts)}.")
        yield Usage(10 * len(seen.texts), 10, 0, 10 * (len(seen.texts) - 1))
        yield Finish("stop")

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session:
        return Session([Route(name, self, name) for name in names], clock, policy=policy)

    def cost_model(self, name: str) -> CostModel:
        return CostModel(price=price_usage)


async def run_in_loop(work: Callable[[], None]) -> None:
    """Run the call in the event loop: a thread takes real time, and virtual time would run ahead of it."""
    work()


def talk(folder: Path, planned: Scenario, **options: Any) -> tuple[RunSummary, list[Request], list[Trial]]:
    """Run conversations; return the summary, the requests and the rows."""
    start = options.pop("start", None)

    async def main() -> tuple[RunSummary, list[Request]]:
        adapter, disk = TalkingAdapter(loop_clock(), **options), DiskAccess(run_in_thread=run_in_loop)
        summary = await run(planned, adapter, folder, start=start, clock=loop_clock(), disk=disk)
        return summary, adapter.requests

    summary, requests = run_on_virtual_time(main(), start_s=100.0)
    return summary, requests, schema.read_trials(folder)


def make_scenario(*prompts: Prompt, **changes: Any) -> Scenario:
    return factories.make_scenario(
        ("m",), **{"prompts": prompts, "repeats": 1, "warm_up": 0, "think_s": 0.5, **changes}
    )


def test_each_turn_waits_for_the_answer_before_and_has_it_in_its_context(tmp_path: Path) -> None:
    summary, requests, trials = talk(tmp_path, make_scenario(TALK))
    assert [request.texts for request in requests] == [
        ["One?"],
        ["One?", "Answer 1.", "Two?"],
        ["One?", "Answer 1.", "Two?", "Answer 3.", "Three?"],
    ]
    pauses = [after.begin_s - before.end_s for before, after in pairwise(requests)]
    assert pauses == pytest.approx([0.5, 2.5], abs=1e-3), "of the run, and of the turn"
    assert [(trial.turn, trial.context_tokens) for trial in trials] == [(1, 0), (2, 20), (3, 40)]
    assert {trial.conversation for trial in trials} == {trials[0].trial_id}
    assert [trial.fresh for trial in trials] == [True, False, False]
    assert [trial.block for trial in trials] == [1, 2, 3], "each turn is compared with the same one of others"
    assert summary.planned == summary.trials == 3 and summary.shortfall is None
    assert all((trial.queue_s or 0) < 0.01 for trial in trials), "thinking is not a wait of the instrument"


def test_conversations_run_side_by_side_and_their_turns_do_not(tmp_path: Path) -> None:
    prompts = [Prompt(f"p{number}", f"Start {number}", turns=TALK.turns) for number in range(4)]
    _, requests, trials = talk(tmp_path, make_scenario(*prompts, concurrency=4, think_s=0.0))
    assert len(trials) == 12
    for number in range(4):
        own = [request for request in requests if request.texts[0] == f"Start {number}"]
        assert len(own) == 3 and all(before.end_s <= after.begin_s for before, after in pairwise(own))
    assert sum(request.begin_s == requests[0].begin_s for request in requests) == 4


def test_open_loop_starts_conversations_at_its_rate(tmp_path: Path) -> None:
    prompts = [Prompt(f"p{number}", f"Start {number}", turns=(Turn("On?"),)) for number in range(3)]
    _, requests, _ = talk(tmp_path, make_scenario(*prompts, rate=2.0))
    first = [request.begin_s for request in requests if len(request.texts) == 1]
    assert [after - before for before, after in pairwise(first)] == pytest.approx([0.5, 0.5], abs=1e-3)
    assert len(requests) == 6


def test_conversation_ends_with_a_turn_that_is_not_completed(tmp_path: Path) -> None:
    summary, requests, trials = talk(tmp_path, make_scenario(TALK, repeats=2, fresh=True), fails_at=2)
    assert [trial.turn for trial in trials] == [1, 2, 1, 2] and len(requests) == 4
    assert summary.outcomes == {"completed": 2, "failed": 2}
    kept = resume.inspect_run(tmp_path, make_scenario(TALK, repeats=2, fresh=True))
    assert kept.left == (), "what has ended is not asked again"
    again = resume.inspect_run(tmp_path, make_scenario(TALK, repeats=2, fresh=True), retry_failed=True)
    assert len(again.left) == 6 and len(again.again) == 4


def test_conversation_that_was_cut_off_is_asked_again_as_a_whole(tmp_path: Path) -> None:
    other = Prompt("other", "Else?", turns=(Turn("More?"),))
    planned = make_scenario(TALK, other)
    talk(tmp_path, planned)
    lines = (tmp_path / schema.TRIALS_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / schema.TRIALS_FILE).write_text("".join(lines[:-1]), encoding="utf-8")
    cut_off = lines[-1].split('"prompt_id":"')[1].partition('"')[0]
    start = resume.inspect_run(tmp_path, planned)
    assert {trial.prompt.id for trial in start.left} == {cut_off}
    _, requests, trials = talk(tmp_path, planned, start=start)
    assert len(requests) == len(start.left) and requests[0].texts == [start.left[0].prompt.text]
    assert sorted((trial.prompt_id, trial.turn) for trial in trials) == [
        ("other", 1), ("other", 2), ("talk", 1), ("talk", 2), ("talk", 3),
    ]  # fmt: skip
    assert manifest.read(tmp_path)["complete"]


def test_report_has_the_time_to_first_token_by_turn_and_by_size(tmp_path: Path) -> None:
    talk(tmp_path, make_scenario(TALK))
    found = tables.from_journal(tmp_path)
    report = markdown(found)
    assert "| m | 1 | 1 | 0 | 10 | 0 % | 10 | 1000 |" in report
    assert "| m | 3 | 1 | 40 | 50 | 80 % | 10 | 1000 |" in report
    assert "| m | 16–31 | 1 | 20 | 30 | 67 % | 10 | 1000 |" in report
    assert "of the prompts 1 with several turns, 1 with a limit of their own" in report
    (chart,) = (chart for chart in build_charts(found) if chart.id == "turns")
    assert chart.series[0].x == [1.0, 2.0, 3.0]


def test_cost_of_a_turn_includes_the_conversation_before_it() -> None:
    planned = make_scenario(TALK)
    access = TalkingAdapter(lambda: 0.0)
    estimates = [estimate_trial_cost(access.cost_model("m"), planned, trial) for trial in plan(planned)]
    assert [estimate.input_tokens for estimate in estimates] == [1, 3 + 10, 4 + 20]
    most = [estimate.at_most_usd for estimate in estimates]
    assert all(before is not None and after is not None and before < after for before, after in pairwise(most))
    (share,) = dry_run.estimate_run(planned, access, plan(planned))
    assert share.trials == 3 and share.at_most_usd == sum(amount for amount in most if amount is not None)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--think-s 2", "think-s: no prompt has several turns"),
        ("--think-s -1 --prompts FILE", "think_s: invalid value"),
        ("--transport browser --prompts FILE", "a browser asks single prompts"),
    ],
)
def test_options_that_do_not_fit_conversations_are_errors(tmp_path: Path, words: str, error: str) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text('{"id": "a", "prompt": "One?", "turns": ["Two?"]}\n', encoding="utf-8")
    options = ["run", "--providers", "sim:steady", "--dry-run", *words.replace("FILE", str(file)).split()]
    with pytest.raises(UsageError, match=error):
        arguments.parse_run_options(arguments.build_parser().parse_args(options))

"""Runs of a workload: what is sent, the columns of asked lengths, the report, the costs and resuming."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from evaluation import manifest, schema, tables
from evaluation.cli import arguments
from evaluation.reports.markdown import markdown
from evaluation.runner import resume
from evaluation.runner.budget import estimate_trial_cost
from evaluation.runner.runner import run
from evaluation.scenario import Scenario, plan
from evaluation.workloads.workload import Workload, make_prompts, parse_workload
from providers.tokenizers import Tokenizer, offline_tokenizer
from simulator.schedules import input_tokens
from streaming.clock import Clock
from streaming.errors import UsageError
from streaming.events import Event, Finish, TextDelta, Usage
from streaming.messages import ChatRequest
from streaming.meter import CostModel
from streaming.retry import RetryPolicy
from streaming.session import Route, Session
from tests.scripted_adapter import InProcessAdapter
from tests.unit.evaluation import factories
from tests.unit.evaluation.fake_backend import price_usage

TEMPLATE_TOKENS = 12


class CountingAdapter(InProcessAdapter):
    """An adapter that reports a token for four characters and a template, and `share` of the output that was asked."""

    def __init__(self, share: float = 1.0) -> None:
        self.requests: list[ChatRequest] = []
        self._share = share

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        yield TextDelta("Yes.")
        text = "".join(message.content for message in request.messages)
        yield Usage(input_tokens(text) + TEMPLATE_TOKENS, int((request.max_tokens or 0) * self._share) or 1, 0, 0)
        yield Finish("length")

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session:
        return Session([Route(name, self, name) for name in names], clock, policy=policy)

    def cost_model(self, name: str) -> CostModel:
        return CostModel(price=price_usage)


def make_workload(forms: str, *, count: int = 3, shared: float = 0.0, **changes: Any) -> Scenario:
    workload = Workload(parse_workload(forms), shared)
    prompts = make_prompts(workload, count, seed=3)
    return factories.make_scenario(("m",), **{"prompts": prompts, "workload": workload, "repeats": 1, **changes})


async def find_tokenizer(_: str) -> Tokenizer:
    return offline_tokenizer(None)


def run_workload(folder: Path, planned: Scenario, start: resume.RunState | None = None) -> CountingAdapter:
    adapter = CountingAdapter()
    asyncio.run(run(planned, adapter, folder, start=start, tokenizers=find_tokenizer))
    return adapter


def test_trials_have_the_asked_lengths_beside_the_reported_ones(tmp_path: Path) -> None:
    adapter = run_workload(tmp_path, make_workload("100±20/30,40/8"))
    trials = schema.read_trials(tmp_path)
    assert len(trials) == 6 and {trial.template_tokens for trial in trials} == {TEMPLATE_TOKENS}
    for trial, request in zip(trials, adapter.requests[1:], strict=True):
        assert trial.input_tokens - TEMPLATE_TOKENS == trial.asked_input_tokens
        assert trial.output_tokens == trial.asked_output_tokens == request.max_tokens
        assert request.ignores_end and len(request.messages) == 1
    assert not adapter.requests[0].ignores_end, "the warm-up is no part of the workload"
    assert len({request.messages for request in adapter.requests}) == 7, "each trial has a text of its own"
    report = markdown(tables.from_journal(tmp_path))
    assert "workload in tokens, input/output: 100±20/30, normal, 40/8; 6 prompts; no shared prefix" in report
    assert "its chat template has 12 tokens" in report and "an estimate of 4 characters a token" in report
    assert "| m | 40/8 | all | 3 | 40 | 12 | 52 | 0 % | 0 % | 8 | 8 | 0 % |" in report
    assert "what was asked for (median)" not in report


def test_lengths_that_are_off_are_a_warning(tmp_path: Path) -> None:
    asyncio.run(run(make_workload("100/40"), CountingAdapter(share=0.8), tmp_path, tokenizers=find_tokenizer))
    report = markdown(tables.from_journal(tmp_path))
    assert "- **m, 100/40: the output has -20 % tokens against what was asked for (median)**" in report
    assert "the input has" not in report


def test_shapes_with_a_shared_prefix_are_asked_one_after_another(tmp_path: Path) -> None:
    planned = make_workload("100/5,60/5", shared=0.8)
    order = [trial.prompt.id.partition("#")[0] for trial in plan(planned)]
    assert order == ["100/5"] * 3 + ["60/5"] * 3
    assert [trial.fresh for trial in plan(planned)] == [True, False, False, True, False, False]
    assert all(trial.fresh for trial in plan(make_workload("100/5,60/5"))), "without one no cache can answer"
    adapter = run_workload(tmp_path, planned)
    texts = [request.messages[0].content for request in adapter.requests[1:]]
    assert len({text[:300] for text in texts[:3]}) == 1 and len(set(texts)) == 6


def test_resumed_run_keeps_its_workload_and_may_have_more_prompts(tmp_path: Path) -> None:
    run_workload(tmp_path, make_workload("100±20/30", count=2))
    for other in (make_workload("100±20/31", count=2), make_workload("100±20/30", count=2, shared=0.5)):
        with pytest.raises(UsageError, match="another scenario"):
            resume.inspect_run(tmp_path, other)
    more = make_workload("100±20/30", count=4)
    start = resume.inspect_run(tmp_path, more)
    assert len(start.left) == 2
    run_workload(tmp_path, more, start)
    assert len(schema.read_trials(tmp_path)) == 4 and manifest.read(tmp_path)["complete"]


def test_cost_is_estimated_by_the_asked_lengths() -> None:
    planned = make_workload("1000/300", count=1)
    quoted = estimate_trial_cost(CountingAdapter().cost_model("m"), planned, plan(planned)[0])
    assert (quoted.input_tokens, quoted.output_tokens) == (1000, 300)
    assert quoted.usd == price(1000, 300) and quoted.at_most_usd == price(4064, 300)


def price(input_tokens: int, output_tokens: int) -> Any:
    cost = price_usage(Usage(input_tokens, output_tokens))
    return cost.total_usd if cost else None


def parse(*options: str) -> Scenario:
    words = ["run", "--providers", "sim:steady", "--dry-run", *options]
    return arguments.parse_run_options(arguments.build_parser().parse_args(words)).scenario


def test_options_describe_a_workload() -> None:
    scenario = parse("--workload", "1000±200/300±50,rag", "--spread", "lognormal", "--shared-prefix", "0.8")
    assert scenario.workload is not None and len(scenario.prompts) == 48 and scenario.nonce == "trial"
    assert {shape.spread for shape in scenario.workload.shapes} == {"lognormal"}
    assert len(parse("--workload", "10/5", "--prompt-count", "7").prompts) == 7
    assert parse("--workload", "10/5", "--no-fresh").nonce is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workload", "10"], "workload: '10' is no shape"),
        (["--workload", "10/5", "--prompts", "verifiable"], "workload and prompts are both set"),
        (["--workload", "10/5", "--max-tokens", "3"], "max-tokens: a workload says itself"),
        (["--spread", "normal"], "spread: belongs to a workload"),
        (["--shared-prefix", "0.5"], "shared-prefix: belongs to a workload"),
        (["--workload", "10/5", "--shared-prefix", "1.5"], "shared_prefix: invalid value"),
    ],
)
def test_workload_options_that_do_not_fit_are_errors(options: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(*options)

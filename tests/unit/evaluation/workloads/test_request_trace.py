"""A request trace as load: its file, its arrivals on virtual time, its lengths, and its repeated blocks."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import manifest, schema, tables
from evaluation.__main__ import main
from evaluation.prompts.prompt_file import BLOCK_TOKENS
from evaluation.reports.markdown import markdown
from evaluation.runner import resume
from evaluation.runner.runner import run
from evaluation.runner.writer import DiskAccess
from evaluation.scenario import Scenario, plan
from evaluation.workloads.request_trace import RequestTrace, mean_rate, read_trace, repeated_share
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
from tests.virtual_time import loop_clock, run_on_virtual_time

TRACE: tuple[dict[str, Any], ...] = (
    {"timestamp": 27482, "input_length": 1200, "output_length": 52, "hash_ids": [46, 47, 48]},
    {"timestamp": 27482, "input_length": 1100, "output_length": 3, "hash_ids": [46, 47, 49]},
    {"timestamp": 30535, "input_length": 600, "output_length": 8, "hash_ids": [46, 50]},
    {"timestamp": 30035.5, "input_length": 40, "output_length": 9},
)


def write_trace(folder: Path, *requests: object) -> Path:
    path = folder / "mooncake.jsonl"
    path.write_text("".join(f"{json.dumps(request)}\n" for request in requests or TRACE))
    return path


class RecordingAdapter(InProcessAdapter):
    """An adapter that keeps each request with the time of its arrival, and answers after ten seconds."""

    def __init__(self) -> None:
        self.requests: list[tuple[float, ChatRequest]] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        self.requests.append((asyncio.get_running_loop().time(), request))
        await asyncio.sleep(10.0)
        yield TextDelta("Yes.")
        yield Usage(input_tokens(request.messages[0].content), request.max_tokens, 0, 0)
        yield Finish("length")

    def new_session(self, names: Sequence[str], *, clock: Clock, policy: RetryPolicy | None = None) -> Session:
        return Session([Route(name, self, name) for name in names], clock, policy=policy)

    def cost_model(self, name: str) -> CostModel:
        return CostModel()


def make_scenario(path: Path, speed_up: float = 1.0) -> Scenario:
    prompts = read_trace(path, speed_up)
    trace = RequestTrace(path.name, speed_up, repeated_share(prompts))
    rate = mean_rate(prompts)
    return factories.make_scenario(
        ("m",), prompts=prompts, trace=trace, rate=rate, arrivals="trace", repeats=1, warm_up=0
    )


async def run_in_loop(work: Callable[[], None]) -> None:
    work()


def run_trace(folder: Path, scenario: Scenario, start: resume.RunState | None = None) -> RecordingAdapter:
    adapter = RecordingAdapter()

    async def main() -> None:
        disk = DiskAccess(run_in_thread=run_in_loop)
        await run(scenario, adapter, folder, start=start, clock=loop_clock(), disk=disk)

    run_on_virtual_time(main(), start_s=100.0)
    return adapter


def test_requests_come_when_they_came_and_as_long_as_they_were(tmp_path: Path) -> None:
    adapter = run_trace(tmp_path, make_scenario(write_trace(tmp_path), speed_up=2.0))
    starts_s = [at_s for at_s, _ in adapter.requests]
    assert np.subtract(starts_s, starts_s[0]) == pytest.approx([0, 0, 2.5535 / 2, 3.053 / 2], abs=1e-9)
    texts = [request.messages[0].content for _, request in adapter.requests]
    assert [input_tokens(text) for text in texts] == pytest.approx([1200, 1100, 40, 600], abs=2)
    assert [request.max_tokens for _, request in adapter.requests] == [52, 3, 9, 8]
    assert all(request.ignores_end for _, request in adapter.requests)
    trials = schema.read_trials(tmp_path)
    assert {trial.asked_input_tokens for trial in trials} == {1200, 1100, 40, 600}
    assert [trial.fresh for trial in sorted(trials, key=lambda trial: trial.trial_id)] == [True, False, True, False]
    text = markdown(tables.from_journal(tmp_path))
    assert (
        "request trace mooncake\\.jsonl: 4 requests, 2 times as fast as they came; 52.2 % of the input repeats" in text
    )
    assert "starts/s on average, arrivals as in the trace" in text


def test_equal_blocks_are_equal_bytes_and_others_differ(tmp_path: Path) -> None:
    adapter = run_trace(tmp_path, make_scenario(write_trace(tmp_path)))
    first, second, other, third = (request.messages[0].content.encode() for _, request in adapter.requests)

    def shared(a: bytes, b: bytes) -> int:
        return next(place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)

    assert shared(first, second) // 4 == pytest.approx(2 * BLOCK_TOKENS, abs=8)
    assert shared(first, third) // 4 == pytest.approx(BLOCK_TOKENS, abs=8)
    assert shared(first, other) < 20
    (tmp_path / "again").mkdir()
    again = run_trace(tmp_path / "again", make_scenario(tmp_path / "mooncake.jsonl")).requests[0][1]
    assert shared(first, again.messages[0].content.encode()) < 20, "a run has blocks of its own"


def test_starts_of_a_thousand_requests_are_within_a_millisecond(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    times_ms = np.cumsum(rng.exponential(20, 1000)).round(3)
    requests = [{"timestamp": float(ms), "input_length": 8, "output_length": 2} for ms in times_ms]
    adapter = run_trace(tmp_path, make_scenario(write_trace(tmp_path, *requests)))
    starts_s = np.array([at_s for at_s, _ in adapter.requests])
    late_s = np.abs((starts_s - starts_s[0]) - (times_ms - times_ms[0]) / 1000)
    assert np.percentile(late_s, 99) < 0.001 and len(starts_s) == 1000
    assert manifest.read(tmp_path)["loads"][0]["shortfall"] is None


def test_resumed_trace_sends_what_is_left_with_its_own_intervals(tmp_path: Path) -> None:
    scenario = make_scenario(write_trace(tmp_path))
    run_trace(tmp_path, scenario)
    path = tmp_path / schema.TRIALS_FILE
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    manifest.write(tmp_path, manifest.read(tmp_path) | {"complete": False})
    adapter = run_trace(tmp_path, scenario, resume.inspect_run(tmp_path, scenario))
    assert np.diff([at_s for at_s, _ in adapter.requests]) == pytest.approx([0.4995])
    assert len(schema.read_trials(tmp_path)) == 4


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not JSON", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 3, "session": 4}', "line 2: 'session' is not a field"),
        ('{"input_length": 2, "output_length": 3}', "line 2: timestamp is missing or invalid"),
        ('{"timestamp": -1, "input_length": 2, "output_length": 3}', "line 2: timestamp is missing"),
        ('{"timestamp": 1e14, "input_length": 2, "output_length": 3}', "line 2: timestamp is missing"),
        ('{"timestamp": NaN, "input_length": 2, "output_length": 3}', "line 2: timestamp is missing"),
        ('{"timestamp": 1, "input_length": true, "output_length": 3}', "line 2: input_length is missing or invalid"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 0}', "line 2: output_length is missing or invalid"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 3, "hash_ids": "1"}', "line 2: hash_ids is invalid"),
        (
            '{"timestamp": 1, "input_length": 600, "output_length": 3, "hash_ids": [1]}',
            "has 1 blocks for 600 tokens (write 2",
        ),
    ],
)
def test_invalid_line_ends_with_2_and_the_number_of_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    path = write_trace(tmp_path, TRACE[0])
    path.write_text(path.read_text() + line + "\n")
    out = tmp_path / "out"
    assert main(["run", "--providers", "sim:steady", "--trace", str(path), "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert words in errors and len(errors.splitlines()) == 1 and not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--rate 2", "rate: a trace says itself"),
        ("--concurrency 4", "concurrency: a trace says itself"),
        ("--workload 10/5", "workload: a trace says itself"),
        ("--max-tokens 5", "max-tokens: a trace says itself"),
        ("--speed-up 0", "speed_up: invalid value"),
        ("--repeats 2", "trace: is sent once"),
        ("--strategies direct,batch:100ms", "trace: is sent once"),
        ("--prompt-count 5", "prompt-count: out of range (use 1 to 4"),
    ],
)
def test_options_that_a_trace_replaces_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, words: str
) -> None:
    arguments = ["run", "--providers", "sim:steady", "--trace", str(write_trace(tmp_path)), *options.split()]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err


def make_requests(*timestamps_ms: float) -> list[dict[str, Any]]:
    return [{"timestamp": at_ms, "input_length": 20, "output_length": 3} for at_ms in timestamps_ms]


def test_rate_of_a_burst_is_the_number_of_its_requests(tmp_path: Path) -> None:
    for requests in (make_requests(0, 0.4, 0.8), make_requests(5, 5, 5)):
        assert mean_rate(read_trace(write_trace(tmp_path, *requests))) == 3.0
    assert mean_rate(read_trace(write_trace(tmp_path, *make_requests(0, 1000, 4000)))) == 0.5


@pytest.mark.parametrize(
    ("timestamps_ms", "words"),
    [
        ([number / 2 for number in range(3000)], "trace: 2000 requests per second (at most 1000"),
        ([7.0] * 1001, "trace: 1001 requests per second (at most 1000"),
        ([0.0, 9e12], "trace: its requests are weeks apart (use a larger --speed-up)"),
    ],
)
def test_trace_whose_rate_cannot_be_sent_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], timestamps_ms: list[float], words: str
) -> None:
    path = write_trace(tmp_path, *make_requests(*timestamps_ms))
    arguments = ["run", "--providers", "sim:steady", "--trace", str(path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2 and words in capsys.readouterr().err


def test_speed_up_belongs_to_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--providers", "sim:steady", "--speed-up", "2", "--out", str(tmp_path / "out")]) == 2
    assert "speed-up: belongs to a trace" in capsys.readouterr().err


def test_empty_trace_is_rejected_and_order_is_that_of_arrival(tmp_path: Path) -> None:
    path = write_trace(tmp_path)
    assert [trial.prompt.start_s for trial in plan(make_scenario(path))] == [0, 0, 2.5535, 3.053]
    path.write_text("\n")
    with pytest.raises(UsageError, match="has no requests"):
        read_trace(path)

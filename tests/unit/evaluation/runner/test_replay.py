"""Replay of recordings through strategies: exact metrics, unknown values, and traces recorded by a run."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import evaluation
from evaluation.__main__ import main
from evaluation.runner import replay
from evaluation.runner.replay import Recording
from evaluation.runner.runner import run
from evaluation.schema import Trial
from streaming import trace
from streaming.errors import UsageError
from streaming.events import Failed, Finish, TextDelta, TimedEvent, Usage
from streaming.trace import Trace
from tests.unit.evaluation import factories
from tests.unit.evaluation.fake_backend import PricedAdapter

STEADY_EVENTS = [TimedEvent(0.2 + 0.02 * n, TextDelta("four")) for n in range(64)]
END_EVENTS = [TimedEvent(1.46, Usage(3, 64, 0)), TimedEvent(1.46, Finish("stop", "stop"))]
HEADER = {"provider": "sim", "model": "steady", "prompt_id": "p", "repeat": 2}


def replay_recording(events: list[TimedEvent], *names: str, header: dict[str, Any] | None = None) -> list[Trial]:
    recording = Recording("t", Trace(HEADER if header is None else header, tuple(events)))
    return list(replay.replay_trials("r", recording, names, 7))


def test_replayed_steady_stream_has_exact_metrics_per_strategy() -> None:
    direct, batch, whole = replay_recording(STEADY_EVENTS + END_EVENTS, "direct", "batch:100ms", "whole")
    assert direct.delay_max_s == 0.0 and direct.updates_per_s == pytest.approx(50)
    assert batch.delay_max_s == pytest.approx(0.1) and 9 < (batch.updates_per_s or 0) <= 11
    assert whole.delivered_ttft_s == pytest.approx(1.46) and whole.delay_max_s == pytest.approx(1.26)
    assert (whole.delivered_chunks, whole.updates_per_s) == (1, None) and (whole.qoe or 0) < (direct.qoe or 0)
    assert {t.ttft_s for t in (direct, batch, whole)} == {0.2} and {t.block for t in (direct, batch, whole)} == {7}
    assert (direct.transport, direct.stamp_source, direct.prompt_id, direct.repeat) == ("replay", "replay", "p", 2)
    assert direct.output_tps == pytest.approx(50) and direct.cost_usd is None, "nothing was paid"


def test_recording_without_end_is_truncated() -> None:
    (result,) = replay_recording(STEADY_EVENTS, "direct", header=HEADER | {"outcome": "completed"})
    assert result.outcome == "truncated" and result.e2e_s is None and result.qoe is None and result.ttft_s == 0.2


def test_recorded_failure_stays_failed() -> None:
    (result,) = replay_recording([TimedEvent(0.1, Failed("server_error", "down", 503))], "direct")
    assert (result.outcome, result.error_type, result.http_status, result.ttft_s) == (
        "failed",
        "server_error",
        503,
        None,
    )


def test_unreported_tokens_are_estimated_without_rates() -> None:
    (result,) = replay_recording([*STEADY_EVENTS, END_EVENTS[-1]], "direct", header={})
    assert result.token_source == "estimated" and result.output_tps is None and result.fluidity is None
    assert (result.provider, result.model, result.input_tokens) == ("unknown", None, None)


def test_counted_tokens_are_read_from_trace_header() -> None:
    usage = {"input_tokens": 3, "output_tokens": 32, "thinking_tokens": 0, "cached_tokens": None, "source": "counted"}
    (result,) = replay_recording([*STEADY_EVENTS, END_EVENTS[-1]], "direct", header=HEADER | {"usage": usage})
    assert (result.output_tokens, result.token_source) == (32, "counted")
    with pytest.raises(UsageError, match="has unknown fields"):
        replay_recording(STEADY_EVENTS, "direct", header={"usage": {"tokens": 1}})


def test_replay_of_recorded_run_reproduces_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = factories.make_scenario(("m", "broken"), repeats=1)
    (tmp_path / "run").mkdir()
    asyncio.run(run(expected, PricedAdapter(0.01), tmp_path / "run", traces=True))
    assert len(list((tmp_path / "run" / "traces").glob("*.jsonl"))) == 4
    out = tmp_path / "whatif"
    command = ["replay", str(tmp_path / "run"), "--strategies", "direct,whole", "--out", str(out), "--no-plots"]
    assert main(command) == 1, "one provider has failed always"
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (data["recordings"], data["trials"], data["completed"]) == (4, 8, 4)
    then, now = evaluation.load(tmp_path / "run").trials, evaluation.load(out).trials
    direct = now[(now["strategy"] == "direct") & (now["outcome"] == "completed")].set_index("prompt_id")
    measured = then[then["outcome"] == "completed"].set_index("prompt_id")
    assert (direct["ttft_s"] - measured["ttft_s"]).abs().max() < 1e-8 and len(direct) == 2
    assert (direct["output_tokens"] == 20).all() and (direct["token_source"] == "reported").all()
    report = (out / "report.md").read_text()
    assert "**what if**: 4 recorded streams" in report and "Against direct: whole holds a character" in report


def test_rebuilt_replay_report_is_still_a_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(trace.dumps(HEADER, STEADY_EVENTS + END_EVENTS))
    out = tmp_path / "out"
    assert main(["replay", str(path), "--strategies", "direct,pace:30tps", "--out", str(out), "--no-plots"]) == 0
    before = (out / "report.md").read_text()
    assert main(["report", str(out), "--no-plots"]) == 0 and (out / "report.md").read_text() == before
    assert "sim:steady (simulated)" in before and "what if" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "strategies", "words"),
    [
        (None, "direct", "no such file"),
        ("{}\n", "direct", "line 1: not a trace"),
        ('{"trace": 1}\n', "direct,direct", "one is repeated"),
        ('{"trace": 1}\n', "fast", "strategy 'fast': unknown"),
    ],
)
def test_invalid_replay_exits_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, strategies: str, words: str
) -> None:
    path = tmp_path / "one.jsonl"
    if text is not None:
        path.write_text(text)
    assert main(["replay", str(path), "--strategies", strategies, "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert words in errors and len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_folder_without_traces_is_rejected_with_advice(tmp_path: Path) -> None:
    factories.write_run(tmp_path, factories.make_scenario(), [])
    with pytest.raises(UsageError, match="`run --record`"):
        replay.find_traces([tmp_path])


def test_replay_of_a_cut_trace_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_text(trace.dumps(HEADER, STEADY_EVENTS))
    assert main(["replay", str(path), "--strategies", "direct", "--out", str(tmp_path / "out"), "--no-plots"]) == 1
    assert "trace: no terminal event (1 of 1 trials)" in capsys.readouterr().err

"""A sweep of a real server with a known ceiling: its throughput is that of the server's own log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import evaluation
from evaluation.__main__ import main
from evaluation.analysis.throughput import load_levels
from evaluation.metrics.load import LOAD_METRIC_BY_NAME, LoadAnswer, add_slices, measure_load
from simulator.server import read_log
from tests.simulator_process import run_simulator_process

SLOTS, TTFT_S, GAP_S, TOKENS = 2, 0.05, 0.002, 16
CEILING = SLOTS / (TTFT_S + (TOKENS - 1) * GAP_S)
STREAMS = 4


def iter_answers(log: Path, ids: set[str]) -> Iterator[LoadAnswer]:
    """Yield the answers of these requests as the server sent them."""
    lines: list[dict[str, Any]] = [line for line in read_log(str(log)) if line["request_id"] in ids]
    for request_id in ids:
        at_s = {line["event"]: line["at_s"] for line in lines if line["request_id"] == request_id}
        texts_s = [line["at_s"] for line in lines if line["request_id"] == request_id and "seq" in line]
        yield LoadAnswer(at_s["received"], min(texts_s), max(texts_s))


def test_throughput_of_a_saturated_server_is_that_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = f"--slots {SLOTS} --ttft-ms {TTFT_S * 1000:g} --gap-ms {GAP_S * 1000:g} --tokens {TOKENS}".split()
    log, folder = tmp_path / "log.jsonl", tmp_path / "run"
    with run_simulator_process(*options, "--log", str(log)) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        words = f"run --providers openai:m --concurrency 1,{STREAMS} --level-answers 80 --fresh --no-plots"
        assert main([*words.split(), "--out", str(folder)]) == 0
    run = evaluation.load(folder)
    saturated = next(level for level in load_levels(run) if level.level == STREAMS)
    trials = run.trials[run.trials["level"] == STREAMS]
    answers = [*iter_answers(log, set(trials["trial_id"]))]
    by_log = LOAD_METRIC_BY_NAME["throughput"].function(add_slices(measure_load(answers, STREAMS)[0]))
    assert len(answers) == len(trials) >= 80
    assert saturated.value("throughput") == pytest.approx(by_log, rel=0.03)
    assert by_log is not None and by_log < 1.03 * CEILING
    assert (trials["ttft_s"] >= TTFT_S).all() and trials["ttft_s"].median() > 1.5 * TTFT_S, "most wait for a slot"

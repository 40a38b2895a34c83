"""Calibration of a load test: OpenAI users on one worker against a simulator, paired with its log by request id.

The result is the error of a load test's TTFT and gaps on this machine, with all users as greenlets of one process.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.backends.service_process import start_process
from evaluation.calibration import model
from evaluation.calibration.machine import describe_machine
from evaluation.calibration.model import Calibration, ObservedAnswer
from evaluation.load_test import import_answers, locust_run
from evaluation.load_test.locust_run import LocustOptions
from simulator.server import read_log
from streaming.clock import utc_now
from streaming.errors import UsageError

TOKENS = 64
GAP_MS = 20.0


def calibrate(streams: int, within_ms: float, duration_s: int, file: Path) -> Calibration:
    """Measure one number of streams for `duration_s` and write the calibration to `file`, replacing it.

    Raises UsageError when the options are invalid or a process fails, OSError when the file cannot be written.
    """
    if streams < 1:
        raise UsageError("--streams: too few (use at least 1)")
    made_at = utc_now()
    with tempfile.TemporaryDirectory() as folder:
        log, results = Path(folder, "log.jsonl"), Path(folder, "results")
        command = [sys.executable, "-m", "simulator", "--tokens", str(TOKENS), "--gap-ms", f"{GAP_MS:g}"]
        with start_process([*command, "--log", str(log)], Path(folder, "words")) as server:
            load = LocustOptions(streams, duration_s, ("openai",), processes=1, more=("--max-tokens", str(TOKENS)))
            locust_run.run_locust(load, server.url, results)
        answers = import_answers.read_answers(results).answers
        row = model.compare_with_log(
            "plain", streams, [observed_answer(answer) for answer in answers], read_log(str(log)), 0.0
        )
    made = Calibration(
        made_at=made_at,
        within_ms=within_ms,
        tokens=TOKENS,
        gap_ms=GAP_MS,
        real_time_priority=all(answer["real_time"] for answer in answers),
        stamp_source="kernel" if {answer["stamp_source"] for answer in answers} == {"kernel"} else "callback",
        rows=(replace(row, cpu_s_per_1000_chunks=None),),  # CPU time was not measured
        left_out={"tls": "the kernel has no timestamps of encrypted data"},
        **describe_machine(),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    model.write_calibration(file, made)
    return made


def observed_answer(answer: dict[str, Any]) -> ObservedAnswer:
    """Convert a line of `answers.jsonl` to the form that is compared with the server's log."""
    return ObservedAnswer(
        request_id=answer["trial_id"],
        sent_s=answer["sent_s"],
        tokens_s=[at_s for at_s, kind, _, _ in answer["events"] if kind == "text"],
        merged_reads=answer["merged_reads"],
        stamp_source=answer["stamp_source"] or "callback",
        problem=None if answer["outcome"] == "completed" else answer["outcome"],
    )

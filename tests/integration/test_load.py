"""Load tests as people start them, with real Locust processes, against the real service and the simulator."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest

import evaluation
from evaluation.__main__ import main as evaluate
from evaluation.backends.service_process import running_service as started_service
from evaluation.calibration import model
from evaluation.load_test import import_answers
from evaluation.load_test.__main__ import main as load_test
from evaluation.load_test.calibrate import observed_answer
from simulator.server import read_log
from tests.simulator_process import run_simulator_process

ROOT = Path(__file__).parents[2]
KINDS = ("sse", "websocket", "openai")
QUICK_OPTIONS = ("--max-tokens", "12")
NO_PLOTS_OPTIONS = ("--no-plots",)
LIMITED_VARIABLES = {"BUDGETS": "on", "BUDGET_STREAMS_TOTAL": "3"} | {
    name: "off" for name in ("BUDGET_STREAMS_PER_CALLER", "BUDGET_TOKENS_PER_CALLER", "BUDGET_TOKENS_TOTAL")
}


def run_load_test(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the command and return its exit code, the JSON object in its last line, and its output.

    Locust, and the service if one is started, are processes as always. The command itself is run in this one: what its
    reports need takes a second to import.
    """
    with redirect_stdout(io.StringIO()) as written:
        code = load_test(arguments)
    lines = written.getvalue().strip().splitlines()
    assert lines and lines[-1].startswith("{"), written.getvalue()
    return code, json.loads(lines[-1]), written.getvalue()


def run_locust(kind: str, url: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the `locust` command."""
    command = [sys.executable, "-m", "locust", "-f", f"locustfiles/{kind}_user.py", "--headless", "-H", url]
    command += ["-u", "3", "-r", "3", "-t", "1s", "--out", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@contextmanager
def run_service(folder: Path, **variables: str) -> Iterator[str]:
    with started_service(None, folder, variables) as service:
        yield service.url


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_service(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(scope="module")
def simulator() -> Iterator[str]:
    with run_simulator_process("--ttft-ms", "50", "--gap-ms", "10", "--tokens", "16") as result:
        yield result


def test_locust_command_exits_with_verdict(url: str, tmp_path: Path) -> None:
    missed = run_locust("sse", url, tmp_path / "missed", *QUICK_OPTIONS, "--slo", "ttft_p95<1ms")
    assert missed.returncode == 1, missed.stderr
    assert "slo ttft_p95<1ms: missed by" in missed.stdout


def test_locust_command_writes_report_in_any_folder(url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfiles" / "sse_user.py"), "--headless"]
    command += ["-H", url, "-u", "3", "-r", "3", "-t", "1s", *QUICK_OPTIONS, "--slo", "ttft_max<60s,failed<95%"]
    met = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert met.returncode == 0 and "Traceback" not in met.stderr, met.stdout + met.stderr
    for name in ("TTFT", "gap", "answer", "duration", "tokens/s"):
        assert re.search(rf"sse +{name} ", met.stdout + met.stderr), name
    (folder,) = (tmp_path / "out").iterdir()
    run = evaluation.load(folder)
    assert set(run.trials["outcome"]) == {"completed"}
    assert len(run.events[run.events["kind"] == "delivered_text"]) == run.trials["chunks"].sum() >= 6 * len(run.trials)
    assert (folder / "report.html").exists()


def test_load_users_of_each_transport_read_whole_answers(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "load"
    code, facts, _ = run_load_test(
        *("run", "--kind", ",".join(KINDS), "--url", url, "--users", "9", "--duration", "1s", "--out", str(folder)),
        *("--slo", "failed<90%", *NO_PLOTS_OPTIONS, *QUICK_OPTIONS),
    )
    assert code == 0
    assert facts["outcomes"] == {"completed": facts["trials"]}
    trials = evaluation.load(folder).trials
    assert set(trials["transport"]) == set(KINDS)
    assert (trials["ttft_s"] > 0.15).all(), "the simulator's first token comes after 0.2 s"
    assert (trials["output_tokens"] == 12).all()


def test_reconnecting_user_loses_and_duplicates_nothing(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "load"
    _, facts, _ = run_load_test(
        *("run", "--kind", "sse,websocket", "--url", url, "--users", "8", "--duration", "2s", "--out", str(folder)),
        *(*NO_PLOTS_OPTIONS, "--max-tokens", "24", "--reconnect-rate", "1"),
    )
    answers = import_answers.read_answers(folder).answers
    assert facts["outcomes"] == {"completed": len(answers)}
    assert {answer["usage"]["output_tokens"] for answer in answers} == {24}
    for kind in ("sse", "websocket"):
        resumed = [answer["resumed"] for answer in answers if answer["transport"] == kind]
        assert sum(resumed) > len(resumed) / 2, kind


def test_cancelling_user_is_not_counted_as_failure(url: str, tmp_path: Path) -> None:
    code, _, _ = run_load_test(
        *("run", "--kind", ",".join(KINDS), "--url", url, "--users", "18", "--duration", "2s"),
        *(*NO_PLOTS_OPTIONS, "--out", str(tmp_path / "load"), "--max-tokens", "24", "--cancel-rate", "0.5"),
        *("--strategy", "direct", "--slo", "failed<95%"),
    )
    assert code == 0
    trials = evaluation.load(tmp_path / "load").trials
    for kind in KINDS:
        assert set(trials.loc[trials["transport"] == kind, "outcome"]) == {"cancelled", "completed"}, kind


def test_two_locust_workers_make_one_report(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "load"
    code, facts, _ = run_load_test(
        *("run", "--url", url, "--users", "6", "--processes", "2", "--duration", "2s", "--out", str(folder)),
        *(*NO_PLOTS_OPTIONS, *QUICK_OPTIONS, "--slo", "ttft_max<60s"),
    )
    answers = import_answers.read_answers(folder).answers
    assert code == 0
    assert facts["unfinished"] == 0, "a test ends in order: what was under way is awaited on every worker"
    assert {answer["worker"] for answer in answers} == {0, 1}
    assert len({answer["trial_id"] for answer in answers}) == len(answers) == facts["trials"]


def test_levels_of_users_are_one_sweep_of_both_workers(simulator: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    options = ("run", "--kind", "openai", "--url", simulator, "--levels", "2,4", "--processes", "2", "--duration", "8s")
    _, facts, out = run_load_test(*options, *NO_PLOTS_OPTIONS, "--out", str(folder))
    assert [level["level"] for level in facts["load"]] == [2.0, 4.0] and len(facts["knees"]) == 1
    assert "openai:sim:steady: " in out
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    answers = [line for line in lines if "trial_id" in line]
    # Asked in a level, whenever they ended: on a busy machine a worker may finish none within one of them.
    assert {(line["worker"], line["level"]) for line in answers} == {(0, 2), (0, 4), (1, 2), (1, 4)}
    assert facts["trials"] == sum(not line["ramping"] and line["outcome"] != "open" for line in answers)


def test_conversation_is_asked_turn_by_turn(url: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    turns = [{"prompt": "Two?", "think_s": 0.05}, "Three?"]
    file.write_text(json.dumps({"id": "talk", "prompt": "One?", "system": "Be brief.", "turns": turns}) + "\n")
    options = ("--prompts", str(file), "--processes", "1", *NO_PLOTS_OPTIONS, *QUICK_OPTIONS)
    load = ("run", "--kind", "openai,websocket", "--url", url, "--users", "4", "--duration", "4s")
    run_load_test(*load, *options, "--out", str(tmp_path / "load"))
    trials = evaluation.load(tmp_path / "load").trials
    talks = [talk.sort_values("turn") for _, talk in trials.groupby("conversation", observed=True)]
    ended = [talk for talk in talks if len(talk) == 3]
    assert {kind for talk in ended for kind in talk["transport"]} == {"openai", "websocket"}
    assert len(talks) - len(ended) <= 4, "the end of the test may cut one of each user"
    for talk in ended:
        assert talk["turn"].tolist() == [1, 2, 3] and talk["context_tokens"].iloc[0] == 0
        assert talk["input_tokens"].is_monotonic_increasing and talk["context_tokens"].is_monotonic_increasing
        ends_s = talk["sent_monotonic_s"] + talk["e2e_s"]
        assert (talk["sent_monotonic_s"].to_numpy()[1:] > ends_s.to_numpy()[:-1]).all(), "no two turns at once"


def test_workload_has_the_same_figures_as_in_the_evaluation(
    simulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--workload", "200/12,60/8", *NO_PLOTS_OPTIONS)
    load = ("run", "--kind", "openai", "--url", simulator, "--users", "2", "--processes", "2", "--duration", "6s")
    run_load_test(*load, *options, "--out", str(tmp_path / "load"))
    monkeypatch.setenv("OPENAI_BASE_URL", f"{simulator}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    run = ("run", "--providers", "openai:sim", "--prompt-count", "6", *options, "--out", str(tmp_path / "run"))
    assert evaluate(run) == 0
    both = [evaluation.load(tmp_path / name).trials.query("outcome == 'completed'") for name in ("load", "run")]
    for column in ("input_tokens", "output_tokens", "asked_input_tokens", "asked_output_tokens", "template_tokens"):
        medians = [
            trials.groupby(trials["prompt_id"].astype("string").str.split("#").str[0])[column].median().to_dict()
            for trials in both
        ]
        assert medians[0] == pytest.approx(medians[1], rel=0.02), column


def test_load_test_timestamps_match_simulator_log(tmp_path: Path) -> None:
    log, folder = tmp_path / "log.jsonl", tmp_path / "load"
    with run_simulator_process("--tokens", "16", "--gap-ms", "20", "--log", str(log)) as result:
        run_load_test(
            "run",
            "--kind",
            "openai",
            "--url",
            result,
            "--users",
            "8",
            "--duration",
            "2s",
            "--out",
            str(folder),
            *NO_PLOTS_OPTIONS,
        )
    true_s: dict[str, list[float]] = {}
    for line in read_log(str(log)):
        if "seq" in line:
            true_s.setdefault(str(line["request_id"]), []).append(float(str(line["at_s"])))
    answers = [observed_answer(answer) for answer in import_answers.read_answers(folder).answers]
    assert {one.request_id for one in answers} == true_s.keys()
    for one in answers:
        sent_s = true_s[one.request_id]
        assert len(one.tokens_s) == len(sent_s)
        early_s = max(was_s - heard_s for heard_s, was_s in zip(one.tokens_s, sent_s, strict=True))
        assert early_s < 0.001, "nothing is heard before it was sent"


def test_calibrate_measures_load_users_against_simulator(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    run_load_test("calibrate", "--streams", "4", "--duration", "3s", "--out", str(file))
    made = model.read_calibration(file)
    assert made is not None
    (row,) = made.rows
    assert (row.streams, row.failed, row.cpu_s_per_1000_chunks) == (4, 0, None)
    assert row.answers >= 4 and row.ttft_p99_ms is not None and row.gap_p99_ms is not None


@pytest.mark.parametrize(
    ("fault", "outcome"), [("cut", "truncated"), ("truncated", "truncated"), ("503", "failed"), ("html-200", "failed")]
)
def test_broken_stream_is_recorded_as_failure_with_reason(
    fault: str, outcome: str, simulator: str, tmp_path: Path
) -> None:
    load = ("run", "--kind", "openai", "--url", simulator, "--users", "3", "--duration", "1s", "--slo", "failed<1%")
    code, _, _ = run_load_test(*load, *NO_PLOTS_OPTIONS, "--model", f"fault-{fault}", "--out", str(tmp_path / "load"))
    trials = evaluation.load(tmp_path / "load").trials
    assert code == 1
    assert set(trials["outcome"]) == {outcome}
    assert trials["error_message"].str.len().min() > 10


def test_error_in_one_stream_does_not_delay_other_users(url: str, tmp_path: Path) -> None:
    code, facts, _ = run_load_test(
        *("run", "--kind", "openai", "--url", url, "--users", "6", "--duration", "3s", "--slo", "failed<99%"),
        *(
            *NO_PLOTS_OPTIONS,
            "--max-tokens",
            "48",
            "--fault-rate",
            "0.5",
            "--drain-s",
            "5",
            "--out",
            str(tmp_path / "load"),
        ),
    )
    assert code in {0, 4}, "met, or too few answers of each kind to tell"
    assert facts["outcomes"].keys() == {"completed", "failed"}
    assert facts["unfinished"] == 0, "whoever reads in turn gives the turn back"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-H", ""], "error: --host: no service is named"),
        (["-H", "localhost:8000"], "error: --host localhost:8000: has no scheme (write it with http:// or https://"),
        (["-H", "127.0.0.1"], "error: --host 127.0.0.1: has no scheme"),
        (["--cancel-rate", "2"], "'2' is not a share (write a number from 0 to 1)"),
        (["--think-s", "5-1"], "the first number is the larger one"),
        (["--prompts", "nowhere.txt"], "nowhere.txt: No such file or directory"),
        (["--slo", "quickly"], "'quickly'"),
        (["--no-report", "--slo", "failed<1%"], "error: --no-report: leaves the objectives of --slo without a verdict"),
    ],
)
def test_invalid_locust_command_fails_at_once_with_message(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = run_locust("sse", "http://127.0.0.1:9", tmp_path / "load", *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert not (tmp_path / "load").exists()


def test_locust_master_that_cannot_start_leaves_no_worker(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    workers = ["--processes", "2", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    done = run_locust("sse", "http://127.0.0.1:9", tmp_path / "file" / "load", *workers)
    # The workers write to the same pipes: reading these to their end waited for the last of them.
    assert done.returncode == 1 and "Shutting down" in done.stderr and "heartbeat" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: --out {tmp_path / 'file' / 'load'}: cannot be written (Not a directory")


def test_unreachable_service_is_recorded_as_network_failure(tmp_path: Path) -> None:
    code, facts, _ = run_load_test(
        *("run", "--url", "http://127.0.0.1:9", "--users", "1", "--duration", "1s", "--out", str(tmp_path / "load")),
        *NO_PLOTS_OPTIONS,
    )
    assert (code, facts["outcomes"].keys()) == (1, {"failed"})
    assert set(evaluation.load(tmp_path / "load").trials["error_type"]) == {"network"}


def test_gradio_users_read_answers_through_page_queue(tmp_path: Path) -> None:
    folder = tmp_path / "load"
    code, facts, _ = run_load_test(
        *("run", "--kind", "gradio", "--users", "2", "--duration", "1s", "--out", str(folder), "--slo", "ttft_max<60s"),
        *NO_PLOTS_OPTIONS,
    )
    trials = evaluation.load(folder).trials
    assert code == 0, trials["error_message"].tolist()
    assert facts["completed"] == len(trials) > 0
    assert (trials["chunks"] > 3).all()


def test_capacity_search_finds_limit_of_limited_service(tmp_path: Path) -> None:
    with run_service(tmp_path, **LIMITED_VARIABLES) as service:
        # The service gives a place free a moment after an answer's end: nobody asks within that moment.
        code, facts, output = run_load_test(
            *("capacity", "--url", service, "--users", "2", "--most", "4", "--duration", "2s", "--slo", "failed<10%"),
            *("--out", str(tmp_path / "search"), "--max-tokens", "40", "--think-s", "0.05"),
        )
    assert code == 0
    assert facts["streams"] == 3
    assert "most streams at once that meet failed<10%: 3" in output
    assert {step["streams"] for step in facts["steps"]} == {2, 3, 4}


@pytest.mark.parametrize("how", ["interrupted", "terminated"])
def test_interrupted_load_test_keeps_recorded_answers(how: str, url: str, tmp_path: Path) -> None:
    folder = tmp_path / "load"
    command = [sys.executable, "-m", "evaluation.load_test", "run", "--url", url, "--users", "2", "--duration", "90s"]
    command += ["--out", str(folder), "--slo", "failed<90%", *NO_PLOTS_OPTIONS, *QUICK_OPTIONS]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        file = folder / import_answers.ANSWERS_FILE
        while not file.exists() or len(file.read_text(encoding="utf-8").splitlines()) < 4:
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended by itself: {process.wait(0.1)}")
        if how == "interrupted":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert json.loads(output.splitlines()[-1])["completed"] >= 2


def test_short_soak_finds_no_loss_and_no_leak(tmp_path: Path) -> None:
    code, facts, output = run_load_test("soak", "--minutes", "0.1", "--users", "20", "--out", str(tmp_path / "soak"))
    assert facts["problems"] == []
    assert code == 0
    assert "soak: passed" in output
    assert facts["resumed"] > 0 and facts["cancelled"] > 0 and facts["broken_by_provider"] > 0
    assert facts["redis_restarts"] == (1 if shutil.which("redis-server") else None)

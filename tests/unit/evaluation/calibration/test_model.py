"""Calibration: pairing with a log, the error bar, the file, and what a report states of a run."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.__main__ import main
from evaluation.calibration import model, runner
from evaluation.calibration.model import Calibration, CalibrationRow, ObservedAnswer, compare_with_log
from evaluation.reports import calibration, markdown
from evaluation.scenario import plan
from streaming.errors import UsageError
from tests.unit.evaluation import factories

MACHINE = {"kernel": "6.1", "architecture": "x86_64", "cpu_model": "fast", "cpu_count": 2}


def log_lines(name: str, *at_s: float) -> Iterator[dict[str, Any]]:
    yield {"request_id": name, "event": "received", "at_s": 9.5}
    for seq, moment_s in reversed(list(enumerate(at_s))):
        yield {"request_id": name, "event": "sent", "seq": seq, "at_s": moment_s}
    yield {"request_id": name, "event": "sent", "kind": "finish", "at_s": 99.0}


def observed_answer(name: str, *tokens_s: float, **changes: Any) -> ObservedAnswer:
    return replace(ObservedAnswer(name, 9.25, list(tokens_s), 0, "kernel"), **changes)


def make_row(streams: int, ttft_ms: float = 0.1, gap_ms: float = 0.2, **changes: Any) -> CalibrationRow:
    result = CalibrationRow("plain", streams, streams, 0, 0.01, ttft_ms, 0.01, gap_ms, 0.3, 0, 0.05)
    return replace(result, **changes)


def make_calibration(*rows: CalibrationRow, **changes: Any) -> Calibration:
    result = Calibration("2026-01-01", 1.0, 64, 20.0, True, "kernel", rows, {}, MACHINE, {"python": "3.11"}, None)
    return replace(result, **changes)


def test_errors_are_differences_from_log_in_ms() -> None:
    result = compare_with_log(
        "plain", 1, [observed_answer("a", 10.002, 10.020, 10.049)], log_lines("a", 10.0, 10.02, 10.04), cpu_s=0.003
    )
    assert (result.answers, result.failed, result.cpu_s_per_1000_chunks) == (1, 0, 1.0)
    assert [result.ttft_p50_ms, result.ttft_p99_ms] == pytest.approx([2, 2])
    assert [result.gap_p50_ms, result.gap_p99_ms] == pytest.approx([2, 9])
    assert result.heard_p99_ms == pytest.approx(250)


@pytest.mark.parametrize(
    "broken",
    [
        observed_answer("b", 10.0, 10.02, problem="closed"),
        observed_answer("b", 10.0),
        observed_answer("b", 10.0, 10.02, 10.04),
        observed_answer("c", 10.0),
    ],
    ids=["reported by the client", "a token is missing", "one token too many", "not in the log"],
)
def test_unpaired_answer_counts_as_failed_without_error(broken: ObservedAnswer) -> None:
    truth = [*log_lines("a", 10.0, 10.02), *log_lines("b", 10.0, 10.02)]
    result = compare_with_log("tls", 2, [observed_answer("a", 10.0, 10.02), broken], truth, cpu_s=1.0)
    assert (result.answers, result.failed, result.ttft_p99_ms) == (2, 1, 0.0)
    assert not result.within(1000)


def test_calibration_without_answers_has_unknown_errors() -> None:
    result = compare_with_log("plain", 1, [observed_answer("a", problem="unreachable", sent_s=None)], [], cpu_s=0.1)
    figures = (result.ttft_p50_ms, result.gap_p99_ms, result.heard_p99_ms, result.cpu_s_per_1000_chunks)
    assert figures == (None, None, None, None) and result.failed == 1 and not result.within(1000)


def test_p99_of_few_answers_is_the_maximum() -> None:
    answers = [observed_answer(str(n), 10.0 + n / 1000, 11.0 + n / 1000) for n in range(8)]
    truth = [line for n in range(8) for line in log_lines(str(n), 10.0, 11.0)]
    assert compare_with_log("plain", 8, answers, truth, cpu_s=1.0).ttft_p99_ms == pytest.approx(7)


def test_error_bar_ends_before_first_row_beyond_limit() -> None:
    rows = [
        make_row(256),
        make_row(64, gap_ms=1.5),
        make_row(16, ttft_ms=0.9),
        make_row(1, gap_ms=0.8),
        make_row(512, way="tls"),
    ]
    result = model.error_bar(rows, "plain", within_ms=1.0)
    assert result == model.ErrorBar("plain", 16, ttft_ms=0.9, gap_ms=0.8)
    assert model.error_bar(rows, "plain", within_ms=0.5) is None
    assert model.error_bar([make_row(1), make_row(16, failed=1)], "plain", 1.0) == model.ErrorBar("plain", 1, 0.1, 0.2)


def test_calibration_file_round_trips(tmp_path: Path) -> None:
    made_now = make_calibration(make_row(1), make_row(16, ttft_p99_ms=None), left_out={"tls": "no openssl"})
    model.write_calibration(tmp_path / "c.json", made_now)
    assert model.read_calibration(tmp_path / "c.json") == made_now
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_default_calibration_file_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model.read_calibration(None) is None
    Path("out").mkdir()
    model.write_calibration(model.DEFAULT_FILE, make_calibration(make_row(1)))
    assert model.read_calibration(None) == make_calibration(make_row(1))


@pytest.mark.parametrize("text", ["{oops", "[]", '{"calibration": 2}', '{"calibration": 1, "rows": 3}'])
def test_invalid_calibration_file_is_rejected(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.json").write_text(text)
    options = ["--providers", "sim:steady", "--out", str(tmp_path / "run"), "--calibration", str(tmp_path / "c.json")]
    assert main(["run", *options]) == 2
    assert "c.json: " in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_missing_requested_calibration_file_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: No such file"):
        model.read_calibration(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--streams 1,many", "not a list of numbers"),
        ("--streams 0", "use 1 to 4096"),
        ("--ways plain,quic", "'quic' is unknown"),
        ("--within-ms 0", "not a time"),
        ("--within-ms nan", "not a time"),
        ("--out .", "Is a directory"),
    ],
)
def test_invalid_calibrate_options_exit_with_2_and_one_line(
    options: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *options.split()]) == 2
    out, errors = capsys.readouterr()
    assert out == "" and words in errors and len(errors.splitlines()) == 1


def test_missing_openssl_skips_tls_and_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match=r"nothing to measure \(no certificate"):
        runner.calibrate(runner.parse_options("1", "tls", 1.0))
    output = list(calibration.calibration_notes(make_calibration(make_row(1), left_out={"tls": "no openssl"})))
    assert "TLS: left out: no openssl" in output


def report_text(result: Calibration | None, *sources: str, **facts: Any) -> str:
    error = None if result is None else result.as_dict()
    about = {"instrument_error": error, "machine": MACHINE, "scenario": {"concurrency": 16}}
    return "\n".join(calibration.report_lines({**about, **facts}, sources))


def test_timestamped_run_reports_error_bar_of_each_connection_kind() -> None:
    result = make_calibration(make_row(16), make_row(64, ttft_ms=2.0), make_row(64, gap_ms=0.5, way="tls"))
    output = report_text(result, "kernel", "kernel")
    assert (
        "plain: this machine measures TTFT within 0.100 ms and gaps within 0.200 ms at up to 16 streams (p99)" in output
    )
    assert "TLS: this machine measures TTFT within 0.100 ms and gaps within 0.500 ms at up to 64 streams" in output
    assert output.count("calibrated on 2026-01-01") == 2 and "**" not in output and "no error bar" not in output


def test_skipped_connection_kind_is_reported_not_calibrated() -> None:
    assert (
        "- instrument error, TLS: not calibrated" in report_text(make_calibration(make_row(16)), "kernel").splitlines()
    )


def test_in_process_trials_have_no_error_bar() -> None:
    assert "1 trials were timed in the requesting process" in report_text(
        make_calibration(make_row(16)), "kernel", "in-process"
    )
    alone = report_text(make_calibration(make_row(16)), "in-process")
    assert "not calibrated: timed in the requesting process" in alone and "this machine" not in alone


def test_report_without_calibration_names_the_command() -> None:
    assert report_text(None, "kernel") == "- instrument error: not calibrated: run python -m evaluation calibrate"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"scenario": {"concurrency": 17}}, "17 at a time is beyond the calibration, plain up to 16"),
        ({"loads": [{"concurrency_max": 3}, {"concurrency_max": 20}]}, "20 at a time is beyond the calibration"),
        ({"machine": MACHINE | {"cpu_count": 8}}, "of another machine (cpu count 2, not 8)"),
        ({"instrument": [{"real_time_priority": False}]}, "this run did not always"),
    ],
)
def test_report_warns_of_conditions_outside_calibration(facts: dict[str, Any], words: str) -> None:
    output = report_text(make_calibration(make_row(16)), "kernel", **facts)
    assert [line for line in output.splitlines() if line.startswith("- **") and words in line]
    about = {"instrument_error": make_calibration(make_row(16)).as_dict(), "machine": MACHINE, **facts}
    assert calibration.calibration_warnings(about, ["in-process"]) == []


def test_report_warns_of_callback_timestamps() -> None:
    assert "**1 trials had no kernel timestamps" in report_text(make_calibration(make_row(16)), "kernel", "callback")


def test_report_uses_error_bar_from_manifest(tmp_path: Path) -> None:
    expected = factories.make_scenario()
    trials = [
        (factories.make_trial(planned, stamp_source="kernel"), factories.make_gap_events(planned, 0.02))
        for planned in plan(expected)
    ]
    factories.write_run(tmp_path, expected, trials, instrument_error=make_calibration(make_row(16)).as_dict())
    markdown.write_report(tmp_path)
    text = (tmp_path / markdown.REPORT_FILE).read_text(encoding="utf-8")
    assert "- instrument error, plain: this machine measures TTFT within 0.100 ms" in text
    assert "of another machine" in text


def test_calibration_table_shows_unknown_as_dash() -> None:
    result = calibration.calibration_table(make_calibration(make_row(1, ttft_p50_ms=None, cpu_s_per_1000_chunks=None)))
    cells = [next(iter(column.cells)) for column in result.columns]
    assert cells[:2] == ["plain", "1"] and "–/0.100" in cells and cells[-2:] == ["–", "yes"]
    assert model.calibration_from_dict(make_calibration(make_row(1)).as_dict()).rows == (
        CalibrationRow(**asdict(make_row(1))),
    )

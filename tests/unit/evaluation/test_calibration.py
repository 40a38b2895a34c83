"""Calibration: pairing with a log, the verdict, the file, and what a report may say of a run because of it."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from evaluation import calibration, calibration_report, calibration_run, report
from evaluation.__main__ import main
from evaluation.calibration import Calibration, Noted, Row, compared
from evaluation.scenario import plan
from streaming.errors import UsageError
from tests.unit.evaluation import made

MACHINE = {"kernel": "6.1", "architecture": "x86_64", "cpu_model": "fast", "cpu_count": 2}


def log(name: str, *at_s: float) -> Iterator[dict[str, Any]]:
    yield {"request_id": name, "event": "received", "at_s": 9.5}
    for seq, moment_s in reversed(list(enumerate(at_s))):
        yield {"request_id": name, "event": "sent", "seq": seq, "at_s": moment_s}
    yield {"request_id": name, "event": "sent", "kind": "finish", "at_s": 99.0}


def noted(name: str, *tokens_s: float, **changes: Any) -> Noted:
    return replace(Noted(name, 9.25, list(tokens_s), 0, "kernel"), **changes)


def row(streams: int, ttft_ms: float = 0.1, gap_ms: float = 0.2, **changes: Any) -> Row:
    found = Row("plain", streams, streams, 0, 0.01, ttft_ms, 0.01, gap_ms, 0.3, 0, 0.05)
    return replace(found, **changes)


def calibrated(*rows: Row, **changes: Any) -> Calibration:
    found = Calibration("2026-01-01", 1.0, 64, 20.0, True, "kernel", rows, {}, MACHINE, {"python": "3.11"}, None)
    return replace(found, **changes)


def test_errors_are_distances_from_the_log_in_milliseconds() -> None:
    found = compared("plain", 1, [noted("a", 10.002, 10.020, 10.049)], log("a", 10.0, 10.02, 10.04), cpu_s=0.003)
    assert (found.answers, found.failed, found.cpu_s_per_1000_chunks) == (1, 0, 1.0)
    assert [found.ttft_p50_ms, found.ttft_p99_ms] == pytest.approx([2, 2])
    assert [found.gap_p50_ms, found.gap_p99_ms] == pytest.approx([2, 9])
    assert found.heard_p99_ms == pytest.approx(250)


@pytest.mark.parametrize(
    "broken",
    [noted("b", 10.0, 10.02, problem="closed"), noted("b", 10.0), noted("b", 10.0, 10.02, 10.04), noted("c", 10.0)],
    ids=["said so", "a token is missing", "a token too many", "not in the log"],
)
def test_an_answer_that_cannot_be_paired_counts_as_failed_and_has_no_error(broken: Noted) -> None:
    truth = [*log("a", 10.0, 10.02), *log("b", 10.0, 10.02)]
    found = compared("tls", 2, [noted("a", 10.0, 10.02), broken], truth, cpu_s=1.0)
    assert (found.answers, found.failed, found.ttft_p99_ms) == (2, 1, 0.0)
    assert not found.within(1000)


def test_without_any_answer_errors_are_unknown_and_not_0() -> None:
    found = compared("plain", 1, [noted("a", problem="unreachable", sent_s=None)], [], cpu_s=0.1)
    figures = (found.ttft_p50_ms, found.gap_p99_ms, found.heard_p99_ms, found.cpu_s_per_1000_chunks)
    assert figures == (None, None, None, None) and found.failed == 1 and not found.within(1000)


def test_the_99th_percentile_of_few_answers_is_the_worst_of_them() -> None:
    answers = [noted(str(n), 10.0 + n / 1000, 11.0 + n / 1000) for n in range(8)]
    truth = [line for n in range(8) for line in log(str(n), 10.0, 11.0)]
    assert compared("plain", 8, answers, truth, cpu_s=1.0).ttft_p99_ms == pytest.approx(7)


def test_the_bar_ends_before_the_first_row_that_is_beyond_the_error() -> None:
    rows = [row(256), row(64, gap_ms=1.5), row(16, ttft_ms=0.9), row(1, gap_ms=0.8), row(512, way="tls")]
    found = calibration.bar(rows, "plain", within_ms=1.0)
    assert found == calibration.Bar("plain", 16, ttft_ms=0.9, gap_ms=0.8)
    assert calibration.bar(rows, "plain", within_ms=0.5) is None
    assert calibration.bar([row(1), row(16, failed=1)], "plain", 1.0) == calibration.Bar("plain", 1, 0.1, 0.2)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    made_now = calibrated(row(1), row(16, ttft_p99_ms=None), left_out={"tls": "no openssl"})
    calibration.write(tmp_path / "c.json", made_now)
    assert calibration.read(tmp_path / "c.json") == made_now
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_the_usual_file_is_found_and_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert calibration.read(None) is None
    Path("out").mkdir()
    calibration.write(calibration.DEFAULT_FILE, calibrated(row(1)))
    assert calibration.read(None) == calibrated(row(1))


@pytest.mark.parametrize("text", ["{oops", "[]", '{"calibration": 2}', '{"calibration": 1, "rows": 3}'])
def test_a_file_that_is_no_calibration_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.json").write_text(text)
    options = ["--providers", "sim:steady", "--out", str(tmp_path / "run"), "--calibration", str(tmp_path / "c.json")]
    assert main(["run", *options]) == 2
    assert "c.json: " in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_calibration_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: No such file"):
        calibration.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--streams 1,many", "write numbers"),
        ("--streams 0", "from 1 to 4096"),
        ("--ways plain,quic", "'quic' is not there"),
        ("--within-ms 0", "more than 0"),
        ("--within-ms nan", "more than 0"),
        ("--out .", "Is a directory"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line_and_exit_code_2(
    options: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *options.split()]) == 2
    out, errors = capsys.readouterr()
    assert out == "" and words in errors and len(errors.splitlines()) == 1


def test_without_openssl_tls_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="nothing is left to be measured: TLS needs a certificate"):
        calibration_run.calibrate(calibration_run.wanted("1", "tls", 1.0))
    said = list(calibration_report.remarks(calibrated(row(1), left_out={"tls": "no openssl"})))
    assert "TLS: left out: no openssl" in said


def lines(found: Calibration | None, *sources: str, **facts: Any) -> str:
    error = None if found is None else found.as_dict()
    about = {"instrument_error": error, "machine": MACHINE, "scenario": {"concurrency": 16}}
    return "\n".join(calibration_report.lines({**about, **facts}, sources))


def test_a_stamped_run_has_the_error_bar_of_each_way() -> None:
    found = calibrated(row(16), row(64, ttft_ms=2.0), row(64, gap_ms=0.5, way="tls"))
    said = lines(found, "kernel", "kernel")
    assert (
        "plain: this machine measures TTFT within 0.100 ms and gaps within 0.200 ms at up to 16 streams (p99)" in said
    )
    assert "TLS: this machine measures TTFT within 0.100 ms and gaps within 0.500 ms at up to 64 streams" in said
    assert said.count("calibrated on 2026-01-01") == 2 and "**" not in said and "no error bar" not in said


def test_a_way_that_was_left_out_is_not_calibrated() -> None:
    assert "- instrument error, TLS: not calibrated" in lines(calibrated(row(16)), "kernel").splitlines()


def test_trials_that_were_timed_in_the_process_have_no_error_bar() -> None:
    assert "1 trials were timed in the process" in lines(calibrated(row(16)), "kernel", "in-process")
    alone = lines(calibrated(row(16)), "in-process")
    assert "not calibrated: timed in the process that asked" in alone and "this machine" not in alone


def test_without_a_calibration_the_report_says_how_to_make_one() -> None:
    assert lines(None, "kernel") == "- instrument error: not calibrated: run python -m evaluation calibrate"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"scenario": {"concurrency": 17}}, "17 at a time is beyond the calibration, plain up to 16"),
        ({"loads": [{"concurrency_max": 3}, {"concurrency_max": 20}]}, "20 at a time is beyond the calibration"),
        ({"machine": MACHINE | {"cpu_count": 8}}, "of another machine (cpu count 2, not 8)"),
        ({"instrument": [{"real_time_priority": False}]}, "this run had not always"),
    ],
)
def test_what_the_calibration_does_not_cover_is_warned_of(facts: dict[str, Any], words: str) -> None:
    said = lines(calibrated(row(16)), "kernel", **facts)
    assert [line for line in said.splitlines() if line.startswith("- **") and words in line]
    about = {"instrument_error": calibrated(row(16)).as_dict(), "machine": MACHINE, **facts}
    assert calibration_report.warnings(about, ["in-process"]) == []


def test_stamps_that_are_not_the_kernels_are_warned_of() -> None:
    assert "**1 trials had no stamps of the kernel's" in lines(calibrated(row(16)), "kernel", "callback")


def test_the_report_of_a_folder_has_the_error_bar_of_its_manifest(tmp_path: Path) -> None:
    wanted = made.scenario()
    trials = [(made.trial(planned, stamp_source="kernel"), made.gaps(planned, 0.02)) for planned in plan(wanted)]
    made.write(tmp_path, wanted, trials, instrument_error=calibrated(row(16)).as_dict())
    report.rebuild(tmp_path)
    text = (tmp_path / report.REPORT).read_text(encoding="utf-8")
    assert "- instrument error, plain: this machine measures TTFT within 0.100 ms" in text
    assert "of another machine" in text


def test_the_table_shows_unknown_as_a_dash() -> None:
    found = calibration_report.table(calibrated(row(1, ttft_p50_ms=None, cpu_s_per_1000_chunks=None)))
    cells = [next(iter(column.cells)) for column in found.columns]
    assert cells[:2] == ["plain", "1"] and "–/0.100" in cells and cells[-2:] == ["–", "yes"]
    assert calibration.from_dict(calibrated(row(1)).as_dict()).rows == (Row(**asdict(row(1))),)

"""The command line in this process: invalid arguments, and options that reach the run."""

import json
from pathlib import Path

import pytest

import evaluation
from evaluation.__main__ import main


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--providers nobody:x", "nobody"),
        ("--providers sim:nothing", "nothing"),
        ("--providers sim:steady,sim:steady", "providers: one is repeated"),
        ("--providers sim:steady --strategies fast", "strategy 'fast': unknown"),
        ("--providers sim:steady --prompts missing.txt", "missing.txt: No such file"),
        ("--providers sim:steady --prompt-count 25", "prompt-count: out of range (use 1 to 24"),
        ("--providers sim:steady --transport pigeon", "transport: 'pigeon'"),
        ("--providers sim:steady --url http://127.0.0.1:9", "url: not used by any transport"),
        ("--providers sim:steady --transport sse --url 127.0.0.1:9", "--url '127.0.0.1:9': not an address"),
        ("--providers sim:steady --transport sse --url http://[::1", "--url 'http://[::1': not an address"),
        ("--providers sim:steady --transport sse --url http://a:99999", "--url 'http://a:99999': not an address"),
        ("--providers sim:steady --transport sse --url http://me:key@there", "without a key"),
        ("--providers nobody:x --transport sse --url http://127.0.0.1:9", "nobody"),
        ("--providers sim:steady --price cheap", "cheap"),
        ("--providers replay:missing.jsonl", "missing.jsonl"),
        ("--providers sim:steady --repeats 0", "repeats: invalid value (write a whole number of at least 1"),
        ("--providers sim:steady --temperature nan", "temperature: invalid value (write a number of at least 0)"),
        ("--providers sim:steady --temperature 99", "temperature: out of range"),
        ("--providers sim:steady --retries 99999", "retries: too many"),
        ("--providers sim:steady --seed -5", "seed: invalid value (write a whole number of at least 0)"),
        ("--providers sim:steady --retry-failed", "--retry-failed: needs --resume"),
        ("--providers sim:steady --warm --fresh", "warm and fresh exclude each other"),
        ("--providers sim:steady --timeouts first=0", "timeouts: 'first=0' is not NAME=NUMBER"),
        ("--providers sim:steady --reader tokens=0", "reader: 'tokens=0' is not NAME=NUMBER"),
        ("--providers sim:steady --timeouts soon=5", "use connect, first, idle, total"),
        ("--providers sim:steady --scrape host:1", "--scrape 'host:1': not an address"),
        ("--providers sim:steady --scrape service", "--scrape service: nothing is sent to it"),
    ],
)
def test_invalid_run_options_exit_with_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, words: str
) -> None:
    assert main(["run", *options.split(), "--out", str(tmp_path / "out")]) == 2
    out, errors = capsys.readouterr()
    assert words in errors and len(errors.splitlines()) == 1
    assert out == "" and not (tmp_path / "out").exists()


def test_uncreatable_output_folder_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["run", "--providers", "sim:steady", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "can be written" in capsys.readouterr().err


def test_report_of_empty_folder_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "contains no run" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_missing_command_prints_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, errors = capsys.readouterr()
    assert out == "" and "usage:" in errors and "report" in errors


@pytest.mark.parametrize("arguments", [["dance"], ["run", "--cheap"], ["replay"], ["compare", "a"]])
def test_unknown_command_or_missing_arguments_exit_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as excinfo:
        main(arguments)
    assert excinfo.value.code == 2 and "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"), [("", "--providers: missing"), ("--providers sim:steady --resume", "--out: missing")]
)
def test_missing_required_option_is_named(options: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *options.split()]) == 2
    assert words in capsys.readouterr().err


def test_run_without_a_folder_gets_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"id": "mine", "prompt": "Why?"}\n')
    options = "run --providers sim:steady --prompts prompts.jsonl --max-tokens 2 --no-warm-up --no-plots"
    assert main(options.split()) == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name.startswith("run-") and len(evaluation.load(folder).trials) == 1
    assert f"the results are written to {folder.relative_to(tmp_path)}" in capsys.readouterr().err


def test_command_line_options_reach_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"id": "mine", "prompt": "Why?"}\n')
    options = "run --providers sim:steady --repeats 1 --max-tokens 5 --seed 9 --temperature 0.5 --no-warm-up"
    requests = ["--prompts", str(tmp_path / "prompts.jsonl"), "--price", "gpt=1/2", "--reader", "tokens=20"]
    assert main([*options.split(), *requests, "--out", str(tmp_path / "run")]) == 0
    run = evaluation.load(tmp_path / "run")
    assert run.trials[["prompt_id", "chunks", "finish_reason"]].to_numpy().tolist() == [["mine", 5, "length"]]
    scenario = run.manifest["scenario"]
    assert (scenario["temperature"], scenario["seed"], scenario["warm_up"]) == (0.5, 9, 0)
    assert run.manifest["measures"] == {
        "fluidity": {"first_s": 1.0, "token_s": 0.05}, "qoe": {"chars_per_s": 23.8, "first_s": 1.0},
    }  # fmt: skip
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["completed"] == 1


def test_run_without_completed_trial_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "run --providers sim:cut --repeats 1 --prompt-count 1 --no-warm-up"
    assert main([*options.split(), "--out", str(tmp_path / "run")]) == 1
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (data["completed"], data["failed"], data["outcomes"]) == (0, 1, {"truncated": 1})


def test_unused_price_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    words = "run --providers sim:steady --dry-run --price steady=1/2 --price sim:steady=1/2 --price sim:stedy=1/2"
    assert main(words.split()) == 0
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert "--price: not used for sim:stedy (write one of sim:steady" in note

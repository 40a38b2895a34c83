"""Tests of the removal of this machine's paths from texts for visitors."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation import tables
from ui.results.run_list import SAMPLE
from ui.results.server_paths import hide_folder, hide_paths_in_run, hide_server_paths

HERE = Path(__file__).resolve()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/runs/a/manifest.json: not JSON", "…/manifest.json: not JSON"),
        ("cannot open '/tmp/x y'", "cannot open '…/x y'"),
        ("replay:/root/traces/one.jsonl", "replay:…/one.jsonl"),
        ("cannot read /etc/hostname (denied)", "cannot read …/hostname (denied)"),
        ("see file:///var/log/app.log", "see …/app.log"),
        ("[Errno 2] No such file: '/etc/ssl/'", "[Errno 2] No such file: '…/ssl'"),
        (r"C:\Users\ann\run\trials.csv is missing", "…/trials.csv is missing"),
        (f"{HERE}: line 3", "…/test_server_paths.py: line 3"),
        (f"{tempfile.gettempdir()}/abc/x.json", "…/x.json"),
        ("(/usr/lib/python3.11/json/decoder.py)", "(…/decoder.py)"),
    ],
)
def test_absolute_path_is_shortened_to_its_name(text: str, shown: str) -> None:
    assert hide_server_paths(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://api.example.com/v1/models", "POST /v1/chat/completions: 404", "/api/chat/ws requires a WebSocket",
        "openrouter:meta-llama/llama-3", "hf:org/home/model", "and/or", "1/2", "http://127.0.0.1:8000/data/x",
        "application/json", "50 tokens/s", "/ alone", "a // b", "…/manifest.json", "/datasheet",
    ],
)  # fmt: skip
def test_other_text_is_unchanged(text: str) -> None:
    assert hide_server_paths(text) == text


def test_folder_of_any_name_is_left_out() -> None:
    folder = Path("/tmp/<a b>/$x$/run 1")
    assert hide_folder(f"{folder}/manifest.json: not JSON", folder) == "manifest.json: not JSON"
    assert hide_folder(f"{folder}: contains no run", folder) == "run 1: contains no run"


def test_trials_and_manifest_of_a_run_have_no_paths() -> None:
    run = tables.load(SAMPLE)
    trials = run.trials.assign(error_message=f"OSError: {HERE} is gone", prompt_id="/root/p.txt")
    found = hide_paths_in_run(replace(run, trials=trials, manifest={"a": [{"/root/k": f"{HERE}"}], "n": 3}))
    assert set(found.trials["error_message"]) == {"OSError: …/test_server_paths.py is gone"}
    assert set(found.trials["prompt_id"]) == {"…/p.txt"}
    assert found.manifest == {"a": [{"…/k": "…/test_server_paths.py"}], "n": 3}
    assert found.trials["run_id"].equals(run.trials["run_id"]) and found.events is run.events

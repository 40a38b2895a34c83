"""Damaged or edited runs: commands and page show the run, or report the error in one line."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evaluation import manifest, tables
from evaluation.__main__ import main
from evaluation.scenario import plan
from evaluation.schema import EventRow
from streaming.errors import UsageError
from tests.unit.evaluation import factories
from tests.unit.ui.results import result_fixtures
from ui.results.run_list import RunList

SAMPLE = Path(__file__).parents[2] / "docs" / "sample-run"
FACTS = json.loads((SAMPLE / "manifest.json").read_text(encoding="utf-8"))
WRONG: list[Any] = [
    None, -1, 10**400, True, "", "\ud800", "\x1b[2J", "<img src=x>", [], {}, [[1]], {"id": 3}, float("nan"),
    float("-inf"), 1e308, "x" * 5000,
]  # fmt: skip


TRIALS = pd.read_parquet(SAMPLE / "trials.parquet").groupby("model").head(7).reset_index(drop=True)
EVENTS = pd.read_parquet(SAMPLE / "events.parquet").merge(TRIALS["trial_id"])
"""Seven trials of each provider of the sample, with their events: enough for every table and chart."""


@pytest.fixture(scope="module")
def small_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(SAMPLE, tmp_path_factory.mktemp("sample") / "run"))
    TRIALS.to_parquet(folder / "trials.parquet", index=False)
    EVENTS.to_parquet(folder / "events.parquet", index=False)
    return folder


@pytest.fixture
def run(small_sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_sample, tmp_path / "run"))


def iter_paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every field, and of the first two entries of every list."""
    if at:
        yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, one in inside:
        yield from iter_paths(one, (*at, key))


def change_manifest(at: tuple[Any, ...], *, value: Any = None, leave_out: bool = False) -> dict[str, Any]:
    """Return the sample's manifest with one field changed or removed."""
    facts: dict[str, Any] = copy(FACTS)
    holder: Any = facts
    for key in at[:-1]:  # only what holds the field is copied: most of the manifest is the order of the trials
        holder[key] = copy(holder[key])
        holder = holder[key]
    if leave_out:
        del holder[at[-1]]
    else:
        holder[at[-1]] = value
    return facts


def results_tab_error(run: Path) -> str:
    """Return the error that the Results tab shows for a run; empty if it shows the run."""
    shown = result_fixtures.show_run(run)
    assert bool(shown.headline) != bool(shown.error)
    assert len(shown.error.splitlines()) <= 1 and "\x1b" not in shown.error
    assert str(run.parent) not in "".join(shown.texts), "no path of this machine is shown"
    return shown.error


@pytest.mark.parametrize("at", list(iter_paths(FACTS)), ids=lambda at: ".".join(map(str, at)))
def test_manifest_with_missing_or_mistyped_field_is_read_or_reported(run: Path, at: tuple[Any, ...]) -> None:
    candidates = [change_manifest(at, leave_out=True), *(change_manifest(at, value=value) for value in WRONG)]
    for facts in candidates:
        (run / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")
        output = f"{run / 'manifest.json'}: one line"
        try:
            manifest.read(run)
        except UsageError as error:
            output = str(error)
        assert output.startswith(f"{run / 'manifest.json'}: ") and "\n" not in output


@pytest.mark.parametrize("seed", range(5))
def test_manifest_with_many_faults_is_shown_or_reported(run: Path, seed: int) -> None:
    draw = random.Random(seed)
    fields = list(iter_paths(FACTS))
    for _ in range(4):
        at = draw.choice(fields)
        facts = change_manifest(at, value=draw.choice(WRONG), leave_out=draw.random() < 0.3)
        (run / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")
        results_tab_error(run)


def test_manifest_prompt_without_id_is_reported_by_every_command(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "manifest.json").write_text(json.dumps(change_manifest(("scenario", "prompts", 0, "id"), leave_out=True)))
    assert "scenario.prompts.0.id is missing" in results_tab_error(run)
    for command in (["report", str(run)], ["compare", str(run), str(SAMPLE)], ["compare", str(SAMPLE), str(run)]):
        assert main(command) == 2
        output = capsys.readouterr()
        assert output.err.count("\n") == 1 and "scenario.prompts.0.id is missing" in output.err and not output.out
    assert main(["replay", str(run), "--strategies", "direct", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not JSON"), (b"\xff\xfe\x00", "not JSON"), (b"[" * 100_000, "not JSON"), (b"[1]", "not a JSON object")],
)
def test_manifest_other_than_json_object_is_reported(run: Path, content: bytes, words: str) -> None:
    (run / "manifest.json").write_bytes(content)
    assert words in results_tab_error(run)


def test_manifest_that_is_a_folder_is_reported(run: Path) -> None:
    (run / "manifest.json").unlink()
    (run / "manifest.json").mkdir()
    assert "cannot be read" in results_tab_error(run)


def replace_cells(frame: pd.DataFrame, column: str, value: Any) -> pd.DataFrame:
    """Return a table with this value in two cells, in the dtype that reading it from a file would have."""
    result = frame.astype({column: object})
    result.loc[[0, 3], column] = value
    return result.convert_dtypes() if value is None else result


@pytest.mark.parametrize(
    ("name", "frame", "words"),
    [
        ("trials", replace_cells(TRIALS, "provider", None), "provider is missing"),
        ("trials", replace_cells(TRIALS, "outcome", "won"), "outcome cannot be 'won'"),
        ("trials", replace_cells(TRIALS, "ttft_s", float("inf")), "ttft_s cannot be inf"),
        ("trials", replace_cells(TRIALS, "e2e_s", -1e300), "e2e_s cannot be -1e+300"),
        ("trials", replace_cells(TRIALS, "chunks", -4), "chunks cannot be -4"),
        ("trials", replace_cells(TRIALS, "trial_id", "same"), "a trial_id occurs twice"),
        ("trials", TRIALS.drop(columns="strategy"), "column strategy is missing"),
        ("trials", pd.DataFrame(), "column run_id is missing"),
        ("events", replace_cells(EVENTS, "kind", None), "kind is missing"),
        ("events", replace_cells(EVENTS, "trial_id", None), "trial_id is missing"),
        ("events", EVENTS.assign(chars=None), "a text has no length or no timestamp"),
        ("events", EVENTS.assign(source_s=None, delivered_s=None), "a text has no length or no timestamp"),
        ("events", EVENTS.drop(columns="seq"), "column seq is missing"),
    ],
)
def test_table_with_impossible_values_is_reported(run: Path, name: str, frame: pd.DataFrame, words: str) -> None:
    frame.to_parquet(run / f"{name}.parquet", index=False)
    wrong = results_tab_error(run)
    assert f"{name}.parquet: cannot be read: " in wrong and words.replace("'", "&#x27;") in wrong


@pytest.mark.parametrize("name", ["trials.parquet", "events.parquet"])
def test_table_damaged_or_missing_or_a_folder_is_reported(run: Path, name: str) -> None:
    (run / name).write_bytes((run / name).read_bytes()[:500])
    assert f"{name}: cannot be read" in results_tab_error(run)
    (run / name).unlink()
    assert f"{name}: missing" in results_tab_error(run)
    (run / name).mkdir()
    assert f"{name}: cannot be read" in results_tab_error(run)


@pytest.mark.parametrize(
    "frame",
    [EVENTS.assign(chars=0), EVENTS.iloc[:0], EVENTS.sample(frac=1, random_state=1), EVENTS.assign(source_s=5.0)],
    ids=["empty texts", "no events", "shuffled", "all at once"],
)
def test_run_with_unusual_events_is_shown(run: Path, frame: pd.DataFrame) -> None:
    frame.to_parquet(run / "events.parquet", index=False)
    assert results_tab_error(run) == ""


def test_run_with_damaged_table_is_read_from_journal(tmp_path: Path) -> None:
    expected = factories.make_scenario()
    planned = plan(expected)
    factories.write_run(
        tmp_path, expected, [(factories.make_trial(p), factories.make_gap_events(p, 0.1)) for p in planned]
    )
    tables.write(tmp_path, tables.from_journal(tmp_path))
    (tmp_path / "trials.parquet").write_bytes(b"PAR1")
    assert len(tables.load(tmp_path).trials) == len(planned)


def test_report_of_folder_without_journal_keeps_tables(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "trials.parquet").read_bytes()
    assert main(["report", str(run), "--no-plots"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["trials"] == len(TRIALS)
    assert (run / "trials.parquet").read_bytes() == before


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e300, 10**400, -1])
def test_journal_with_impossible_numbers_is_reported(tmp_path: Path, value: float) -> None:
    expected = factories.make_scenario()
    factories.write_run(
        tmp_path, expected, [(factories.make_trial(p), factories.make_gap_events(p, 0.1)) for p in plan(expected)]
    )
    event = EventRow("run", "run-00001", 9, "source_text", 1, None, 1.0, None)._asdict()
    with (tmp_path / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(event | {"chars": value}) + "\n")
    with pytest.raises(UsageError) as result:
        tables.load(tmp_path)
    assert "\n" not in str(result.value)


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "a b", "東京", "$x$", "..run", "[x](y)"])
def test_run_in_folder_of_any_name_is_shown(run: Path, name: str) -> None:
    assert results_tab_error(run.rename(run.with_name(name))) == ""


def test_run_in_folder_with_unprintable_name_can_be_chosen(run: Path) -> None:
    for name in ("a\x1b[31mb", "c\udcff", "d\ne"):
        run = run.rename(run.with_name(name))
        (entry,) = RunList(run.parent, run.parent / "none").entries()
        assert entry.label.isprintable() and entry.id.isalnum() and len(entry.id) == 16
        assert results_tab_error(run) == ""


def test_captions_on_page_are_plain_text(run: Path) -> None:
    TRIALS.assign(name="![x](http://tracker.example/p.png)").to_parquet(run / "trials.parquet", index=False)
    captions = [text for text in result_fixtures.show_run(run).texts if "tracker" in text]
    assert len(captions) > 1 and not any(re.search(r"(?<!\\)\]\(|://", text) for text in captions)

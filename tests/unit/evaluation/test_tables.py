"""Tables built from the journal: stable dtypes, unfinished trials and interrupted runs."""

import shutil
import statistics
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import evaluation
from evaluation import schema, tables
from evaluation.scenario import plan
from streaming.errors import UsageError
from tests.unit.evaluation import factories

SCENARIO = factories.make_scenario()
FIRST, SECOND, *_ = plan(SCENARIO)


def test_load_returns_run_as_measured(tmp_path: Path) -> None:
    rows = [
        (
            factories.make_trial(FIRST, ttft_s=0.123456789, cost_usd=Decimal("0.00012"), stalls=0),
            factories.make_gap_events(FIRST, 0.02),
        ),
        (factories.make_trial(SECOND, ttft_s=None, outcome="failed"), []),
    ]
    factories.write_run(tmp_path, SCENARIO, rows)
    tables.write(tmp_path, tables.from_journal(tmp_path))
    for run in (evaluation.load(tmp_path), tables.from_journal(tmp_path)):
        assert run.trials["ttft_s"].tolist()[0] == 0.123456789 and pd.isna(run.trials["ttft_s"][1])
        assert run.trials["cost_usd"][0] == 0.00012 and run.trials["stalls"][0] == 0
        assert run.trials["cost_usd"].isna().tolist() == [False, True]
        assert run.events["source_s"].tolist() == [0.2, 0.22] and run.events["delivered_s"].isna().all()
        assert run.manifest["run_id"] == "run" and run.manifest["scenario"]["seed"] == 3


def test_dtypes_are_stable_for_empty_columns(tmp_path: Path) -> None:
    none, some = tmp_path / "none", tmp_path / "some"
    for folder, rows in ((none, []), (some, [(factories.make_trial(FIRST), factories.make_gap_events(FIRST, 0.02))])):
        folder.mkdir()
        factories.write_run(folder, SCENARIO, rows)
        tables.write(folder, tables.from_journal(folder))
    for read in (evaluation.load, tables.load):
        empty, filled = read(none), read(some)
        assert list(empty.trials.dtypes.map(str)) == list(filled.trials.dtypes.map(str))
        assert list(empty.events.dtypes.map(str)) == list(filled.events.dtypes.map(str))
    empty = evaluation.load(none)
    assert tuple(empty.trials.columns) == schema.TRIAL_COLUMNS
    assert tuple(empty.events.columns) == (*schema.EVENT_COLUMNS, "name", "provider", "strategy")
    dtypes = tables.load(some).trials.dtypes.astype(str)
    assert dtypes[["ttft_s", "cost_usd", "chunks", "disturbed", "error_type"]].tolist() == [
        "float64",
        "float64",
        "Int64",
        "boolean",
        "string",
    ]


def test_load_has_dates_categories_units_and_the_provider_of_each_event(tmp_path: Path) -> None:
    rows = [
        (factories.make_trial(FIRST), factories.make_gap_events(FIRST, 0.02)),
        (factories.make_trial(SECOND), factories.make_gap_events(SECOND, 0.02, 0.02)),
    ]
    factories.write_run(tmp_path, SCENARIO, rows)
    run = evaluation.load(tmp_path)
    assert str(run.trials["started_at"].dtype) == "datetime64[us, UTC]"
    assert run.trials["started_at"][0] == pd.Timestamp("2026-01-01", tz="UTC")
    for column in (run.trials["provider"], run.trials["outcome"], run.events["kind"], run.events["provider"]):
        assert column.dtype == "category"
    assert run.trials["name"].tolist() == [FIRST.provider, SECOND.provider]
    assert run.events.groupby("name", observed=True).size().to_dict() == {FIRST.provider: 2, SECOND.provider: 3}
    assert run.trials.attrs["units"]["ttft_s"] == "s" and run.events.attrs["units"]["source_s"] == "s"


def test_tables_keep_the_unit_of_each_column(tmp_path: Path) -> None:
    factories.write_run(tmp_path, SCENARIO, [(factories.make_trial(FIRST), factories.make_gap_events(FIRST, 0.02))])
    tables.write(tmp_path, tables.from_journal(tmp_path))
    schemas = [pq.read_schema(tmp_path / name) for name in ("trials.parquet", "events.parquet")]
    assert schemas[0].field("cost_usd").metadata == {b"unit": b"USD"} and not schemas[0].field("outcome").metadata
    assert schemas[1].field("delivered_s").metadata == {b"unit": b"s"}


def test_run_summary_has_medians_of_completed_trials_by_name(tmp_path: Path) -> None:
    outcomes = {1: "failed"}
    trials = [
        factories.make_trial(p, ttft_s=0.1 * p.number, outcome=outcomes.get(p.number, "completed"))
        for p in plan(SCENARIO)
    ]
    factories.write_run(tmp_path, SCENARIO, ((trial, []) for trial in trials))
    for run in (evaluation.load(tmp_path), tables.load(tmp_path)):
        result = run.summary().reset_index().set_index("name")
        assert result["trials"].tolist() == [8, 8] and result["completed"].sum() == len(run.completed) == 15
        own = [0.1 * p.number for p in plan(SCENARIO) if p.provider == "b:c" and p.number != 1]
        assert result.loc["b:c", "ttft_s"] == pytest.approx(statistics.median(own)) and "qoe" not in result


def test_load_of_killed_run_drops_unfinished_trial(tmp_path: Path) -> None:
    factories.write_run(
        tmp_path,
        SCENARIO,
        [(factories.make_trial(FIRST), factories.make_gap_events(FIRST, 0.02))],
        complete=False,
        finished_at=None,
    )
    with (tmp_path / schema.EVENTS_FILE).open("a") as events, (tmp_path / schema.TRIALS_FILE).open("a") as trials:
        events.write(f'{{"run_id":"run","trial_id":"run-{SECOND.number:05d}","seq":0,"kind":"source_text",')
        events.write('"chars":4,"tokens":null,"source_s":0.2,"delivered_s":null}\n{"run_id":"r')
        trials.write('{"run_id":"run","trial_')
    run = evaluation.load(tmp_path)
    assert run.trials["trial_id"].tolist() == ["run-00001"]
    assert set(run.events["trial_id"]) == {"run-00001"} and len(run.events) == 2
    assert run.manifest["complete"] is False


def test_load_works_without_manifest(tmp_path: Path) -> None:
    factories.write_run(tmp_path, SCENARIO, [(factories.make_trial(FIRST), [])])
    (tmp_path / "manifest.json").unlink()
    run = evaluation.load(tmp_path)
    assert len(run.trials) == 1 and run.manifest == {}


def test_newer_journal_replaces_old_tables(tmp_path: Path) -> None:
    factories.write_run(tmp_path, SCENARIO, [(factories.make_trial(FIRST), [])])
    tables.write(tmp_path, tables.from_journal(tmp_path))
    with schema.Journal(tmp_path) as journal:
        journal.add(factories.make_trial(SECOND))
    assert len(evaluation.load(tmp_path).trials) == 2


@pytest.mark.parametrize("table", ["trials.parquet", "events.parquet"])
def test_damaged_table_falls_back_to_journal(tmp_path: Path, table: str) -> None:
    factories.write_run(tmp_path, SCENARIO, [(factories.make_trial(FIRST), factories.make_gap_events(FIRST, 0.02))])
    tables.write(tmp_path, tables.from_journal(tmp_path))
    (tmp_path / table).write_bytes(b"PAR1 not any more")
    run = evaluation.load(tmp_path)
    assert len(run.trials) == 1 and len(run.events) == 2


def test_duplicate_journal_rows_count_once(tmp_path: Path) -> None:
    factories.write_run(
        tmp_path,
        SCENARIO,
        [(factories.make_trial(FIRST), factories.make_gap_events(FIRST, 0.02)), (factories.make_trial(SECOND), [])],
    )
    for name in (schema.TRIALS_FILE, schema.EVENTS_FILE):
        path = tmp_path / name
        path.write_text(path.read_text() * 2)
    run = tables.from_journal(tmp_path)
    assert run.trials["trial_id"].tolist() == ["run-00001", "run-00002"] and run.events["seq"].tolist() == [0, 1]


def test_events_are_equal_read_in_bulk_or_line_by_line(tmp_path: Path) -> None:
    factories.write_run(
        tmp_path, SCENARIO, [(factories.make_trial(FIRST), factories.make_gap_events(FIRST, 0.02, 0.3))]
    )
    at_once = tables.from_journal(tmp_path).events
    with (tmp_path / schema.EVENTS_FILE).open("a") as events:
        events.write('{"run_id":"r')
    pd.testing.assert_frame_equal(tables.from_journal(tmp_path).events, at_once)


@pytest.mark.parametrize("broken", ['{"run_id":"r","trial_id":"t"}', '{"what":1}', "{oops"])
def test_corrupt_event_is_reported_with_line(tmp_path: Path, broken: str) -> None:
    factories.write_run(tmp_path, SCENARIO, [(factories.make_trial(FIRST), factories.make_gap_events(FIRST, 0.02))])
    path = tmp_path / schema.EVENTS_FILE
    path.write_text(path.read_text() + broken + "\n")
    with pytest.raises(UsageError, match=r"events\.jsonl, line 3"):
        tables.from_journal(tmp_path)


def test_rows_beyond_batch_size_keep_order(tmp_path: Path) -> None:
    factories.write_run(
        tmp_path, SCENARIO, [(factories.make_trial(FIRST), factories.make_gap_events(FIRST, *[0.02] * 9))]
    )
    with (tmp_path / schema.EVENTS_FILE).open("a") as broken_off:
        broken_off.write("{")
    events = tables.build_table(schema.read_events(tmp_path), tables.EVENT_DTYPES, batch_rows=3)
    assert events["seq"].tolist() == list(range(10)) and list(events.index) == list(range(10))


def test_csv_leaves_unknown_values_empty(tmp_path: Path) -> None:
    factories.write_run(
        tmp_path, SCENARIO, [(factories.make_trial(FIRST, ttft_s=0.1 + 0.2, sent_monotonic_s=123456.789012345), [])]
    )
    tables.write(tmp_path, tables.from_journal(tmp_path))
    read = pd.read_csv(tmp_path / "trials.csv", dtype=str)
    assert read["ttft_s"][0] == "0.3" and read["sent_monotonic_s"][0] == "123456.789012"
    assert read["e2e_s"].isna().all()


def test_load_of_folder_without_run_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no run"):
        evaluation.load(tmp_path)


def test_package_exposes_no_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="unload"):
        _ = evaluation.unload


def test_tables_without_effort_column_are_read(tmp_path: Path) -> None:
    sample, later = Path(__file__).parents[3] / "docs" / "sample-run", ["effort", "dropped_settings"]
    for name in ("manifest.json", "events.parquet"):
        shutil.copy(sample / name, tmp_path / name)
    pd.read_parquet(sample / "trials.parquet").drop(columns=later).to_parquet(tmp_path / "trials.parquet", index=False)
    run = tables.load(tmp_path)
    assert len(run.trials)
    assert run.trials[later].isna().all(axis=None)

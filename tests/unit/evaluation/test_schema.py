"""The journal: writing, reading back, and incomplete or invalid lines."""

import json
import tempfile
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import schema
from evaluation.schema import EventRow, Journal, Trial, read_events, read_trials
from streaming.errors import UsageError


def make_trial(number: int = 1, **changes: object) -> Trial:
    fields: dict[str, object] = {
        "run_id": "r",
        "trial_id": f"r-{number}",
        "prompt_id": "p",
        "provider": "sim",
        "model": "steady",
        "strategy": "direct",
        "transport": "in-process",
        "repeat": 1,
        "block": 1,
        "outcome": "completed",
        "started_at": "2026-01-01T00:00:00.000+00:00",
    }
    return Trial(**(fields | changes))


def make_event(seq: int, trial_id: str = "r-1") -> EventRow:
    return EventRow("r", trial_id, seq, "source_text", 4, None, 0.2 + seq, None)


def test_journal_round_trips_trial_and_events(tmp_path: Path) -> None:
    written = make_trial(ttft_s=0.200123456, cost_usd=Decimal("0.00000123"), error_message="“\ud83c” | cut", chunks=0)
    with Journal(tmp_path) as journal:
        journal.add(written, [make_event(0), make_event(1)])
    assert read_trials(tmp_path) == [written]
    assert list(read_events(tmp_path)) == [make_event(0), make_event(1)]


def test_journal_sync_makes_trial_readable_before_close(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.add(make_trial(), [make_event(0)])
        journal.sync()
        assert read_trials(tmp_path) == [make_trial()] and list(read_events(tmp_path)) == [make_event(0)]


def test_journal_preserves_none_and_zero(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.add(make_trial(ttft_s=None, stall_s=0.0, stalls=0))
    (result,) = read_trials(tmp_path)
    assert result.ttft_s is None and result.stall_s == 0.0 and result.stalls == 0 and result.cost_usd is None


def test_journal_lines_have_all_columns_in_order(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.add(make_trial(), [make_event(0)])
    assert tuple(json.loads((tmp_path / schema.TRIALS_FILE).read_text())) == schema.TRIAL_COLUMNS
    assert tuple(json.loads((tmp_path / schema.EVENTS_FILE).read_text())) == schema.EVENT_COLUMNS


def test_truncated_last_line_is_ignored(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.add(make_trial(1))
        journal.add(make_trial(2, error_message="a word of more than one byte: “é”"))
    path = tmp_path / schema.TRIALS_FILE
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (first, first + 1, first + 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert [entry.trial_id for entry in read_trials(tmp_path)] == ["r-1"]


def test_corrupt_line_is_reported_with_number(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.add(make_trial(1))
    path = tmp_path / schema.TRIALS_FILE
    good = path.read_text()
    for broken, words in (("{oops\n", "not JSON"), ("[1]\n", "not a JSON object"), ('{"run_id":"r"}\n', "a trial")):
        path.write_text(good + broken + good)
        with pytest.raises(UsageError, match=f"line 2: .*{words}"):
            read_trials(tmp_path)


def test_event_of_wrong_shape_is_reported_with_line(tmp_path: Path) -> None:
    (tmp_path / schema.EVENTS_FILE).write_text('{"run_id":"r"}\n')
    with pytest.raises(UsageError, match="line 1: an event"):
        list(read_events(tmp_path))


def test_folder_without_journal_reads_as_empty(tmp_path: Path) -> None:
    assert read_trials(tmp_path) == [] and list(read_events(tmp_path)) == []


def test_trial_units_match_column_names() -> None:
    for name, unit in schema.TRIAL_UNITS.items():
        if name.endswith("_s"):
            assert unit == ("1/s" if name.endswith("_per_s") else "s"), name
        if name.endswith("_usd"):
            assert unit == "USD", name
    missing = {name for name in schema.TRIAL_COLUMNS if name.endswith(("_s", "_usd"))} - set(schema.TRIAL_UNITS)
    assert missing == set()


@pytest.mark.parametrize(
    "changes",
    [{"ttft_s": "abc"}, {"cost_usd": "abc"}, {"cost_usd": []}, {"chunks": 1.5}, {"trial_id": ["a"]},
     {"outcome": "wonderful"}, {"outcome": None}, {"disturbed": 1}],
)  # fmt: skip
def test_invalid_field_is_reported_with_line(tmp_path: Path, changes: dict[str, object]) -> None:
    with Journal(tmp_path) as journal:
        journal.add(make_trial(1))
    line = json.loads((tmp_path / schema.TRIALS_FILE).read_text()) | {"trial_id": "r-2"} | changes
    with (tmp_path / schema.TRIALS_FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(UsageError, match="line 2"):
        read_trials(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_non_finite_event_time_is_rejected_before_writing(tmp_path: Path, number: float) -> None:
    with Journal(tmp_path) as journal, pytest.raises(ValueError, match="cannot be"):
        journal.add_events([make_event(0)._replace(source_s=number)])
    assert list(read_events(tmp_path)) == []


@given(
    st.lists(
        st.builds(
            EventRow,
            *[st.text() for _ in range(2)],
            st.integers(0),
            st.text(),
            *[st.none() | st.integers() for _ in range(2)],
            *[st.none() | st.floats(allow_nan=False, allow_infinity=False) for _ in range(3)],
        )
    )
)
def test_any_event_round_trips_through_journal(rows: list[EventRow]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Journal(Path(folder)) as journal:
            journal.add_events(rows)
        assert list(read_events(Path(folder))) == rows

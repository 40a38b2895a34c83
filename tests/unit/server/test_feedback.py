"""Ratings of answers: one line each, in a file of bounded size that its owner alone can read."""

import json
from pathlib import Path

import pytest

from server.feedback import FILE_NAME, FeedbackStore
from streaming.errors import UsageError


def test_ratings_are_lines_that_the_owner_alone_can_read(tmp_path: Path) -> None:
    for store in (FeedbackStore(tmp_path), FeedbackStore(tmp_path)):
        store.add({"rating": "up", "text": "zwölf\n\ud800"})
    file = tmp_path / FILE_NAME
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"rating": "up", "text": "zwölf\n?"}] * 2
    assert file.stat().st_mode & 0o777 == 0o600


def test_full_file_takes_no_further_rating(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path, max_bytes=40)
    store.add({"rating": "up"})
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(OSError, match="has reached 40 bytes"):
        store.add({"rating": "down", "text": "x" * 40})
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_link_in_the_folder_leads_to_no_other_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("kept")
    (tmp_path / FILE_NAME).symlink_to(other)
    with pytest.raises(OSError, match="symbolic link"):
        FeedbackStore(tmp_path).add({"rating": "up"})
    assert other.read_text() == "kept"


def test_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FEEDBACK_DIR"):
        FeedbackStore(tmp_path / "missing")

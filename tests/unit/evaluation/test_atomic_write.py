"""Atomic writes: a file is replaced completely or not at all."""

from pathlib import Path

import pytest

from evaluation.schema import atomic_write


def test_atomic_write_replaces_file_on_success(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_atomic_write_failure_keeps_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_while_writing() -> None:
        with atomic_write(path) as partial:
            partial.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail_while_writing()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

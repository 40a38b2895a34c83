"""Recordings of a service's answers: two traces on CLOCK_MONOTONIC, under the request's id."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from server.recordings import AnswerRecorder
from streaming.errors import UsageError
from streaming.events import TextDelta
from streaming.recording import Recording, read_recording, recording_names
from tests.scripted_adapter import REQUEST
from tests.unit.ui.ui_fixtures import FakeProviders, SlowAdapter, make_chat_service
from tests.virtual_time import loop_clock, run_on_virtual_time


def record_answer(folder: Path, request_id: str | None, recorder_folder: Path | None = None) -> None:
    async def main() -> None:
        recorder = AnswerRecorder(recorder_folder or folder, loop_clock())
        chat_service = make_chat_service(FakeProviders(SlowAdapter()), recorder=recorder)
        request = replace(REQUEST, request_id=request_id)
        answer = await chat_service.start_answer("address:1", ["local"], request, "whole", wire="sse")
        while not answer.ended:
            await answer.next_events()
        await chat_service.aclose()

    run_on_virtual_time(main())


def text_of(events: object) -> str:
    return "".join(one.event.text for one in events if isinstance(one.event, TextDelta))  # type: ignore[attr-defined] # timed events


def test_recording_has_both_ends_of_the_answer(tmp_path: Path) -> None:
    record_answer(tmp_path, "run-00001")
    assert recording_names(tmp_path) == {"run-00001"}
    found = read_recording(tmp_path, "run-00001")
    assert isinstance(found, Recording)
    assert text_of(found.source) == text_of(found.delivered) == "one two three"
    assert len(found.source) > len(found.delivered) and found.delivered[-1].at_s >= found.source[-1].at_s


@pytest.mark.parametrize("request_id", ["../../outside", "/etc/passwd", ".hidden", "a/b"])
def test_hostile_request_id_names_no_file_elsewhere(tmp_path: Path, request_id: str) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    record_answer(folder, request_id)
    (name,) = recording_names(folder)
    assert len(name) == 64 and {path.parent for path in tmp_path.rglob("*.jsonl")} == {folder}


def test_full_disk_ends_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that is gone stands for a disk that cannot be written."""
    gone = tmp_path / "gone"
    gone.mkdir()
    recorder = AnswerRecorder(gone, lambda: 0.0)
    gone.rmdir()

    async def main() -> str:
        chat_service = make_chat_service(FakeProviders(SlowAdapter()), recorder=recorder)
        answer = await chat_service.start_answer("address:1", ["local"], REQUEST, "direct", wire="sse")
        while not answer.ended:
            await answer.next_events()
        await chat_service.aclose()
        return answer.receipt().outcome

    with caplog.at_level(logging.WARNING):
        assert run_on_virtual_time(main()) == "completed"
    assert "recording: not written" in caplog.text


def test_missing_folder_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="RECORDINGS_DIR"):
        AnswerRecorder(tmp_path / "none", lambda: 0.0)


def test_file_that_is_no_recording_is_told(tmp_path: Path) -> None:
    for suffix in (".source.jsonl", ".delivered.jsonl"):
        (tmp_path / f"x{suffix}").write_text('{"trace": 1}\n')
    with pytest.raises(UsageError, match="called_monotonic_s"):
        read_recording(tmp_path, "x")
    assert read_recording(tmp_path, "y") is None

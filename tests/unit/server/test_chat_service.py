"""The chat service on virtual time: an answer of the page as a resumable stream, and the one way to an answer."""

import ast
import json
import logging
from contextlib import aclosing
from pathlib import Path

import pytest

from server.streams.events import WireEvent
from tests.scripted_adapter import REQUEST
from tests.unit.ui.ui_fixtures import FakeProviders, SlowAdapter, make_chat_service
from tests.virtual_time import run_on_virtual_time

ROOT = Path(__file__).parents[3]
CALLER = "address:203.0.113.7"


def test_answer_of_the_page_continues_after_its_reader_has_left(caplog: pytest.LogCaptureFixture) -> None:
    """As after a reload: another reader goes on after the last event that the page has drawn."""

    async def main() -> tuple[list[WireEvent], list[WireEvent]]:
        chat_service = make_chat_service(FakeProviders(SlowAdapter()))
        answer = await chat_service.start_answer(CALLER, ["local"], REQUEST, "direct", wire="page", tab="chat")
        before: list[WireEvent] = []
        async with aclosing(await chat_service.first_reader(answer, resume=True)) as reader:
            while not any(name == "chunk" for _, name, _ in before):
                before += await reader.next_batch()
        after: list[WireEvent] = []
        async with aclosing(await chat_service.resume_reader(answer.id, CALLER, before[-1][0])) as reader:
            while not reader.ended:
                after += await reader.next_batch()
        await chat_service.aclose()
        return before, after

    with caplog.at_level(logging.INFO, "streamgauge.answers"):
        before, after = run_on_virtual_time(main())
    events = [*before, *after]
    assert [seq for seq, _, _ in events] == [*range(1, len(events) + 1)]
    assert "".join(json.loads(data)["content"] for _, name, data in events if name == "chunk") == "one two three"
    (record,) = caplog.records
    fields = vars(record)["fields"]
    assert (fields["tab"], fields["outcome"], events[-1][1]) == ("chat", "completed", "done")


def test_only_the_chat_service_starts_answers() -> None:
    """Whoever called the pipeline beside it would be in no metric, no log and no budget."""
    calls = {
        path.relative_to(ROOT).as_posix()
        for package in ("server", "ui")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "stream_answer"
    }
    assert calls == {"server/chat_service.py"}

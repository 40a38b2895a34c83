"""Tests of the event schema: events of the page's own controls pass, and values that name a file do not."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import RejectionError
from guard.validation import InputLimits
from providers import ProviderRegistry
from server.feedback import FeedbackStore
from settings import Settings
from tests.unit.ui.ui_fixtures import make_chat_service
from tests.virtual_time import run_on_virtual_time
from ui.answers import AnswerService
from ui.app import build_page
from ui.request_filter.event_schema import CONVERSATION_FACTOR, EventSchema, is_message

ANSWERS = "a function that is there"
LIMITS = InputLimits(body_bytes=20_000)
TURN = {"role": "user", "content": [{"type": "text", "text": "hi"}], "metadata": None, "options": None}
RECEIPT = {
    "role": "assistant",
    "content": [{"text": "| a |", "type": "text"}],
    "metadata": {"title": "Done", "id": "receipt-1", "status": "done", "duration": 0.2},
    "options": None,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    async def main() -> gr.Blocks:
        folder = tmp_path_factory.mktemp("feedback")
        chat_service = make_chat_service(ProviderRegistry(Settings()), feedback=FeedbackStore(folder))
        return build_page(AnswerService(chat_service, lambda keys: ProviderRegistry(Settings(keys))))

    return run_on_virtual_time(main())


@pytest.fixture(scope="module")
def schema(page: gr.Blocks) -> EventSchema:
    return EventSchema(page, LIMITS)


def make_valid_event(page: gr.Blocks, number: int) -> dict[str, Any]:
    """Return a valid event as the page's own controls send it."""
    fn = page.fns[number]
    events = {event for _, event in fn.targets}
    about: Any = None
    if events & {"retry", "undo"}:
        about = {"index": 0, "value": "hi"}
    elif "like" in events:
        about = {"index": 1, "value": ["hi"], "liked": True}
    data = [value(block) for block in fn.inputs]
    return {"data": data, "event_data": about, "fn_index": number, "trigger_id": None, "session_hash": "abc123"}


def value(block: Any) -> Any:
    if isinstance(block, gr.Chatbot):
        return [TURN, RECEIPT]
    if isinstance(block, gr.State):
        return None
    if isinstance(block, gr.BrowserState):
        return []
    return "" if isinstance(block, gr.Textbox) and block.value is None else block.value


def assert_rejected(schema: EventSchema, event: Any) -> str:
    with pytest.raises(RejectionError) as excinfo:
        schema.parse_event(event if isinstance(event, bytes) else json.dumps(event).encode())
    return excinfo.value.message


def test_every_function_with_events_of_its_controls_accepts_them(page: gr.Blocks, schema: EventSchema) -> None:
    assert len(schema.functions) > 50
    for number in schema.functions:
        event = make_valid_event(page, number)
        parsed = schema.parse_event(json.dumps(event).encode())
        assert parsed.session_hash == "abc123" and json.loads(parsed.body) == event


def test_functions_without_a_control_are_unreachable(page: gr.Blocks, schema: EventSchema) -> None:
    names = {page.fns[number].name for number in set(page.fns) - schema.functions}
    assert "close_session" in names


def test_component_without_rule_makes_its_functions_unreachable() -> None:
    async def main() -> EventSchema:
        with gr.Blocks() as page:
            picture, text, button = gr.Image(), gr.Textbox(), gr.Button()
            button.click(lambda given: given, picture, text)
            button.click(lambda given: given, text, picture)
        return EventSchema(page, LIMITS)

    assert run_on_virtual_time(main()).functions == {1}


PATHS = ("/etc/hostname", "/proc/self/environ", "/root/.bashrc", "settings.py", "http://127.0.0.1:9/x")


def make_files(path: str) -> Iterator[Any]:
    """Yield a path as a file in every shape that a component may take."""
    data = {"path": path, "meta": {"_type": "gradio.FileData"}}
    yield from (data, [data], {"a": data}, {**data, "orig_name": "x", "url": path, "is_stream": True})
    yield from ({"path": path}, {"url": path}, {"url": path, "meta": {"_type": "gradio.FileData"}})
    yield {"__type__": "update", "value": data}
    yield {"text": "hi", "files": [data]}
    yield {"video": data, "subtitles": None}
    yield [{**TURN, "content": content} for content in (data, [data], [{"type": "file", "file": data}], [[data]])]
    yield [{**TURN, "content": [{"type": "text", "text": data}]}]
    yield [{**TURN, "content": [{"type": "component", "component": "image", "value": data}]}]
    yield [{**TURN, "metadata": {"title": data}}]
    yield [{**TURN, "metadata": data}]
    yield [{**TURN, "options": [{"label": data, "value": data}]}]
    yield [{**TURN, "file": data}]
    yield [[data, data]]
    yield [(path,)]


FILES = [list(make_files(path)) for path in PATHS]


def test_value_that_names_a_file_is_rejected_in_every_input(page: gr.Blocks, schema: EventSchema) -> None:
    paths = itertools.cycle(FILES)  # every input gets every shape, with one path after the other
    tried = 0
    for number in page.fns:
        event = make_valid_event(page, number)
        for place in range(len(event["data"])):
            for file in next(paths):
                assert_rejected(
                    schema, {**event, "data": [file if n == place else one for n, one in enumerate(event["data"])]}
                )
                tried += 1
        for file in next(paths):
            for about in (file, {"index": 0, "value": file}, {"index": file, "value": "x"}):
                assert_rejected(schema, {**event, "event_data": about})
            assert_rejected(schema, {**event, "event_data": {"index": 0, "value": {"text": "x", "files": [file]}}})
            for field in ("fn_index", "trigger_id", "session_hash", "data"):
                assert_rejected(schema, {**event, field: file})
    assert tried > 1000


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("fn_index", "3"), ("fn_index", 3.0), ("fn_index", True), ("fn_index", None), ("fn_index", -1),
        ("fn_index", 9999), ("trigger_id", 999_999), ("trigger_id", "3"), ("trigger_id", True),
        ("session_hash", None), ("session_hash", ""), ("session_hash", "a" * 65), ("session_hash", "../a"),
        ("session_hash", "a\n"), ("session_hash", "ä"), ("session_hash", 5), ("event_id", "0" * 32),
        ("simple_format", True), ("batched", True), ("oauth_token", "x"), ("request", {}), ("data", {}), ("data", None),
        ("data", []), ("data", ["x"] * 9),
    ],
)  # fmt: skip
def test_event_field_of_wrong_type_is_rejected(page: gr.Blocks, schema: EventSchema, field: str, wrong: Any) -> None:
    number = next(n for n in schema.functions if page.fns[n].name == "set_key")
    assert_rejected(schema, {**make_valid_event(page, number), field: wrong})


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"1", b'"x"', b"{", b'{"data":[NaN]}', b'{"data":[Infinity]}', b"\xff\xfe{\0}\0",
        b'{"a":1,"a":1}', b"[" * 500, b'{"data":[' + b"9" * 5000 + b"]}",
    ],
)  # fmt: skip
def test_body_that_is_not_a_json_object_is_rejected(schema: EventSchema, body: bytes) -> None:
    assert_rejected(schema, body)


def test_body_with_duplicate_key_is_rejected(page: gr.Blocks, schema: EventSchema) -> None:
    number = next(n for n in schema.functions if page.fns[n].name == "badge")
    body = json.dumps(make_valid_event(page, number)).encode()
    assert schema.parse_event(body)
    assert_rejected(schema, body[:-1] + b',"data":[{"path":"/etc/hostname"}]}')


def test_direct_call_of_queued_function_is_rejected(page: gr.Blocks, schema: EventSchema) -> None:
    for number in schema.functions:
        body = json.dumps(make_valid_event(page, number)).encode()
        if page.fns[number].queue:
            with pytest.raises(RejectionError):
                schema.parse_event(body, direct=True)
        else:
            assert schema.parse_event(body, direct=True)


def test_only_event_with_conversation_may_exceed_message_limit(page: gr.Blocks, schema: EventSchema) -> None:
    async def main() -> gr.Blocks:
        other = gr.Blocks()
        with other:
            gr.Button().click(lambda history: None, gr.Chatbot())
        return other

    other = run_on_virtual_time(main())
    long = {**TURN, "content": [{"type": "text", "text": "x" * LIMITS.body_bytes}]}
    whole = json.dumps({**make_valid_event(other, 0), "data": [[long]]}).encode()
    assert EventSchema(other, LIMITS).parse_event(whole)
    begin = next(n for n in schema.functions if page.fns[n].name == "begin")
    event = make_valid_event(page, begin)
    wide = json.dumps({**event, "data": ["x" * 15_000, *event["data"][1:]]}).encode() + b" " * LIMITS.body_bytes
    with pytest.raises(RejectionError, match="larger"):
        schema.parse_event(wide)
    assert schema.body_limits.body_bytes == CONVERSATION_FACTOR * LIMITS.body_bytes


def test_message_slightly_over_limit_reaches_page_and_far_over_limit_is_rejected(
    page: gr.Blocks, schema: EventSchema
) -> None:
    schema = EventSchema(page, InputLimits(message_chars=1000))
    (box,) = (number for number, block in page.blocks.items() if getattr(block, "elem_id", "") == "sg-message")
    number = next(n for n in schema.functions if any(target == (box, "submit") for target in page.fns[n].targets))
    assert schema.parse_event(json.dumps({**make_valid_event(page, number), "data": ["x" * 15_000, "", None]}).encode())
    assert_rejected(schema, {**make_valid_event(page, number), "data": ["x" * 16_001, "", None]})
    assert_rejected(schema, {**make_valid_event(page, number), "data": ["\ud800", "", None]})


def test_number_or_choice_out_of_range_is_rejected(page: gr.Blocks, schema: EventSchema) -> None:
    run = next(n for n in schema.functions if page.fns[n].name == "run")
    event = make_valid_event(page, run)
    for place, wrongs in (
        (3, [9, 1001, "100", None, True, 1e308]),
        (1, ["x" * 501, 5, ["direct"]]),
        (0, ["x" * 501, 1]),
    ):
        for wrong in wrongs:
            assert_rejected(
                schema, {**event, "data": [wrong if n == place else v for n, v in enumerate(event["data"])]}
            )
    count = next(n for n in schema.functions if page.fns[n].name == "change_count")
    for wrong in (5, "2", 2.0, True, None):
        assert_rejected(schema, {**make_valid_event(page, count), "data": [wrong]})


def test_thumb_with_other_values_is_rejected(page: gr.Blocks, schema: EventSchema) -> None:
    rate = next(n for n in schema.functions if page.fns[n].name == "rate")
    event = make_valid_event(page, rate)
    for wrong in ({"liked": 1}, {"liked": "Like"}, {"index": -1}, {"value": {"path": "/etc/hostname"}}, {"more": 1}):
        assert_rejected(schema, {**event, "event_data": {**event["event_data"], **wrong}})
    assert_rejected(schema, {**event, "event_data": None})


def test_untouched_textbox_becomes_empty_text(page: gr.Blocks, schema: EventSchema) -> None:
    badge = next(n for n in schema.functions if page.fns[n].name == "badge")
    parsed = schema.parse_event(json.dumps({**make_valid_event(page, badge), "data": [None]}).encode())
    assert json.loads(parsed.body)["data"] == [""]


@pytest.mark.parametrize(
    "cancel",
    [
        {"session_hash": "a", "fn_index": ANSWERS, "event_id": "x" * 32},
        {"session_hash": "a", "fn_index": ANSWERS, "event_id": "0" * 31},
        {"session_hash": "a", "fn_index": ANSWERS},
        {"session_hash": "a/b", "fn_index": ANSWERS, "event_id": "0" * 32},
        {"session_hash": "a", "fn_index": "3", "event_id": "0" * 32},
        {"session_hash": "a", "fn_index": ANSWERS, "event_id": "0" * 32, "more": 1},
        {"session_hash": "a", "fn_index": ANSWERS, "event_id": {"path": "/etc/hostname"}},
    ],
)
def test_malformed_cancellation_is_rejected(schema: EventSchema, cancel: dict[str, Any]) -> None:
    asks = min(schema.functions)
    cancel = {name: asks if value == ANSWERS else value for name, value in cancel.items()}
    good = {"session_hash": "a", "fn_index": asks, "event_id": "0" * 32}
    assert schema.parse_cancel(json.dumps(good).encode()).session_hash == "a"
    assert json.loads(schema.parse_reset(json.dumps(good).encode()).body) == {"event_id": "0" * 32}
    with pytest.raises(RejectionError):
        schema.parse_cancel(json.dumps(cancel).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_json_value_is_text_message_or_rejected(result: Any) -> None:
    if is_message(result, 100):
        assert set(result) <= {"role", "content", "metadata", "options"}
        assert "FileData" not in json.dumps(result.get("metadata"))

"""A schema for the body of every POST to Gradio, derived from the page's own components.

Anything without a rule is rejected: a component without one makes its functions unreachable. No rule accepts a value
that names a file. An accepted body is serialised again, so that Gradio parses exactly what was checked.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.components import Component

from guard import RejectionError
from guard.validation import InputLimits, check_size

Check = Callable[[Any], bool]
"""Returns whether a JSON value is valid for an input."""

CONVERSATION_FACTOR = 8
"""Body limit of an event with a conversation, as a multiple of the normal limit: it holds thinking and receipts."""
MIN_JSON_DEPTH = 8
"""Nesting depth of JSON that the page's own events need."""
MAX_FREE_TEXT_CHARS = 500
"""Maximum length of a value from a picker that accepts free text."""
MAX_MESSAGES = 2_000
"""Maximum number of messages in a conversation on the page, including receipts and thinking."""
MAX_INTEGER = 10_000_000

_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EVENT_ID = re.compile(r"[0-9a-f]{32}")
_EVENT_FIELDS = frozenset({"data", "event_data", "fn_index", "session_hash", "trigger_id"})
_MESSAGE = frozenset({"role", "content", "metadata", "options"})
_METADATA = frozenset({"title", "id", "parent_id", "duration", "status", "log"})
_EXTRA_CHARS = 16_000


@dataclass(frozen=True, slots=True)
class PageEvent:
    """A checked and re-serialised body, and the hash of its session (empty for none)."""

    session_hash: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Function:
    inputs: tuple[Check, ...]
    texts: tuple[bool, ...]
    event_data: tuple[Check, ...]
    needs_event_data: bool
    queued: bool
    has_conversation: bool


class EventSchema:
    """The functions that the page's own controls can call, by index, with checks for their inputs."""

    def __init__(self, page: gr.Blocks, limits: InputLimits) -> None:
        self._limits = limits
        self._functions = {number: self._describe(page, page.fns[number]) for number in _iter_reachable(page)}
        self._triggers = {target for fn in page.fns.values() for target, _ in fn.targets if target is not None}

    @property
    def functions(self) -> frozenset[int]:
        """The indices of the callable functions."""
        return frozenset(self._functions)

    @property
    def body_limits(self) -> InputLimits:
        """The limits for a body before its function is known."""
        limits = self._limits
        size = limits.body_bytes * CONVERSATION_FACTOR
        return replace(limits, body_bytes=size, json_depth=max(limits.json_depth, MIN_JSON_DEPTH))

    def parse_event(self, body: bytes, *, direct: bool = False) -> PageEvent:
        """Return the checked event. `direct` events bypass the queue, and only unqueued functions accept them.

        Raises RejectionError for an event that does not match the page.
        """
        fields = _parse_object(body)
        function = self._functions.get(fields["fn_index"]) if _is_integer(fields.get("fn_index")) else None
        if function is None or (direct and function.queued):
            raise _reject("unknown function")
        if not function.has_conversation:
            check_size(len(body), self._limits)
        if not fields.keys() <= _EVENT_FIELDS or not is_session_hash(fields.get("session_hash")):
            raise _reject("unknown fields; only data, event_data, fn_index, session_hash and trigger_id are allowed")
        trigger = fields.get("trigger_id")
        if trigger is not None and not (_is_integer(trigger) and trigger in self._triggers):
            raise _reject("unknown trigger")
        _check_data(function, fields)
        # Gradio sends None for an untouched textbox; functions treat it as an empty one.
        boxes = zip(function.texts, fields["data"], strict=True)
        fields["data"] = ["" if is_box and value is None else value for is_box, value in boxes]
        return PageEvent(fields["session_hash"], _to_bytes(fields))

    def parse_cancel(self, body: bytes) -> PageEvent:
        """Return the checked request to cancel an event. Raises RejectionError for any other body."""
        fields = _parse_object(body)
        known = _is_integer(fields.get("fn_index")) and fields["fn_index"] in self._functions
        if not known or fields.keys() != {"session_hash", "fn_index", "event_id"} or not _is_event_id(fields):
            raise _reject("a cancellation requires session_hash, fn_index and event_id")
        if not is_session_hash(fields["session_hash"]):
            raise _reject("invalid session_hash")
        return PageEvent(fields["session_hash"], _to_bytes(fields))

    def parse_reset(self, body: bytes) -> PageEvent:
        """Return the checked reset of an event, which belongs to no session. Raises RejectionError otherwise."""
        fields = _parse_object(body)
        if not fields.keys() <= {"session_hash", "fn_index", "event_id"} or not _is_event_id(fields):
            raise _reject("a reset requires an event_id")
        return PageEvent("", _to_bytes({"event_id": fields["event_id"]}))

    def _describe(self, page: gr.Blocks, fn: Any) -> _Function:
        dynamic = {block for other in page.fns.values() for block in other.outputs}
        inputs = tuple(_check_for(block, self._limits, dynamic=block in dynamic) for block in fn.inputs)
        events = {event for _, event in fn.targets} & _EVENT_CHECKS.keys()
        return _Function(
            inputs=inputs,
            texts=tuple(isinstance(block, gr.Textbox) for block in fn.inputs),
            event_data=tuple(_EVENT_CHECKS[event](self._limits) for event in sorted(events)),
            needs_event_data=bool(events & _EVENTS_WITH_REQUIRED_DATA),
            queued=fn.queue,
            has_conversation=any(isinstance(block, gr.Chatbot) for block in fn.inputs),
        )


def is_session_hash(value: object) -> bool:
    """Return whether a value has the format of a session hash, which the browser generates."""
    return isinstance(value, str) and _SESSION.fullmatch(value) is not None


def _check_data(function: _Function, fields: Mapping[str, Any]) -> None:
    data = fields.get("data")
    if not isinstance(data, list) or len(data) != len(function.inputs):
        raise _reject("data must have one value for each input")
    for number, (check, value) in enumerate(zip(function.inputs, data, strict=True), 1):
        if not check(value):
            raise _reject(f"value {number} is invalid for its control")
    about = fields.get("event_data")
    if about is None and not function.needs_event_data:
        return
    if not any(check(about) for check in function.event_data):
        raise _reject("event_data is invalid for its control")


def _iter_reachable(page: gr.Blocks) -> Iterator[int]:
    """Yield the indices of functions that a control can trigger, directly or in a chain, if all inputs have a rule.

    A control that is hidden and that no function can show triggers nothing.
    """
    shown = {block for fn in page.fns.values() for block in fn.outputs}

    def is_visible(number: int | None) -> bool:
        block = page.blocks.get(number) if number is not None else None
        return block is not None and (block in shown or getattr(block, "visible", True) is not False)

    reached: set[int] = set()
    for number, fn in sorted(page.fns.items()):
        begins = any(event in _EVENT_CHECKS and (event == "load" or is_visible(target)) for target, event in fn.targets)
        follows = fn.trigger_after in reached
        if begins or follows:
            reached.add(number)
            if fn.fn is not None and all(_find_rule(block) is not None for block in fn.inputs):
                yield number


def _check_for(block: Component, limits: InputLimits, *, dynamic: bool) -> Check:
    rule = _find_rule(block)
    assert rule is not None, "only functions whose inputs have rules are described"
    return rule(block, limits, dynamic)


_Rule = Callable[[Any, InputLimits, bool], Check]


def _find_rule(block: object) -> _Rule | None:
    return next((rule for kind, rule in _RULES.items() if isinstance(block, kind)), None)


def _make_textbox_check(block: gr.Textbox, limits: InputLimits, dynamic: bool) -> Check:
    del dynamic
    # Text a little over the limit passes here: the handler rejects it with a clear message.
    most = block.max_length or max(4 * limits.message_chars, _EXTRA_CHARS)
    return lambda value: value is None or is_text(value, most)


def _make_dropdown_check(block: gr.Dropdown, limits: InputLimits, dynamic: bool) -> Check:
    del limits
    if block.allow_custom_value or dynamic:  # an update may have changed the choices
        return lambda value: value is None or is_text(value, MAX_FREE_TEXT_CHARS)
    names = {value for _, value in block.choices}
    return lambda value: value is None or (isinstance(value, str) and value in names)


def _make_radio_check(block: gr.Radio, limits: InputLimits, dynamic: bool) -> Check:
    del limits, dynamic
    values = [value for _, value in block.choices]
    return lambda value: any(type(value) is type(choice) and value == choice for choice in values)


def _make_slider_check(block: gr.Slider, limits: InputLimits, dynamic: bool) -> Check:
    del limits, dynamic
    low, high = block.minimum, block.maximum
    return lambda value: _is_number(value) and low <= value <= high


def _make_checkbox_check(block: gr.Checkbox, limits: InputLimits, dynamic: bool) -> Check:
    del block, limits, dynamic
    return lambda value: isinstance(value, bool)


def _make_state_check(block: gr.State, limits: InputLimits, dynamic: bool) -> Check:
    """Return a check for None: Gradio holds a State on the server, so the browser sends no value."""
    del block, limits, dynamic
    return lambda value: value is None


def _make_browser_state_check(block: gr.BrowserState, limits: InputLimits, dynamic: bool) -> Check:
    """Return a check for no conversations: this page saves none in the browser."""
    del block, limits, dynamic
    return lambda value: value is None or value == []


def _make_chatbot_check(block: gr.Chatbot, limits: InputLimits, dynamic: bool) -> Check:
    del block, dynamic
    most = limits.body_bytes * CONVERSATION_FACTOR
    return lambda value: (
        isinstance(value, list) and len(value) <= MAX_MESSAGES and all(is_message(one, most) for one in value)
    )


_RULES: Mapping[type, _Rule] = {
    gr.Textbox: _make_textbox_check,
    gr.Dropdown: _make_dropdown_check,
    gr.Radio: _make_radio_check,
    gr.Slider: _make_slider_check,
    gr.Checkbox: _make_checkbox_check,
    gr.BrowserState: _make_browser_state_check,
    gr.State: _make_state_check,
    gr.Chatbot: _make_chatbot_check,
}


def is_text(value: object, max_chars: int) -> bool:
    """Return whether a value is valid Unicode text of at most `max_chars` characters."""
    if not isinstance(value, str) or len(value) > max_chars:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_message(value: object, max_chars: int) -> bool:
    """Return whether a value is a chat message that contains only text."""
    if not isinstance(value, dict) or not {"role", "content"} <= value.keys() <= _MESSAGE:
        return False
    if value["role"] not in ("user", "assistant") or value.get("options") not in (None, []):
        return False
    content, metadata = value["content"], value.get("metadata")
    parts = content if isinstance(content, list) else [content]
    return all(_is_part(part, max_chars) for part in parts) and (metadata is None or _is_metadata(metadata))


def _is_part(value: object, max_chars: int) -> bool:
    if isinstance(value, dict):
        return value.keys() == {"type", "text"} and value["type"] == "text" and is_text(value["text"], max_chars)
    return is_text(value, max_chars)


def _is_metadata(value: object) -> bool:
    if not isinstance(value, dict) or not value.keys() <= _METADATA:
        return False
    return all(one is None or is_text(one, _EXTRA_CHARS) or _is_number(one) for one in value.values())


def _make_value_check(limits: InputLimits) -> Check:
    most = max(4 * limits.message_chars, _EXTRA_CHARS)
    return lambda value: isinstance(value, bool) or _is_number(value) or is_text(value, most)


def _make_no_data_check(limits: InputLimits) -> Check:
    del limits
    return lambda value: value is None


def _make_selection_check(limits: InputLimits) -> Check:
    most = max(4 * limits.message_chars, _EXTRA_CHARS)

    def check(value: object) -> bool:
        if not isinstance(value, dict) or not {"index", "value"} <= value.keys() <= {"index", "value", "selected"}:
            return False
        if not _is_index(value["index"]) or not isinstance(value.get("selected", True), bool):
            return False
        return is_text(value["value"], most)

    return check


def _make_like_check(limits: InputLimits) -> Check:
    """Return a check for a thumb: the place of its answer, the texts of that, and up, down or withdrawn."""
    most = limits.body_bytes

    def check(value: object) -> bool:
        if not isinstance(value, dict) or value.keys() != {"index", "value", "liked"} or not _is_index(value["index"]):
            return False
        texts = value["value"] if isinstance(value["value"], list) else [value["value"]]
        is_thumb = isinstance(value["liked"], bool) or value["liked"] == ""
        return is_thumb and all(is_text(text, most) for text in texts)

    return check


_EVENT_CHECKS: Mapping[str, Callable[[InputLimits], Check]] = {
    "change": _make_value_check,
    "input": _make_value_check,
    "submit": _make_value_check,
    "click": _make_no_data_check,
    "clear": _make_no_data_check,
    "stop": _make_no_data_check,
    "load": _make_no_data_check,
    "select": _make_selection_check,
    "like": _make_like_check,
    "retry": _make_selection_check,
    "undo": _make_selection_check,
}
"""Checks for the event data that controls send, by event name; any other event triggers nothing."""


_EVENTS_WITH_REQUIRED_DATA = frozenset({"like", "retry", "undo"})
"""Events whose functions require event data."""


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= MAX_INTEGER and math.isfinite(value)


def _is_index(value: object) -> bool:
    pair = isinstance(value, list) and len(value) == 2 and all(map(_is_integer, value))
    return _is_integer(value) or pair


def _is_event_id(fields: Mapping[str, Any]) -> bool:
    value = fields.get("event_id")
    return isinstance(value, str) and _EVENT_ID.fullmatch(value) is not None


def _parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object in UTF-8 with unique keys and finite numbers. Raises RejectionError for anything else."""
    try:
        data = json.loads(
            body.decode("utf-8"), object_pairs_hook=_reject_duplicate_keys, parse_constant=_reject_constant
        )
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise _reject("the body is not a JSON object")
    return data


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _to_bytes(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()


def _reject(problem: str) -> RejectionError:
    return RejectionError("page.event", "invalid", f"page event: {problem} (reload the page)")

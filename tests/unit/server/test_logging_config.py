"""Log lines: each is one JSON object, whatever its fields contain, without secrets or callers' text."""

import io
import json
import logging
import sys
from typing import Any

import pytest

from server.logging_config import MAX_RECORDS, JsonFormatter, LibraryFilter, Throttle, describe_exception
from settings import Settings

SETTINGS = Settings({"OPENAI_API_KEY": "sk-secret-0123456789"})


def log_line(message: str, **fields: object) -> str:
    record = logging.LogRecord("streamgauge.answers", logging.INFO, __file__, 1, message, None, None)
    record.fields = fields
    return JsonFormatter(SETTINGS.mask_secrets).format(record)


def test_log_line_is_one_json_object_with_timestamp_level_and_fields() -> None:
    data = json.loads(log_line("answer", outcome="completed", cost_usd=None))
    assert (data["level"], data["logger"], data["event"]) == ("info", "streamgauge.answers", "answer")
    assert (data["outcome"], data["cost_usd"]) == ("completed", None)
    assert data["at"].endswith("+00:00")


def test_log_line_masks_secrets() -> None:
    output = log_line("the key is sk-secret-0123456789", error="sk-secret-0123456789 was refused")
    assert "sk-secret" not in output
    assert json.loads(output)["error"] == "[OPENAI_API_KEY] was refused"


def test_log_line_survives_line_breaks_and_lone_surrogates() -> None:
    sink = io.TextIOWrapper(io.BytesIO(), "utf-8", errors=sys.__stderr__.errors if sys.__stderr__ else "strict")
    sink.write(log_line("a\nb", provider="x\r\ny\ud800é\u2028", odd=object()))
    sink.flush()
    output = sink.buffer.getvalue().decode()
    assert len(output.split("\n")) == 1
    assert json.loads(output)["provider"] == "x\r\ny\ud800é\u2028"


def capture_exc_info(error: Exception) -> tuple[type[BaseException], BaseException, Any]:
    try:
        try:
            raise KeyError("CANARY")
        except KeyError as cause:
            raise error from cause
    except type(error):
        return type(error), error, error.__traceback__
    raise AssertionError("the error was not raised")


def test_exception_is_logged_with_types_and_frames_but_no_message() -> None:
    record = logging.LogRecord(
        "ui.answers", logging.ERROR, __file__, 1, "it failed", None, capture_exc_info(ValueError("CANARY"))
    )
    trace = json.loads(JsonFormatter(SETTINGS.mask_secrets).format(record))["trace"]
    assert "builtins.ValueError" in trace and "builtins.KeyError" in trace and f'File "{__file__}"' in trace
    assert "CANARY" not in trace


def test_exception_group_is_logged_with_the_types_it_contains() -> None:
    group = ExceptionGroup("CANARY", [OSError("CANARY"), TypeError("CANARY")])
    result = "\n".join(describe_exception(group))
    assert "OSError" in result and "TypeError" in result and "CANARY" not in result


def test_messages_while_trusted_are_quoted_without_secrets() -> None:
    failed = capture_exc_info(ValueError("no sk-secret-0123456789"))
    record = logging.LogRecord("gradio", logging.ERROR, __file__, 1, "no %s", ("start",), failed)
    data = json.loads(JsonFormatter(SETTINGS.mask_secrets, lambda: True).format(record))
    assert data["event"] == "no start" and "ValueError: no [OPENAI_API_KEY]" in data["trace"]


@pytest.mark.parametrize("logger", ["gradio.queue", "httpx", "uvicorn.error", "asyncio", "websockets.server"])
def test_library_record_is_logged_without_its_arguments(logger: str) -> None:
    record = logging.LogRecord(logger, logging.WARNING, "/x/lib.py", 7, "bad\nCANARY %s", ("CANARY",), None)
    result = JsonFormatter(SETTINGS.mask_secrets).format(record)
    assert "CANARY" not in result and json.loads(result)["place"] == "lib:7"


def test_throttle_limits_records_per_window_and_counts_the_rest() -> None:
    throttle = Throttle(most=2, window_s=10.0)
    assert [throttle.allow(now) for now in (0.0, 1.0, 2.0, 9.9, 10.0, 11.0, 12.0)] == [
        True, True, False, False, True, True, False,
    ]  # fmt: skip
    assert (throttle.take_left_out(), throttle.take_left_out()) == (3, 0)


def test_library_records_are_limited_and_own_records_are_not() -> None:
    limited = LibraryFilter(lambda: 0.0)
    foreign = logging.LogRecord("uvicorn.error", logging.WARNING, __file__, 1, "junk", None, None)
    own = logging.LogRecord("streamgauge.answers", logging.INFO, __file__, 1, "answer", None, None)
    assert sum(limited.filter(foreign) for _ in range(1000)) == MAX_RECORDS
    assert all(limited.filter(own) for _ in range(1000))

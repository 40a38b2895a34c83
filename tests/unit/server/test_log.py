"""Lines of the log: one JSON object each, whatever stands in it, and no secret."""

import io
import json
import logging
import sys

from server.log import JsonLines
from settings import Settings

SETTINGS = Settings({"OPENAI_API_KEY": "sk-secret-0123456789"})


def line(message: str, **fields: object) -> str:
    record = logging.LogRecord("streamgauge.answers", logging.INFO, __file__, 1, message, None, None)
    record.fields = fields
    return JsonLines(SETTINGS.masked).format(record)


def test_a_line_is_one_object_with_its_time_level_and_fields() -> None:
    found = json.loads(line("answer", outcome="completed", cost_usd=None))
    assert (found["level"], found["logger"], found["event"]) == ("info", "streamgauge.answers", "answer")
    assert (found["outcome"], found["cost_usd"]) == ("completed", None)
    assert found["at"].endswith("+00:00")


def test_secrets_are_taken_out_wherever_they_stand() -> None:
    said = line("the key is sk-secret-0123456789", error="sk-secret-0123456789 was refused")
    assert "sk-secret" not in said
    assert json.loads(said)["error"] == "[OPENAI_API_KEY] was refused"


def test_line_ends_and_half_surrogates_do_not_break_a_line() -> None:
    sink = io.TextIOWrapper(io.BytesIO(), "utf-8", errors=sys.__stderr__.errors if sys.__stderr__ else "strict")
    sink.write(line("a\nb", provider="x\r\ny\ud800é\u2028", odd=object()))
    sink.flush()
    said = sink.buffer.getvalue().decode()
    assert len(said.split("\n")) == 1
    assert json.loads(said)["provider"] == "x\r\ny\ud800é\u2028"


def test_a_failure_is_told_with_its_trace_in_the_same_line() -> None:
    try:
        raise ValueError("no sk-secret-0123456789")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, __file__, 1, "it failed", None, sys.exc_info())
    found = JsonLines(SETTINGS.masked).format(record)
    assert "ValueError: no [OPENAI_API_KEY]" in json.loads(found)["trace"]

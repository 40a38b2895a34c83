"""The load tests' options in addition to Locust's, from the command line or an environment variable.

Locust passes them from the master to its workers, so they are set only in the master's command.
"""

from functools import cache
from pathlib import Path
from typing import Any

from configargparse import ArgumentTypeError
from locust import events
from shapes import SHAPES

_SHARE_OPTIONS = (
    ("--cancel-rate", "LOAD_CANCEL_RATE", "of answers that the user stops half-way"),
    ("--reconnect-rate", "LOAD_RECONNECT_RATE", "of answers whose line is dropped and taken up again (sse, websocket)"),
    ("--fault-rate", "LOAD_FAULT_RATE", "of questions put to a simulator that breaks its answers off"),
    ("--slow-rate", "LOAD_SLOW_RATE", "of answers whose user reads slowly, out of a small buffer"),
)


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Add the options of a streaming load test to Locust's parser, and so to its help and its web page."""
    add = parser.add_argument
    add("--provider", default="sim:steady", env_var="LOAD_PROVIDER", help="who answers in the service (sim:steady)")
    add("--strategy", default="", env_var="LOAD_STRATEGY", help="of delivery (direct; openai: the server's own)")
    add("--model", default="sim:steady", env_var="LOAD_MODEL", help="model that the OpenAI users ask for (sim:steady)")
    add("--max-tokens", type=_parse_whole_number, default=128, env_var="LOAD_MAX_TOKENS", help="of an answer (128)")
    add(
        "--prompts",
        type=_check_prompts_file,
        default="",
        env_var="LOAD_PROMPTS",
        help="file, one prompt a line or JSONL with id and prompt",
    )
    add(
        "--think-s",
        type=_check_range,
        default="0",
        env_var="LOAD_THINK_S",
        help="seconds between questions, or a range, 1-5 (0)",
    )
    for name, variable, meaning in _SHARE_OPTIONS:
        add(name, type=_parse_share, default=0.0, env_var=variable, help=f"share {meaning} (0)")
    add(
        "--idle-s",
        type=_parse_seconds,
        default=60.0,
        env_var="LOAD_IDLE_S",
        help="silence that counts as a failure (60)",
    )
    add(
        "--drain-s", type=_parse_seconds, default=30.0, env_var="LOAD_DRAIN_S", help="what is under way may end in (30)"
    )
    add("--key", default="", env_var="LOAD_KEY", is_secret=True, help="API key, sent as a bearer")
    add("--shape", default="steady", choices=SHAPES, env_var="LOAD_SHAPE", help="how many users, when (steady)")
    add("--out", default="", env_var="LOAD_OUT", help="folder of the rows and the report (out/load-TIME)")
    add(
        "--slo",
        default="failed<1%",
        env_var="LOAD_SLO",
        help="objectives: ttft_p95<800ms … (failed<1%%); exit code 1 if missed",
    )
    add("--no-real-time", dest="real_time", action="store_false", help="wait for a processor like everybody else")
    add("--no-report", dest="report", action="store_false", help="only keep what was heard, in answers.jsonl")


def _check_prompts_file(text: str) -> str:
    """Return `text` if it names a readable file that is not empty; an empty name means the prompts of this project.

    Raises ArgumentTypeError.
    """
    try:
        filled = not text or bool(Path(text).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentTypeError(f"{text}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if not filled:
        raise ArgumentTypeError(f"{text}: there is no prompt in it")
    return text


def _check_range(text: str) -> str:
    """Return `text` unchanged if it is a valid range, because Locust's page displays it again.

    Raises ArgumentTypeError.
    """
    low_s, high_s = parse_range_s(text)
    if low_s > high_s:
        raise ArgumentTypeError(f"{text}: the first number is the larger one")
    return text


@cache
def parse_range_s(text: str) -> tuple[float, float]:
    """Parse `2` or `1-5` as a range in seconds. Raises ArgumentTypeError."""
    low, dash, high = text.partition("-")
    return _parse_seconds(low), _parse_seconds(high if dash else low)


def _parse_share(text: str) -> float:
    return _parse_number(text, 0, 1, "a share: write a number from 0 to 1")


def _parse_seconds(text: str) -> float:
    return _parse_number(text, 0, 1e6, "a time in seconds")


def _parse_whole_number(text: str) -> int:
    value = _parse_number(text, 1, 1e6, "a whole number from 1 on")
    if value != int(value):
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(value)


def _parse_number(text: str, least: float, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ArgumentTypeError(f"{text!r} is not {what}")
    return value

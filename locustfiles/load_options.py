"""The load tests' options in addition to Locust's, from the command line or an environment variable.

Locust passes them from the master to its workers, so they are set only in the master's command.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from configargparse import ArgumentTypeError
from locust import events
from shapes import SHAPES

from evaluation.analysis.slo import parse_slo
from evaluation.levels import parse_user_levels
from evaluation.prompts.prompt_file import read_prompts
from streaming.errors import UsageError
from streaming.escaping import to_line

DEFAULT_SLO = "failed<1%"
_SHARE_OPTIONS = (
    ("--cancel-rate", "LOAD_CANCEL_RATE", "of answers that the user stops half-way"),
    ("--reconnect-rate", "LOAD_RECONNECT_RATE", "of answers that are resumed after a lost connection (sse, websocket)"),
    ("--fault-rate", "LOAD_FAULT_RATE", "of requests to a simulated model that fails"),
    ("--slow-rate", "LOAD_SLOW_RATE", "of answers whose user reads slowly, from a small buffer"),
)


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Add the options of a streaming load test to Locust's parser, and so to its help and its web page."""
    _add_request_options(parser.add_argument)
    _add_prompt_options(parser.add_argument)
    _add_test_options(parser.add_argument)


def _add_request_options(add: Callable[..., Any]) -> None:
    add(
        "--provider",
        default="sim:steady",
        env_var="LOAD_PROVIDER",
        help="provider to request from the service (sim:steady)",
    )
    add("--strategy", default="", env_var="LOAD_STRATEGY", help="delivery strategy (direct; openai: the server's)")
    add("--model", default="sim:steady", env_var="LOAD_MODEL", help="model that the OpenAI users request (sim:steady)")
    add(
        "--max-tokens",
        type=_parse_whole_number,
        default=128,
        env_var="LOAD_MAX_TOKENS",
        help="max tokens of an answer (128)",
    )
    add(
        "--think-s",
        type=_check_range,
        default="0",
        env_var="LOAD_THINK_S",
        help="seconds between requests, or a range such as 1-5 (0)",
    )
    for name, variable, meaning in _SHARE_OPTIONS:
        add(name, type=_parse_share, default=0.0, env_var=variable, help=f"share {meaning} (0)")


def _add_prompt_options(add: Callable[..., Any]) -> None:
    add(
        "--prompts",
        type=_check_prompts_file,
        default="",
        env_var="LOAD_PROMPTS",
        help="file with one prompt per line, or JSONL with id and prompt; or one of default, verifiable",
    )
    add(
        "--fresh",
        action="store_true",
        env_var="LOAD_FRESH",
        help="a nonce before each prompt, so that no cache answers it",
    )
    add(
        "--ignore-eos",
        action="store_true",
        env_var="LOAD_IGNORE_EOS",
        help="answers of max tokens, where the model's server takes ignore_eos (llama.cpp, vLLM); not on the page",
    )


def _add_test_options(add: Callable[..., Any]) -> None:
    add(
        "--idle-s",
        type=_parse_seconds,
        default=60.0,
        env_var="LOAD_IDLE_S",
        help="seconds without data that count as a failure (60)",
    )
    add(
        "--drain-s",
        type=_parse_seconds,
        default=30.0,
        env_var="LOAD_DRAIN_S",
        help="seconds for answers to end when the test stops (30)",
    )
    add("--key", default="", env_var="LOAD_KEY", is_secret=True, help="API key, sent as a bearer token")
    add("--shape", default="steady", choices=SHAPES, env_var="LOAD_SHAPE", help="number of users over time (steady)")
    add(
        "--levels",
        type=_check_levels,
        default="",
        env_var="LOAD_LEVELS",
        help="a sweep instead of a shape: numbers of users, each for an equal part of the time (30 s each): 1,2,4 …",
    )
    add("--out", default="", env_var="LOAD_OUT", help="folder for the results and the report (out/load-TIME)")
    add(
        "--slo",
        type=_check_slo,
        default="",
        env_var="LOAD_SLO",
        help="objectives: ttft_p95<800ms … (failed<1%%); exit code 1 if missed",
    )
    add("--no-real-time", dest="real_time", action="store_false", help="do not use real-time priority")
    add("--no-report", dest="report", action="store_false", help="only write answers.jsonl, no report")


def _check_prompts_file(text: str) -> str:
    """Return `text` if it names a file of valid prompts; an empty name means the prompts of this project.

    Raises ArgumentTypeError.
    """
    try:
        if text:
            read_prompts(Path(text))
    except UsageError as error:
        raise ArgumentTypeError(to_line(str(error))) from None
    return text


def _check_slo(text: str) -> str:
    """Return `text` if it is a list of objectives; an empty one is that of every test. Raises ArgumentTypeError."""
    try:
        if text:
            parse_slo(text)
    except UsageError as error:
        raise ArgumentTypeError(to_line(str(error))) from None
    return text


def _check_levels(text: str) -> str:
    """Return `text` if it names whole numbers of users; an empty one is no sweep. Raises ArgumentTypeError."""
    try:
        parse_user_levels(text)
    except UsageError as error:
        raise ArgumentTypeError(to_line(str(error))) from None
    return text


def _check_range(text: str) -> str:
    """Return `text` unchanged if it is a valid range, because Locust's page displays it again.

    Raises ArgumentTypeError.
    """
    low_s, high_s = parse_range_s(text)
    if low_s > high_s:
        raise ArgumentTypeError(f"{text}: the first number is the larger one (write the smaller one first)")
    return text


@cache
def parse_range_s(text: str) -> tuple[float, float]:
    """Parse `2` or `1-5` as a range in seconds. Raises ArgumentTypeError."""
    low, dash, high = text.partition("-")
    return _parse_seconds(low), _parse_seconds(high if dash else low)


def _parse_share(text: str) -> float:
    return _parse_number(text, 0, 1, "a share (write a number from 0 to 1)")


def _parse_seconds(text: str) -> float:
    return _parse_number(text, 0, 1e6, "a time in seconds (write a number from 0 on)")


def _parse_whole_number(text: str) -> int:
    value = _parse_number(text, 1, 1e6, "a whole number (write a number from 1 on)")
    if value != int(value):
        raise ArgumentTypeError(f"{text!r} is not a whole number (write a number from 1 on)")
    return int(value)


def _parse_number(text: str, least: float, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ArgumentTypeError(f"{text!r} is not {what}")
    return value

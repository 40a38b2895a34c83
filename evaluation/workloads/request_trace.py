"""A recorded request trace as load, in Mooncake's format: when each request came, its lengths, and what it repeated.

A line of JSON is a request: `timestamp` in milliseconds, `input_length` and `output_length` in tokens, and `hash_ids`,
an id for each block of 512 input tokens. Blocks with equal ids have equal texts, so that a server's prefix cache finds
what it found then. Source: Mooncake (arXiv 2407.00079), github.com/kvcache-ai/Mooncake.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.prompts.prompt_file import BLOCK_TOKENS, MAX_TOKENS, BodySpec, Prompt
from evaluation.prompts.text_file import parse_object, read_lines
from streaming.errors import UsageError

FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")
_MAX_MS = 1e13
"""Timestamps may be milliseconds of the Unix epoch."""
_SHAPE = "trace"


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """The trace that a run repeats: its file's name, and how many times as fast as it was recorded.

    `repeated_share` of its input tokens are at the beginning of a request and came before: a prefix cache's best.
    """

    name: str
    speed_up: float = 1.0
    repeated_share: float = 0.0


def read_trace(path: Path, speed_up: float = 1.0, count: int | None = None) -> tuple[Prompt, ...]:
    """Return a prompt for each request, or for the first `count`, in the order of their arrival.

    Raises UsageError with the file and the line when one is invalid.
    """
    lines = read_lines(path, "trace")
    if not lines:
        raise UsageError(f"trace {path}: has no requests (write one JSON object a line: {', '.join(FIELDS)})")
    requests = [_parse_request(line, f"{path}, line {number}") for number, line in lines]
    requests.sort(key=lambda fields: float(fields["timestamp"]))
    if count is not None and count > len(requests):
        raise UsageError(f"prompt-count: out of range (use 1 to {len(requests)}, the number of the trace's requests)")
    first_ms = requests[0]["timestamp"]
    return tuple(
        _make_prompt(number, fields, (fields["timestamp"] - first_ms) / 1000 / speed_up)
        for number, fields in enumerate(requests[:count], start=1)
    )


def mean_rate(prompts: Sequence[Prompt]) -> float:
    """Return the requests per second of a trace; of requests that all came within a second, their number."""
    span_s = (prompts[-1].start_s or 0.0) - (prompts[0].start_s or 0.0)
    return round((len(prompts) - 1) / span_s, 6) if span_s > 1 else float(len(prompts))


def repeated_share(prompts: Sequence[Prompt]) -> float:
    """Return the share of a trace's input tokens that a prefix cache could have found; see `RequestTrace`."""
    seen: set[int] = set()
    repeated = 0
    for body in (prompt.body for prompt in prompts if prompt.body is not None):
        for place, block in enumerate(body.blocks):
            if block not in seen:
                break
            repeated += min(BLOCK_TOKENS, body.tokens - place * BLOCK_TOKENS)
        seen.update(body.blocks)
    return repeated / sum(prompt.body.tokens for prompt in prompts if prompt.body is not None)


def _make_prompt(number: int, fields: dict[str, Any], start_s: float) -> Prompt:
    output = fields["output_length"]
    body = BodySpec(_SHAPE, fields["input_length"], blocks=tuple(fields.get("hash_ids", ())))
    return Prompt(f"{_SHAPE}#{number}", "", output, max_tokens=output, body=body, start_s=round(start_s, 9))


def _parse_request(line: str, where: str) -> dict[str, Any]:
    fields = parse_object(line, where, FIELDS, "a trace", ", ".join(FIELDS))
    if problem := _find_problem(fields):
        raise UsageError(f"{where}: {problem}")
    return fields


def _find_problem(fields: dict[str, Any]) -> str | None:
    """Return what is wrong with a request, in words; None if it can be asked."""
    timestamp, ids = fields.get("timestamp"), fields.get("hash_ids", [])
    if not isinstance(timestamp, (int, float)) or isinstance(timestamp, bool) or not 0 <= timestamp <= _MAX_MS:
        return "timestamp is missing or invalid (write milliseconds, a number of at least 0)"
    for name in ("input_length", "output_length"):
        if not _is_whole(fields.get(name)) or not 1 <= fields[name] <= MAX_TOKENS:
            return f"{name} is missing or invalid (use a whole number of tokens from 1 to {MAX_TOKENS})"
    if not isinstance(ids, list) or not all(map(_is_whole, ids)):
        return "hash_ids is invalid (write a list of whole numbers)"
    blocks = math.ceil(fields["input_length"] / BLOCK_TOKENS)
    if ids and len(ids) != blocks:
        return f"hash_ids has {len(ids)} blocks for {fields['input_length']} tokens (write {blocks}, of 512 each)"
    return None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

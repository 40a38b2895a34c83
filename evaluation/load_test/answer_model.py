"""Schema of the lines of `answers.jsonl`. Lines are validated once, when they are read; later code relies on it."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evaluation.manifest_model import Number, WholeNumber
from streaming.errors import UsageError

_MAX_CHARS = 10**6
Count = Annotated[int, Field(ge=0, le=10**12)]
_Event = Annotated[
    tuple[Number, str, Annotated[int, Field(ge=0, le=_MAX_CHARS)] | None, Count | None], Field(strict=False)
]


class _JournalLine(BaseModel):
    """A JSON object of the file: strict types, and unknown keys are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _AnswerUsage(_JournalLine):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    thinking_tokens: Count | None = None
    cached_tokens: Count | None = None
    source: str | None = None


class Head(_JournalLine):
    """The first line: the options of the load test."""

    run_id: str
    started_at: str
    users: Count
    max_tokens: WholeNumber | None
    think_s: list[Number]
    shape: str
    levels: list[Count] = []
    fresh: bool = False
    ended_at: str | None = None


class AnswerLine(_JournalLine):
    """One answer as its simulated user received it; times in seconds on CLOCK_MONOTONIC."""

    trial_id: str
    prompt_id: str
    provider: str
    strategy: str
    transport: str
    started_at: str
    outcome: str
    ramping: bool
    level: Count | None = None
    conversation: str | None = None
    turn: Count | None = None
    context_tokens: Count | None = None
    real_time: bool
    asked_s: Number
    sent_s: Number | None
    connect_s: Number | None
    headers_s: Number | None
    events: list[_Event]
    usage: _AnswerUsage
    cost_usd: Number | None
    resumed: Count
    merged_reads: Count
    attempts: Count | None
    http_status: Count | None
    stamp_source: str | None
    peer_address: str | None = None
    finish_reason: str | None
    finish_raw: str | None = None
    error_type: str | None
    error_message: str | None
    fell_back_to: str | None
    correct: bool | None = None


Line = TypeVar("Line", bound=_JournalLine)


def check(model: type[Line], line: dict[str, Any], where: str) -> None:
    """Validate a line against its model. Raises UsageError, with the first field that is missing or invalid.

    `where` is the file and line number for the message.
    """
    try:
        model.model_validate(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"][:2])
        problem = "is missing" if first["type"] == "missing" else f"cannot be {repr(first['input'])[:40]}"
        raise UsageError(f"{where}: {place} {problem} (not a line that a load test has written)") from None

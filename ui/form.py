"""A question with its settings as they come from the page, checked and turned into a request. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Protocol

from guard.validation import InputLimits
from streaming import strategies
from streaming.errors import UsageError
from streaming.messages import ChatRequest, Message
from streaming.strategies import Strategy
from ui import strings
from ui.history import HistoryMessage, to_messages

MAX_MODEL_CHARS = 200
LOCAL_PROVIDER = "local"
CHARS_PER_TOKEN = 3
"""Below the usual four: what is trimmed to fit must fit in other languages than English too."""
CONTEXT_TOKENS = 20_000
"""What a conversation is trimmed to where nothing less is known."""
LOCAL_CONTEXT_TOKENS = 4096
"""The local model's context, as `providers.local.server` starts it."""


class ProviderRow(Protocol):
    """A row of the provider picker; `needs` names what is missing while it is not `ready`."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def ready(self) -> bool: ...
    @property
    def needs(self) -> str | None: ...
    @property
    def simulated(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class ChatForm:
    """A question with its settings: nothing of it is checked yet."""

    text: str
    history: Sequence[HistoryMessage] = ()
    provider: str | None = None
    model: str | None = None
    strategy: str | None = None
    system: str | None = None
    temperature: str | None = None
    max_tokens: str | None = None
    streamed: bool = True
    budget: str | None = None
    brought: str | None = None
    """The variables that the page says it has brought keys for, comma-separated."""


@dataclass(frozen=True, slots=True)
class ValidatedQuestion:
    """A question that may be sent: `name` is who is asked in full, `left_out` counts messages that were too many."""

    name: str
    request: ChatRequest
    strategy: Strategy
    budget_usd: Decimal | None
    left_out: int
    simulated: bool


def validate_form(question: ChatForm, listing: Sequence[ProviderRow], limits: InputLimits) -> ValidatedQuestion:
    """Check a question against who can be asked. Raises UsageError saying what to change."""
    if (problem := message_error(question.text, limits)) is not None:
        raise UsageError(problem)
    row = next((row for row in listing if row.name == question.provider), None)
    if row is None:
        raise UsageError(strings.UNKNOWN_PROVIDER.format(name=question.provider or ""))
    name = _resolve_full_name(row, (question.model or "").strip())
    strategy = strategies.parse(question.strategy or strategies.DEFAULT_STRATEGY).build()
    context_tokens = LOCAL_CONTEXT_TOKENS if name == LOCAL_PROVIDER else CONTEXT_TOKENS
    request, left_out = _fit_to_context(_make_request(question, limits), context_tokens, limits)
    return ValidatedQuestion(name, request, strategy, parse_budget(question.budget), left_out, row.simulated)


def message_error(text: str, limits: InputLimits) -> str | None:
    """Say what keeps a message from being sent, None if nothing does."""
    if not text.strip():
        return strings.EMPTY_MESSAGE
    if "length" not in limits.off and len(text) > limits.message_chars:
        return strings.LONG_MESSAGE.format(chars=len(text), limit=limits.message_chars)
    return strings.UNSENDABLE if any("\ud800" <= c <= "\udfff" for c in text) else None


def strategy_error(name: str | None) -> str | None:
    """Say what is wrong with a delivery strategy's name, None if nothing is."""
    try:
        strategies.parse(name or strategies.DEFAULT_STRATEGY)
    except UsageError as error:
        return str(error)
    return None


def parse_budget(text: str | None) -> Decimal | None:
    """Read an amount of USD that may be left out. Raises UsageError."""
    written = (text or "").strip().removeprefix("$").strip()
    if not written:
        return None
    try:
        amount = Decimal(written)
    except InvalidOperation:
        raise UsageError(strings.BAD_BUDGET) from None
    if not amount.is_finite() or amount < 0:
        raise UsageError(strings.BAD_BUDGET)
    return amount


def _resolve_full_name(row: ProviderRow, model: str) -> str:
    """Give the full name to ask; only what the picker offers can be asked, under another model's name if given."""
    if not model:
        return row.name
    if len(model) > MAX_MODEL_CHARS:
        raise UsageError(strings.LONG_MODEL.format(limit=MAX_MODEL_CHARS))
    if row.name == LOCAL_PROVIDER or row.simulated:
        raise UsageError(strings.NO_MODELS.format(name=row.name))
    return f"{row.name.partition(':')[0]}:{model}"


def _make_request(question: ChatForm, limits: InputLimits) -> ChatRequest:
    system = question.system or ""
    if "length" not in limits.off and len(system) > limits.message_chars:
        raise UsageError(strings.LONG_SYSTEM.format(chars=len(system), limit=limits.message_chars))
    max_tokens = _parse_number(question.max_tokens, 1, 100_000, strings.BAD_MAX_TOKENS)
    if max_tokens is not None and max_tokens != int(max_tokens):
        raise UsageError(strings.BAD_MAX_TOKENS)
    return ChatRequest(
        messages=to_messages(question.history, question.text, system),
        temperature=_parse_number(question.temperature, 0, 2, strings.BAD_TEMPERATURE),
        max_tokens=None if max_tokens is None else int(max_tokens),
        streamed=question.streamed,
    )


def _parse_number(text: str | None, low: float, high: float, problem: str) -> float | None:
    """Read a number that may be left out. Raises UsageError with `problem`."""
    if not (text or "").strip():
        return None
    try:
        value = float(text or "")
    except ValueError:
        raise UsageError(problem) from None
    if not low <= value <= high:
        raise UsageError(problem)
    return value


def _fit_to_context(request: ChatRequest, context_tokens: int, limits: InputLimits) -> tuple[ChatRequest, int]:
    """Leave out the oldest turns, whole questions with their answers, until the rest and the answer may fit.

    They must fit the model's context, and what this service lets through: a conversation is never refused for its age.
    """
    kept = list(request.messages)
    system = [kept.pop(0)] if kept[0].role == "system" else []
    room = (context_tokens - min(request.max_tokens or 0, context_tokens // 2)) * CHARS_PER_TOKEN
    room = min(room, limits.conversation_chars)
    while len(kept) > 1 and (_count_chars(system + kept) > room or len(system + kept) > limits.turns):
        del kept[: 2 if kept[1].role == "assistant" else 1]
    left_out = len(request.messages) - len(system) - len(kept)
    return replace(request, messages=(*system, *kept)), left_out


def _count_chars(conversation: Sequence[Message]) -> int:
    return sum(len(message.content) for message in conversation)

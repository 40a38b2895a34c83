"""Validation of the page's form, and its conversion to a chat request. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation

from guard.secret_patterns import contains_token
from guard.validation import InputLimits
from providers.models.pricing import custom_price, parse_price
from providers.models.source import ProviderRow
from streaming import strategies
from streaming.errors import UsageError
from streaming.messages import ChatRequest, Message
from streaming.meter import PriceFunction
from ui import strings
from ui.history import HistoryMessage, to_messages

MAX_MODEL_CHARS = 200
MAX_TOKENS_RANGE = (1, 100_000)
LOCAL_PROVIDER = "local"
CHARS_PER_TOKEN = 3
"""Characters per token when trimming: below the usual four, because other languages use more tokens."""
CONTEXT_TOKENS = 20_000
"""Context size, in tokens, to which a conversation is trimmed unless a smaller one is known."""
LOCAL_CONTEXT_TOKENS = 4096
"""Context size of the local model, as `providers.local.server` starts it."""


@dataclass(frozen=True, slots=True)
class ChatForm:
    """A message with its settings as the page sends them, not yet validated."""

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
    timed_words: bool = False
    """Whether the wait for an answer is labelled by its duration, with words that do not say what the model does."""
    price: str | None = None
    """The user's price of the model, for a model of unknown price."""
    brought: str | None = None
    """The variables for which the page has sent API keys, comma-separated."""


@dataclass(frozen=True, slots=True)
class ValidatedQuestion:
    """A valid chat request with `name`, the provider's full name, and `left_out`, the count of trimmed messages."""

    name: str
    request: ChatRequest
    strategy: str
    simulated: bool
    budget_usd: Decimal | None = None
    left_out: int = 0
    price: PriceFunction | None = None
    """The user's own price, which counts for the page's budget where no other is known."""


def validate_form(question: ChatForm, listing: Sequence[ProviderRow], limits: InputLimits) -> ValidatedQuestion:
    """Validate a form against the listed providers and the limits. Raises UsageError that names what to change."""
    if (problem := message_error(question.text, limits)) is not None:
        raise UsageError(problem)
    row = next((row for row in listing if row.name == question.provider), None)
    if row is None:
        raise UsageError(strings.UNKNOWN_PROVIDER.format(name=question.provider or ""))
    name = resolve_full_name(row, (question.model or "").strip())
    strategy = str(strategies.parse(question.strategy or strategies.DEFAULT_STRATEGY))
    context_tokens = LOCAL_CONTEXT_TOKENS if name == LOCAL_PROVIDER else CONTEXT_TOKENS
    request, left_out = _fit_to_context(_make_request(question, limits), context_tokens, limits)
    budget_usd, price = parse_budget(question.budget), parse_own_price(question.price, name)
    return ValidatedQuestion(name, request, strategy, row.simulated, budget_usd, left_out, price)


def message_error(text: str, limits: InputLimits) -> str | None:
    """Return why a message cannot be sent, or None if it can."""
    if not text.strip():
        return strings.EMPTY_MESSAGE
    if "length" not in limits.off and len(text) > limits.message_chars:
        return strings.LONG_MESSAGE.format(
            chars=len(text), over=len(text) - limits.message_chars, limit=limits.message_chars
        )
    return strings.UNSENDABLE if any("\ud800" <= c <= "\udfff" for c in text) else None


def strategy_error(name: str | None) -> str | None:
    """Return the error in a delivery strategy's name, or None if it is valid."""
    try:
        strategies.parse(name or strategies.DEFAULT_STRATEGY)
    except UsageError as error:
        return str(error)
    return None


def model_error(name: str | None) -> str | None:
    """Return the error in a model's name of a user's own, or None if it can be one."""
    model = (name or "").strip()
    if len(model) > MAX_MODEL_CHARS:
        return strings.LONG_MODEL.format(limit=MAX_MODEL_CHARS)
    return strings.SECRET_MODEL if contains_token(model) else None


def shown_model(question: ChatForm) -> str:
    """Return the model's name of the user's own as it may be shown: empty for the default, and for an API key."""
    model = (question.model or "").strip()
    return "" if contains_token(model) else model


def parse_budget(text: str | None) -> Decimal | None:
    """Parse an optional amount in USD; None if empty. Raises UsageError for an invalid amount."""
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


def parse_own_price(text: str | None, name: str) -> PriceFunction | None:
    """Parse the user's price of a model, in USD per million tokens; None if empty. Raises UsageError with its form."""
    if not (text or "").strip():
        return None
    try:
        _, prices = parse_price(f"{name}={text}")
    except UsageError:
        raise UsageError(strings.BAD_PRICE) from None
    return custom_price({name: prices}, name, name.partition(":")[2])


def resolve_full_name(row: ProviderRow, model: str) -> str:
    """Return the full name of provider and model, with `model` in place of the row's own model if it is not empty.

    Raises UsageError for a model name that is too long or looks like an API key, or for a provider without other
    models.
    """
    if not model:
        return row.name
    if (problem := model_error(model)) is not None:
        raise UsageError(problem)
    if row.name == LOCAL_PROVIDER or row.simulated:
        raise UsageError(strings.NO_MODELS.format(name=row.name))
    return f"{row.name.partition(':')[0]}:{model}"


def _make_request(question: ChatForm, limits: InputLimits) -> ChatRequest:
    system = question.system or ""
    if "length" not in limits.off and len(system) > limits.message_chars:
        raise UsageError(strings.LONG_SYSTEM.format(chars=len(system), limit=limits.message_chars))
    max_tokens = _parse_number(question.max_tokens, *MAX_TOKENS_RANGE, strings.BAD_MAX_TOKENS)
    if max_tokens is not None and max_tokens != int(max_tokens):
        raise UsageError(strings.BAD_MAX_TOKENS)
    return ChatRequest(
        messages=to_messages(question.history, question.text, system),
        temperature=_parse_number(question.temperature, 0, 2, strings.BAD_TEMPERATURE),
        max_tokens=None if max_tokens is None else int(max_tokens),
        streamed=question.streamed,
    )


def _parse_number(text: str | None, low: float, high: float, problem: str) -> float | None:
    """Parse an optional number from `low` to `high`; None if empty. Raises UsageError with `problem`."""
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
    """Drop the oldest turns, each a user message with its answer, until the rest and the answer should fit.

    The limits are the model's context and the service's own input limits, so that a long conversation is trimmed and
    not rejected. Returns the request and the number of dropped messages.
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

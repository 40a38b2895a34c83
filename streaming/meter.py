"""The running meter of one answer: tokens, cost and throughput. The token counter and the price are injected.

Token counts come from the provider's report if there is one, else from a tokenizer, else from an estimate; the reading
names its source. Performs no I/O.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from streaming.events import Event, Failed, Notice, TextDelta, ThinkingDelta, Usage
from streaming.messages import Message

CHARS_PER_TOKEN = 4
"""A rule of thumb for English text, used only for estimates and for the pace strategy."""

MAX_COUNTED_CHARS = 1_000_000
"""Longer answers are estimated: counting their tokens would block the event loop for more than a second."""

TokenCounter = Callable[[str], int]
"""Counts the tokens of a text with the model's own encoding."""


CostSource = Literal["billed", "listed", "user"]
USER_PRICE = "user"
"""The `price_source` of a price that the user set."""
BILL_ONLY = "the provider's bill"
"""The `price_source` when only the amount billed by the provider is known, but no price."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of an answer in USD. `price_source` says whose price was used, `price_date` its date, if known.

    `billed_usd` is the amount that the vendor reports and takes precedence over the price. `input_usd` and `output_usd`
    are tokens times price, None when only the billed amount is known. `is_lower_bound`: the vendor used more tokens
    than its report accounts for.
    """

    input_usd: Decimal | None
    output_usd: Decimal | None
    price_source: str
    price_date: str | None = None
    billed_usd: Decimal | None = None
    is_lower_bound: bool = False

    @property
    def list_usd(self) -> Decimal | None:
        """The cost at the list price, or None when no price is known."""
        return None if self.input_usd is None or self.output_usd is None else self.input_usd + self.output_usd

    @property
    def total_usd(self) -> Decimal:
        """The amount that the vendor reports, else the cost at the list price."""
        return self.billed_usd if self.billed_usd is not None else self.list_usd or Decimal(0)

    @property
    def source(self) -> CostSource:
        """The source of `total_usd`."""
        if self.billed_usd is not None:
            return "billed"
        return "user" if self.price_source == USER_PRICE else "listed"


PriceFunction = Callable[[Usage], Cost | None]
"""Returns the cost of a usage, or None when the price is unknown."""


@dataclass(frozen=True, slots=True)
class CostModel:
    """The token counter and the price of one provider's model; None when unknown.

    `paid`: requests cost money, whether or not the price is known. `find_cautious_price` is for budgets only: it
    returns the highest likely price of an answer whose `price` is unknown because a vendor's model is reached through a
    local address, such as a gateway's. Loading the price list takes a while, so it is called when a budget asks.
    `thinking_room` is the number of thinking tokens that a request allows in addition to its limit for visible text.
    """

    counter: TokenCounter | None = None
    price: PriceFunction | None = None
    paid: bool = False
    find_cautious_price: Callable[[], PriceFunction | None] | None = None
    thinking_room: int = 0

    @property
    def budget_price(self) -> PriceFunction | None:
        """The price that budgets use to reserve and to charge, or None when no price is known."""
        return self.price or (self.find_cautious_price() if self.find_cautious_price else None)


@dataclass(frozen=True, slots=True)
class MeterReading:
    """The metrics of an answer at one point in time; None is unknown.

    `ttft_s` runs from the call to the first delta. `tokens_per_s` covers the answer text after its first delta; it is
    unknown when there was thinking and its token count is unknown.
    """

    usage: Usage
    cost: Cost | None
    elapsed_s: float
    ttft_s: float | None
    tokens_per_s: float | None


class Meter:
    """A meter that is fed every event with its timestamp. `read` may be called at any time and counts only new text."""

    def __init__(self, messages: Sequence[Message], started_s: float, cost_model: CostModel | None = None) -> None:
        self._started_s = started_s
        self._cost_model = cost_model or CostModel()
        self._prompt = "\n".join(m.content for m in messages)
        self._input: int | None = None
        self._text = _TokenTally()
        self._thinking = _TokenTally()
        self._chars = 0
        self._reported: Usage | None = None
        self._connected = False
        self._rejected = False
        self._first_delta_s: float | None = None
        self._first_text_s: float | None = None
        self._last_text_s = started_s
        self._ended_s: float | None = None

    @property
    def text(self) -> str:
        """The text of the answer so far, as it arrived from the provider."""
        return "".join(self._text.parts)

    def start_attempt(self, cost_model: CostModel) -> None:
        """Start another attempt, possibly with another model: reset the counts and the last attempt's report."""
        self._cost_model = cost_model
        self._input = None
        self._reported = None
        self._text.reset_count()
        self._thinking = _TokenTally()
        self._first_delta_s = None
        self._connected = False

    def feed(self, event: Event, now: float) -> None:
        """Process an event that arrived at `now`."""
        if type(event) is TextDelta:
            if self._first_text_s is None:
                self._first_text_s = now
            self._last_text_s = now
            self._text.parts.append(event.text)
            self._chars += len(event.text)
        elif type(event) is ThinkingDelta:
            self._thinking.parts.append(event.text)
            self._chars += len(event.text)
        elif type(event) is Usage:
            self._reported = _merge_usage(self._reported, event)
            return
        else:
            self._record_milestone(event)
            return
        if self._first_delta_s is None:
            self._first_delta_s = now
        if self._reported is not None and self._reported.output_tokens is not None:
            # Text that arrives after a usage report is not covered by it.
            self._reported = replace(self._reported, output_tokens=None, thinking_tokens=None, billed_usd=None)

    def _record_milestone(self, event: Event) -> None:
        """Record how an attempt began and ended. An attempt that was rejected with an HTTP status used no tokens."""
        if isinstance(event, Notice) and event.kind == "connected":
            self._connected = True
        elif isinstance(event, Failed):
            self._rejected = event.http_status is not None and not self._connected and not self._text.parts

    def end(self, now: float) -> None:
        """Stop the clock. Later readings count the tokens of the whole text instead of adding up those of its parts."""
        if self._ended_s is None:
            self._ended_s = now
            self._text.reset_count()
            self._thinking.reset_count()

    def read(self, now: float) -> MeterReading:
        """Return the metrics at `now`, which is on the same clock as the events."""
        now = now if self._ended_s is None else self._ended_s
        usage = self._current_usage()
        ttft_s = None if self._first_delta_s is None else self._first_delta_s - self._started_s
        return MeterReading(usage, self._cost(usage), now - self._started_s, ttft_s, self._compute_tokens_per_s(usage))

    def _cost(self, usage: Usage) -> Cost | None:
        """Return the cost: the amount that the vendor reports if there is one, else tokens times price."""
        listed = self._cost_model.price(usage) if self._cost_model.price else None
        if usage.billed_usd is not None:
            listed = listed or Cost(None, None, BILL_ONLY)
            return replace(listed, billed_usd=usage.billed_usd)
        return replace(listed, is_lower_bound=True) if listed and usage.is_lower_bound else listed

    def final_usage(self) -> Usage | None:
        """Return the provider's token counts for this attempt, or None when they are missing, partial or implausible.

        Implausible counts are zero input tokens, zero output tokens for an answer with content, and more thinking
        tokens than output tokens.
        """
        usage = self._reported
        if usage is None or usage.output_tokens is None or (usage.input_tokens or 0) <= 0:
            return None
        wrote = self._first_delta_s is not None
        too_few = usage.output_tokens < max(wrote, usage.thinking_tokens or 0)
        return None if too_few else usage

    @property
    def is_silent(self) -> bool:
        """Whether this attempt has delivered neither text nor thinking, nor reported any usage."""
        return self._first_delta_s is None and self._reported is None

    def _current_usage(self) -> Usage:
        if self._rejected:
            return Usage(0, 0, 0, 0, source="estimated")
        reported = self._reported
        if reported is not None and None not in (reported.input_tokens, reported.output_tokens):
            return reported
        if self._input is None:
            self._input = self._count_tokens(self._prompt)
        thinking = self._thinking.count_tokens(self._count_tokens)
        counted = Usage(
            input_tokens=self._input,
            output_tokens=self._text.count_tokens(self._count_tokens) + thinking,
            thinking_tokens=thinking,
            source="counted" if self._counter else "estimated",
        )
        if reported is None:
            return counted
        if reported.output_tokens is not None:
            return replace(reported, input_tokens=counted.input_tokens, source=counted.source)
        return replace(
            counted,
            input_tokens=counted.input_tokens if reported.input_tokens is None else reported.input_tokens,
            cached_tokens=reported.cached_tokens,
            cache_write_tokens=reported.cache_write_tokens,
            cache_write_1h_tokens=reported.cache_write_1h_tokens,
            billed_usd=reported.billed_usd,
            is_lower_bound=reported.is_lower_bound,
            service_tier=reported.service_tier,
        )

    @property
    def _counter(self) -> TokenCounter | None:
        return self._cost_model.counter if self._chars <= MAX_COUNTED_CHARS else None

    def _count_tokens(self, text: str) -> int:
        return self._counter(text) if self._counter else -(-len(text) // CHARS_PER_TOKEN)

    def _compute_tokens_per_s(self, usage: Usage) -> float | None:
        if self._first_text_s is None or usage.output_tokens is None or self._last_text_s <= self._first_text_s:
            return None
        if usage.thinking_tokens is None and self._thinking.parts:
            return None
        after_first = usage.output_tokens - (usage.thinking_tokens or 0) - 1
        return max(after_first, 0) / (self._last_text_s - self._first_text_s)


class _TokenTally:
    """Text in parts, and a running token count that counts each part only once."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._done = 0
        self._count = 0

    def reset_count(self) -> None:
        """Forget the count, so that the whole text is counted the next time."""
        self._done = self._count = 0

    def count_tokens(self, count: TokenCounter) -> int:
        """Count the parts that were added since the last call and return the total."""
        if self._done < len(self.parts):
            self._count += count("".join(self.parts[self._done :]))
            self._done = len(self.parts)
        return self._count


def _merge_usage(old: Usage | None, new: Usage) -> Usage:
    if old is None:
        return new
    return Usage(
        input_tokens=old.input_tokens if new.input_tokens is None else new.input_tokens,
        output_tokens=old.output_tokens if new.output_tokens is None else new.output_tokens,
        thinking_tokens=old.thinking_tokens if new.thinking_tokens is None else new.thinking_tokens,
        cached_tokens=old.cached_tokens if new.cached_tokens is None else new.cached_tokens,
        source=new.source,
        cache_write_tokens=old.cache_write_tokens if new.cache_write_tokens is None else new.cache_write_tokens,
        billed_usd=old.billed_usd if new.billed_usd is None else new.billed_usd,
        is_lower_bound=new.is_lower_bound,
        service_tier=old.service_tier if new.service_tier is None else new.service_tier,
        cache_write_1h_tokens=(
            old.cache_write_1h_tokens if new.cache_write_1h_tokens is None else new.cache_write_1h_tokens
        ),
    )

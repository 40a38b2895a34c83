"""Cost of a run: estimates before it, a cost ceiling during it, and a ledger that survives a kill of the process.

The most that an answer can cost is `max_tokens` at the output price, plus the room for thinking that is requested
beside it, plus one input token per byte of the prompt (no byte-level encoding produces more), plus 64 input tokens a
message for the template that a service adds. Every attempt may be charged in full; over the service's transports the
number of attempts is that of the service's retry policy.
"""

import asyncio
import json
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from evaluation.runner.messages import prompt_messages
from evaluation.runner.trial import WARM_UP_PROMPT, WARM_UP_TOKENS
from evaluation.scenario import PlannedTrial, Scenario
from evaluation.schema import read_lines
from evaluation.transports import IN_PROCESS
from streaming.errors import UsageError
from streaming.events import Usage
from streaming.meter import CHARS_PER_TOKEN, CostModel
from streaming.retry import RetryPolicy

LEDGER_FILE = "spending.jsonl"
COST_PROMISE = "what is spent is at most that and one answer, which may think beyond its limit"
"""What a maximum cost promises; `CostCeiling` keeps it."""
WRAPPING_TOKENS = 64
_SERVICE_ATTEMPTS = 1 + RetryPolicy().max_retries + RetryPolicy().fallback


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The estimated tokens and cost of one request; `usd` and `at_most_usd` are None if the price is unknown.

    `visible_usd` is the largest cost of an answer without any thinking beside its visible limit.
    """

    input_tokens: int
    output_tokens: int
    most_output_tokens: int
    usd: Decimal | None
    at_most_usd: Decimal | None
    visible_usd: Decimal | None = None


def estimate_cost(
    cost_model: CostModel,
    text: str,
    max_tokens: int,
    expected_tokens: int | None = None,
    attempts: int = 1,
    turns: int = 1,
) -> CostEstimate:
    """Estimate the tokens and cost of one request, whose `turns` messages have this text.

    Input tokens are counted with the model's tokenizer, or estimated at 4 characters per token. Output tokens are
    `expected_tokens`, or `max_tokens` if that is None. `at_most_usd` is the largest cost of `attempts` attempts.
    """
    input_tokens = _count_input(cost_model, text, turns)
    return _estimate(cost_model, input_tokens, max_tokens, expected_tokens, attempts)


def _count_input(cost_model: CostModel, text: str, turns: int) -> tuple[int, int]:
    """Return the likely and the highest number of input tokens of `turns` messages with this text."""
    counted = cost_model.counter(text) if cost_model.counter else -(-len(text) // CHARS_PER_TOKEN)
    return counted, len(text.encode("utf-8", "surrogatepass")) + WRAPPING_TOKENS * turns


def _estimate(
    cost_model: CostModel, input_tokens: tuple[int, int], max_tokens: int, expected_tokens: int | None, attempts: int
) -> CostEstimate:
    """Return the estimate for the likely and the highest number of input tokens."""
    counted, most_input = input_tokens
    expected = min(expected_tokens or max_tokens, max_tokens)
    most_output = max_tokens + cost_model.thinking_room
    at_most = _price_tokens(cost_model, most_input, most_output)
    visible = _price_tokens(cost_model, most_input, max_tokens)
    return CostEstimate(
        input_tokens=counted,
        output_tokens=expected,
        most_output_tokens=most_output,
        usd=_price_tokens(cost_model, counted, expected),
        at_most_usd=None if at_most is None else at_most * attempts,
        visible_usd=None if visible is None else visible * attempts,
    )


def _price_tokens(cost_model: CostModel, input_tokens: int, output_tokens: int) -> Decimal | None:
    cost = cost_model.price(Usage(input_tokens, output_tokens, 0, 0)) if cost_model.price else None
    return None if cost is None else cost.total_usd


def estimate_trial_cost(cost_model: CostModel, scenario: Scenario, planned: PlannedTrial) -> CostEstimate:
    """Estimate the cost of one trial; `at_most_usd` includes its retries.

    A generated text has the tokens that were asked for, or where they are estimated a character for a fourth of one.
    A later turn of a conversation is sent with all before it, and their answers at their likely or highest length.
    """
    prompt, attempts = planned.prompt, _max_attempts(scenario, planned.transport)
    limit = scenario.max_tokens_of(prompt)
    if prompt.body is not None:
        most = prompt.body.tokens * CHARS_PER_TOKEN + WRAPPING_TOKENS
        return _estimate(cost_model, (prompt.body.tokens, most), limit, prompt.expected_tokens, attempts)
    earlier = planned.turn - 1
    texts = [message.content for message in prompt_messages(planned, "")]
    texts += [turn.text for turn in prompt.turns[:earlier]]
    counted, most = _count_input(cost_model, "\n".join(texts), len(texts) + earlier)
    counted += earlier * min(prompt.expected_tokens or limit, limit)
    most += earlier * limit * CHARS_PER_TOKEN
    return _estimate(cost_model, (counted, most), limit, prompt.expected_tokens, attempts)


def estimate_warm_up_cost(cost_model: CostModel, scenario: Scenario, transport: str = IN_PROCESS) -> CostEstimate:
    """Estimate the cost of one warm-up request; `at_most_usd` includes its retries."""
    tokens = min(WARM_UP_TOKENS, scenario.max_tokens)
    return estimate_cost(cost_model, WARM_UP_PROMPT, tokens, attempts=_max_attempts(scenario, transport))


def _max_attempts(scenario: Scenario, transport: str) -> int:
    return scenario.retries + 1 if transport == IN_PROCESS else _SERVICE_ATTEMPTS


@dataclass(slots=True)
class CostCeiling:
    """The amounts charged and reserved so far, in USD, under a ceiling; kept in memory only without a `ledger`.

    The ledger survives a kill of the process but not a power cut: waiting for the disk would delay the streams.

    A trial is charged when it ends. If its cost is unknown, wholly or in part (a failed attempt), the amount reserved
    for it is charged.

    Some vendors do not limit thinking by `max_tokens`, so that an answer can cost more than its estimate. Each
    reservation is therefore at least the cost of the provider's most expensive answer so far, and a provider's first
    answer runs alone. An answer whose room for thinking does not fit under the ceiling is still requested, alone, while
    its visible limit fits: models rarely use all of that room. So the total exceeds the ceiling by one answer at most,
    provided that, where a vendor does not limit thinking, no answer costs more than all before it (decision 0016).
    """

    ceiling_usd: Decimal
    ledger: Path | None = None
    charged_usd: Decimal = Decimal(0)
    _reserved: dict[str, Decimal] = field(default_factory=dict)
    _providers: dict[str, str] = field(default_factory=dict)
    _dearest: dict[str, Decimal] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def reserve(
        self, what: str, at_most_usd: Decimal, provider: str = "", visible_usd: Decimal | None = None
    ) -> bool:
        """Reserve the highest cost of the request `what`; return False if it can never fit under the ceiling.

        While it does not fit, wait for the requests under way to be settled. `visible_usd` is enough for a request
        that runs alone; None: `at_most_usd`.
        """
        while True:
            dearest_usd = self._dearest.get(provider, Decimal(0))
            amount_usd = max(at_most_usd, dearest_usd)
            taken_usd = self.charged_usd + sum(self._reserved.values())
            is_first = provider not in self._dearest and provider in self._providers.values()
            if taken_usd + amount_usd <= self.ceiling_usd and not is_first:
                break
            if not self._reserved:
                alone_usd = max(at_most_usd if visible_usd is None else visible_usd, dearest_usd)
                if taken_usd + alone_usd <= self.ceiling_usd:
                    break
                return False
            self._changed.clear()
            await self._changed.wait()
        self._reserved[what], self._providers[what] = amount_usd, provider
        self._append_to_ledger({"reserved": what, "usd": str(amount_usd)})
        return True

    def settle(self, what: str, cost_usd: Decimal | None, attempts: int = 1) -> None:
        """Charge a reserved request that has ended; `cost_usd` is the cost of its last attempt, None if unknown."""
        reserved, provider = self._reserved.pop(what), self._providers.pop(what)
        self._dearest[provider] = max(self._dearest.get(provider, Decimal(0)), cost_usd or Decimal(0))
        known = cost_usd is not None and attempts <= 1
        self.charged_usd += cost_usd if known and cost_usd is not None else reserved
        self._append_to_ledger({"charged": what, "usd": str(cost_usd if known else reserved)})
        self._changed.set()

    def _append_to_ledger(self, line: dict[str, Any]) -> None:
        if self.ledger is None:
            return
        with self.ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_ledger_total(folder: Path) -> Decimal:
    """Return the total of a folder's ledger in USD, 0 without a ledger.

    Reservations that were never settled count as well: the process was killed, and the provider may have charged them.
    Raises UsageError, with the line number, when a line is invalid.
    """
    open_usd: dict[str, Decimal] = {}
    charged_usd = Decimal(0)
    for where, line in read_lines(folder / LEDGER_FILE):
        try:
            if "charged" in line:
                open_usd.pop(line["charged"])
                charged_usd += Decimal(line["usd"])
            else:
                open_usd[line["reserved"]] = Decimal(line["usd"])
        except (KeyError, ArithmeticError) as error:
            raise UsageError(f"{where}: not a line of a ledger ({error})") from None
    return charged_usd + sum(open_usd.values())

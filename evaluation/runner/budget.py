"""Other people's money: what a run may cost at most, a ceiling that is never passed, and a ledger that survives a kill.

At most, an answer costs its `max_tokens` at the output price, and one input token for every byte of the question (no
byte-level encoding makes more) and 64 for what a service wraps around it. Every attempt may be charged in full; over a
wire the service makes as many as it makes for anybody.
"""

import asyncio
import json
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from evaluation.runner.trial import WARM_UP_PROMPT, WARM_UP_TOKENS
from evaluation.scenario import IN_PROCESS, PlannedTrial, Scenario
from evaluation.schema import read_lines
from streaming.errors import UsageError
from streaming.events import Usage
from streaming.meter import CHARS_PER_TOKEN, CostModel
from streaming.retry import RetryPolicy

LEDGER_FILE = "spending.jsonl"
WRAPPING_TOKENS = 64
_SERVICE_ATTEMPTS = 1 + RetryPolicy().max_retries + RetryPolicy().fallback


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """What one question may come to; `usd` and `at_most_usd` are None where no price is known."""

    input_tokens: int
    output_tokens: int
    most_output_tokens: int
    usd: Decimal | None
    at_most_usd: Decimal | None


def estimate_cost(
    cost_model: CostModel, text: str, max_tokens: int, expected_tokens: int | None = None, attempts: int = 1
) -> CostEstimate:
    """Estimate one question: input counted or at 4 characters a token, output as expected, else `max_tokens`."""
    counted = cost_model.counter(text) if cost_model.counter else -(-len(text) // CHARS_PER_TOKEN)
    expected = min(expected_tokens or max_tokens, max_tokens)
    most_input = len(text.encode("utf-8", "surrogatepass")) + WRAPPING_TOKENS
    most_output = max_tokens + cost_model.thinking_room
    at_most = _price_tokens(cost_model, most_input, most_output)
    return CostEstimate(
        input_tokens=counted,
        output_tokens=expected,
        most_output_tokens=most_output,
        usd=_price_tokens(cost_model, counted, expected),
        at_most_usd=None if at_most is None else at_most * attempts,
    )


def _price_tokens(cost_model: CostModel, input_tokens: int, output_tokens: int) -> Decimal | None:
    cost = cost_model.price(Usage(input_tokens, output_tokens, 0, 0)) if cost_model.price else None
    return None if cost is None else cost.total_usd


def estimate_trial_cost(cost_model: CostModel, scenario: Scenario, planned: PlannedTrial) -> CostEstimate:
    """Estimate one trial; its retries are in what it costs at most."""
    prompt = planned.prompt
    return estimate_cost(
        cost_model, prompt.text, scenario.max_tokens, prompt.expected_tokens, _max_attempts(scenario, planned.transport)
    )


def estimate_warm_up_cost(cost_model: CostModel, scenario: Scenario, transport: str = IN_PROCESS) -> CostEstimate:
    """Estimate one warm-up answer."""
    tokens = min(WARM_UP_TOKENS, scenario.max_tokens)
    return estimate_cost(cost_model, WARM_UP_PROMPT, tokens, attempts=_max_attempts(scenario, transport))


def _max_attempts(scenario: Scenario, transport: str) -> int:
    return scenario.retries + 1 if transport == IN_PROCESS else _SERVICE_ATTEMPTS


@dataclass(slots=True)
class CostCeiling:
    """What was charged and what is reserved, under a ceiling. `ledger` None keeps it in memory alone.

    The ledger survives a kill of the process, not a power cut: waiting for the disk would hold up the streams.

    What a trial cost is charged when it has ended; where that is unknown, or part of it (an attempt that failed), what
    it may have cost at most.

    Thinking is not held to `max_tokens`, so that an answer can cost more than its limit says: from the first answer of
    a provider on, as much is reserved as its dearest has cost, and until the first has ended none is asked beside it.
    What is spent passes the ceiling by one answer at most, as long as none is dearer than all before it.
    """

    ceiling_usd: Decimal
    ledger: Path | None = None
    charged_usd: Decimal = Decimal(0)
    _reserved: dict[str, Decimal] = field(default_factory=dict)
    _providers: dict[str, str] = field(default_factory=dict)
    _dearest: dict[str, Decimal] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def reserve(self, what: str, at_most_usd: Decimal, provider: str = "") -> bool:
        """Set aside what `what` may cost; wait for those under way while it does not fit. False: it never will."""
        while True:
            amount_usd = max(at_most_usd, self._dearest.get(provider, Decimal(0)))
            taken_usd = self.charged_usd + sum(self._reserved.values())
            is_first = provider not in self._dearest and provider in self._providers.values()
            if taken_usd + amount_usd <= self.ceiling_usd and not is_first:
                break
            if not self._reserved:
                return False
            self._changed.clear()
            await self._changed.wait()
        self._reserved[what], self._providers[what] = amount_usd, provider
        self._append_to_ledger({"reserved": what, "usd": str(amount_usd)})
        return True

    def settle(self, what: str, cost_usd: Decimal | None, attempts: int = 1) -> None:
        """Charge for what was reserved and has ended; `cost_usd` is that of the last of its attempts."""
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
    """Add up the ledger of a folder: what was charged, and what was reserved and broken off, which may have been paid.

    0 where there is none. Raises UsageError naming a line that is broken.
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

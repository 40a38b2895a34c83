"""The cost of a page's answers, and their receipts for the export. No I/O."""

import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from streaming.pipeline import Receipt
from ui.form import LOCAL_PROVIDER, ValidatedQuestion

_MAX_RECEIPTS = 200
"""Maximum number of receipts kept for the export; older ones remain as text in the conversation."""


class PageSpending:
    """The spending of one page. `usd` is the known cost; `unknown` counts the answers of unknown price."""

    def __init__(self) -> None:
        self._name = secrets.token_hex(4)  # conversations outlive pages, so each page's receipts have ids of their own
        self.usd = Decimal(0)
        self.answers = 0
        self.unknown = 0
        self.estimated = False
        self._facts: OrderedDict[str, Mapping[str, Any]] = OrderedDict()

    def add(self, receipt: Receipt, question: ValidatedQuestion) -> str:
        """Add an answer; return the id of its receipt. The local model and simulations charge nothing."""
        self.answers += 1
        cost = receipt.reading.cost
        if cost is not None:
            self.usd += cost.total_usd
            self.estimated |= receipt.reading.usage.source != "reported" and cost.total_usd > 0
        elif not (question.simulated or question.name == LOCAL_PROVIDER):
            self.unknown += 1
        name = f"receipt-{self._name}-{self.answers}"
        self._facts[name] = _receipt_facts(receipt, question.strategy, question.simulated)
        if len(self._facts) > _MAX_RECEIPTS:
            self._facts.popitem(last=False)
        return name

    def receipt_facts(self, name: str) -> Mapping[str, Any] | None:
        """Return a receipt's fields, with units in their names; None as a field is unknown, as the result not found."""
        return self._facts.get(name)


def _receipt_facts(receipt: Receipt, strategy: str, simulated: bool) -> dict[str, Any]:
    reading, cost, error = receipt.reading, receipt.reading.cost, receipt.error
    usage = asdict(reading.usage)
    source = usage.pop("source")
    return {
        "outcome": receipt.outcome,
        "finish_reason": receipt.finish_reason,
        "error": None if error is None else {"kind": error.kind, "message": error.message},
        "served_by": receipt.served_by,
        "simulated": simulated,
        "strategy": strategy,
        "attempts": receipt.attempts,
        "fell_back_to": receipt.fell_back_to,
        "delivered_chars": receipt.delivered_chars,
        "ttft_s": reading.ttft_s,
        "tokens_per_s": reading.tokens_per_s,
        "elapsed_s": reading.elapsed_s,
        "stop_s": receipt.stop_s,
        **usage,
        "token_source": source,
        "cost_usd": None if cost is None else str(cost.total_usd),
        "price_source": None if cost is None else cost.price_source,
    }

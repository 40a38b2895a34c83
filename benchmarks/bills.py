"""The list prices of recorded answers, compared with what their vendors billed for them, by service.

    python -m benchmarks.bills [--worst N]

`tests/vendor_responses/bills.csv` has answers with the usage and the cost that their vendors reported. Here each usage
is priced as if the answer had contained no cost. The vendor's own figure wins wherever there is one; this benchmark
shows how far the list would be off where there is none. The last line is one JSON object.
"""

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from providers.models.pricing import list_price
from providers.services import SERVICES
from streaming.events import Usage

BILLS = Path(__file__).parents[1] / "tests" / "vendor_responses" / "bills.csv"
_THINKING_BESIDE = ("xai", "openai-compatible")
EXACT = Decimal("0.02")
"""A list price counts as right within 2 % of the bill."""


@dataclass(frozen=True, slots=True)
class PricedBill:
    """One answer: what its vendor billed, and its cost at the list price, None when the list lacks the model."""

    service: str
    model: str
    billed_usd: Decimal
    listed_usd: Decimal | None

    @property
    def difference(self) -> Decimal | None:
        """The list price's difference to the bill as a share of the bill, None when either is unknown or 0."""
        if self.listed_usd is None or not self.billed_usd:
            return None
        return self.listed_usd / self.billed_usd - 1


def price_bills(path: Path = BILLS) -> list[PricedBill]:
    """Return every recorded bill with its cost at the list price."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_price_bill(row) for row in csv.DictReader(file)]


def _price_bill(row: Mapping[str, str]) -> PricedBill:
    service = SERVICES.get(row["service"])
    price = list_price(service.prices, row["model"]) if service is not None and service.prices else None
    cost = price(_read_usage(row)) if price else None
    return PricedBill(
        row["service"], row["model"], Decimal(row["billed_by_vendor_usd"]), None if cost is None else cost.total_usd
    )


def _read_usage(row: Mapping[str, str]) -> Usage:
    prompt, completion, thinking, cached, written = (
        int(row[name] or 0) for name in ("prompt", "completion", "thinking", "cached", "cache_write")
    )
    # The file has xAI's own count of output, which excludes thinking; decoders see that from the vendor's total.
    output = completion + thinking if row["service"] in _THINKING_BESIDE else completion
    return Usage(prompt, output, thinking, cached, cache_write_tokens=written)


def summarize(bills: Iterable[PricedBill]) -> dict[str, dict[str, Any]]:
    """Return, by service, how many bills there are and how the list prices differ from them."""
    by_service: dict[str, list[PricedBill]] = {}
    for bill in bills:
        by_service.setdefault(bill.service, []).append(bill)
    return {service: _summarize_service(found) for service, found in by_service.items()}


def _summarize_service(bills: Sequence[PricedBill]) -> dict[str, Any]:
    known = [bill.difference for bill in bills if bill.difference is not None]
    priced = [bill for bill in bills if bill.listed_usd is not None]
    billed = sum((bill.billed_usd for bill in priced), Decimal(0))
    listed = sum((bill.listed_usd or Decimal(0) for bill in priced), Decimal(0))
    return {
        "bills": len(bills),
        "listed": len(priced),
        "within_2_percent": sum(abs(difference) <= EXACT for difference in known),
        "median_difference": float(statistics.median(known)) if known else None,
        "lowest_difference": float(min(known)) if known else None,
        "highest_difference": float(max(known)) if known else None,
        "billed_usd": float(billed),
        "listed_usd": float(listed),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each service and the worst differences, then the JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.bills", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--worst", type=int, default=5, metavar="N", help="bills to list by their difference (5)")
    parsed = parser.parse_args(arguments)
    bills = price_bills()
    found = summarize(bills)
    for service, row in found.items():
        middle = "unknown" if row["median_difference"] is None else f"{row['median_difference']:+.1%}"
        counts = f"{row['bills']} bills, {row['listed']} with a list price, {row['within_2_percent']} within 2 %"
        sums = f"{row['listed_usd']:.4f} USD listed, {row['billed_usd']:.4f} USD billed"
        print(f"{service}: {counts}; median difference {middle}; together {sums}")
    known = [(bill.difference, bill) for bill in bills if bill.difference is not None]
    for difference, bill in sorted(known, key=lambda pair: abs(pair[0]), reverse=True)[: parsed.worst]:
        amounts = f"{bill.listed_usd} listed, {bill.billed_usd} billed"
        print(f"  {bill.service}:{bill.model}: {difference:+.1%} ({amounts})")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The frozen configuration of the guard, built from its environment variables."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from limits import RateLimitItem

from guard.budget import Budget
from guard.content_filter import DEFAULT_BLOCKLIST
from guard.identity import ApiKeys
from guard.validation import InputLimits
from guard.variables import DEFAULT_PAGE_RATE, DEFAULT_RATE, MAX_BODY_BYTES, MAX_JSON_DEPTH, GuardVariables

DEFAULT_BUDGET = Budget(usd_per_caller=Decimal(1), usd_total=Decimal(10))
UNLIMITED_BUDGET = Budget(streams_per_caller=None, streams_total=None, output_tokens=None)


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """The guard's configuration. The defaults suit a public demo.

    A `rate` of None disables rate limiting, and a `blocklist` of None disables the content filter. `page_rate` limits
    how many pages one address may open; it is ignored when `rate` is None.

    `hops` is the number of trusted proxies that write X-Forwarded-For. It defaults to 1 on a Hugging Face Space, which
    always has a proxy: with 0, all visitors would share one address. `banned` holds normalized terms, and `secrets`
    holds exact values that no answer may contain.
    """

    rate: RateLimitItem | None = DEFAULT_RATE
    page_rate: RateLimitItem | None = DEFAULT_PAGE_RATE
    hops: int = 0
    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: InputLimits = field(default_factory=InputLimits)
    blocklist: Path | None = DEFAULT_BLOCKLIST
    output_filter: bool = True
    banned: tuple[str, ...] = ()
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    budget: Budget = DEFAULT_BUDGET

    @classmethod
    def from_env(cls, variables: Mapping[str, str], secrets: Iterable[str] = ()) -> "GuardConfig":
        """Return the configuration that the variables describe, with defaults for unset ones.

        Raises InvalidVariablesError, with a line for each invalid variable.
        """
        found = GuardVariables(variables)
        default_hops = 1 if found.space_id else 0
        return cls(
            rate=found.rate_limit,
            page_rate=found.page_rate_limit,
            hops=default_hops if found.trusted_hops is None else found.trusted_hops,
            keys=found.api_keys,
            limits=_input_limits(found),
            blocklist=found.blocklist if found.content_filter else None,
            secrets=frozenset(secrets),
            output_filter=found.output_filter,
            banned=found.output_banned + found.output_banned_file,
            budget=_budget(found),
        )


def _input_limits(found: GuardVariables) -> InputLimits:
    default = found.validation
    off = default.off | found.validation_off
    return InputLimits(
        message_chars=found.max_message_chars or default.message_chars,
        conversation_chars=found.max_conversation_chars or default.conversation_chars,
        turns=found.max_turns or default.turns,
        # A disabled rule falls back to the largest configurable bound, which keeps memory and stack use bounded.
        body_bytes=MAX_BODY_BYTES if "size" in off else found.max_body_bytes or default.body_bytes,
        json_depth=MAX_JSON_DEPTH if "depth" in off else found.max_json_depth or default.json_depth,
        off=off,
    )


def _budget(found: GuardVariables) -> Budget:
    if not found.budgets:
        return UNLIMITED_BUDGET
    # Turning off the rate limit signals a load test: then only explicitly set budgets apply.
    default = DEFAULT_BUDGET if found.rate_limit is not None else UNLIMITED_BUDGET
    names = {
        "tokens_per_caller": "budget_tokens_per_caller",
        "tokens_total": "budget_tokens_total",
        "usd_per_caller": "budget_usd_per_caller",
        "usd_total": "budget_usd_total",
        "streams_per_caller": "budget_streams_per_caller",
        "streams_total": "budget_streams_total",
        "output_tokens": "max_output_tokens",
        "unpriced": "unpriced_usd_per_1m",
    }
    given = {limit: getattr(found, name) for limit, name in names.items() if name in found.model_fields_set}
    return replace(default, **given)

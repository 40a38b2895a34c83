"""Metrics of the answer's tokens and of its cost."""

from evaluation.metrics.metric import Metric, reported
from evaluation.metrics.trial_metrics import MeasuredAnswer

_PROVIDER = "the provider's report, else counted or estimated (`token_source`)"
_WORKLOAD = "the workload's lengths"
_PRICE = "the vendor's own figure, else its token counts at list or user's prices (`cost_source`)"


def answer_tokens(answer: MeasuredAnswer) -> int | None:
    """Return the tokens of the answer's text; None if the number of output or thinking tokens is unknown."""
    output, thinking = answer.reported.get("output_tokens"), answer.reported.get("thinking_tokens")
    return None if output is None or thinking is None else output - thinking


METRICS = (
    Metric("input_tokens", "input tokens", "count", "neither", "tokens",
           "tokens of the prompt, those read from or written to a cache included", _PROVIDER,
           reported("input_tokens"), applies_to="any"),
    Metric("output_tokens", "output tokens", "count", "neither", "tokens", "tokens of the answer, thinking included",
           _PROVIDER, reported("output_tokens"), applies_to="any"),
    Metric("thinking_tokens", "thinking tokens", "count", "neither", "tokens", "tokens of the model's thinking",
           _PROVIDER, reported("thinking_tokens"), applies_to="any"),
    Metric("answer_tokens", "answer tokens", "count", "neither", "tokens", "output tokens − thinking tokens",
           _PROVIDER, answer_tokens, applies_to="any"),
    Metric("cached_tokens", "cached tokens", "count", "neither", "tokens", "input tokens read from a cache",
           _PROVIDER, reported("cached_tokens"), applies_to="any"),
    Metric("cache_write_tokens", "tokens written to a cache", "count", "neither", "tokens",
           "input tokens written to a cache", _PROVIDER, reported("cache_write_tokens"), applies_to="any"),
    Metric("context_tokens", "context of the turn", "count", "neither", "tokens",
           "tokens of a conversation's earlier turns, input and answers: what a cache can hold; 0 for the first",
           _PROVIDER, reported("context_tokens"), applies_to="any"),
    Metric("asked_input_tokens", "asked input tokens", "count", "neither", "tokens",
           "tokens of the text that a workload generated for the prompt, without the chat template", _WORKLOAD,
           reported("asked_input_tokens"), applies_to="any"),
    Metric("asked_output_tokens", "asked output tokens", "count", "neither", "tokens",
           "tokens of the answer that a workload asked for, by its limit", _WORKLOAD, reported("asked_output_tokens"),
           applies_to="any"),
    Metric("template_tokens", "tokens of the chat template", "count", "neither", "tokens",
           "input tokens of the warm-up beyond those of its text: in input_tokens, not in asked_input_tokens",
           "measured once for each provider of a workload", reported("template_tokens"), applies_to="any"),
    Metric("input_cost_usd", "input cost", "USD", "less", "cost", "input tokens × price", _PRICE,
           reported("input_cost_usd"), applies_to="any"),
    Metric("output_cost_usd", "output cost", "USD", "less", "cost", "output tokens × price", _PRICE,
           reported("output_cost_usd"), applies_to="any"),
    Metric("cost_usd", "cost", "USD", "less", "cost",
           "what the answer cost; a refused request costs nothing, unknown is empty", _PRICE, reported("cost_usd"),
           applies_to="any"),
    Metric("list_cost_usd", "cost at list price", "USD", "less", "cost", "tokens × list price, whatever was billed",
           _PRICE, reported("list_cost_usd"), applies_to="any"),
)  # fmt: skip

"""Decoder of chat completions, for OpenAI, Azure OpenAI and every compatible service. Pure.

In a stream, each event is a chunk with `choices[0].delta`; `[DONE]` may follow the last one. Only the first choice is
parsed. Azure adds `content_filter_results` to a choice; the filtered categories are named in `Finish.raw`.
"""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from providers.decoding.decoder import (
    AnswerBuilder,
    StreamDecoder,
    as_object,
    as_text,
    parse_duration_s,
    parse_tier,
    parse_token_count,
    timings_notice,
)
from providers.decoding.framing import JSONBodyDecoder, SSEDecoder
from providers.decoding.vendor_errors import error_from_payload
from streaming.errors import ProtocolError
from streaming.events import Event, FinishReason, Usage

_FINISH_REASONS: dict[str, FinishReason] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_token", "stop_sequence", "end_turn", "end"), "stop"),
    **dict.fromkeys(("complete", "completed", "finished"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_length", "token_limit"), "length"),
    **dict.fromkeys(("max_new_tokens", "max_output_tokens", "max_completion_tokens", "context_length"), "length"),
    "model_context_window_exceeded": "length",
    **dict.fromkeys(("content_filter", "content_filtered", "safety", "sensitive"), "content_filter"),
    **dict.fromkeys(("recitation", "prohibited_content", "blocklist", "spii", "error_toxic"), "content_filter"),
    "guardrail_intervened": "content_filter",
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), "tool"),
    "error": "error",
}
"""Finish reasons that are known to end an answer. After any other (vLLM's `abort`, DeepSeek's
`insufficient_system_resource`) the answer counts as incomplete."""


def make_decoder(*, streamed: bool = True, think_tags: bool = False, shows_thinking: bool = False) -> StreamDecoder:
    """Return a decoder for one response. `providers.services.CompatProfile` explains the options."""
    dialect = ChatCompletionsParser(think_tags=think_tags, shows_thinking=shows_thinking)
    return SSEDecoder(dialect) if streamed else JSONBodyDecoder(dialect)


class ChatCompletionsParser:
    """A parser of stream chunks and whole completions."""

    def __init__(self, *, think_tags: bool = False, shows_thinking: bool = False) -> None:
        self.answer = AnswerBuilder(think_tags=think_tags, shows_thinking=shows_thinking)
        self._filtered: dict[str, None] = {}
        self._has_origin = False
        self._origin: dict[str, object] = {}
        self._tier: str | None = None

    def parse_chunk(self, fields: dict[str, Any]) -> list[Event]:
        return self._parse_choices(fields, "delta")

    def parse_body(self, body: dict[str, Any]) -> list[Event]:
        return self._parse_choices(body, "message")

    def _parse_choices(self, chunk: dict[str, Any], key: str) -> list[Event]:
        if "error" in chunk or "x_groq" in chunk or chunk.get("object") == "error":
            self._raise_error(chunk)
        events: list[Event] = []
        if not self._has_origin:
            self._record_origin(chunk)
        usage = _usage_of(chunk)
        for choice in _choices_of(chunk):
            if not choice.get("index"):
                events += self._parse_choice(choice, key)
            usage = usage or choice.get("usage")  # Moonshot puts it here
        if usage:
            self._record_origin(chunk)
            tier = parse_tier(chunk.get("service_tier")) or self._tier
            events += self.answer.add_usage(replace(read_usage(as_object(usage)), service_tier=tier))
            events += _read_timings(chunk)
        elif "timings" in chunk or "time_info" in chunk:
            events += _read_timings(chunk)
        return events

    def _raise_error(self, chunk: dict[str, Any]) -> None:
        """Raise the error in a chunk, if there is one; `flush_held` returns the usage that it may carry."""
        if error := _error_of(chunk):
            if usage := _usage_of(chunk):
                self.answer.hold_usage(read_usage(as_object(usage)))
            raise error_from_payload(error)

    def _record_origin(self, chunk: dict[str, Any]) -> None:
        """Record who answers. Azure's first chunk and some gateways' have no model yet."""
        self._has_origin = bool(chunk.get("model"))
        self._tier = parse_tier(chunk.get("service_tier")) or self._tier
        origin = {
            "model": chunk.get("model"),
            "upstream": chunk.get("provider"),
            "service_tier": self._tier,
            "fingerprint": chunk.get("system_fingerprint"),
            "request_id": chunk.get("id"),
        }
        if origin != self._origin:
            self._origin = origin
            self.answer.record_origin(**origin)

    def _parse_choice(self, choice: dict[str, Any], key: str) -> list[Event]:
        answer = self.answer
        message = as_object(choice.get(key))
        events: list[Event] = []
        thinking = message.get("reasoning_content") or message.get("reasoning")
        if thinking or (thinking := "reasoning_details" in message and _reasoning_details(message)):
            events += answer.add_thinking(as_text(thinking))
        if content := message.get("content"):
            events += answer.add_text(content) if isinstance(content, str) else self._parse_content_parts(content)
        if refusal := message.get("refusal"):
            answer.refused = True
            events += answer.add_text(as_text(refusal))
        if results := choice.get("content_filter_results"):
            self._record_filtered(as_object(results))
        if error := choice.get("error"):
            self.answer.finish_with_error(error_from_payload(error))
            return events
        raw = choice.get("finish_reason")
        # Some gateways send an empty reason with every chunk: it counts only if the chunk contains nothing else.
        if raw or (raw == "" and not events):
            self._finish(as_text(raw))
        return events

    def _parse_content_parts(self, parts: object) -> list[Event]:
        """Parse content in parts, as some services send thinking: `[{"type": "thinking", "thinking": [...]}, …]`."""
        if not isinstance(parts, list):
            raise ProtocolError("response: content is neither text nor a list of parts")
        events: list[Event] = []
        for part in map(as_object, parts):
            inner = part.get("thinking")
            if isinstance(inner, list):
                inner = "".join(as_text(as_object(piece).get("text")) for piece in inner)
            if inner:
                events += self.answer.add_thinking(as_text(inner))
            if text := as_text(part.get("text")):
                is_thinking = str(part.get("type", "")).startswith(("reasoning", "thinking"))
                events += self.answer.add_thinking(text) if is_thinking else self.answer.add_text(text)
            if refusal := part.get("refusal"):
                self.answer.refused = True
                events += self.answer.add_text(as_text(refusal))
        return events

    def _record_filtered(self, results: dict[str, Any]) -> None:
        for category, result in results.items():
            if isinstance(result, dict) and result.get("filtered") is True:
                self._filtered[category] = None

    def _finish(self, raw: str) -> None:
        # Gemini's reason may have a part of its own behind a colon: `content_filter: RECITATION`.
        reason = _FINISH_REASONS.get(raw.lower().partition(":")[0].strip()) if raw else "other"
        if reason is None:
            self.answer.finish_unknown(raw)
            return
        if reason == "content_filter" and self._filtered:
            raw = f"{raw} ({', '.join(self._filtered)})"
        self.answer.finish(reason, raw)


def _error_of(chunk: dict[str, Any]) -> object:
    """Return the error in a chunk, from any of the fields that services use, or None."""
    if error := chunk.get("error"):
        return error
    if chunk.get("object") == "error":
        return chunk
    groq = chunk.get("x_groq")
    return groq.get("error") if isinstance(groq, dict) else None


def _read_timings(chunk: dict[str, Any]) -> list[Event]:
    """Return the server's own timings: Groq's in its usage, Cerebras' in `time_info`, llama.cpp's in `timings`."""
    groq = chunk.get("x_groq")
    places = (chunk.get("time_info"), chunk.get("usage"), groq.get("usage") if isinstance(groq, dict) else None)
    for place in places:
        if isinstance(place, dict) and "prompt_time" in place:
            names = {"queue_s": "queue_time", "prefill_s": "prompt_time", "decode_s": "completion_time"}
            names["total_s"] = "total_time"
            return timings_notice({name: parse_duration_s(place.get(key)) for name, key in names.items()})
    timings = chunk.get("timings")
    if not isinstance(timings, dict):
        return []
    names = {"prefill_s": "prompt_ms", "decode_s": "predicted_ms"}
    return timings_notice({name: parse_duration_s(timings.get(key), 1000) for name, key in names.items()})


def _choices_of(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        if choices is None:
            return []
        raise ProtocolError("response: choices is not a list")
    return choices if len(choices) == 1 and type(choices[0]) is dict else [as_object(choice) for choice in choices]


def _usage_of(chunk: dict[str, Any]) -> object:
    """Return the `usage` of a chunk, Groq's from `x_groq`; None or an empty one when there is none."""
    return chunk.get("usage") or ("x_groq" in chunk and as_object(chunk["x_groq"]).get("usage"))


def _reasoning_details(message: dict[str, Any]) -> str:
    """Return the thinking in `reasoning_details`, the only place where some services put it."""
    details = message.get("reasoning_details")
    if not isinstance(details, list):
        return ""
    pieces = [detail for detail in details if isinstance(detail, dict)]
    return "".join(as_text(piece.get("text") or piece.get("summary")) for piece in pieces)


_XAI_TICK_USD = Decimal("1e-10")


def read_usage(usage: dict[str, Any]) -> Usage:
    """Return the token counts of a `usage` object, with the vendor's own cost if it is included.

    Thinking is part of `completion_tokens` at OpenAI, Anthropic and DeepSeek but separate at xAI; the vendor's
    `total_tokens` shows which. If the counts do not add up to the total, output and thinking are unknown and the counts
    are a lower bound.
    """
    prompt_details = as_object(usage.get("prompt_tokens_details"))
    output_details = as_object(usage.get("completion_tokens_details"))
    cached = parse_token_count(prompt_details.get("cached_tokens"))
    prompt, completion = (
        parse_token_count(usage.get("prompt_tokens")),
        parse_token_count(usage.get("completion_tokens")),
    )
    if cached is None:
        # DeepSeek and Moonshot have fields of their own for it.
        hits = usage.get("prompt_cache_hit_tokens")
        cached = parse_token_count(usage.get("cached_tokens") if hits is None else hits)
    thinking = parse_token_count(output_details.get("reasoning_tokens"))
    if thinking is None:
        thinking = parse_token_count(usage.get("reasoning_tokens"))
    token_usage = Usage(
        input_tokens=prompt,
        output_tokens=completion,
        thinking_tokens=thinking,
        cached_tokens=cached,
        cache_write_tokens=parse_token_count(prompt_details.get("cache_write_tokens")),
        billed_usd=read_billed_usd(usage),
    )
    if prompt is None or completion is None:
        return token_usage
    beyond = (parse_token_count(usage.get("total_tokens")) or 0) - prompt - completion
    if beyond <= 0 or _explains(beyond, prompt_details, output_details):
        return token_usage
    if beyond == thinking:
        return replace(token_usage, output_tokens=completion + thinking)
    if thinking and _explains(beyond - thinking, prompt_details, output_details):
        return replace(token_usage, output_tokens=completion + thinking)
    return replace(token_usage, output_tokens=None, thinking_tokens=None, is_lower_bound=True)


_COUNTED_INSIDE = frozenset({"cached_tokens", "cache_write_tokens", "text_tokens", "reasoning_tokens"})


def _explains(beyond: int, *details: dict[str, Any]) -> bool:
    """Return whether the counts of other kinds of tokens (audio, images) explain `beyond` additional tokens."""
    counts = [
        n for d in details for name, v in d.items() if name not in _COUNTED_INSIDE and (n := parse_token_count(v))
    ]
    return beyond in counts or (bool(counts) and beyond == sum(counts))


def read_billed_usd(usage: dict[str, Any]) -> Decimal | None:
    """Return the cost that the vendor reports: OpenRouter's number, Perplexity's object, xAI's ticks of 1e-10 USD."""
    ticks = parse_token_count(usage.get("cost_in_usd_ticks"))
    if ticks is not None:
        return ticks * _XAI_TICK_USD
    cost = usage.get("cost")
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    if not _is_amount(cost):
        return None
    # With a key of the caller's own, OpenRouter bills its fee only, and the upstream bills the answer.
    upstream = as_object(usage.get("cost_details")).get("upstream_inference_cost") if usage.get("is_byok") else None
    return Decimal(str(cost)) + (Decimal(str(upstream)) if _is_amount(upstream) else 0)


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MAX_BILL_USD


_MAX_BILL_USD = 1e6
"""A higher cost for one answer is a defect of the server."""

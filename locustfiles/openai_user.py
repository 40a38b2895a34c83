"""Users of any OpenAI-compatible server: this service, llama.cpp's, vLLM, a vendor's.

By hand, with or without /v1 in the address: `locust -f locustfiles/openai_user.py -H http://HOST:PORT --model NAME`.
"""

import json
from typing import Any

from answers import Answer
from http_exchange import HttpExchange, refused
from load_reports import turns
from load_user import Plan, Shape, StreamUser

from streaming.sse import Decoder

__all__ = ["OpenAIUser", "Shape"]
"""What Locust finds here: it takes users and the shape from the file that it was given."""


class OpenAIUser(StreamUser):
    """Asks for a streamed completion with its usage; reads it to `[DONE]`, or leaves half-way."""

    transport = "openai"
    own_strategy = "default"

    def asked_model(self) -> str:
        """Give the model's name."""
        return str(self.options.model)

    def named(self, plan: Plan) -> str:
        """Give the dialect and the model."""
        return f"openai:{plan.provider}"

    def hear(self, answer: Answer, plan: Plan) -> None:
        """Ask and listen."""
        target = f"{self.base.removesuffix('/v1')}/v1/chat/completions"
        body: dict[str, Any] = {
            "model": plan.provider,
            "messages": [{"role": "user", "content": plan.prompt}],
            "max_tokens": self.options.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.options.strategy:  # a field that this service alone knows
            body["strategy"] = self.options.strategy
        kept: list[tuple[float, bytes]] = []
        with HttpExchange(self.url, target, body, self.headers(answer), **self.socket_options(plan)) as exchange:
            exchange.note(answer)
            for read in exchange.parts():
                kept.append(read)
                if plan.cancel and len(kept) > plan.after:
                    break
        answer.headers_s = kept[0][0] if kept else None
        answer.stamp_source = exchange.socket.stamp_source
        if exchange.status is not None and not exchange.is_stream:
            refused(answer, exchange.socket.at_s, exchange.status, b"".join(part for _, part in kept))
            return
        read_chunks(kept, answer)
        if answer.outcome == "open" and plan.cancel and len(kept) > plan.after:
            answer.left()
        elif answer.outcome == "open":
            answer.failed(exchange.socket.at_s, "truncated", "the stream stopped before [DONE]")


def read_chunks(kept: list[tuple[float, bytes]], answer: Answer) -> None:
    """Decode what was kept, each chunk at the moment of its read."""
    decoder = Decoder()
    for at_s, part in turns.sliced(kept):
        before = len(answer.events)
        for event in decoder.feed(part):
            if event.data == "[DONE]":
                answer.complete() if answer.finish_reason else answer.failed(at_s, "truncated", "no finish reason")
            else:
                _chunk(at_s, json.loads(event.data), answer)
        texts = sum(kind == "text" for _, kind, _, _ in answer.events[before:])
        answer.merged_reads += texts > 1


def _chunk(at_s: float, chunk: dict[str, Any], answer: Answer) -> None:
    if error := chunk.get("error"):
        answer.failed(at_s, str(error.get("type") or "error"), str(error.get("message") or "no reason given"))
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        answer.thinking(at_s, delta.get("reasoning_content") or "")
        answer.text(at_s, delta.get("content") or "")
        if choice.get("finish_reason"):
            answer.finished(at_s, choice["finish_reason"])
    if usage := chunk.get("usage"):
        details = usage.get("completion_tokens_details") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        counts = {"input_tokens": usage.get("prompt_tokens"), "output_tokens": usage.get("completion_tokens")}
        thinking = {"thinking_tokens": details.get("reasoning_tokens"), "cached_tokens": cached}
        answer.used(at_s, {**counts, **thinking, "source": "reported"})

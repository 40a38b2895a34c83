"""Users of any OpenAI-compatible server: this service, llama.cpp's, vLLM, a vendor's.

By hand, with or without /v1 in the address: `locust -f locustfiles/openai_user.py -H http://HOST:PORT --model NAME`.
"""

from typing import Any

from answers import Answer
from http_exchange import HttpExchange, broke, refused
from load_reports import turns
from load_user import Plan, Shape, StreamUser
from openai_chunks import read_chunks, read_end

from providers import chat_completions_wire

_DONE = b"data: [DONE]"
"""The wire's own end marker: what comes after it is not waited for."""

__all__ = ["OpenAIUser", "Shape"]
"""What Locust finds here: it takes users and the shape from the file that it was given."""


class OpenAIUser(StreamUser):
    """Asks for a streamed completion with its usage; reads it to its end, or leaves half-way."""

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
        left = False
        with HttpExchange(self.url, target, body, self.headers(answer), **self.socket_options(plan)) as exchange:
            exchange.note(answer)
            for read in exchange.reads(_DONE):
                kept.append(read)
                if left := plan.cancel and len(kept) > plan.after:
                    break
        answer.headers_s = kept[0][0] if kept else None
        answer.stamp_source = exchange.socket.stamp_source
        if exchange.status is not None and not 200 <= exchange.status < 300:
            refused(answer, exchange.socket.at_s, exchange.status, b"".join(part for _, part in kept))
            return
        decoder = chat_completions_wire.decoder()
        with turns.sliced(kept) as reads:
            read_chunks(decoder, reads, answer)
        if left and not decoder.over:
            answer.left()
        elif exchange.fault is not None and not decoder.over:
            broke(answer, exchange.socket.at_s, exchange.fault)
        elif not exchange.complete and not decoder.over:
            answer.failed(exchange.socket.at_s, "truncated", "the connection was closed before the answer's end")
        else:
            read_end(decoder, exchange.socket.at_s, answer)

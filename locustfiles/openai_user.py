"""Users of any OpenAI-compatible server: this service, llama.cpp's server, vLLM, or a vendor.

Run it directly, with or without /v1 in the address:
`locust -f locustfiles/openai_user.py -H http://HOST:PORT --model NAME`.
"""

from typing import Any

import repository_path  # noqa: F401  importing it is what it is for
from answer_record import AnswerRecord
from base_user import LoadShape, RequestPlan, StreamUser, message_fields
from http_exchange import HttpExchange, record_error, record_rejection
from openai_decoding import decode_chunks, decode_end
from result_collector import turns

from providers.decoding import chat_completions

_DONE_MARKER = b"data: [DONE]"
"""The end marker of the protocol; later data is not waited for."""

__all__ = ["LoadShape", "OpenAIUser"]
"""Locust takes the users and the load shape from the names in this file."""


class OpenAIUser(StreamUser):
    """A user that requests a streamed completion with usage, and reads it to the end or leaves half-way."""

    transport = "openai"
    own_strategy = "default"

    def model_name(self) -> str:
        """Return the name of the model to request."""
        return str(self.options.model)

    def display_name(self, plan: RequestPlan) -> str:
        """Return the dialect and the model, as in `openai:gpt-4o`."""
        return f"openai:{plan.provider}"

    def completion_body(self, plan: RequestPlan) -> dict[str, Any]:
        """Return the body of a request for a streamed completion."""
        body: dict[str, Any] = {
            "model": plan.provider,
            "messages": message_fields(plan.prompt),
            "max_tokens": plan.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.options.ignore_eos:
            body["ignore_eos"] = True
        if self.options.strategy:  # only this service has this field
            body["strategy"] = self.options.strategy
        return body

    def stream_answer(self, answer: AnswerRecord, plan: RequestPlan) -> None:
        """Send the request and record the answer."""
        target = f"{self.base.removesuffix('/v1')}/v1/chat/completions"
        chunks: list[tuple[float, bytes]] = []
        left = False
        with HttpExchange(
            self.url, target, self.completion_body(plan), self.headers(answer), **self.socket_options(plan)
        ) as exchange:
            exchange.record_timings(answer)
            for read in exchange.iter_chunks_safe(_DONE_MARKER):
                chunks.append(read)
                if left := plan.cancel and len(chunks) > plan.after:
                    break
        answer.headers_s = chunks[0][0] if chunks else None
        answer.stamp_source = exchange.socket.stamp_source
        if exchange.status is not None and not 200 <= exchange.status < 300:
            record_rejection(answer, exchange.socket.at_s, exchange.status, b"".join(part for _, part in chunks))
            return
        decoder = chat_completions.make_decoder()
        with turns.slices(chunks) as reads:
            decode_chunks(decoder, reads, answer)
        if left and not decoder.done:
            answer.mark_cancelled()
        elif exchange.fault is not None and not decoder.done:
            record_error(answer, exchange.socket.at_s, exchange.fault)
        elif not exchange.complete and not decoder.done:
            answer.on_failure(exchange.socket.at_s, "truncated", "connection: closed before the end of the answer")
        else:
            decode_end(decoder, exchange.socket.at_s, answer)

"""Metrics of the text as it arrived from the provider, before the strategy."""

from evaluation.metrics import cadence
from evaluation.metrics.metric import Metric, reported
from evaluation.metrics.trial_metrics import MeasuredAnswer
from streaming.events import TERMINAL, TextDelta, ThinkingDelta

_OWN = "this project"
_VLLM_NOTE = (
    "vLLM, aiperf and guidellm divide by n - 1 tokens, which counts a first chunk of many tokens as one and is up to "
    "2 x off on chunked streams"
)


def ttft_s(answer: MeasuredAnswer) -> float | None:
    """Return the time to first token: the first delta of any kind after the last retry or fallback."""
    return answer.first_event_s(answer.last_attempt, (TextDelta, ThinkingDelta))


def ttft_total_s(answer: MeasuredAnswer) -> float | None:
    """Return the TTFT from the intended start, which includes queueing, connecting and waits after rejections.

    Connecting counts also where the connection was opened before the intended start, as if it had been opened then.
    """
    ttft = ttft_s(answer)
    if answer.sent_s is None or answer.intended_s is None or ttft is None:
        return None
    return answer.sent_s - answer.intended_s + (answer.connect_ahead_s or 0.0) + ttft


METRICS = (
    Metric("connect_s", "connect", "s", "less", "arrival", "start of connecting → connection open, with proxy and TLS; "
           "empty where the transport does not show it or the connection was open already", _OWN,
           reported("connect_s"), applies_to="any"),
    Metric("headers_s", "response headers", "s", "less", "arrival",
           "request sent → head of the response complete", _OWN, reported("headers_s")),
    Metric("ttft_s", "TTFT", "s", "less", "arrival", "request sent (last byte passed to the kernel; in process: the "
           "call) → first delta of any kind, of the attempt that answered", "usual definition", ttft_s),
    Metric("ttft_total_s", "TTFT from the intended start", "s", "less", "arrival",
           "intended start → first delta of any kind, plus connect_ahead_s: what a user of this machine waited, with "
           "queue, connecting and the waits that a provider named", "usual definition for open loops", ttft_total_s),
    Metric("ttfot_s", "TTFT of the answer text", "s", "less", "arrival",
           "request sent → first text of the answer; thinking is left out", "usual definition",
           lambda a: a.first_event_s(a.stamps.first_end, (TextDelta,))),
    Metric("e2e_s", "whole answer", "s", "less", "arrival", "request sent → terminal event", "usual definition",
           lambda a: a.first_event_s(a.stamps.first_end, TERMINAL), applies_to="ended"),
    Metric("server_queue_s", "waiting at the server", "s", "less", "arrival",
           "the server's own time before it began with the request, where the answer contains it", "Groq: queue_time",
           lambda a: a.server_timing_s("queue_s")),
    Metric("server_load_s", "loading at the server", "s", "less", "arrival",
           "the server's own time to load the model, where the answer contains it", "Ollama: load_duration",
           lambda a: a.server_timing_s("load_s")),
    Metric("server_prefill_s", "prefill at the server", "s", "less", "arrival",
           "the server's own time for the prompt, where the answer contains it",
           "Ollama: prompt_eval_duration; Groq, Cerebras: prompt_time; llama.cpp: prompt_ms",
           lambda a: a.server_timing_s("prefill_s")),
    Metric("server_decode_s", "decoding at the server", "s", "less", "arrival",
           "the server's own time for the answer, where the answer contains it",
           "Ollama: eval_duration; Groq, Cerebras: completion_time; llama.cpp: predicted_ms",
           lambda a: a.server_timing_s("decode_s")),
    Metric("chunks", "chunks", "count", "neither", "arrival", "number of text deltas; a chunk is not a token", _OWN,
           lambda a: len(a.arrived), applies_to="any"),
    Metric("icl_p50_s", "inter-chunk latency p50", "s", "less", "arrival",
           "50th percentile of the gaps between text deltas, interpolated linearly", "numpy's percentile, type 7",
           lambda a: a.cadence.p50_s),
    Metric("icl_p95_s", "inter-chunk latency p95", "s", "less", "arrival", "95th percentile of the gaps",
           "numpy's percentile, type 7", lambda a: a.cadence.p95_s),
    Metric("icl_p99_s", "inter-chunk latency p99", "s", "less", "arrival", "99th percentile of the gaps",
           "numpy's percentile, type 7", lambda a: a.cadence.p99_s),
    Metric("icl_max_s", "longest gap", "s", "less", "arrival", "maximum of the gaps", _OWN,
           lambda a: a.cadence.max_s),
    Metric("icl_cv", "unevenness of the gaps", "ratio", "less", "arrival",
           "standard deviation / mean of the gaps, from two gaps on", _OWN, lambda a: a.cadence.cv),
    Metric("stalls", "stalls", "count", "less", "arrival",
           "gaps over max(0.25 s, min(5 × median gap, 1 s)); empty for answers of one chunk", _OWN,
           lambda a: a.stalls[0]),
    Metric("stall_s", "stalled", "s", "less", "arrival", "sum of the stalls beyond their threshold", _OWN,
           lambda a: a.stalls[1]),
    Metric("tokens_per_chunk", "tokens a chunk", "ratio", "neither", "arrival",
           "answer tokens / answer deltas: what a gap consists of", _OWN,
           lambda a: cadence.tokens_per_chunk(a.arrived, a.answer_tokens), applies_to="ended"),
    Metric("itl_s", "inter-token latency", "s", "less", "arrival",
           "(last − first answer delta) / tokens after the first delta, which are answer tokens × (1 − characters of "
           "the first delta / all characters); empty if tokens are estimated or thinking is unknown", _VLLM_NOTE,
           lambda a: cadence.itl_s(a.arrived, a.answer_tokens), applies_to="ended"),
    Metric("output_tps", "tokens/s", "1/s", "more", "arrival", "output speed after the first delta: 1 / itl_s",
           _VLLM_NOTE, lambda a: cadence.output_tps(a.arrived, a.answer_tokens), applies_to="ended"),
    Metric("chars_per_s", "characters/s", "1/s", "more", "arrival",
           "characters after the first delta / (last − first delta)", _OWN, lambda a: cadence.chars_per_s(a.arrived)),
)  # fmt: skip

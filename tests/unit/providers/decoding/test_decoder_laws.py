"""Properties of every dialect's decoder, for any split of the bytes and for arbitrary JSON."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from providers.decoding import anthropic, chat_completions, ollama
from providers.decoding.decoder import StreamDecoder, SurrogateJoiner, join_surrogates
from streaming.errors import ProtocolError
from streaming.events import Finish, TextDelta
from tests.unit.providers.decoder_helpers import cut_bytes, decode, encode_ndjson, encode_sse

MakeDecoder = Callable[[], StreamDecoder]

_TEXTS = st.lists(st.text(st.characters(exclude_categories=[]), min_size=1, max_size=8), max_size=6)
_CUTS = st.lists(st.integers(min_value=0), max_size=12)
_TAILS = st.sampled_from([b"", b": ping\n\n", b"data: {\n\n", b"\xff", b"\n", b"{\n", b"<p>"])


def _encode_chat(texts: list[str]) -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    return encode_sse(*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, "[DONE]")


def _encode_messages(texts: list[str]) -> bytes:
    deltas = [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}} for text in texts]
    return encode_sse(
        *deltas, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}
    )


def _encode_ollama(texts: list[str]) -> bytes:
    return encode_ndjson(*({"message": {"content": text}} for text in texts), {"done": True, "done_reason": "stop"})


WIRES: dict[str, tuple[MakeDecoder, Callable[[list[str]], bytes]]] = {
    "chat": (lambda: chat_completions.make_decoder(think_tags=True), _encode_chat),
    "messages": (anthropic.make_decoder, _encode_messages),
    "ollama": (ollama.make_decoder, _encode_ollama),
}


@given(st.sampled_from(sorted(WIRES)), _TEXTS, _TAILS, st.integers(0, 400), _CUTS)
def test_any_split_gives_same_events_and_error(
    wire: str, texts: list[str], tail: bytes, dropped: int, cuts: list[int]
) -> None:
    make, write = WIRES[wire]
    data = write(texts)
    data = (data if dropped > 200 else data[: len(data) - dropped]) + tail
    assert decode(make(), cut_bytes(data, cuts)) == decode(make(), [data])


@given(st.sampled_from(sorted(WIRES)), _TEXTS, _CUTS)
def test_decoded_text_equals_encoded_text(wire: str, texts: list[str], cuts: list[int]) -> None:
    make, write = WIRES[wire]
    events, error = decode(make(), cut_bytes(write(texts), cuts))
    output = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert (output, error) == (join_surrogates("".join(texts)), None)
    assert isinstance(events[-1], Finish)


_FIELDS = [
    "type",
    "message",
    "content",
    "choices",
    "delta",
    "index",
    "finish_reason",
    "usage",
    "error",
    "code",
    "content_filter_results",
    "prompt_tokens_details",
    "text",
    "thinking",
    "stop_reason",
    "done",
    "done_reason",
    "reasoning",
    "role",
    "content_block",
    "object",
]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=5),
    max_leaves=12,
)
_TYPES = ("message_start", "message_delta", "content_block_start", "content_block_delta", "error", "x")


@given(st.sampled_from(sorted(WIRES)), st.dictionaries(st.sampled_from(_FIELDS), _JSON), st.sampled_from(_TYPES))
def test_arbitrary_json_never_breaks_decoder(wire: str, fields: dict[str, Any], kind: str) -> None:
    make, _ = WIRES[wire]
    frame = encode_ndjson if wire == "ollama" else encode_sse
    decode(make(), [frame(fields), frame({**fields, "type": kind})])


@given(_JSON)
def test_arbitrary_json_never_breaks_body_decoder(body: Any) -> None:
    for module in (chat_completions, anthropic, ollama):
        decode(module.make_decoder(streamed=False), [json.dumps(body).encode()])


@given(st.sampled_from(sorted(WIRES)), st.binary(max_size=200))
def test_arbitrary_bytes_never_decode_to_an_answer(wire: str, data: bytes) -> None:
    events, error = decode(WIRES[wire][0](), [data])
    assert events == []
    assert error is not None


def test_empty_answer_is_protocol_error_in_every_dialect() -> None:
    for make, _ in WIRES.values():
        _, error = decode(make(), [b"", b""])
        assert error == (ProtocolError, "response: empty")


@given(_TEXTS)
def test_joined_surrogates_are_always_encodable(texts: list[str]) -> None:
    halves = SurrogateJoiner()
    joined = "".join([*(halves.feed(text) for text in texts), halves.flush()])
    assert joined == join_surrogates("".join(texts))
    joined.encode()

"""Limits on what is read from a provider, a service or a proxy, whatever it sends; all in one place.

They hold for the pool, the measuring sockets, the project's own clients and the load test's users. A response over a
limit is a `ResponseTooLargeError` (a `InvalidResponseError` in the clients) that is not retried: it would be as large
again. Sizes in bytes are of the decompressed form.
"""

MAX_HEAD_BYTES = 100_000
"""Of the status line with all headers of a response, and of the trailers of one."""
MAX_HEADER_LINES = 256
"""Lines of a head (those that continue a header included), or of the trailers."""
MAX_INTERIM_HEADS = 16
"""Heads with a status 1xx before the response's own."""
MAX_CHUNK_LINE_BYTES = 8_192
"""Of the line before a chunk, its extensions included, and of one line of the trailers."""
MAX_CHUNK_EXTENSION_BYTES = 1_048_576
"""Of all chunk extensions of one response."""

MAX_EVENT_BYTES = 4_194_304
"""Of one line, of the data of one server-sent event, and of one WebSocket message."""
MAX_BODY_BYTES = 16_777_216
"""Of an answer that is not streamed."""
MAX_STREAM_BYTES = 67_108_864
"""Of a streamed answer as a whole: some 128,000 tokens at 500 bytes each. Its parts have the limits above."""
MAX_ERROR_BODY_BYTES = 1_048_576
"""Of the body of a response that is not a success."""
MAX_MODEL_LIST_BYTES = 1_048_576
MAX_REST_BYTES = 65_536
"""What is read after a stream's end marker, so that its connection can be used again."""

MAX_ANSWER_CHARS = 16_777_216
"""Of the text and the thinking of one answer together, streamed or not: as many as a body of ASCII may have."""
MAX_JSON_PARTS = 200_000
"""Commas and opening brackets in one JSON text: 4 MB of empty objects would take 90 MB as Python objects."""

STEP_BYTES = 8_192
"""How much is decompressed, and how much decoded, at a time: between two steps the event loop runs."""


class LimitExceededError(ValueError):
    """More came than is read; the message says what, as in "a head of more than 100,000 bytes"."""


def max_body_bytes(status: int) -> int:
    """Return how long the body of a response with this status may be, streamed or not."""
    return MAX_STREAM_BYTES if 200 <= status < 300 else MAX_ERROR_BODY_BYTES


def size_text(size: int) -> str:
    """Return a limit as people write it: `4 MB`, `64 KB`, `100,000 bytes`."""
    if size % 1_048_576 == 0:
        return f"{size // 1_048_576} MB"
    return f"{size // 1024} KB" if size % 1024 == 0 else f"{size:,} bytes"

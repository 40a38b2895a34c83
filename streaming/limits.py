"""All limits on the data that is read from a provider, a service or a proxy.

They apply to the connection pool, the timestamped sockets, the project's own clients and the load test's users. A
response over a limit raises `ResponseTooLargeError` (`InvalidResponseError` in the clients) and is not retried,
because it would be as large again. Sizes in bytes are sizes after decompression.
"""

MAX_HEAD_BYTES = 100_000
"""Size of a response's status line and headers together, and size of its trailers."""
MAX_HEADER_LINES = 256
"""Number of lines in a response head, including continuation lines, or in the trailers."""
MAX_INTERIM_HEADS = 16
"""Number of 1xx responses before the final response."""
MAX_CHUNK_LINE_BYTES = 8_192
"""Size of a chunk's size line with its extensions, and of one line of the trailers."""
MAX_CHUNK_EXTENSION_BYTES = 1_048_576
"""Total size of all chunk extensions of one response."""

MAX_EVENT_BYTES = 4_194_304
"""Size of one line, of the data of one server-sent event, and of one WebSocket message."""
MAX_BODY_BYTES = 16_777_216
"""Size of the body of a non-streamed answer."""
MAX_STREAM_BYTES = 67_108_864
"""Total size of a streamed answer: about 128,000 tokens at 500 bytes each. Its parts have the limits above."""
MAX_ERROR_BODY_BYTES = 1_048_576
"""Size of the body of an error response."""
MAX_MODEL_LIST_BYTES = 1_048_576
MAX_REST_BYTES = 65_536
"""Bytes that are read after a stream's end marker, so that the connection can be reused."""

MAX_ANSWER_CHARS = 16_777_216
"""Characters of text and thinking in one answer, streamed or not: as many as the largest ASCII body can hold."""
MAX_JSON_PARTS = 200_000
"""Commas and opening brackets in one JSON text: 4 MB of empty objects would take 90 MB as Python objects."""

DECOMPRESS_STEP_BYTES = 8_192
"""Bytes that are decompressed in one step; the event loop runs between two steps."""
DECODE_STEP_BYTES = 32_768
"""Bytes that are decoded in one step. Steps of 8 KB would cost a saturated service a fifth of its throughput."""


class LimitExceededError(ValueError):
    """The data exceeds a limit; the message names it, for example "response head: larger than 100,000 bytes"."""


def max_body_bytes(status: int) -> int:
    """Return the size limit for the body of a response with this status, streamed or not."""
    return MAX_STREAM_BYTES if 200 <= status < 300 else MAX_ERROR_BODY_BYTES


def size_text(size: int) -> str:
    """Return a limit in readable form: `4 MB`, `64 KB`, `100,000 bytes`."""
    if size % 1_048_576 == 0:
        return f"{size // 1_048_576} MB"
    return f"{size // 1024} KB" if size % 1024 == 0 else f"{size:,} bytes"

"""The compressions that providers' bodies are read in: `streaming.decompression`, and Brotli where it is bounded.

Brotli's library comes with others of this project's; it can bound its output since version 1.2. An older one would
decompress a small body to gigabytes in one call: with it, or without any, such a body is refused.
"""

from streaming import decompression
from streaming.decompression import DecompressionError, Decompressor
from streaming.limits import STEP_BYTES

try:
    import brotli
except ModuleNotFoundError:
    brotli = None
_BROTLI_IS_BOUNDED = hasattr(getattr(brotli, "Decompressor", None), "can_accept_more_data")


class _Brotli:
    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()
        self.has_output = False

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        try:
            # It keeps the input that it has not read: until it accepts more, it is asked again without any.
            piece = self._decompressor.process(data, output_buffer_limit=STEP_BYTES)
        except brotli.error as error:
            raise DecompressionError(str(error)) from None
        self.has_output = len(piece) >= STEP_BYTES or not self._decompressor.can_accept_more_data()
        return piece, b""


def decompressor(coding: str, max_bytes: int) -> Decompressor | None:
    """Return a decompressor for a `Content-Encoding`; None for `identity`. Raises DecompressionError for another."""
    if coding.strip().lower() == "br" and _BROTLI_IS_BOUNDED:
        return Decompressor(_Brotli(), max_bytes)
    return decompression.decompressor(coding, max_bytes)

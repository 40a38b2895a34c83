"""Decompression of providers' response bodies: the codings of `streaming.decompression`, and Brotli.

The Brotli library is an indirect dependency and can limit its output since version 1.2. An older version would
decompress a small body to gigabytes in one call, so with an older version, or without the library, Brotli is rejected.
"""

from streaming import decompression
from streaming.decompression import DecompressionError, Decompressor
from streaming.limits import DECOMPRESS_STEP_BYTES

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
            # The decompressor buffers unread input; until it accepts more, it is called again with no new data.
            piece = self._decompressor.process(data, output_buffer_limit=DECOMPRESS_STEP_BYTES)
        except brotli.error as error:
            raise DecompressionError(str(error)) from None
        self.has_output = len(piece) >= DECOMPRESS_STEP_BYTES or not self._decompressor.can_accept_more_data()
        return piece, b""


def decompressor(coding: str, max_bytes: int) -> Decompressor | None:
    """Return a decompressor for a `Content-Encoding`, or None for `identity`.

    Raises DecompressionError for a coding that is not supported.
    """
    if coding.strip().lower() == "br" and _BROTLI_IS_BOUNDED:
        return Decompressor(_Brotli(), max_bytes)
    return decompression.decompressor(coding, max_bytes)

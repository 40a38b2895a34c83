"""Incremental decompression of a response body in pieces of bounded size, as a defence against decompression bombs.

Supports gzip (RFC 1952, including several members) and deflate (RFC 9110: zlib's format, and also raw deflate, which
some servers send under that name). No other coding and no nested coding is supported. Performs no I/O.
"""

import zlib
from collections.abc import Iterator
from typing import Protocol

from streaming.limits import DECOMPRESS_STEP_BYTES, LimitExceededError, size_text

_INPUT_BYTES = 16_384
"""Input per piece. zlib copies the unread rest of a piece with every step, which is cheap only for short pieces."""


class DecompressionError(ValueError):
    """The bytes are not valid for their `Content-Encoding`, or that encoding is not supported."""


class Codec(Protocol):
    """A decompressor for one content coding that works in steps."""

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        """Return at most `DECOMPRESS_STEP_BYTES` of output and the unread rest of `data`. Raises DecompressionError."""

    @property
    def has_output(self) -> bool:
        """Whether more output is available without further input."""


class Decompressor:
    """A decompressor for one response body. `max_bytes` is the limit for the whole decompressed body."""

    def __init__(self, codec: Codec, max_bytes: int) -> None:
        self._codec = codec
        self._max_bytes = max_bytes
        self._total = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed form of `data` in pieces. Raises DecompressionError and LimitExceededError."""
        codec = self._codec
        for start in range(0, len(data), _INPUT_BYTES):
            rest = data[start : start + _INPUT_BYTES]
            while rest or codec.has_output:
                piece, rest = codec.step(rest)
                self._total += len(piece)
                if self._total > self._max_bytes:
                    raise LimitExceededError(f"decompressed body: larger than {size_text(self._max_bytes)}")
                if piece:
                    yield piece


class _Gzip:
    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS + 16)
        self.has_output = False

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        if self._inflate.eof:
            data = data.lstrip(b"\0")  # padding between members
            if not data:
                return b"", b""
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS + 16)
        piece, rest = _inflate_step(self._inflate, data)
        self.has_output = len(piece) == DECOMPRESS_STEP_BYTES and not self._inflate.eof
        return piece, self._inflate.unused_data if self._inflate.eof else rest


class _Deflate:
    def __init__(self) -> None:
        self._inflate: zlib._Decompress | None = None
        self._head = b""
        self.has_output = False

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        if self._inflate is None:
            self._head += data
            if len(self._head) < 2:
                return b"", b""
            data, self._head = self._head, b""
            is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
        if self._inflate.eof:
            return b"", b""  # ignore bytes after the end of the stream
        piece, rest = _inflate_step(self._inflate, data)
        self.has_output = len(piece) == DECOMPRESS_STEP_BYTES and not self._inflate.eof
        return piece, b"" if self._inflate.eof else rest


def _inflate_step(inflate: "zlib._Decompress", data: bytes) -> tuple[bytes, bytes]:
    try:
        piece = inflate.decompress(data, DECOMPRESS_STEP_BYTES)
    except zlib.error as error:
        raise DecompressionError(str(error)) from None
    return piece, inflate.unconsumed_tail


def decompressor(coding: str, max_bytes: int) -> Decompressor | None:
    """Return a decompressor for a `Content-Encoding` value, or None for `identity`.

    Raises DecompressionError when the coding is not supported.
    """
    match coding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return Decompressor(_Gzip(), max_bytes)
        case "deflate":
            return Decompressor(_Deflate(), max_bytes)
    raise DecompressionError(f"content encoding: {coding[:80]!r} is not supported and was not requested")

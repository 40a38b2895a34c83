"""Streaming decompression of bodies: independent of how they are split, and always in small pieces."""

import gzip
import itertools
import tracemalloc
import zlib

import brotli
import pytest

from providers.http.compression import decompressor
from streaming.decompression import DecompressionError
from streaming.limits import DECOMPRESS_STEP_BYTES, LimitExceededError

BODY = b"data: hello\n\n" * 20_000 + bytes(range(256)) * 40
_RAW = zlib.compressobj(9, zlib.DEFLATED, -15)
PACKED = {
    "gzip": ("gzip", gzip.compress(BODY)),
    "gzip, two members": ("x-gzip", gzip.compress(BODY[:1000]) + b"\0\0" + gzip.compress(BODY[1000:]) + b"\0"),
    "zlib": ("deflate", zlib.compress(BODY)),
    "raw deflate": ("Deflate", _RAW.compress(BODY) + _RAW.flush()),
    "Brotli": ("br", brotli.compress(BODY)),
}


def decompress(coding: str, data: bytes, step: int, most: int = 10**9) -> list[bytes]:
    codec = decompressor(coding, most)
    assert codec is not None
    return list(itertools.chain.from_iterable(codec.feed(data[at : at + step]) for at in range(0, len(data), step)))


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("step", [1, 7, 1000, 10**9])
def test_decompressor_input_split_anywhere_yields_the_same_body(name: str, step: int) -> None:
    assert b"".join(decompress(*PACKED[name], step)) == BODY


@pytest.mark.parametrize("packed", [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress)])
def test_decompressor_fed_a_decompression_bomb_yields_small_pieces(packed: tuple[str, object]) -> None:
    coding, compress = packed
    data = compress(b"\0" * 30_000_000)  # type: ignore[operator] # one of the three above
    codec = decompressor(coding, 10**9)
    assert codec is not None
    tracemalloc.start()
    sizes = [len(piece) for piece in codec.feed(data)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(sizes) == 30_000_000 and max(sizes) <= 4 * DECOMPRESS_STEP_BYTES
    assert peak < 2_000_000


@pytest.mark.parametrize("name", PACKED)
def test_decompressor_body_over_the_limit_raises(name: str) -> None:
    with pytest.raises(LimitExceededError, match="decompressed body: larger than 64 KB"):
        decompress(*PACKED[name], 1000, 65_536)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
@pytest.mark.parametrize("step", [1, 10**9])
def test_decompressor_fed_uncompressed_bytes_raises(coding: str, step: int) -> None:
    with pytest.raises(DecompressionError):
        decompress(coding, b"\x07data: hello\n\n" * 9, step)


@pytest.mark.parametrize("coding", ["zstd", "gzip, gzip", "gzip, br", "compress", "x" * 500])
def test_decompressor_for_an_unsupported_coding_raises(coding: str) -> None:
    with pytest.raises(DecompressionError, match="not supported"):
        decompressor(coding, 1)


@pytest.mark.parametrize("coding", ["", "identity", " Identity "])
def test_identity_needs_no_decompressor(coding: str) -> None:
    assert decompressor(coding, 1) is None

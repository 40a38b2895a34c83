"""What a response is by its beginning: a web page, an error in place of a stream, nothing, or a stream that was cut."""

from providers.vendor_errors import stream_error
from providers.wire import json_object, shown
from streaming.errors import ProtocolError, TruncatedStream

_HEAD_BYTES = 16_384


def head_of(head: bytes, data: bytes) -> bytes:
    """Keep the first bytes, until something was read from them. Raises ProtocolError for a web page."""
    if len(head) < _HEAD_BYTES:
        head += data[: _HEAD_BYTES - len(head)]
    refuse_html(head)
    return head


def refuse_html(head: bytes) -> None:
    """Raise ProtocolError for a web page."""
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        raise ProtocolError("the provider sent a web page instead of an answer: check the base URL")


def refuse_head(head: bytes, starts: tuple[bytes, ...]) -> None:
    """Raise the error of a response in which nothing could be read; return when it was only cut."""
    text = head.removeprefix(b"\xef\xbb\xbf").strip()
    if not text:
        raise ProtocolError("the provider sent an empty answer")
    if text.startswith(b"{") and b"{" not in starts:
        if error := json_object(utf8(text)).get("error"):
            raise stream_error(error)
        raise ProtocolError("the provider sent its answer in one piece where a stream was asked for")
    if not text.startswith(starts):
        raise ProtocolError(f"the provider sent something else than an answer: {shown(text)}")
    raise TruncatedStream("the stream ended before any of the answer came")


def utf8(data: bytes) -> str:
    """Decode strictly. Raises ProtocolError."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProtocolError("the provider sent bytes that are not UTF-8") from None

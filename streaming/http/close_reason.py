"""Why an HTTP exchange ended: one enumeration for the timestamped sockets and for the HTTP libraries of the SDKs."""

from enum import StrEnum


class CloseReason(StrEnum):
    """How one request and its response ended, or `OPEN` while they are under way."""

    OPEN = "open"
    COMPLETE = "complete"
    """The body reached its announced end."""
    CLOSED = "closed"
    """The peer closed the connection before the announced end of the response."""
    RESET = "reset"
    """The connection failed with an error of the system."""
    UNREACHABLE = "unreachable"
    """No connection could be made."""
    CONNECT_TIMEOUT = "connect_timeout"
    IDLE = "idle"
    """No byte arrived within the idle timeout."""
    TOTAL = "total"
    """The response was not complete within the total timeout."""
    NOT_HTTP = "not_http"
    """The bytes are not a valid response, or exceed a size limit."""
    UNDECODABLE = "undecodable"
    """The body cannot be decompressed."""
    NOT_SENT = "not_sent"
    """The request is not a valid HTTP request."""
    LEFT = "left"
    """This side closed the connection."""

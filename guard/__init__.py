"""Who may ask: decisions that the service applies as ASGI and the page before each answer."""

from guard.callers import Caller, address, client_address
from guard.configuration import Configuration
from guard.content import Blocked, ContentFilter
from guard.guard import Guard
from guard.output import OutputFilter
from guard.refusal import Refusal
from guard.reservations import Reservation
from guard.validation import check_depth, check_size, depth_of

__all__ = [
    "Blocked",
    "Caller",
    "Configuration",
    "ContentFilter",
    "Guard",
    "OutputFilter",
    "Refusal",
    "Reservation",
    "address",
    "check_depth",
    "check_size",
    "client_address",
    "depth_of",
]

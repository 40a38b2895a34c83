"""Access control: the checks that the ASGI service and the page run on every request before answering it."""

from guard.budget_store import Reservation
from guard.config import GuardConfig
from guard.content_filter import BlockedText, ContentFilter
from guard.guard import Guard
from guard.identity import Caller, client_address, forwarded_address
from guard.output_filter import OutputFilter
from guard.rejection import RejectionError
from guard.validation import check_depth, check_size, json_depth
from guard.variables import GuardVariables

__all__ = [
    "BlockedText",
    "Caller",
    "ContentFilter",
    "Guard",
    "GuardConfig",
    "GuardVariables",
    "OutputFilter",
    "RejectionError",
    "Reservation",
    "check_depth",
    "check_size",
    "client_address",
    "forwarded_address",
    "json_depth",
]

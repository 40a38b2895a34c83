"""The state machine of an answer, in one table."""

from typing import Literal

State = Literal["idle", "streaming", "retrying", "fallback", "succeeded", "failed", "cancelled"]
Trigger = Literal["stream", "ask_whole", "retry", "finish", "fail", "cancel"]

TRANSITIONS: dict[tuple[State, Trigger], State] = {
    ("idle", "stream"): "streaming",
    ("idle", "ask_whole"): "fallback",
    ("streaming", "retry"): "retrying",
    ("streaming", "stream"): "streaming",
    ("streaming", "ask_whole"): "fallback",
    ("streaming", "finish"): "succeeded",
    ("streaming", "fail"): "failed",
    ("streaming", "cancel"): "cancelled",
    ("retrying", "stream"): "streaming",
    ("retrying", "ask_whole"): "fallback",
    ("retrying", "fail"): "failed",
    ("retrying", "cancel"): "cancelled",
    ("fallback", "retry"): "retrying",
    ("fallback", "stream"): "streaming",
    ("fallback", "ask_whole"): "fallback",
    ("fallback", "finish"): "succeeded",
    ("fallback", "fail"): "failed",
    ("fallback", "cancel"): "cancelled",
}
"""The guide's error handling state machine; what is not here cannot happen.

`streaming` is a streamed attempt at any provider, `fallback` a non-streamed one, whether asked for or fallen back to.
The last three states are an answer's end; the next answer starts from `idle`.
"""

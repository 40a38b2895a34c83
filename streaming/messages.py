"""The input of a model: the messages of a conversation and the request that an adapter receives."""

from dataclasses import dataclass
from typing import Literal

EFFORT_PATTERN = r"^[a-zA-Z][a-zA-Z0-9_-]{0,31}$"
"""An effort is a single word; each vendor defines its own set of words."""

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as plain text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request to a model with the conversation's messages, oldest first.

    None leaves a setting to the provider's default. `streamed=False` requests the complete answer in one response.
    `effort` is the vendor's word for how long the model may think (none, low, medium, high, …). `max_tokens` limits
    the visible answer. `request_id` is sent as `X-Client-Request-Id`, so that a server's log can be matched with ours.
    With `ignores_end` the answer is as long as `max_tokens` where the server can write on after the model would end.
    """

    messages: tuple[Message, ...]
    model: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    streamed: bool = True
    request_id: str | None = None
    effort: str | None = None
    ignores_end: bool = False

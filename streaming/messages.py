"""What is asked: messages and the request that an adapter receives."""

from dataclasses import dataclass
from typing import Literal

EFFORT_PATTERN = r"^[a-zA-Z][a-zA-Z0-9_-]{0,31}$"
"""An effort is one word; which words there are is the vendors' to say."""

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as plain text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question to a model, with its history, oldest first.

    None leaves a setting to the provider. `streamed=False` asks for the whole answer in one response.
    `effort` is the vendor's word for how long the model may think (none, low, medium, high, …); `max_tokens` bounds the
    visible answer. `request_id` travels as `X-Client-Request-Id`, so that a server's log can be paired with ours.
    """

    messages: tuple[Message, ...]
    model: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    streamed: bool = True
    request_id: str | None = None
    effort: str | None = None

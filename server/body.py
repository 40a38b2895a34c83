"""The body of a chat request, as every wire takes it."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from streaming import strategies
from streaming.messages import ChatRequest, Message

DEFAULT_PROVIDER = "local"


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode: it holds half of a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class ChatMessage(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: Text


class ChatBody(BaseModel):
    """`message` for one question, or `messages` for a conversation whose last turn is the user's."""

    model_config = ConfigDict(extra="forbid")

    message: Text | None = None
    messages: list[ChatMessage] | None = None
    provider: Text = Field(
        DEFAULT_PROVIDER, description="`provider:model`; several, comma-separated, are asked in order"
    )
    strategy: Text = Field(strategies.DEFAULT, description="direct, batch:W, debounce:W, pace:R or whole")
    system: Text | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    stream: bool = True

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if (self.message is None) == (self.messages is None):
            raise ValueError("needs either `message` (a string) or `messages` (a list)")
        turns = self.turns()
        if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
            raise ValueError("is empty: the last message must be the user's, with text in it")
        return self

    def turns(self) -> tuple[Message, ...]:
        """Give the conversation, the system prompt first."""
        system = [Message("system", self.system)] if self.system else []
        if self.message is not None:
            return (*system, Message("user", self.message))
        return (*system, *(Message(m.role, m.content) for m in self.messages or ()))

    def request(self, request_id: str) -> ChatRequest:
        """Give the request that the pipeline takes."""
        return ChatRequest(
            self.turns(),
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            streamed=self.stream,
            request_id=request_id,
        )

    def providers(self) -> list[str]:
        """Give the providers to ask, in order."""
        return [name.strip() for name in self.provider.split(",")]

"""The request body of OpenAI's chat completions, its conversion to `ChatRequestBody`, and its unsupported fields."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Tag, model_validator

from server.schemas import ChatMessage, ChatRequestBody, Effort, ProviderNames, Text, tagged_union
from streaming import strategies


class ContentPart(BaseModel):
    """One part of a message; only text is supported."""

    type: Literal["text"]
    text: Text


class OpenAIMessage(BaseModel):
    """One message of the conversation; `developer` is OpenAI's newer name for the system role."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[Text, Tag("as text")] | Annotated[list[ContentPart], Tag("as parts")], tagged_union(list, "as parts")
    ]

    @model_validator(mode="before")
    @classmethod
    def _accept_silent_assistant(cls, value: Any) -> Any:
        """Take an assistant's turn without text, which clients send back with `content: null`, as an empty one."""
        if isinstance(value, dict) and value.get("role") == "assistant" and value.get("content", "") is None:
            return {**value, "content": ""}
        return value

    def to_message(self) -> ChatMessage:
        """Return this service's form of the message, with its text parts joined."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return ChatMessage(role="system" if self.role == "developer" else self.role, content=text)


class StreamOptions(BaseModel):
    """The options of a streamed completion."""

    include_usage: bool | None = None


class CompletionRequestBody(BaseModel):
    """The body of a chat completion request.

    `model` takes `provider:model` names, several of them comma-separated. Unknown fields are ignored, except for those
    that would change the answer, which are rejected.
    """

    model_config = ConfigDict(extra="allow")

    model: ProviderNames
    messages: list[OpenAIMessage]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    reasoning_effort: Effort | None = None
    ignore_eos: bool | None = Field(None, description="an extension, as in vLLM and llama.cpp")
    n: int | None = Field(None, ge=1, le=1)
    strategy: Text = Field(strategies.DEFAULT_STRATEGY, description=f"an extension: {strategies.describe_forms()}")

    @model_validator(mode="after")
    def _reject_unsupported(self) -> Self:
        extra_fields = self.model_extra or {}
        for name in ("tools", "functions", "audio", "prediction", "stop", "logprobs", "logit_bias"):
            if extra_fields.get(name):
                raise ValueError(f"`{name}` is not supported (leave it out)")
        form = extra_fields.get("response_format")
        if isinstance(form, dict) and form.get("type") not in (None, "text"):
            raise ValueError("`response_format` other than text is not supported (leave it out)")
        self.to_chat_body()
        return self

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def to_chat_body(self) -> ChatRequestBody:
        """Return the same request as this service's own body. Raises ValueError when a field is not valid there."""
        fields: dict[str, Any] = {
            "messages": [message.to_message() for message in self.messages],
            "provider": self.model,
            "strategy": self.strategy,
            "temperature": self.temperature,
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "effort": self.reasoning_effort,
            "ignore_eos": bool(self.ignore_eos),
            "stream": bool(self.stream),
        }
        return ChatRequestBody(**fields)

"""The body of a chat request, as every wire takes it."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from guard import RejectionError
from streaming import strategies
from streaming.messages import EFFORT_PATTERN, ChatRequest, Message

DEFAULT_PROVIDER = "local"
MAX_NAMES_CHARS = 500
"""How long the names of providers may be together: they stand in every line of the log."""


def _require_valid_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode: it holds half of a surrogate pair") from None
    return text


def _require_short(text: str) -> str:
    if len(text) > MAX_NAMES_CHARS:
        raise ValueError(f"is longer than {MAX_NAMES_CHARS} characters")
    return text


Effort = Annotated[str, StringConstraints(pattern=EFFORT_PATTERN, strip_whitespace=True, to_lower=True)]
Text = Annotated[str, AfterValidator(_require_valid_unicode)]
ProviderNames = Annotated[Text, AfterValidator(_require_short)]


_UNION_TAGS = ("as text", "as parts", "as a number")
"""How a field's kinds are called that may be of several; a caller need not know them."""


def tagged_union(other: type, name: str) -> Discriminator:
    """Tell a field's kinds apart before it is read, so that a fault is one of the kind that was meant."""
    return Discriminator(lambda value: name if isinstance(value, other) else "as text")


class ChatMessage(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: Text


class ChatRequestBody(BaseModel):
    """`message` for one question, or `messages` for a conversation whose last turn is the user's."""

    model_config = ConfigDict(extra="forbid")

    message: Text | None = None
    messages: list[ChatMessage] | None = None
    provider: ProviderNames = Field(
        DEFAULT_PROVIDER, description="`provider:model`; several, comma-separated, are asked in order"
    )
    strategy: Text = Field(strategies.DEFAULT_STRATEGY, description="direct, batch:W, debounce:W, pace:R or whole")
    system: Text | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    effort: Effort | None = Field(None, description="how long the model may think: none, low, medium, high, …")
    stream: bool = True
    resume: bool = Field(False, description="leaving is not stopping: the stream is kept, and can be continued")

    @model_validator(mode="after")
    def _validate_conversation(self) -> Self:
        if (self.message is None) == (self.messages is None):
            raise ValueError("needs either `message` (a string) or `messages` (a list)")
        turns = self.all_messages()
        wanted = "the last message must be the user's, with text in it"
        if not turns or not turns[-1].content.strip():
            raise ValueError(f"is empty: {wanted}")
        if turns[-1].role != "user":
            raise ValueError(f"does not end with a question: {wanted}")
        return self

    def all_messages(self) -> tuple[Message, ...]:
        """Give the conversation, the system prompt first."""
        system = [Message("system", self.system)] if self.system else []
        if self.message is not None:
            return (*system, Message("user", self.message))
        return (*system, *(Message(m.role, m.content) for m in self.messages or ()))

    def to_chat_request(self, messages: tuple[Message, ...], request_id: str) -> ChatRequest:
        """Give the request that the pipeline takes, with the turns as the guard let them pass."""
        return ChatRequest(
            messages,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            streamed=self.stream,
            effort=self.effort,
            request_id=request_id,
        )

    def provider_list(self) -> list[str]:
        """Give the providers to ask, in order."""
        return [name.strip() for name in self.provider.split(",")]


class ResumeRequest(BaseModel):
    """A stream to be continued after the last entry that was received; from the start without one."""

    model_config = ConfigDict(extra="forbid")

    stream_id: Text = Field(min_length=1, max_length=200)
    last_id: Annotated[
        Annotated[int, Tag("as a number")] | Annotated[Text | None, Tag("as text")], tagged_union(int, "as a number")
    ] = Field(None, description="the last entry's id, `stream:number`, or its number alone")

    @model_validator(mode="after")
    def _validate_last_id(self) -> Self:
        self.last_seq()
        return self

    def last_seq(self) -> int:
        """Give the number of the last entry that was received, 0 for none."""
        return parse_event_id(self.stream_id, self.last_id)


_EVENT_NUMBER = re.compile(r"[0-9]{1,15}")


def parse_event_id(stream_id: str, last_id: int | str | None) -> int:
    """Read an entry's id. Raises ValueError when it is none of that stream."""
    if last_id is None or last_id == "":
        return 0
    number = str(last_id).removeprefix(f"{stream_id}:")
    if not _EVENT_NUMBER.fullmatch(number):
        raise ValueError(f"the last id is not one of this stream: it looks like {stream_id}:7")
    return int(number)


def validation_rejection(errors: Sequence[Mapping[str, Any]]) -> RejectionError:
    """Say in one line what pydantic found, with the place of each fault, and by which rule that is refused."""
    if errors[0]["type"] == "json_invalid":
        return invalid_json_rejection(f"{errors[0]['ctx']['error']} at character {errors[0]['loc'][-1]}")
    message = "; ".join(
        f"{error_location(e) or 'the body'}: {e['msg'].removeprefix('Value error, ')}" for e in errors[:3]
    )
    broken = any("surrogate" in e["msg"] or e["type"] == "string_unicode" for e in errors)
    return RejectionError("validation.unicode" if broken else "body.fields", "invalid", message)


def invalid_json_rejection(why: str) -> RejectionError:
    """Refuse what no parser of JSON takes; half of a surrogate pair is what Unicode forbids, not JSON."""
    rule = "validation.unicode" if "surrogate" in why else "body.json"
    return RejectionError(rule, "invalid", f"what was sent is not JSON: {why}")


def error_location(error: Mapping[str, Any]) -> str | None:
    """Name the field in which pydantic found a fault; None for the body as a whole."""
    return ".".join(str(part) for part in error["loc"] if part not in ("body", *_UNION_TAGS)) or None

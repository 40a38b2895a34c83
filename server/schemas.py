"""The bodies of chat requests and resume requests on this service's own transports, and their validation errors."""

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
"""The maximum length of the comma-separated provider names, which are written to every log record of an answer."""


def _require_valid_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode (remove the lone surrogate)") from None
    return text


def _require_short(text: str) -> str:
    if len(text) > MAX_NAMES_CHARS:
        raise ValueError(f"longer than {MAX_NAMES_CHARS} characters (name fewer providers)")
    return text


Effort = Annotated[str, StringConstraints(pattern=EFFORT_PATTERN, strip_whitespace=True, to_lower=True)]
Text = Annotated[str, AfterValidator(_require_valid_unicode)]
ProviderNames = Annotated[Text, AfterValidator(_require_short)]


_UNION_TAGS = ("as text", "as parts", "as a number")
"""Pydantic's tags for the types of union fields, which are left out of error messages."""


def tagged_union(other: type, name: str) -> Discriminator:
    """Return a discriminator that selects `name` for values of type `other`, and text for all other values.

    It makes pydantic report the errors of the intended type only.
    """
    return Discriminator(lambda value: name if isinstance(value, other) else "as text")


class ChatMessage(BaseModel):
    """One message of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: Text


class ChatRequestBody(BaseModel):
    """The body of a chat request: a single `message`, or `messages` that end with one from the user."""

    model_config = ConfigDict(extra="forbid")

    message: Text | None = None
    messages: list[ChatMessage] | None = None
    provider: ProviderNames = Field(
        DEFAULT_PROVIDER, description="`provider:model`; several names, comma-separated, are tried in order"
    )
    strategy: Text = Field(strategies.DEFAULT_STRATEGY, description=strategies.describe_forms())
    system: Text | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    effort: Effort | None = Field(None, description="how long the model may think: none, low, medium, high, …")
    ignore_eos: bool = Field(
        False, description="write `max_tokens` tokens, also beyond the model's own end, where the server can"
    )
    stream: bool = True
    resume: bool = Field(False, description="buffer the stream, so that it survives a disconnect and can be resumed")

    @model_validator(mode="after")
    def _validate_conversation(self) -> Self:
        if (self.message is None) == (self.messages is None):
            raise ValueError("message and messages are both set or both missing (send one of them)")
        turns = self.all_messages()
        if not turns or not turns[-1].content.strip():
            raise ValueError("the last message has no text (write a message)")
        if turns[-1].role != "user":
            raise ValueError("the last message is not the user's (end with a user message)")
        return self

    def all_messages(self) -> tuple[Message, ...]:
        """Return the conversation, with the system prompt first."""
        system = [Message("system", self.system)] if self.system else []
        if self.message is not None:
            return (*system, Message("user", self.message))
        return (*system, *(Message(m.role, m.content) for m in self.messages or ()))

    def to_chat_request(self, request_id: str | None) -> ChatRequest:
        """Return the pipeline's request. `request_id` is the caller's id for the provider's log."""
        return ChatRequest(
            self.all_messages(),
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            streamed=self.stream,
            effort=self.effort,
            request_id=request_id,
            ignores_end=self.ignore_eos,
        )

    def provider_list(self) -> list[str]:
        """Return the names of the providers in order: the first, then its fallbacks."""
        return [name.strip() for name in self.provider.split(",")]


class ResumeRequest(BaseModel):
    """A request to continue a stream after the last event that the client received, or from its start."""

    model_config = ConfigDict(extra="forbid")

    stream_id: Text = Field(min_length=1, max_length=200)
    last_id: Annotated[
        Annotated[int, Tag("as a number")] | Annotated[Text | None, Tag("as text")], tagged_union(int, "as a number")
    ] = Field(None, description="the id of the last event received, `stream:number`, or its number alone")

    @model_validator(mode="after")
    def _validate_last_id(self) -> Self:
        self.last_seq()
        return self

    def last_seq(self) -> int:
        """Return the number of the last event that the client received, 0 for none."""
        return parse_event_id(self.stream_id, self.last_id)


_EVENT_NUMBER = re.compile(r"[0-9]{1,15}")


def parse_event_id(stream_id: str, last_id: int | str | None) -> int:
    """Return the number in an event's id, 0 for no id. Raises ValueError when the id is not one of that stream."""
    if last_id is None or last_id == "":
        return 0
    number = str(last_id).removeprefix(f"{stream_id}:")
    if not _EVENT_NUMBER.fullmatch(number):
        raise ValueError(f"last_id: not an id of this stream (write {stream_id}:NUMBER)")
    return int(number)


def validation_rejection(errors: Sequence[Mapping[str, Any]]) -> RejectionError:
    """Return the rejection for pydantic's validation errors: one line with the field and message of the first three."""
    if errors[0]["type"] == "json_invalid":
        return invalid_json_rejection(f"{errors[0]['ctx']['error']} at character {errors[0]['loc'][-1]}")
    message = "; ".join(
        f"{error_location(e) or 'the body'}: {e['msg'].removeprefix('Value error, ')}" for e in errors[:3]
    )
    broken = any("surrogate" in e["msg"] or e["type"] == "string_unicode" for e in errors)
    return RejectionError("validation.unicode" if broken else "body.fields", "invalid", message)


def invalid_json_rejection(why: str) -> RejectionError:
    """Return the rejection for text that is not valid JSON.

    Half of a surrogate pair is rejected by the Unicode rule: JSON's grammar allows it, Unicode does not.
    """
    rule = "validation.unicode" if "surrogate" in why else "body.json"
    return RejectionError(rule, "invalid", f"the body: not valid JSON ({why})")


def error_location(error: Mapping[str, Any]) -> str | None:
    """Return the dotted name of the field of a validation error; None for the body as a whole."""
    return ".".join(str(part) for part in error["loc"] if part not in ("body", *_UNION_TAGS)) or None

"""A conversation of several user turns: what is sent for each, with the answers to the turns before. Pure."""

from dataclasses import dataclass, field

from evaluation.prompts.prompt_file import Prompt, Turn
from streaming.messages import Message


@dataclass(slots=True)
class Conversation:
    """The state of one conversation, from the messages of its first turn on; `id` is its name in the tables.

    `messages` are those to send for the turn of number `turn`, from 1; `add_answer` goes on to the next one.
    `context_tokens` are those of the earlier turns, as reported: what a cache can hold. None is unknown.
    """

    prompt: Prompt
    messages: tuple[Message, ...]
    id: str = ""
    turn: int = 1
    context_tokens: int | None = 0
    _following: list[Turn] = field(init=False)

    def __post_init__(self) -> None:
        self._following = list(self.prompt.turns)

    @property
    def is_last_turn(self) -> bool:
        """Whether no turn follows the one that is sent."""
        return not self._following

    def add_answer(self, text: str, tokens: int | None = None) -> Turn | None:
        """Add the answer to the turn that was sent, and the next user turn; return that, or None at the end.

        `tokens` are those of the whole conversation with this answer.
        """
        if not self._following:
            return None
        following = self._following.pop(0)
        self.messages += Message("assistant", text), Message("user", following.text)
        self.turn += 1
        self.context_tokens = tokens
        return following

"""Files of prompts: one prompt a line, or JSONL with `id`, `prompt` and what belongs to the prompt.

The fields of a JSON line are `id`, `prompt`, `system`, `messages` (earlier turns, or a conversation that ends with
the user's message, which then is the prompt), `turns` (what the user writes after the prompt has been answered),
`max_tokens`, `expected_tokens`, `expected` and `shared_chars` (so many characters of the prompt are those of others
too, so that a nonce comes after them). Several user messages at the end of `messages` are turns as well. Other fields
are errors.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evaluation.prompts.answer_checks import AnswerCheck, parse_check
from evaluation.prompts.text_file import parse_object, read_lines
from streaming.errors import UsageError
from streaming.messages import Message

_FOLDER = Path(__file__).parent
DEFAULT_PROMPTS = _FOLDER / "default.jsonl"
"""24 prompts with short, medium and long answers, in several languages and about code."""
SHIPPED_PROMPTS = {"default": DEFAULT_PROMPTS, "verifiable": _FOLDER / "verifiable.jsonl"}
"""The files that come with the program, by the name that `--prompts` takes."""
MAX_TOKENS = 1_000_000
OPENING_CHARS = 1024
"""Prompts that agree in their first characters, as many as these, may be answered from the same cache."""
MAX_THINK_S = 3600.0
FIELDS = ("id", "prompt", "system", "messages", "turns", "max_tokens", "expected_tokens", "expected", "shared_chars")
_TURN_FORM = '{"prompt": "…", "think_s": 2}'
_ROLES = ("system", "user", "assistant")
_JSONL_SUFFIXES = (".jsonl", ".ndjson")
_TEXT_SUFFIXES = ("", ".txt", ".text")


BodyStyle = Literal["prose", "code"]
BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class BodySpec:
    """A text to be generated, `tokens` long by the tokenizer of the model that is asked.

    Its first `shared_tokens` are the same in all texts of its `shape`. Its `blocks` of `BLOCK_TOKENS` each, of which
    the last may be shorter, are the same in all texts that have a block of that number.
    """

    shape: str
    tokens: int
    shared_tokens: int = 0
    style: BodyStyle = "prose"
    blocks: tuple[int, ...] = ()

    @property
    def opening(self) -> str | None:
        """What texts that begin alike have in common; None if none begins like this one."""
        return f"block {self.blocks[0]}" if self.blocks else self.shape if self.shared_tokens else None


@dataclass(frozen=True, slots=True)
class Turn:
    """What a user writes after an answer, `think_s` seconds after its end; None leaves that to the run."""

    text: str
    think_s: float | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and its id in the tables, with its own system prompt, earlier turns and limit, if it has them.

    `expected_tokens` is the likely length of the answer. It is used for cost estimates only. `check` says which answers
    are right, of a conversation the last ones; None if that is not checked. `max_tokens` replaces the limit of the run.
    A prompt with a `body` has no text of its own: a workload generates it. `start_s` is when a trace asks it, in
    seconds after its first request. `turns` follow when it has been answered. Its first `shared_chars` are those of
    other prompts too, for a cache.
    """

    id: str
    text: str
    expected_tokens: int | None = None
    check: AnswerCheck | None = None
    system: str | None = None
    history: tuple[Message, ...] = ()
    max_tokens: int | None = None
    body: BodySpec | None = None
    start_s: float | None = None
    turns: tuple[Turn, ...] = ()
    shared_chars: int = 0

    def with_nonce(self, nonce: str) -> "Prompt":
        """Return the prompt with a nonce before its first message, or behind what it shares with others."""
        if self.shared_chars:
            shared, own = self.text[: self.shared_chars], self.text[self.shared_chars :]
            return replace(self, text=f"{shared}[{nonce}] {own}")
        if self.system is not None:
            return replace(self, system=f"[{nonce}] {self.system}")
        if self.history:
            first, *others = self.history
            return replace(self, history=(replace(first, content=f"[{nonce}] {first.content}"), *others))
        return replace(self, text=f"[{nonce}] {self.text}")

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation to send: the system prompt, the earlier turns, and the prompt itself."""
        system = () if self.system is None else (Message("system", self.system),)
        return (*system, *self.history, Message("user", self.text))

    @property
    def opening(self) -> str:
        """The first characters that are sent, with the roles that they belong to: equal ones may share a cache.

        A generated text is known by what it shares with others, or else by the prompt's id.
        """
        if self.body is not None:
            return self.body.opening or self.id
        if len(self.messages) == 1:
            return self.text[:OPENING_CHARS]
        return "\n".join(f"{message.role}: {message.content}" for message in self.messages)[:OPENING_CHARS]


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read a file of prompts, or one of `SHIPPED_PROMPTS` by its name.

    Prompts on plain lines get the ids `line-1`, `line-2`, … by line number. Blank lines are skipped. Raises UsageError
    with the file and the line when a prompt is invalid, and for a file that was not written as one prompt a line.
    """
    path = path if path.exists() else SHIPPED_PROMPTS.get(str(path), path)
    lines = read_lines(path, "prompts file")
    if not lines:
        raise UsageError(f"prompts file {path}: has no prompts (write one per line)")
    is_jsonl = path.suffix.lower() in _JSONL_SUFFIXES or _is_json_object(lines[0][1])
    _check_format(path, [line for _, line in lines], is_jsonl=is_jsonl)
    prompts = [
        parse_prompt(line, f"{path}, line {number}") if is_jsonl else Prompt(f"line-{number}", line)
        for number, line in lines
    ]
    seen: set[str] = set()
    for (number, _), prompt in zip(lines, prompts, strict=True):
        if prompt.id in seen:
            raise UsageError(f"{path}, line {number}: the id {prompt.id!r} is used already (use unique ids)")
        seen.add(prompt.id)
    return tuple(prompts)


def _check_format(path: Path, lines: list[str], *, is_jsonl: bool) -> None:
    """Raise UsageError unless each line is meant as a prompt: every line is asked, and paid."""
    suffix = path.suffix.lower()
    if suffix not in (*_JSONL_SUFFIXES, *_TEXT_SUFFIXES):
        raise UsageError(f"prompts file {path}: {suffix} is not read (write .txt with one a line, or .jsonl)")
    if _is_one_json_value(lines):
        kind = "array" if lines[0].startswith("[") else "object"
        raise UsageError(
            f"prompts file {path}: is one JSON {kind}, not a prompt a line (write JSONL: one object per line)"
        )
    if not is_jsonl and _has_csv_header(lines[0]):
        raise UsageError(f"prompts file {path}: is a table with a header (write .txt with one a line, or .jsonl)")


def _is_one_json_value(lines: list[str]) -> bool:
    """Return whether the lines are one JSON array, or one object over several lines, complete or not."""
    if lines[0] in ("[", "{") or lines[0].startswith("[{"):
        return True
    if not lines[0].startswith("[" if len(lines) == 1 else ("[", "{")):
        return False
    try:
        return isinstance(json.loads("\n".join(lines)), (list, dict))
    except (ValueError, RecursionError):
        return False


def _is_json_object(line: str) -> bool:
    """Return whether a line is a JSON object, or begins like one that has an error."""
    try:
        return line.startswith('{"') or isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _has_csv_header(line: str) -> bool:
    names = [name.strip(' "').lower() for separator in ",;\t" if separator in line for name in line.split(separator)]
    return "prompt" in names and all(name.replace("_", "").isalnum() for name in names)


def parse_prompt(line: str, where: str) -> Prompt:
    """Return the prompt of a JSON line. Raises UsageError, beginning with `where`, when it is invalid."""
    data = parse_object(line, where, FIELDS, "a prompt", '{"id": "…", "prompt": "…"}')
    try:
        return prompt_from_fields(data)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def prompt_from_fields(fields: Mapping[str, Any]) -> Prompt:
    """Return the prompt of a JSON object's fields. Raises ValueError for the first field that is missing or invalid."""
    history = parse_messages(fields["messages"]) if fields.get("messages") is not None else ()
    text: Any = fields.get("prompt")
    turns = parse_turns(fields["turns"]) if fields.get("turns") is not None else ()
    if "prompt" not in fields:
        history, asked = _split_user_turns(history)
        if asked:
            text, turns = asked[0], (*map(Turn, asked[1:]), *turns)
    if not is_filled(fields.get("id")) or not is_filled(text):
        raise ValueError('id or prompt is missing or empty (write {"id": "…", "prompt": "…"})')
    system = fields.get("system")
    if system is not None and not is_filled(system):
        raise ValueError("system is invalid (write a text)")
    if system is not None and any(message.role == "system" for message in history):
        raise ValueError("system and a system message are both set (set one of them)")
    written = (*(message.content for message in history), *(turn.text for turn in turns))
    _check_unicode((fields["id"], text, system or "", *written))
    try:
        check = parse_check(fields["expected"]) if "expected" in fields else None
    except ValueError as error:
        raise ValueError(f"expected is invalid (write {error})") from None
    expected_tokens, max_tokens = (_parse_count(fields, name) for name in ("expected_tokens", "max_tokens"))
    shared_chars = _parse_count(fields, "shared_chars") or 0
    if shared_chars >= max(len(text), 1):
        raise ValueError("shared_chars is as long as the prompt, or longer (leave some of it to itself)")
    prompt = Prompt(fields["id"], text, expected_tokens, check, system, history, max_tokens, turns=turns)
    return replace(prompt, shared_chars=shared_chars)


def _split_user_turns(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], list[str]]:
    """Return the messages without the user's at their end, and those: nobody has answered them yet."""
    answered = max((place for place, message in enumerate(messages, 1) if message.role != "user"), default=0)
    return messages[:answered], [message.content for message in messages[answered:]]


def parse_turns(value: Any) -> tuple[Turn, ...]:
    """Return the turns of a list of texts or objects. Raises ValueError when one is invalid."""
    if not isinstance(value, list):
        raise ValueError(f"turns is invalid (write a list of texts, or of {_TURN_FORM})")
    return tuple(_parse_turn(turn, number) for number, turn in enumerate(value, 1))


def _parse_turn(value: Any, number: int) -> Turn:
    fields = {"prompt": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or set(fields) - {"prompt", "think_s"} or not is_filled(fields.get("prompt")):
        raise ValueError(f"turns: turn {number} is invalid (write a text, or {_TURN_FORM})")
    think_s = fields.get("think_s")
    is_number = isinstance(think_s, (int, float)) and not isinstance(think_s, bool)
    if think_s is not None and not (is_number and 0 <= think_s <= MAX_THINK_S):
        raise ValueError(f"turns: think_s of turn {number} is invalid (use 0 to {MAX_THINK_S:g} seconds)")
    return Turn(fields["prompt"], None if think_s is None else float(think_s))


def parse_messages(value: Any) -> tuple[Message, ...]:
    """Return the turns of a list of `{"role": …, "content": …}`. Raises ValueError when one is invalid."""
    if not isinstance(value, list):
        raise ValueError('messages is invalid (write a list, as in [{"role": "user", "content": "…"}])')
    for number, turn in enumerate(value, 1):
        is_turn = isinstance(turn, dict) and set(turn) == {"role", "content"}
        if not is_turn or turn["role"] not in _ROLES or not is_filled(turn["content"]):
            raise ValueError(
                f"messages: turn {number} is invalid (write a role of {', '.join(_ROLES)} and a content, and no more)"
            )
        if turn["role"] == "system" and number > 1:
            raise ValueError(f"messages: turn {number} is a system message (write it first)")
    return tuple(Message(turn["role"], turn["content"]) for turn in value)


def _check_unicode(texts: Iterable[str]) -> None:
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode (remove the lone surrogate)") from None


def _parse_count(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TOKENS:
        raise ValueError(f"{name} is invalid (use a whole number from 1 to {MAX_TOKENS})")
    return value


def is_filled(value: object) -> bool:
    """Return whether a value is a text with more than white space."""
    return isinstance(value, str) and bool(value.strip())

"""Files of prompts: one prompt a line, or JSONL with `id`, `prompt`, `expected_tokens` and `expected`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.prompts.answer_checks import AnswerCheck, parse_check
from streaming.errors import UsageError

_FOLDER = Path(__file__).parent
DEFAULT_PROMPTS = _FOLDER / "default.jsonl"
"""24 prompts with short, medium and long answers, in several languages and about code."""
SHIPPED_PROMPTS = {"default": DEFAULT_PROMPTS, "verifiable": _FOLDER / "verifiable.jsonl"}
"""The files that come with the program, by the name that `--prompts` takes."""
_UNREAD_SUFFIXES = (".json", ".csv", ".tsv", ".toml", ".yaml", ".yml")
_FIELDS = ("id", "prompt", "expected_tokens", "expected")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and its id in the tables.

    `expected_tokens` is the likely length of the answer. It is used for cost estimates only. `check` says which answers
    are right; None if that is not checked.
    """

    id: str
    text: str
    expected_tokens: int | None = None
    check: AnswerCheck | None = None


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read a file of prompts, or one of `SHIPPED_PROMPTS` by its name.

    Prompts on plain lines get the ids `line-1`, `line-2`, … by line number. Blank lines are skipped. Raises UsageError
    with the file and the line when a prompt is invalid.
    """
    path = path if path.exists() else SHIPPED_PROMPTS.get(str(path), path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"prompts file {path}: {reason}") from None
    # Only line breaks end a line: `splitlines` would also split at separators inside a prompt, such as U+2028.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UsageError(f"prompts file {path}: has no prompts (write one per line)")
    as_json = path.suffix == ".jsonl" or lines[0][1].startswith('{"')
    if path.suffix in _UNREAD_SUFFIXES and not as_json:
        raise UsageError(f"prompts file {path}: {path.suffix} is not read (write .txt with one a line, or .jsonl)")
    prompts = [
        parse_prompt(line, f"{path}, line {number}") if as_json else Prompt(f"line-{number}", line)
        for number, line in lines
    ]
    seen: set[str] = set()
    for (number, _), prompt in zip(lines, prompts, strict=True):
        if prompt.id in seen:
            raise UsageError(f"{path}, line {number}: the id {prompt.id!r} is used already (use unique ids)")
        seen.add(prompt.id)
    return tuple(prompts)


def parse_prompt(line: str, where: str) -> Prompt:
    """Return the prompt of a JSON line. Raises UsageError, beginning with `where`, when it is invalid."""
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error})") from None
    if not isinstance(data, dict) or not all(_is_filled(data.get(key)) for key in ("id", "prompt")):
        raise UsageError(f'{where}: id or prompt is missing or empty (write {{"id": "…", "prompt": "…"}})')
    if unknown := [key for key in data if key not in _FIELDS]:
        raise UsageError(f"{where}: {unknown[0]!r} is not a field of a prompt (use {', '.join(_FIELDS)})")
    expected = data.get("expected_tokens")
    if expected is not None and not (isinstance(expected, int) and expected > 0 and expected is not True):
        raise UsageError(f"{where}: expected_tokens is invalid (use a whole number of at least 1)")
    try:
        check = parse_check(data["expected"]) if "expected" in data else None
    except ValueError as error:
        raise UsageError(f"{where}: expected is invalid (write {error})") from None
    return Prompt(data["id"], data["prompt"], expected, check)


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())

"""The lines of a text file in UTF-8, and JSON objects in them. Other encodings and binary data are errors."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streaming.errors import UsageError

MAX_FILE_BYTES = 64 * 2**20
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
"""Only these end a line: `str.splitlines` would also split at separators inside a prompt, such as U+2028."""
_CONTROL_CHARACTER = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_BYTE_ORDER_MARK = "\ufeff"
_OTHER_ENCODINGS = (
    (b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"),
)  # fmt: skip
_DOCUMENTS = (
    (b"%PDF-", "a PDF document"), (b"PK\x03\x04", "an archive or an office document"), (b"\x1f\x8b", "compressed"),
)  # fmt: skip


def read_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """Return the lines of a UTF-8 file that are not blank, with their numbers, stripped of white space around them.

    Raises UsageError, which begins with `what` and the path, when the file cannot be read or is no text in UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise UsageError(f"{what} {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{what} {path}: larger than {MAX_FILE_BYTES // 2**20} MiB (split it)")
    text = _decode(data, f"{what} {path}")
    lines = ((number, _strip(line)) for number, line in enumerate(_LINE_BREAK.split(text), start=1))
    return [(number, line) for number, line in lines if line]


def _decode(data: bytes, where: str) -> str:
    for opening, name in _DOCUMENTS:
        if data.startswith(opening):
            raise UsageError(f"{where}: is {name}, not text (save it as text in UTF-8)")
    for mark, name in _OTHER_ENCODINGS:
        if data.startswith(mark):
            raise UsageError(f"{where}: is text in {name}, not UTF-8 (save it as UTF-8)")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1
        raise UsageError(f"{where}, line {line}: not UTF-8 (save it as UTF-8)") from None
    if (found := _CONTROL_CHARACTER.search(text)) is not None:
        line = len(_LINE_BREAK.findall(text, 0, found.start())) + 1
        raise UsageError(f"{where}, line {line}: not text, because it has U+{ord(found[0]):04X} (save it as UTF-8)")
    return text


def _strip(line: str) -> str:
    """Return a line without white space around it, and without the byte order mark of a file that begins there."""
    return line.strip().removeprefix(_BYTE_ORDER_MARK).strip()


def parse_object(line: str, where: str, fields: Sequence[str], kind: str, form: str) -> dict[str, Any]:
    """Return the JSON object of a line that may have these fields only.

    `kind` is what the line describes and `form` how to write it. Raises UsageError, beginning with `where`.
    """
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise UsageError(f"{where}: not a JSON object (write {form})")
    if unknown := [key for key in data if key not in fields]:
        raise UsageError(f"{where}: {unknown[0][:40]!r} is not a field of {kind} (use {', '.join(fields)})")
    return data

"""Reading of prompt files: lines, JSONL, the files that ship, and what is wrong with an invalid one."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from evaluation.prompts.answer_checks import AnswerCheck
from evaluation.prompts.prompt_file import DEFAULT_PROMPTS, SHIPPED_PROMPTS, Prompt, read_prompts
from streaming.errors import UsageError
from streaming.messages import Message


def test_plain_text_prompts_are_named_by_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("First?\n\n  Third?  \n", encoding="utf-8")
    assert read_prompts(file) == (Prompt("line-1", "First?"), Prompt("line-3", "Third?"))


def test_jsonl_prompts_keep_their_ids(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"id": "x", "prompt": "Why?"}\n{"id": "y", "prompt": "How?", "expected_tokens": 9}\n', encoding="utf-8"
    )
    assert read_prompts(file) == (Prompt("x", "Why?"), Prompt("y", "How?", 9))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id": "x", "prompt": "Why?"}\nWhat?\n', "line 2: not JSON"),
        ('{"id": "x", "prompt": "Why?"}\n{"id": "x", "prompt": "How?"}\n', "line 2: the id 'x' is used already"),
        ('{"id": "x"}\n', "line 1: id or prompt is missing"),
        ('{"id": 5, "prompt": "Why?"}\n', "line 1: id or prompt is missing"),
        ("[]\n", "is one JSON array, not a prompt a line"),
        ('[{"id": "x", "prompt": "Why?"}]\n', "is one JSON array, not a prompt a line"),
        ('{\n "id": "x"\n}\n', "is one JSON object, not a prompt a line"),
        ("5\n", "line 1: not a JSON object"),
        ('{"id": "x", "prompt": "\\ud800"}\n', "line 1: not valid Unicode"),
        ('{"id": "x", "prompt": "Why?", "system": ""}\n', "line 1: system is invalid"),
        ('{"id": "x", "prompt": "Why?", "max_tokens": true}\n', "line 1: max_tokens is invalid"),
        ('{"id": "x", "prompt": "Why?", "messages": "Hi"}\n', "line 1: messages is invalid"),
        ('{"id": "x", "messages": [{"role": "assistant", "content": "Hi"}]}\n', "line 1: id or prompt is missing"),
        (
            '{"id": "x", "prompt": "Why?", "messages": [{"role": "tool", "content": "4"}]}\n',
            "line 1: messages: turn 1 is invalid",
        ),
        (
            '{"id": "x", "prompt": "Why?", "messages": [{"role": "user", "content": "4", "name": "y"}]}\n',
            "line 1: messages: turn 1 is invalid",
        ),
        (
            '{"id": "x", "prompt": "Y?", "system": "S", "messages": [{"role": "system", "content": "S"}]}\n',
            "line 1: system and a system message are both set",
        ),
        ("\n  \n", "has no prompts"),
        ('{"id": "x", "prompt": "Why?", "exepcted": 1}\n', "line 1: 'exepcted' is not a field"),
        ('{"id": "x", "prompt": "Why?", "expected_tokens": 0}\n', "expected_tokens is invalid"),
        (
            '{"id": "x", "prompt": "Why?", "expected": {"regex": "("}}\n',
            "line 1: expected is invalid .write a regular",
        ),
        (
            '{"id": "x", "prompt": "Why?", "expected": "Lisbon"}\n',
            "line 1: expected is invalid .write one of exact, contains",
        ),
    ],
)
def test_invalid_prompts_file_is_reported_with_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        read_prompts(file)


def test_missing_prompts_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_prompts(tmp_path / "none.txt")


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_byte_order_mark_and_line_separators_are_no_lines(tmp_path: Path, name: str) -> None:
    text = "One\u2028line?" if name.endswith(".txt") else '{"id": "x", "prompt": "One\u2028line?"}'
    (tmp_path / name).write_text(f"\ufeff{text}\r\n", encoding="utf-8")
    (result,) = read_prompts(tmp_path / name)
    assert result.text == "One\u2028line?"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("utf16.txt", "Why?\n".encode("utf-16"), "is text in UTF-16, not UTF-8"),
        ("utf16-without-mark.txt", "Why?\n".encode("utf-16-le"), "line 1: not text, because it has U\\+0000"),
        ("utf32.txt", "Why?\n".encode("utf-32"), "is text in UTF-32, not UTF-8"),
        ("latin.txt", "Why?\nCaf\u00e9?\n".encode("latin-1"), "line 2: not UTF-8"),
        ("nul.txt", b"Why?\r\nHow\0?\r\n", "line 2: not text, because it has U\\+0000"),
        ("renamed.txt", b"%PDF-1.7\n", "is a PDF document, not text"),
        ("prompts.jsonl.gz", b"\x1f\x8b\x08\x00\x00", "is compressed, not text"),
        ("renamed.jsonl", b"PK\x03\x04\x14", "is an archive or an office document"),
        ("notes.md", b"# Prompts\n\nWhy?\n", ".md is not read"),
        ("table.txt", b'id,prompt\n1,"Why?"\n', "is a table with a header"),
        ("table.tsv.txt", b"ID\tPrompt\n1\tWhy?\n", "is a table with a header"),
        ("pretty.txt", b'[\n  {"id": "x"}\n]\n', "is one JSON array"),
        ("cut.txt", b'[{"id": "x", "prompt": "Why?"},\n{"id": "y", "pro', "is one JSON array"),
        ("empty.txt", b"", "has no prompts"),
        ("mark.txt", b"\xef\xbb\xbf\r\n", "has no prompts"),
    ],
)
def test_file_that_is_no_list_of_prompts_is_rejected(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=words):
        read_prompts(tmp_path / name)


def test_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        read_prompts(tmp_path)


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"One?\rTwo?\r", ["One?", "Two?"]),
        (b"\xef\xbb\xbfOne?\r\n\xef\xbb\xbfTwo?", ["One?", "Two?"]),
        (b"[1] One?\nTwo, prompt, three?\n", ["[1] One?", "Two, prompt, three?"]),
        (b"x" * 2_000_000, ["x" * 2_000_000]),
    ],
)
def test_lines_of_every_system_are_prompts(tmp_path: Path, data: bytes, texts: list[str]) -> None:
    (tmp_path / "prompts.txt").write_bytes(data)
    assert [prompt.text for prompt in read_prompts(tmp_path / "prompts.txt")] == texts


def test_conversation_has_its_system_prompt_turns_and_limit(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "France?"}, {"role": "assistant", "content": "Paris"}]
    lines: list[dict[str, object]] = [
        {"id": "a", "prompt": "Portugal?", "system": "Be brief.", "messages": turns, "max_tokens": 5},
        {"id": "b", "messages": [*turns, {"role": "user", "content": "Portugal?"}]},
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second = read_prompts(tmp_path / "prompts.jsonl")
    assert (first.system, first.max_tokens, second.system, second.max_tokens) == ("Be brief.", 5, None, None)
    conversation = [Message("user", "France?"), Message("assistant", "Paris"), Message("user", "Portugal?")]
    assert list(second.messages) == conversation
    assert list(first.messages) == [Message("system", "Be brief."), *conversation]


@pytest.mark.parametrize(("name", "text"), [("p.json", '[\n {"id": "a"}\n]'), ("p.csv", 'id,prompt\n1,"Why?"')])
def test_file_of_another_format_is_rejected_instead_of_sent(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=r"is not read \(write \.txt with one a line, or \.jsonl\)"):
        read_prompts(tmp_path / name)


def test_shipped_prompts_are_distinct_and_found_by_name() -> None:
    counts = {"default": 24, "verifiable": 40}
    assert set(SHIPPED_PROMPTS) == set(counts)
    for name, count in counts.items():
        prompts = read_prompts(Path(name))
        assert len(prompts) == len({p.text for p in prompts}) == count
        assert all(p.expected_tokens for p in prompts)
    assert all(prompt.check is not None for prompt in read_prompts(Path("verifiable")))


def test_default_prompts_have_short_medium_and_long_answers() -> None:
    lengths = Counter(
        "short" if (p.expected_tokens or 0) < 100 else "medium" if (p.expected_tokens or 0) < 200 else "long"
        for p in read_prompts(DEFAULT_PROMPTS)
    )
    assert min(lengths["short"], lengths["medium"], lengths["long"]) >= 7


def test_expected_answer_becomes_a_check(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"id": "x", "prompt": "6 x 7?", "expected": {"number": 42}}))
    assert read_prompts(file) == (Prompt("x", "6 x 7?", None, AnswerCheck(number=42.0)),)


def test_invalid_json_schema_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    good = {"id": "a", "prompt": "As JSON?", "expected": {"json_schema": {"type": "object"}}}
    bad = {"id": "b", "prompt": "As JSON?", "expected": {"json_schema": {"type": "objekt"}}}
    file.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(
        UsageError, match=r"prompts\.jsonl, line 2: expected is invalid \(write a JSON Schema, .*objekt"
    ):
        read_prompts(file)


def test_ids_are_checked_in_linear_time(tmp_path: Path) -> None:
    def read_s(count: int) -> float:
        file = tmp_path / f"{count}.jsonl"
        file.write_text("".join(f'{{"id": "p{number}", "prompt": "Why {number}?"}}\n' for number in range(count)))
        begun = time.process_time()
        assert len(read_prompts(file)) == count
        return time.process_time() - begun

    read_s(100)
    assert read_s(40_000) < 40 * max(read_s(4_000), 0.002), "ten times as many take ten times as long, not a hundred"

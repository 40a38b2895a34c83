"""The checks of `make space-check`: green on this tree, and each rule broken in a copy is named with its remedy."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from settings import Settings
from space.card import CardError, Problem, read_card
from space.card_rules import FIELDS, check_card
from space.check import (
    MAX_FILE_BYTES,
    MAX_TOTAL_BYTES,
    check_address,
    check_pins,
    check_secrets,
    check_sizes,
    check_start,
    check_tree,
    list_files,
)

ROOT = Path(__file__).parents[3]
COPIED = (
    *("README.md", "requirements.txt", "pyproject.toml", "app.py", "space/zero_gpu.py"),
    "docs/images/chat-light.png",
)
KEY = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy what the rules read."""
    for name in COPIED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def change(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text(encoding="utf-8")
    assert old in text, old
    (root / name).write_text(text.replace(old, new, 1), encoding="utf-8")


def card_problems(root: Path) -> list[str]:
    return [str(problem) for problem in check_card(read_card(root / "README.md"), root)]


def line_of(root: Path, name: str, start: str) -> int:
    lines = (root / name).read_text(encoding="utf-8").splitlines()
    return next(number for number, text in enumerate(lines, 1) if text.startswith(start))


def test_this_tree_breaks_no_rule() -> None:
    files = list_files(ROOT)
    assert {"app.py", "README.md", "requirements.txt", "docs/images/chat-light.png"} <= set(files)
    assert not [name for name in files if name.startswith("tests/")]
    assert [str(problem) for problem in check_tree(ROOT, files, Settings())] == []


@pytest.mark.parametrize(
    ("old", "new", "field", "remedy"),
    [
        ("colorFrom: indigo", "colorFrom: cyan", "colorFrom", "(use one of red, "),
        ("colorTo: green", "colorTo: cyan", "colorTo", "(use one of red, "),
        ("sdk: gradio", "sdk: docker", "sdk", "(write gradio)"),
        ("sdk_version: ", "sdk_version: 1", "sdk_version", "(write 6."),
        ('python_version: "3.12.12"', 'python_version: "3.11"', "python_version", '(write "3.12.12")'),
        ('python_version: "3.12.12"', 'python_version: "3.10.13"', "python_version", '(write "3.12.12")'),
        ('python_version: "3.12.12"', "python_version: 3.12", "python_version", '(write "3.12.12")'),
        ("app_file: app.py", "app_file: main.py", "app_file", "(write app.py)"),
        ("license: mit", "license: gpl", "license", "(write mit)"),
        ("short_description: ", f"short_description: {'x' * 61} ", "short_description", "(use at most 60)"),
        ("thumbnail: docs", "thumbnail: doc", "thumbnail", "(name a picture of this repository)"),
        ("tags:\n", "tags:\n  - 1\n", "tags", "(write one tag on each line"),
        ("models:\n  - ", "models:\n  - other/", "models", "(write - bartowski/"),
        ("hf_oauth: true", "hf_oauth: false", "hf_oauth", "(write true)"),
        ("  - inference-api", "  - inference-api\n  - write-repos", "hf_oauth_scopes", "(write - inference-api alone)"),
        ("preload_from_hub:\n  - ", "preload_from_hub:\n  - x/", "preload_from_hub", "(write - bartowski/"),
        ("pinned: false", "pined: false", "pined", "(remove it, or correct its name)"),
    ],
)  # fmt: skip
def test_broken_card_is_named_with_its_line_and_remedy(copy: Path, old: str, new: str, field: str, remedy: str) -> None:
    change(copy, "README.md", old, new)
    place = f"README.md:{line_of(copy, 'README.md', f'{field}:')}: {field}: "
    (result,) = [text for text in card_problems(copy) if not text.startswith("README.md:1: ")]
    assert result.startswith(place) and remedy in result


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_missing_field_of_the_card_is_named(copy: Path, field: str) -> None:
    change(copy, "README.md", f"\n{field}:", "\nnone_of_the_hubs:")
    assert f"README.md:1: {field}: is missing (add {field}: to the front matter)" in card_problems(copy)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("# Streamgauge\n", "README.md:1: the front matter is missing (begin the file with a block between two ---)"),
        ("---\ntitle: [\n---\n", "README.md:2: the front matter is not YAML (write name: value on each line)"),
        ("---\ntitle\n---\n", "README.md:2: the front matter has no fields (write name: value on each line)"),
    ],
)
def test_unreadable_front_matter_is_named(tmp_path: Path, text: str, output: str) -> None:
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(CardError) as error:
        read_card(tmp_path / "README.md")
    assert str(error.value.problem) == output


def test_pin_that_contradicts_an_extra_of_gradio_is_named(copy: Path) -> None:
    change(copy, "requirements.txt", "pydantic>=2.11.10,<3", "pydantic==2.14.3")
    (problem,) = check_pins(copy)
    assert str(problem).startswith(
        f"requirements.txt:{line_of(copy, 'requirements.txt', 'pydantic==')}: pydantic==2.14.3 contradicts Gradio "
    )
    assert str(problem).endswith("(leave the version to Gradio: write a range)")


@pytest.mark.parametrize(
    ("name", "old", "new", "output"),
    [
        ("space/zero_gpu.py", "def use_no_gpu", "async def use_no_gpu", "spaces.GPU rejects coroutine functions ("),
        ("space/zero_gpu.py", "spaces.GPU(use_no_gpu)", "pass", "no function is handed to spaces.GPU"),
        ("app.py", "        report_start()", "        pass", "the start is not reported to ZeroGPU (call "),
    ],
)
def test_start_that_zero_gpu_never_sees_is_named(copy: Path, name: str, old: str, new: str, output: str) -> None:
    change(copy, name, old, new)
    (problem,) = check_start(copy, COPIED)
    assert problem.file == name and output in str(problem)
    if new.startswith("async"):
        assert problem.line == line_of(copy, name, "async def")


def test_coroutine_handed_to_the_decorator_in_any_module_is_named(copy: Path) -> None:
    (copy / "more.py").write_text("import spaces\n\n\n@spaces.GPU(duration=5)\nasync def answer():\n    pass\n")
    (problem,) = check_start(copy, [*COPIED, "more.py"])
    assert (problem.file, problem.line) == ("more.py", 5)


@pytest.mark.parametrize(("option", "default"), [("--port", "8000"), ("--host", "127.0.0.1")])
def test_address_where_no_space_is_asked_is_named(tmp_path: Path, option: str, default: str) -> None:
    defaults = {"--port": "7860", "--host": "0.0.0.0", option: default}
    options = [f'parser.add_argument("{name}", default="{value}", help="(default: %(default)s)")\n'
               for name, value in defaults.items()]  # fmt: skip
    (tmp_path / "app.py").write_text(
        "import argparse\nparser = argparse.ArgumentParser()\n" + "".join(options) + "parser.parse_args()\n"
    )
    (problem,) = check_address(tmp_path)
    assert problem.line == line_of(tmp_path, "app.py", f'parser.add_argument("{option}"')
    assert f"{option}: the default on a Space is {default} (make it " in str(problem)


def sizes(*bytes_of_files: int) -> Callable[[Path], Iterator[Problem]]:
    def check(root: Path) -> Iterator[Problem]:
        names = [f"file-{number}" for number in range(len(bytes_of_files))]
        for name, size in zip(names, bytes_of_files, strict=True):
            with (root / name).open("wb") as file:
                file.truncate(size)
        return check_sizes(root, names)

    return check


def test_files_too_large_for_the_hub_are_named(tmp_path: Path) -> None:
    (problem,) = sizes(MAX_FILE_BYTES, MAX_FILE_BYTES + 1)(tmp_path)
    assert problem.file == "file-1" and "(keep files under 10,000,000 bytes, or preload" in str(problem)
    (problem,) = sizes(*[MAX_FILE_BYTES] * 11)(tmp_path)
    assert "(upload less than 100,000,000 bytes)" in str(problem) and 11 * MAX_FILE_BYTES > MAX_TOTAL_BYTES


@pytest.mark.parametrize(
    ("line", "variables"),
    [
        (f"token = '{KEY}'", {}),
        ("-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkq", {}),
        ("password of ours: correct-horse-battery-staple", {"MY_PASSWORD": "correct-horse-battery-staple"}),
    ],
)
def test_secret_in_the_tree_is_named_by_line_and_not_quoted(
    tmp_path: Path, line: str, variables: dict[str, str]
) -> None:
    (tmp_path / "notes.md").write_text(f"# Notes\n\n{line}\n")
    (problem,) = check_secrets(tmp_path, ["notes.md"], Settings(variables))
    assert (problem.file, problem.line) == ("notes.md", 3)
    assert "(remove it, and renew it where it came from)" in str(problem) and line not in str(problem)


def test_file_of_secrets_is_named(tmp_path: Path) -> None:
    for name in (".env", ".env.example"):
        (tmp_path / name).write_text("A=1\n")
    (problem,) = check_secrets(tmp_path, [".env", ".env.example"], Settings())
    assert problem.file == ".env" and "would be public" in str(problem)

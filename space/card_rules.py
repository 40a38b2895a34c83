"""Rules of a Space's card: Hugging Face's configuration reference, and what this project needs from a Space.

Source: https://huggingface.co/docs/hub/spaces-config-reference, read in November 2026; ZeroGPU's Python versions:
https://huggingface.co/docs/hub/spaces-zerogpu.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.specifiers import SpecifierSet

from providers.local.model_file import DEFAULT_SOURCE
from space.card import Card, Problem

FIELDS = frozenset(
    {
        "title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "license",
        "short_description", "thumbnail", "tags", "models", "hf_oauth", "hf_oauth_scopes", "preload_from_hub", "pinned",
    }
)  # fmt: skip
"""The fields of this project's card. All are required: a field that is not here has no effect, or is misspelt."""
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
MAX_DESCRIPTION_CHARS = 60
ZERO_GPU_PYTHONS = ("3.10.13", "3.12.12")
OAUTH_SCOPES = ["inference-api"]


def check_card(card: Card, root: Path) -> Iterator[Problem]:
    """Yield the broken rules of a card; `root` is the folder of the repository."""
    for name in sorted(FIELDS - card.fields.keys()):
        yield card.problem(name, "is missing", f"add {name}: to the front matter")
    for name in sorted(card.fields.keys() - FIELDS):
        yield card.problem(name, "is not a field of this card", "remove it, or correct its name")
    yield from _check_looks(card, root)
    yield from _check_runtime(card, root)
    yield from _check_hub(card)


def _check_looks(card: Card, root: Path) -> Iterator[Problem]:
    for name in ("colorFrom", "colorTo"):
        if card.fields.get(name, COLORS[0]) not in COLORS:
            yield card.problem(
                name, f"{card.fields[name]} is not a color of the Hub", f"use one of {', '.join(COLORS)}"
            )
    description = str(card.fields.get("short_description", ""))
    if len(description) > MAX_DESCRIPTION_CHARS:
        text = f"{len(description)} characters are too many"
        yield card.problem("short_description", text, f"use at most {MAX_DESCRIPTION_CHARS}")
    thumbnail = card.fields.get("thumbnail")
    if thumbnail is not None and not (root / str(thumbnail)).is_file():
        yield card.problem("thumbnail", f"there is no file {thumbnail}", "name a picture of this repository")
    license_text = re.search(r'^license = "(.+)"$', _read(root, "pyproject.toml"), re.MULTILINE)
    if license_text and "license" in card.fields and card.fields["license"] != license_text[1].lower():
        text = f"{card.fields['license']} is not the license of pyproject.toml"
        yield card.problem("license", text, f"write {license_text[1].lower()}")


def _check_runtime(card: Card, root: Path) -> Iterator[Problem]:
    fields = card.fields
    if fields.get("sdk", "gradio") != "gradio":
        yield card.problem("sdk", f"{fields['sdk']} cannot run on ZeroGPU", "write gradio")
    pinned = re.search(r"^gradio==(\S+)$", _read(root, "requirements.txt"), re.MULTILINE)
    expected = pinned[1] if pinned else "the version that requirements.txt pins"
    if "sdk_version" in fields and str(fields["sdk_version"]) != expected:
        yield card.problem("sdk_version", f"{fields['sdk_version']} is not the tested Gradio", f"write {expected}")
    supported = re.search(r'^requires-python = "(.+)"$', _read(root, "pyproject.toml"), re.MULTILINE)
    usable = [one for one in ZERO_GPU_PYTHONS if supported and SpecifierSet(supported[1]).contains(one)]
    version = fields.get("python_version")
    if version is not None and (not isinstance(version, str) or version not in usable):
        text = f"{version} is not a Python that ZeroGPU and this project both support"
        yield card.problem("python_version", text, f'write "{usable[0]}"' if usable else "see space/card_rules.py")
    if not (root / str(fields.get("app_file", "app.py"))).is_file():
        yield card.problem("app_file", f"there is no file {fields['app_file']}", "write app.py")


def _check_hub(card: Card) -> Iterator[Problem]:
    repo, file = DEFAULT_SOURCE.hub_repo, DEFAULT_SOURCE.hub_file
    expected = {
        "hf_oauth": (True, "true"),
        "hf_oauth_scopes": (OAUTH_SCOPES, f"- {OAUTH_SCOPES[0]} alone"),
        "preload_from_hub": ([f"{repo} {file}"], f"- {repo} {file}"),
        "models": ([repo], f"- {repo}"),
    }
    for name, (value, remedy) in expected.items():
        if name in card.fields and card.fields[name] != value:
            yield card.problem(name, f"{card.fields[name]} is not what the app uses", f"write {remedy}")
    tags = card.fields.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        yield card.problem("tags", "is not a list of words", "write one tag on each line, after a dash")


def _read(root: Path, name: str) -> str:
    path = root / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""

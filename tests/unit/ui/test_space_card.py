"""Tests of the README's front matter, from which Hugging Face builds the Space."""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import metadata_load

from providers.local.model_file import HUB_FILE, HUB_REPO

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def card() -> Any:
    return metadata_load(ROOT / "README.md")


def test_space_card_pins_tested_gradio_version(card: Any) -> None:
    pinned = re.search(r"^gradio==(.+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert pinned and card["sdk"] == "gradio" and card["sdk_version"] == pinned[1]
    assert re.fullmatch(r"3\.1[1-9]", card["python_version"])
    assert (ROOT / card["app_file"]).is_file()


def test_space_card_preloads_expected_model(card: Any) -> None:
    assert card["preload_from_hub"] == [f"{HUB_REPO} {HUB_FILE}"]


def test_space_card_meets_hub_limits(card: Any) -> None:
    assert len(card["short_description"]) <= 60
    assert {"title", "emoji", "colorFrom", "colorTo", "license"} <= set(card)

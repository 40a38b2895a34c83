"""Tests of a user's own key: it is kept nowhere, and where the service has lost it, the service's key is not used."""

from pathlib import Path

from playwright.sync_api import expect

from tests.e2e.chat_page import ChatPage
from tests.e2e.scripted_upstream import ScriptedUpstream

KEY = "tgp-own-0123456789abcdef"
MISPLACED_KEY = "sk-proj-abcdefghij0123456789ABCDEF"
"""A key that is written into the box of the model's name."""


def test_own_key_lost_after_reload_rejects_requests_until_user_decides(
    chat: ChatPage, scripted_upstream: ScriptedUpstream
) -> None:
    badge = chat.page.locator("#sg-badge")
    chat.save_key("Together", KEY)
    chat.page.reload()
    expect(chat.page.get_by_label("Settings").first).to_be_attached()
    chat.choose("Together")
    expect(badge).to_contain_text("is no longer here")
    request_count = len(scripted_upstream.bodies)
    chat.ask("Who pays for this?")
    expect(chat.stage).to_contain_text("is no longer here")
    chat.save_key("Together", KEY)
    chat.page.get_by_role("button", name="Remove").click()
    expect(badge).to_contain_text("Available")
    assert len(scripted_upstream.bodies) == request_count, "nobody was asked with the service's key"
    chat.ask("And now?")
    expect(chat.stage).to_contain_text("Done")
    chat.set_model(MISPLACED_KEY)
    expect(chat.page.locator("#sg-wrong")).to_contain_text("looks like an API key")
    chat.ask("And with this one?")
    expect(chat.stage).to_contain_text("Not sent")
    kept = chat.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])")
    assert KEY not in kept and MISPLACED_KEY not in kept


def test_own_key_that_pays_is_in_no_storage_cookie_export_or_log(
    chat: ChatPage, scripted_upstream: ScriptedUpstream, service_log: Path
) -> None:
    chat.save_key("Together", KEY)
    chat.ask(f"Is {KEY} safe?")
    expect(chat.stage).to_contain_text("Done")
    assert scripted_upstream.keys[-1] == f"Bearer {KEY}"
    logged = service_log.read_text()
    assert '"outcome":"completed"' in logged and KEY not in logged
    assert KEY not in str(chat.page.context.cookies())
    chat.open_settings()
    with chat.page.expect_download() as saved:
        chat.page.get_by_role("button", name="JSON").click()
    assert KEY not in saved.value.path().read_text()

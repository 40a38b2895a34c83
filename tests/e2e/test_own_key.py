"""Test of a user's own key that the service has lost: the page detects it, and the service's key is not used."""

from playwright.sync_api import expect

from tests.e2e.chat_page import ChatPage
from tests.e2e.scripted_upstream import ScriptedUpstream

KEY = "tgp-own-0123456789abcdef"


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
    expect(badge).to_contain_text("Ready")
    assert len(scripted_upstream.bodies) == request_count, "nobody was asked with the service's key"
    chat.ask("And now?")
    expect(chat.stage).to_contain_text("Done")
    assert KEY not in chat.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")

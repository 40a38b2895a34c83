"""The conversation in the browser's storage: the page keeps it there, and the page that is loaded next restores it.

The page's own script (`ui/static/conversation.js`) reads and writes the storage; no key is ever passed to it.
"""

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from ui.chat.handlers import ChatHandlers
from ui.chat.interface import StreamedChatInterface
from ui.components import HIDDEN_IN_DOM, event_options

_STORE = "window.streamgaugeConversation"


class KeptConversation:
    """The events that keep a conversation with its settings, and those that load it or open another one.

    `conversation` gets the id of the conversation, which the service knows its newest answer by. `settings` are the
    components of the settings by their names in the storage.
    """

    def __init__(
        self,
        page: gr.Blocks,
        conversation: Component,
        interface: StreamedChatInterface,
        settings: Mapping[str, Component],
    ) -> None:
        self._conversation, self._interface = conversation, interface
        self._is_kept = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-kept")
        components, names = [*settings.values()], json.dumps([*settings])
        outputs: list[Any] = [conversation, interface.chatbot, interface.textbox, self._is_kept, *components]
        page.load(None, None, outputs, js=f"() => {_STORE}.load({names})")
        another = gr.Button("", visible=HIDDEN_IN_DOM, elem_id="sg-open-conversation")
        cancelled: list[Any] = [*interface.answered]
        left = another.click(None, None, None, js=f"() => {_STORE}.leave()", cancels=cancelled)
        left.then(None, None, outputs, js=f"() => {_STORE}.enter({names})")
        chatbot = interface.chatbot
        chatbot.change(None, chatbot, None, js=f"(messages) => {_STORE}.keepMessages(messages)")
        gr.on(
            [component.change for component in components],  # type: ignore[attr-defined]  # Gradio adds the events when it runs
            None,
            components,
            None,
            js=f"(...values) => {_STORE}.keepSettings({names}, values)",
        )

    def restore_with(self, chat: ChatHandlers, outputs: list[Any]) -> None:
        """Let the service restore a conversation that was loaded; `outputs` are those of `ask` after the messages."""
        interface = self._interface
        shown = [interface.chatbot, interface.chatbot_state, interface.saved_input, interface.resumed, *outputs]
        restored = self._is_kept.change(
            chat.restore,
            [self._conversation, interface.chatbot],
            shown,
            js=f"(id) => [id, {_STORE}.messages()]",
            queue=False,
            **event_options(),
        )
        seen: list[Any] = [interface.chatbot, interface.resumed]
        restored.then(None, seen, None, js=f"(...values) => {_STORE}.onRestored(...values)")

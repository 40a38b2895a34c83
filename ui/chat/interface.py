"""Gradio's ChatInterface with this page's own wiring: everything that is overridden of Gradio stands here."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import gradio as gr
from gradio.events import Dependency

from ui import stage_strip, strings
from ui.components import CONCURRENCY_LIMIT, HIDDEN_IN_DOM, event_options
from ui.history import user_message
from ui.markdown.escaping import unescape_prose

GRADIO_VERSION = "6.31"
if not gr.__version__.startswith(f"{GRADIO_VERSION}."):
    raise ImportError(
        f"gradio {gr.__version__}: the methods that are overridden here were checked in version {GRADIO_VERSION} only "
        "(install the version that requirements.txt names)"
    )

_TAKE_SENT = """(now, sent) => {
  const rest = (now ?? "").startsWith(sent) ? now.slice(sent.length) : now;
  return [window.streamgaugeConversation.keepSent(sent, rest), ...%s];
}"""
"""Takes the sent message out of its box, keeps what was typed since, and shows that the answer has been asked for.

The figures of the answer before are taken away: its clock and its stalls are no news of this one.
"""

CurrentHistory = Callable[[list[Any], gr.Request], list[Any]]
"""Returns the part of the history that belongs to the current conversation."""
BeginRetry = Callable[[list[Any], gr.Request], None]
"""Is called with the history before its last question is asked again."""


class StreamedChatInterface(gr.ChatInterface):
    """Gradio's ChatInterface, which streams `fn` into its chatbot. Overridden is what no parameter of it covers.

    - `_setup_events`: the message box stays editable during an answer, and only what was sent is taken out of it; Stop
      replaces Send and ends the answer with a receipt instead of cancelling its event; no event of a message is dropped
      while that of an earlier one is pending; the history stays with the service, which is its only source. Gradio's
      own storage in the browser is taken out: unused, it kept the page from loading where storage is forbidden.
    - `_stream_fn`: the history that it streams from is filtered by `current_history`, since an answer that arrived
      during a clear may still be in it; if `fn` yields nothing, the page stays as it is.
    - `_message_as_message_dict`, `_pop_last_user_message`: the user's messages are shown as plain text, and read back.

    The last of the additional inputs is the conversation, which the validator gets too, with the history. The first of
    the additional outputs shows the stage, the third the figures. A value in `resumed` makes the page go on with an
    answer that another page has left. `answered` are the events that stream an answer: they can be followed and
    cancelled.
    """

    answered: list[Dependency]
    resumed: gr.Textbox

    def __init__(
        self, *arguments: Any, current_history: CurrentHistory, begin_retry: BeginRetry, **options: Any
    ) -> None:
        self.current_history, self.begin_retry = current_history, begin_retry
        super().__init__(*arguments, **options)

    def _setup_events(self) -> None:
        self.saved_conversations.unrender()  # type: ignore[no-untyped-call]  # Gradio leaves it without types
        box, state, saved = self.textbox, self.chatbot_state, self.saved_input
        at_once: dict[str, Any] = {"queue": False, **event_options()}
        copy = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-sent")
        sent = box.submit(
            lambda text, _conversation, _history: (text, text),
            [box, self.additional_inputs[-1], state],
            [saved, copy],
            validator=self.validator,
            trigger_mode="multiple",
            **event_options(),
        )
        strip = stage_strip.strip_html([], strings.STAGES["connecting"], kind="busy")
        asked = json.dumps([strip, stage_strip.figures_html(None)])
        emptied: list[Any] = [box, self.additional_outputs[0], self.additional_outputs[2]]
        sent.success(None, [box, copy], emptied, js=_TAKE_SENT % asked, trigger_mode="multiple")
        shown = sent.success(
            self._append_message_to_history, [saved, state], self.chatbot, trigger_mode="multiple", **at_once
        )
        again = self.chatbot.retry(self._take_back_answer, state, [state, saved, self.chatbot], **at_once)
        self.resumed = gr.Textbox("", visible=HIDDEN_IN_DOM, elem_id="sg-resumed")
        asking = [shown.success, again.success, self.resumed.change]
        self.answered = [self._answer_after(listen) for listen in asking]
        undone = self.chatbot.undo(self._pop_last_user_message, self.chatbot, [self.chatbot, box], **at_once)
        undone.then(lambda history: history, self.chatbot, state, **at_once)

    def _answer_after(self, listen: Callable[..., Dependency]) -> Dependency:
        stream = self._api_wrapper(self.fn, self._stream_fn)  # type: ignore[no-untyped-call]  # Gradio leaves it without types
        return listen(
            stream,
            [self.saved_input, self.chatbot_state, *self.additional_inputs],
            [self.chatbot_state, self.chatbot, *self.additional_outputs],
            trigger_mode="multiple",
            concurrency_limit=CONCURRENCY_LIMIT,
            **event_options(),
        )

    async def _stream_fn(self, message: Any, history: list[Any], *args: Any) -> AsyncGenerator[tuple[Any, ...], None]:
        frames = super()._stream_fn(message, self.current_history(history, args[-1]), *args)
        async with aclosing(frames):
            async for response, conversation, *others in frames:
                shown = gr.skip() if response is None else conversation
                yield shown, shown, *others

    def _take_back_answer(self, history: list[Any], request: gr.Request) -> tuple[Any, Any, Any]:
        history = self.current_history(history, request)
        if not history:
            return gr.skip(), gr.skip(), gr.skip()
        earlier, message = self._pop_last_user_message(history)
        self.begin_retry(history, request)
        return earlier, message, self._append_message_to_history(message, earlier)

    def _message_as_message_dict(self, message: Any, role: Any) -> list[Any]:
        if role == "user" and isinstance(message, str):
            return [user_message(message)]
        return super()._message_as_message_dict(message, role)

    def _pop_last_user_message(self, history: Any) -> Any:
        earlier, message = super()._pop_last_user_message(history)
        return earlier, unescape_prose(message) if isinstance(message, str) else message

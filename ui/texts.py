"""Every sentence of the page that is not an answer, in one place."""

from streaming.events import FinishReason
from streaming.pipeline import Outcome
from streaming.thinking import Stage

NAME = "Streamgauge"
TAGLINE = "Streaming chat, with every answer measured as it comes."
EMPTY = "### Ask something\nThe answer streams in here; the figures below measure it while it comes."
EXAMPLES = (
    "Give me three tips for a good night's sleep.",
    "Write a short poem about the sea.",
    "Explain photosynthesis to a child.",
)
PLACEHOLDER = "Ask anything…"
PLACEHOLDER_BUSY = "Stop, or Esc, ends the answer"

SETTINGS = "Settings"
PROVIDER = "Who answers"
MODEL = "Model"
MODEL_HINT = "the provider's default"
MODEL_INFO = "A model name of your own, where the provider has several."
STRATEGY = "Delivery"
STRATEGY_INFO = (
    "How text reaches the screen: direct, batch:100ms, debounce:100ms, pace:30tps, whole, or your own number."
)
SYSTEM = "System prompt"
SYSTEM_HINT = "Instructions the model gets before the conversation"
TEMPERATURE = "Temperature"
LEFT_TO_PROVIDER = "left to the provider"
MAX_TOKENS = "Longest answer, in tokens"
STREAMED = "Ask for a stream"
STREAMED_INFO = (
    "Off asks for the whole answer at once. It goes off by itself when only that worked; switch it back here."
)
SEND = "Send"
STOP = "Stop"
MESSAGE = "Message"
CHAT = "Conversation"
STATUS = "Status of the answer"
GAUGE = "Figures of the answer"

READY = "Ready"
NEEDS = "Needs {needs} in the environment of this service."
SIMULATED = "Simulated: a timing profile plays back prose; no model answers."

IDLE = "Ready for a question"
LOADING = "Loading the local model"
STAGES: dict[Stage, str] = {
    "connecting": "Connecting",
    "waiting": "Waiting",
    "thinking": "Thinking",
    "generating": "Answering",
    "retrying": "Waiting to try again",
    "done": "Done",
    "failed": "Failed",
    "stopped": "Stopped",
}
THINKING_NOW = "Thinking"
THINKING_DONE = "Thought"

OUTCOMES: dict[Outcome, str] = {
    "completed": "Complete",
    "truncated": "Cut off: the stream broke before the end",
    "failed": "Failed",
    "cancelled": "Stopped",
    "filtered": "Ended by the provider's content filter",
}
ENDINGS: dict[FinishReason, str] = {
    "length": "Cut at the token limit",
    "tool": "Ended with a tool call, which this page does not make",
    "error": "Ended by an error at the provider",
    "other": "Ended for a reason of the provider's own",
}
"""Finish reasons that are not a plain end."""
KEPT = "What had been shown is kept above."
NOTHING_KEPT = "Nothing of the answer had been shown yet."
NOT_ANSWERED = "Not answered"
SIMULATED_LABEL = "Simulated"
UNKNOWN_PRICE = "unknown price"
LOCAL_PRICE = "no price, runs here"
SIMULATED_PRICE = "no price, simulated"
UNKNOWN = "–"

EMPTY_MESSAGE = "Write a message first."
LONG_MESSAGE = (
    "{chars:,} characters are too many: up to {limit:,} can be sent. Your text is still here to be shortened."
)
LONG_SYSTEM = "The system prompt has {chars:,} characters: up to {limit:,} can be sent."
BAD_TEMPERATURE = "The temperature is a number from 0 to 2; leave it empty for the provider's own."
BAD_MAX_TOKENS = "The longest answer is a whole number of tokens, 1 to 100,000; leave it empty for the usual limit."
UNSENDABLE = "This text has characters that cannot be sent (half of an emoji, perhaps): delete them and send it again."
BUSY = "An answer is still coming. Stop it first, or wait for its end."
UNKNOWN_PROVIDER = "There is no provider {name!r} here: choose one of the list."
LONG_MODEL = "A model name has up to {limit} characters."
NO_MODELS = "{name} has no other models: leave the model empty."
DEFECT = "Something in this service broke; the question can be asked again."

"""All texts of the page except the answers."""

from streaming.events import FinishReason
from streaming.pipeline import Outcome
from streaming.retry import State
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
YOU = "You"
MODEL_HINT = "the provider's default"
MODEL_INFO = "Choose a model or enter a name. Empty: the provider's default."
STRATEGY = "Delivery"
STRATEGY_INFO = "How text reaches the screen: {strategies}, or your own number."
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
GAUGE = "Figures of the answer"

READY = "Ready"
UNCHECKED = "Key set, not checked"
UNCHECKED_NO_KEY = "Not checked"
UNREACHED = "Cannot be reached: {why}"
KEY_REFUSED = "Key refused: {why}"
NO_LIST = "no answer within {s:g} s"
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
    "empty": "No answer text",
    "refused": "The model declined to answer",
}
ENDINGS: dict[FinishReason, str] = {
    "length": "Cut at the token limit",
    "tool": "Ended with a tool call, which this page does not make",
    "error": "Ended by an error at the provider",
    "other": "Ended for a reason of the provider's own",
}
"""Labels of the finish reasons other than a normal stop."""
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
BAD_BUDGET = "The budget is an amount in USD, such as 0.50; leave it empty for none."
BUDGET_SPENT = "This page has spent {spent}, which is its budget: raise the budget, or leave it empty, to ask on."
BUDGET_REACHED = "Stopped at this page's budget."
TRIMMED = "The {count} oldest messages were left out: with them the conversation is longer than can be sent."
NO_KEYS = "This service takes no keys from visitors."
SIGN_IN = "Sign in with Hugging Face"
SIGN_OUT = "Sign out ({})"
SIGN_IN_INFO = "Signed in, you can ask models on Hugging Face at your own cost. Your token is used for nothing else."
BAD_KEY = "This is no key: it has a space, a character outside ASCII, or more than 500 characters. Copy it once more."

KEY = "Your own key"
KEY_INFO = "For this page only: kept in memory until you leave, never written down, sent to the service's own address."
KEY_HINT = "paste a key"
KEY_USE = "Use this key"
KEY_FORGET = "Forget it"
KEY_TAKEN = "Your own key is used."
KEY_REMOVED = "[key]"
KEY_GONE = (
    "Your own key for {name} is no longer here: the page was loaded anew or away for long, or the service was started "
    "again. Bring it again, or press “Forget it” to go on without."
)
PAGES_FULL = "too many pages are open: load the page again in a minute"
KEY_NOT_HERE = "{name} takes no key from this page."
ACCESS = "Access key of this service"
ACCESS_INFO = "Whoever runs this service gave it to you. Enter keeps it, in memory, for this page only."
ACCESS_NEEDED = (
    "This service asks for an access key, and knows no such one: write yours into the settings, and press Enter."
)
ACCESS_TAKEN = "Key kept for this page."
BUDGET = "Budget of this page, USD"
BUDGET_HINT = "no limit"
SPENT_NOTHING = "Nothing spent on this page so far."
SPENT = "This page: {usd} for {answers}."
ANSWERS = ("1 answer", "{count} answers")
SPENT_UNKNOWN = "Not in it: {count} of unknown price."
CONTINUE = "Continue"
CONTINUE_WORDS = "Continue exactly where you stopped."
RETRY = "Retry"
FALLBACK = "fell back"
LEFT = "s left"
EXPORT_MARKDOWN = "Save as Markdown"
EXPORT_JSON = "Save as JSON"
EXPORTED = "Conversation of"

CHAT_TAB = "Chat"
COMPARE_TAB = "Compare"
PIPELINE_TAB = "Pipeline"
RESULTS_TAB = "Results"

BETTER = "better"
ANSWER = "Answer {letter}"
TIE = "a tie"
HIDDEN_PRICE = "hidden until the vote"
COMPARE_EMPTY = "The answer comes here."
COMPARE_INTRO = "One question, several answers side by side: each at its own pace, each with its own Stop."
COMPARE_PROMPT = "Question for all"
COMPARE_COUNT = "Answers"
COMPARE_ASK = "Ask all"
COMPARE_STOP_ALL = "Stop all"
COMPARE_BLIND = "Blind: hide the names until I have voted"
COMPARE_SETTINGS = "Who is asked"
COMPARE_ASKED = "{count} answers are coming."
COMPARE_DONE = "All answers have ended: vote below, the results follow."
COMPARE_VOTE = "Which answer is best?"
COMPARE_HEADER = ("Answer", "Ended", "First token", "Speed", "Stalls", "Cost", "Tokens out", "Elapsed")
COMPARE_NOTE = (
    "Marked as better is only what beats every other by more than a tenth and by more than can be felt, among complete "
    "answers with known tokens. One answer each is an impression: the evaluation repeats and gives intervals."
)
VOTES = "Your votes on this page"
VOTES_HEADER = ("Best", "Among", "Blind", "Question")
YES_NO = {True: "yes", False: "no"}
PLOT_GROWTH = "How the answers grew"
PLOT_GAPS = "Gaps between chunks"
PLOT_TTFT = "Time to first token"
PLOT_COST = "Cost"
PLOT_UNKNOWN = "unknown for all"
AXIS_SECONDS = "seconds after the question"
AXIS_TOKENS = "tokens"
AXIS_GAP = "ms (logarithmic)"
AXIS_SHARE = "% of gaps no longer"
AXIS_USD = "USD"

STATES: dict[State, str] = {
    "idle": "Idle",
    "streaming": "Streaming",
    "retrying": "Retrying",
    "fallback": "Fallback",
    "succeeded": "Succeeded",
    "failed": "Failed",
    "cancelled": "Cancelled",
}
MACHINE_LABEL = "State machine of the answer, now: {state}"
MACHINE_TITLE = "The state machine"
PIPELINE_INTRO = (
    "One stream, two ways to deliver it: both get the same chunks at the same moments. What differs is what the "
    "reader, and the browser, get."
)
PIPELINE_PROMPT = "Show me the stream."
PIPELINE_RUN = "Run"
SCENARIO = "Stream"
SCENARIO_INFO = "Simulated profiles, simulated faults as they would come from OpenAI, and the local model."
SCENARIO_PROFILE = "Simulated: {name}"
SCENARIO_FAULT = "Simulated fault: {name} ({does})"
UNKNOWN_SCENARIO = "There is no stream {name!r} here: choose one of the list."
LEFT_SIDE = "Left"
RIGHT_SIDE = "Right"
INTERVAL = "Interval, ms"
INTERVAL_INFO = "Of {strategies}"
CHUNKS_IN = "Chunks in"
UPDATES_OUT = "Updates out"
BYTES = "To the browser"
ADDED_DELAY = "Added delay"
AT_MOST = "at most {ms:.0f} ms"
SHOWN_CUT = "… cut here: {chars:,} characters came."
PICTURES_TITLE = "Ways to buffer this stream"
PICTURES_EMPTY = "Run a stream: its first 1.6 seconds are drawn here, under several strategies."
PICTURE = "{chunks} chunks, {updates} updates, {sent:.1f} kB, {delay_ms:.0f} ms later on average"
ROWS = {"in": "Chunks in", "buffer": "Buffered", "out": "Updates"}

RESULTS_INTRO = (
    "Runs of the evaluation and of the load tests: what was measured, on which machine, and how far to trust it."
)
RUN = "Run"
RUN_INFO = "Folders in out/, newest first, and the sample that comes with this project."
SAMPLE_RUN = "sample run"
NO_RUN = "There is no such run: make one with python -m evaluation run, or choose another."
REFRESH = "Refresh"

SHARED = "Shared at {link} until this stops, a week at most: whoever has the link can ask."
NO_LINK = (
    "no link: Gradio's share server could not be used from here ({reason}). The page works at its own address; "
    "to show it to others put it on a Space, or listen on the network with --host 0.0.0.0"
)

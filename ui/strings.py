"""All texts of the page except the answers."""

from streaming.events import FinishReason
from streaming.pipeline import Outcome
from streaming.retry import State
from streaming.thinking import Stage

NAME = "Streamgauge"
TAGLINE = "Streaming chat, with every answer measured as it comes."
EXAMPLES = (
    "Give me three tips for a good night's sleep.",
    "Write a short poem about the sea.",
    "Explain photosynthesis to a child.",
)
PLACEHOLDER = "Ask anything…"
PLACEHOLDER_BUSY = "Stop or Esc ends it"

SETTINGS = "Settings"
PROVIDER = "Provider"
MODEL = "Model"
YOU = "You"
DEFAULT_HINT = "Default"
"""The placeholder of an empty field, whose value is the provider's or the service's default."""
STRATEGY = "Strategy"
STRATEGY_INFO = "How text is released to the screen"
SYSTEM = "System prompt"
SYSTEM_HINT = "Instructions the model gets before the conversation"
TEMPERATURE = "Temperature"
MAX_TOKENS = "Max tokens"
STREAMED = "Stream responses"
STREAMED_INFO = (
    "Off asks for the whole answer at once. It goes off by itself when only that worked; switch it back here."
)
TIMED_WORDS = "Timed stage words (illustrative)"
TIMED_WORDS_INFO = "While nothing has come, words that change with time; they do not say what the model does."
SEND = "Send"
STOP = "Stop"
MESSAGE = "Message"
CHAT = "Conversation"
METER = "Metrics of the answer"
TTFT = "TTFT"
TTFT_HINT = "time to first token: from sending to the first piece of any kind"
SPEED = "tokens/s"
SPEED_HINT = "over the answer after its first piece"
INPUT_TOKENS = "Input tokens"
OUTPUT_TOKENS = "Output tokens"
TOKENS_HINT = "reported by the provider, counted with the model's encoding, or estimated at 4 characters a token"
COST = "Cost"
TOKENS = "tokens"
TOTAL_TIME = "Total time"
TOTAL_TIME_HINT = "since the message was sent"

READY = "Available"
UNCHECKED = "Key set, not checked"
UNCHECKED_NO_KEY = "Not checked"
UNREACHED = "Cannot be reached: {why}"
KEY_REFUSED = "Key refused: {why}"
NO_LIST = "no answer within {s:g} s"
GROUPS = ("On this machine", "With an API key", "Simulated")
"""The groups of providers: local servers and models, services that take an API key, simulations."""
OWN_KEY_GROUP = "With your own API key (save it in Chat)"
WITH_YOUR_KEY = "With your API key: {names}"
KEY_NEEDED = "{label} needs an API key: save yours, or choose another provider."
KEY_MISSING = "{label} has no API key (choose “With your API key” to save yours, or another provider)"
NOT_SET_UP = "{label} is not set up on this service (choose another provider)"
SIMULATED = "A timing profile plays back prose; no model answers."

IDLE = "Ready"
LOADING = "Loading the local model"
STAGES: dict[Stage, str] = {
    "connecting": "Connecting",
    "waiting": "Waiting for first token",
    "thinking": "Thinking",
    "generating": "Streaming",
    "retrying": "Retrying",
    "done": "Done",
    "failed": "Failed",
    "stopped": "Stopped",
}
PASSED_STAGES: dict[Stage, str] = {
    "connecting": "Connect",
    "waiting": "First token",
    "thinking": "Thinking",
    "generating": "Streaming",
    "retrying": "Retry",
}
"""What an answer has been through, beside the time that it took."""
STALLS = ("1 stall", "{count} stalls")
THINKING_NOW = "Thinking"
THINKING_DONE = "Thought"

OUTCOMES: dict[Outcome, str] = {
    "completed": "Done",
    "truncated": "Interrupted",
    "failed": "Failed",
    "cancelled": "Stopped",
    "filtered": "Ended by the provider's content filter",
    "empty": "No answer text",
    "refused": "The model declined to answer",
}
ENDINGS: dict[FinishReason, str] = {
    "length": "Stopped at max tokens",
    "tool": "Ended with a tool call, which this page does not make",
    "error": "Ended by an error at the provider",
    "other": "Ended for a reason of the provider's own",
}
"""Labels of the finish reasons other than a normal stop."""
ANSWER_CUT = (
    "This answer was cut: the service was started again, or the page was away from it for too long. The rest is lost."
)
CLEARED_CUT = "Clear stopped this answer."
NOT_KEPT = "This browser keeps nothing for this page: loading it again loses the conversation."
NOT_IN_HISTORY = "This browser has no room for this conversation in its history: closing the tab loses what is new."
WRONG_PATH = "No request reaches the service: this page is below {path} (start the service with ROOT_PATH={path})."
KEPT = "What had been shown is kept above."
NOTHING_KEPT = "Nothing of the answer had been shown yet."
NOT_SENT = "Not sent"
SIMULATED_LABEL = "Simulated"
UNKNOWN_PRICE = "Price unknown"
LOCAL_PRICE = "Free (local)"
SIMULATED_PRICE = "Free"
UNKNOWN = "–"

EMPTY_MESSAGE = "Write a message first."
LONG_MESSAGE = (
    "{chars:,} characters are {over:,} too many: up to {limit:,} can be sent. Your text is still here to be shortened."
)
LONG_SYSTEM = "The system prompt has {chars:,} characters: up to {limit:,} can be sent."
BAD_TEMPERATURE = "Temperature: must be a number from 0 to 2 (leave it empty for the default)"
BAD_MAX_TOKENS = "Max tokens: must be a whole number from 1 to 100,000 (leave it empty for the default)"
UNSENDABLE = "This text has characters that cannot be sent (half of an emoji, perhaps): delete them and send it again."
BUSY = "An answer is still coming. Stop it first, or wait for its end."
UNKNOWN_PROVIDER = "There is no provider {name!r} here: choose one of the list."
LONG_MODEL = "A model name has up to {limit} characters."
SECRET_MODEL = "Model: this looks like an API key (clear it, and choose “With your API key” to save a key)"
NO_MODELS = "{name} has no other models: leave the model empty."
DEFECT = "Something in this service broke; the message can be sent again."
BAD_BUDGET = "Session budget: must be an amount in USD, such as 0.50 (leave it empty for no limit)"
BAD_PRICE = "Price: must be IN/OUT in USD per million tokens, such as 0.25/2 (leave it empty if it is known)"
BUDGET_UNHELD = "This budget cannot be held: the price of {name} is unknown (enter it below)."
BUDGET_SPENT = "Session budget: {spent} has been spent (raise it, or leave it empty, to go on)"
BUDGET_REACHED = "Stopped at the session budget."
TRIMMED = "The {count} oldest messages were left out: with them the conversation is longer than can be sent."
NO_KEYS = "This service takes no keys from visitors."
SIGN_IN = "Sign in with Hugging Face"
SIGN_OUT = "Sign out ({})"
WITH_SIGN_IN = "{name} · with your sign-in"
SIGN_IN_INFO = "Signed in, you can ask models on Hugging Face at your own cost. Your token is used for nothing else."
BAD_KEY = "This is no key: it has a space, a character outside ASCII, or more than 500 characters. Copy it once more."

KEY = "API key"
KEY_PROVIDER = "Provider of the key"
KEY_INFO = "Sent only to {host}. Kept in memory for this page, until you leave it, and never written down."
ITS_PROVIDER = "the provider"
KEY_HINT = "Paste a key"
KEY_SAVE = "Save"
KEY_REMOVE = "Remove"
KEY_TAKEN = "Your API key is used."
KEY_REMOVED = "[key]"
KEY_GONE = (
    "Your API key for {name} is no longer here: the page was loaded anew or away for long, or the service was started "
    "again. Save it again, or press “Remove” to go on without."
)
PAGES_FULL = "too many pages are open: load the page again in a minute"
KEY_NOT_HERE = "{name} takes no key from this page."
ACCESS = "Access key of this service"
ACCESS_INFO = "Whoever runs this service gave it to you. Enter keeps it, in memory, for this page only."
ACCESS_NEEDED = (
    "This service asks for an access key, and knows no such one: write yours into the settings, and press Enter."
)
ACCESS_TAKEN = "Key kept for this page."
BUDGET = "Session budget (USD)"
BUDGET_HINT = "No limit"
PRICE = "Price, where unknown (USD per million tokens)"
PRICE_HINT = "IN/OUT, such as 0.25/2"
SPENT_NOTHING = "Nothing spent in this session so far."
SPENT = "This session: {usd} for {answers}."
ANSWERS = ("1 answer", "{count} answers")
SPENT_UNKNOWN = "Without {count} of unknown price."
UNDO_CLEAR = "Undo clear"
HISTORY = "History"
HISTORY_NEW = "New conversation"
HISTORY_EMPTY = "No conversations yet. Each one that you begin is kept here."
HISTORY_EXPORT = "Export all"
HISTORY_IMPORT = "Import"
HISTORY_DELETE_ALL = "Delete all"
HISTORY_WHERE = "Kept in this browser, for all who use it, until you delete it. API keys are never kept."
UNDO = "Undo"
CANCEL = "Cancel"
EDITING = "You are editing an earlier message. Sending it begins another version of the conversation; this one is kept."
CLOSE = "Close"
CONTINUE = "Continue"
CONTINUE_WORDS = "Continue exactly where you stopped."
RETRY = "Retry"
FALLBACK = "fell back"
LEFT = "s left"
FEEDBACK_TEXT = "Keep my question and the answer with my ratings"
FEEDBACK_KEPT = "Rating kept, with the answer’s figures but not its text."
FEEDBACK_WITH_TEXT = "Rating kept, with question and answer."
FEEDBACK_WITHDRAWN = "Rating withdrawn."
FEEDBACK_UNKNOWN = "Only an answer that has ended on this page, since it was loaded, can be rated."
FEEDBACK_LOST = "The rating could not be kept."
EXPORT_MARKDOWN = "Save as Markdown"
EXPORT_JSON = "Save as JSON"
EXPORTED = "Conversation of"

CHAT_TAB = "Chat"
COMPARE_TAB = "Compare"
PIPELINE_TAB = "Pipeline"
RESULTS_TAB = "Results"

BETTER = "better"
ANSWER = "Answer {letter}"
TIE = "Tie"
VOTE_BOTH_BAD = "Both bad"
VOTE_ALL_BAD = "All bad"
VOTED = "Your vote: {winner}."
HIDDEN_PRICE = "hidden until the vote"
HIDDEN_REASON = "*The reason is shown after the vote.*"
COMPARE_EMPTY = "The answer comes here."
COMPARE_PROMPT = "Prompt"
COMPARE_PLACEHOLDER = "One prompt for all models…"
COMPARE_FOLLOW_UP = "Follow up in all columns…"
COMPARE_COUNT = "Answers"
COMPARE_STOP_ALL = "Stop all"
COMPARE_NEW = "New"
COMPARE_BLIND = "Blind vote"
COMPARE_BLIND_INFO = "Columns in random order, names hidden until you vote"
COMPARE_SETTINGS = "Models"
COMPARE_ASKED = "{count} answers are coming."
COMPARE_DONE = "All answers have ended: vote below, the results follow."
COMPARE_NOT_SENT = "Stopped before it was sent."
COMPARE_VOTE = "Which answer is best?"
VOTE_SIMULATED = "Simulated, no model wrote it: {letters}."
UI_UPDATES = "UI updates"
UI_UPDATES_HINT = "updates of this page in which the answer grew; all columns share at most 15 a second"
ADDED_DELAY = "Added delay (mean, max)"
ADDED_DELAY_HINT = "from the arrival of a character to the update that shows it: the strategy's delay and the page's"
DELAY_MEAN_MAX = "{mean_ms:,.0f}, {max_ms:,.0f} ms"
COMPARE_HEADER = (
    "Answer",
    "Outcome",
    TTFT,
    SPEED,
    "Stalls",
    COST,
    OUTPUT_TOKENS,
    TOTAL_TIME,
    UI_UPDATES,
    ADDED_DELAY,
)
TTFT_OF_CUT = "{ttft} (not whole)"
COMPARE_NOTE = (
    "Better is marked only among whole answers with known tokens, where one beats every other by more than a tenth and "
    "by more than can be felt: it describes these answers, not the models."
)
VERDICTS = "What the prompts on this page tell of the models"
VERDICT_NONE = "No two whole answers to the same prompt yet: nothing can be told."
VERDICT_SUBJECT = "{metric}, {a} against {b}"
VERDICT_BETTER = "{name} is better"
CANNOT_TELL = "cannot tell"
VERDICT_ONE_PAIR = "Δ {value} {unit} in one pair of answers, which carries no verdict"
VERDICT_FEW_PAIRS = "median Δ {value} {unit} in {count} pairs; an interval needs {needed}"
VERDICT_INTERVAL = "median Δ {value} {unit}, 95 % CI {low} to {high}, {count} pairs"
VERDICTS_NOTE = (
    "Δ is the second minus the first. Send more prompts to the same models for more pairs; a verdict asks for more "
    "than 2 % and is corrected for the number of comparisons. The evaluation repeats, in random order."
)
VOTES = "Your votes on this page"
VOTES_HEADER = ("Best", "Among", "Blind", "Prompt")
YES_NO = {True: "yes", False: "no"}
PLOT_GROWTH = "Tokens over time"
PLOT_GAPS = "Gaps between chunks"
PLOT_TTFT = TTFT
PLOT_COST = "Cost"
PLOT_CUT = "{name} (not whole)"
AXIS_SECONDS = "seconds after sending"
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
TRANSITIONS: dict[tuple[State, State], str] = {
    ("idle", "streaming"): "Run",
    ("idle", "fallback"): "Run with streaming off",
    ("streaming", "retrying"): "↓ error that may pass",
    ("retrying", "streaming"): "↑ the wait is over",
    ("retrying", "fallback"): "↓ the wait is over",
    ("fallback", "retrying"): "↑ error that may pass",
    ("streaming", "fallback"): "streaming fails",
    ("fallback", "streaming"): "next provider",
    ("streaming", "succeeded"): "finish reason",
    ("fallback", "succeeded"): "finish reason",
    ("streaming", "failed"): "error that stays",
    ("retrying", "failed"): "no time left",
    ("fallback", "failed"): "error that stays",
    ("streaming", "cancelled"): "Stop",
    ("retrying", "cancelled"): "Stop",
    ("fallback", "cancelled"): "Stop",
}
"""Why an answer passes from one state to another."""
MACHINE_LABEL = "State machine of the answer, now: {state}"
MACHINE_TITLE = "State machine"
RETRIED = ("after 1 retry", "after {count} retries")
STOPPED_BY_USER = "by Stop"
PIPELINE_INTRO = (
    "One stream, two strategies: both receive the same chunks at the same time, and release them differently."
)
PIPELINE_PROMPT = "Show me the stream."
PIPELINE_RUN = "Run"
SCENARIO = "Scenario"
SCENARIO_KIND = "Kind"
SCENARIO_KINDS = {"pace": "Pace", "refused": "Refused", "broken": "Broken"}
SCENARIO_INFO = "Simulated, except for the local model."
UNKNOWN_SCENARIO = "There is no scenario {name!r} here: choose one of the list."
LEFT_SIDE = "Left"
RIGHT_SIDE = "Right"
INTERVAL = "Flush interval (ms)"
INTERVAL_INFO = "Of {strategies}"
MEASURED = "Measured"
COMPUTED = "Computed"
CHUNKS_RECEIVED = "Chunks received"
BYTES_SENT = "Bytes sent"
BYTES_NOTE = "computed"
SHOWN_CUT = "… cut here: {chars:,} characters came."
PANES_NOTE = (
    "Measured while the stream ran; only the bytes are computed: the size of these updates as Gradio sends them. "
    "Updates and delay are the strategy’s own: this page draws at most 15 updates a second, whatever the strategy."
)
STRATEGY_COSTS = "From the guide: every strategy up to the screen, measured in a browser"
PICTURES_TITLE = "Buffering under each strategy"
PICTURES_NOTE = (
    "Computed from the chunks received above. What was measured includes this machine's own lag, so its delays are "
    "longer on a busy machine."
)
PICTURES_EMPTY = "Run a scenario: its first 1.6 seconds are drawn here under each strategy."
PICTURE = "{updates} · {sent:.1f} kB · delay mean {mean_ms:,.0f} ms, max {max_ms:,.0f} ms"
UPDATES = ("1 update", "{count:,} updates")
ROWS = {"in": CHUNKS_RECEIVED, "buffer": "Buffered", "out": UI_UPDATES}
AXIS_FIRST_CHUNK = "After 1st chunk"

RESULTS_INTRO = (
    "Runs of the evaluation and of load tests: what was measured, on which machine, and how far to trust it."
)
RUN = "Run"
RUN_INFO = "Newest first, by date, providers and trials."
COMPARE_WITH = "Compare with"
COMPARE_WITH_INFO = "An earlier run, as A; the run on the left is B."
NO_COMPARISON = "no other run"
SAMPLE_RUN = "Sample run"
SAMPLE_NOTE = (
    "An example that comes with this page, not a run of yours: one of its simulated providers fails on purpose, and so "
    "misses the objectives."
)
RUN_KINDS = {"load": "Load test", "what-if": "What if"}
PROCESSORS = "{count} processors"
RUN_UNKNOWN = "no readable manifest"
TRIALS = "{count:,} trials"
TRIALS_PLANNED = "{count:,} trials planned"
NO_RUN = "There is no such run any more: choose another."
RUN_GONE = "The run cannot be read: {reason} (press Refresh, or choose another)."
NO_RUNS = (
    "No run of yours is here yet. Make one, and press Refresh: "
    "`python -m evaluation run --providers local --strategies direct --repeats 3 --out out/first`"
)
REFRESH = "Refresh"
RUN_STATES = {
    "complete": "Complete",
    "interrupted": "Interrupted",
    "out_of_budget": "Ended at its cost limit",
    "open": "Not finished: running, or killed",
}
ROWS_MISSING = "Rows missing"
ROWS_SO_FAR = "{count:,} of {planned} trials so far"
OBJECTIVES = {"met": "Objectives met", "missed": "Objectives missed", "too few": "Too few answers to tell"}
DOWNLOADS = {
    "trials.csv": "CSV",
    "trials.parquet": "Parquet",
    "events.parquet": "Events",
    "report.html": "Report",
}
FULL_REPORT = "Full report, with all metrics"
COMPARISON_TITLE = "Change from A to B"
DOWNLOADS_BUSY = "Other files are being made: try again in a few seconds."

SHARED = "Shared at {link} until this stops, a week at most: whoever has the link can ask."
NO_LINK = (
    "no link: Gradio's share server could not be used from here ({reason}). The page works at its own address; "
    "to show it to others put it on a Space, or listen on the network with --host 0.0.0.0"
)

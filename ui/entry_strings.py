"""Texts of how a visitor enters the page: links to it, its first view, and its address."""

from ui.strings import NAME

LINK_TITLE = f"{NAME}: streaming chat, measured as it comes"
LINK_TITLES = {
    "compare": f"Compare answers side by side · {NAME}",
    "pipeline": f"One stream, two strategies · {NAME}",
    "results": f"Measured runs · {NAME}",
}
"""The titles of links to a tab; a link to the chat has the page's own."""
LINK_SENTENCE = (
    "Chat with a language model, no key needed. Compare answers, break the stream and watch it recover: TTFT, tokens/s "
    "and cost are measured as each answer comes."
)
LINK_PICTURE = "One stream under two strategies: its chunks one by one, and in batches"
FIRST_TITLE = "{model} on {place}, no key"
THIS_CPU = "this machine’s CPU"
SPACE_CPU = "this Space’s CPU"
FIRST_SENTENCE = "A real model that runs here. Every answer is measured as it comes, and survives a reload."
CARD_CHAT = "Ask a question"
CARD_COMPARE = "Compare two answers"
CARD_COMPARE_INFO = "The model here starts at once, a simulated one 2 s later: TTFT and tokens/s side by side."
CARD_BREAK = "Break the stream"
CARD_BREAK_INFO = "A simulated provider answers 503: watch the page wait, retry and recover."
CARD_BATCH = "Batch against direct"
CARD_BATCH_INFO = "One answer under two strategies: updates, bytes and the delay that each adds."
ADDRESS_IGNORED = "Ignored in the page’s address: {problems}."
ADDRESS_TAB = "tab {tab}: there is no such tab"
ADDRESS_LONG = "it has too many parts"
ADDRESS_PROVIDER = "not offered here (choose one of the list)"
ADDRESS_MODEL = "needs a provider of this page beside it"
ADDRESS_NUMBER = "must be a whole number from {least:,} to {most:,}"
ADDRESS_COUNT = "names 2 to 4 models, separated by commas"
ADDRESS_COMPARED = "{name} is not offered here"
ADDRESS_STRATEGIES = "names one strategy, or one for each of {count} answers"
ADDRESS_YES_NO = "is 1 or 0"
ADDRESS_SCENARIO = "there is no such scenario here"
ADDRESS_KIND = "is one of {kinds}"

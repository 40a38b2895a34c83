"""The output filter: nothing banned passes for any split of the text; everything else passes unchanged, at once."""

import re
from base64 import urlsafe_b64encode
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.output_filter import INVISIBLE_RUN, REDACTION, OutputFilter, Redactor
from guard.secret_patterns import MAX_HELD_CHARS, SECRET_PATTERNS, Patterns, SecretPattern, passes_luhn
from guard.text_normalization import normalize
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, Usage

TERMS = ("top secret", "bazooka", "zoo")
PATTERNS = Patterns(TERMS, SECRET_PATTERNS)
NO_PATTERNS = Patterns([], [])
KEY = "sk-abcdefghij0123456789ABCD"
EXAMPLES = {
    "openai": KEY,
    "openai project": "sk-proj-Ab1_cd-ef2345678901_xyzAB",
    "anthropic": "sk-ant-api03-aB3_dE5-gH7jK9lM1nO3",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "github": "ghp_" + "a1B2c3D4e5F6" * 3,
    "github fine": "github_pat_" + "11ABCDEFG0abcdefghijklm",
    "google": "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "slack": "xoxb-1234567890-abcdefghij",
    "hugging face": "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "stripe": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "groq": "gsk_" + "a1B2c3D4e5F6" * 4,
    "xai": "xai-" + "a1B2c3D4e5F6" * 6,
    "this service's": "sg-" + "a1B2c3D4e5F6" * 3 + "_-45678",
    "gitlab": "glpat-" + "abcdefghij_klmnop-qrst",
    "card": "4111111111111111",
    "card in groups": "5500 0000 0000 0004",
    "card with dashes": "4111-1111-1111-1111",
    "amex": "3782-822463-10005",
    "new mastercard": "2223003122003222",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq3\nu8Yx+/9Z==\n",
    "escaped key": r"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ",
}


def redact_in_pieces(text: str, cuts: list[int], patterns: Patterns = PATTERNS) -> str:
    redactor = Redactor(patterns)
    places = [0, *sorted(cuts), len(text)]
    pieces = [redactor.feed(text[a:b]) for a, b in pairwise(places) if b > a]
    return "".join([*pieces, redactor.flush()])


def redact_one_by_one(text: str, patterns: Patterns = PATTERNS) -> str:
    return redact_in_pieces(text, list(range(1, len(text))), patterns)


@pytest.mark.parametrize("secret", EXAMPLES.values(), ids=EXAMPLES)
def test_secret_cut_anywhere_is_redacted(secret: str) -> None:
    text = f"It is {secret}."
    for cut in range(len(text) + 1):
        assert redact_in_pieces(text, [cut]) == f"It is {REDACTION}."
    assert redact_one_by_one(text) == f"It is {REDACTION}."
    assert redact_one_by_one(secret) == REDACTION


@pytest.mark.parametrize(
    "head", [b'{"alg":"HS256","typ":"JWT"}', b'{"typ":"JWT","alg":"none"}', b'{"kid":"0123456789"}']
)
def test_jwt_is_redacted_with_all_parts(head: bytes) -> None:
    parts = [urlsafe_b64encode(part).decode().rstrip("=") for part in (head, b'{"sub":"1234567890"}', b"signature" * 3)]
    text = f"It is {'.'.join(parts)} there"
    assert redact_in_pieces(text, []) == redact_one_by_one(text) == f"It is {REDACTION} there"
    data = urlsafe_b64encode(b'{"name":"Ann","colours":["red","green"]}').decode()
    assert redact_one_by_one(data) == data, "base64 of other JSON is no secret"


@pytest.mark.parametrize(
    "written",
    ["top secret", "TOP Secret", "ｔｏｐ ｓｅｃｒｅｔ", "t\u200bop se\u200dcr\ufe0fet", "to\u0301p s\u0336ecre\x00t"],
)
def test_banned_term_is_redacted_in_any_spelling_and_chunking(written: str) -> None:
    text = f"The {written} is out"
    expected = redact_in_pieces(text, [])
    assert REDACTION in expected and expected.startswith("The ") and expected.endswith(" is out")
    assert "secret" not in normalize(expected)
    for cut in range(len(text)):
        assert redact_in_pieces(text, [cut]) == expected
    assert redact_one_by_one(text) == expected


def test_banned_term_inside_word_is_redacted_by_shorter_term() -> None:
    assert PATTERNS.terms == {"top secret", "zoo"}
    assert redact_one_by_one("a bazookas") == f"a ba{REDACTION}kas"


@pytest.mark.parametrize(
    "harmless",
    [
        "task-abcdefghij0123456789abcd",  # a word that ends in sk-
        "sk-learn and sk-image are libraries",
        "4111111111111112",  # fails Luhn's check
        "41111111111111111111111",  # longer than any card
        "2024 2025 2026 2027",
        "3.14159265358979323846264338327950288419716939937510",
        "A file begins with -----BEGIN PRIVATE KEY----- and then the key follows.",
        "AKIA is a prefix, so is ghp_",
        "👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 क्‍ष ﷺ e\u0301 ﬁn \u2067עברית\u2069",
        "--- - -- ---------- \n-----",
        "",
    ],
)
def test_harmless_text_is_unchanged(harmless: str) -> None:
    assert redact_in_pieces(harmless, []) == harmless
    assert redact_one_by_one(harmless) == harmless


PIECES = st.sampled_from(
    [
        *EXAMPLES.values(),
        *TERMS,
        "TOP",
        "sk-",
        "sk-ant-",
        "-----BEGIN ",
        "4111 ",
        "4111",
        "\u200b",
        "ﬁ",
        "ﷺ",
        "\x00",
        " ",
        "zo",
        "o",
        "é",
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=6), st.text("zotpsk-41 \u200d", max_size=8)), max_size=12).map(
    "".join
)


@given(TEXTS, st.lists(st.integers(0, 300), max_size=30))
def test_redaction_is_independent_of_chunking(text: str, cuts: list[int]) -> None:
    whole = redact_in_pieces(text, [])
    assert redact_in_pieces(text, [min(cut, len(text)) for cut in cuts]) == whole
    assert redact_one_by_one(text) == whole


@given(TEXTS)
def test_redaction_leaves_no_term_and_loses_nothing_else(text: str) -> None:
    out = redact_one_by_one(text)
    for part in out.split(REDACTION):
        assert not any(term in normalize(part) for term in PATTERNS.terms)
    kept = iter(text)
    assert all(char in kept for part in out.split(REDACTION) for char in part), "only removed, never moved"
    if out.count(REDACTION) == text.count(REDACTION) and len(text) < INVISIBLE_RUN:
        assert out == text


@given(st.text(st.characters(categories=["Lu", "Ll", "Lo", "Zs", "Po"], exclude_characters="0123456789"), max_size=200))
def test_text_without_match_is_unchanged_under_any_chunking(text: str) -> None:
    assert redact_one_by_one(text, Patterns([], SECRET_PATTERNS)) == text


def test_ordinary_words_are_released_immediately() -> None:
    redactor = Redactor(Patterns([], SECRET_PATTERNS))
    words = ["The ", "streams ", "of ", "2024 ", "answer ", "as ", "half ", "expected: ", "a ", "glad ", "host."]
    assert [redactor.feed(word) for word in words] == words
    assert redactor.feed("sk") == ""
    assert redactor.feed("ilful ") == "skilful "


@pytest.mark.parametrize(
    "beginning", [KEY[:15], "411111111111111111", "-----BEGIN OPENSSH PRIVATE KEY-----\n\n\nabc", "top secre"]
)
def test_possible_secret_prefix_is_held_and_flushed_at_end(beginning: str) -> None:
    redactor = Redactor(PATTERNS)
    assert redactor.feed("Plain " + beginning) == "Plain "
    assert redactor.flush() == beginning


def test_held_text_never_exceeds_longest_pattern() -> None:
    for text in (
        "postgres://" + "a" * 600,
        "sk-" + "a*" * 400,
        "s\n" * 300,
        "api-key" + " " * 400,
        "://a:" + "b" * 400,
        "4" * 500,
        "sk-" * 200,
        "-" * 500,
        "top " * 100,
        "-----BEGIN PRIVATE KEY-----\n" * 9,
        "xoxb-1 " * 50,
    ):
        redactor = Redactor(PATTERNS)
        out = 0
        for count, piece in enumerate(text, 1):
            out += len(redactor.feed(piece))
            assert count - out <= MAX_HELD_CHARS
        assert out + len(redactor.flush()) == len(text)


def test_long_run_of_invisible_characters_is_bounded() -> None:
    redactor = Redactor(PATTERNS)
    given_out = "".join([redactor.feed("zo"), *(redactor.feed("\u200b") for _ in range(5000)), redactor.feed("x")])
    assert given_out == "zo" + "\u200b" * INVISIBLE_RUN + "x"
    assert redact_in_pieces("zo" + "\u200b" * 5000 + "o", []) == REDACTION


def test_long_secret_is_redacted_to_its_end_only() -> None:
    assert redact_one_by_one(f"{KEY * 30}. Next") == f"{REDACTION}. Next"
    block = EXAMPLES["private key"] + "abcd\n" * 40 + "-----END RSA PRIVATE KEY-----\nDone"
    half = f"{KEY}㏂ x"  # a character that reads a.m., of which only the first could be the key's
    assert redact_one_by_one(half) == redact_in_pieces(half, []) == f"{REDACTION} x"
    assert redact_one_by_one(block) == f"{REDACTION}-----END RSA PRIVATE KEY-----\nDone"


def test_passes_luhn_accepts_only_valid_numbers() -> None:
    assert passes_luhn("4111 1111 1111 1111") and passes_luhn("79927398713")
    assert not passes_luhn("4111 1111 1111 1112")


def test_custom_secret_pattern_is_redacted() -> None:
    patterns = Patterns([], [SecretPattern("badge", (("b", 1, 1), ("[0-9]", 2, 2)), tail="[0-9]", not_after="[a-z]")])
    assert redact_one_by_one("b12 b1 ab12 b1234", patterns) == f"{REDACTION} b1 ab12 {REDACTION}"
    assert redact_one_by_one("anything", NO_PATTERNS) == "anything"


def test_events_keep_order_and_held_text_precedes_finish() -> None:
    usage, notice, finish = Usage(1, 2), Notice("timings", "none"), Finish("stop")
    delta = TextDelta("Hello ")
    machine = OutputFilter(PATTERNS)
    assert machine.feed(notice) == [notice]
    assert machine.feed(delta)[0] is delta
    assert machine.feed(ThinkingDelta("a baz")) == [ThinkingDelta("a ba")]
    assert machine.feed(TextDelta("top sec")) == [ThinkingDelta("z")], "thinking is over when text comes"
    assert machine.feed(usage) == [usage], "what is no text cannot split a term"
    assert machine.feed(TextDelta("ret, t")) == [TextDelta(f"{REDACTION}, ")]
    assert machine.feed(finish) == [TextDelta("t"), finish]


def test_failure_releases_held_text_and_split_terms_are_redacted() -> None:
    failed = Failed("network", "gone")
    assert [*OutputFilter(PATTERNS).feed(failed)] == [failed]
    usage, text, thought = Usage(1), TextDelta("zo"), ThinkingDelta("zo")
    events: list[Event] = [text, thought, usage, ThinkingDelta("o"), TextDelta("o"), failed]
    machine = OutputFilter(PATTERNS)
    out = [seen for event in events for seen in machine.feed(event)]
    assert out == [usage, ThinkingDelta(REDACTION), TextDelta(REDACTION), failed]


def test_redaction_takes_linear_work() -> None:
    """Counts the characters that searches look at, with one character a chunk: none is looked at without end."""

    class CountingPatterns(Patterns):
        looked = 0

    patterns = CountingPatterns(TERMS, SECRET_PATTERNS)
    search = patterns.search

    def search_and_count(text: str, start: int = 0) -> re.Match[str] | None:
        patterns.looked += len(text) - start
        return search(text, start)

    patterns.search = search_and_count  # type: ignore[assignment] # a stand-in for the compiled one
    looked = {}
    for size in (4_000, 64_000):
        patterns.looked = 0
        redact_one_by_one(("sk-" + "a" * 19 + " 4111 1111 zo -----BEGIN ") * (size // 48), patterns)
        looked[size] = patterns.looked
    assert looked[64_000] / looked[4_000] < 17
    assert looked[64_000] < 64_000 * MAX_HELD_CHARS


def test_notice_and_failure_messages_are_redacted() -> None:
    machine = OutputFilter(PATTERNS)
    again = Notice("retry", f"echo {KEY}", {"error": "the top secret", "delay_s": 1.0})
    assert machine.feed(again) == [Notice("retry", f"echo {REDACTION}", {"error": f"the {REDACTION}", "delay_s": 1.0})]
    failed = Failed("server_error", f"it said {EXAMPLES['card']}", 503)
    assert machine.feed(failed) == [Failed("server_error", f"it said {REDACTION}", 503)]

"""The output filter: nothing banned comes out, however it is cut; all else comes out as it was, at once."""

import re
from base64 import urlsafe_b64encode
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.folding import fold
from guard.output import INVISIBLE_RUN, MARK, OutputFilter, Redactor
from guard.shapes import MAX_HELD_CHARS, SECRETS, Patterns, Shape, luhn
from streaming.events import Event, Failed, Finish, Notice, TextDelta, ThinkingDelta, Usage

TERMS = ("top secret", "bazooka", "zoo")
PATTERNS = Patterns(TERMS, SECRETS)
NOTHING = Patterns([], [])
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


def redacted(text: str, cuts: list[int], patterns: Patterns = PATTERNS) -> str:
    redactor = Redactor(patterns)
    places = [0, *sorted(cuts), len(text)]
    pieces = [redactor.feed(text[a:b]) for a, b in pairwise(places) if b > a]
    return "".join([*pieces, redactor.flush()])


def one_by_one(text: str, patterns: Patterns = PATTERNS) -> str:
    return redacted(text, list(range(1, len(text))), patterns)


@pytest.mark.parametrize("secret", EXAMPLES.values(), ids=EXAMPLES)
def test_secrets_are_removed_wherever_they_are_cut(secret: str) -> None:
    text = f"It is {secret}."
    for cut in range(len(text) + 1):
        assert redacted(text, [cut]) == f"It is {MARK}."
    assert one_by_one(text) == f"It is {MARK}."
    assert one_by_one(secret) == MARK


@pytest.mark.parametrize(
    "head", [b'{"alg":"HS256","typ":"JWT"}', b'{"typ":"JWT","alg":"none"}', b'{"kid":"0123456789"}']
)
def test_signed_tokens_are_removed_with_all_their_parts(head: bytes) -> None:
    parts = [urlsafe_b64encode(part).decode().rstrip("=") for part in (head, b'{"sub":"1234567890"}', b"signature" * 3)]
    text = f"It is {'.'.join(parts)} there"
    assert redacted(text, []) == one_by_one(text) == f"It is {MARK} there"
    data = urlsafe_b64encode(b'{"name":"Ann","colours":["red","green"]}').decode()
    assert one_by_one(data) == data, "base64 of other JSON is no secret"


@pytest.mark.parametrize(
    "written",
    ["top secret", "TOP Secret", "ｔｏｐ ｓｅｃｒｅｔ", "t\u200bop se\u200dcr\ufe0fet", "to\u0301p s\u0336ecre\x00t"],
)
def test_terms_are_removed_however_they_are_written_and_cut(written: str) -> None:
    text = f"The {written} is out"
    expected = redacted(text, [])
    assert MARK in expected and expected.startswith("The ") and expected.endswith(" is out")
    assert "secret" not in fold(expected)
    for cut in range(len(text)):
        assert redacted(text, [cut]) == expected
    assert one_by_one(text) == expected


def test_a_term_inside_a_word_is_removed_and_the_shorter_term_decides() -> None:
    assert PATTERNS.terms == {"top secret", "zoo"}
    assert one_by_one("a bazookas") == f"a ba{MARK}kas"


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
def test_harmless_text_comes_out_as_it_was(harmless: str) -> None:
    assert redacted(harmless, []) == harmless
    assert one_by_one(harmless) == harmless


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
def test_what_comes_out_does_not_hang_on_the_chunks(text: str, cuts: list[int]) -> None:
    whole = redacted(text, [])
    assert redacted(text, [min(cut, len(text)) for cut in cuts]) == whole
    assert one_by_one(text) == whole


@given(TEXTS)
def test_no_term_is_left_and_nothing_else_is_lost(text: str) -> None:
    out = one_by_one(text)
    for part in out.split(MARK):
        assert not any(term in fold(part) for term in PATTERNS.terms)
    kept = iter(text)
    assert all(char in kept for part in out.split(MARK) for char in part), "only removed, never moved"
    if out.count(MARK) == text.count(MARK) and len(text) < INVISIBLE_RUN:
        assert out == text


@given(st.text(st.characters(categories=["Lu", "Ll", "Lo", "Zs", "Po"], exclude_characters="0123456789"), max_size=200))
def test_text_without_a_match_is_identical_under_any_chunking(text: str) -> None:
    assert one_by_one(text, Patterns([], SECRETS)) == text


def test_ordinary_words_are_not_delayed() -> None:
    redactor = Redactor(Patterns([], SECRETS))
    words = ["The ", "streams ", "of ", "2024 ", "answer ", "as ", "half ", "expected: ", "a ", "glad ", "host."]
    assert [redactor.feed(word) for word in words] == words
    assert redactor.feed("sk") == ""
    assert redactor.feed("ilful ") == "skilful "


@pytest.mark.parametrize(
    "beginning", [KEY[:15], "411111111111111111", "-----BEGIN OPENSSH PRIVATE KEY-----\n\n\nabc", "top secre"]
)
def test_only_a_possible_beginning_is_held_and_it_is_given_at_the_end(beginning: str) -> None:
    redactor = Redactor(PATTERNS)
    assert redactor.feed("Plain " + beginning) == "Plain "
    assert redactor.flush() == beginning


def test_no_more_is_held_than_the_longest_shape() -> None:
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


def test_endless_invisible_characters_are_not_held_without_end() -> None:
    redactor = Redactor(PATTERNS)
    given_out = "".join([redactor.feed("zo"), *(redactor.feed("\u200b") for _ in range(5000)), redactor.feed("x")])
    assert given_out == "zo" + "\u200b" * INVISIBLE_RUN + "x"
    assert redacted("zo" + "\u200b" * 5000 + "o", []) == MARK


def test_a_key_is_swallowed_to_its_end_and_no_further() -> None:
    assert one_by_one(f"{KEY * 30}. Next") == f"{MARK}. Next"
    block = EXAMPLES["private key"] + "abcd\n" * 40 + "-----END RSA PRIVATE KEY-----\nDone"
    half = f"{KEY}㏂ x"  # a character that reads a.m., of which only the first could be the key's
    assert one_by_one(half) == redacted(half, []) == f"{MARK} x"
    assert one_by_one(block) == f"{MARK}-----END RSA PRIVATE KEY-----\nDone"


def test_luhn() -> None:
    assert luhn("4111 1111 1111 1111") and luhn("79927398713")
    assert not luhn("4111 1111 1111 1112")


def test_shapes_of_one_own() -> None:
    patterns = Patterns([], [Shape("badge", (("b", 1, 1), ("[0-9]", 2, 2)), tail="[0-9]", not_after="[a-z]")])
    assert one_by_one("b12 b1 ab12 b1234", patterns) == f"{MARK} b1 ab12 {MARK}"
    assert one_by_one("anything", NOTHING) == "anything"


def test_events_pass_in_order_and_what_is_held_comes_before_the_end() -> None:
    usage, notice, finish = Usage(1, 2), Notice("timings", "none"), Finish("stop")
    delta = TextDelta("Hello ")
    machine = OutputFilter(PATTERNS)
    assert machine.feed(notice) == [notice]
    assert machine.feed(delta)[0] is delta
    assert machine.feed(ThinkingDelta("a baz")) == [ThinkingDelta("a ba")]
    assert machine.feed(TextDelta("top sec")) == [ThinkingDelta("z")], "thinking is over when text comes"
    assert machine.feed(usage) == [usage], "what is no text cannot split a term"
    assert machine.feed(TextDelta("ret, t")) == [TextDelta(f"{MARK}, ")]
    assert machine.feed(finish) == [TextDelta("t"), finish]


def test_a_failure_releases_what_was_held_and_a_term_across_other_events_is_removed() -> None:
    failed = Failed("network", "gone")
    assert [*OutputFilter(PATTERNS).feed(failed)] == [failed]
    usage, text, thought = Usage(1), TextDelta("zo"), ThinkingDelta("zo")
    events: list[Event] = [text, thought, usage, ThinkingDelta("o"), TextDelta("o"), failed]
    machine = OutputFilter(PATTERNS)
    out = [seen for event in events for seen in machine.feed(event)]
    assert out == [usage, ThinkingDelta(MARK), TextDelta(MARK), failed]


def test_the_work_grows_with_the_text() -> None:
    """Counts the characters that searches look at, with one character a chunk: none is looked at without end."""

    class Counting(Patterns):
        looked = 0

    patterns = Counting(TERMS, SECRETS)
    search = patterns.search

    def counted(text: str, start: int = 0) -> re.Match[str] | None:
        patterns.looked += len(text) - start
        return search(text, start)

    patterns.search = counted  # type: ignore[assignment] # a stand-in for the compiled one
    looked = {}
    for size in (4_000, 64_000):
        patterns.looked = 0
        one_by_one(("sk-" + "a" * 19 + " 4111 1111 zo -----BEGIN ") * (size // 48), patterns)
        looked[size] = patterns.looked
    assert looked[64_000] / looked[4_000] < 17
    assert looked[64_000] < 64_000 * MAX_HELD_CHARS


def test_what_is_told_of_a_failure_is_text_too() -> None:
    machine = OutputFilter(PATTERNS)
    again = Notice("retry", f"echo {KEY}", {"error": "the top secret", "delay_s": 1.0})
    assert machine.feed(again) == [Notice("retry", f"echo {MARK}", {"error": f"the {MARK}", "delay_s": 1.0})]
    failed = Failed("server_error", f"it said {EXAMPLES['card']}", 503)
    assert machine.feed(failed) == [Failed("server_error", f"it said {MARK}", 503)]

"""Secrets in answers: exact values, passwords in URLs, keys beside their names, split and disguised keys."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import Guard, GuardConfig
from guard.output_filter import REDACTION, Redactor
from guard.secret_patterns import MAX_HELD_CHARS, MIN_SECRET_CHARS, SECRET_PATTERNS, Patterns
from settings import Settings
from streaming.events import Finish, TextDelta

PATTERNS = Patterns([], SECRET_PATTERNS)
HEX = "0123456789abcdef0123456789abcdef"
AWS = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEYS = {
    "openai": "sk-abcdefghij0123456789ABCD",
    "anthropic": "sk-ant-api03-aB3_dE5-gH7jK9lM1nO3",
    "aws id": "AKIAIOSFODNN7EXAMPLE",
    "github": "ghp_" + "a1B2c3D4e5F6" * 3,
    "google": "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "hugging face": "hf_" + "abcdefghijKLMNOPqrstuv0123456789AB",
    "slack": "xoxb-1234567890-abcdefghij",
}
EXACT = {
    "password": "correct horse battery staple",
    "token": "Zq8-" + "x1Y2z3W4" * 20,
    "url": "redis://:pa55word-pa55word@cache.internal:6379/0",
    "long": "Ab1" * 150,
    "signs": "p@ss*word`with~signs!",
}


def redact(text: str, cuts: list[int], patterns: Patterns = PATTERNS) -> str:
    redactor = Redactor(patterns)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return "".join([*(redactor.feed(text[a:b]) for a, b in pairwise(places) if b > a), redactor.flush()])


def redact_anyhow(text: str, patterns: Patterns = PATTERNS) -> str:
    """Return the redacted text, after comparing every cut in two, and characters one by one."""
    whole = redact(text, [], patterns)
    assert all(redact(text, [cut], patterns) == whole for cut in range(len(text)))
    assert redact(text, list(range(len(text))), patterns) == whole
    return whole


@pytest.mark.parametrize("value", EXACT.values(), ids=EXACT)
def test_exact_secret_value_is_redacted(value: str) -> None:
    patterns = Patterns([], [], [value])
    assert redact_anyhow(f"It is {value}, yes", patterns).startswith(f"It is {REDACTION}")
    assert value[-8:] not in redact(f"It is {value}, yes", [], patterns)
    assert redact_anyhow(value[:-1] + "?" if len(value) < 240 else "Ab1", patterns).startswith(value[:3])


def test_exact_secret_value_in_url_or_base64_form_is_redacted() -> None:
    patterns = Patterns([], [], ["pass word/with+signs"])
    for form in ("pass%20word%2Fwith%2Bsigns", "cGFzcyB3b3JkL3dpdGgrc2lnbnM"):
        assert redact_anyhow(f"<{form}>", patterns) == f"<{REDACTION}>"


def test_short_value_is_no_secret() -> None:
    short = "x" * (MIN_SECRET_CHARS - 1)
    assert redact(short, [], Patterns([], [], [short])) == short


def test_environment_secrets_are_redacted() -> None:
    variables = {
        "MY_SERVICE_PASSWORD": "correct horse battery staple",
        "DATABASE_URL": "postgres://app:s3cret%2Fs3cret-s3cret@db/x",
        "SOME_API_KEYS": "first-key-0123456789,second-key-0123456789",
        "GREETING": "good morning to all of you",
        "API_TOKEN_2": "token-two-0123456789",
    }
    guard = Guard(GuardConfig.from_env(variables, Settings(variables).secrets()))
    machine = guard.output_filter()
    assert machine is not None
    output = "correct horse battery staple | s3cret/s3cret-s3cret | second-key-0123456789 | token-two-0123456789 | "
    events = [*machine.feed(TextDelta(output + variables["GREETING"])), *machine.feed(Finish("stop"))]
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text == f"{REDACTION} | {REDACTION} | {REDACTION} | {REDACTION} | good morning to all of you"
    assert "correct horse" not in repr(guard.configuration)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://admin:hunter22@db.example/x", f"postgres://{REDACTION}@db.example/x"),
        ("redis://:pa55word@localhost:6379/0", f"redis://{REDACTION}@localhost:6379/0"),
        ("see https://user:p%40ss.w0rd@example.com.", f"see https://{REDACTION}@example.com."),
        (
            "mongodb+srv://u:pw@h/?a=b and amqp://g:guest@h",
            f"mongodb+srv://{REDACTION}@h/?a=b and amqp://{REDACTION}@h",
        ),
        ("[link](ftp://me:secret@host)", f"[link](ftp://{REDACTION}@host)"),
        *((f"api-key: {HEX}", f"api-key: {REDACTION}") for _ in "1"),
        (f"AZURE_OPENAI_API_KEY={HEX.upper()}\n", f"AZURE_OPENAI_API_KEY={REDACTION}\n"),
        (f'{{"api-key": "{HEX}"}}', f'{{"api-key": "{REDACTION}"}}'),
        (f"| api-key | {HEX} |", f"| api-key | {REDACTION} |"),
        (f"The API key is **{HEX}**.", f"The API key is **{REDACTION}**."),
        (f"Ocp-Apim-Subscription-Key: {HEX}", f"Ocp-Apim-Subscription-Key: {REDACTION}"),
        (f"openaiApiKey = '{HEX}'", f"openaiApiKey = '{REDACTION}'"),
        (f"export AZURE_OPENAI_KEY={HEX}", f"export AZURE_OPENAI_KEY={REDACTION}"),
        (f"aws_secret_access_key = {AWS}\nregion = eu", f"aws_secret_access_key = {REDACTION}\nregion = eu"),
        (f'"SecretAccessKey": "{AWS}"', f'"SecretAccessKey": "{REDACTION}"'),
        (f"awsSecretAccessKey: `{AWS}`", f"awsSecretAccessKey: `{REDACTION}`"),
        (f"AccountKey={'aB3/' * 21}Ab==;EndpointSuffix=x", f"AccountKey={REDACTION};EndpointSuffix=x"),
        (f"SharedAccessKey={'aB3/' * 10}abc=", f"SharedAccessKey={REDACTION}"),
        (f"api-key: {HEX[:16]}\n{HEX[16:]}", f"api-key: {REDACTION}"),
    ],
)
def test_password_or_named_key_is_redacted_without_context(text: str, expected: str) -> None:
    assert redact_anyhow(text) == expected


@pytest.mark.parametrize(
    "harmless",
    [
        f"md5: {HEX}",
        f"The checksum is {HEX} of the file",
        f"commit {HEX}01234567",
        f"sha256:{HEX * 2}",
        f"An api-key is needed. The file's md5 is {HEX}.",
        "aws_secret_access_key = <your secret access key, 40 characters of base64>",
        "api_key = os.environ['OPENAI_API_KEY_FOR_THIS_THING_HERE_NOW']",
        "api_key: YOUR_API_KEY_GOES_HERE_IN_PLACE_OF_THIS",
        "https://example.com:8080/a@b and http://localhost:7860",
        "https://user:<password>@host or https://user:${PASSWORD}@host or https://user:***@host",
        "mailto:me@example.com, git@github.com:a/b.git, ssh://git@host/x",
        "sk-learn\nnumpy\npandas\nmatplotlib\nseaborn\n",
        "Asia\nRepresentativesAndMore\n",
        "- **sk-learn** and `sk-image`\n- *akia* ~~ghp_~~\n",
        "1234*5678*1234*5678 = x; 3**2; a~b; C:\\new\\table",
        "4111\n1111\n1111\n1111",
        "AccountKey and SharedAccessKey are parts of a connection string",
        "A list:\n* one\n* two\n\n> quote\n> more\n```\ncode\n```\n",
        "Привет, как дела? Οὐκ ἔλαβον πόλιν. 密钥 مفتاح",
        "",
    ],
)
def test_harmless_text_is_unchanged(harmless: str) -> None:
    assert redact_anyhow(harmless) == harmless


SPLITS = [
    "\n",
    "\r\n",
    "\n    ",
    "\n> ",
    "**",
    "*",
    "`",
    "~~",
    "\\",
    "**\n**",
    "`\n`",
    "\u200b",
    "\u00ad",
    "\u2060\u200d",
]


@pytest.mark.parametrize("split", SPLITS, ids=repr)
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_key_split_anywhere_is_redacted(key: str, split: str) -> None:
    whole = f"Use {key} now"
    for place in range(1, len(key)):
        text = f"Use {key[:place]}{split}{key[place:]} now"
        out = redact(text, [])
        assert redact(text, list(range(len(text)))) == out
        assert REDACTION in out and longest_common_part(out, key) < 12, (out, whole)


def longest_common_part(text: str, key: str) -> int:
    """Return the length of the longest part of the key that is left in the text."""
    return max(
        size
        for size in range(len(key) + 1)
        for start in range(len(key) - size + 1)
        if key[start : start + size] in text
    )


@pytest.mark.parametrize("mark", ["**", "`", "*", "~~", "***", "**`"])
def test_markup_around_key_is_unchanged(mark: str) -> None:
    for key in KEYS.values():
        assert redact_anyhow(f"Use {mark}{key}{mark[::-1]} now") == f"Use {mark}{REDACTION}{mark[::-1]} now"


@pytest.mark.parametrize(
    "look_alike",
    [
        "a\u0430",
        "e\u0435",
        "o\u03bf",
        "s\u0455",
        "k\u043a",
        "A\u0391",
        "I\u0406",
        "p\u0440",
        "h\u04bb",
        "-\u2011",
        "-\u2013",
        "-\u2212",
    ],
)
def test_key_with_one_look_alike_letter_is_removed(look_alike: str) -> None:
    letter, other = look_alike[0], look_alike[1]
    keys = [key for key in KEYS.values() if letter in key]
    assert keys
    for key in keys:
        assert redact_anyhow(f"Use {key.replace(letter, other, 1)}.") == f"Use {REDACTION}."


def test_wrapped_key_is_redacted_and_next_line_unchanged() -> None:
    key = KEYS["openai"]
    for after in (
        "\nNext line",
        "\n\nInternationally known",
        "\n2024-01-01 was a day",
        "\n- item",
        "\nBASE_URL=x",
        "`\nand",
        "** so",
    ):
        assert redact_anyhow(f"{key}{after}") == f"{REDACTION}{after}"
    for rest in ("ABCDEFGH12345678", "abcdefghijklmnopqrst", "a1b2c3d4"):
        assert redact_anyhow(f"{key}\n{rest} end") == f"{REDACTION} end"


def test_card_with_marks_is_removed() -> None:
    for card in (
        "**4111** 1111 1111 1111",
        "4111**1111**1111**1111",
        "`4111 1111` `1111 1111`",
        "4111-1111-**1111**-1111",
    ):
        assert "1111" not in redact_anyhow(f"pay {card} now")


def test_number_continued_after_mark_is_held_until_decided() -> None:
    assert redact_anyhow("222300312200322`2") == REDACTION
    assert redact_anyhow("222300312200322`") == "222300312200322`"


def test_held_text_is_bounded() -> None:
    for text in (
        "s*\n" * 300,
        "sk-" + "a**\n    " * 100,
        "://" + "a" * 500,
        "api-key" + " :" * 300,
        "AccountKey=" + "a`" * 300,
    ):
        redactor = Redactor(PATTERNS)
        out = 0
        for count, char in enumerate(text, 1):
            out += len(redactor.feed(char))
            assert count - out <= MAX_HELD_CHARS


@st.composite
def disguised_keys(draw: st.DrawFn) -> str:
    """Draw texts of keys with marks, line ends and invisible characters between their characters, and words around."""
    key = draw(
        st.sampled_from(
            [
                *KEYS.values(),
                f"api-key: {HEX}",
                f"AccountKey={AWS}==",
                "redis://:secret@host",
                "4111 1111 1111 1111",
                "4111111111111111",
                *EXACT.values(),
            ]
        )
    )
    places = draw(st.lists(st.integers(0, len(key)), max_size=4))
    for place in sorted(places, reverse=True):
        key = key[:place] + draw(st.sampled_from([*SPLITS, " ", "***", "\n\n\n"])) + key[place:]
    words = st.text("ab sk-1*\n`:/@\u0430\u200b", max_size=12)
    return draw(words) + key + draw(words)


@given(st.lists(disguised_keys(), max_size=3).map("".join), st.lists(st.integers(0, 900), max_size=30))
def test_output_is_same_for_any_split(text: str, cuts: list[int]) -> None:
    patterns = WITH_EXACT
    whole = redact(text, [], patterns)
    assert redact(text, cuts, patterns) == whole
    assert redact(text, list(range(len(text))), patterns) == whole
    kept = iter(text)
    assert all(char in kept for part in whole.split(REDACTION) for char in part), "only removed, never moved"


@given(
    st.text(
        st.characters(categories=["Lu", "Ll", "Lo", "Zs", "Po", "Pd", "Sm"], include_characters="\n*`~\\>"),
        max_size=300,
    )
)
def test_text_without_key_is_unchanged(text: str) -> None:
    assert redact(text, list(range(len(text)))) == text


WITH_EXACT = Patterns(["top secret"], SECRET_PATTERNS, EXACT.values())

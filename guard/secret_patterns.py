r"""Patterns for banned text, compiled into one regular expression over folded text that also detects partial matches.

Each pattern is a sequence of (character class, minimum, maximum) steps. The expression matches either the whole
pattern or a prefix of it at the end of the text (`\\Z` at every step), which the output filter holds back. Every step
is possessive and bounded, so that a search costs at most the pattern's length per character.

Markdown marks and line ends may appear between the characters of a secret, because a reader can still copy it.
"""

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from urllib.parse import quote

from guard.text_normalization import normalize

CharClassRun = tuple[str, int, int]
Check = Callable[[str, str], bool]
"""A function that returns whether a match is a secret, given its folded and its raw text."""

TERM_CHARS = 64
"""The maximum length of a banned term, in folded characters."""
MAX_HELD_CHARS = 256
"""The maximum number of folded characters held back. Longer matches are ignored."""
MIN_SECRET_CHARS = 16
MAX_SECRET_CHARS = 240
"""The number of characters compared for a longer exact value. The rest is redacted as its tail."""
_TOKEN_CHARS = "[a-z0-9_-]"
_TOKEN_FIRST_CHARS = "[a-z0-9]"
_BASE64_CHARS = "[a-z0-9+/=]"
_MARKS = r"*`~\\"
_LINE_END = rf"[\r\n]{{1,2}}+[ \t>]{{0,4}}+[{_MARKS}]{{0,3}}+"
BREAK = rf"(?:[{_MARKS}]{{1,3}}+(?:{_LINE_END})?+|{_LINE_END})"
"""The expression for text that may split a secret: a few marks, a line end with the next line's prefix, or both."""
EMPHASIS = r"(?:\*\*|\*\Z|~~|~\Z|`)"
"""The expression for text that may split a number.

It excludes single marks, which may be arithmetic operators, and line ends, because tables list numbers in columns.
"""
_JOINTS = {
    "": "",
    BREAK: rf"[{_MARKS}]{{0,3}}+(?:{_LINE_END})?+",
    EMPHASIS: f"{EMPHASIS}?+",
}
"""The expressions for what may split a secret, or for nothing. That of a break is shorter than `BREAK?+`, and equal.

They stand hundreds of times in the whole expression, and every process compiles it at its start.
"""
_SPLIT = re.compile(rf"[{_MARKS}\r\n]")


@dataclass(frozen=True, slots=True)
class SecretPattern:
    """The pattern of a secret in folded text. `tail` is the class of characters of any number that continue it.

    `not_after` is a class that must not precede the secret, and `before` is an expression that must follow it. The
    last step has a fixed length unless `before` determines its end; otherwise the result would depend on the chunks.
    `splits` is the expression allowed between characters: `BREAK`, `EMPHASIS` or none. Text matched before the step
    `SECRET_BEGINS` is not redacted.
    """

    name: str
    steps: tuple[CharClassRun, ...]
    tail: str = ""
    not_after: str = _TOKEN_FIRST_CHARS
    before: str = ""
    splits: str = ""
    check: Check | None = None


SECRET_BEGINS: CharClassRun = ("", 0, 0)
_BEGINS = "_begins"


def _literal_run(text: str) -> tuple[CharClassRun, ...]:
    return tuple((re.escape(char), 1, 1) for char in text)


def _token_pattern(prefix: str, count: int, run: str = _TOKEN_FIRST_CHARS, tail: str = _TOKEN_CHARS) -> SecretPattern:
    name = "token_" + prefix.encode().hex()
    check = _looks_like_access_key_id if prefix in ("akia", "asia") else _looks_random_if_split
    return SecretPattern(name, (*_literal_run(prefix), (run, count, count)), tail=tail, splits=BREAK, check=check)


def _looks_random(folded: str, raw: str) -> bool:
    """Return whether a text looks like a key: it contains a digit, or alternates between lower and upper case."""
    return re.search(r"\d", folded) is not None or len(re.findall(r"[a-z][A-Z]", raw)) >= 2


def _looks_random_if_split(folded: str, raw: str) -> bool:
    """Return whether a text looks like a key and, if it is split, not like a list with one word per line."""
    if _SPLIT.search(folded) is None:
        return True
    return len(re.findall(r"[\r\n]++", folded)) <= 1 and _looks_random(folded, raw)


def _looks_like_access_key_id(folded: str, raw: str) -> bool:
    """Return whether a text looks like an access key ID, all in capitals if split, and not like "Asia" in a list."""
    return _SPLIT.search(folded) is None or (raw == raw.upper() and _looks_random_if_split(folded, raw + "0"))


def _has_check_digit(folded: str, raw: str) -> bool:
    return passes_luhn(folded)


def _named_secret(label: str, names: Sequence[str], value: CharClassRun, tail: str) -> Iterable[SecretPattern]:
    """Yield patterns of a value that is a secret only next to its name. `?` in a name is an optional -, _ or space."""
    gap = rf"[\s\"':=|>(,{_MARKS}]"
    for number, name in enumerate(names):
        letters = [("[-_ ]", 0, 1) if char == "?" else (re.escape(char), 1, 1) for char in name]
        for word, between in (("", [(gap, 0, 12)]), ("is", [(gap, 1, 4), ("i", 1, 1), ("s", 1, 1), (gap, 1, 8)])):
            steps = (*letters, *between, SECRET_BEGINS, value)
            yield SecretPattern(f"named_{label}_{number}{word}", steps, tail=tail, splits=BREAK, check=_looks_random)


def _private_key_pattern(kind: str) -> SecretPattern:
    # The header alone is not a secret and is often quoted: the first characters of the key must follow.
    steps = (*_literal_run(f"-----begin {kind}private key-----"), (r"[\s\\nr]", 1, 4), (_BASE64_CHARS, 16, 16))
    return SecretPattern("pem_" + kind.strip(), steps, tail=r"[a-z0-9+/=\s\\]", not_after="")


_NO_DIGIT = f"(?!{EMPHASIS}?+[0-9])"


def _card_patterns() -> Iterable[SecretPattern]:
    digit, gap = "[0-9]", ("[ -]", 1, 1)
    groups = {"four": (3, 4, 4, 4), "amex": (3, 6, 5)}
    for first in ("2[2-7]", "3", "4", "5", "6"):
        lead = [(first[0], 1, 1), *([(first[1:], 1, 1)] if first[1:] else [])]
        lacking = 2 - len(lead)
        run = (*lead, (digit, 11 + lacking, 17 + lacking))
        yield SecretPattern(f"card_{first[0]}", run, "", digit, _NO_DIGIT, EMPHASIS, _has_check_digit)
        for name, sizes in groups.items():
            if name == "amex" and first != "3":
                continue
            steps = [*lead, (digit, sizes[0] + 1 - len(lead), sizes[0] + 1 - len(lead))]
            for size in sizes[1:]:
                steps += [gap, (digit, size, size)]
            yield SecretPattern(
                f"card_{name}_{first[0]}", tuple(steps), "", digit, _NO_DIGIT, EMPHASIS, _has_check_digit
            )


_URL_PART = r"[^\s/:@?#\"'<>`\[\](){}$]"
_URL_PASSWORD = SecretPattern(
    "url_password",
    (
        *_literal_run("://"),
        SECRET_BEGINS,
        (_URL_PART, 0, 64),
        (":", 1, 1),
        (r"[^\s/@\"'<>`{$%*(\[]", 1, 1),
        (r"[^\s/@\"'<>`]", 0, 127),
    ),
    not_after="",
    before="(?=@)",
)
"""The pattern of `scheme://user:password@host`, where the user may be empty.

Placeholders (`<password>`, `${PASSWORD}`) do not match.
"""


SECRET_PATTERNS: tuple[SecretPattern, ...] = (
    _token_pattern("sk-", 20),
    *(
        _token_pattern(f"sk-{kind}-", 20, _TOKEN_CHARS)
        for kind in ("ant", "proj", "or", "svcacct", "admin", "live", "test")
    ),
    *(_token_pattern(prefix, 16) for prefix in ("akia", "asia", "sk_live_", "rk_live_", "sk_test_", "whsec_")),
    *(_token_pattern(f"gh{kind}_", 36) for kind in "pousr"),
    _token_pattern("github_pat_", 22, "[a-z0-9_]"),
    _token_pattern("glpat-", 20, _TOKEN_CHARS),
    _token_pattern("aiza", 35, _TOKEN_CHARS),
    *(_token_pattern(f"xox{kind}-", 10, "[a-z0-9-]") for kind in "abposr"),
    _token_pattern("xapp-", 20, "[a-z0-9-]"),
    _token_pattern("hf_", 30),
    _token_pattern("gsk_", 40),
    _token_pattern("xai-", 40),
    _token_pattern("sg-", 43, _TOKEN_CHARS),
    _token_pattern("npm_", 36),
    _token_pattern("pypi-", 40, _TOKEN_CHARS),
    *(
        _token_pattern(head, 10, _TOKEN_CHARS, tail="[a-z0-9_.-]")
        for head in ("eyjhbgcioi", "eyj0exaioi", "eyjrawqioi")
    ),
    *(_private_key_pattern(kind) for kind in ("", "rsa ", "ec ", "dsa ", "openssh ", "encrypted ")),
    *_card_patterns(),
    _URL_PASSWORD,
    *_named_secret(
        "azure",
        ("api?key", "openai?api?key", "subscription?key", "openai?key", "azure?key"),
        (_TOKEN_FIRST_CHARS, 32, 32),
        _TOKEN_CHARS,
    ),
    *_named_secret(
        "storage", ("account?key", "shared?access?key", "access?key"), ("[a-z0-9+/]", 40, 40), _BASE64_CHARS
    ),
    *_named_secret(
        "aws", ("secret?access?key", "aws?secret?access?key", "secret?key"), ("[a-z0-9+/]", 40, 40), _BASE64_CHARS
    ),
    *_named_secret("session", ("session?token",), ("[a-z0-9+/=]", 64, 64), _BASE64_CHARS),
    *_named_secret("client", ("client?secret",), ("[a-z0-9~._-]", 32, 32), "[a-z0-9~._-]"),
)
"""The patterns of known kinds of secrets.

They cover the keys of providers, common services and this service; signed tokens (JWTs whose first field is alg, typ or
kid); private keys; card numbers (which must also pass `passes_luhn`); and passwords in URLs. Azure and AWS keys without
a distinctive format match only next to their names, because 32 hexadecimal digits are more often a checksum.
"""


class Patterns:
    """The compiled patterns of normalized banned terms, exact secrets and known shapes, shared by all answers.

    `search` finds complete and partial matches; `search_last` finds only complete ones, for the end of the text. At
    each position the first alternative wins, terms before shapes, so that the result depends only on the text.
    """

    def __init__(self, terms: Iterable[str], shapes: Sequence[SecretPattern], secrets: Iterable[str] = ()) -> None:
        self.terms = _drop_covered_terms(terms)
        banned = [
            SecretPattern(f"term_{i}", _literal_run(term), not_after="") for i, term in enumerate(sorted(self.terms))
        ]
        exact = tuple(_exact_shapes(secrets))
        everything = (*banned, *exact, *shapes)
        self.tails = {shape.name: Tail(shape.tail, bool(shape.splits)) for shape in everything if shape.tail}
        # A secret's own expression is kept by nobody but its owner.
        expression, last = _compile(everything) if exact else _compile_once(everything)
        self.search, self.search_last = expression.search, last.search
        self._checks = {shape.name: shape.check for shape in everything if shape.check}

    def matched_name(self, match: re.Match[str]) -> str | None:
        """Return the name of the pattern of a complete match, or None for a partial match."""
        name = match.lastgroup
        return None if name is None or name.endswith(_BEGINS) else name

    def start(self, match: re.Match[str]) -> int:
        """Return the start index of the part of a complete match that must be redacted."""
        begins = f"{match.lastgroup}{_BEGINS}"
        return match.start(begins) if begins in match.re.groupindex else match.start()

    def is_secret(self, name: str, folded: str, raw: str) -> bool:
        """Return whether a match passes its pattern's check. `folded` and `raw` are the two forms of its text."""
        check = self._checks.get(name)
        return check is None or check(folded, raw)


class Tail:
    """The tail of a secret beyond its pattern: a run of a character class, across splits that a key may contain."""

    def __init__(self, cls: str, splits: bool) -> None:
        # After a line end, only a long run or one with both digits and letters continues a key, unlike a word or date.
        digit, letter = (rf"(?=(?:(?!{kind}){cls}){{0,15}}{kind})" for kind in ("[0-9]", "[a-z]"))
        goes_on = rf"(?={cls}{{16}}|(?={cls}{{8}}){digit}{letter})"
        over = rf"|[{_MARKS}]{{1,3}}+(?={cls})|[{_MARKS}]{{0,3}}+{_LINE_END}{goes_on}" if splits else ""
        self._match = re.compile(rf"(?:{cls}++{over})*+").match
        self._may_go_on = re.compile(rf"{BREAK}{cls}{{0,15}}+\Z" if splits else r"(?!)").match

    def end(self, text: str, start: int) -> int:
        """Return the end index of the secret that continues at `start`."""
        match = self._match(text, start)
        return start if match is None else match.end()

    def may_go_on(self, text: str, end: int) -> bool:
        """Return whether more text is needed to decide if the secret ends at `end`."""
        return self._may_go_on(text, end) is not None


def _exact_shapes(secrets: Iterable[str]) -> Iterable[SecretPattern]:
    """Yield patterns of the secret values in plain, URL-encoded and base64 form."""
    values = {value.strip() for value in secrets if len(value.strip()) >= MIN_SECRET_CHARS}
    forms = {form for value in values for form in (value, quote(value, safe=""), *_base64_forms(value))}
    folded = sorted({normalize(form) for form in forms} - {""})
    for number, text in enumerate(folded):
        begins = text[:MAX_SECRET_CHARS]
        tail = r"[^\s\"'`<>]" if begins != text else ""
        splits = BREAK if _SPLIT.search(begins) is None else ""
        yield SecretPattern(f"exact_{number}", _literal_run(begins), tail=tail, not_after="", splits=splits)


def _base64_forms(value: str) -> Iterable[str]:
    data = value.encode("utf-8", "replace")
    return (encode(data).decode().rstrip("=") for encode in (b64encode, urlsafe_b64encode))


def passes_luhn(text: str) -> bool:
    """Return whether a card number passes the Luhn check. Characters other than digits are ignored."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def contains_token(text: str) -> bool:
    """Return whether a short text contains an API key or another token of a known form."""
    folded = normalize(text)
    patterns = _token_patterns()
    match = patterns.search_last(folded)
    name = None if match is None else patterns.matched_name(match)
    return match is not None and name is not None and patterns.is_secret(name, match[0], text)


@cache
def _token_patterns() -> Patterns:
    return Patterns((), [pattern for pattern in SECRET_PATTERNS if pattern.name.startswith("token_")])


def _drop_covered_terms(terms: Iterable[str]) -> frozenset[str]:
    """Drop terms that contain a shorter term, because redacting the shorter one is enough."""
    kept: list[str] = []
    for term in sorted(set(terms), key=len):
        if not any(shorter in term for shorter in kept):
            kept.append(term)
    return frozenset(kept)


@dataclass(frozen=True, slots=True)
class _Rest:
    """The remaining steps of a pattern, with the expression that ends it."""

    steps: tuple[CharClassRun, ...]
    ending: str
    joint: str
    """The expression allowed before each of its characters."""


def _compile(shapes: tuple[SecretPattern, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the expressions for text that goes on and for the end of a text."""
    return re.compile(_build_expression(shapes, last=False)), re.compile(_build_expression(shapes, last=True))


_compile_once = lru_cache(maxsize=4)(_compile)
"""`_compile` for patterns that hold no secret: those of known shapes take half a second, and every guard has them."""


def _build_expression(shapes: Sequence[SecretPattern], last: bool) -> str:
    """Build one expression as a prefix tree, so that patterns with a common prefix share its comparisons."""
    end = "" if last else r"\Z"
    trees: dict[tuple[str, str], list[_Rest]] = {}
    for shape in shapes:
        joint = _JOINTS[shape.splits]
        # `before` can be checked only when more text is available.
        not_last = rf"(?!{joint}\Z)" if shape.before and not last else ""
        ending = f"{shape.before}{not_last}(?P<{shape.name}>)"
        begins = (f"(?P<{shape.name}{_BEGINS}>)", 0, 0)
        steps = tuple(begins if step == SECRET_BEGINS else step for step in shape.steps)
        trees.setdefault((steps[0][0], shape.not_after), []).append(_Rest(steps[1:], ending, joint))
    branches = []
    for (first, not_after), rests in trees.items():
        # With the look-behind after the first character, the search can skip to possible first characters.
        boundary = f"(?<!{not_after}{first})" if not_after else ""
        branches.append(first + boundary + _alternation(_build_branches(rests, end)))
    return "|".join(branches) or r"(?!)"


def _build_branches(rests: Sequence[_Rest], end: str) -> list[str]:
    """Return the alternatives that may follow: ends of patterns, then further steps, then the end of the text."""
    endings = [rest.ending for rest in rests if not rest.steps]
    by_joint: dict[str, dict[CharClassRun, list[_Rest]]] = {}
    for rest in rests:
        if rest.steps:
            # A class that includes the marks consumes them itself.
            joint = "" if _MARKS in rest.steps[0][0] else rest.joint
            following = by_joint.setdefault(joint, {}).setdefault(rest.steps[0], [])
            following.append(_Rest(rest.steps[1:], rest.ending, rest.joint))
    for joint, by_step in by_joint.items():
        branches = [
            branch for step, following in by_step.items() for branch in _step_branches(step, joint, following, end)
        ]
        endings.append(joint + _alternation([*branches, end] if end else branches))
    return endings


def _step_branches(step: CharClassRun, joint: str, following: Sequence[_Rest], end: str) -> list[str]:
    """Return a step with all its continuations, without the first joint, and its partial form at the text's end."""
    cls, least, most = step
    after = _alternation(_build_branches(following, end))
    if most == 0 or (least, most) == (1, 1):
        return [cls + after]
    more = f"(?:{joint}{cls})" if joint else cls
    stop = [f"{more}{{0,{most}}}+{joint}{end}"] if end else []
    return [f"{more}{{{least},{most}}}+{after}", *stop]


def _alternation(branches: Sequence[str]) -> str:
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"

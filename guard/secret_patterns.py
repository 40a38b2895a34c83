r"""What must not be in an answer, as one regular expression over folded text that also tells what may still become it.

Each shape is a sequence of (class, least, most). Its expression matches the whole shape, or the beginning of it that
reaches the end of the text (`\\Z` at every step): the part to hold back. Every step is possessive and bounded, so that
a search costs at most a shape's length at each character.

Markdown's marks and a line's end may stand between the characters of a secret: a reader who copies it has it whole.
"""

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from guard.text_normalization import normalize

CharClassRun = tuple[str, int, int]
Check = Callable[[str, str], bool]
"""Whether a match is a secret, by its folded text and the text itself."""

TERM_CHARS = 64
"""The longest banned term, folded."""
MAX_HELD_CHARS = 256
"""The most characters, folded, that may be held back; what spreads over more is not matched."""
MIN_SECRET_CHARS = 16
MAX_SECRET_CHARS = 240
"""Of a longer exact value this much is compared; the rest of its run goes with it."""
_TOKEN_CHARS = "[a-z0-9_-]"
_TOKEN_FIRST_CHARS = "[a-z0-9]"
_BASE64_CHARS = "[a-z0-9+/=]"
_MARKS = r"*`~\\"
_LINE_END = rf"[\r\n]{{1,2}}+[ \t>]{{0,4}}+[{_MARKS}]{{0,3}}+"
BREAK = rf"(?:[{_MARKS}]{{1,3}}+(?:{_LINE_END})?+|{_LINE_END})"
"""What may split a secret: a few marks, a line's end with the beginning of the next line, or both."""
EMPHASIS = r"(?:\*\*|\*\Z|~~|~\Z|`)"
"""What may split a number: a single mark may be a sign of arithmetic, and numbers stand below one another."""
_SPLIT = re.compile(rf"[{_MARKS}\r\n]")


@dataclass(frozen=True, slots=True)
class SecretPattern:
    """A secret's form in folded text. `tail` is the class of what belongs to it beyond `steps`, however long.

    `not_after` is a class that may not stand before it, `before` what must follow. The last step has one length unless
    `before` says where it ends: else the outcome would hang on the chunks. `splits` is what may stand between its
    characters: `BREAK`, `EMPHASIS` or nothing. What stands before the step `SECRET_BEGINS` stays.
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
    """Tell a key from words: it has a digit, or small letters and capitals in turn."""
    return re.search(r"\d", folded) is not None or len(re.findall(r"[a-z][A-Z]", raw)) >= 2


def _looks_random_if_split(folded: str, raw: str) -> bool:
    """Tell a split key from a list of words, one a line."""
    if _SPLIT.search(folded) is None:
        return True
    return len(re.findall(r"[\r\n]++", folded)) <= 1 and _looks_random(folded, raw)


def _looks_like_access_key_id(folded: str, raw: str) -> bool:
    """Tell a split access key id, which has capitals only, from a word ("Asia") above another."""
    return _SPLIT.search(folded) is None or (raw == raw.upper() and _looks_random_if_split(folded, raw + "0"))


def _has_check_digit(folded: str, raw: str) -> bool:
    return passes_luhn(folded)


def _named_secret(label: str, names: Sequence[str], value: CharClassRun, tail: str) -> Iterable[SecretPattern]:
    """Yield shapes of a value that is a secret only beside its name; `?` in a name stands for - or _ or a space."""
    gap = rf"[\s\"':=|>(,{_MARKS}]"
    for number, name in enumerate(names):
        letters = [("[-_ ]", 0, 1) if char == "?" else (re.escape(char), 1, 1) for char in name]
        for word, between in (("", [(gap, 0, 12)]), ("is", [(gap, 1, 4), ("i", 1, 1), ("s", 1, 1), (gap, 1, 8)])):
            steps = (*letters, *between, SECRET_BEGINS, value)
            yield SecretPattern(f"named_{label}_{number}{word}", steps, tail=tail, splits=BREAK, check=_looks_random)


def _private_key_pattern(kind: str) -> SecretPattern:
    # A header alone is no secret, and people write about it: the key's first characters must follow.
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
"""`scheme://user:password@host`, whose user may be empty; templates (`<password>`, `${PASSWORD}`) are none."""


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
"""Keys of the providers, of common services and of this one; signed tokens (JWT, whose first field is alg, typ or kid);
private keys; card numbers (which must also pass `passes_luhn`); passwords in URLs; and the keys of Azure and AWS that
have no form of their own, beside their names only: 32 hexadecimal digits are more often a checksum.
"""


class Patterns:
    """Banned terms, folded already, exact secrets and shapes, compiled; one object serves all answers.

    `search` finds what is there or may yet be; `search_last` is for the end of the text, where nothing more will come.
    At one place the first alternative counts: terms before shapes, so that the outcome hangs on the text alone.
    """

    def __init__(self, terms: Iterable[str], shapes: Sequence[SecretPattern], secrets: Iterable[str] = ()) -> None:
        self.terms = _drop_covered_terms(terms)
        banned = [
            SecretPattern(f"term_{i}", _literal_run(term), not_after="") for i, term in enumerate(sorted(self.terms))
        ]
        everything = [*banned, *_exact_shapes(secrets), *shapes]
        self.tails = {shape.name: Tail(shape.tail, bool(shape.splits)) for shape in everything if shape.tail}
        self.search = re.compile(_build_expression(everything, last=False)).search
        self.search_last = re.compile(_build_expression(everything, last=True)).search
        self._checks = {shape.name: shape.check for shape in everything if shape.check}

    def matched_name(self, match: re.Match[str]) -> str | None:
        """Return the name of what was found whole; None for what may become something."""
        name = match.lastgroup
        return None if name is None or name.endswith(_BEGINS) else name

    def start(self, match: re.Match[str]) -> int:
        """Return where what must go begins in what was found whole."""
        begins = f"{match.lastgroup}{_BEGINS}"
        return match.start(begins) if begins in match.re.groupindex else match.start()

    def is_secret(self, name: str, folded: str, raw: str) -> bool:
        """Tell whether a match is what it looks like; `folded` and `raw` are its text."""
        check = self._checks.get(name)
        return check is None or check(folded, raw)


class Tail:
    """What belongs to a secret beyond its shape: the run of a class, over splits that a key goes on behind."""

    def __init__(self, cls: str, splits: bool) -> None:
        # Behind a line's end a key goes on where a word or a date would not: with digits and letters, or for long.
        digit, letter = (rf"(?=(?:(?!{kind}){cls}){{0,15}}{kind})" for kind in ("[0-9]", "[a-z]"))
        goes_on = rf"(?={cls}{{16}}|(?={cls}{{8}}){digit}{letter})"
        over = rf"|[{_MARKS}]{{1,3}}+(?={cls})|[{_MARKS}]{{0,3}}+{_LINE_END}{goes_on}" if splits else ""
        self._match = re.compile(rf"(?:{cls}++{over})*+").match
        self._may_go_on = re.compile(rf"{BREAK}{cls}{{0,15}}+\Z" if splits else r"(?!)").match

    def end(self, text: str, start: int) -> int:
        """Return where the secret that goes on at `start` ends."""
        found = self._match(text, start)
        return start if found is None else found.end()

    def may_go_on(self, text: str, end: int) -> bool:
        """Tell whether what comes next decides if the secret ends there."""
        return self._may_go_on(text, end) is not None


def _exact_shapes(secrets: Iterable[str]) -> Iterable[SecretPattern]:
    """Yield shapes of the values themselves, and as URLs and base64 write them."""
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
    """Check the last digit of a card number; what is not a digit does not count."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _drop_covered_terms(terms: Iterable[str]) -> frozenset[str]:
    """Drop terms that hold a shorter one: taking that out takes them out too."""
    kept: list[str] = []
    for term in sorted(set(terms), key=len):
        if not any(shorter in term for shorter in kept):
            kept.append(term)
    return frozenset(kept)


@dataclass(frozen=True, slots=True)
class _Rest:
    """What remains of a shape, and the expression that ends it."""

    steps: tuple[CharClassRun, ...]
    ending: str
    joint: str
    """What may stand before each of its characters."""


def _build_expression(shapes: Sequence[SecretPattern], last: bool) -> str:
    """Return a tree of all beginnings, so that a character is compared once for all that share it."""
    end = "" if last else r"\Z"
    trees: dict[tuple[str, str], list[_Rest]] = {}
    for shape in shapes:
        joint = f"{shape.splits}?+" if shape.splits else ""
        # What must follow is known only when something follows.
        not_last = rf"(?!{joint}\Z)" if shape.before and not last else ""
        ending = f"{shape.before}{not_last}(?P<{shape.name}>)"
        begins = (f"(?P<{shape.name}{_BEGINS}>)", 0, 0)
        steps = tuple(begins if step == SECRET_BEGINS else step for step in shape.steps)
        trees.setdefault((steps[0][0], shape.not_after), []).append(_Rest(steps[1:], ending, joint))
    branches = []
    for (first, not_after), rests in trees.items():
        # Looking back after the first character lets the search skip to characters that can begin something.
        boundary = f"(?<!{not_after}{first})" if not_after else ""
        branches.append(first + boundary + _alternation(_build_branches(rests, end)))
    return "|".join(branches) or r"(?!)"


def _build_branches(rests: Sequence[_Rest], end: str) -> list[str]:
    """Return what may follow: ends of shapes, then steps with what follows them, then the end of the text."""
    found = [rest.ending for rest in rests if not rest.steps]
    by_joint: dict[str, dict[CharClassRun, list[_Rest]]] = {}
    for rest in rests:
        if rest.steps:
            # A class that has the marks itself takes them itself.
            joint = "" if _MARKS in rest.steps[0][0] else rest.joint
            following = by_joint.setdefault(joint, {}).setdefault(rest.steps[0], [])
            following.append(_Rest(rest.steps[1:], rest.ending, rest.joint))
    for joint, by_step in by_joint.items():
        branches = [
            branch for step, following in by_step.items() for branch in _step_branches(step, joint, following, end)
        ]
        found.append(joint + _alternation([*branches, end] if end else branches))
    return found


def _step_branches(step: CharClassRun, joint: str, following: Sequence[_Rest], end: str) -> list[str]:
    """Return a step, with all that may follow it, behind its first joint; then its beginning that reaches the end."""
    cls, least, most = step
    after = _alternation(_build_branches(following, end))
    if most == 0 or (least, most) == (1, 1):
        return [cls + after]
    more = f"(?:{joint}{cls})" if joint else cls
    stop = [f"{more}{{0,{most}}}+{joint}{end}"] if end else []
    return [f"{more}{{{least},{most}}}+{after}", *stop]


def _alternation(branches: Sequence[str]) -> str:
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"

"""What must not be in an answer, as one regular expression over folded text that also tells what may still become it.

Each shape is a sequence of (class, least, most). Its expression matches the whole shape, or the beginning of it that
reaches the end of the text (`\\Z` at every step): the part to hold back. Every step is possessive and bounded, so that
a search costs at most a shape's length at each character.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Step = tuple[str, int, int]

TERM_CHARS = 64
"""The longest banned term, folded; no shape of a secret is longer before it is known to be one."""
_RUN = "[a-z0-9_-]"
_WORD = "[a-z0-9]"
_BASE64 = "[a-z0-9+/=]"
_NOT_LAST = r"(?!\Z)"


@dataclass(frozen=True, slots=True)
class Shape:
    """A secret's form in folded text. `tail` is the class of what belongs to it beyond `steps`, however long.

    `not_after` is a class that may not stand before it, `before` what must follow. The last step has one length unless
    `before` says where it ends: else the outcome would hang on the chunks.
    """

    name: str
    steps: tuple[Step, ...]
    tail: str = ""
    not_after: str = _WORD
    before: str = ""


def _literal(text: str) -> tuple[Step, ...]:
    return tuple((re.escape(char), 1, 1) for char in text)


def _token(prefix: str, count: int, run: str = _WORD, tail: str = _RUN) -> Shape:
    name = "token_" + prefix.encode().hex()
    return Shape(name, (*_literal(prefix), (run, count, count)), tail=tail)


def _private_key(kind: str) -> Shape:
    # A header alone is no secret, and people write about it: the key's first characters must follow.
    steps = (*_literal(f"-----begin {kind}private key-----"), (r"[\s\\nr]", 1, 4), (_BASE64, 16, 16))
    return Shape("pem_" + kind.strip(), steps, tail=r"[a-z0-9+/=\s\\]", not_after="")


def _cards() -> Iterable[Shape]:
    digit, gap = "[0-9]", ("[ -]", 1, 1)
    groups = {"four": (3, 4, 4, 4), "amex": (3, 6, 5)}
    for first in ("2[2-7]", "3", "4", "5", "6"):
        lead = [(first[0], 1, 1), *([(first[1:], 1, 1)] if first[1:] else [])]
        lacking = 2 - len(lead)
        yield Shape(f"card_{first[0]}", (*lead, (digit, 11 + lacking, 17 + lacking)), "", digit, "(?![0-9])")
        for name, sizes in groups.items():
            if name == "amex" and first != "3":
                continue
            steps = [*lead, (digit, sizes[0] + 1 - len(lead), sizes[0] + 1 - len(lead))]
            for size in sizes[1:]:
                steps += [gap, (digit, size, size)]
            yield Shape(f"card_{name}_{first[0]}", tuple(steps), "", digit, "(?![0-9])")


SECRETS: tuple[Shape, ...] = (
    _token("sk-", 20),
    *(_token(f"sk-{kind}-", 20, _RUN) for kind in ("ant", "proj", "or", "svcacct", "admin", "live", "test")),
    *(_token(prefix, 16) for prefix in ("akia", "asia", "sk_live_", "rk_live_", "sk_test_", "whsec_")),
    *(_token(f"gh{kind}_", 36) for kind in "pousr"),
    _token("github_pat_", 22, "[a-z0-9_]"),
    _token("glpat-", 20, _RUN),
    _token("aiza", 35, _RUN),
    *(_token(f"xox{kind}-", 10, "[a-z0-9-]") for kind in "abposr"),
    _token("xapp-", 20, "[a-z0-9-]"),
    _token("hf_", 30),
    _token("gsk_", 40),
    _token("xai-", 40),
    _token("sg-", 43, _RUN),
    _token("npm_", 36),
    _token("pypi-", 40, _RUN),
    *(_token(head, 10, _RUN, tail="[a-z0-9_.-]") for head in ("eyjhbgcioi", "eyj0exaioi", "eyjrawqioi")),
    *(_private_key(kind) for kind in ("", "rsa ", "ec ", "dsa ", "openssh ", "encrypted ")),
    *_cards(),
)
"""Keys of the providers, of common services and of this one; signed tokens (JWT, whose first field is alg, typ or kid);
private keys; and card numbers (which must also pass `luhn`).
"""


class Patterns:
    """Banned terms, folded already, and shapes, compiled; one object serves all answers.

    `search` finds what is there or may yet be; `search_last` is for the end of the text, where nothing more will come.
    At one place the first alternative counts: terms before shapes, so that the outcome hangs on the text alone.
    """

    def __init__(self, terms: Iterable[str], shapes: Sequence[Shape]) -> None:
        self.terms = _without_those_inside(terms)
        self.tails = {shape.name: re.compile(f"{shape.tail}*") for shape in shapes if shape.tail}
        self.search = re.compile(_expression(self.terms, shapes, last=False)).search
        self.search_last = re.compile(_expression(self.terms, shapes, last=True)).search

    def found(self, match: re.Match[str]) -> str | None:
        """Give the name of what was found whole; None for what may become something."""
        return match.lastgroup or ("term" if match[0] in self.terms else None)


def luhn(text: str) -> bool:
    """Check the last digit of a card number; what is not a digit does not count."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _without_those_inside(terms: Iterable[str]) -> frozenset[str]:
    """Drop terms that hold a shorter one: taking that out takes them out too."""
    kept: list[str] = []
    for term in sorted(set(terms), key=len):
        if not any(shorter in term for shorter in kept):
            kept.append(term)
    return frozenset(kept)


_Item = tuple[tuple[Step, ...], str]
"""What remains of a shape, and the expression that ends it."""


def _expression(terms: frozenset[str], shapes: Sequence[Shape], last: bool) -> str:
    """Give a tree of all beginnings, so that a character is compared once for all that share it."""
    end = () if last else (r"\Z",)
    trees: dict[tuple[str, str], list[_Item]] = {}
    for term in sorted(terms):
        trees.setdefault((re.escape(term[0]), ""), []).append((_literal(term[1:]), ""))
    for shape in shapes:
        ending = f"{shape.before if last or not shape.before else shape.before + _NOT_LAST}(?P<{shape.name}>)"
        trees.setdefault((shape.steps[0][0], shape.not_after), []).append((shape.steps[1:], ending))
    branches = []
    for (first, not_after), items in trees.items():
        # Looking back after the first character lets the search skip to characters that can begin something.
        boundary = f"(?<!{not_after}{first})" if not_after else ""
        branches.append(first + boundary + _either([*_branches(items, end), *end]))
    return "|".join(branches) or r"(?!)"


def _branches(items: Sequence[_Item], end: tuple[str, ...]) -> list[str]:
    found = [ending for steps, ending in items if not steps]
    by_step: dict[Step, list[_Item]] = {}
    for steps, ending in items:
        if steps:
            by_step.setdefault(steps[0], []).append((steps[1:], ending))
    for (cls, least, most), rests in by_step.items():
        if most == 1:
            found.append(cls + _either([*_branches(rests, end), *end]))
        else:
            found.append(f"{cls}{{{least},{most}}}+" + _either(_branches(rests, end)))
            found += [f"{cls}{{0,{most}}}+{stop}" for stop in end]
    return found


def _either(branches: Sequence[str]) -> str:
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"

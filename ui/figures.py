"""The stage line, the meter and the receipt as text and HTML. Pure; None is shown as unknown, never as 0."""

from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from html import escape

from streaming.meter import Cost, Reading
from streaming.pipeline import Receipt
from ui import texts
from ui.ledger import Ledger
from ui.questions import Listed


def seconds(value: float | None) -> str:
    """Write a duration: `0.42 s`, `12.3 s`, `2 min 5 s`."""
    if value is None:
        return texts.UNKNOWN
    if value >= 120:
        return f"{int(value) // 60} min {int(value) % 60} s"
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def usd(cost: Cost | None, source: str, no_price: str = texts.UNKNOWN_PRICE) -> str:
    """Format a cost with two significant digits: `≈` where nobody reported the tokens, `≥` for a lower bound."""
    if cost is None:
        return no_price
    is_exact = cost.billed_usd is not None or source == "reported" or cost.total_usd == 0
    about = "≥ " if cost.is_lower_bound else "" if is_exact else "≈ "
    return f"{about}{amount(cost.total_usd)}"


def amount(total_usd: Decimal) -> str:
    """Write an amount with two significant digits at least."""
    if total_usd == 0:
        return "$0"
    digits = 2 if total_usd >= 1 else 1 - total_usd.adjusted()
    return f"${total_usd.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def spent(ledger: Ledger) -> str:
    """Say what the page has cost so far, and what that leaves out."""
    if not ledger.answers:
        return f'<p class="sg-badge">{escape(texts.SPENT_NOTHING)}</p>'
    about = "≈ " if ledger.estimated else ""
    words = texts.SPENT.format(usd=f"{about}{amount(ledger.usd)}", answers=_answers(ledger.answers))
    unknown = texts.SPENT_UNKNOWN.format(count=ledger.unknown) if ledger.unknown else ""
    return f'<p class="sg-badge"><strong>{escape(words)}</strong> {escape(unknown)}</p>'


def _answers(number: int) -> str:
    one, many = texts.ANSWERS
    return one if number == 1 else many.format(count=number)


def count(value: int | None) -> str:
    """Write a number of tokens."""
    return texts.UNKNOWN if value is None else f"{value:,}"


def sentence(text: str) -> str:
    """Write a line as a sentence begins."""
    return text[:1].upper() + text[1:]


def cut(text: str, most_chars: int = 80) -> str:
    """Write the beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most_chars else f"{line[: most_chars - 1]}…"


def speed(tokens_per_s: float | None) -> str:
    """Write a speed, one digit after the point."""
    return texts.UNKNOWN if tokens_per_s is None else f"{tokens_per_s:.1f} tokens/s"


def stage(
    words: str,
    seconds_s: float | None = None,
    extra: str = "",
    *,
    kind: str = "idle",
    left_s: float | None = None,
    badge: str = "",
) -> str:
    """Give the stage line; `kind` is its style: idle, busy, coming, good or bad. The page counts `left_s` down itself.

    Only what is waited for, which is busy, has a sign that moves: where text is coming, the text does.
    """
    parts = [f"<strong>{escape(words)}</strong>"]
    if seconds_s is not None:
        parts.append(f'<span class="sg-clock">{seconds_s:.1f} s</span>')
    if left_s is not None:
        parts.append(f'<span class="sg-clock" data-left-s="{left_s:.0f}">{left_s:.0f} {escape(texts.LEFT)}</span>')
    if extra:
        parts.append(f"<span>{escape(extra)}</span>")
    if badge:
        parts.append(f'<span class="sg-fallback">{escape(badge)}</span>')
    return f'<div class="sg-stage sg-{kind}"><i aria-hidden="true"></i>{" · ".join(parts)}</div>'


def meter(reading: Reading | None, no_price: str = texts.UNKNOWN_PRICE) -> str:
    """Give the row of figures; without a reading all of them are unknown."""
    cells = "".join(
        f'<div><dt>{escape(name)}</dt><dd title="{escape(hint)}">{escape(value)}'
        f" <small>{escape(label)}</small></dd></div>"
        for name, value, label, hint in _cells(reading, no_price)
    )
    return f'<dl class="sg-meter" aria-label="{escape(texts.GAUGE)}">{cells}</dl>'


def _cells(reading: Reading | None, no_price: str) -> Iterator[tuple[str, str, str, str]]:
    """Name, value, label and hint of each figure."""
    usage = reading.usage if reading else None
    source = usage.source if usage else ""
    cost, _, why = (usd(reading.cost, source, no_price) if reading else texts.UNKNOWN).partition(", ")
    yield "First token", seconds(reading.ttft_s if reading else None), "", "from asking to the first piece of any kind"
    rate, _, unit = speed(reading.tokens_per_s if reading else None).partition(" ")
    yield "Speed", rate, unit, "over the answer after its first piece"
    yield "Tokens in", count(usage.input_tokens if usage else None), source, _TOKENS
    yield "Tokens out", count(usage.output_tokens if usage else None), source, _TOKENS
    yield "Cost", cost, why, _price(reading.cost if reading else None)
    yield "Elapsed", seconds(reading.elapsed_s if reading else None), "", "since the question was sent"


_TOKENS = "reported by the provider, counted with the model's encoding, or estimated at 4 characters a token"


def _price(cost: Cost | None) -> str:
    if cost is None:
        return ""
    if cost.billed_usd is not None:
        return "billed by the provider"
    return f"prices: {cost.price_source}" + (f", {cost.price_date}" if cost.price_date else "")


def ending(receipt: Receipt) -> str:
    """Say in a few words how the answer ended; only a plain end is called complete."""
    if receipt.outcome in ("completed", "failed") and receipt.finish_reason in texts.ENDINGS:
        return texts.ENDINGS[receipt.finish_reason]
    return texts.OUTCOMES[receipt.outcome]


def whole(receipt: Receipt) -> bool:
    """Whether the reader has all that the model had to say."""
    return receipt.outcome == "completed" and receipt.finish_reason == "stop"


def headline(receipt: Receipt, no_price: str = texts.UNKNOWN_PRICE) -> str:
    """The receipt in one line."""
    reading = receipt.reading
    tokens = f"{count(reading.usage.output_tokens)} tokens {reading.usage.source}"
    cost = usd(reading.cost, reading.usage.source, no_price)
    parts = [ending(receipt), f"{receipt.delivered_chars:,} characters", tokens, seconds(reading.elapsed_s), cost]
    return " · ".join(parts)


def details(receipt: Receipt, no_price: str = texts.UNKNOWN_PRICE) -> str:
    """The receipt in full, as a Markdown table, the error above it."""
    rows = "\n".join(f"| {plain(name)} | {plain(value)} |" for name, value in _rows(receipt, no_price))
    return f"{problem(receipt)}\n\n| Receipt | |\n|---|---|\n{rows}".lstrip()


def problem(receipt: Receipt) -> str:
    """What went wrong and what stands nevertheless; empty after a whole answer."""
    if whole(receipt):
        return ""
    kept = texts.KEPT if receipt.delivered_chars else texts.NOTHING_KEPT
    if receipt.error is None:
        return kept
    return f"**{plain(sentence(receipt.error.message.strip().rstrip('.')))}.** {kept}"


def _rows(receipt: Receipt, no_price: str) -> Iterator[tuple[str, str]]:
    reading = receipt.reading
    usage = reading.usage
    yield "Outcome", ending(receipt)
    yield "Served by", receipt.served_by
    if receipt.fell_back_to:
        yield "Fell back to", receipt.fell_back_to
    if receipt.attempts > 1:
        yield "Attempts", str(receipt.attempts)
    yield "Delivered", f"{receipt.delivered_chars:,} characters"
    yield "Tokens in", f"{count(usage.input_tokens)} ({usage.source})"
    yield "Tokens out", f"{count(usage.output_tokens)} ({usage.source})"
    if usage.thinking_tokens:
        yield "of these, thinking", f"{usage.thinking_tokens:,}"
    if usage.cached_tokens:
        yield "of the input, cached", f"{usage.cached_tokens:,}"
    yield "First token after", seconds(reading.ttft_s)
    yield "Speed after it", speed(reading.tokens_per_s)
    yield "Elapsed", seconds(reading.elapsed_s)
    if receipt.stop_s is not None:
        yield "Provider stopped within", seconds(receipt.stop_s)
    yield "Cost", no_price if reading.cost is None else f"{usd(reading.cost, usage.source)} ({_price(reading.cost)})"
    if receipt.error is not None and receipt.error.http_status is not None:
        yield "HTTP status", str(receipt.error.http_status)


_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|!#~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " "})


def plain(text: str) -> str:
    """Keep a provider's words from being read as Markdown or HTML."""
    return text.translate(_MARKDOWN)


def badge(row: Listed | None, *, own_key: bool = False) -> str:
    """Say whether a provider can be asked."""
    if row is None:
        return ""
    if row.simulated:
        return f'<p class="sg-badge sg-simulated">{escape(texts.SIMULATED)}</p>'
    if not row.ready:
        return badge_problem(texts.NEEDS.format(needs=row.needs))
    words = texts.KEY_TAKEN if own_key else texts.READY
    return badge_good(f"{words} · {row.name}")


def badge_good(words: str) -> str:
    """Say that something is as it should be."""
    return f'<p class="sg-badge sg-ready">{escape(words)}</p>'


def badge_problem(words: str) -> str:
    """Say what is wrong, beside what it is wrong with."""
    return f'<p class="sg-badge sg-needs" role="alert">{escape(words)}</p>'

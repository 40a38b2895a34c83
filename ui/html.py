"""Rendering of the stage line, the meter and the receipt as text and HTML. None is shown as unknown, never as 0."""

from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from html import escape

from providers.models.source import ProviderRow
from streaming.meter import Cost, MeterReading
from streaming.pipeline import Receipt
from ui import strings
from ui.page_sessions.service_checks import ServiceCheck
from ui.page_sessions.spending import PageSpending


def format_seconds(value: float | None) -> str:
    """Format a duration: `0.42 s`, `12.3 s`, `2 min 5 s`."""
    if value is None:
        return strings.UNKNOWN
    if value >= 120:
        return f"{int(value) // 60} min {int(value) % 60} s"
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def format_clock(value: float) -> str:
    """Format a running time with one decimal: `2.1 s`, `2 min 5 s`."""
    return format_seconds(value) if value >= 10 else f"{value:.1f} s"


def format_delay(mean_s: float | None, max_s: float | None) -> str:
    """Format a delay by its mean and its maximum in milliseconds: `71, 129 ms`."""
    if mean_s is None or max_s is None:
        return strings.UNKNOWN
    return strings.DELAY_MEAN_MAX.format(mean_ms=1000 * mean_s, max_ms=1000 * max_s)


def format_cost(cost: Cost | None, source: str, no_price: str = strings.UNKNOWN_PRICE) -> str:
    """Format a cost with two significant digits: `≈` if the token counts are not reported, `≥` for a lower bound."""
    if cost is None:
        return no_price
    is_exact = cost.billed_usd is not None or source == "reported" or cost.total_usd == 0
    about = "≥ " if cost.is_lower_bound else "" if is_exact else "≈ "
    return f"{about}{format_usd(cost.total_usd)}"


def format_usd(total_usd: Decimal) -> str:
    """Format an amount in USD with at least two significant digits."""
    if total_usd == 0:
        return "$0"
    digits = 2 if total_usd >= 1 else 1 - total_usd.adjusted()
    return f"${total_usd.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def spending_html(spending: PageSpending) -> str:
    """Render the page's cost so far, and the number of answers of unknown price that it excludes."""
    if not spending.answers:
        return f'<p class="sg-badge">{escape(strings.SPENT_NOTHING)}</p>'
    about = "≈ " if spending.estimated else ""
    words = strings.SPENT.format(
        usd=f"{about}{format_usd(spending.usd)}", answers=format_number(spending.answers, strings.ANSWERS)
    )
    unknown = strings.SPENT_UNKNOWN.format(count=spending.unknown) if spending.unknown else ""
    return f'<p class="sg-badge"><strong>{escape(words)}</strong> {escape(unknown)}</p>'


def format_number(number: int, words: tuple[str, str]) -> str:
    """Format a number of things by their words in singular and plural."""
    one, many = words
    return one if number == 1 else many.format(count=number)


def format_count(value: int | None) -> str:
    """Format a number of tokens."""
    return strings.UNKNOWN if value is None else f"{value:,}"


def capitalize_first(text: str) -> str:
    """Return the text with its first letter in upper case, unless it begins with the name of a model."""
    return text if ":" in text.partition(" ")[0].rstrip(":") else text[:1].upper() + text[1:]


def truncate(text: str, most_chars: int = 80) -> str:
    """Return the text on one line, cut to `most_chars` characters with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= most_chars else f"{line[: most_chars - 1]}…"


def format_speed(tokens_per_s: float | None) -> str:
    """Format a speed in tokens/s with one decimal."""
    return strings.UNKNOWN if tokens_per_s is None else f"{tokens_per_s:.1f} tokens/s"


def stage_html(
    words: str,
    seconds_s: float | None = None,
    extra: str = "",
    *,
    kind: str = "idle",
    left_s: float | None = None,
    badge: str = "",
) -> str:
    """Render the stage line. `kind` is its style: idle, busy, coming, good or bad.

    The browser counts `left_s` down. Only the busy style is animated: while text arrives, the text itself moves.
    """
    parts = [f"<strong>{escape(words)}</strong>"]
    if seconds_s is not None:
        parts.append(f'<span class="sg-clock">{seconds_s:.1f} s</span>')
    if left_s is not None:
        parts.append(f'<span class="sg-clock" data-left-s="{left_s:.0f}">{left_s:.0f} {escape(strings.LEFT)}</span>')
    if extra:
        parts.append(f"<span>{escape(extra)}</span>")
    if badge:
        parts.append(f'<span class="sg-fallback">{escape(badge)}</span>')
    return f'<div class="sg-stage sg-{kind}"><i aria-hidden="true"></i>{" · ".join(parts)}</div>'


def meter_html(reading: MeterReading | None, no_price: str = strings.UNKNOWN_PRICE) -> str:
    """Render the row of metrics; without a reading all of them are unknown."""
    cells = "".join(
        f'<div><dt>{escape(name)}</dt><dd title="{escape(hint)}">{escape(value)}'
        f" <small>{escape(label)}</small></dd></div>"
        for name, value, label, hint in meter_cells(reading, no_price)
    )
    return f'<dl class="sg-meter" aria-label="{escape(strings.METER)}">{cells}</dl>'


def meter_cells(reading: MeterReading | None, no_price: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, value, label and hint of each metric."""
    usage = reading.usage if reading else None
    source = usage.source if usage else ""
    cost, _, why = (format_cost(reading.cost, source, no_price) if reading else strings.UNKNOWN).partition(", ")
    yield strings.TTFT, format_seconds(reading.ttft_s if reading else None), "", strings.TTFT_HINT
    rate = strings.UNKNOWN if reading is None or reading.tokens_per_s is None else f"{reading.tokens_per_s:.1f}"
    yield strings.SPEED, rate, "", strings.SPEED_HINT
    yield strings.INPUT_TOKENS, format_count(usage.input_tokens if usage else None), source, strings.TOKENS_HINT
    yield strings.OUTPUT_TOKENS, format_count(usage.output_tokens if usage else None), source, strings.TOKENS_HINT
    yield strings.COST, cost, why, _price_note(reading.cost if reading else None)
    elapsed = format_seconds(reading.elapsed_s if reading else None)
    yield strings.TOTAL_TIME, elapsed, "", strings.TOTAL_TIME_HINT


def _price_note(cost: Cost | None) -> str:
    if cost is None:
        return ""
    if cost.billed_usd is not None:
        return "billed by the provider"
    return f"prices: {cost.price_source}" + (f", {cost.price_date}" if cost.price_date else "")


def outcome_label(receipt: Receipt) -> str:
    """Return a short label for the outcome of an answer; only a normal stop is labelled complete."""
    if receipt.outcome in ("completed", "failed") and receipt.finish_reason in strings.ENDINGS:
        return strings.ENDINGS[receipt.finish_reason]
    return strings.OUTCOMES[receipt.outcome]


def is_complete(receipt: Receipt) -> bool:
    """Return whether the answer completed with finish reason `stop`, so that nothing is missing."""
    return receipt.outcome == "completed" and receipt.finish_reason == "stop"


def receipt_headline(receipt: Receipt, model: str = "") -> str:
    """Format the receipt as one line: the outcome of an incomplete answer, the model, TTFT, tokens/s and tokens."""
    reading = receipt.reading
    tokens = reading.usage.output_tokens
    parts = [
        "" if is_complete(receipt) else outcome_label(receipt),
        model,
        f"{strings.TTFT} {format_seconds(reading.ttft_s)}" if reading.ttft_s is not None else "",
        format_speed(reading.tokens_per_s) if reading.tokens_per_s is not None else "",
        f"{format_count(tokens)} {strings.TOKENS}" if tokens is not None else "",
    ]
    return " · ".join(part for part in parts if part)


def receipt_markdown(receipt: Receipt, no_price: str = strings.UNKNOWN_PRICE) -> str:
    """Format the full receipt as a Markdown table below its error."""
    rows = "\n".join(
        f"| {escape_markdown(name)} | {escape_markdown(value)} |" for name, value in _receipt_rows(receipt, no_price)
    )
    return f"{failure_text(receipt)}\n\n| Receipt | |\n|---|---|\n{rows}".lstrip()


def failure_text(receipt: Receipt) -> str:
    """Describe the error and what text is kept, as Markdown; empty for a complete answer."""
    if is_complete(receipt):
        return ""
    kept = strings.KEPT if receipt.delivered_chars else strings.NOTHING_KEPT
    if receipt.error is None:
        return kept
    return f"**{escape_markdown(capitalize_first(receipt.error.message.strip().rstrip('.')))}.** {kept}"


def _receipt_rows(receipt: Receipt, no_price: str) -> Iterator[tuple[str, str]]:
    reading = receipt.reading
    usage = reading.usage
    yield "Served by", receipt.served_by
    if receipt.fell_back_to:
        yield "Fell back to", receipt.fell_back_to
    if receipt.attempts > 1:
        yield "Attempts", str(receipt.attempts)
    yield "Delivered", f"{receipt.delivered_chars:,} characters"
    yield strings.INPUT_TOKENS, f"{format_count(usage.input_tokens)} ({usage.source})"
    if usage.cached_tokens:
        yield "Of these, cached", f"{usage.cached_tokens:,}"
    yield strings.OUTPUT_TOKENS, f"{format_count(usage.output_tokens)} ({usage.source})"
    if usage.thinking_tokens:
        yield "Of these, thinking", f"{usage.thinking_tokens:,}"
    yield strings.TTFT, format_seconds(reading.ttft_s)
    yield strings.SPEED, strings.UNKNOWN if reading.tokens_per_s is None else f"{reading.tokens_per_s:.1f}"
    yield strings.TOTAL_TIME, format_seconds(reading.elapsed_s)
    if receipt.stop_s is not None:
        yield "Provider stopped within", format_seconds(receipt.stop_s)
    yield (
        strings.COST,
        no_price
        if reading.cost is None
        else f"{format_cost(reading.cost, usage.source)} ({_price_note(reading.cost)})",
    )
    if receipt.error is not None and receipt.error.http_status is not None:
        yield "HTTP status", str(receipt.error.http_status)


_MARKDOWN_ESCAPES = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_[]|!#~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " "}
)


def escape_markdown(text: str) -> str:
    """Escape text from a provider so that it renders as plain text, not as Markdown or HTML."""
    return text.translate(_MARKDOWN_ESCAPES)


def provider_badge(
    row: ProviderRow | None,
    check: ServiceCheck,
    *,
    own_key: bool = False,
    needs_key: bool = True,
    takes_key: bool = False,
) -> str:
    """Render a badge with the provider's readiness by the latest check of its service; empty without a row.

    `needs_key`: a ready provider of the service has an API key. `takes_key`: users may bring one. The page's script
    reads the default model from the badge.
    """
    if row is None:
        return ""
    badge = _readiness_badge(row, check, own_key=own_key, needs_key=needs_key, takes_key=takes_key)
    return f'<span data-model="{escape(row.model)}">{badge}</span>'


def _readiness_badge(row: ProviderRow, check: ServiceCheck, *, own_key: bool, needs_key: bool, takes_key: bool) -> str:
    if row.simulated:
        return f'<p class="sg-badge sg-simulated">{escape(strings.SIMULATED)}</p>'
    if not row.ready:
        return error_badge((strings.KEY_NEEDED if takes_key else strings.NOT_SET_UP).format(label=row.label))
    own = f"{strings.KEY_TAKEN} " if own_key else ""
    if check.reached is False:
        return error_badge(own + truncate(check.problem, _MAX_PROBLEM_CHARS))
    if check.reached:
        return success_badge(f"{own}{strings.READY}")
    words = own.strip() or (strings.UNCHECKED if needs_key else strings.UNCHECKED_NO_KEY)
    return unchecked_badge(words)


_MAX_PROBLEM_CHARS = 200


def unchecked_badge(words: str) -> str:
    """Render a badge for a state that is not known."""
    return f'<p class="sg-badge">{escape(words)}</p>'


def success_badge(words: str) -> str:
    """Render a badge for a successful state."""
    return f'<p class="sg-badge sg-ready">{escape(words)}</p>'


def error_badge(words: str) -> str:
    """Render an error badge, which screen readers announce, to place beside its control."""
    return f'<p class="sg-badge sg-needs" role="alert">{escape(words)}</p>'

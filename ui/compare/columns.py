"""Rendering of a column of the comparison: its heading, stage line, metrics and messages. No I/O."""

from collections.abc import Iterator
from html import escape
from typing import Any

from streaming.escaping import to_line
from ui import html, strings
from ui.answer_view import AnswerView
from ui.compare import results
from ui.compare.round import COLUMN_LETTERS, ColumnResult, Round
from ui.history import HistoryMessage, assistant_message, message_title, user_message


def heading_html(this_round: Round | None, index: int) -> str:
    """Render the heading of a column: a button that brings the column into view, and its strategy once revealed."""
    word, letter = strings.ANSWER.format(letter=""), COLUMN_LETTERS[index]
    name = chip = ""
    if this_round is not None and this_round.revealed and index < len(this_round.columns):
        column = this_round.columns[index]
        model, strategy = escape(to_line(column.name)), escape(to_line(column.strategy))
        name = f' <span class="sg-separator">·</span> <bdi title="{model}">{model}</bdi>'
        chip = f'<bdi class="sg-chip" title="{escape(strings.STRATEGY)}: {strategy}">{strategy}</bdi>'
    label = f'<span class="sg-word">{escape(word)}</span>{letter}{name}'
    return f'<h2><button type="button" class="sg-goto" data-column="{index}">{label}</button></h2>{chip}'


def stage_html(column: ColumnResult | None) -> str:
    """Render the stage line of a column; the reason of a failure is among its messages."""
    if column is None or column.view is None:
        return html.stage_html(strings.IDLE if column is None else strings.STAGES["connecting"])
    return column.view.short_stage


def metrics_html(column: ColumnResult | None, *, revealed: bool = False) -> str:
    """Render the live metrics of a column; those of the delivery would tell the strategy of a blind one."""
    cells = "".join(
        f'<div class="{kind}"><dt>{_label_html(name)}</dt><dd title="{escape(hint)}">{escape(value)}</dd></div>'
        for kind, name, value, hint in _metric_cells(column, revealed=revealed)
    )
    return f'<dl class="sg-meter" aria-label="{escape(strings.METER)}">{cells}</dl>'


def _label_html(name: str) -> str:
    """Return a label whose remark in parentheses is left out on a phone."""
    label, bracket, remark = name.partition(" (")
    return escape(label) + (f'<span class="sg-word">{escape(bracket + remark)}</span>' if bracket else "")


def messages(column: ColumnResult, *, revealed: bool) -> list[HistoryMessage]:
    """Return the messages of a column: earlier turns, the prompt, the answer, why it is not whole, a folded receipt."""
    shown = [message for turn in column.earlier for message in turn.messages()]
    shown.append(user_message(column.question.text))
    if column.view is not None:
        shown += [message for message in column.view.messages() if message_title(message) != strings.NOT_SENT]
        reason = _reason(column.view, revealed=revealed)
        if reason:
            at = len(shown) - 1 if column.view.receipt is not None and revealed else len(shown)
            shown.insert(at, assistant_message(reason))
    return [_fold(message) for message in shown]


def _reason(view: AnswerView, *, revealed: bool) -> str:
    """Return why the answer is not whole, as Markdown; empty where the stage line says it all."""
    receipt = view.receipt
    if receipt is not None and receipt.error is None and (view.answer_chars or receipt.outcome == "cancelled"):
        return ""
    return view.reason if revealed or not view.reason else strings.HIDDEN_REASON


def _fold(message: HistoryMessage) -> HistoryMessage:
    """Return the message closed if it is a receipt, which Gradio opens unless it is done."""
    metadata: dict[str, Any] = message.get("metadata") or {}
    is_open = metadata.get("title") and metadata.get("status") is None
    return {**message, "metadata": {**metadata, "status": "done"}} if is_open else message


def _metric_cells(column: ColumnResult | None, *, revealed: bool) -> Iterator[tuple[str, str, str, str]]:
    """Yield class, name, value and hint of each metric."""
    reading = column.view.reading if column and column.view else None
    yield "", strings.TTFT, html.format_seconds(reading.ttft_s if reading else None), strings.TTFT_HINT
    rate = reading.tokens_per_s if reading else None
    yield "", strings.SPEED, strings.UNKNOWN if rate is None else f"{rate:.1f}", strings.SPEED_HINT
    if column is None or revealed:
        count = len(column.updates.at_s) if column else 0
        yield "sg-delivery", strings.UI_UPDATES, f"{count:,}" if count else strings.UNKNOWN, strings.UI_UPDATES_HINT
        delay = results.delay_text(column) if column else strings.UNKNOWN
        yield "sg-delivery", strings.ADDED_DELAY, delay, strings.ADDED_DELAY_HINT

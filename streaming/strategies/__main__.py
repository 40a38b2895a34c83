"""Rewrite the strategies' table in the guide from the registry: `python -m streaming.strategies`."""

from pathlib import Path

from streaming.strategies.registry import render_table

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "delivery.md"
START = (
    "<!-- Generated from the registry by `python -m streaming.strategies`; edit `streaming/strategies/registry.py`. -->"
)
END = "<!-- End of the generated table. -->"


def render_page(text: str) -> str:
    """Return the page's text with the table between its marks as the registry has it."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{render_table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(render_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

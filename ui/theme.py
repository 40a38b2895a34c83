"""The page's theme: colours and fonts as a Gradio theme, the rest in style sheets. Nothing comes from other hosts."""

from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors, sizes

STATIC = Path(__file__).parent / "static"
CSS = tuple(STATIC / f"{name}.css" for name in ("page", "answers", "chat", "history", "compare", "pipeline", "results"))
"""The style sheets: what the tabs share, what answers share, and one for each tab."""
SCRIPTS = tuple(STATIC / f"{name}.js" for name in ("page", "address", "drawer", "versions"))
"""The scripts, each a function that runs once when the page has loaded, in this order."""
EARLY_SCRIPTS = tuple(STATIC / f"{name}.js" for name in ("branches", "history", "conversation"))
"""Run in this order before the page is rendered, whose first events use them."""

CJK_FONTS = ("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Noto Sans CJK SC")
SANS_FONT = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "Noto Sans",
    *CJK_FONTS,
    "sans-serif",
)
MONO_FONT = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

TEAL = colors.Color(
    "#eefbf8",
    "#d3f4ec",
    "#a9e8da",
    "#74d4c2",
    "#3fb8a5",
    "#1f9c8a",
    "#0f7c6f",
    "#0d645b",
    "#0e504a",
    "#0f423e",
    "#042725",
    name="teal",
)


THEME_OVERRIDES = {
    "body_background_fill": "*neutral_50",
    "body_background_fill_dark": "#0d1317",
    "body_text_color": "#16232b",
    "body_text_color_dark": "#e4ebef",
    "body_text_color_subdued": "#51626d",
    "body_text_color_subdued_dark": "#9db0bb",
    "background_fill_primary": "#ffffff",
    "background_fill_primary_dark": "#141c21",
    "background_fill_secondary": "*neutral_50",
    "background_fill_secondary_dark": "#0d1317",
    "block_background_fill": "#ffffff",
    "block_background_fill_dark": "#141c21",
    "block_border_color": "#dbe3e8",
    "block_border_color_dark": "#26333b",
    "border_color_primary": "#dbe3e8",
    "border_color_primary_dark": "#26333b",
    "block_label_text_color": "*body_text_color_subdued",
    "block_title_text_weight": "600",
    "block_shadow": "none",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "#10181c",
    "input_placeholder_color": "#5b6b76",
    "input_placeholder_color_dark": "#8fa1ac",
    "input_border_width": "1px",
    "input_border_color": "#c6d1d8",
    "input_border_color_dark": "#33434d",
    "input_border_color_focus": "*primary_500",
    "input_border_color_focus_dark": "*primary_400",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover_dark": "*primary_700",
    "button_primary_text_color": "#ffffff",
    "button_cancel_background_fill": "#b3261e",
    "button_cancel_background_fill_hover": "#93201a",
    "button_cancel_background_fill_dark": "#c0392f",
    "button_cancel_background_fill_hover_dark": "#a93128",
    "button_cancel_text_color": "#ffffff",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
    "color_accent_soft": "*primary_50",
    "color_accent_soft_dark": "#123330",
}
"""Overrides of Gradio's base theme, by variable name."""


def script() -> str:
    """Return all scripts as one function."""
    calls = "".join(f"({path.read_text(encoding='utf-8').strip()})();\n" for path in SCRIPTS)
    return f"() => {{\n{calls}}}"


def head_scripts() -> str:
    """Return the elements of the scripts that run before the page is rendered."""
    return "".join(f"<script>{path.read_text(encoding='utf-8')}</script>" for path in EARLY_SCRIPTS)


def theme() -> gr.themes.Base:
    """Return the page's theme: greys, one accent colour and the system fonts."""
    base = gr.themes.Base(
        primary_hue=TEAL,
        secondary_hue=TEAL,
        neutral_hue=colors.slate,
        radius_size=sizes.radius_lg,
        font=SANS_FONT,
        font_mono=MONO_FONT,
    )
    return base.set(**THEME_OVERRIDES)

"""The guide's measured figures of the delivery strategies, as the pipeline tab shows them."""

import re
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "delivery.md"
_SECTION = re.compile(
    r"^<!-- The page shows this section in its Pipeline tab\. -->$(.*?)^<!-- End of the section\. -->$", re.S | re.M
)


def read_guide_section(guide: Path = GUIDE) -> str:
    """Return the section as Markdown; empty where the service runs without its documentation."""
    try:
        found = _SECTION.search(guide.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    return found[1].strip() if found else ""

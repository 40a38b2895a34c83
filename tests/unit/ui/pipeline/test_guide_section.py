"""Tests of the guide's section on the pipeline tab."""

from pathlib import Path

from streaming import strategies
from ui.pipeline.guide_section import read_guide_section


def test_section_has_the_figures_of_every_strategy() -> None:
    section = read_guide_section()
    assert all(f"| `{name}" in section for name in strategies.STRATEGIES)
    assert "painted" in section and "<!--" not in section


def test_section_of_a_service_without_its_documentation_is_empty(tmp_path: Path) -> None:
    assert read_guide_section(tmp_path / "delivery.md") == ""

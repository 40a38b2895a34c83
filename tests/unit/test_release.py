"""The version is defined in one place."""

import re
import tomllib
from pathlib import Path

import pytest

import build_backend
from server.app import VERSION

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_changelog_starts_with_current_version() -> None:
    headings = re.findall(r"^## \[(.+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == VERSION and headings[-1] == "0.1.0"
    assert "version" not in PROJECT["project"]


@pytest.mark.parametrize("hook", ["build_wheel", "build_sdist", "build_editable"])
def test_build_of_package_ends_with_clear_error(hook: str) -> None:
    assert PROJECT["build-system"]["build-backend"] == build_backend.__name__
    with pytest.raises(RuntimeError, match=r"no package is offered, because .* `make demo`"):
        getattr(build_backend, hook)("out")


def test_each_package_is_marked_as_typed() -> None:
    packages = {package.parent for package in ROOT.glob("*/__init__.py")} - {ROOT / "tests", ROOT / "benchmarks"}
    assert packages
    assert [package.name for package in packages if not (package / "py.typed").exists()] == []

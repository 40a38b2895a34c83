"""The notebook in docs/: its cells run in order, from the folder of the repository and from docs/, as in Jupyter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "pandas.ipynb"


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("folder", ["", "docs"])
def test_notebook_cells_run(folder: str) -> None:
    cells = code_cells()
    program = "\n".join([f"import sys; sys.path.insert(0, {str(ROOT)!r})", *cells, "assert len(run.trials)"])
    command = [sys.executable, "-W", "error", "-c", program]
    ended = subprocess.run(command, cwd=ROOT / folder, text=True, capture_output=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert len(cells) >= 5


def test_notebook_is_committed_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")

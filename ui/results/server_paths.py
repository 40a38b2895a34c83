"""Paths of this machine in texts for visitors: all but the file's name is replaced by an ellipsis."""

import re
import sys
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from evaluation.tables import Run

_COMMON_ROOTS = frozenset(
    {
        "Applications", "Library", "Users", "Volumes", "app", "bin", "boot", "build", "builds", "code", "content",
        "data", "dev", "etc", "home", "lib", "media", "mnt", "nix", "opt", "private", "proc", "root", "run", "snap",
        "src", "srv", "sys", "tmp", "usr", "var", "work", "workspace", "workspaces",
    }
)  # fmt: skip
"""First parts of absolute paths on usual systems; a path of an API, such as `/v1/models`, begins with none of them."""
_IDS = frozenset({"run_id", "trial_id"})


@lru_cache(maxsize=1)
def _path_pattern() -> re.Pattern[str]:
    own = (Path.cwd(), Path.home(), Path(tempfile.gettempdir()), Path(sys.prefix))
    roots = _COMMON_ROOTS | {path.parts[1] for path in own if len(path.parts) > 1}
    names = "|".join(map(re.escape, sorted(roots)))
    rest = r"[^\s'\"`:;,<>|()\[\]{}]*"
    posix = rf"(?:file:/+|(?<![\w/.…-])/(?!/))(?:{names})(?![\w.-])(?:/{rest})?"
    return re.compile(rf"{posix}|(?:file:/+)?\b[A-Za-z]:[\\/](?![\\/]){rest}")


def hide_server_paths(text: str) -> str:
    """Return the text with each absolute path shortened to `…/NAME`."""
    return _path_pattern().sub(_shorten, text) if "/" in text or "\\" in text else text


def _shorten(match: re.Match[str]) -> str:
    name = re.split(r"[\\/]", match[0].rstrip("/\\"))[-1]
    return f"…/{name}"


def hide_folder(text: str, folder: Path) -> str:
    """Return the text with paths in a folder relative to it, whatever characters its own has, and others shortened."""
    return hide_server_paths(text.replace(f"{folder}/", "").replace(str(folder), folder.name))


def hide_paths_in_run(run: Run) -> Run:
    """Return the run without paths of a machine in the texts of its trials and its manifest."""
    columns = {}
    for name in map(str, run.trials.select_dtypes(["string", "category"])):
        column = run.trials[name]
        if name not in _IDS:
            hidden = {text: hide_server_paths(text) for text in column.dropna().unique()}
            if any(before != after for before, after in hidden.items()):
                columns[name] = column.map(hidden).astype("string")
    return replace(run, trials=run.trials.assign(**columns), manifest=_hide_in_values(run.manifest))


def _hide_in_values(value: Any) -> Any:
    if isinstance(value, str):
        return hide_server_paths(value)
    if isinstance(value, list):
        return [_hide_in_values(entry) for entry in value]
    if isinstance(value, dict):
        return {hide_server_paths(key): _hide_in_values(entry) for key, entry in value.items()}
    return value

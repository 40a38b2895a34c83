"""How good was it: trials through the one pipeline, their measures, tables and report.

`load(folder)` gives a run as DataFrames. It is imported on use, so that `evaluation.schema` alone stays light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.tables import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from evaluation.tables import load

    return load

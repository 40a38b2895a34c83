"""Evaluation of streamed answers: trials sent through the pipeline, their metrics, tables and report.

`load(folder)` returns a run as DataFrames. It is imported on first use, so that importing only `evaluation.schema`
does not import pandas. Nothing is imported here, since this is the first of a command line: see `evaluation.entry`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evaluation.analysis.loading import load

__all__ = ["load"]


def __getattr__(name: str) -> object:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from evaluation.analysis.loading import load

    return load

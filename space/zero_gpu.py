"""The start of the page on a ZeroGPU Space, reported by `spaces`' own client.

ZeroGPU lends its GPU to functions that `spaces.GPU` decorates, and keeps a Space in the state "starting" until `spaces`
has reported at least one of them. The models here compute on the CPU, so the function that is registered does nothing.
`spaces` sends its report from a hook on Gradio's `launch()`, which a mounted page never calls: its startup function is
called directly instead. Only `app.py` imports this module, and only on ZeroGPU: `spaces` is not installed elsewhere.
"""

from streaming.errors import UsageError


def use_no_gpu() -> None:
    """Do nothing, as the function that ZeroGPU requires. `spaces.GPU` rejects coroutine functions: this is none."""


def report_start() -> None:
    """Register `use_no_gpu` with ZeroGPU and report the start. Blocks for one request, or for 3 s while it gets 404.

    Raises UsageError when `spaces` is not installed, or when ZeroGPU does not accept the report.
    """
    try:
        import spaces
        from spaces.zero import startup
    except ImportError as error:
        raise UsageError(
            f"SPACES_ZERO_GPU: {error} (ZeroGPU needs the package spaces, which a Gradio Space installs)"
        ) from None
    spaces.GPU(use_no_gpu)
    try:
        startup()
    except Exception as error:  # a refusal, a wrong address and a lost connection differ by class, not by remedy
        raise UsageError(
            f"ZeroGPU: the start could not be reported: {type(error).__name__}: {error} (restart the Space)"
        ) from None

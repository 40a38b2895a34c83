"""Keeps the garbage collector out of a measurement.

A full collection walks through all that the imports left, which takes tens of milliseconds with an SDK or two, and
nothing is read meanwhile. What is frozen is not walked through again.
"""

import gc


def settle() -> None:
    """Freeze what is there; call it when the providers are imported and before anything is measured."""
    gc.collect()
    gc.freeze()

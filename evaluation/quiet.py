"""Keeps the garbage collector out of a measurement.

A full collection walks through all that the imports left and all answers under way, which takes tens of milliseconds,
and nothing is read meanwhile. What is frozen is not walked through again; what an answer leaves goes by itself, so that
full collections may be rare.
"""

import gc

_FULL_EVERY = 1000
"""Collections of the middle generation to one of all: some millions of chunks."""
_USUAL = gc.get_threshold()


def settle() -> None:
    """Freeze what is there; call it when the providers are imported and before anything is measured."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_USUAL[:2], _FULL_EVERY)


def resume() -> None:
    """Have the collector as it was."""
    gc.set_threshold(*_USUAL)
    gc.unfreeze()

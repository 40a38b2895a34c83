import gc
import weakref

import pytest

from streaming.garbage import without_garbage_collection


class Node:
    """An object that refers to itself, which only the collector can free."""

    def __init__(self) -> None:
        self.itself = self


def make_broken_application() -> None:
    assert not gc.isenabled()
    raise KeyError


def test_collection_is_paused_within_and_goes_on_after_an_error() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), without_garbage_collection():
        make_broken_application()
    assert gc.isenabled()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with without_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_made_within_is_not_collected_later() -> None:
    with without_garbage_collection():
        kept = weakref.ref(Node())
    collected = weakref.ref(Node())
    gc.collect()
    assert kept() is not None and collected() is None

"""One real model for all integration tests: loading it takes seconds, and most services need none."""

from collections.abc import Iterator

import pytest

from providers.local.model import LocalModel
from settings import Settings


@pytest.fixture(scope="package", autouse=True)
def services_without_model() -> Iterator[None]:
    """Let services load the local model with the first request for it: loading takes as long as the rest of a start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRELOAD_MODEL", "off")
        yield


@pytest.fixture(scope="session")
def local_model() -> Iterator[LocalModel]:
    """Yield the packaged model, loaded at the first use and closed after the last test."""
    model = LocalModel(Settings())
    yield model
    model.close()

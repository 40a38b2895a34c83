"""One real model for all integration tests: loading it takes seconds."""

from collections.abc import Iterator

import pytest

from providers.local.model import LocalModel
from settings import Settings


@pytest.fixture(scope="session")
def local_model() -> Iterator[LocalModel]:
    """Yield the packaged model, loaded at the first use and closed after the last test."""
    model = LocalModel(Settings())
    yield model
    model.close()

"""Fixtures and settings for all tiers."""

import gc
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

NPM_S = 300.0

# No deadline: machines are shared, and how long an example takes says nothing about the law it checks.
settings.register_profile("house", deadline=None, max_examples=40)
settings.load_profile("house")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without garbage collection, and exclude what they import from later collections.

    It lives to the end: collections meanwhile take a third of the time, and each full one during a test would visit it.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def packages(request: pytest.FixtureRequest) -> Path:
    """Install the npm packages of tests/foreign, installed once for each content of its package.json."""
    manifest = (Path(__file__).parent / "foreign" / "package.json").read_bytes()
    npm = shutil.which("npm")
    if npm is None:
        missing = "node and npm are needed for what these tests use of JavaScript: install them"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    assert request.config.cache is not None, "the packages are kept in pytest's cache: leave it on"
    cache = request.config.cache.mkdir("foreign-clients")
    folder = cache / hashlib.sha256(manifest).hexdigest()[:16]
    if not folder.exists():
        # Installed aside and put in place whole: another run of the tests may be doing the same.
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            installed = Path(aside) / "installed"
            installed.mkdir()
            (installed / "package.json").write_bytes(manifest)
            command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
            done = subprocess.run(command, cwd=installed, capture_output=True, text=True, timeout=NPM_S, check=False)
            assert done.returncode == 0, done.stderr
            with suppress(OSError):  # the other run was faster
                installed.rename(folder)
    return folder

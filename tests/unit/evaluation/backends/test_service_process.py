"""The service of a run: its URL, and the error message when it does not start."""

import sys
from pathlib import Path

import pytest

from evaluation.backends.service_process import running_service, start_process, validate_url
from streaming.errors import UsageError


def test_service_url_loses_trailing_slash(tmp_path: Path) -> None:
    with running_service("https://there.example:8443/base/", tmp_path) as service:
        assert (service.url, service.pid) == ("https://there.example:8443/base", None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["", "there", "ftp://there", "http://", "http:// there", "http://me:secret@there"])
def test_invalid_service_url_is_rejected(url: str) -> None:
    with pytest.raises(UsageError, match="write one such as"):
        validate_url(url)


@pytest.mark.parametrize(
    ("code", "words"),
    [("import sys; sys.exit('first\\nthe port is taken')", "the port is taken"), ("", "no error message")],
)
def test_service_start_failure_reports_last_stderr_line(code: str, words: str, tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=f"did not start .{words}"),
        start_process([sys.executable, "-c", code], tmp_path / "l"),
    ):
        pytest.fail("it has no address")

"""The service of a run: its address, and what is said when it does not start."""

import sys
from pathlib import Path

import pytest

from evaluation.service import checked, service, started
from streaming.errors import UsageError


def test_an_address_is_taken_without_its_last_slash(tmp_path: Path) -> None:
    with service("https://there.example:8443/base/", tmp_path) as found:
        assert (found.url, found.pid) == ("https://there.example:8443/base", None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["", "there", "ftp://there", "http://", "http:// there", "http://me:secret@there"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(UsageError, match="write an address such as"):
        checked(url)


@pytest.mark.parametrize(
    ("code", "words"),
    [("import sys; sys.exit('first\\nthe port is taken')", "the port is taken"), ("", "it said nothing")],
)
def test_a_server_that_does_not_start_is_told_with_its_last_words(code: str, words: str, tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=f"did not start: {words}"),
        started([sys.executable, "-c", code], tmp_path / "l"),
    ):
        pytest.fail("it has no address")

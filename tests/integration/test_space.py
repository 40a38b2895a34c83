"""The service as a Space builds it: requirements.txt alone, the model in the Hub's cache, no key."""

import http.client
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from providers.local.model_file import HUB_FILE, HUB_REPO, PACKAGE, PACKAGED_FILE

ROOT = Path(__file__).parents[2]


def preload_model(home: Path) -> None:
    """Copy the packaged model to where `preload_from_hub` stores it."""
    package = find_spec(PACKAGE)
    assert package is not None and package.submodule_search_locations
    model = home / "hub" / f"models--{HUB_REPO.replace('/', '--')}"
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / HUB_FILE).symlink_to(Path(package.submodule_search_locations[0]) / PACKAGED_FILE)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)


@pytest.fixture
def running_space(tmp_path: Path) -> Iterator[str]:
    """Build the Space, start it, and yield its address."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    # Not compiled: what is installed is started once, and most of it never imported.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
    install = [*pip, "install", "--no-compile", "--progress-bar", "off", "--requirement", "requirements.txt"]
    subprocess.run(install, cwd=ROOT, check=True, capture_output=True)
    preload_model(tmp_path / "hf")
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "SPACE_ID": "somebody/streamgauge",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [str(python), "app.py", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "http://" in line, line
            yield line[line.index("http://") :].strip()
        finally:
            process.terminate()


def request_once(host: str, port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"content-type": "application/json"})
    response = connection.getresponse()
    result = response.status, response.read()
    connection.close()
    return result


@pytest.mark.timeout(400)
def test_space_with_preloaded_model_answers_without_key(running_space: str) -> None:
    port = urlsplit(running_space).port
    assert port is not None
    # Only who listens on all addresses is reached by this one, too.
    host = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
    status, page = request_once(host, port, "GET", "/")
    assert status == 200 and b"Streamgauge" in page
    status, body = request_once(
        host, port, "POST", "/api/chat", {"message": "Say hello.", "stream": False, "max_tokens": 8}
    )
    answer = json.loads(body)
    assert status == 200, answer
    assert answer["usage"]["output_tokens"] in range(1, 9)
    assert answer["usage"]["source"] == "reported"

"""The app as Hugging Face builds and starts a Gradio Space: one resolution of packages, the preloaded model, no key."""

import fcntl
import http.client
import json
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from providers.local.model_file import DEFAULT_SOURCE
from space.card import read_card
from space.check import install_arguments

ROOT = Path(__file__).parents[2]
LIST_MODULES = """
import atexit, pathlib, sys
atexit.register(lambda: pathlib.Path(__file__).with_name("modules").write_text("\\n".join(sys.modules)))
"""
CPU_SPACE = {"SYSTEM": "spaces", "SPACE_ID": "somebody/streamgauge"}


def preload_model(home: Path) -> None:
    """Copy the packaged model to where `preload_from_hub` stores it."""
    package = find_spec(DEFAULT_SOURCE.package)
    assert package is not None and package.submodule_search_locations
    model = home / "hub" / f"models--{DEFAULT_SOURCE.hub_repo.replace('/', '--')}"
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / DEFAULT_SOURCE.hub_file).symlink_to(
        Path(package.submodule_search_locations[0]) / DEFAULT_SOURCE.packaged_file
    )
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)


@pytest.fixture(scope="module")
def space_home(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return the folder of `venv` and `hf`, which is made once for all workers of a test run."""
    own = tmp_path_factory.getbasetemp()
    run = own if worker_id == "master" else own.parent
    home, made = run / "space", run / "space" / "made"
    home.mkdir(exist_ok=True)
    with (run / "space.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            install_space(home)
            made.touch()
    return home


def install_space(home: Path) -> None:
    """Install what a Space installs, with the Python that runs the tests, and the model."""
    venv.create(home / "venv", symlinks=True)
    # Not compiled: most of it is never imported, and the first start compiles the rest for the others.
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(home / "venv" / "bin" / "python"),
        "--disable-pip-version-check",
    ]
    line = install_arguments(read_card(ROOT / "README.md").fields["sdk_version"])
    command = [*pip, "install", "--quiet", "--no-compile", "--progress-bar", "off", *line]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    preload_model(home / "hf")


def start_space(home: Path, variables: Mapping[str, str], *options: str) -> "subprocess.Popen[str]":
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPYCACHEPREFIX": str(home / "pycache"),
        **variables,
    }
    command = [str(home / "venv" / "bin" / "python"), "app.py", "--port", "0", *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def running_space(home: Path, variables: Mapping[str, str], *options: str) -> Iterator[int]:
    """Start the app and yield its port once it is ready."""
    with start_space(home, variables, *options) as process:
        assert process.stdout is not None and process.stderr is not None
        drained = Thread(target=process.stderr.read, daemon=True)
        drained.start()
        try:
            line = process.stdout.readline()
            assert "http://" in line, line
            port = urlsplit(line[line.index("http://") :].strip()).port
            assert port is not None
            yield port
        finally:
            process.send_signal(signal.SIGINT)  # after SIGTERM, Python would not run its exit handlers
            process.wait(120)
            drained.join()


def request_once(host: str, port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"content-type": "application/json"})
    response = connection.getresponse()
    result = response.status, response.read()
    connection.close()
    return result


def assert_page_and_answer(port: int) -> None:
    """Assert that the page and an answer of the local model are served on all addresses."""
    # Only who listens on all addresses is reached by this one, too.
    host = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
    status, page = request_once(host, port, "GET", "/")
    assert status == 200 and b"Streamgauge" in page
    question = {"message": "Say hello.", "stream": False, "max_tokens": 8}
    status, body = request_once(host, port, "POST", "/api/chat", question)
    answer = json.loads(body)
    assert status == 200, answer
    assert answer["usage"]["output_tokens"] in range(1, 9)
    assert answer["usage"]["source"] == "reported"


@contextmanager
def zero_gpu_device_api(status: int) -> Iterator[tuple[str, list[str]]]:
    """Serve ZeroGPU's device API, as far as a start needs it: yield its URL and the list of requests that it got."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(f"{self.command} {self.path}")
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.timeout(400)
def test_zero_gpu_space_reports_its_start_once_and_answers_on_cpu(space_home: Path) -> None:
    with zero_gpu_device_api(200) as (url, requests):
        variables = {**CPU_SPACE, "SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": url}
        with running_space(space_home, variables) as port:
            assert requests == ["POST /startup-report"]
            assert_page_and_answer(port)
        assert requests == ["POST /startup-report"]


@pytest.mark.timeout(400)
def test_zero_gpu_space_whose_report_is_refused_ends_with_one_line(space_home: Path) -> None:
    with zero_gpu_device_api(500) as (url, requests):
        variables = {**CPU_SPACE, "SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": url}
        with start_space(space_home, variables) as process:
            stdout, stderr = process.communicate(timeout=300)
    assert requests == ["POST /startup-report"]
    assert process.returncode == 1 and stdout == ""
    assert stderr.splitlines()[-1].startswith("error: ZeroGPU: the start could not be reported: RuntimeError: ")


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("variables", "options"),
    [(CPU_SPACE, ()), ({}, ("--host", "0.0.0.0"))],
    ids=["CPU Space", "Docker"],
)
def test_start_elsewhere_answers_and_uses_nothing_of_spaces(
    space_home: Path, tmp_path: Path, variables: dict[str, str], options: tuple[str, ...]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LIST_MODULES)
    with running_space(space_home, {**variables, "PYTHONPATH": str(tmp_path)}, *options) as port:
        assert_page_and_answer(port)
    imported = set((tmp_path / "modules").read_text().split())
    assert "ui.app" in imported
    # Gradio itself imports the package wherever it is installed; its client is loaded on ZeroGPU alone.
    assert not imported & {"space.zero_gpu", "spaces.zero.client"}

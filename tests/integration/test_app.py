"""The command `app.py`: rejections in one line with exit code 2."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import app
from tests.failing_start import start_and_fail

ROOT = Path(__file__).parents[2]


def run_app(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "app.py", "--no-ui", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_app_on_port_in_use_exits_with_2_and_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_app("--port", str(taken.getsockname()[1]))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"error: --port: cannot listen on 127\.0\.0\.1:\d+, .* \(choose another --port or --host\)\n", done.stderr
    )


def test_app_on_impossible_port_exits_with_2() -> None:
    done = run_app("--port", "99999")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "99999" in done.stderr


@pytest.mark.parametrize("arguments", [("--port", "soon"), ("--host", "no.such.host.invalid"), ("--no-ui", "--share")])
def test_app_with_invalid_address_exits_with_2(arguments: tuple[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    done = start_and_fail(capfd, "--no-ui", "--port", "0", *arguments)
    assert done.returncode == 2
    assert arguments[1] in done.stderr
    if arguments[0] == "--host":
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: --host: 'no.such.host.invalid' is no address, ") and "--port" not in line


def test_app_with_missing_model_file_exits_with_2_and_names_variable(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = start_and_fail(capfd, "--no-ui", "--port", "0", STREAMGAUGE_MODEL=str(tmp_path / "gone.gguf"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "STREAMGAUGE_MODEL" in done.stderr
    assert done.stderr.count("\n") == 1


def test_app_listens_on_the_port_of_its_variable_and_the_image_checks_its_health_there() -> None:
    match = re.search(
        r"^HEALTHCHECK (?:.*\n)*?    CMD (\[.+\])$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE
    )
    assert match
    _, *check = json.loads(match[1])

    def is_healthy(port: str) -> bool:
        environment = {**os.environ, "PORT": port, "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": ""}
        return (
            subprocess.run([sys.executable, *check], env=environment, check=False, capture_output=True).returncode == 0
        )

    command, environment = [sys.executable, "app.py", "--no-ui"], {**os.environ, "PORT": "0", "SPACE_ID": ""}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        port = re.findall(r":(\d+)$", process.stdout.readline())[0]
        assert port != str(app.PORT) and is_healthy(port)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert not is_healthy(port)


def test_app_with_a_port_that_is_none_names_the_variable(capfd: pytest.CaptureFixture[str]) -> None:
    done = start_and_fail(capfd, "--no-ui", PORT="soon")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr == "error: PORT: 'soon' cannot be used (write a port from 0 to 65535)\n"


@pytest.mark.parametrize(("variables", "address"), [({"SPACE_ID": ""}, "127.0.0.1"), ({"SPACE_ID": "a/b"}, "0.0.0.0")])
def test_app_listens_on_all_addresses_only_in_space(variables: dict[str, str], address: str) -> None:
    command = [sys.executable, "app.py", "--no-ui", "--port", "0"]
    environment = {**os.environ, **variables}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert match
        port = f"{int(match[1]):04X}"
        listening = Path(f"/proc/{process.pid}/net/tcp").read_text()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    shown = {"127.0.0.1": "0100007F", "0.0.0.0": "00000000"}[address]
    assert f"{shown}:{port} 00000000:0000 0A" in listening


@pytest.mark.parametrize("host", ["::", "[::1]"])
def test_app_takes_ipv6_hosts_in_brackets_and_ipv4_on_all_addresses(host: str) -> None:
    command = [sys.executable, "app.py", "--no-ui", "--port", "0", "--host", host]
    environment = {**os.environ, "GRADIO_SERVER_PORT": "7000"}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        port = int(re.findall(r":(\d+)$", line)[0])
        for address in ("127.0.0.1", "::1") if host == "::" else ("::1",):
            with socket.create_connection((address, port), timeout=120) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                assert connection.recv(15) == b"HTTP/1.1 200 OK"
        process.send_signal(signal.SIGTERM)
        assert "warning: GRADIO_SERVER_PORT: is not read here (use --host and --port)\n" in process.stderr.read()


@pytest.mark.parametrize(("arguments", "needs"), [([], True), (["--no-ui"], False)])
def test_page_without_folder_for_temporary_files_names_the_variable(
    arguments: list[str], needs: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find_no_folder() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", find_no_folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert app.main([*arguments, "--port", str(taken.getsockname()[1])]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: TMPDIR: no folder" if needs else "error: --port: cannot listen")
    assert said.count("\n") == 1

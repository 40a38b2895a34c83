"""Files that are not models: each is a specific one-line error over every transport and in /healthz."""

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from evaluation.backends.service_process import wait_for_local_model
from providers import ProviderRegistry
from providers.local import model_file
from providers.local.model import LocalModel
from settings import Settings
from streaming.errors import ModelLoadError
from streaming.events import Finish
from tests.asgi_server import serve_providers
from tests.integration.raw_server import RawConnection, run_raw_server
from tests.integration.test_local import SHORT_REQUEST, run_answer
from tests.service_process import run_service_process


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return invalid model files by the kind of defect, each with its expected error text."""
    packaged = model_file.find_model(Settings())
    contents = {
        "wrong magic": (b"not a model", "is not a GGUF file"),
        "empty": (b"", "is empty"),
        "magic alone": (b"GGUF", "damaged, incomplete"),
        "zeros": (b"GGUF" + bytes(1000), "damaged, incomplete"),
        "half": (packaged.read_bytes()[: packaged.stat().st_size // 2], "damaged, incomplete"),
        "a little short": (packaged.read_bytes()[:-100], "damaged, incomplete"),
    }
    result = {}
    for name, (content, words) in contents.items():
        path = folder / f"{name}.gguf"
        path.write_bytes(content)
        result[name] = (path, words)
    (folder / "folder.gguf").mkdir()
    os.mkfifo(folder / "pipe.gguf")
    (folder / "loop.gguf").symlink_to(folder / "loop.gguf")
    return {
        **result,
        "missing": (folder / "missing.gguf", "does not exist"),
        "folder": (folder / "folder.gguf", "is a folder"),
        "pipe": (folder / "pipe.gguf", "is not a regular file"),
        "loop": (folder / "loop.gguf", "Too many levels|does not exist"),
        "no name": (folder / "a\0b.gguf", "cannot be read|does not exist"),
    }


KINDS_OF_BROKEN_FILES = (
    "wrong magic", "empty", "magic alone", "zeros", "half", "a little short", "missing", "folder", "pipe", "loop",
    "no name",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_BROKEN_FILES)
def test_invalid_model_file_is_one_line_model_load_error(tmp_path: Path, kind: str) -> None:
    path, words = broken_files(tmp_path)[kind]
    model = LocalModel(Settings({"STREAMGAUGE_MODEL": str(path)}))
    with pytest.raises(model_file.ModelFileError, match=words) as excinfo:
        asyncio.run(model.wait_base_url())
    output = str(excinfo.value)
    assert "\n" not in output and "STREAMGAUGE_MODEL" in output and path.stem.split("\0")[0] in output
    assert str(tmp_path) not in output, "who asks over a wire need not know where it lies"
    assert (model.state.kind, model.state.error) == ("failed", "model_load")
    with pytest.raises(ModelLoadError, match=words):
        run_answer(model, SHORT_REQUEST)


def test_unreadable_model_file_is_model_load_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    model = LocalModel(Settings({"STREAMGAUGE_MODEL": str(path)}))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)  # who runs the tests as root may read every file
        with pytest.raises(model_file.ModelFileError, match="Permission denied"):
            model.validate_file()


def test_repaired_model_file_is_loaded_by_next_request(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    model = LocalModel(Settings({"STREAMGAUGE_MODEL": str(path)}))
    with pytest.raises(ModelLoadError):
        run_answer(model, SHORT_REQUEST)
    path.write_bytes(model_file.find_model(Settings()).read_bytes())
    assert isinstance(run_answer(model, SHORT_REQUEST)[-1], Finish)
    model.close()


def test_unloadable_model_is_reported_by_healthz_and_transports(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))

    async def main(url: str) -> list[tuple[int, dict[str, Any]]]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            replies = [await http.get("/healthz")]
            body = {"message": "Hi", "provider": "local", "stream": False}
            replies.append(await http.post("/api/chat", json=body))
            completion = {"model": "local", "messages": [{"role": "user", "content": "Hi"}]}
            replies.append(await http.post("/v1/chat/completions", json=completion))
            replies.append(await http.get("/healthz"))
            return [(reply.status_code, reply.json()) for reply in replies]

    with run_service_process(STREAMGAUGE_MODEL=str(path)) as url:
        before, chat, completion, after = asyncio.run(main(url))
    assert before[1]["local_model_error"] is None
    assert chat[0] >= 500 and chat[1]["error"]["type"] == "model_load"
    assert completion[0] >= 500 and completion[1]["error"]["code"] == "model_load"
    assert after == (200, {**before[1], "local_model": "failed", "local_model_error": "model_load"})


@pytest.mark.parametrize("preload", ["on", "off"])
def test_model_is_loaded_at_the_start_or_by_the_first_request_for_it(preload: str) -> None:
    async def main() -> list[str]:
        async with (
            serve_providers(ProviderRegistry(Settings({"PRELOAD_MODEL": preload}))) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
        ):
            before = await http.get("/healthz")
            body = {"message": "Hi", "provider": "local", "stream": False, "max_tokens": 1}
            assert (await http.post("/api/chat", json=body)).status_code == 200
            return [reply.json()["local_model"] for reply in (before, await http.get("/healthz"))]

    before, after = asyncio.run(main())
    assert (before == "idle") == (preload == "off") and after == "ready"


@pytest.mark.parametrize("states", [["loading", "loading", "ready"], ["loading", "failed"], ["idle"]])
def test_start_is_awaited_only_while_the_model_is_loaded(states: list[str]) -> None:
    left = iter(states)

    async def answer(connection: RawConnection) -> None:
        connection.send_response("application/json", json.dumps({"local_model": next(left)}).encode())

    async def main() -> None:
        async with run_raw_server(answer) as server:
            await asyncio.to_thread(wait_for_local_model, f"http://127.0.0.1:{server.port}")

    asyncio.run(main())
    assert next(left, None) is None, "it was asked until then"

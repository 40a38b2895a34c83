"""The local model's server: errors when llama.cpp cannot be imported, and the shutdown of its connections."""

import builtins
import socket
from pathlib import Path
from typing import Any

import pytest

from providers.local.server import LlamaServer, _shut_down_sockets
from streaming.errors import UsageError

LIBRARY = "libgomp.so.1: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("error", "words"),
    [(ModuleNotFoundError("xllamacpp"), "pip install xllamacpp"), (ImportError(LIBRARY), "libgomp.so.1.*install")],
)
def test_missing_library_is_named_in_error(error: ImportError, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def import_or_raise(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "xllamacpp":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_or_raise)
    with pytest.raises(UsageError, match=words):
        LlamaServer(Path("any.gguf"))


def test_half_closed_connection_does_not_block_shutdown_of_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # The half-closed connection is created first: it has the lowest file descriptor and is shut down first.
        gone = socket.create_connection(("127.0.0.1", port))
        accepted, _ = listener.accept()
        gone.shutdown(socket.SHUT_RDWR)
        accepted.shutdown(socket.SHUT_RDWR)
        alive = socket.create_connection(("127.0.0.1", port))
        other, _ = listener.accept()
        _shut_down_sockets(port)
        assert alive.recv(1) == b"" and other.recv(1) == b""
        for sock in (gone, accepted, alive, other):
            sock.close()

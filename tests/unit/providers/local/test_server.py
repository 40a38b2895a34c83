"""The server of the local model: what is said where llama.cpp cannot be imported, and how its connections are cut."""

import builtins
import socket
from pathlib import Path
from typing import Any

import pytest

from providers.local.server import LlamaServer, _shut_down_sockets
from streaming.errors import UsageError

LIBRARY = "libgomp.so.1: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("error", "said"),
    [(ModuleNotFoundError("xllamacpp"), "pip install xllamacpp"), (ImportError(LIBRARY), "libgomp.so.1.*install")],
)
def test_missing_library_is_named_in_error(error: ImportError, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "xllamacpp":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(UsageError, match=said):
        LlamaServer(Path("any.gguf"))


def test_half_closed_connection_does_not_block_shutdown_of_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # Made first, the one that is gone already has the lower number and is cut first.
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

"""What is said where llama.cpp cannot be imported: what is missing, and what to install."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from providers.llama_server import LlamaServer
from streaming.errors import UsageError

LIBRARY = "libgomp.so.1: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("error", "said"),
    [(ModuleNotFoundError("xllamacpp"), "pip install xllamacpp"), (ImportError(LIBRARY), "libgomp.so.1.*install")],
)
def test_what_is_missing_is_named(error: ImportError, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "xllamacpp":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(UsageError, match=said):
        LlamaServer(Path("any.gguf"))

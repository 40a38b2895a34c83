"""The Dockerfile without Docker: what it copies is here, and what the slim image lacks is installed."""

import re
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_library_that_llama_cpp_is_linked_to_is_installed() -> None:
    package = find_spec("xllamacpp")
    assert package is not None and package.submodule_search_locations
    modules = [*Path(package.submodule_search_locations[0]).glob("*.so")]
    assert modules
    if any(b"libgomp.so.1" in module.read_bytes() for module in modules):
        assert re.search(r"^RUN .*apt-get install .*\blibgomp1\b", DOCKERFILE, re.MULTILINE)


def test_what_is_copied_into_the_image_is_here() -> None:
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    names = [name for line in copied for name in line if not name.startswith("--")]
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_image_serves_all_addresses_with_the_python_that_a_space_has() -> None:
    version = re.search(r'^python_version: "(.+)"$', (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert version and f"FROM python:{version[1]}-" in DOCKERFILE
    assert DOCKERFILE.splitlines()[-1] == 'CMD ["python", "app.py", "--host", "0.0.0.0"]'

"""The Dockerfile, checked without Docker: the copied files exist, and missing system libraries are installed."""

import fnmatch
import re
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_dockerfile_installs_library_required_by_llama_cpp() -> None:
    package = find_spec("xllamacpp")
    assert package is not None and package.submodule_search_locations
    modules = [*Path(package.submodule_search_locations[0]).glob("*.so")]
    assert modules
    if any(b"libgomp.so.1" in module.read_bytes() for module in modules):
        assert re.search(r"^RUN .*apt-get install .*\blibgomp1\b", DOCKERFILE, re.MULTILINE)


def test_dockerfile_copies_only_existing_files() -> None:
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    names = [name for line in copied for name in line if not name.startswith("--")]
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_dockerfile_uses_space_python_and_listens_on_all_addresses() -> None:
    version = re.search(r'^python_version: "(.+)"$', (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert version and f"FROM python:{version[1]}-" in DOCKERFILE
    assert DOCKERFILE.splitlines()[-1] == 'CMD ["python", "app.py", "--host", "0.0.0.0"]'


def pins(name: str) -> dict[str, str]:
    """Return the pinned versions of a requirements file by normalized package name."""
    result = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in result}


def locked(name: str) -> dict[str, list[str]]:
    """Return the hashes of a lock file by normalized package name; fail on any other kind of line."""
    hashes: dict[str, list[str]] = {}
    package = ""
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        if (start := re.fullmatch(r"([A-Za-z0-9._-]+)==\S+ \\", line)) is not None:
            package = re.sub(r"[-_.]+", "-", start[1]).lower()
            assert package not in hashes
            hashes[package] = []
        else:
            match = re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})( \\)?", line)
            assert match and package, line
            hashes[package].append(match[1])
    return hashes


LOCKS = {"requirements-lock.txt": "requirements.txt", "requirements-model-lock.txt": "requirements-model.txt"}


@pytest.mark.parametrize(("lock", "source"), LOCKS.items())
def test_lock_file_agrees_with_its_source_and_has_a_hash_for_each_package(lock: str, source: str) -> None:
    versions, expected, constraints = pins(lock), pins(source), pins("requirements-constraints.txt")
    assert expected
    assert {name: versions.get(name) for name in expected} == expected, "run make lock"
    further = {name: version for name, version in versions.items() if name not in expected}
    assert {name: constraints.get(name) for name in further} == further, "run make lock"
    hashes = locked(lock)
    assert set(hashes) == set(versions)
    assert [name for name, entry in hashes.items() if not entry or len(set(entry)) != len(entry)] == []


def test_lock_file_contains_every_required_package() -> None:
    versions = pins("requirements-lock.txt")
    for name in versions:
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            assert not needed or canonicalize_name(requirement.name) in versions, f"{name} requires {text}"


@pytest.mark.parametrize("lock", LOCKS)
def test_image_is_installed_from_hashes_alone(lock: str) -> None:
    commands = [part for part in re.split(r"&&|\n(?=[A-Z])", DOCKERFILE) if "pip install" in part]
    assert len(commands) == len(LOCKS)
    (command,) = (part for part in commands if f"--requirement {lock}" in part)
    assert "--require-hashes" in command
    assert ("--no-deps" in command) == (lock == "requirements-model-lock.txt")


@pytest.mark.parametrize("name", [*LOCKS, "Makefile"])
def test_lock_file_and_its_recipe_name_no_host(name: str) -> None:
    assert (
        re.findall(
            r"https?://(?!127\.0\.0\.1)\S+|--(?:extra-)?index-url\b|--find-links\b",
            (ROOT / name).read_text(encoding="utf-8"),
        )
        == []
    )


def is_ignored(patterns: list[str], path: str) -> bool:
    """Return whether the last pattern that fits a path leaves it out, as Git and Docker read such files."""
    ignored = False
    for pattern in patterns:
        kept = pattern.startswith("!")
        plain = pattern.removeprefix("!").removeprefix("**/")
        if fnmatch.fnmatch(path, plain) or fnmatch.fnmatch(Path(path).name, plain):
            ignored = not kept
    return ignored


@pytest.mark.parametrize("ignore", [".gitignore", ".dockerignore"])
def test_files_of_secrets_are_left_out(ignore: str) -> None:
    patterns = (ROOT / ignore).read_text(encoding="utf-8").split()
    secret = [".env", ".env.local", ".env.production", ".envrc", "ui/.env", "deploy/site/.env.test"]
    assert [path for path in secret if not is_ignored(patterns, path)] == []
    assert not is_ignored(patterns, ".env.example")

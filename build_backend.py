"""The build backend of pyproject.toml: it builds nothing, and says why.

The packages have general names (`server`, `guard`, `ui`, …), which would collide with other projects' packages in a
shared environment. Streamgauge runs from a checkout or as a container image.
"""

from typing import NoReturn


def build_wheel(*_: object, **__: object) -> NoReturn:
    """Raise RuntimeError: no wheel is offered."""
    raise RuntimeError(
        "streamgauge: no package is offered, because its modules' names are too general to be installed beside others "
        "(run it from a checkout with `make demo`, or build the image with `docker build .`)"
    )


build_sdist = build_editable = build_wheel

"""Parts of the OpenAPI description that the routes share."""

from typing import Any


def success_response(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Return the successful response for the OpenAPI description, with its content types."""
    return {200: {"description": "The answer", "content": {kind: {} for kind in kinds}}}

"""The body of a chat request as both clients send it."""

import json
from collections.abc import Mapping
from typing import Any

from clients.errors import ClientError


def encode_request(params: Mapping[str, Any]) -> str:
    """Return a chat request as JSON. Raises ClientError for values that the service could not read."""
    try:
        body = json.dumps(params, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        body.encode("utf-8")
    except UnicodeEncodeError:
        raise ClientError("request: half of a surrogate pair is no text (send valid Unicode)") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ClientError(f"request: cannot be written as JSON, {error} (send texts and finite numbers)") from None
    return body

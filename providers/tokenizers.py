"""Counting of tokens by a model's own tokenizer: offline where its encoding is known, else by the server that runs it.

llama.cpp's server and vLLM count at `/tokenize`. For other services tokens are estimated.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import httpx2

from providers.http.client import ServiceConfig
from streaming.errors import ProtocolError, StreamError
from streaming.meter import CHARS_PER_TOKEN, TokenCounter

TOKENIZE_TIMEOUT_S = 30.0
TokenizeDialect = Literal["llama.cpp", "vllm"]
TOKENIZE_DIALECTS: dict[str, TokenizeDialect] = {"local": "llama.cpp", "llama-server": "llama.cpp", "vllm": "vllm"}
"""The providers whose servers count tokens, by name."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What counts the tokens of a text without a chat template; `source` is the model's encoding, its server, or none.

    `count` raises StreamError when the server does not count.
    """

    source: Literal["encoding", "server", "estimate"]
    count: Callable[[str], Awaitable[int]]


def offline_tokenizer(counter: TokenCounter | None) -> Tokenizer:
    """Return the tokenizer of a counter; without one, four characters are estimated to be a token."""

    async def count_tokens(text: str) -> int:
        return counter(text) if counter else -(-len(text) // CHARS_PER_TOKEN)

    return Tokenizer("encoding" if counter else "estimate", count_tokens)


class ServerTokenizer:
    """The tokenizer of a model on a server of llama.cpp or vLLM, whose `/tokenize` is beside its `/v1`."""

    def __init__(self, service: ServiceConfig, dialect: TokenizeDialect, model: str) -> None:
        self._dialect = dialect
        self._model = model
        self._url = service.names.base_url.rstrip("/").removesuffix("/v1") + "/tokenize"
        headers = {"Connection": "close"} | ({"Authorization": f"Bearer {service.key}"} if service.key else {})
        self._client = httpx2.AsyncClient(**service.client_kwargs(httpx2), headers=headers)

    async def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, without special tokens. Raises StreamError."""
        try:
            response = await self._client.post(self._url, json=self._body(text), timeout=TOKENIZE_TIMEOUT_S)
            counted = response.raise_for_status().json()
        except (httpx2.HTTPError, ValueError) as error:
            raise ProtocolError(f"{self._url}: no tokens were counted ({error})") from None
        return _read_count(counted, self._url)

    def _body(self, text: str) -> dict[str, Any]:
        if self._dialect == "vllm":
            return {"model": self._model, "prompt": text, "add_special_tokens": False}
        return {"content": text, "add_special": False}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _read_count(counted: Any, url: str) -> int:
    count = counted.get("count") if isinstance(counted, dict) else None
    tokens = counted.get("tokens") if isinstance(counted, dict) else None
    if isinstance(tokens, list):
        return len(tokens)
    if not isinstance(count, int):
        raise ProtocolError(f"{url}: the answer has neither tokens nor a count")
    return count


async def checked_tokenizer(server: ServerTokenizer) -> Tokenizer:
    """Return the server's tokenizer, or an estimate if the server does not count."""
    try:
        await server.count_tokens("Hello.")
    except StreamError:
        return offline_tokenizer(None)
    return Tokenizer("server", server.count_tokens)

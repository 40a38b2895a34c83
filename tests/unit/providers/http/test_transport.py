"""The transport of the HTTP libraries: requests that it refuses to send."""

import asyncio
import ssl
from types import ModuleType

import httpx
import httpx2
import pytest

from providers.http.transport import PooledTransport


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("value", ["key\r\nx-other: 1", "key\nx-other: 1", "key\0"])
def test_header_with_line_break_is_rejected(library: ModuleType, value: str) -> None:
    async def main() -> None:
        transport = PooledTransport(library, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), 5)
        async with library.AsyncClient(transport=transport, trust_env=False) as client:
            await client.post("http://127.0.0.1:1/", headers={"authorization": value})

    # If the request were sent, the error would be a ConnectError, because nothing listens on port 1.
    with pytest.raises(library.LocalProtocolError, match="line break"):
        asyncio.run(main())

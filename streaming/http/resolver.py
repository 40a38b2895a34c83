"""Cached address resolution, and connecting to the resolved addresses."""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

_AddressInfos = list[tuple[Any, ...]]


class Resolver:
    """A cache of host addresses. Each host is resolved once; the last address that accepted is tried first."""

    def __init__(self) -> None:
        self._lookups: dict[tuple[str, int], asyncio.Task[_AddressInfos]] = {}

    async def resolve(self, host: str, port: int) -> _AddressInfos:
        """Return the result of `getaddrinfo`. Raises OSError; a failure is not cached."""
        key = (host, port)
        if key not in self._lookups:
            lookup = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._lookups[key] = asyncio.create_task(_resolve_to_list(lookup))
            # The callers may have been cancelled by then: retrieve the exception so that asyncio does not log it.
            self._lookups[key].add_done_callback(lambda task: task.cancelled() or task.exception())
        task = self._lookups[key]
        try:
            return task.result() if task.done() else await asyncio.shield(task)
        except OSError:
            self._lookups.pop(key, None)
            raise

    async def connect(self, host: str, port: int) -> socket.socket:
        """Try the addresses in order and return a socket connected to the first that accepts.

        Raises OSError, the last address's error, when none accepts.
        """
        loop = asyncio.get_running_loop()
        failure: OSError = OSError(f"{host}: no address found")
        addresses = await self.resolve(host, port)
        for row in list(addresses):
            family, kind, protocol, _, address = row
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                if addresses[0] is not row:
                    addresses.remove(row)
                    addresses.insert(0, row)
                return sock
        raise failure

    def close(self) -> None:
        """Cancel the pending look-ups."""
        for task in self._lookups.values():
            task.cancel()


async def _resolve_to_list(lookup: Coroutine[Any, Any, _AddressInfos]) -> _AddressInfos:
    return list(await lookup)

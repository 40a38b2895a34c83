"""The addresses of hosts, asked for once, and connecting to them."""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

_AddressInfos = list[tuple[Any, ...]]


class Resolver:
    """The addresses of hosts, asked for once each; the one that answered last comes first the next time."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], asyncio.Task[_AddressInfos]] = {}

    async def resolve(self, host: str, port: int) -> _AddressInfos:
        """Give what `getaddrinfo` gives. Raises OSError; a failure is asked for again the next time."""
        key = (host, port)
        if key not in self._found:
            asking = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._found[key] = asyncio.create_task(_resolve_to_list(asking))
            # Whoever asked may have left meanwhile: an error that nobody takes is none.
            self._found[key].add_done_callback(lambda task: task.cancelled() or task.exception())
        task = self._found[key]
        try:
            return task.result() if task.done() else await asyncio.shield(task)
        except OSError:
            self._found.pop(key, None)
            raise

    async def connect(self, host: str, port: int) -> socket.socket:
        """Connect to the first address that answers, one after the other. Raises OSError, the last one's."""
        loop = asyncio.get_running_loop()
        failure: OSError = OSError(f"{host} has no address")
        found = await self.resolve(host, port)
        for row in list(found):
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
                if found[0] is not row:
                    found.remove(row)
                    found.insert(0, row)
                return sock
        raise failure

    def close(self) -> None:
        """End what is still being asked."""
        for task in self._found.values():
            task.cancel()


async def _resolve_to_list(asking: Coroutine[Any, Any, _AddressInfos]) -> _AddressInfos:
    return list(await asking)

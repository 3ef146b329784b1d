"""Where the upstream is: the addresses of its host name, asked again and again, and a socket to one of them."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from proxy.errors import CloseReason, UpstreamError
from proxy.tasks import Shared, Tasks

Address: TypeAlias = tuple[int, int, int, Any]
"""Family, type, protocol number and socket address, as socket.socket() and connect() take them."""
Resolve: TypeAlias = Callable[[str, int], Awaitable[list[Address]]]
"""Return the addresses of a host and port. Raises OSError."""

REMEMBERED: Final = 300.0
"""Seconds that an address counts after it was last seen, for so long after one has come back: then the name's addresses
come and go. The reader endpoint of an Aurora cluster answers with another replica each time."""


async def ask_system(host: str, port: int) -> list[Address]:
    """Resolve as libpq does: by getaddrinfo(3), which knows /etc/hosts and DNS."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((family, kind, number, address) for family, kind, number, _, address in found))


class Addresses:
    """Look up one host, and know which of the addresses that it had it still has."""

    def __init__(
        self,
        host: str,
        port: int,
        max_ttl: float,
        tasks: Tasks,
        now: Callable[[], float],
        resolve: Resolve = ask_system,
        *,
        user_timeout: float = 0.0,
    ) -> None:
        self._host = host
        self._user_timeout = user_timeout
        self._port = port
        self._max_ttl = max_ttl
        self.now = now
        self._resolve = resolve
        self._look_up = Shared(tasks, self._ask, f"look up {host}")
        self._seen: dict[str, float] = {}
        self._last: frozenset[str] = frozenset()
        self._came_back = -REMEMBERED
        self._due = 0.0

    @property
    def is_name(self) -> bool:
        """Whether the host is a name, whose addresses can change."""
        if self._host.startswith("/"):
            return False
        try:
            ipaddress.ip_address(self._host.partition("%")[0])
        except ValueError:
            return True
        return False

    def due(self) -> bool:
        """Whether the addresses are older than dns_max_ttl."""
        return self.is_name and self.now() >= self._due and not self._look_up.under_way

    async def find(self) -> list[Address]:
        """Look the host up: now, or with whoever is doing so. Raises UpstreamError."""
        return await self._look_up()

    def has(self, address: str) -> bool:
        """Whether this is still one of the host's addresses, as far as is known."""
        if not self.is_name or not self._last:
            return True
        now = self.now()
        if now - self._came_back < REMEMBERED:
            return now - self._seen.get(address, -REMEMBERED) < REMEMBERED
        return address in self._last

    async def _ask(self) -> list[Address]:
        self._due = self.now() + self._max_ttl
        try:
            found = await self._resolve(self._host, self._port)
        except OSError as error:
            raise UpstreamError(
                f'the host name "{self._host}" could not be resolved: {error.strerror}',
                reason=CloseReason.UPSTREAM_LOGIN,
            ) from error
        now = self.now()
        self._due = now + self._max_ttl
        last = frozenset(str(address[0]) for _, _, _, address in found)
        self._seen = {each: at for each, at in self._seen.items() if now - at < REMEMBERED}
        if any(each in self._seen for each in last - self._last):
            self._came_back = now
        self._seen.update(dict.fromkeys(last, now))
        self._last = last
        return found

    async def connect(self, seconds: float, only: str = "") -> socket.socket:
        """Return a connected socket to the first address that answers. Raises UpstreamError.

        `seconds` are what a whole login has: each address gets its share of what is left, so that a dead one does not
        eat the time of the next. `only` is the address of an upstream, for a CancelRequest to the very same server.
        """
        if self._host.startswith("/"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            await _connect(sock, f"{self._host}/.s.PGSQL.{self._port}")
            return sock
        found = await (ask_system(only, self._port) if only else self.find())
        failure = "no address"
        deadline = self.now() + seconds
        for number, (family, kind, protocol, address) in enumerate(found):
            sock = socket.socket(family, kind, protocol)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            _limit_silence(sock, self._user_timeout)
            others = len(found) - number - 1
            # The last one has all that is left, and whoever called looks after that.
            share = (deadline - self.now()) / (others + 1) if others else None
            try:
                async with asyncio.timeout(share):
                    await _connect(sock, address)
            except TimeoutError:
                failure = f"no answer within {share or 0:.1f} s"
            except OSError as error:
                failure = os.strerror(error.errno) if error.errno else type(error).__name__
            else:
                return sock
        raise UpstreamError(
            f"the upstream {self._host} port {self._port} cannot be reached: {failure}",
            reason=CloseReason.UPSTREAM_LOGIN,
        )


def _limit_silence(sock: socket.socket, seconds: float) -> None:
    """Have the system end the connection when the peer's system has acknowledged nothing for so long (tcp(7)).

    Whoever waits for an answer sends nothing that could be acknowledged: so it is asked, by keepalive probes.
    """
    if not seconds or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(seconds / 3)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(seconds / 6)))


async def _connect(sock: socket.socket, address: Any) -> None:
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise

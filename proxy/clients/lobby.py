"""Who has knocked and has not proved who it is: there is room for so many, and nobody fills it for all others."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Final

from proxy.auth.access import origin_of

PATIENCE: Final = 3.0
"""Seconds in which a guest is not sent away for another one of its own address, or one that has as many guests."""


class Guest:
    """A connection from its first knock until it is let in, or has ended.

    `turn_out` ends it wherever it stands: whoever has it at the moment says how.
    """

    __slots__ = ("_host", "_lobby", "address", "since", "turn_out")

    def __init__(self, lobby: Lobby, host: object, address: str, since: float) -> None:
        self._lobby = lobby
        self._host = host
        self.address = address
        self.since = since
        self.turn_out: Callable[[], None]

    def leave(self) -> None:
        """Count no more: it is let in, or has ended. Does nothing the second time."""
        self._lobby.forget(self._host, self)


class Lobby:
    """Keep the guests of each address, in the order in which they came."""

    __slots__ = ("_guests", "_size")

    def __init__(self) -> None:
        self._guests: dict[object, dict[Guest, None]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def enter(self, address: str, now: float) -> Guest:
        host = _host(address)
        guest = Guest(self, host, address, now)
        self._guests.setdefault(host, {})[guest] = None
        self._size += 1
        return guest

    def forget(self, host: object, guest: Guest) -> None:
        guests = self._guests.get(host)
        if guests is None or guest not in guests:
            return
        del guests[guest]
        self._size -= 1
        if not guests:
            del self._guests[host]

    def make_room(self, address: str, now: float) -> bool:
        """Send away, of the address that has most guests, the one that came first; return whether that was done.

        One that came just now stays, unless the newcomer's address has fewer: clients of one address that all come at
        once would else send each other away, and none would get in.
        """
        if not self._guests:
            return False
        most = max(self._guests.values(), key=len)
        oldest = next(iter(most))
        mine = len(self._guests.get(_host(address), ()))
        if len(most) <= mine + 1 and now - oldest.since < PATIENCE:
            return False
        oldest.leave()
        oldest.turn_out()
        return True


def _host(address: str) -> object:
    """Return what stands for all addresses that one host can have: of IPv6, those that begin with the same 64 bits."""
    found = origin_of(address)
    return int(found) >> 64 if isinstance(found, IPv6Address) else found

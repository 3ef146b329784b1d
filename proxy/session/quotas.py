"""Who may have how much: places for connections, and rates of connections and statements, at time `now`.

Pure, and bounded: what nobody has used for a while is forgotten, and looks then as if it had never been there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from proxy.config.schema import ClientLimits
from proxy.errors import CONFIGURATION_LIMIT_EXCEEDED, TOO_MANY_CONNECTIONS

MAX_KEYS: Final = 65_536
"""Users, or addresses, that a rate remembers. Beyond them the one that was seen longest ago is forgotten."""

ROUNDING: Final = 1e-6
"""Seconds that are no wait: what adding up intervals may be wrong by."""


@dataclass(frozen=True, slots=True)
class Excess:
    """Say which limit is reached: its name for the metric, and what the client is told."""

    limit: str
    sqlstate: str
    text: str
    detail: str
    hint: str


class Rate:
    """Let each key through `rate` times a second; as much as a second brings may come at once.

    A token bucket of that size, kept as one number (GCRA): the moment when the bucket is full again. A rate of 0 lets
    everything through and remembers nothing.
    """

    __slots__ = ("_full_at", "_interval", "_max_keys", "_slack")

    def __init__(self, rate: float, max_keys: int = MAX_KEYS) -> None:
        self._interval = 1.0 / rate if rate else 0.0
        self._slack = (max(1.0, rate) - 1.0) * self._interval  # so long before it is full, a token is left in a bucket
        self._max_keys = max_keys
        self._full_at: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def __bool__(self) -> bool:
        return self._interval > 0

    def wait(self, key: Hashable, now: float) -> float:
        """Return after how many seconds the key may go; 0: now."""
        if not self._interval:
            return 0.0
        seconds = self._full_at.get(key, now) - now - self._slack
        return seconds if seconds > ROUNDING else 0.0

    def take(self, key: Hashable, now: float, count: int = 1) -> None:
        """Take a token; `wait` has just returned 0. More than are left are owed: the next one waits for all of them."""
        if not self._interval:
            return
        full_at = self._full_at.pop(key, now)
        if len(self._full_at) >= self._max_keys:
            self.forget(now)
            if len(self._full_at) >= self._max_keys:
                del self._full_at[next(iter(self._full_at))]
        self._full_at[key] = max(full_at, now) + count * self._interval  # behind all others: the first is the oldest

    def forget(self, now: float) -> None:
        """Forget the keys whose buckets are full: those that are not there have full ones."""
        for key in [key for key, full_at in self._full_at.items() if full_at <= now]:
            del self._full_at[key]


class Quotas:
    """Count the connections of each user and address, and their rates.

    `exceeded` is told the name of each limit that somebody met. Those of a database are its pool's affair.
    """

    __slots__ = (
        "_addresses",
        "_connections",
        "_exceeded",
        "_limits",
        "_statements",
        "_users",
    )

    def __init__(
        self,
        limits: ClientLimits = ClientLimits(),  # noqa: B008  (frozen)
        exceeded: Callable[[str], None] = lambda limit: None,
    ) -> None:
        self._limits = limits
        self._exceeded = exceeded
        self._addresses: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._connections = Rate(limits.connection_rate)
        self._statements = Rate(limits.statement_rate)

    @property
    def meters(self) -> bool:
        """Whether statements are counted."""
        return bool(self._statements)

    # --- connections ----------------------------------------------------------------------------------------------

    def arrive(self, address: str, now: float) -> Excess | None:
        """Count a connection of an address that has yet to say who it is; return what is against it."""
        limit = self._limits.max_address_client_connections
        if limit and self._addresses[address] >= limit:
            return self._full("max_address_client_connections", limit, f"from {address}")
        wait = self._connections.wait(("address", address), now)
        if wait:
            return self._too_fast("connection_rate", self._limits.connection_rate, "connections", address, wait)
        self._connections.take(("address", address), now)
        self._addresses[address] += 1
        return None

    def enter(self, user: str, now: float) -> Excess | None:
        """Count a connection whose user has proved who it is; return what is against it."""
        limit = self._limits.max_user_client_connections
        if limit and self._users[user] >= limit:
            return self._full("max_user_client_connections", limit, f'of user "{user}"')
        wait = self._connections.wait(("user", user), now)
        if wait:
            return self._too_fast(
                "connection_rate", self._limits.connection_rate, "connections", f'user "{user}"', wait
            )
        self._connections.take(("user", user), now)
        self._users[user] += 1
        return None

    def leave(self, address: str, user: str) -> None:
        """Take back what `arrive` has counted (an address), and `enter` (a user); empty: nothing."""
        for counter, key in ((self._addresses, address), (self._users, user)):
            if key:
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]

    # --- statements -----------------------------------------------------------------------------------------------

    def statement(self, user: str, address: str, now: float, *, take: bool) -> Excess | None:
        """Say what is against a statement at this moment; where nothing is and `take`, it counts."""
        rate = self._statements
        for key, whose in ((("user", user), f'user "{user}"'), (("address", address), address)):
            if wait := rate.wait(key, now):
                return self._too_fast("statement_rate", self._limits.statement_rate, "statements", whose, wait)
        if take:
            self.statements(user, address, now, 1)
        return None

    def statements(self, user: str, address: str, now: float, count: int) -> None:
        """Count so many statements, whatever is against them."""
        self._statements.take(("user", user), now, count)
        self._statements.take(("address", address), now, count)

    def tick(self, now: float) -> None:
        """Forget who has not come for a while."""
        self._connections.forget(now)
        self._statements.forget(now)

    def _full(self, name: str, limit: int, whose: str) -> Excess:
        self._exceeded(name)
        plural = "connection is" if limit == 1 else "connections are"
        return Excess(
            name,
            TOO_MANY_CONNECTIONS,
            f"no more connections allowed ({name})",
            f"{limit} {plural} open {whose}.",
            "Close some of them, or ask the operator of SideCart to raise the limit.",
        )

    def _too_fast(self, name: str, rate: float, what: str, whose: str, wait: float) -> Excess:
        self._exceeded(name)
        return Excess(
            name,
            CONFIGURATION_LIMIT_EXCEEDED,
            f"too many {what} in a second ({name})",
            f"At most {rate:g} {what} a second are served of {whose}.",
            f"Try again in {max(wait, 0.001):.3f} s.",
        )


class Meter:
    """The rate of one client's statements. A statement that waits for something has paid, and does not pay again."""

    __slots__ = ("_address", "_now", "_quotas", "_user", "paid", "told")

    def __init__(self, quotas: Quotas, user: str, address: str, now: Callable[[], float]) -> None:
        self._quotas = quotas
        self._user = user
        self._address = address
        self._now = now
        self.paid = False
        """Whether the statement that is being served has been counted."""
        self.told = False
        """Whether the log has it that this client is too fast; until it has been slow enough for a statement."""

    def charge(self) -> Excess | None:
        """Count a statement; return what is against it."""
        if self.paid:
            return None
        excess = self._quotas.statement(self._user, self._address, self._now(), take=True)
        self.paid = excess is None
        if self.paid:
            self.told = False
        return excess

    def charge_more(self, count: int) -> None:
        """Count the others of a text with several statements: it runs whole, and what comes next waits for all."""
        self._quotas.statements(self._user, self._address, self._now(), count)

    def look(self) -> Excess | None:
        """Return what would be against a statement now, and count none."""
        return None if self.paid else self._quotas.statement(self._user, self._address, self._now(), take=False)

"""What every client's session finds around it: the ports to the outside, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.filter import Filter
from proxy.pool import Pool
from proxy.pool import Upstream as PooledUpstream
from proxy.replies import Replies
from proxy.stats import Stats


class Owner(Protocol):
    """Whoever has leased an upstream: it takes what arrives there."""

    def upstream_data(self, chunk: bytes) -> None: ...
    def upstream_lost(self) -> None: ...
    def upstream_writable(self, writable: bool) -> None: ...

    def bug(self) -> None:
        """End after an unexpected exception."""


class Member(Protocol):
    """A client that a CancelRequest can name."""

    key: int

    def cancel(self) -> str:
        """Cancel what it runs or waits for; return the outcome for the metric."""


class Wire(Protocol):
    """The way to the client."""

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def close(self) -> None:
        """Send what is written, then close."""


class Upstream(PooledUpstream, Protocol):
    """A leased upstream."""

    replies: Replies
    parameters: dict[str, str]
    unnamed_of: object | None
    """Whose unnamed statement it holds: the last session that released it with one."""

    def attach(self, owner: Owner) -> None:
        """Send what arrives to this owner from now on."""

    def detach(self) -> None: ...
    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def cancel(self) -> None:
        """Ask the server, on another connection, to cancel what runs on this one."""


class Audit(Protocol):
    def event(self, event: str, /, *, level: str = "info", **fields: str | int | float | bool | None) -> None: ...


@dataclass(slots=True)
class House:
    """What all clients of a process share."""

    filter: Filter
    stats: Stats
    audit: Audit
    now: Callable[[], float]
    max_query_length: int
    max_client_conn: int
    pool_for: Callable[[str], Pool]
    """Return the pool of a database; raises UpstreamError for one that is not served."""
    register: Callable[[Member, int], tuple[int, bytes]]
    """Make the cancel key of a client, its secret of so many bytes."""
    forget: Callable[[Member], None]
    """Called once, when a client has closed."""
    cancel: Callable[[int, bytes], None]
    """Carry out a CancelRequest."""
    draining: bool = False
    clients: int = 0
    """Clients that have logged in, or are about to."""

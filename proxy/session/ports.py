"""What every client's session finds around it: the ports to the outside, and what all of them share."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from proxy.auth.access import Access
from proxy.events import Audit
from proxy.filter import Filter
from proxy.pooling.pool import Pool, Waiter
from proxy.pooling.pool import Upstream as PooledUpstream
from proxy.pooling.replies import Listener, Replies
from proxy.pooling.statements import Held
from proxy.session.quotas import Quotas
from proxy.sql.verdict import Verdict
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

    def cancel(self, then: Callable[[], None] | None = None) -> str:
        """Cancel what it runs or waits for; return the outcome for the metric, and call `then` if that is `sent`."""


class End(enum.Enum):
    """What can be seen of a client's end, though nothing may be read from it now."""

    NONE = "none"
    FIN = "fin"
    """It sends nothing more. It may read on: one that is closed looks the same, until something is written to it."""
    RESET = "reset"
    """It is gone."""


class Wire(Protocol):
    """The way to the client."""

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    @property
    def ended(self) -> End:
        """How the client has ended, as far as that can be seen."""

    receive: Callable[[bytes], None]
    """Takes what the client sends."""

    def let_in(self) -> None:
        """Learn that the client has proved who it is."""

    def close(self) -> None:
        """Send what is written, then close."""


FRESH: Final = object()
"""The `proofs` of an upstream that was not leased yet."""


class Upstream(PooledUpstream, Protocol):
    """A leased upstream."""

    replies: Replies
    parameters: dict[str, str]
    customs: set[str]
    """Custom settings that were ever set on it."""
    plans: object
    """Under which settings functions have made the plans that they keep in its session, or for which client where none
    is to get another one's; None: for several."""
    proofs: object
    """As in Filter: those by which it was used last, but for those who use none; FRESH, where it was not used yet."""
    held: Held
    """The statements that it holds under names of ours."""
    unnamed_of: object | None
    """Stands for the unnamed statement that it holds, of the last session that released it; keeps neither."""

    def attach(self, owner: Owner) -> None:
        """Send what arrives to this owner from now on."""

    def detach(self) -> None: ...
    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def cancel(self, then: Callable[[], None] | None = None) -> None:
        """Ask the server, on another connection, to cancel what runs on this one; call `then` when it has done so."""


class Asker(Protocol):
    """Whoever waits for what cannot be said at once."""

    def judged(self, verdict: Verdict | None) -> None:
        """Take the verdict; None: the wait for the catalogue is over, judge again."""

    def bug(self) -> None:
        """End after an unexpected exception."""


class Port(Owner, Asker, Waiter, Listener, Protocol):
    """Where a session can be reached by those that it has leased, asked, or stands in line for."""


class Question:
    """What an asker waits for: a verdict of the helper process, or a newer catalogue. It is told once at most."""

    __slots__ = ("asker", "newer")

    def __init__(self, asker: Asker) -> None:
        self.asker: Asker | None = asker
        """None once it was told, or does not want to know any more."""
        self.newer = False
        """Whether the catalogue has been read, or looked at, since this was asked."""

    def cancel(self) -> None:
        """Take the question back: the answer comes to nobody."""
        self.asker = None

    def tell(self, verdict: Verdict | None, audit: Audit) -> None:
        """Give the answer, if anybody still waits for it."""
        asker, self.asker = self.asker, None
        if asker is None:
            return
        try:
            asker.judged(verdict)
        except Exception as error:
            audit.event("bug", level="error", what=type(error).__name__, where="judged")
            asker.bug()


class Judge(Protocol):
    """The helper process that judges texts too long to be judged between two other clients' messages."""

    def ask(
        self, asker: Asker, judge: Filter, sql: bytes, encoding: str, extended: int, types: tuple[int, ...] = ()
    ) -> Question:
        """Have a text judged as `judge` would; the answer comes later, never before this returns."""


class Catalogue(Protocol):
    """The live catalogue of a database."""

    def refresh_for(self, asker: Asker) -> Question | None:
        """Ask for a newer catalogue, for a name that is not in this one; None: not now, this one has to do."""


class Database(Protocol):
    """What serves the name of a database that clients ask for."""

    @property
    def pool(self) -> Pool: ...

    @property
    def filter(self) -> Filter: ...

    @property
    def catalogue(self) -> Catalogue: ...


@dataclass(slots=True)
class House:
    """What all clients of a process share."""

    stats: Stats
    audit: Audit
    now: Callable[[], float]
    max_query_length: int
    max_client_conn: int
    database: Callable[[str], Database]
    """Return the database of a name; raises UpstreamError for one that is not served."""
    judge: Judge
    register: Callable[[Member, int], tuple[int, bytes]]
    """Make the cancel key of a client, its secret of so many bytes."""
    forget: Callable[[Member], None]
    """Called once, when a client has closed."""
    cancel: Callable[[int, bytes, Callable[[], None]], None]
    """Carry out a CancelRequest, and call the function when nothing of it can reach a later statement."""
    access: Access = field(default_factory=Access)
    """Who may come in, and how they prove who they are."""
    quotas: Quotas = field(default_factory=Quotas)
    """How many of them, and how often."""
    half_close_grace: float = 1.0
    """Seconds without an answer that a client which sends nothing more is taken for one that still reads."""
    observe: bool = False
    """filter.mode: whether what the filter refuses is noted and let through."""
    draining: bool = False
    clients: int = 0
    """Clients that have logged in, or are about to."""

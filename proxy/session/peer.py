"""The client, as its session writes to it: who it is, what it was told, whether it reads, how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proxy.errors import CloseReason
from proxy.pooling.snapshot import NO_SETTINGS, Settings
from proxy.session.ports import Wire

End = Callable[[CloseReason, str, str], None]


@dataclass(slots=True)
class Identity:
    """Say who a client is: for logs, and for messages about who holds what."""

    ident: int
    peer: str
    user: str
    application: str = ""
    method: str = ""
    """How it has proved that, in pg_hba.conf's words."""


class Peer:
    """Hold the way to one client.

    `end` is called once, when the session cannot go on: with the reason, the SQLSTATE and the text that the client has
    to be told, if any; a text is empty where the client knows, or where half a message is out.
    """

    __slots__ = (
        "closed",
        "defaults",
        "delivered",
        "end",
        "finished",
        "full",
        "greeted",
        "leaving",
        "notices",
        "paused",
        "reported",
        "who",
        "wire",
        "writable",
    )

    def __init__(self, wire: Wire, who: Identity, reported: Mapping[str, str], end: End) -> None:
        self.wire = wire
        self.end = end
        self.who = who
        self.greeted = reported
        """ParameterStatus values of its greeting."""
        self.reported = reported
        """Those that it was last told; shared with other sessions until they differ."""
        self.defaults: Settings = NO_SETTINGS
        """What a server reported of itself that the client has been told."""
        self.delivered = 0
        """Counts chunks of upstreams that brought something for the client."""
        self.notices: list[bytes] = []
        """What it is told as soon as no message is half-way out."""
        self.writable = True
        self.full = False
        """The upstream takes nothing more at the moment."""
        self.paused = False
        self.finished = False
        """Nothing more comes from it: FIN."""
        self.leaving: tuple[CloseReason, str, str] | None = None
        """How it ends when what is owed to it has come."""
        self.closed = False

    def pace(self, held_up: bool) -> None:
        """Pause its reading while it waits, does not read itself, or sends faster than the upstream takes."""
        hold = held_up or not self.writable or self.full
        if hold != self.paused and not self.closed:
            self.paused = hold
            if hold:
                self.wire.pause_reading()
            else:
                self.wire.resume_reading()

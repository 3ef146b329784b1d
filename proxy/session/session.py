"""What one client's session is: its parts, and what others may ask of them.

Everything that happens to it arrives at its `Conversation`.
"""

from __future__ import annotations

from proxy import protocol as p
from proxy.errors import UpstreamError
from proxy.pooling.owed import Learned
from proxy.pooling.sent import Awaits, Groups
from proxy.pooling.snapshot import Settings
from proxy.pooling.statements import Context, Prepared
from proxy.pooling.unnamed import Unnamed
from proxy.session.inbox import Inbox
from proxy.session.judging import Judging
from proxy.session.ledger import Ledger
from proxy.session.link import Link
from proxy.session.local_transaction import LocalTransaction
from proxy.session.peer import Peer
from proxy.session.ports import Database, House, Port
from proxy.session.quotas import Meter
from proxy.sql.functions import Functions
from proxy.sql.verdict import Effect, Verdict

Effects = tuple[tuple[Effect, str], ...]

Unparsed = tuple[bytes, Context | Learned, Verdict, Functions, str]
"""An unnamed statement: its Parse message, what shaped it, the verdict, what that was found by, its codec."""


class Session:
    """Hold one client's session, from its greeting on. Pure: bytes come in, and leave through ports."""

    __slots__ = (
        "activity",
        "answered",
        "awaits",
        "codec",
        "doing",
        "filter",
        "groups",
        "house",
        "inbox",
        "judge",
        "ledger",
        "link",
        "local",
        "meter",
        "peer",
        "pool",
        "port",
        "prepared",
        "repeated",
        "swallowing",
        "texts",
        "token",
        "told_path",
        "unnamed",
        "wait_error",
    )

    def __init__(self, house: House, database: Database, ledger: Ledger, peer: Peer, codec: str, port: Port):
        self.house = house
        self.pool = database.pool
        self.ledger = ledger
        self.peer = peer
        self.port = port
        """Where all that the session has asked for arrives."""
        self.codec = codec
        """The Python codec of the client's encoding."""
        self.judge = database.filter
        """The filter of its database."""
        self.filter = self.judge.under(ledger.settings.path)
        """What judges under the search_path that the session has, as far as that is known."""
        self.texts = Judging(house, database, port)
        self.told_path: str | None = None
        """The search_path that the server says the message at the head of the inbox finds; "": it does not say."""
        self.token = object()
        """Stands for this session where something outlives it."""
        self.groups = Groups()
        """Counts what was sent to upstreams, and what of it has been answered."""
        self.unnamed: Unnamed[Unparsed] = Unnamed(self.groups)
        self.prepared = Prepared(self.groups)
        self.link: Link | None = None
        self.local = LocalTransaction()
        self.inbox = Inbox()
        self.awaits = Awaits.NOTHING
        """What the message at the head of the inbox waits for, beside more bytes."""
        self.wait_error: UpstreamError | None = None
        """How that wait has ended, if it was in vain."""
        self.swallowing = False
        """An extended message was refused here: everything up to Sync is ignored."""
        self.repeated = False
        """What is sent was sent to another upstream already, which was lost."""
        self.meter = Meter(house.quotas, peer.who.user, peer.who.peer, house.now) if house.quotas.meters else None
        self.doing: Verdict | None = None
        """What was found of the statement that was last sent to an upstream."""
        self.answered = 0
        """Counts the chunks that brought a ReadyForQuery: while it stands still, one statement runs."""
        self.activity = 0
        """Counts chunks of either side; a sweep that finds it unchanged knows that nothing happened."""

    def __repr__(self) -> str:
        return f"<Session {self.peer.who} {chr(self.status)} {self.link} {self.awaits.name}>"

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return self.ledger.settings

    @property
    def status(self) -> int:
        """Return the transaction status; without an upstream it is the session's own."""
        return self.local.status if self.link is None else self.link.replies.status

    @property
    def running(self) -> bool:
        """Whether a statement is under way."""
        return self.link is not None and bool(self.link.replies.owed)

    @property
    def waiting(self) -> bool:
        """Whether the client stands in its pool's line."""
        return self.awaits is Awaits.UPSTREAM

    @property
    def judging(self) -> bool:
        """Whether the next message waits for a verdict, or for a newer catalogue."""
        return self.awaits is Awaits.VERDICT

    @property
    def held_up(self) -> bool:
        """Whether the message at the head of the inbox waits for something else than more bytes."""
        return self.awaits is not Awaits.NOTHING

    @property
    def whole(self) -> bool:
        """Whether what the client has got ends between two messages."""
        return self.link is None or self.link.replies.whole

    @property
    def leased_at(self) -> float:
        """Return when it took the upstream that it has."""
        return 0.0 if self.link is None else self.link.since

    @property
    def resting(self) -> bool:
        """Whether the client could go now and lose nothing but its session's state."""
        return not (self.held_up or self.running or self.status != p.IDLE or (self.link and self.link.group_open))

    @property
    def unfinished(self) -> bool:
        """Whether an upstream waits for the rest of a message, or of a group whose answers nothing has asked for."""
        link = self.link
        return link is not None and (bool(self.inbox.flow) or (link.group_open and not self.inbox.flushes))

    @property
    def unread(self) -> bool:
        """Whether an upstream waits for the client to read."""
        return self.link is not None and not self.peer.writable

    @property
    def ignored(self) -> bool:
        """Whether the server would ignore an extended message: an error came, and the Sync did not."""
        return self.swallowing or (self.link is not None and self.link.replies.skipping)

    @property
    def may_have_failed(self) -> bool:
        """Whether there is, or may be, a transaction, which a message that is sent now can find failed."""
        return self.local.status != p.IDLE if self.link is None else self.link.transaction.may_have_failed

    @property
    def has_the_servers_letters(self) -> bool:
        """Whether the client's encoding is the server's: names are known by their bytes there."""
        return self.codec == self.filter.python_codec(self.peer.reported.get("server_encoding", ""))

    def pace(self) -> None:
        """Pause or resume the client's reading."""
        self.peer.pace(self.held_up)

    def notify(self, notice: bytes) -> None:
        """Send a notice as soon as no message is half-way out."""
        if self.whole:
            self.peer.wire.write(notice)
        else:
            self.peer.notices.append(notice)

    def encode(self, name: str) -> bytes:
        """Return a name as the client writes it."""
        return name.encode(self.codec, "replace")

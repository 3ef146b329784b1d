"""The live pair of a session and an upstream: what is known of it, from lease to release."""

from __future__ import annotations

from proxy import protocol as p
from proxy.ours import NO_NAME
from proxy.pooling import owed as r
from proxy.pooling.guard import GUARD, READ_ONLY, UNKNOWN
from proxy.pooling.owed import Dropped, Owed
from proxy.pooling.statements import Own
from proxy.session.encoding_ahead import EncodingAhead
from proxy.session.portals import Portals
from proxy.session.ports import Upstream
from proxy.session.transaction_ahead import TransactionAhead

MAX_UNIT = 65_536
"""Bytes of a client's messages that are kept until the first reply to them is there, to be sent again."""


class Link:
    """Hold what one lease has under way. To forget a link is to drop it."""

    __slots__ = (
        "_encoding",
        "_transaction",
        "asking",
        "before",
        "blind",
        "bound",
        "bound_before",
        "cancelled",
        "discards",
        "group_open",
        "held",
        "noted",
        "own",
        "prefix",
        "put_back",
        "put_off",
        "replans",
        "replayed",
        "replies",
        "since",
        "stirred",
        "suffix",
        "unclean",
        "unit",
        "upstream",
    )

    def __init__(self, upstream: Upstream, now: float, status: int, begin: bytes) -> None:
        # Plain slots, set in few lines: a lease is made for each transaction.
        self.upstream = upstream
        self.replies = upstream.replies
        self.held = upstream.held
        self.since = now
        self.before = status, begin, upstream.settings
        """Transaction status and BEGIN of the client before the lease, for a unit that runs again; and what held on the
        upstream then."""
        self.blind = READ_ONLY not in upstream.parameters
        """The server does not report the setting that the guard puts back (before 14)."""
        self.bound = self.bound_before = False
        """The unnamed portal is the client's: a Query has not taken it since then. And it was so when nothing was
        owed: it still is then, if the Bind has failed."""
        self.noted: Portals | None = None
        """What there is to know of its portals; None: nothing."""
        self.unit: bytes | None = b""
        """What was sent since the lease, as long as nothing was answered."""
        self.prefix = self.suffix = b""
        """What goes out ahead of all else, and behind what is sent next."""
        self.group_open = False
        """Extended messages went upstream since the last Sync."""
        self.stirred = False
        """Something is set, or to be set, that each message has to be looked at for: see where it is set."""
        self.discards: int | None = None
        """The last group with a DISCARD ALL, behind which start-up settings are set again."""
        self.put_off = False
        """Behind a DISCARD ALL of the group that is open they are not set again yet."""
        self.replans = self.replayed = False
        """This lease has changed what functions have plans for; it has needed something set or parsed again."""
        self.put_back = False
        """Where the server does not report it: the setting of layer 2 was put back since the client's last group."""
        self.asking = False
        """The server is being asked which client_encoding, or search_path, there is."""
        self.cancelled: str | None = None
        """What runs was cancelled, until the server says that it is done: by this limit of ours, or "", by a user."""
        self.unclean = self.blind
        """A release has something to do: a group was cut, something stands there under the client's own names, or the
        setting of layer 2 has to be put back."""
        self.own: Own | None = None
        """What stands on the upstream under the client's own names; None: nothing ever did."""
        self._transaction: TransactionAhead | None = None
        self._encoding: EncodingAhead | None = None

    @property
    def portals(self) -> Portals:
        """What there is to know of its portals, made when it is looked at."""
        if self.noted is None:
            self.noted = Portals(self.replies.groups)
        return self.noted

    @property
    def transaction(self) -> TransactionAhead:
        """What becomes of the transaction; a lease of one plain query does not look at it."""
        if self._transaction is None:
            self._transaction = TransactionAhead(self.replies.groups, self.replies)
        return self._transaction

    @property
    def encoding(self) -> EncodingAhead:
        """client_encoding behind what is under way; hardly a lease looks at it."""
        if self._encoding is None:
            self._encoding = EncodingAhead(self.replies.groups)
        return self._encoding

    def names_may_change(self, running: bytes | None = None) -> None:
        """As `Portals` has it, if there is anything to know of them."""
        if self.noted is not None:
            self.noted.names_may_change(running)

    def own_name(self, name: bytes) -> bool | None:
        """Return what of a name stands there: see `Own.find`."""
        return None if self.own is None else self.own.find(name)

    def put_own(self) -> Own:
        """Return what stands under the client's own names, where something is put there."""
        if self.own is None:
            self.own = Own(self.replies.groups)
            self.unclean = True
        return self.own

    def __repr__(self) -> str:
        return f"<Link {self.replies!r}{' open' if self.group_open else ''}>"

    @property
    def quiet(self) -> bool:
        """Whether nothing is owed, no group open, and no transaction begun."""
        return not self.replies.owed and self.replies.status == p.IDLE and not self.group_open

    def remember(self, sent: bytes, *, whole: bool = True) -> None:
        """Keep what was sent, to send it again should the upstream be lost before it answers; it has to be `whole`."""
        unit = self.unit + sent if self.unit else sent
        self.unit = unit if whole and len(unit) <= MAX_UNIT else None

    def flushed(self) -> bytes:
        """Return what goes out ahead of all else; it is the caller's now."""
        prefix, self.prefix = self.prefix, b""
        return prefix

    def send(self, data: bytes, start: int, pos: int, out: list[bytes]) -> None:
        """Write what has to go first, the pieces in `out`, and data[start:pos] as it came, in one write."""
        if not (out or pos > start or self.prefix or self.suffix):
            return
        if self.prefix:
            out.insert(0, self.flushed())
        if not out and not start and pos == len(data) and not self.suffix:
            self.upstream.write(data)  # the client's own bytes object
            return
        if pos > start:
            out.append(data[start:pos])
        if self.suffix:
            out.append(self.suffix)
            self.suffix = b""
        self.upstream.write(b"".join(out))

    def ahead(self) -> bytes | None:
        """Return what has to go ahead of a group that begins now: the guard, or nothing.

        None: the group has to wait, until it is known whether it would be in a transaction. In one, the guard is of no
        use: whether a transaction may write was decided when it began, before anything of it ran.
        """
        self.put_back = False
        if not (self.blind or self.replies.awaited):
            return b""
        status = self.transaction.status
        if status == UNKNOWN:
            return None
        return GUARD if status == p.IDLE else b""

    def help(self, sql: bytes, owed: Owed = r.SKIP) -> bytes:
        """Return what runs a statement of ours inside a group of the client's; its replies are owed."""
        self.transaction.asked_in = self.replies.groups.sent
        # Each has a name of its own: where an error or a cancel leaves one behind, it is in nobody's way.
        name = self.held.new_name()
        owe = self.replies.owe
        begin, execute, end = p.run(name, sql)
        owe(r.SKIP)
        owe(r.SKIP)
        owe(owed)
        owe(r.SKIP)
        owe(Dropped(self.held, name))
        return begin + execute + end

    def end_within(self) -> None:
        """Note that a group ends now with something else than a Sync."""
        if self.group_open:
            self.transaction.cut()
            self.unclean = True
        self.group_open = False

    @property
    def untidy(self) -> bool:
        """Whether something stands or runs there that `tidy` has to end before another client gets the upstream."""
        return bool(self.own) or (self._transaction is not None and self._transaction.mixed)

    def tidy(self) -> None:
        """Close what SQL was to see under the client's own names, and end a transaction that has ended by half.

        PostgreSQL 18 takes a Query behind an Execute of the same group for a part of an implicit block, and the Sync
        behind that ends the block, but not the transaction: whatever comes next fails with XX000
        (start_xact_command(), tcop/postgres.c). That is to be a Parse of ours, which may.
        """
        if self.transaction.mixed:
            self.transaction.mixed = False
            name = self.held.new_name()
            self.replies.owe(r.SKIP_ANYHOW)
            self.replies.owe(Dropped(self.held, name))
            self.replies.owe(r.SKIP_SYNC)
            close = p.target(p.CLOSE, b"S", name)
            self.upstream.write(self.flushed() + p.parse(name, b"") + close + p.SYNC_MESSAGE)
        if self.own:
            self.close_all(self.own.all())

    def close_all(self, names: list[bytes]) -> None:
        """Close prepared statements that nobody needs there any more, in a group of ours."""
        closes = [p.target(p.CLOSE, b"S", name) for name in names]
        for _ in closes:
            self.replies.owe(r.SKIP)
        self.replies.owe(r.SKIP_SYNC)
        self.upstream.write(self.flushed() + b"".join(closes) + p.SYNC_MESSAGE)

    def cut_group(self) -> bytes:
        """Return what ends the group here, where the client goes on with it; its replies are the caller's to owe."""
        return p.target(p.CLOSE, b"S", NO_NAME) + p.SYNC_MESSAGE

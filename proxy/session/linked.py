"""The side of a session that faces its upstream: lease, what has to go out first, what comes back, release, loss.

What a client sends, and what becomes of it, is the other side's: `session.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from proxy import protocol as p
from proxy.errors import (
    ADMIN_SHUTDOWN,
    CONNECTION_FAILURE,
    CRASH_SHUTDOWN,
    FEATURE_NOT_SUPPORTED,
    INTERNAL_ERROR,
    CloseReason,
    UpstreamError,
    UpstreamProtocolError,
)
from proxy.filter import Filter
from proxy.ours import NO_NAME, PREFIX
from proxy.pooling import owed as r
from proxy.pooling.guard import GUARD, READ_ONLY, UNKNOWN
from proxy.pooling.owed import Learned, Undone
from proxy.pooling.pool import Pool
from proxy.pooling.pool import Upstream as PooledUpstream
from proxy.pooling.replies import CANCELED, TripwireError
from proxy.pooling.sent import NEVER, Groups, Sent
from proxy.pooling.snapshot import DISCARD_PLANS, NO_SETTINGS, Settings, read_back, replay, restore
from proxy.pooling.statements import Context, Own, Prepared
from proxy.pooling.unnamed import Unnamed
from proxy.session.ledger import SETTING, Ledger
from proxy.session.naming import APPLICATION_NAME
from proxy.session.ports import FRESH, House, Upstream, Wire
from proxy.session.quotas import Excess, Meter
from proxy.session.startup import OF_THE_SERVER
from proxy.sql.functions import Functions
from proxy.sql.verdict import Effect, Verdict

Effects = tuple[tuple[Effect, str], ...]

MAX_UNIT: Final = 65_536
"""Bytes of a client's messages that are kept until the first reply to them is there, to be sent again."""

INTERNAL_ERROR_TEXT: Final = "SideCart met an internal error and closed this connection"

_MESSAGE: Final = re.compile(rb"\0M[^\0]*")
_UPSTREAM_GONE = "terminating connection because the connection to the server was lost"
_BEGIN: Final = p.query(b"BEGIN")
_A_QUIET_MOMENT: Final = 1 << 62
"""More groups than there will ever be: of something that waits until nothing is owed."""

OURS: Final = 1
CLIENTS: Final = 2

Unparsed = tuple[bytes, Context | Learned, Verdict, Functions, str]
"""An unnamed statement: its Parse message, what shaped it, the verdict, what that was found by, its codec."""


@dataclass(slots=True)
class Identity:
    """Say who a client is: for logs, and for messages about who holds what."""

    ident: int
    peer: str
    user: str
    application: str = ""
    method: str = ""
    """How it has proved that, in pg_hba.conf's words."""


class Linked:
    """One client's session, as its pool and its upstream see it.

    `end` is called once, when the session cannot go on: with the reason, the SQLSTATE and the text that the client has
    to be told, if any; a text is empty where the client knows, or where half a message is out.
    """

    __slots__ = (
        "_asked_in",
        "_asking",
        "_begin",
        "_blind",
        "_block",
        "_bound",
        "_bound_before",
        "_bound_in",
        "_cancel_cause",
        "_cancelled",
        "_defaults",
        "_discards",
        "_end",
        "_ending",
        "_filled",
        "_finished",
        "_flow",
        "_flow_drop",
        "_flushes",
        "_former",
        "_fresh",
        "_greeted",
        "_group_open",
        "_have",
        "_house",
        "_inbox",
        "_judge",
        "_lease_state",
        "_leased_at",
        "_leaving",
        "_meter",
        "_need",
        "_notices",
        "_obscured_in",
        "_outside",
        "_own",
        "_parting",
        "_path_in_use",
        "_paused",
        "_portal_of",
        "_portals",
        "_portals_sent",
        "_prefix",
        "_put_back",
        "_put_off",
        "_ran_in",
        "_read_in",
        "_recoded",
        "_repeated",
        "_replans",
        "_replayed",
        "_seen",
        "_stalled",
        "_steered",
        "_steered_until",
        "_suffix",
        "_swallowing",
        "_token",
        "_told_path",
        "_unit",
        "_unnamed_parsed_in",
        "_unnamed_told",
        "_unrun",
        "_upstream_full",
        "_wait_error",
        "_wire",
        "_writable",
        "activity",
        "answered",
        "closed",
        "codec",
        "delivered",
        "doing",
        "filter",
        "groups",
        "ledger",
        "link",
        "pool",
        "prepared",
        "reported",
        "unnamed",
        "waiting",
        "who",
    )

    def __init__(
        self,
        house: House,
        wire: Wire,
        pool: Pool,
        judge: Filter,
        ledger: Ledger,
        who: Identity,
        reported: Mapping[str, str],
        codec: str,
        end: Callable[[CloseReason, str, str], None],
    ) -> None:
        self._house = house
        self._wire = wire
        self._end = end
        self.pool = pool
        self._judge = judge
        self.ledger = ledger
        self.filter = judge.under(ledger.settings.path)
        """What judges under the search_path that the session has, as far as that is known."""
        self.who = who
        self._greeted = reported
        self.reported = reported
        """ParameterStatus values that the client was last told; shared with other sessions until they differ."""
        self.codec = codec
        """The Python codec of the client's encoding."""
        self.groups = Groups()
        """Counts what was sent to upstreams, and what of it has been answered."""
        self.unnamed: Unnamed[Unparsed] = Unnamed(self.groups)
        self.prepared = Prepared(self.groups)
        self.link: Upstream | None = None
        self.waiting = False
        self.closed = False
        self.doing: Verdict | None = None
        """What was found of the statement that was last sent to an upstream."""
        self.answered = 0
        """Counts the chunks that brought a ReadyForQuery: while it stands still, one statement runs."""
        self.activity = 0
        """Counts chunks of either side; a sweep that finds it unchanged knows that nothing happened."""
        self.delivered = 0
        """Counts chunks that brought something for the client."""
        self._meter = Meter(house.quotas, who.user, who.peer, house.now) if house.quotas.meters else None
        self._inbox: list[bytes] = []
        self._have = 0
        self._need = 0
        self._flow = 0  # bytes of a message that is streamed or thrown away as it arrives
        self._flow_drop = False
        self._group_open = False  # extended messages went upstream since the last Sync
        self._swallowing = False  # an extended message was refused here: everything up to Sync is ignored
        self._stalled = False  # the message at the head of the inbox depends on replies that are owed
        self._wait_error: UpstreamError | None = None  # how the wait of the message at the head of the inbox ended
        self._finished = False  # nothing more comes from it: FIN
        self._leaving: tuple[CloseReason, str, str] | None = None  # how it ends when what is owed to it has come
        self._parting: UpstreamError | None = None  # how a transaction was lost that the client is in
        self._notices: list[bytes] = []
        self._prefix = b""
        self._suffix = b""  # goes out behind what is sent next
        self._put_off = False  # behind a DISCARD ALL of the group that is open they are not set again yet
        self._paused = False
        self._writable = True
        self._upstream_full = False
        # Without a link the transaction status is kept here: begun but for the server, or failed (SESSIONS of the
        # documentation: local states), and what makes it real on an upstream.
        self._outside = p.IDLE
        self._begin = _BEGIN
        self._seen = p.IDLE  # the transaction status that the client was last told
        # Those whose statements leave something behind: as far as the server has answered, and what is sent.
        self._portals: dict[bytes, Verdict] = {}
        self._portals_sent: Sent[bytes, Verdict | None] = Sent(self.groups)
        # A portal that may be open was judged by the search_path that the session began with.
        self._path_in_use = False
        # Its Parse, and what the server has said that it gives: all that belongs to its identity, or its rows alone.
        self._unnamed_told: tuple[bytes, bytes, bool] | None = None
        self._portal_of: tuple[bytes, int] | None = None  # whose the unnamed portal is: its Parse; bound in which group
        # The statement that gives rows of another one, or its portal, that was just made, and in which group: what it
        # has found there cannot have gone yet.
        self._fresh: tuple[bytes, int] | None = None
        self._unnamed_parsed_in = NEVER
        # Portals of statements that give the rows of another one: those that were bound since anything has run or was
        # closed, which find what they found at their Bind; and those that have run, and hold their rows.
        # Each has the verdict of its Bind, which is told from others by identity: that may have failed.
        self._unrun: dict[bytes, Verdict] = {}
        self._filled: dict[bytes, Verdict] = {}
        self._own = Own(self.groups)  # statements put on the link under the client's own names
        self._discards: int | None = None  # the last group with a DISCARD ALL, behind which settings were set again
        # The unnamed portal is the client's: a Query has not taken it since it was bound. In which group that was sent,
        # and whether it was so when nothing was owed: then it still is, if the Bind has failed.
        self._bound = self._bound_before = False
        self._bound_in = NEVER
        self._former: Settings | None = None  # what held on the link when it was leased
        self._defaults = NO_SETTINGS  # what a server reported that the client has been told
        self._token = object()  # stands for this session where something outlives it
        self._unit: bytes | None = None  # what was sent since the lease, as long as nothing was answered
        self._lease_state = (p.IDLE, _BEGIN)  # as it was before the lease
        self._leased_at = 0.0
        self._replans = False  # this lease has changed what functions have plans for
        self._flushes = False  # the last message of the open group that was served asks the server for its answers
        self._replayed = False  # this lease has needed something set or parsed again
        self._repeated = False  # the unit has been sent again already
        self._cancelled = False
        self._cancel_cause = ""  # the limit of ours that has cancelled it, until the server says that it is done
        self._ending = False  # COMMIT or ROLLBACK was sent: the transaction ends, however that goes
        # What the status is, or UNKNOWN, behind the last that may have changed it, until so many groups are answered.
        self._steered = 0
        self._steered_until = NEVER
        # In which group something of ours has run, or was parsed; the client has read in it; it has run anything.
        self._asked_in = self._read_in = self._ran_in = NEVER
        self._obscured_in = NEVER  # the last group in which something may have changed client_encoding
        self._asking = False  # the server is being asked which client_encoding there is
        self._recoded = (NEVER, "")  # in this group what comes next is read by this codec, if the server gets to it
        # The search_path that the server says the message at the head of the inbox finds; "": it does not say.
        self._told_path: str | None = None
        self._block = 0  # whose block was begun in the group that is open: OURS, for what is observed, or CLIENTS
        self._blind = False  # the server does not report the setting that the guard puts back (before 14)
        self._put_back = False  # where it does not: whether it was put back since the client's last group

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return self.ledger.settings

    @property
    def customs(self) -> frozenset[str]:
        return self.ledger.settings.customs

    @property
    def status(self) -> int:
        """Return the transaction status; without an upstream it is the session's own."""
        return self._outside if self.link is None else self.link.replies.status

    @property
    def running(self) -> bool:
        """Whether a statement is under way."""
        return self.link is not None and bool(self.link.replies.owed)

    @property
    def _half_sent(self) -> bool:
        """Whether half a message of the client's went upstream."""
        return self._flow > 0 and not self._flow_drop

    @property
    def whole(self) -> bool:
        """Whether what the client has got ends between two messages."""
        return self.link is None or self.link.replies.whole

    @property
    def leased_at(self) -> float:
        """Return when it took the upstream that it has."""
        return self._leased_at

    # --- what the other side has to do ----------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Serve what waits in the inbox."""
        raise NotImplementedError

    def _pace(self) -> None:
        """Pause or resume the client's reading."""
        raise NotImplementedError

    def upstream_writable(self, writable: bool) -> None:
        """Learn that the upstream's write buffer has filled, or has room again."""
        self._upstream_full = not writable
        self._pace()

    # --- lease and release ----------------------------------------------------------------------------------------

    def _lease(self) -> Upstream | None:
        """Take an upstream, or stand in line; None after a wait in vain, too."""
        if self._parting is not None:
            self._wait_error, self._parting = self._parting, None
        if self._wait_error is None and self._meter is not None and (excess := self._meter.look()):
            self._wait_error = self._too_fast(excess)
        if self._wait_error is not None:
            return None
        now = self._house.now()
        upstream = self.pool.lease(self, now, fresh=self._repeated)
        if upstream is None:
            self.waiting = True
            self._pace()
            return None
        return self._attach(upstream, now)

    def _too_fast(self, excess: Excess) -> UpstreamError:
        """Return the error of a statement that came too early; the log has it once, until one was in time."""
        if self._meter is not None and not self._meter.told:
            self._meter.told = True
            who = self.who
            self._house.audit.event("limited", session=who.ident, user=who.user, peer=who.peer, limit=excess.limit)
        error = UpstreamError(excess.text, excess.sqlstate, reason=CloseReason.CLIENT_LIMIT, transient=False)
        error.detail = excess.detail
        error.hint = excess.hint
        return error

    def _attach(self, pooled: PooledUpstream, now: float) -> Upstream:
        link = cast(Upstream, pooled)  # the pool holds what the server opened for it
        self.link = link
        self.unnamed.attach(link.unnamed_of)
        link.unnamed_of = None
        link.replies.listener = self
        link.replies.groups = self.groups
        link.attach(self)
        if not self._writable:
            link.pause_reading()
        self._begin_unit(now)
        self._replayed = self._put_back = self._replans = False
        self._blind = READ_ONLY not in link.parameters
        self._former = link.settings
        self.pool.settle(link)
        if self._defaults is not link.defaults:
            self._tell_defaults(link)
        if link.settings is not self.ledger.settings:
            self._ask_first(replay(link.settings, self.ledger.settings))
            link.settings = self.ledger.settings
            link.customs |= self.ledger.settings.customs
            self._count_replay()
        shaping: object = self.ledger.settings if self.filter.folds else self.ledger.settings.parsing
        if self.filter.dated:
            shaping = self._token
        outdated = self._outdates_plans(link)
        if link.plans is not shaping or outdated:
            link.plans = None
            if self.filter.caches or self.filter.dated or outdated:
                self._ask_first(DISCARD_PLANS)
                link.held.drop_apart()
                link.plans = shaping
        if self._outside != p.IDLE:
            self._make_real(link)
        return link

    def _outdates_plans(self, link: Upstream) -> bool:
        """Whether statements and functions may have plans on a link that keep what a name meant in an older catalogue.

        PostgreSQL analyses nothing anew because a function was created that fits better.
        """
        proofs = self.filter.proofs
        before = link.proofs
        if before is proofs or (proofs is None and before is not FRESH):
            return False
        link.proofs = proofs
        return before is not FRESH

    def _begin_unit(self, now: float) -> None:
        """Remember what is sent from now on, to send it again: nothing is owed, and the client left nothing behind."""
        self._unit = b""
        self._lease_state = (self._outside, self._begin)
        self._leased_at = now
        self.prepared.mark()

    def _ahead(self, link: Upstream) -> bytes | None:
        """Return what has to go ahead of a group that begins now: the guard, or nothing.

        None: the group has to wait, until it is known whether it would be in a transaction. In one, the guard is of no
        use: whether a transaction may write was decided when it began, before anything of it ran.
        """
        self._put_back = False
        if not (self._blind or link.replies.awaited):
            return b""
        status = self._status_behind(link)
        if status == UNKNOWN:
            return None
        return GUARD if status == p.IDLE else b""

    def _steer(self, status: int) -> None:
        """Note what the status is behind what goes out now, in a group whose ReadyForQuery is not owed yet."""
        if self._steered_until <= self.groups.sent:
            self._steered = status
            self._steered_until = self.groups.sent + 1
        else:
            self._steered = UNKNOWN

    def _steer_by(self, link: Upstream, verdict: Verdict) -> None:
        """Note what becomes of the status behind a statement of this verdict."""
        if not verdict.steers:
            return
        if verdict.kind != "rollback_to":
            self._steer(UNKNOWN)
        elif self._status_behind(link) != p.IDLE:
            self._steer(p.IN_TRANSACTION)  # it begins no block, and ends none

    def _status_behind(self, link: Upstream) -> int:
        """Return the transaction status as a message finds it that is sent now, or UNKNOWN."""
        return self._steered if self._is_steered else link.replies.status

    @property
    def _is_steered(self) -> bool:
        """Whether something that may change the transaction status is not answered yet."""
        return self._steered_until > self.groups.answered

    @property
    def _may_have_failed(self) -> bool:
        """Whether there is, or may be, a transaction, which a message that is sent now can find failed."""
        return self.status != p.IDLE or self._is_steered

    def _ended_within(self) -> None:
        """Note that a group ends now with something else than a Sync: ignored, if what stands before it has failed."""
        if self._group_open:
            self._steered = UNKNOWN
            self._steered_until = _A_QUIET_MOMENT
            if self._block == CLIENTS:
                self._block = 0
        self._group_open = False

    def _count_replay(self) -> None:
        """Count a lease that needs something set or parsed again, once."""
        self._house.stats.replays += not self._replayed
        self._replayed = True

    def _make_real(self, link: Upstream) -> None:
        """Begin the transaction on the server that the client is in already, and let it fail if it has failed."""
        self._prefix += self._begin
        self._steer(p.IN_TRANSACTION)
        link.replies.owe(r.SKIP_QUERY)
        self.unnamed.other_sent()
        if self._outside == p.FAILED:
            self._prefix += p.REFUSED_EXECUTE + p.SYNC_MESSAGE
            link.replies.owe(r.SKIP_ANYHOW)
            link.replies.owe(r.SKIP_SYNC)
        self._outside = p.IDLE
        self._begin = _BEGIN

    def _ask_first(self, sql: bytes) -> None:
        """Put a Query of ours in front of what goes out next. It destroys the upstream's unnamed statement."""
        if self.link is not None:
            self._prefix += p.query(sql)
            self.link.replies.owe(r.SKIP_QUERY)
            self.unnamed.other_sent()

    def leased(self, upstream: PooledUpstream) -> None:
        """Go on with what waited for an upstream."""
        self.waiting = False
        link = self._attach(upstream, self._house.now())
        self._go_on()
        if self.link is link:
            # By a newer catalogue it was refused, or has to be judged elsewhere once more: nothing went upstream.
            self._let_go(link)

    def lease_failed(self, error: UpstreamError) -> None:
        """Answer what waited with the error."""
        self.waiting = False
        who = self.who
        self._house.audit.event(
            "lease failed",
            session=who.ident,
            peer=who.peer,
            user=who.user,
            database=self.pool.database,
            reason=error.reason.value,
            why=str(error),
            **({"holders": error.detail} if error.detail else {}),
        )
        self._wait_error = error
        self._go_on()

    def still_waiting(self, seconds: float) -> None:
        text = f"the statement has been waiting for an upstream connection for {seconds:.0f} s"
        self._notify(p.notice_response("NOTICE", "00000", text))

    def holding(self) -> tuple[str, str]:
        reason = "pinned: " + "+".join(self.ledger.pins) if self.ledger.pins else ""
        if not reason:
            reason = "running" if self.running else "in a transaction"
        who = self.who
        return f"{who.user}@{who.peer}" + (f" ({who.application})" if who.application else ""), reason

    def _notify(self, notice: bytes) -> None:
        """Send a notice as soon as no message is half-way out."""
        if self.link is None or self.link.replies.whole:
            self._wire.write(notice)
        else:
            self._notices.append(notice)

    def _let_go(self, link: Upstream) -> bool:
        """Give the upstream back where nothing keeps it; return whether that was so.

        Where settings were changed, or a pin may have ended, the server is asked first; its answer leads here again.
        """
        replies, ledger = link.replies, self.ledger
        if replies.owed or replies.status != p.IDLE or self._group_open or (ledger.pins and not ledger.loosened):
            return False
        if link.cancelling and (self._own or ledger.touched or ledger.loosened):
            link.cancel(partial(self._cancel_ended, link))  # which could hit what is asked now
            return False
        if self._own:
            names = self._own.all()  # what SQL was to see under the client's own names
            if not (ledger.touched or ledger.loosened):
                self._clean_up()
            self._close_all(link, names)
            return False
        if ledger.touched or ledger.loosened:
            self._read_back(link)
            return False
        if surplus := link.held.surplus():
            self._clean_up()
            self._close_all(link, surplus)
            return False
        if self._blind and not self._put_back:
            self._put_back = True
            self._clean_up()
            link.replies.owe(r.GUARDING)
            link.replies.owe(r.SKIP_SYNC)
            link.write(GUARD + p.SYNC_MESSAGE)
            return False
        self._release(link)
        return True

    def _clean_up(self) -> None:
        """Note that what is sent now is ours alone: should the upstream end, the client goes on elsewhere."""
        self._repeated = False
        self._begin_unit(self._house.now())

    def _cancel_ended(self, link: Upstream) -> None:
        if self.link is link and self._let_go(link):
            self._house.stats.transactions += 1

    def _close_all(self, link: Upstream, names: Iterable[bytes]) -> None:
        """Close prepared statements that nobody needs there any more."""
        closes = [p.target(p.CLOSE, b"S", name) for name in names]
        for _ in closes:
            link.replies.owe(r.SKIP)
        link.replies.owe(r.SKIP_SYNC)
        link.write(self._flushed() + b"".join(closes) + p.SYNC_MESSAGE)

    def _read_back(self, link: Upstream) -> None:
        """Ask what the settings are that statements have changed: then they can go to another upstream.

        Only the server knows: a SET can have been rolled back, to a savepoint too, and DateStyle is relative.
        """
        ledger = self.ledger
        lost = restore(ledger.lost) + b";" if ledger.lost else b""
        ledger.lost.clear()
        self._ask_first(lost + read_back(ledger.ask(), state=ledger.asked_state))
        link.write(self._flushed())

    def _end_group(self, link: Upstream) -> None:
        """End the group here, where the client goes on with it: the transaction behind it has nothing of ours in it.

        Where what stands before has failed, the client's messages are ignored up to its own Sync.
        """
        link.replies.owe(Undone(self._ignore_rest))
        link.replies.owe(r.CUT_SYNC)
        self._suffix += p.target(p.CLOSE, b"S", NO_NAME) + p.SYNC_MESSAGE

    def _ignore_rest(self) -> None:
        self._swallowing = True
        self._group_open = False

    def _flushed(self) -> bytes:
        prefix, self._prefix = self._prefix, b""
        return prefix

    def _release(self, link: Upstream) -> None:
        self.link = None
        if not self._writable:
            link.resume_reading()
        if self.ledger.lost:
            link.settings = None
            self.ledger.lost.clear()
        self.pool.settle(link)
        link.unnamed_of = self.unnamed.leave()
        self._unit = None
        self._repeated = self._cancelled = False
        link.detach()
        self.pool.release(link, self._house.now())

    def _pin_for(self, effects: Effects) -> None:
        for reason in self.ledger.apply(effects):
            self._pinned(reason)
        if self.link is not None and (self.ledger.unsure or (self.filter.folds and self.ledger.touched)):
            self.link.plans = None
            self._replans = True

    def _pin(self, reason: str, name: str) -> None:
        if self.ledger.pin(reason, name):
            self._pinned(reason)

    def _pinned(self, reason: str) -> None:
        self._house.stats.pins[reason] += 1
        self._house.audit.event("pinned", session=self.who.ident, user=self.who.user, reason=reason)

    # --- bytes from the upstream ----------------------------------------------------------------------------------

    def upstream_data(self, chunk: bytes) -> None:
        """Take bytes from the linked upstream. Raises nothing: an upstream that breaks the protocol is closed."""
        link = self.link
        if link is None:
            return
        self.activity += 1
        try:
            out = link.replies.feed(chunk)
        except TripwireError as error:
            self._house.stats.bugs += 1
            self._house.audit.event("tripwire", level="error", session=self.who.ident, what=str(error))
            self._end_link(CloseReason.TRIPWIRE)
            return
        except UpstreamProtocolError as error:
            self._house.audit.event("upstream protocol", level="error", session=self.who.ident, what=str(error))
            self._end_link(error.reason)
            return
        if link.replies.halted is not None:
            self._halted(link, link.replies.halted, out)
            return
        if link.replies.skipping:
            self._group_open = True  # a Query in its middle would have ended it: that is ignored, with all up to a Sync
        if out:
            self._unit = None
            self.delivered += 1
            self._house.stats.client_bytes_sent += len(out)
            self._wire.write(out)
        if self._notices and link.replies.whole:
            self._wire.write(b"".join(self._notices))
            self._notices.clear()
        if link.replies.ready:
            self._ready(link)
        elif self._stalled and not self.groups.unanswered:
            # An error: the server ignores the Query whose answer was waited for, as it does all up to the next Sync.
            self._stalled = False
            self._go_on()
        elif self._leaving and not link.replies.owed:
            self._end(*self._leaving)  # behind an error no more is answered

    def _ready(self, link: Upstream) -> None:
        """Act on ReadyForQuery: nothing owed, status `I` and no pin is the end of the link."""
        replies = link.replies
        told, asked = replies.told, replies.asked
        replies.forget_ready()
        self.answered += 1
        if told:
            self._seen = replies.status
        if not replies.owed:
            self._bound_before = self._bound
            self._cancelled = self._ending = False
            self._cancel_cause = ""
            if self._leaving:
                self._end(*self._leaving)
                return
            if not self._group_open:  # else the same chunk had more, of which ReadyForQuery says nothing yet
                self._steered_until = NEVER
                if replies.status == p.IDLE:
                    self._forget_portals()
                    self.ledger.ended()
        if self.ledger.reading and asked:  # an error: a cancel, or a timeout that the client set
            self.ledger.not_read_back()
            self._pin(SETTING, "what could not be read back")
        if self._stalled and not self.groups.unanswered:
            self._stalled = False
            self._go_on()
        if self.link is link and self._let_go(link):
            self._house.stats.transactions += 1

    def skipped_row(self, body: bytes) -> None:
        values = p.row_values(body) if self.ledger.reading else []
        if len(values) != 2:
            return
        carried = self.ledger.heard(values[0] or b"", values[1] or b"", self.codec)
        if carried is None or self.link is None:
            return
        self.filter = self._judge.under(self.ledger.settings.path)
        if carried:
            self.link.settings = self.ledger.settings if self.ledger.as_asked else None
            self.link.customs |= self.ledger.settings.customs
        else:
            # What was set on this upstream cannot be set on another one, or is not known.
            self._pin(SETTING, "what could not be read back")

    # --- an upstream that is lost ---------------------------------------------------------------------------------

    def upstream_lost(self) -> None:
        """Learn that the linked upstream's socket has ended."""
        if self.link is not None:
            self._lose(self.link, CloseReason.UPSTREAM_LOST, CONNECTION_FAILURE, _UPSTREAM_GONE, b"")

    def _halted(self, link: Upstream, body: bytes, out: bytes) -> None:
        """Act on an error after which the upstream is of no use: the server's FATAL, or one to what we asked."""
        fields = p.error_fields(body, self.codec)
        sqlstate, text = fields.get("C", CONNECTION_FAILURE), fields.get("M", _UPSTREAM_GONE)
        reason = CloseReason.UPSTREAM_LOST if link.replies.fatal else CloseReason.DIRTY
        self._house.audit.event("upstream failed", level="warning", session=self.who.ident, sqlstate=sqlstate)
        self._lose(link, reason, sqlstate, text, out)

    def _lose(self, link: Upstream, reason: CloseReason, sqlstate: str, text: str, out: bytes) -> None:
        """Go on without the upstream: run again what has not been answered, or answer it with the error.

        `out` has not been delivered. A client whose session had state on the upstream alone is closed: that is gone.
        """
        if self._unit and self._can_repeat(sqlstate):
            self._repeat(reason)
            return
        if out:
            self._wire.write(out)
        ledger, replies = self.ledger, link.replies
        # Of a client_encoding that its transaction has set nobody would know what it is now.
        gone = ledger.pins or ledger.reading or ledger.recodes or (ledger.touched and self._seen == p.IDLE)
        if gone or self._flow or not replies.whole:
            whole = self._drop_link(reason)
            self._end(reason, ADMIN_SHUTDOWN if sqlstate == CONNECTION_FAILURE else sqlstate, text if whole else "")
            return
        status = p.IDLE if self._seen == p.IDLE or self._ending else p.FAILED
        error = p.error_response("ERROR", sqlstate, text, codec=self.codec)
        answer = replies.abandon(error, status, group_open=self._group_open)
        self._drop_link(reason)
        self._forget_link()
        self._outside, self._begin = status, _BEGIN
        self._swallowing = self._swallowing or self._group_open
        self._group_open = False
        if answer:
            self._seen = status
            self._wire.write(answer)
        elif status == p.FAILED:
            # Nobody expects an answer now: whatever comes next gets it.
            self._parting = UpstreamError(text, sqlstate, reason=reason)
        if self._leaving:
            self._end(*self._leaving)
            return
        if self._stalled:
            self._stalled = False
            self._go_on()

    def _names_may_change(self, running: bytes | None = None) -> None:
        """Note that what runs something, if a function, or closes it may make another statement or cursor of a name.

        `running` is the portal that runs: it has looked its names up.
        """
        self._fresh = None
        if self._unrun:
            self._unrun = {name: bound for name, bound in self._unrun.items() if name == running}

    def _forget_portals(self) -> None:
        self._path_in_use = False
        self._portals.clear()
        self._unrun.clear()
        self._filled.clear()

    def _forget_link(self) -> None:
        """Forget what was sent to a link that has gone, and what it held."""
        self.groups.lose()
        self._forget_portals()
        self._own.all()
        self._prefix = self._suffix = b""
        self._unit = None
        self._repeated = self._cancelled = self._ending = False
        self._cancel_cause = ""
        self._told_path = None
        self._block = 0
        self._steered_until = NEVER
        self.ledger.touched.clear()
        self.ledger.lost.clear()
        self.ledger.ended()

    def _can_repeat(self, sqlstate: str) -> bool:
        """Whether the unit may run on another upstream: once, and nobody wanted it to end."""
        limits = self.pool.limits
        if not limits.retry or self._repeated or self._cancelled or self._flow or self.ledger.pins:
            return False
        if sqlstate == ADMIN_SHUTDOWN:
            return self._house.now() - self._leased_at <= limits.retry_max_age
        return sqlstate not in (CRASH_SHUTDOWN, FEATURE_NOT_SUPPORTED)

    def _repeat(self, reason: CloseReason) -> None:
        """Serve once more what was sent since the lease, on another upstream. The client has seen nothing of it."""
        unit = self._unit or b""
        if self.link is not None:
            self.link.replies.forget()
        self._drop_link(reason)
        self._forget_link()
        self.prepared.undo()
        self._outside, self._begin = self._lease_state
        self._repeated = True
        self._group_open = self._stalled = self._swallowing = False
        self._leaving = None
        self._house.stats.retries += 1
        self._house.audit.event("statement repeated", session=self.who.ident, user=self.who.user, reason=reason.value)
        self._inbox.insert(0, unit)
        if self._meter is not None:
            self._meter.paid = True  # the first of its statements has been counted
        self._go_on()

    def _end_link(self, reason: CloseReason) -> None:
        """Close the upstream, and this client with it."""
        whole = self._drop_link(reason)
        self._end(reason, CONNECTION_FAILURE, _UPSTREAM_GONE if whole else "")

    def _drop_link(self, reason: CloseReason) -> bool:
        """Close the linked upstream; return whether what the client has got of it ends between two messages."""
        link = self.link
        if link is None:
            return True
        self.link = None
        link.detach()
        link.close(reason)
        self.pool.lost(link, self._house.now())
        return link.replies.whole

    def bug(self) -> None:
        """End after an unexpected exception: this session and its upstream never resume."""
        self._house.stats.bugs += 1
        whole = self._drop_link(CloseReason.BUG)
        self._end(CloseReason.BUG, INTERNAL_ERROR, INTERNAL_ERROR_TEXT if whole else "")

    def close(self) -> None:
        """Leave the line, and hand the upstream back: clean, to be cleaned, or not at all."""
        self.closed = True
        self._inbox.clear()
        if self.waiting:
            self.pool.leave(self)
            self.waiting = False
        link, ledger = self.link, self.ledger
        if link is None:
            return
        self.link = None
        link.detach()
        if not self._writable:
            link.resume_reading()
        if ledger.pins or ledger.lost or ledger.touched or ledger.reading:
            link.settings = None
        replies = link.replies
        if ledger.scarred or ledger.tainted or replies.copying or self._half_sent or replies.halted is not None:
            link.close(CloseReason.DIRTY)
            self.pool.lost(link, self._house.now())
            return
        # What is under way is cancelled. Where that can hit a message of ours only DISCARD ALL knows what is left.
        discard = bool(ledger.pins or self._own or link.replies.ours) or self._blind
        if link.replies.owed or link.replies.status != p.IDLE or self._group_open or discard:
            self.pool.recycle(link, discard=discard)
        else:
            self.pool.release(link, self._house.now())

    # Listener of the replies owed

    def bind_failed(self) -> None:
        self._bound = self._bound_before

    def parameter_reported(self, body: bytes) -> bytes | None:
        link = self.link
        name, value = p.note_parameter(link.parameters if link is not None else {}, body)
        if link is not None and (name in OF_THE_SERVER or not self._sets(link, name)):
            self.pool.unsettle(link)
        return self._tell(name, value)

    def _tell(self, name: str, value: str) -> bytes:
        """Return the ParameterStatus that tells the client a value, if it has been told another one."""
        link = self.link
        if (name == READ_ONLY and value == "off") or (name == "standard_conforming_strings" and value != "on"):
            raise TripwireError(f"the upstream reports {name} = {value}")
        if link is not None:
            if link.replies.helping:
                return b""  # what is put on for a Parse of ours comes off again
            if self._leaving and link.replies.cutting:
                return b""  # the client has said Terminate, and no Sync
            if link.replies.resetting and name.lower() in self.ledger.lost:
                # The server's value after a RESET; ours, which follows, is what the client connected with.
                value = self._greeted.get(name, value)
        if name == "client_encoding":
            self.codec = self._codec_of(value)
        elif name == APPLICATION_NAME:
            if self.ledger.naming is not None:
                value = self.ledger.naming.to_client(value)
            self.who.application = value
        if self.reported.get(name) == value:
            return b""
        self.reported = {**self.reported, name: value}
        return p.parameter_status(name, value)

    def _codec_of(self, encoding: str) -> str:
        """Return the Python codec of what the upstream says client_encoding is. Raises TripwireError."""
        codec = self.filter.python_codec(encoding)
        if codec is None:
            raise TripwireError(f"the upstream reports client_encoding = {encoding}")
        return codec

    def _sets(self, link: Upstream, name: str) -> bool:
        """Whether a parameter may have its value from this client, or from what puts its settings on."""
        ledger, former, key = self.ledger, self._former, name.lower()
        if former is None or ledger.unsure or link.replies.helping or link.replies.resetting:
            return True
        if key in ledger.touched or key in ledger.asked:
            return True
        return ledger.settings.get(key) is not None or former.get(key) is not None

    def _tell_defaults(self, link: Upstream) -> None:
        """Tell the client what the server reports by now, where it was told something else."""
        if link.settings is None:
            return  # some may be another client's
        self._defaults = link.defaults
        own = {name for settings in (link.settings, self.ledger.settings) for name, _ in settings.items}
        self._wire.write(b"".join(self._tell(*each) for each in link.parameters.items() if each[0].lower() not in own))

    def in_its_words(self, body: bytes) -> bytes:
        """Put the client's name of a statement in the place of ours, and our limit in that of the user's wish."""
        if self._cancel_cause and CANCELED in body:
            cause, self._cancel_cause = self._cancel_cause, ""
            return _MESSAGE.sub(f"\0Mcanceling statement due to {cause}".encode(), body, count=1)
        start = body.find(PREFIX)
        if start < 0:
            return body
        stop = start
        while stop < len(body) and body[stop] not in b'"\0':
            stop += 1
        ours = body[start:stop]
        return body.replace(ours, self.prepared.shown.get(ours, b"of SideCart"))

    def skipped_error(self, body: bytes) -> bool:
        return self.ledger.reading

    def notification_arrived(self, body: bytes) -> bool:
        # Whoever was let through what the filter refuses may listen, too, and has the upstream for itself.
        return "listen" in self.ledger.pins or self.ledger.scarred

"""One connection to the upstream: log in, read back the read-only settings, serve its owner, clean up, end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

from proxy import protocol as p
from proxy.auth.upstream_login import AUTH_SASL_CONTINUE, UpstreamLogin
from proxy.errors import (
    CONNECTION_FAILURE,
    QUERY_CANCELED,
    CloseReason,
    QueryFailedError,
    UpstreamError,
    UpstreamProtocolError,
)
from proxy.events import Audit
from proxy.pooling import owed as r
from proxy.pooling.guard import START_UP
from proxy.pooling.login import READ_BACK, RETURNED_TO, LoginMessages, demand, login_error
from proxy.pooling.owed import Owed
from proxy.pooling.own_answer import OwnAnswer
from proxy.pooling.pool import Backend, Pool, Term
from proxy.pooling.replies import Replies, TripwireError
from proxy.pooling.sent import Groups
from proxy.pooling.snapshot import NO_SETTINGS, Settings
from proxy.pooling.statements import Held
from proxy.pooling.unnamed import Unnamed
from proxy.session.ports import FRESH, Owner
from proxy.stats import Stats
from proxy.tasks import Tasks

CANCEL_AGAIN: Final = 0.5
"""Seconds after which what an abandoned connection still runs is cancelled once more."""
CHECK_TIMEOUT: Final = 5.0
"""Seconds in which an idle upstream has to answer a Sync. Two idle ones, checked one after the other, and a health
check every few seconds stay below half a minute."""
MAX_IDLE: Final = 64 << 10
"""Bytes that may come from an upstream that nobody has leased or asked: a reload reports a few parameters."""
MAX_DRAIN: Final = 4 << 20
"""Bytes of an abandoned answer that are read and dropped; beyond that a new connection is cheaper."""
_ROLLBACK: Final = p.query(b"ROLLBACK")
_DISCARD_ALL: Final = p.query(b"DISCARD ALL")


class Canceller(Protocol):
    """Sends CancelRequests on connections of their own."""

    async def cancel(self, pid: int, secret: bytes, address: str, *, with_tls: bool) -> str:
        """Return the outcome once the server at this address has dealt with it: `sent` or `failed`."""


class _Cancels:
    """CancelRequests for one upstream, one at a time: a client that repeats itself opens no more connections.

    But the signal of the one under way may be out already, and have hit the statement before: where one is asked for
    meanwhile, another goes behind it, if it has something to hit then. `note` is told whether one is under way, and
    `ended` is called behind each.
    """

    __slots__ = ("_again", "_ended", "_hits", "_note", "_send", "_stats", "_tasks", "_then", "_under_way")

    def __init__(
        self,
        send: Callable[[], Awaitable[str]],
        hits: Callable[[], bool],
        note: Callable[[bool], None],
        ended: Callable[[], None],
        stats: Stats,
        tasks: Tasks,
    ) -> None:
        self._send = send
        self._hits = hits
        self._note = note
        self._ended = ended
        self._stats = stats
        self._tasks = tasks
        self._then: list[Callable[[], None]] = []  # who waits for the end of what is under way, or due
        self._again = False
        self._under_way = False

    def ask(self, then: Callable[[], None] | None) -> None:
        """Send a request; call `then` when it can hit nothing any more."""
        if then is not None:
            self._then.append(then)
        self._again = self._under_way
        if not self._under_way:
            self._under_way = True
            self._note(True)
            self._tasks.start(self._run(), "cancel")

    async def _run(self) -> None:
        again = True
        while again:
            told, self._then, self._again = self._then, [], False
            outcome = "failed"
            again = False
            try:
                outcome = await self._send()
                again = self._again and self._hits()
            finally:
                self._under_way = again
                self._note(again)
                self._stats.cancels[outcome] += 1
                if not again:
                    told += self._then
                    self._then = []
                for then in told:
                    then()
                self._ended()


class _Talk:
    """SideCart's own talk on an upstream: its login, or one Query whose answer is fetched. It waits for answers."""

    __slots__ = ("_answer", "_failure", "_mail", "_messages", "_pause", "_resume")

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause = pause
        self._resume = resume
        self._messages = LoginMessages()
        self._answer: OwnAnswer | None = None  # only while fetching
        self._mail: asyncio.Future[None] | None = None
        self._failure: UpstreamError | None = None

    @property
    def unread(self) -> bool:
        """Whether bytes are left that nobody has taken."""
        return bool(self._messages)

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._answer is not None:
            self._feed_answer(self._answer, data)
        else:
            self._messages.feed(data)
            self._pause()  # until `message` wants more: a proof takes its time
            if self._mail is not None and not self._mail.done():
                self._mail.set_result(None)

    def _feed_answer(self, answer: OwnAnswer, data: bytes) -> None:
        if self._mail is None or self._mail.done():
            return
        try:
            if answer.feed(data):
                self._mail.set_result(None)
        except UpstreamProtocolError as error:
            self._pause()
            self._mail.set_exception(error)

    def fail(self, failure: UpstreamError) -> None:
        """Have whoever waits learn that nothing comes any more; forget what has come."""
        self._failure = failure
        # The upstream and its transport hold each other until cycles are looked for, which may be minutes: nothing is
        # held then that a server can make large.
        self._messages = LoginMessages()
        if self._mail is not None and not self._mail.done():
            if self._answer is not None:
                self._mail.set_exception(failure)
            else:
                self._mail.set_result(None)

    async def message(self) -> tuple[int, bytes]:
        """Return the next whole message of the login.

        Nothing is read between two calls beyond the piece that the last one was in. Raises UpstreamError.
        """
        while (message := self._messages.take()) is None:
            if self._failure is not None:
                raise self._failure
            self._mail = asyncio.get_running_loop().create_future()
            self._resume()
            await self._mail
        return message

    async def answer(self, limit: int) -> list[list[list[bytes | None]]]:
        """Return the rows of each result of a Query that is sent now: see `UpstreamConnection.fetch`."""
        answer = self._answer = OwnAnswer(limit)
        self._mail = asyncio.get_running_loop().create_future()
        try:
            await self._mail
        except BaseException:
            answer.forget()
            raise
        finally:
            self._answer = None
        if answer.error is not None:
            fields = p.error_fields(answer.error)
            raise QueryFailedError(fields.get("C", CONNECTION_FAILURE), fields.get("M", ""))
        for _ in answer.unpack():
            await asyncio.sleep(0)
        return answer.results


class _Keeper:
    """Looks after an upstream while nobody owns it: it is idle, asked for a sign of life, or cleaned.

    It is the listener of its replies then: an idle upstream may say little.
    """

    __slots__ = ("_checking", "_cleaning", "_deadline", "_discard", "_upstream", "dropped", "groups", "unnamed")

    def __init__(self, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        self.groups = Groups()
        self.unnamed: Unnamed[object] = Unnamed(self.groups)
        self._checking = False
        self._cleaning = False
        self._discard = False
        self.dropped = 0
        """Bytes that have come since it was last leased, cleaned or checked."""
        self._deadline: asyncio.TimerHandle | None = None

    def recycle(self, *, discard: bool) -> None:
        """End what runs, roll back, clear the session on request, and tell the pool."""
        upstream = self._upstream
        self._cleaning = True
        self._discard = discard
        self.dropped = 0
        self._deadline = asyncio.get_running_loop().call_later(
            upstream.pool.limits.cancel_wait_timeout, upstream.retire, CloseReason.CANCEL_UNFINISHED
        )
        if upstream.replies.owed:
            self._insist()
        upstream.ask(p.SYNC_MESSAGE, r.SYNC)

    def _insist(self) -> None:
        """Cancel until nothing runs any more: one may overtake its statement, and there may be others behind it."""
        if self._cleaning and not self._upstream.closed and len(self._upstream.replies.owed):
            self._upstream.cancel()
            asyncio.get_running_loop().call_later(CANCEL_AGAIN, self._insist)

    def cancel_ended(self) -> None:
        """Note that the signal of a CancelRequest is out."""
        if self._cleaning and not self._upstream.closed:
            # One more round trip, and it has hit nothing that comes later.
            self._upstream.ask(p.SYNC_MESSAGE, r.SYNC)

    def check(self) -> None:
        """Ask for a sign of life; tell the pool `answered`, or `silent`."""
        self._checking = True
        self.dropped = 0
        self._deadline = asyncio.get_running_loop().call_later(CHECK_TIMEOUT, self._no_sign)
        self._upstream.ask(p.SYNC_MESSAGE, r.SYNC)

    def _no_sign(self) -> None:
        upstream = self._upstream
        text = f"the upstream has not answered for {CHECK_TIMEOUT:g} s on a connection that was idle"
        upstream.close(CloseReason.SERVER_CHECK)
        error = UpstreamError(text, reason=CloseReason.SERVER_CHECK)
        upstream.pool.silent(upstream, error, asyncio.get_running_loop().time())

    def take(self, data: bytes) -> None:
        """Take what has arrived."""
        upstream, replies = self._upstream, self._upstream.replies
        try:
            replies.feed(data)
        except UpstreamProtocolError as error:
            upstream.report(str(error))
            upstream.retire(error.reason)
            return
        self.dropped += len(data)
        if replies.halted is not None:
            upstream.retire(CloseReason.UPSTREAM_LOST if replies.fatal else CloseReason.DIRTY)
        elif self.dropped > (MAX_DRAIN if self._cleaning else MAX_IDLE):
            upstream.retire(CloseReason.DIRTY if self._cleaning else CloseReason.UPSTREAM_FLOOD)
        elif self._checking and not replies.owed:
            self._checking = False
            self._stand_down()
            upstream.pool.answered(upstream, asyncio.get_running_loop().time())
        elif self._cleaning and not replies.owed and not upstream.cancelling:
            self._clean()

    def _clean(self) -> None:
        """Take the next step towards clean; nothing is owed."""
        upstream = self._upstream
        if upstream.replies.status != p.IDLE:
            upstream.ask(_ROLLBACK, r.SKIP_QUERY)
        elif self._discard:
            self._discard = False
            # DISCARD ALL includes RESET ALL, DEALLOCATE ALL, DISCARD PLANS
            upstream.settings = upstream.plans = NO_SETTINGS
            upstream.held.clear()
            upstream.ask(_DISCARD_ALL, r.SKIP_QUERY)
        else:
            self._cleaning = False
            self._stand_down()
            upstream.pool.cleaned(upstream, asyncio.get_running_loop().time())

    def _stand_down(self) -> None:
        """End the watch over what was asked: it has been answered."""
        self._upstream.replies.forget_ready()
        self.stop()

    def stop(self) -> None:
        """Wait for nothing any more."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # Listener of the replies owed

    def bind_failed(self) -> None:
        pass

    def parameter_reported(self, body: bytes) -> bytes | None:
        name, value = p.note_parameter(self._upstream.parameters, body)
        # What an abandoned client has run may still change its encoding; the others it cannot, while it is cleaned too.
        if START_UP.get(name, value) != value and not (self._cleaning and name == "client_encoding"):
            raise TripwireError(f"an upstream that nobody holds reports {name} = {value}")
        if not self._cleaning:
            self._upstream.pool.unsettle(self._upstream)
        return b""

    def skipped_row(self, body: bytes) -> None:
        pass  # what set_config() returns

    def skipped_error(self, body: bytes) -> bool:
        sqlstate = p.error_fields(body).get("C")
        if sqlstate == QUERY_CANCELED:
            return False  # a cancel that came late: nobody knows what it has hit, so the upstream is closed
        raise UpstreamProtocolError(f"the upstream could not be cleaned: {sqlstate}")

    def in_its_words(self, body: bytes) -> bytes:
        return body  # of an abandoned answer

    def notification_arrived(self, body: bytes) -> bool:
        return False


class UpstreamConnection(asyncio.Protocol):
    """One upstream. It is logging in, idle, leased (what arrives goes to its owner), cleaning, or closed."""

    __slots__ = (
        "_audit",
        "_cancels",
        "_closed",
        "_keeper",
        "_owner",
        "_stats",
        "_talk",
        "_transport",
        "backend",
        "cancelling",
        "customs",
        "defaults",
        "held",
        "parameters",
        "plans",
        "pool",
        "proofs",
        "replies",
        "restless",
        "settings",
        "term",
        "unnamed_of",
        "write",
    )

    def __init__(self, pool: Pool, canceller: Canceller, stats: Stats, audit: Audit, tasks: Tasks) -> None:
        self.pool = pool
        self._keeper = _Keeper(self)
        self.replies = Replies(self._keeper)
        self.replies.groups = self._keeper.groups
        self.parameters: dict[str, str] = {}
        self.settings: Settings | None = NO_SETTINGS
        self.plans: object = NO_SETTINGS
        self.proofs: object = FRESH
        self.defaults = NO_SETTINGS
        self.restless = False
        self.customs: set[str] = set()
        self.held = Held(secrets.token_hex(4), pool.limits.max_prepared_statements)
        self.unnamed_of: object | None = None
        self.term = Term()
        self.backend = backend = Backend()
        self._stats = stats
        self._audit = audit
        self._transport: asyncio.Transport | None = None
        self._owner: Owner | None = None
        self._closed = False
        self.cancelling = False
        self._talk: _Talk | None = _Talk(self.pause_reading, self.resume_reading)  # until it has logged in for its pool
        self._cancels = _Cancels(
            lambda: canceller.cancel(*backend.key, backend.address, with_tls=bool(backend.tls_version)),
            lambda: self._owner is not None and self.replies.awaited,
            self._note_cancel,
            self._keeper.cancel_ended,
            stats,
            tasks,
        )

    # --- transport ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self.write = transport.write  # the port's method is the transport's own: no call in between
        tls = transport.get_extra_info("ssl_object")
        self.backend.tls_version = tls.version() if tls is not None else ""

    def data_received(self, data: bytes) -> None:
        owner = self._owner
        if owner is not None:
            try:
                owner.upstream_data(data)
            except Exception as error:
                self._audit.event("bug", level="error", what=type(error).__name__, where="upstream data")
                owner.bug()
        elif self._talk is not None:
            self._talk.feed(data)
        else:
            self._keeper.take(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        talk, owner, self._owner = self._talk, self._owner, None
        if talk is not None:
            text = "the upstream closed the connection during login"
            talk.fail(UpstreamError(text, reason=CloseReason.UPSTREAM_LOGIN))
        if not self._closed:
            self._closed = True
            self._count(CloseReason.UPSTREAM_LOST)
        self._keeper.stop()
        if owner is not None:
            owner.upstream_lost()
        self.pool.lost(self, asyncio.get_running_loop().time())
        self.parameters = {}  # as `_Talk.fail` says

    def pause_writing(self) -> None:
        if self._owner is not None:
            self._owner.upstream_writable(False)

    def resume_writing(self) -> None:
        if self._owner is not None:
            self._owner.upstream_writable(True)

    # --- what sessions and the pool ask ---------------------------------------------------------------------------

    def attach(self, owner: Owner) -> None:
        self._owner = owner
        self._keeper.dropped = 0

    def detach(self) -> None:
        self._owner = None
        self.replies.listener = self._keeper
        self.replies.groups = self._keeper.groups

    def pause_reading(self) -> None:
        if self._transport is not None and not self._closed:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._closed:
            self._transport.resume_reading()

    @property
    def closed(self) -> bool:
        return self._closed

    def _note_cancel(self, under_way: bool) -> None:
        self.cancelling = under_way

    def cancel(self, then: Callable[[], None] | None = None) -> None:
        """Ask the server to cancel what runs here. The upstream goes to nobody else before that has ended."""
        self._cancels.ask(then)

    def recycle(self, *, discard: bool) -> None:
        """End what runs, roll back, clear the session on request, and tell the pool."""
        self._keeper.recycle(discard=discard)

    def check(self) -> None:
        """Ask for a sign of life; tell the pool `answered`, or `silent`."""
        self._keeper.check()

    def close(self, reason: CloseReason) -> None:
        if self._closed:
            return
        self._closed = True
        self._count(reason)
        self._keeper.stop()
        if self._transport is not None:
            if self.backend.auth:  # else it has not logged in, and the server expects something else now
                self._transport.write(p.TERMINATE_MESSAGE)
            self._transport.close()

    def _count(self, reason: CloseReason) -> None:
        if self._talk is None:  # it had logged in for a pool
            self._stats.upstream_closes[reason.value] += 1
            self._audit.event("upstream closed", database=self.pool.database, reason=reason.value)

    # --- what its keeper does with it -----------------------------------------------------------------------------

    def ask(self, message: bytes, owed: Owed) -> None:
        """Send a message of ours; `owed` is the reply to it."""
        self.replies.owe(owed)
        self.write(message)

    def report(self, what: str) -> None:
        """Log how the server breaks the protocol."""
        self._audit.event("upstream protocol", level="error", what=what)

    def retire(self, reason: CloseReason) -> None:
        """Close it, and tell the pool."""
        self.close(reason)
        self.pool.lost(self, asyncio.get_running_loop().time())

    # --- login ----------------------------------------------------------------------------------------------------

    async def log_in(self, user: str, login: UpstreamLogin) -> None:
        """Log in with a StartupMessage of our keys only, and read back that the session is read-only.

        Raises UpstreamError or UpstreamProtocolError, also where more comes than MAX_LOGIN. Afterwards the upstream is
        idle.
        """
        talk, backend = self._talk, self.backend
        if talk is None:
            raise UpstreamProtocolError("login is over")
        self.write(p.startup_message({"user": user, "database": self.pool.dbname, **START_UP}))
        await self._authenticate(talk, login)
        while True:
            kind, body = await talk.message()
            if kind == p.ERROR_RESPONSE:
                raise login_error(p.error_fields(body), self.pool.database)
            if kind == p.PARAMETER_STATUS:
                p.note_parameter(self.parameters, body)
            elif kind == p.BACKEND_KEY_DATA:
                backend.key = int.from_bytes(body[:4], "big"), body[4:]
            elif kind == p.READY_FOR_QUERY:
                break
            elif kind != p.NOTICE_RESPONSE:
                raise UpstreamProtocolError(f"backend message {chr(kind)!r} out of place during login")
        backend.auth = login.name
        await self._read_back(talk)
        if talk.unread:
            raise UpstreamProtocolError("bytes after the end of the login")
        self._talk = None
        self.resume_reading()

    async def _authenticate(self, talk: _Talk, login: UpstreamLogin) -> None:
        while not login.done:
            kind, body = await talk.message()
            if kind == p.AUTHENTICATION:
                # A server chooses how often the password is hashed: other clients are served meanwhile.
                long = body[:4] == AUTH_SASL_CONTINUE.to_bytes(4, "big")
                answer = await asyncio.to_thread(login.step, body) if long else login.step(body)
                if answer is not None:
                    self.write(p.message(p.PASSWORD, answer))
            elif kind == p.ERROR_RESPONSE:
                raise login_error(p.error_fields(body), self.pool.database)
            elif kind != p.NOTICE_RESPONSE:
                raise UpstreamProtocolError(f"backend message {chr(kind)!r} out of place during login")

    async def _read_back(self, talk: _Talk) -> None:
        """Believe no parameter that was not read back: a pooler in between may have dropped it."""
        backend = self.backend
        *kept, path, pid = await self._row(talk, READ_BACK, len(START_UP) + 2)
        demand(kept)
        try:
            backend.path = bytes.fromhex(path).decode("iso8859-1")  # what is compared with it is ASCII
            backend.pid = int(pid)
        except ValueError:
            raise UpstreamProtocolError("the session's own settings are no answer") from None
        backend.pooled = backend.pid != backend.key[0]
        if backend.pooled:
            demand(await self._row(talk, RETURNED_TO, len(START_UP)))

    async def _row(self, talk: _Talk, query: bytes, columns: int) -> list[str]:
        """Return the one row of a Query of the login. Raises UpstreamError, UpstreamProtocolError."""
        self.write(p.query(query))
        row: list[bytes | None] = []
        while True:
            kind, body = await talk.message()
            if kind == p.DATA_ROW:
                row = p.row_values(body)
            elif kind == p.ERROR_RESPONSE:
                raise login_error(p.error_fields(body), self.pool.database)
            elif kind == p.PARAMETER_STATUS:
                p.note_parameter(self.parameters, body)
            elif kind == p.READY_FOR_QUERY:
                break
        if len(row) != columns:
            raise UpstreamProtocolError("the session's own settings are no answer")
        return [(value or b"").decode("ascii", "replace") for value in row]

    async def fetch(self, query: bytes, limit: int) -> list[list[list[bytes | None]]]:
        """Run one Query on an idle upstream that is closed afterwards; return the rows of each of its results.

        Statements without a result count for nothing. Raises QueryFailedError where the server answers with an error,
        UpstreamProtocolError where there is more than `limit` bytes of memory can hold, or what does not belong there.
        """
        if self._closed:
            text = "the upstream closed the connection during login"
            raise UpstreamError(text, reason=CloseReason.UPSTREAM_LOGIN)
        self._talk = talk = _Talk(self.pause_reading, self.resume_reading)
        self.write(p.query(query))
        return await talk.answer(limit)

"""One connection to the upstream: log in, read back the read-only settings, serve its owner, clean up, end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
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
from proxy.pooling.pool import Pool
from proxy.pooling.replies import Replies, TripwireError
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


class UpstreamConnection(asyncio.Protocol):
    """One upstream. It is logging in, idle, leased (what arrives goes to its owner), cleaning, or closed.

    While nobody owns it, it is the listener of its own replies: an idle upstream may say little.
    """

    __slots__ = (
        "_answer",
        "_audit",
        "_canceller",
        "_cancels",
        "_checking",
        "_cleaning",
        "_closed",
        "_deadline",
        "_discard",
        "_dropped",
        "_failure",
        "_groups",
        "_mail",
        "_messages",
        "_owner",
        "_stats",
        "_tasks",
        "_then",
        "_transport",
        "address",
        "auth",
        "born",
        "customs",
        "defaults",
        "expires",
        "heard",
        "held",
        "idle_since",
        "key",
        "outlived",
        "parameters",
        "path",
        "pid",
        "plans",
        "pool",
        "pooled",
        "proofs",
        "replies",
        "restless",
        "settings",
        "tls_version",
        "unnamed",
        "unnamed_of",
        "write",
    )

    def __init__(self, pool: Pool, canceller: Canceller, stats: Stats, audit: Audit, tasks: Tasks) -> None:
        self.pool = pool
        self.replies = Replies(self)
        self._groups = self.replies.groups
        self.parameters: dict[str, str] = {}
        self.settings: Settings | None = NO_SETTINGS
        self.plans: object = NO_SETTINGS
        self.proofs: object = FRESH
        self.defaults = NO_SETTINGS
        self.restless = False
        self.customs: set[str] = set()
        self.held = Held(secrets.token_hex(4), pool.limits.max_prepared_statements)
        self.unnamed: Unnamed[object] = Unnamed(self._groups)
        self.unnamed_of: object | None = None
        self.born = 0.0
        self.expires = 0.0
        self.outlived = CloseReason.SERVER_LIFETIME
        self.address = ""
        self.path = ""
        """The search_path that RESET returns to: the role's, the database's or the configuration's."""
        self.auth = ""
        self.idle_since = 0.0
        self.heard = 0.0
        self.pid = 0
        self.key = (0, b"")
        """What a CancelRequest names: process and secret, the pooler's where there is one."""
        self.pooled = False
        """Whether a pooler stands in between: the server's process is not the one that BackendKeyData names."""
        self.tls_version = ""
        self._canceller = canceller
        self._stats = stats
        self._audit = audit
        self._tasks = tasks
        self._transport: asyncio.Transport | None = None
        self._owner: Owner | None = None
        self._closed = False
        self._cancels = 0  # requests under way, or due behind that: one of each at most
        self._then: list[Callable[[], None]] = []  # who waits for the end of the cancel that is under way
        self._checking = False
        self._cleaning = False
        self._discard = False
        self._dropped = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._messages: LoginMessages | None = LoginMessages()  # until it has logged in for its pool
        self._answer: OwnAnswer | None = None  # only while fetching
        self._mail: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    # --- transport ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self.write = transport.write  # the port's method is the transport's own: no call in between
        tls = transport.get_extra_info("ssl_object")
        self.tls_version = tls.version() if tls is not None else ""

    def data_received(self, data: bytes) -> None:
        owner = self._owner
        if owner is not None:
            try:
                owner.upstream_data(data)
            except Exception as error:
                self._audit.event("bug", level="error", what=type(error).__name__, where="upstream data")
                owner.bug()
        elif self._answer is not None:
            self._answered(self._answer, data)
        elif self._messages is not None:
            self._messages.feed(data)
            self.pause_reading()  # until `_message` wants more: a proof takes its time
            self._wake()
        else:
            self._unowned(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._failure = self._failure or UpstreamError(
            "the upstream closed the connection during login", reason=CloseReason.UPSTREAM_LOGIN
        )
        if self._answer is not None and self._mail is not None and not self._mail.done():
            self._mail.set_exception(self._failure)
        self._wake()
        owner, self._owner = self._owner, None
        if not self._closed:
            self._closed = True
            self._count(CloseReason.UPSTREAM_LOST)
        if self._deadline is not None:
            self._deadline.cancel()
        if owner is not None:
            owner.upstream_lost()
        self.pool.lost(self, asyncio.get_running_loop().time())
        # This object and its transport hold each other until cycles are looked for, which may be minutes: it holds
        # nothing then that a server can make large.
        self.parameters = {}
        self._messages = LoginMessages()

    def pause_writing(self) -> None:
        if self._owner is not None:
            self._owner.upstream_writable(False)

    def resume_writing(self) -> None:
        if self._owner is not None:
            self._owner.upstream_writable(True)

    # --- what sessions and the pool ask ---------------------------------------------------------------------------

    def attach(self, owner: Owner) -> None:
        self._owner = owner
        self._dropped = 0

    def detach(self) -> None:
        self._owner = None
        self.replies.listener = self
        self.replies.groups = self._groups

    def pause_reading(self) -> None:
        if self._transport is not None and not self._closed:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._closed:
            self._transport.resume_reading()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def cancelling(self) -> bool:
        return self._cancels > 0

    def cancel(self, then: Callable[[], None] | None = None) -> None:
        """Ask the server to cancel what runs here. The upstream goes to nobody else before that has ended.

        One request at a time: a client that repeats itself opens no more connections to the server. But the signal of
        the one under way may be out already, and have hit the statement before: another one goes behind it.
        """
        if then is not None:
            self._then.append(then)
        if not self._cancels:
            self._tasks.start(self._cancel(), "cancel")
        self._cancels = min(2, self._cancels + 1)

    async def _cancel(self) -> None:
        while self._cancels:
            outcome = "failed"
            told, self._then = self._then, []
            try:
                outcome = await self._canceller.cancel(*self.key, self.address, with_tls=bool(self.tls_version))
            finally:
                # Another one has something to hit only as long as an owner waits for an answer.
                self._cancels = self._cancels - 1 if self._owner is not None and self.replies.awaited else 0
                self._stats.cancels[outcome] += 1
                if not self._cancels:
                    told += self._then
                    self._then = []
                for then in told:
                    then()
                if self._cleaning and not self._closed:
                    # The signal is out; one more round trip, and it has hit nothing that comes later.
                    self._ask(p.SYNC_MESSAGE, r.SYNC)

    def close(self, reason: CloseReason) -> None:
        if self._closed:
            return
        self._closed = True
        self._count(reason)
        if self._deadline is not None:
            self._deadline.cancel()
        if self._transport is not None:
            if self.auth:  # else it has not logged in, and the server expects something else now
                self._transport.write(p.TERMINATE_MESSAGE)
            self._transport.close()

    def _count(self, reason: CloseReason) -> None:
        if self._messages is None:  # it had logged in for a pool
            self._stats.upstream_closes[reason.value] += 1
            self._audit.event("upstream closed", database=self.pool.database, reason=reason.value)

    # --- unowned --------------------------------------------------------------------------------------------------

    def recycle(self, *, discard: bool) -> None:
        """End what runs, roll back, clear the session on request, and tell the pool."""
        self._cleaning = True
        self._discard = discard
        self._dropped = 0
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(
            self.pool.limits.cancel_wait_timeout, self._retire, CloseReason.CANCEL_UNFINISHED
        )
        if self.replies.owed:
            self._insist()
        self._ask(p.SYNC_MESSAGE, r.SYNC)

    def _insist(self) -> None:
        """Cancel until nothing runs any more: one may overtake its statement, and there may be others behind it."""
        if self._cleaning and not self._closed and len(self.replies.owed):
            self.cancel()
            asyncio.get_running_loop().call_later(CANCEL_AGAIN, self._insist)

    def check(self) -> None:
        """Ask for a sign of life; tell the pool `answered`, or `silent`."""
        self._checking = True
        self._dropped = 0
        self._deadline = asyncio.get_running_loop().call_later(CHECK_TIMEOUT, self._no_sign)
        self._ask(p.SYNC_MESSAGE, r.SYNC)

    def _no_sign(self) -> None:
        text = f"the upstream has not answered for {CHECK_TIMEOUT:g} s on a connection that was idle"
        self.close(CloseReason.SERVER_CHECK)
        self.pool.silent(self, UpstreamError(text, reason=CloseReason.SERVER_CHECK), asyncio.get_running_loop().time())

    def _ask(self, message: bytes, owed: Owed) -> None:
        self.replies.owe(owed)
        self.write(message)

    def _unowned(self, data: bytes) -> None:
        try:
            self.replies.feed(data)
        except UpstreamProtocolError as error:
            self._audit.event("upstream protocol", level="error", what=str(error))
            self._retire(error.reason)
            return
        self._dropped += len(data)
        if self.replies.halted is not None:
            self._retire(CloseReason.UPSTREAM_LOST if self.replies.fatal else CloseReason.DIRTY)
        elif self._dropped > (MAX_DRAIN if self._cleaning else MAX_IDLE):
            self._retire(CloseReason.DIRTY if self._cleaning else CloseReason.UPSTREAM_FLOOD)
        elif self._checking and not self.replies.owed:
            self._checking = False
            self._stand_down()
            self.pool.answered(self, asyncio.get_running_loop().time())
        elif self._cleaning and not self.replies.owed and not self.cancelling:
            self._clean()

    def _stand_down(self) -> None:
        """End the watch over what was asked: it has been answered."""
        self.replies.forget_ready()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _clean(self) -> None:
        """Take the next step towards clean; nothing is owed."""
        if self.replies.status != p.IDLE:
            self._ask(_ROLLBACK, r.SKIP_QUERY)
        elif self._discard:
            self._discard = False
            self.settings = self.plans = NO_SETTINGS  # DISCARD ALL includes RESET ALL, DEALLOCATE ALL, DISCARD PLANS
            self.held.clear()
            self._ask(_DISCARD_ALL, r.SKIP_QUERY)
        else:
            self._cleaning = False
            self._stand_down()
            self.pool.cleaned(self, asyncio.get_running_loop().time())

    def _retire(self, reason: CloseReason) -> None:
        self.close(reason)
        self.pool.lost(self, asyncio.get_running_loop().time())

    # Listener of the replies owed, while nobody owns this upstream

    def bind_failed(self) -> None:
        pass

    def parameter_reported(self, body: bytes) -> bytes | None:
        name, value = p.note_parameter(self.parameters, body)
        # What an abandoned client has run may still change its encoding; the others it cannot, while it is cleaned too.
        if START_UP.get(name, value) != value and not (self._cleaning and name == "client_encoding"):
            raise TripwireError(f"an upstream that nobody holds reports {name} = {value}")
        if not self._cleaning:
            self.pool.unsettle(self)
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

    # --- login ----------------------------------------------------------------------------------------------------

    async def log_in(self, user: str, login: UpstreamLogin) -> None:
        """Log in with a StartupMessage of our keys only, and read back that the session is read-only.

        Raises UpstreamError or UpstreamProtocolError, also where more comes than MAX_LOGIN. Afterwards the upstream is
        idle.
        """
        self.write(p.startup_message({"user": user, "database": self.pool.dbname, **START_UP}))
        await self._authenticate(login)
        while True:
            kind, body = await self._message()
            if kind == p.ERROR_RESPONSE:
                raise login_error(p.error_fields(body), self.pool.database)
            if kind == p.PARAMETER_STATUS:
                p.note_parameter(self.parameters, body)
            elif kind == p.BACKEND_KEY_DATA:
                self.key = int.from_bytes(body[:4], "big"), body[4:]
            elif kind == p.READY_FOR_QUERY:
                break
            elif kind != p.NOTICE_RESPONSE:
                raise UpstreamProtocolError(f"backend message {chr(kind)!r} out of place during login")
        self.auth = login.name
        await self._read_back()
        if self._messages:
            raise UpstreamProtocolError("bytes after the end of the login")
        self._messages = None
        self.resume_reading()

    async def _authenticate(self, login: UpstreamLogin) -> None:
        while not login.done:
            kind, body = await self._message()
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

    async def _read_back(self) -> None:
        """Believe no parameter that was not read back: a pooler in between may have dropped it."""
        *kept, path, pid = await self._row(READ_BACK, len(START_UP) + 2)
        demand(kept)
        try:
            self.path = bytes.fromhex(path).decode("iso8859-1")  # what is compared with it is ASCII
            self.pid = int(pid)
        except ValueError:
            raise UpstreamProtocolError("the session's own settings are no answer") from None
        self.pooled = self.pid != self.key[0]
        if self.pooled:
            demand(await self._row(RETURNED_TO, len(START_UP)))

    async def _row(self, query: bytes, columns: int) -> list[str]:
        """Return the one row of a Query of the login. Raises UpstreamError, UpstreamProtocolError."""
        self.write(p.query(query))
        row: list[bytes | None] = []
        while True:
            kind, body = await self._message()
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
        if self._failure is not None:
            raise self._failure
        self._messages = LoginMessages()
        answer = self._answer = OwnAnswer(limit)
        self._mail = asyncio.get_running_loop().create_future()
        self.write(p.query(query))
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

    def _answered(self, answer: OwnAnswer, data: bytes) -> None:
        """Take a piece of the answer that `fetch` waits for."""
        mail = self._mail
        if mail is None or mail.done():
            return
        try:
            if answer.feed(data):
                mail.set_result(None)
        except UpstreamProtocolError as error:
            self.pause_reading()
            mail.set_exception(error)

    async def _message(self) -> tuple[int, bytes]:
        """Return the next whole message of the login.

        Nothing is read between two calls beyond the piece that the last one was in. Raises UpstreamError.
        """
        while self._messages is not None:
            message = self._messages.take()
            if message is not None:
                return message
            if self._failure is not None:
                raise self._failure
            self._mail = asyncio.get_running_loop().create_future()
            self.resume_reading()
            await self._mail
        raise UpstreamProtocolError("login is over")

    def _wake(self) -> None:
        if self._mail is not None and not self._mail.done():
            self._mail.set_result(None)

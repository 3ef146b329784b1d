"""The life of one client's connection: start-up packet, login, session, time limits, end.

Pure, as the session is. The session begins with the greeting; what comes before it is decoded here and nowhere else.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import cast

from proxy import login
from proxy import protocol as p
from proxy import replies as r
from proxy.errors import (
    ADMIN_SHUTDOWN,
    CANNOT_CONNECT_NOW,
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    IDLE_SESSION_TIMEOUT,
    INTERNAL_ERROR,
    INVALID_AUTHORIZATION_SPECIFICATION,
    INVALID_PARAMETER_VALUE,
    PROTOCOL_VIOLATION,
    TOO_MANY_CONNECTIONS,
    ClientProtocolError,
    CloseReason,
    UpstreamError,
    UpstreamProtocolError,
)
from proxy.house import House, Upstream, Wire
from proxy.ledger import Ledger
from proxy.linked import INTERNAL_ERROR_TEXT, Identity, Unparsed
from proxy.naming import APPLICATION_NAME, Naming
from proxy.pool import Pool
from proxy.pool import Upstream as PooledUpstream
from proxy.session import Session
from proxy.snapshot import Settings, replay
from proxy.unnamed import Unnamed


class Phase(enum.Enum):
    """Where a client stands. The phase picks the decoder, never the type byte alone."""

    STARTUP = "startup"
    """Nothing but a start-up packet is legal."""
    LOGIN = "login"
    """The greeting waits for an upstream to say what its settings are."""
    READY = "ready"
    """The session is served."""
    CLOSED = "closed"


class Client:
    """One client, from its first byte in the clear or behind TLS to its last.

    `barred` is why a client that comes this way, from there, may not log in: a sentence and what to do about it.
    """

    __slots__ = (
        "_answered",
        "_barred",
        "_busy_since",
        "_greeter",
        "_house",
        "_inbox",
        "_pool",
        "_seen",
        "_since",
        "_version",
        "_wire",
        "key",
        "phase",
        "session",
        "who",
    )

    def __init__(self, house: House, wire: Wire, peer: str, ident: int, barred: tuple[str, str] | None = None) -> None:
        self._house = house
        self._wire = wire
        self._barred = barred
        self.who = Identity(ident, peer, "")
        self.phase = Phase.STARTUP
        self.session: Session | None = None
        self.key = 0
        """The pid of its cancel key, once it has one."""
        self._greeter: _Greeter | None = None
        self._pool: Pool | None = None
        self._version = p.PROTOCOL_3_0
        self._inbox = b""
        self._answered = 0
        self._busy_since = 0.0
        self._seen = 0
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<Client {self.who} {self.phase.value}>"

    @property
    def quiet_since(self) -> float:
        """Return when something last came from it or for it, as the sweeps have seen it; 0: since the last one."""
        return self._since

    # --- bytes ----------------------------------------------------------------------------------------------------

    def client_data(self, data: bytes) -> None:
        """Take bytes from the client. A client that breaks the protocol is told, and closed."""
        session = self.session
        try:
            if session is not None:
                session.client_data(data)
            elif self.phase is Phase.STARTUP:
                self._startup(self._inbox + data)
            elif self.phase is Phase.LOGIN:
                self._inbox += data  # sent ahead of the greeting: legal, and served after it
        except ClientProtocolError as error:
            self.end(CloseReason.CLIENT_PROTOCOL, error.sqlstate, str(error))

    def client_lost(self) -> None:
        """Learn that the client's socket has ended."""
        self.end(CloseReason.CLIENT_LOST)

    def client_writable(self, writable: bool) -> None:
        """Learn that the client's write buffer has filled, or has room again."""
        if self.session is not None:
            self.session.client_writable(writable)

    # --- login ----------------------------------------------------------------------------------------------------

    def _startup(self, data: bytes) -> None:
        if len(data) < 4 or len(data) < (length := p.startup_length(data)):
            self._inbox = data
            return
        self._inbox = data[length:]
        request = p.read_startup(data[:length])
        if isinstance(request, p.CancelRequest):
            # PostgreSQL, too, closes when the signal is out: whoever waits for that sends the next statement safely.
            self._house.cancel(request.pid, request.secret, partial(self.end, CloseReason.CLIENT_CANCEL_REQUEST))
            return
        self._version = min(request.version, p.PROTOCOL_3_2)
        if self._version != request.version or request.unknown_options:
            self._wire.write(p.negotiate_protocol_version(self._version & 0xFFFF, request.unknown_options))
        try:
            self._login(request.parameters)
        except UpstreamError as error:
            self.refuse(error)

    def _login(self, parameters: dict[str, str]) -> None:
        """Check who asks for what, then greet, at once or as soon as an upstream has confirmed the settings."""
        house, who = self._house, self.who
        who.user = parameters.pop("user", "")
        database = parameters.pop("database", "") or who.user
        if not who.user:
            text = "no PostgreSQL user name specified in startup packet"
            raise login.LoginRefusedError(INVALID_AUTHORIZATION_SPECIFICATION, text)
        if house.draining:
            raise login.LoginRefusedError(CANNOT_CONNECT_NOW, "the database system is shutting down")
        if house.clients >= house.max_client_conn:
            raise login.LoginRefusedError(TOO_MANY_CONNECTIONS, "no more connections allowed (max_client_conn)")
        if self._barred is not None:
            text, hint = self._barred
            raise login.LoginRefusedError(INVALID_AUTHORIZATION_SPECIFICATION, text, hint=hint)
        pool = house.pool_for(database)
        if pool.max_client_conn and pool.clients >= pool.max_client_conn:
            text = f'no more connections allowed to database "{database}" (max_client_conn)'
            raise login.LoginRefusedError(TOO_MANY_CONNECTIONS, text)
        settings = login.vet(parameters, house.filter_for(database))
        house.clients += 1
        pool.clients += 1
        self._pool = pool
        self.phase = Phase.LOGIN
        who.application = settings.get("application_name") or ""
        greeting = login.known_greeting(pool, settings)
        if greeting is not None:
            self.greet(pool, settings, greeting)
            return
        self._wire.pause_reading()
        self._greeter = _Greeter(self, house, pool, settings)
        self._greeter.start()

    def greet(self, pool: Pool, settings: Settings, parameters: dict[str, str]) -> None:
        """Let the client in, with the ParameterStatus values that a private connection would report."""
        house, who = self._house, self.who
        if self._greeter is not None:
            self._greeter = None
            login.remember_greeting(pool, settings, parameters)
            self._wire.resume_reading()
        encoding = parameters.get("server_encoding", "UTF8")
        if encoding != "UTF8" and settings.get("client_encoding") is None:
            # A private connection speaks the database's encoding unless the client asks for another.
            settings = Settings.of((*settings.items, ("client_encoding", encoding)))
            parameters = {**parameters, "client_encoding": encoding}
        judge = house.filter_for(pool.database)
        codec = judge.python_codec(parameters.get("client_encoding", "UTF8")) or "latin-1"
        naming = None
        if pool.application_name:
            naming = Naming(pool.application_name, who.user, parameters.get(APPLICATION_NAME, ""))
        ledger = Ledger(settings, naming)
        self.session = Session(house, self._wire, pool, judge, ledger, who, parameters, codec, self.end)
        self.phase = Phase.READY
        pid, secret = house.register(self, 32 if self._version >= p.PROTOCOL_3_2 else 4)
        self._wire.write(
            p.AUTHENTICATION_OK
            + b"".join(p.parameter_status(name, value) for name, value in parameters.items())
            + p.backend_key_data(pid, secret)
            + p.READY[p.IDLE]
        )
        house.audit.event(
            "login",
            session=who.ident,
            peer=who.peer,
            user=who.user,
            database=pool.database,
            application=who.application,
        )
        self._since = 0.0
        if self._inbox:
            data, self._inbox = self._inbox, b""
            self.client_data(data)

    def refuse(self, error: UpstreamError) -> None:
        """Close a client that may not come in, or that there is no upstream for."""
        self._house.audit.event(
            "login refused",
            level="warning",
            session=self.who.ident,
            peer=self.who.peer,
            user=self.who.user,
            sqlstate=error.sqlstate,
        )
        self.end(error.reason, error.sqlstate, str(error), detail=error.detail, hint=error.hint)

    # --- ends -----------------------------------------------------------------------------------------------------

    def cancel(self, then: Callable[[], None] | None = None) -> str:
        """Cancel what this client runs or waits for; return the outcome for the metric."""
        return "idle" if self.session is None else self.session.cancel(then)

    def drain(self) -> None:
        """End this client because SideCart shuts down, unless it waits for something or is in a transaction."""
        if self.session is None or self.session.resting:
            self.drain_now()

    def drain_now(self) -> None:
        """End this client because SideCart shuts down, whatever it does."""
        self.end(CloseReason.DRAIN, ADMIN_SHUTDOWN, "terminating connection due to administrator command")

    def sweep(self, now: float, *, idle: float, idle_transaction: float, query: float, login: float) -> None:
        """Apply the time limits, in seconds, 0 meaning none. Called about once a second."""
        session = self.session
        if session is not None and query:
            self._time_query(session, now, query)
        activity = session.activity if session is not None else self._seen
        # Logging in has to end in time, however busily it sends; the other limits start again with every chunk.
        if not self._since or activity != self._seen:
            self._seen = activity
            self._since = now
            return
        quiet = now - self._since
        if session is None:
            if login and quiet >= login:
                self.end(CloseReason.CLIENT_LOGIN_TIMEOUT, PROTOCOL_VIOLATION, "client_login_timeout")
        elif session.waiting or session.judging or session.running:
            return
        elif not session.resting:
            if idle_transaction and quiet >= idle_transaction:
                text = "idle transaction timeout"
                self.end(CloseReason.IDLE_TRANSACTION_TIMEOUT, IDLE_IN_TRANSACTION_SESSION_TIMEOUT, text)
        elif idle and quiet >= idle:
            self.end(CloseReason.CLIENT_IDLE_TIMEOUT, IDLE_SESSION_TIMEOUT, "client_idle_timeout")

    def _time_query(self, session: Session, now: float, limit: float) -> None:
        """Cancel a statement that has run, or been judged, for `limit` seconds, however many rows it has sent."""
        busy = session.running or session.judging
        if not busy or session.answered != self._answered or not self._busy_since:
            self._answered = session.answered
            self._busy_since = now if busy else 0.0
        elif now - self._busy_since >= limit:
            session.cancel()
            self._busy_since = now

    def look_in_line(self) -> None:
        """Leave the line of those who wait for an upstream if the client has gone: nothing is read from it there."""
        if self.session is not None and self.session.waiting and self._wire.hung_up:
            self.client_lost()

    def bug(self) -> None:
        """End after an unexpected exception: this client and its upstream never resume."""
        if self.session is not None:
            self.session.bug()
        else:
            self._house.stats.bugs += 1
            self.end(CloseReason.BUG, INTERNAL_ERROR, INTERNAL_ERROR_TEXT)

    def end(self, reason: CloseReason, sqlstate: str = "", text: str = "", *, detail: str = "", hint: str = "") -> None:
        """Tell the client why, if there is a text, and close. What is half-way out cannot be followed by an error."""
        if self.phase is Phase.CLOSED:
            return
        session = self.session
        if self.phase in (Phase.LOGIN, Phase.READY):
            self._house.clients -= 1
            if self._pool is not None:
                self._pool.clients -= 1
        was_nobody = self.phase is Phase.STARTUP and reason is CloseReason.CLIENT_LOST
        self.phase = Phase.CLOSED
        codec = "utf-8" if session is None else session.codec
        if text and (session is None or session.whole):
            self._wire.write(p.error_response("FATAL", sqlstate, text, detail=detail, hint=hint, codec=codec))
        if session is not None:
            session.close()
        if self._greeter is not None:
            self._greeter.give_up()
        self._wire.close()
        self._house.stats.client_closes[reason.value] += 1
        if not was_nobody:
            who = self.who
            self._house.audit.event("close", session=who.ident, peer=who.peer, user=who.user, reason=reason.value)
        self._house.forget(self)


class _Greeter:
    """Has the settings of a new client validated, and reported, by the server itself: once for each snapshot."""

    __slots__ = ("_client", "_error", "_house", "_link", "_pool", "settings", "unnamed")

    def __init__(self, client: Client, house: House, pool: Pool, settings: Settings) -> None:
        self._client: Client | None = client
        self._house = house
        self._pool = pool
        self._link: Upstream | None = None
        self._error: UpstreamError | None = None
        self.settings = settings
        self.unnamed: Unnamed[Unparsed] = Unnamed()

    def start(self) -> None:
        """Lease an upstream, or stand in line for one."""
        upstream = self._pool.lease(self, self._house.now())
        if upstream is not None:
            self.leased(upstream)

    def give_up(self) -> None:
        """Forget the client: it has gone."""
        self._client = None
        self._pool.leave(self)
        link, self._link = self._link, None
        if link is not None:
            link.settings = None
            link.detach()
            self._pool.recycle(link, discard=False)

    # Waiter

    @property
    def customs(self) -> frozenset[str]:
        return self.settings.customs

    def leased(self, upstream: PooledUpstream) -> None:
        link = self._link = cast(Upstream, upstream)
        link.unnamed_of = None
        if link.settings is self.settings:
            self._done(link)
            return
        link.attach(self)
        link.replies.listener = self
        link.replies.owe(r.SKIP_QUERY)
        link.write(p.query(replay(link.settings, self.settings)))
        link.settings = self.settings
        link.customs |= self.settings.customs  # even if the server refuses them

    def lease_failed(self, error: UpstreamError) -> None:
        if self._client is not None:
            self._client.refuse(error)

    def still_waiting(self, seconds: float) -> None:
        pass  # a notice ahead of the greeting would confuse drivers

    def holding(self) -> tuple[str, str]:
        return ("a client", "logging in")

    def _done(self, link: Upstream) -> None:
        parameters = dict(link.parameters)
        self._link = None
        link.detach()
        self._pool.release(link, self._house.now())
        client = self._client
        if client is None:
            return
        if self._error is not None:
            client.refuse(self._error)
        else:
            client.greet(self._pool, self.settings, parameters)

    # Owner

    def upstream_data(self, chunk: bytes) -> None:
        link = self._link
        if link is None:
            return
        try:
            link.replies.feed(chunk)
        except UpstreamProtocolError:
            self._lose(CloseReason.UPSTREAM_PROTOCOL)
            return
        if link.replies.halted is not None:
            self._lose(CloseReason.UPSTREAM_LOST)
        elif link.replies.ready:
            link.replies.ready = 0
            self._done(link)

    def upstream_lost(self) -> None:
        self._lose(CloseReason.UPSTREAM_LOST)

    def _lose(self, reason: CloseReason) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.detach()
            link.close(reason)
            self._pool.lost(link, self._house.now())
        if self._client is not None:
            self._client.refuse(UpstreamError("the connection to the server was lost during login", reason=reason))

    def upstream_writable(self, writable: bool) -> None:
        pass

    def bug(self) -> None:
        self._house.stats.bugs += 1
        self._lose(CloseReason.BUG)

    # Listener

    def parameter_reported(self, body: bytes) -> bytes | None:
        if self._link is not None:
            name, value = p.parameter_parts(body)
            self._link.parameters[name] = value
        return b""

    def skipped_row(self, body: bytes) -> None:
        pass  # what set_config() returns

    def skipped_error(self, body: bytes) -> bool:
        """Keep the server's words for the client. Its settings are what they were: the replay is one transaction."""
        fields = p.error_fields(body)
        text = fields.get("M", "invalid startup parameter")
        self._error = login.LoginRefusedError(fields.get("C", INVALID_PARAMETER_VALUE), text)
        if self._link is not None:
            self._link.settings = None
        return True

    def in_its_words(self, body: bytes) -> bytes:
        return body

    def notification_arrived(self, body: bytes) -> bool:
        return False

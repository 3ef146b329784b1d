"""The life of one client's connection: start-up packet, proof, login, session, time limits, end.

Pure, as the session is. The session begins with the greeting; what comes before it is decoded here and nowhere else.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial

from proxy import protocol as p
from proxy.auth import scram, upstream_login
from proxy.auth.access import Origin
from proxy.clients.greeting import Greeter
from proxy.clients.time_limits import UNREAD, TimeLimits
from proxy.errors import (
    ADMIN_SHUTDOWN,
    CANNOT_CONNECT_NOW,
    CHARACTER_NOT_IN_REPERTOIRE,
    INTERNAL_ERROR,
    INVALID_AUTHORIZATION_SPECIFICATION,
    INVALID_PASSWORD,
    TOO_MANY_CONNECTIONS,
    ClientProtocolError,
    CloseReason,
    LoginRefusedError,
    NoStartupError,
    UpstreamError,
)
from proxy.pooling.pool import Pool
from proxy.pooling.snapshot import Settings
from proxy.session import startup as login
from proxy.session.application_name import APPLICATION_NAME, Naming
from proxy.session.conversation import Conversation
from proxy.session.from_upstream import INTERNAL_ERROR_TEXT
from proxy.session.ledger import Ledger
from proxy.session.peer import Identity
from proxy.session.ports import Database, End, House, Wire
from proxy.session.quotas import Excess
from proxy.session.session import Session
from proxy.sql.literals import NAMEDATALEN


class Phase(enum.Enum):
    """Where a client stands. The phase picks the decoder, never the type byte alone."""

    STARTUP = "startup"
    """Nothing but a start-up packet is legal."""
    PROOF = "proof"
    """It has to prove who it is: nothing but a message of its authentication is legal."""
    LOGIN = "login"
    """The greeting waits for an upstream to say what its settings are."""
    READY = "ready"
    """The session is served."""
    CLOSED = "closed"


class Client:
    """One client, from its first byte in the clear or behind TLS to its last.

    `arrived` is when it knocked, so that its login ends in time with its TLS handshake; 0 where it is not known.
    """

    __slots__ = (
        "_answered",
        "_busy_since",
        "_database",
        "_exchange",
        "_finished",
        "_greeter",
        "_house",
        "_inbox",
        "_origin",
        "_parameters",
        "_place",
        "_seen",
        "_served",
        "_since",
        "_version",
        "_wire",
        "conversation",
        "key",
        "phase",
        "who",
    )

    def __init__(self, house: House, wire: Wire, origin: Origin, ident: int, arrived: float = 0.0) -> None:
        self._house = house
        self._wire = wire
        self._origin = origin
        self.who = Identity(ident, origin.peer, "")
        self.phase = Phase.STARTUP
        self.conversation: Conversation | None = None
        self.key = 0
        """The pid of its cancel key, once it has one."""
        self._greeter: Greeter | None = None
        self._served: Database | None = None
        """What it was let into."""
        self._exchange: scram.Exchange | None = None
        self._database = ""
        self._parameters: dict[str, str] = {}
        self._place = ("", "")  # what is counted of it in the quotas: its address and its user
        self._version = p.PROTOCOL_3_0
        self._inbox = b""
        self._answered = 0
        self._busy_since = 0.0
        self._seen = 0
        self._since = arrived
        self._finished = (
            0.0,
            0,
        )  # since when it is waited whether a client still reads that sends no more; `delivered`

    def __repr__(self) -> str:
        return f"<Client {self.who} {self.phase.value}>"

    @property
    def session(self) -> Session | None:
        """Return what its session is; None before its greeting."""
        return None if self.conversation is None else self.conversation.session

    @property
    def quiet_since(self) -> float:
        """Return when something last came from it or for it, as the sweeps have seen it; 0: since the last one."""
        return self._since

    # --- bytes ----------------------------------------------------------------------------------------------------

    def client_data(self, data: bytes) -> None:
        """Take bytes from the client. A client that breaks the protocol is told, and closed."""
        try:
            if self.conversation is not None:
                self.conversation.client_data(data)
            elif self.phase is Phase.STARTUP:
                self._startup(self._inbox + data)
            elif self.phase is Phase.PROOF:
                self._prove(self._inbox + data)
            elif self.phase is Phase.LOGIN:
                self._inbox += data  # sent ahead of the greeting: legal, and served after it
        except NoStartupError as error:
            self._house.audit.event("no start-up packet", level="warning", peer=self.who.peer, why=str(error))
            self.end(CloseReason.CLIENT_PROTOCOL)
        except ClientProtocolError as error:
            self.end(CloseReason.CLIENT_PROTOCOL, error.sqlstate, str(error))
        except UpstreamError as error:
            self.refuse(error)

    def client_lost(self) -> None:
        """Learn that the client's socket has ended."""
        self.end(CloseReason.CLIENT_LOST)

    def client_finished(self) -> bool:
        """Learn that the client sends nothing more; return whether an answer is still to come.

        PostgreSQL answers all that it has got. But a client that was closed looks the same: see `look_at_end`.
        """
        if self.phase not in (Phase.LOGIN, Phase.READY) or self._wire.ended is End.RESET:
            self.client_lost()
        else:
            self._note_end()
            if self.conversation is not None:
                self.conversation.client_finished()
        return self.phase is not Phase.CLOSED

    def _note_end(self) -> None:
        if not self._finished[0]:
            self._finished = (self._house.now(), 0 if self.session is None else self.session.peer.delivered)

    def look_at_end(self, now: float) -> None:
        """End a client that sends nothing more where it is gone, or nothing has come for it for long enough."""
        since, delivered = self._finished
        if not since:
            return
        session = self.session
        seen = 0 if session is None else session.peer.delivered
        if self._wire.ended is End.RESET:
            self.client_lost()
        elif seen != delivered or (session is not None and session.unread):
            self._finished = (now, seen)  # what is written to one that is closed is answered with a reset
        elif now - since >= self._house.half_close_grace:
            self.client_lost()

    def client_writable(self, writable: bool) -> None:
        """Learn that the client's write buffer has filled, or has room again."""
        if self.conversation is not None:
            self.conversation.client_writable(writable)

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
        self._identify(request.parameters)

    def _identify(self, parameters: dict[str, str]) -> None:
        """Learn who asks for what, and how it has to prove that. Raises LoginRefusedError."""
        house, who = self._house, self.who
        who.user = _name(parameters.pop("user", ""))
        self._database = _name(parameters.pop("database", "")) or who.user
        self._parameters = parameters
        if not who.user:
            text = "no PostgreSQL user name specified in startup packet"
            raise LoginRefusedError(INVALID_AUTHORIZATION_SPECIFICATION, text, why="no user name")
        if house.draining:
            raise LoginRefusedError(CANNOT_CONNECT_NOW, "the database system is shutting down")
        self._find_room()
        if excess := house.quotas.arrive(who.peer, house.now()):
            raise _too_many(excess)
        self._place = (who.peer, "")
        method = house.access.method(self._origin, self._database, who.user)
        if method == "scram-sha-256":
            self._ask_for_proof()
            return
        if method == "cert":
            self._check_certificate()
        who.method = method
        self._enter()

    def _find_room(self) -> None:
        if self._house.clients >= self._house.max_client_conn:
            raise self._full("no more connections allowed (max_client_conn)", "client.max_client_conn")

    def _full(self, text: str, key: str) -> LoginRefusedError:
        self._house.stats.limited["max_client_conn"] += 1
        hint = f"Close connections that are not needed, or ask the operator of SideCart to raise {key}."
        error = LoginRefusedError(TOO_MANY_CONNECTIONS, text, hint=hint, why="the limit max_client_conn")
        error.reason = CloseReason.CLIENT_LIMIT
        return error

    def _check_certificate(self) -> None:
        """Check that the name in the client's certificate is the user's."""
        user, name = self.who.user, self._origin.certificate
        if name is None:
            text = "connection requires a valid client certificate"
            raise LoginRefusedError(INVALID_AUTHORIZATION_SPECIFICATION, text, why="no certificate")
        if name != user:
            text = f'certificate authentication failed for user "{user}"'
            why = "the certificate is of another user"
            raise LoginRefusedError(INVALID_AUTHORIZATION_SPECIFICATION, text, why=why)

    def _ask_for_proof(self) -> None:
        verifier, known, _ = self._house.access.users.find(self.who.user, self._database)
        self._exchange = scram.Exchange(verifier, known=known, binding=self._origin.binding)
        self.phase = Phase.PROOF
        offer = "".join(name + "\0" for name in self._exchange.mechanisms) + "\0"
        self._wire.write(p.authentication(upstream_login.AUTH_SASL, offer.encode()))
        if self._inbox:
            self._prove(self._inbox)

    def _prove(self, data: bytes) -> None:
        """Take the client's side of the SASL exchange. Raises LoginRefusedError for what proves nothing."""
        exchange = self._exchange
        self._inbox = data
        if len(data) < 5 or exchange is None:
            return
        kind, length = p.read_header(data)
        if kind != p.PASSWORD:
            raise ClientProtocolError(f"expected SASL response, got message type {kind}")
        if not 4 <= length <= scram.MAX_MESSAGE + 4:
            raise ClientProtocolError("invalid message length")
        end = length + 1
        if len(data) < end:
            return
        body, self._inbox = data[5:end], data[end:]
        try:
            if not exchange.started:
                self._wire.write(p.authentication(upstream_login.AUTH_SASL_CONTINUE, exchange.first(body)))
                if self._inbox:
                    self._prove(self._inbox)
                return
            answer = exchange.final(body)
        except scram.ScramError as error:
            raise LoginRefusedError(error.sqlstate, str(error), detail=error.detail, why=str(error)) from None
        if answer is None:
            user = self.who.user
            _, _, why = self._house.access.users.find(user, self._database)
            text = f'password authentication failed for user "{user}"'
            raise LoginRefusedError(INVALID_PASSWORD, text, why=why or "wrong password")
        self._exchange = None
        self.who.method = "scram-sha-256-plus" if exchange.plus else "scram-sha-256"
        self._wire.write(p.authentication(upstream_login.AUTH_SASL_FINAL, answer))
        self._enter()

    def _enter(self) -> None:
        """Let in who has proved who it is: greet it, at once or as soon as an upstream has confirmed its settings."""
        house, who = self._house, self.who
        served = house.database(self._database)
        pool = served.pool
        settings = login.vet(self._parameters, served.filter)
        self._find_room()
        if pool.max_client_conn and pool.clients >= pool.max_client_conn:
            text = f'no more connections allowed to database "{self._database}" (max_client_conn)'
            raise self._full(text, f"databases.{self._database}.max_client_conn")
        if excess := house.quotas.enter(who.user, house.now()):
            raise _too_many(excess)
        self._place = (who.peer, who.user)
        house.clients += 1
        pool.clients += 1
        self._wire.let_in()
        self._served = served
        self.phase = Phase.LOGIN
        self._since = 0.0  # who waits for an upstream has its time from now on
        who.application = settings.get("application_name") or ""
        greeting = login.known_greeting(pool, settings)
        if greeting is not None:
            self.greet(served, settings, greeting)
            return
        self._wire.pause_reading()
        self._greeter = Greeter(self, house, served, settings)
        self._greeter.start()

    def greet(self, served: Database, settings: Settings, parameters: dict[str, str]) -> None:
        """Let the client in, with the ParameterStatus values that a private connection would report."""
        house, who, pool = self._house, self.who, served.pool
        if self._greeter is not None:
            self._greeter = None
            login.remember_greeting(pool, settings, parameters)
            self._wire.resume_reading()
        encoding = parameters.get("server_encoding", "UTF8")
        if encoding != "UTF8" and settings.get("client_encoding") is None:
            # A private connection speaks the database's encoding unless the client asks for another.
            settings = Settings.of((*settings.items, ("client_encoding", encoding)))
            parameters = {**parameters, "client_encoding": encoding}
        codec = served.filter.python_codec(parameters.get("client_encoding", "UTF8")) or "latin-1"
        naming = None
        if pool.application_name:
            naming = Naming(pool.application_name, who.user, parameters.get(APPLICATION_NAME, ""))
        ledger = Ledger(settings, naming)
        self.conversation = Conversation(house, self._wire, served, ledger, who, parameters, codec, self.end)
        self.phase = Phase.READY
        self._wire.receive = self.conversation.client_data  # no call in between
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
            method=who.method,
            tls=self._origin.tls or "off",
        )
        self._since = 0.0
        if self._inbox:
            data, self._inbox = self._inbox, b""
            self.client_data(data)
        if self._finished[0] and self.phase is Phase.READY:
            self.conversation.client_finished()

    def refuse(self, error: UpstreamError) -> None:
        """Close a client that may not come in, or that there is no upstream for."""
        who = self.who
        facts: dict[str, str] = {"why": error.why} if isinstance(error, LoginRefusedError) and error.why else {}
        self._house.stats.logins_refused[error.sqlstate] += 1
        self._house.audit.event(
            "login refused",
            level="warning",
            session=who.ident,
            peer=who.peer,
            user=who.user,
            database=self._database,
            tls=self._origin.tls or "off",
            sqlstate=error.sqlstate,
            **facts,
        )
        self.end(error.reason, error.sqlstate, str(error), detail=error.detail, hint=error.hint)

    # --- ends -----------------------------------------------------------------------------------------------------

    def cancel(self, then: Callable[[], None] | None = None, *, cause: str = "") -> str:
        """Cancel what this client runs or waits for; return the outcome for the metric. `cause`: see `Conversation`."""
        return "idle" if self.conversation is None else self.conversation.cancel(then, cause=cause)

    def drain(self) -> None:
        """End this client because SideCart shuts down, unless it waits for something or is in a transaction."""
        if self.session is None or self.session.resting:
            self.drain_now()

    def drain_now(self) -> None:
        """End this client because SideCart shuts down, whatever it does."""
        self.end(CloseReason.DRAIN, ADMIN_SHUTDOWN, "terminating connection due to administrator command")

    def sweep(self, now: float, limits: TimeLimits) -> None:
        """Apply the time limits. Called about once a second."""
        session = self.session
        if session is not None and limits.query:
            self._time_query(session, now, limits.query)
        activity = session.activity if session is not None else self._seen
        # Logging in has to end in time, however busily it sends; the other limits start again with every chunk.
        if not self._since or activity != self._seen:
            self._seen = activity
            self._since = now
        elif (ending := limits.exceeded(session, now - self._since)) is not None:
            self.end(*ending)

    def unread_for(self, pool: Pool, now: float) -> float:
        """Return for how many seconds it has read nothing of an answer that an upstream of this pool has for it."""
        session = self.session
        if session is None or session.pool is not pool or not session.unread:
            return 0.0
        return now - self._since if self._since and session.activity == self._seen else 0.0

    def end_unread(self) -> None:
        """End this client because it reads nothing of its answer."""
        self.end(*UNREAD)

    def _time_query(self, session: Session, now: float, limit: float) -> None:
        """Cancel a statement that has run, or been judged, for `limit` seconds, however many rows it has sent."""
        busy = session.running or session.judging
        if not busy or session.answered != self._answered or not self._busy_since:
            self._answered = session.answered
            self._busy_since = now if busy else 0.0
        elif now - self._busy_since >= limit:
            self.cancel(cause="client.query_timeout")
            self._busy_since = now

    def look_in_line(self) -> None:
        """See whether a client has ended whose next message waits for something: nothing is read from it then."""
        if self.session is not None and self.session.held_up and self._wire.ended is not End.NONE:
            self._note_end()

    def bug(self) -> None:
        """End after an unexpected exception: this client and its upstream never resume."""
        if self.conversation is not None:
            self.conversation.bug()
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
            if self._served is not None:
                self._served.pool.clients -= 1
        was_nobody = self.phase is Phase.STARTUP and reason is CloseReason.CLIENT_LOST
        self.phase = Phase.CLOSED
        codec = "utf-8" if session is None else session.codec
        if text and (session is None or session.whole):
            self._wire.write(p.error_response("FATAL", sqlstate, text, detail=detail, hint=hint, codec=codec))
        if self.conversation is not None:
            self.conversation.close()
        if self._greeter is not None:
            self._greeter.give_up()
        self._exchange = None
        self._house.quotas.leave(*self._place)
        self._wire.close()
        self._house.stats.client_closes[reason.value] += 1
        if not was_nobody:
            who = self.who
            self._house.audit.event("close", session=who.ident, peer=who.peer, user=who.user, reason=reason.value)
        self._house.forget(self)


def _name(text: str) -> str:
    """Return the name of a user or a database as PostgreSQL takes it: what is too long is cut.

    (ProcessStartupPacket() in src/backend/tcop/backend_startup.c.)
    """
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError:  # what is not UTF-8 was decoded to lone surrogates
        raise LoginRefusedError(
            CHARACTER_NOT_IN_REPERTOIRE, "a startup parameter is not valid UTF-8", why="a name is not UTF-8"
        ) from None
    return text if len(raw) < NAMEDATALEN else raw[: NAMEDATALEN - 1].decode("utf-8", "ignore")


def _too_many(excess: Excess) -> LoginRefusedError:
    why = f"the limit {excess.limit}"
    error = LoginRefusedError(excess.sqlstate, excess.text, detail=excess.detail, hint=excess.hint, why=why)
    error.reason = CloseReason.CLIENT_LIMIT
    return error

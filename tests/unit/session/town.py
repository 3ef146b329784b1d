"""What stands for the world around a session, without a socket: wires, upstreams, the helper; and what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy import protocol as p
from proxy.auth.access import LOOPBACK, Origin
from proxy.clients.client import Client, Phase
from proxy.config.schema import PoolLimits
from proxy.errors import INVALID_CATALOG_NAME, CloseReason, UpstreamError
from proxy.filter import Filter, Policy
from proxy.pooling import owed as r
from proxy.pooling.guard import GUARD, GUARDED, READ_ONLY
from proxy.pooling.pool import Backend, Pool, Term
from proxy.pooling.replies import Replies
from proxy.pooling.snapshot import NO_SETTINGS, Settings
from proxy.pooling.statements import Held
from proxy.pooling.unnamed import Unnamed
from proxy.session.conversation import Conversation
from proxy.session.ports import FRESH, Asker, End, House, Owner, Question, Upstream
from proxy.session.session import Session
from proxy.stats import Stats

READY_I, READY_T, READY_E = (p.READY[s] for s in (p.IDLE, p.IN_TRANSACTION, p.FAILED))
PARSED = p.message(p.PARSE_COMPLETE)
BOUND = p.message(p.BIND_COMPLETE)
SELECTED = p.message(p.COMMAND_COMPLETE, b"SELECT 1\0")
SET = p.message(p.COMMAND_COMPLETE, b"SET\0")
BEGUN = p.message(p.COMMAND_COMPLETE, b"BEGIN\0")
COMMITTED, ROLLED_BACK = (p.message(p.COMMAND_COMPLETE, tag + b"\0") for tag in (b"COMMIT", b"ROLLBACK"))
CLOSED = p.message(p.CLOSE_COMPLETE)
STAND_IN_FAILED = p.error_response("ERROR", "34000", 'portal "sidecart: refused" does not exist')
ROWS = p.message(p.ROW_DESCRIPTION, b"\0\0")
DEALLOCATED = p.message(p.COMMAND_COMPLETE, b"DEALLOCATE\0")
PREPARED = p.message(p.COMMAND_COMPLETE, b"PREPARE\0")
RESET = p.message(p.COMMAND_COMPLETE, b"RESET\0")
DESCRIBED = p.message(p.PARAMETER_DESCRIPTION, b"\0\0") + p.message(
    p.ROW_DESCRIPTION, b"\0\1x\0" + bytes(6) + b"\0\0\0\x17\0\4\xff\xff\xff\xff\0\0"
)
SYNC = p.SYNC_MESSAGE
EXECUTE = p.execute(b"")
BEGIN = p.query(b"begin isolation level serializable")
"""It goes to the server at once."""
PARAMETERS = {
    "server_version": "17.10",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "application_name": "",
    "standard_conforming_strings": "on",
    "default_transaction_read_only": "on",
}


def bind(statement: bytes = b"", portal: bytes = b"", tail: bytes = b"\0\0\0\0\0\0") -> bytes:
    return p.message(p.BIND, portal + b"\0" + statement + b"\0" + tail)


def ran(text: bytes) -> bytes:
    return p.parse(b"", text) + bind() + EXECUTE


def group(text: bytes, *, portal: bytes = b"") -> bytes:
    """Build what most drivers send for a query with parameters."""
    describe = p.message(p.DESCRIBE, b"P" + portal + b"\0")
    return p.parse(b"", text) + bind(portal=portal) + describe + p.execute(portal) + SYNC


class FakeWire:
    """A client's socket: what it was sent, and whether it is read."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.reading = True
        self.closed = False
        self.ended = End.NONE
        self.receive: Callable[[bytes], None] = lambda data: None

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after close"
        self.sent += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def let_in(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        data = bytes(self.sent)
        self.sent.clear()
        return data

    def kinds(self) -> str:
        """Return the type bytes of the messages sent since the last look."""
        data = self.take()
        kinds = ""
        at = 0
        while at < len(data):
            kind, length = p.read_header(data, at)
            kinds += chr(kind)
            at += 1 + length
        assert at == len(data), "half a message"
        return kinds

    def error(self) -> dict[str, str]:
        """Return the fields of the first ErrorResponse since the last look."""
        data = self.take()
        at = 0
        while at < len(data):
            kind, length = p.read_header(data, at)
            if kind == p.ERROR_RESPONSE:
                return p.error_fields(data[at + 5 : at + 1 + length])
            at += 1 + length
        raise AssertionError(f"no error in {data!r}")


class FakeUpstream:
    """A connection to PostgreSQL: what it was sent; a test says what it answers."""

    def __init__(self) -> None:
        self.replies = Replies(self)
        self.parameters = dict(PARAMETERS)
        self.backend = Backend(pid=4711)
        self.settings: Settings | None = NO_SETTINGS
        self.plans: Settings | None = NO_SETTINGS
        self.proofs: object = FRESH
        self.defaults = NO_SETTINGS
        self.restless = False
        self.customs: set[str] = set()
        self.unnamed: Unnamed[object] = Unnamed(self.replies.groups)
        self.groups = self.replies.groups
        self.held = Held("test", 200)
        self.unnamed_of: object | None = None
        self.term = Term(expires=1e9)
        self.cancelling = False
        self.owner: Owner | None = None
        self.sent = bytearray()
        """What it was sent, without the guard of layer 2."""
        self.whole = bytearray()
        """All that it was sent."""
        self.guards = 0
        self.closed: CloseReason | None = None
        self.recycled: bool | None = None
        self.cancels = 0
        self.reading = True

    def attach(self, owner: Owner) -> None:
        self.owner = owner

    def detach(self) -> None:
        self.owner = None
        self.replies.listener = self
        self.replies.groups = self.groups

    def write(self, data: bytes) -> None:
        assert type(data) is bytes
        self.guards += data.count(GUARD)
        self.whole += data
        self.sent += data.replace(GUARD, b"")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def cancel(self, then: Callable[[], None] | None = None) -> None:
        self.cancels += 1
        self.then = then

    def close(self, reason: CloseReason) -> None:
        self.closed = reason

    def recycle(self, *, discard: bool) -> None:
        self.recycled = discard

    def take(self) -> bytes:
        data = bytes(self.sent)
        self.sent.clear()
        return data

    def says(self, *messages: bytes) -> None:
        """Answer; what the guard of layer 2 is answered comes by itself, in its turn."""
        assert self.owner is not None, "nobody listens"
        chunk = b"".join(messages)
        while r.GUARDING in self.replies.owed and chunk and self.owner is not None:
            length = 1 + int.from_bytes(chunk[1:5], "big")
            message, chunk = chunk[:length], chunk[length:]
            self.owner.upstream_data(GUARDED + message if self.replies.owed[0] == r.GUARDING else message)
        if chunk or not messages:
            assert self.owner is not None, "nobody listens"
            self.owner.upstream_data(chunk)

    # Listener, while nobody owns it
    def parameter_reported(self, body: bytes) -> bytes | None:
        return b""

    def skipped_row(self, body: bytes) -> None: ...
    def skipped_error(self, body: bytes) -> bool:
        return True

    def in_its_words(self, body: bytes) -> bytes:
        return body

    def notification_arrived(self, body: bytes) -> bool:
        return False

    def bind_failed(self) -> None: ...


class Quiet:
    """The log: events with their fields, of which `level` is one."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, event: str, /, *, level: str = "info", **fields: str | float | bool | None) -> None:
        self.events.append((event, {"level": level, **fields}))

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]


class FakeJudge:
    """The helper process and the catalogue: questions are kept until the test answers them."""

    def __init__(self, audit: Quiet) -> None:
        self._audit = audit
        self.asked: list[tuple[Question, bytes, str, int]] = []
        self.refreshes: list[Question] = []
        self.refreshable = True

    def ask(
        self, asker: Asker, judge: Filter, sql: bytes, encoding: str, extended: int, types: tuple[int, ...] = ()
    ) -> Question:
        question = Question(asker)
        self.asked.append((question, sql, encoding, extended))
        return question

    def refresh_for(self, asker: Asker) -> Question | None:
        if not self.refreshable:
            return None
        self.refreshes.append(Question(asker))
        return self.refreshes[-1]

    def answer(self, judge: Filter) -> None:
        """Answer the oldest question as the helper would."""
        question, sql, encoding, extended = self.asked.pop(0)
        verdict = judge.judge(sql, encoding, extended=extended)
        judge.remember(sql, encoding, extended, verdict)
        question.tell(verdict, self._audit)

    def refreshed(self, *, newer: bool = True) -> None:
        """End the oldest wait for a newer catalogue: one was read since, or it was in vain."""
        question = self.refreshes.pop(0)
        question.newer = newer
        question.tell(None, self._audit)


class Town:
    """A house with one database, itself, whose upstreams are opened at once when the test says so."""

    def __init__(self, size: int = 2) -> None:
        self.now = 100.0
        self.asked = 0
        self.stats = Stats()
        self.audit = Quiet()
        self.cancelled: list[tuple[int, bytes]] = []
        limits = PoolLimits(default_pool_size=size, min_pool_size=1, query_wait_notify=5.0, query_wait_timeout=15.0)
        self.pool = Pool("shop", limits, self, self.stats, lambda: 1.0)
        self.filter = Filter(Policy(max_query_length=100_000))
        self.judge = FakeJudge(self.audit)
        self.house = House(
            stats=self.stats,
            audit=self.audit,
            now=lambda: self.now,
            max_query_length=100_000,
            max_client_conn=10,
            database=self._database,
            judge=self.judge,
            register=lambda session, length: (1234, b"k" * length),
            forget=lambda session: None,
            cancel=self._cancel,
        )
        self.idents = 0

    @property
    def catalogue(self) -> FakeJudge:
        return self.judge

    def _database(self, name: str) -> Town:
        if name != "shop":
            raise UpstreamError("no", INVALID_CATALOG_NAME, reason=CloseReason.CLIENT_LOGIN_REFUSED)
        return self

    def _cancel(self, pid: int, secret: bytes, then: Callable[[], None]) -> None:
        self.cancelled.append((pid, secret))
        self.then = then

    def open(self, pool: Pool) -> None:
        self.asked += 1

    def probe(self, pool: Pool) -> None: ...

    def opened(self, *, blind: bool = False) -> FakeUpstream:
        upstream = FakeUpstream()
        if blind:  # before PostgreSQL 14 nobody reports it
            del upstream.parameters[READ_ONLY]
        self.asked -= 1
        self.pool.opened(upstream, self.now)
        return upstream

    def knock(self, origin: Origin = LOOPBACK) -> tuple[Client, FakeWire]:
        wire = FakeWire()
        self.idents += 1
        return Client(self.house, wire, origin, self.idents), wire

    def client(self, **parameters: str) -> tuple[Guest, FakeWire]:
        """Return a client that has logged in."""
        client, wire = self.knock()
        client.client_data(p.startup_message({"user": "analyst", "database": "shop", **parameters}))
        if client.phase is Phase.LOGIN and self.asked:
            self.opened()
        for leased in list(self.pool.leased):
            if client.phase is Phase.LOGIN and isinstance(leased, FakeUpstream) and leased.replies.owed:
                leased.take()
                leased.says(SELECTED, READY_I)
        assert client.phase is Phase.READY, wire.sent
        wire.take()
        return Guest(client), wire

    def link(self, session: Guest) -> FakeUpstream:
        upstream = session.link
        assert isinstance(upstream, FakeUpstream)
        return upstream


class Guest:
    """A client and its session as one, for short tests."""

    def __init__(self, client: Client) -> None:
        self.client = client
        assert client.conversation is not None
        self.conversation: Conversation = client.conversation
        self.session: Session = client.conversation.session
        for name in ("client_data", "client_lost", "client_writable", "cancel", "drain", "sweep"):
            setattr(self, name, getattr(client, name))

    @property
    def link(self) -> Upstream | None:
        return None if self.session.link is None else self.session.link.upstream

    def __getattr__(self, name: str) -> object:
        holders = (self.session, self.session.peer, self.conversation)
        return getattr(next((each for each in holders if hasattr(each, name)), self.session), name)

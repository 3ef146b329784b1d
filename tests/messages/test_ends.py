"""Clients that send Terminate, or end their half of the connection (FIN): what they have asked before is answered."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import READER
from tests.messages.conftest import serve
from tests.messages.conversation import Admin
from tests.messages.test_cancel import (
    SLEEP,
    client,
    extended,
    is_over,
    is_running,
    simple,
    vanish,
    vanish_by_reset,
    waits,
)
from tests.running import SideCart
from tests.wire import FLUSH, Wire, bind, execute, what_counts

T = TypeVar("T")
ASKED = {
    "nothing": b"",
    "a Query": simple("SELECT 1"),
    "two Queries": simple("SELECT 1") + simple("SELECT pg_sleep(0.2), 2"),
    "a group": extended("SELECT 1"),
    "a group without Sync": p.parse(b"", b"SELECT 1") + bind("") + execute() + FLUSH,
    "a group without Sync that fails": p.parse(b"", b"SELECT 1/0") + bind("") + execute(),
    "a Query behind an error": p.parse(b"", b"SELECT nope") + simple("SELECT 1"),
    "COPY": simple("COPY (SELECT * FROM generate_series(1, 20000)) TO STDOUT"),
    "a transaction": simple("BEGIN") + simple("SELECT 1"),
    "a transaction that has failed": simple("BEGIN; SELECT 1/0") + simple("SELECT 1"),
    "half a message": simple("SELECT 1") + simple("SELECT 2")[:-3],
    "half a header": simple("SELECT 1") + b"Q\0",
}


@dataclass
class Reached:
    """Hold a SideCart that is reached in several ways."""

    own: SideCart
    folder: str

    def client(self, how: str) -> Wire:
        port = self.own.port
        if how == "tcp":
            return client(self.own)
        wire = Wire(port, login=False)
        wire.sock.close()
        if how == "tls":
            wire.sock = cast(socket.socket, Encrypted(port))
        else:
            wire.sock = socket.socket(socket.AF_UNIX)
            wire.sock.settimeout(20)
            wire.sock.connect(f"{self.folder}/.s.PGSQL.{port}")
        wire.send(p.startup_message({"user": READER, "database": self.own.database}))
        assert wire.until_ready().startswith("R"), wire.error
        return wire


class Encrypted:
    """What a bare connection needs of a socket, over TLS; its goodbye (close_notify) does not wait for the peer's."""

    def __init__(self, port: int) -> None:
        self._raw = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._raw.sendall(p.SSL_REQUEST)
        assert self._raw.recv(1) == b"S"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._do(self._tls.do_handshake)
        self._flush()
        self.close = self._raw.close

    def _do(self, what: Callable[[], T]) -> T:
        while True:
            try:
                return what()
            except ssl.SSLWantReadError:
                self._flush()
                self._incoming.write(self._raw.recv(65536))

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._raw.sendall(data)

    def sendall(self, data: bytes) -> None:
        if data:
            self._tls.write(data)
            self._flush()

    def recv(self, size: int) -> bytes:
        try:
            return self._do(lambda: self._tls.read(size))
        except ssl.SSLZeroReturnError:
            return b""

    def shutdown(self, how: int) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._flush()
        self._raw.shutdown(how)


def rest(wire: Wire) -> list[tuple[int, object]]:
    """Read everything up to the end."""
    found = []
    while (got := wire.message())[0]:
        found.append((got[0], what_counts(*got)))
    return found


@contextlib.contextmanager
def reachable(reached: Upstream, grace: str) -> Iterator[Reached]:
    """Run a SideCart with one upstream, on TCP, over TLS and on a Unix socket; its clients wait as long as it takes."""
    with (
        tempfile.TemporaryDirectory(prefix="sidecart-") as folder,
        serve(
            reached,
            1,
            SIDECART_POOL_QUERY_WAIT_TIMEOUT="1min",
            SIDECART_LISTEN_UNIX_SOCKET_DIR=folder,
            SIDECART_CLIENT_HALF_CLOSE_GRACE=grace,
        ) as own,
    ):
        yield Reached(own, folder)
        assert own.metric("sidecart_bugs_total") == 0, own.log[-8000:]


@pytest.fixture(scope="module")
def open_to_all(reached: Upstream) -> Iterator[Reached]:
    with reachable(reached, "1min") as places:
        yield places


@pytest.fixture(scope="module")
def hasty(reached: Upstream) -> Iterator[Reached]:
    with reachable(reached, "1s") as places:
        yield places


@pytest.mark.parametrize("how", ["tcp", "tls", "unix"])
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_what_was_asked_before_FIN_is_answered(  # noqa: N802
    asked: bytes, how: str, open_to_all: Reached, private: EmbeddedServer
) -> None:
    answers = []
    for wire in (Wire(private.port, login=True, user=READER), open_to_all.client(how)):
        with wire:
            wire.send(asked)
            wire.sock.shutdown(socket.SHUT_WR)
            answers.append(rest(wire))
    assert answers[1] == answers[0]


@pytest.mark.parametrize("what", [what for what in ASKED if "half" not in what])
def test_what_was_asked_before_Terminate_is_answered(  # noqa: N802
    what: str, open_to_all: Reached, private: EmbeddedServer
) -> None:
    answers = []
    for wire in (Wire(private.port, login=True, user=READER), open_to_all.client("tcp")):
        with wire:
            wire.send(ASKED[what] + p.TERMINATE_MESSAGE)
            answers.append(rest(wire))
    assert answers[1] == answers[0]


def test_client_that_terminates_in_line_is_answered(open_to_all: Reached) -> None:
    with open_to_all.client("tcp") as holder, open_to_all.client("tcp") as waiting:
        holder.ask("BEGIN; SELECT 1")
        waiting.send(extended("SELECT 1") + simple("SELECT 2") + p.TERMINATE_MESSAGE)
        waits(open_to_all.own)
        assert holder.ask("COMMIT") == "CZ"
        assert "".join(chr(kind) for kind, _ in rest(waiting)) == "12DCZTDCZ"


@pytest.mark.parametrize("how", ["tcp", "tls", "unix"])
def test_client_that_ends_its_half_in_line_is_answered(how: str, open_to_all: Reached) -> None:
    with open_to_all.client("tcp") as holder, open_to_all.client(how) as waiting:
        holder.ask("BEGIN; SELECT 1")
        waiting.send(extended("SELECT 1") + simple("SELECT 2"))
        waits(open_to_all.own)
        waiting.sock.shutdown(socket.SHUT_WR)
        assert holder.ask("COMMIT") == "CZ"
        assert "".join(chr(kind) for kind, _ in rest(waiting)) == "12DCZTDCZ"


def test_client_that_ends_its_half_in_line_for_longer_is_taken_for_gone(hasty: Reached, admin: Admin) -> None:
    with hasty.client("tcp") as holder, hasty.client("tcp") as waiting:
        holder.ask("BEGIN; SELECT 1")
        waiting.send(simple(SLEEP))
        waits(hasty.own)
        waiting.sock.shutdown(socket.SHUT_WR)
        assert rest(waiting) == []
        assert holder.ask("COMMIT") == "CZ"
        is_over(admin)


@pytest.mark.parametrize("how", ["tcp", "tls", "unix"])
def test_statement_that_gives_nothing_is_cancelled_after_the_grace(how: str, hasty: Reached, admin: Admin) -> None:
    with hasty.client(how) as wire, hasty.client("tcp") as other:
        wire.send(extended("SELECT 1") + simple(SLEEP))
        assert wire.until_ready() == "12DCZ"
        is_running(admin)
        wire.sock.shutdown(socket.SHUT_WR)
        assert rest(wire) == []
        is_over(admin)
        assert other.ask("SELECT 1") == "TDCZ", other.error


@pytest.mark.parametrize("how", ["tcp", "tls", "unix"])
def test_answer_that_takes_longer_than_the_grace_goes_on_as_long_as_something_comes(how: str, hasty: Reached) -> None:
    with hasty.client(how) as wire:
        wire.send(simple("COPY (SELECT repeat('x', 20000), pg_sleep(0.1) FROM generate_series(1, 20)) TO STDOUT"))
        wire.sock.shutdown(socket.SHUT_WR)
        assert "".join(chr(kind) for kind, _ in rest(wire)) == "H" + 20 * "d" + "cCZ"


def test_idle_clients_that_end_their_half_leave_at_once(reached: Upstream, admin: Admin) -> None:
    with serve(reached, 1, SIDECART_CLIENT_HALF_CLOSE_GRACE="1h") as own, client(own) as other:
        for text in ("SELECT 1", "BEGIN", "BEGIN; SELECT 1", "BEGIN; SELECT 1/0"):
            with client(own) as wire:
                wire.ask(text)
                wire.sock.shutdown(socket.SHUT_WR)
                assert rest(wire) == []
            assert other.ask("SELECT 1") == "TDCZ", other.error


def test_client_that_is_reset_or_closed_is_not_waited_for(reached: Upstream, admin: Admin) -> None:
    """A Unix socket tells the one from the other; over TCP the first answer is met by a reset."""
    with (
        tempfile.TemporaryDirectory(prefix="sidecart-") as folder,
        serve(reached, 1, SIDECART_CLIENT_HALF_CLOSE_GRACE="1h", SIDECART_LISTEN_UNIX_SOCKET_DIR=folder) as own,
        client(own) as other,
    ):
        places = Reached(own, folder)
        with places.client("unix") as wire:
            wire.send(simple(SLEEP))
            is_running(admin)
            vanish(wire)
            is_over(admin)
        with places.client("tcp") as wire:
            wire.send(simple(SLEEP))
            is_running(admin)
            vanish_by_reset(wire)
            is_over(admin)
        with places.client("tcp") as wire:
            wire.send(
                simple("SELECT 1") * 3
                + simple("COPY (SELECT pg_sleep(1) /* the long one */ FROM generate_series(1, 30)) TO STDOUT")
            )
            vanish(wire)
            is_over(admin)
        assert other.ask("SELECT 1") == "TDCZ", other.error

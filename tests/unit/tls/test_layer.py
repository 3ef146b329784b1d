"""TLS over memory: two layers, or a layer and a bare SSLObject, with a wire of byte strings between them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import trustme
from hypothesis import given, settings, strategies

from proxy import protocol as p
from proxy.tls.layer import MAX_ANSWERS, TlsLayer

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Loop:
    """What a Future needs of an event loop. A real one would open a socket pair."""

    def __init__(self) -> None:
        self.unretrieved: list[Any] = []

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.Future(loop=cast(asyncio.AbstractEventLoop, self))

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: Any) -> None:
        self.unretrieved.append(context)


@pytest.fixture(autouse=True, scope="module")
def loop() -> Iterator[Loop]:
    fake = Loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", lambda: fake)
        yield fake
    gc.collect()
    assert fake.unretrieved == []  # a handshake's failure that nobody would have heard of


class Transport:
    """A TCP transport that keeps what is written."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.writes = 0
        self.closed = False
        self.aborted = False
        self.ended = False
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after close"
        self.sent += data
        self.writes += 1

    def take(self, count: int) -> bytes:
        taken = bytes(self.sent[:count])
        del self.sent[:count]
        return taken

    def close(self) -> None:
        self.closed = True

    def write_eof(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return len(self.sent)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 5)}.get(name, default)


class Inner(asyncio.Protocol):
    """The protocol behind the layer: note what it is told."""

    def __init__(self, on_made: Callable[[Any], None] = lambda transport: None) -> None:
        self.events: list[Any] = []
        self.received = b""
        self._on_made = on_made

    def connection_made(self, transport: Any) -> None:
        self.events.append("made")
        self._on_made(transport)

    def data_received(self, data: bytes) -> None:
        assert data
        self.received += data

    def eof_received(self) -> None:
        self.events.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append(exc)

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


class End:
    """A layer with its transport and its inner protocol."""

    def __init__(self, context: ssl.SSLContext, inner: Inner | None = None, **options: Any) -> None:
        self.inner = inner or Inner()
        self.transport = Transport()
        self.layer = TlsLayer(context, self.inner, **options)

    def connect(self) -> None:
        self.layer.connection_made(cast(asyncio.Transport, self.transport))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("db.example").configure_cert(context)
    return context


def trusting(authority: trustme.CA, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = version
    authority.configure_trust(context)
    return context


def move(client: End, server: End, chunk: int = 1 << 30) -> None:
    """Carry bytes both ways, so many at a time, until both are silent."""
    while client.transport.sent or server.transport.sent:
        for source, target in ((client, server), (server, client)):
            if data := source.transport.take(chunk):
                target.layer.data_received(data)


def connected(
    authority: trustme.CA,
    server_context: ssl.SSLContext,
    *,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    chunk: int = 1 << 30,
) -> tuple[End, End]:
    """Return a client and a server whose handshake is done."""
    client = End(trusting(authority, version), server_hostname="db.example")
    server = End(server_context, server_side=True)
    client.connect()
    server.connect()
    move(client, server, chunk)
    assert client.layer.ready.done()
    assert server.layer.ready.done()
    client.layer.ready.result()
    server.layer.ready.result()
    return client, server


# --- handshake --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 30])
def test_handshake_over_two_layers(
    authority: trustme.CA, server_context: ssl.SSLContext, version: ssl.TLSVersion, chunk: int
) -> None:
    client, server = connected(authority, server_context, version=version, chunk=chunk)
    for end in (client, server):
        assert end.inner.events == ["made"]
        assert end.inner.received == b""
        assert end.layer.get_extra_info("ssl_object").version() == version.name.replace("v1_", "v1.")


def test_inner_protocol_gets_the_layer_as_its_transport(authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    given_: list[Any] = []
    client = End(trusting(authority), Inner(given_.append), server_hostname="db.example")
    server = End(server_context, server_side=True)
    client.connect()
    server.connect()
    move(client, server)
    assert given_ == [client.layer]
    assert client.layer.get_extra_info("peername") == ("192.0.2.1", 5)
    assert client.layer.get_extra_info("unheard of", 3) == 3


def test_what_the_inner_protocol_writes_at_once_arrives(authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    # The client's Finished and its first data travel in one chunk.
    client = End(trusting(authority), Inner(lambda it: it.write(b"hello")), server_hostname="db.example")
    server = End(server_context, Inner(lambda it: it.write(b"welcome")), server_side=True)
    client.connect()
    server.connect()
    move(client, server)
    assert (client.inner.received, server.inner.received) == (b"welcome", b"hello")


@pytest.mark.parametrize("wrong", ["unknown authority", "other host"])
def test_failing_verification_is_the_exception_of_ready(
    authority: trustme.CA, server_context: ssl.SSLContext, wrong: str
) -> None:
    context = trusting(trustme.CA() if wrong == "unknown authority" else authority)
    client = End(context, server_hostname="other.example" if wrong == "other host" else "db.example")
    server = End(server_context, server_side=True)
    client.connect()
    server.connect()
    move(client, server)
    error = client.layer.ready.exception()
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert client.transport.closed
    assert client.inner.events == []
    # In TLS 1.3 the server is done before the client's alert arrives; it ends then.
    server.layer.ready.exception()
    assert server.transport.ended
    assert server.inner.received == b""


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 100, p.SSL_REQUEST, p.startup_message({"user": "x"})],
    ids=["http", "zeros", "ones", "ssl-request", "startup"],
)
@pytest.mark.parametrize("server_side", [True, False])
def test_garbage_instead_of_a_handshake(
    authority: trustme.CA, server_context: ssl.SSLContext, garbage: bytes, server_side: bool
) -> None:
    if server_side:
        end = End(server_context, server_side=True)
    else:
        end = End(trusting(authority), server_hostname="db.example")
    end.connect()
    end.layer.data_received(garbage)
    assert isinstance(end.layer.ready.exception(), ssl.SSLError)
    assert end.layer.is_closing()
    if server_side:  # it says no more, and reads on, so that its alert is not lost
        assert end.transport.ended and not end.transport.closed
        end.layer.data_received(garbage)
        end.layer.abort()
    assert end.transport.closed
    end.layer.connection_lost(None)
    assert end.inner.events == []
    assert end.inner.received == b""


@pytest.mark.parametrize("cause", [None, BrokenPipeError("gone")])
def test_end_during_the_handshake_is_the_exception_of_ready(
    server_context: ssl.SSLContext, cause: Exception | None
) -> None:
    end = End(server_context, server_side=True)
    end.connect()
    end.layer.data_received(b"\x16\x03\x01")
    assert not end.layer.eof_received()
    end.layer.connection_lost(cause)
    error = end.layer.ready.exception()
    assert isinstance(error, ConnectionError)
    assert cause is None or error is cause
    assert end.inner.events == []


def test_close_during_the_handshake_closes_the_transport(server_context: ssl.SSLContext) -> None:
    end = End(server_context, server_side=True)
    end.connect()
    end.layer.close()
    end.layer.connection_lost(None)
    assert end.transport.closed
    assert isinstance(end.layer.ready.exception(), ConnectionResetError)
    assert end.inner.events == []


def test_ready_that_was_cancelled_by_a_time_limit_is_left_alone(server_context: ssl.SSLContext) -> None:
    for late in (b"GET / HTTP/1.1\r\n\r\n", b""):
        end = End(server_context, server_side=True)
        end.connect()
        end.layer.ready.cancel()
        if late:
            end.layer.data_received(late)
        end.layer.connection_lost(None)
        assert end.layer.ready.cancelled()


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("chunk", [1000, 65_536, 1 << 30])
def test_a_megabyte_each_way(
    authority: trustme.CA, server_context: ssl.SSLContext, version: ssl.TLSVersion, chunk: int
) -> None:
    client, server = connected(authority, server_context, version=version)
    there = bytes(range(256)) * 4096
    back = there[::-1]
    client.layer.write(there)
    server.layer.write(back)
    move(client, server, chunk)
    assert server.inner.received == there
    assert client.inner.received == back


@settings(max_examples=60, deadline=None)
@given(
    messages=strategies.lists(strategies.binary(min_size=1, max_size=40_000), min_size=1, max_size=5),
    cuts=strategies.lists(strategies.integers(1, 20_000), min_size=1, max_size=10),
)
def test_bytes_arrive_whatever_the_chunks(
    authority: trustme.CA, server_context: ssl.SSLContext, messages: list[bytes], cuts: list[int]
) -> None:
    client, server = connected(authority, server_context)
    for message in messages:
        client.layer.write(message)
    turn = 0
    while client.transport.sent:
        server.layer.data_received(client.transport.take(cuts[turn % len(cuts)]))
        turn += 1
    assert server.inner.received == b"".join(messages)


def test_one_write_is_one_write_of_the_transport(authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    client, _ = connected(authority, server_context)
    client.transport.writes = 0
    client.layer.write(b"x" * 100_000)
    assert client.transport.writes == 1


def test_several_records_in_one_chunk_reach_the_inner_protocol_in_one_call(
    authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    client, server = connected(authority, server_context)
    calls: list[bytes] = []
    server.inner.data_received = calls.append  # type: ignore[method-assign]
    for part in (b"one", b"two", b"three"):
        client.layer.write(part)
    move(client, server)
    assert calls == [b"onetwothree"]


def test_record_in_pieces_arrives_with_its_last_byte(authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    client, server = connected(authority, server_context)
    client.layer.write(b"whole or not at all")
    record = client.transport.take(1 << 20)
    for byte in record[:-1]:
        server.layer.data_received(bytes([byte]))
        assert server.inner.received == b""
    server.layer.data_received(record[-1:])
    assert server.inner.received == b"whole or not at all"


def test_truncated_record_delivers_nothing(authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    client, server = connected(authority, server_context)
    client.layer.write(b"first")
    client.layer.write(b"cut off")
    server.layer.data_received(client.transport.take(1 << 20)[:-1])
    assert not server.layer.eof_received()
    server.layer.connection_lost(None)
    assert server.inner.received == b"first"
    assert server.inner.events == ["made", "eof", None]


def test_altered_record_ends_the_connection(authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    client, server = connected(authority, server_context)
    client.layer.write(b"do not touch")
    record = bytearray(client.transport.take(1 << 20))
    record[-1] ^= 1
    server.layer.data_received(bytes(record))
    assert server.transport.aborted
    assert server.inner.received == b""


def test_plain_text_behind_the_handshake_ends_the_connection(
    authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    _, server = connected(authority, server_context)
    server.layer.data_received(p.query(b"SELECT 1"))
    assert server.transport.aborted
    assert server.inner.received == b""


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_close_sends_what_was_written_then_close_notify(
    authority: trustme.CA, server_context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    # A bare SSLObject tells the two ends apart: read() gives b"" after close_notify alone.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = trusting(authority, version).wrap_bio(incoming, outgoing, server_hostname="db.example")
    server = End(server_context, server_side=True)
    server.connect()
    while not server.layer.ready.done() or server.transport.sent:
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.do_handshake()
        server.layer.data_received(outgoing.read())
        incoming.write(server.transport.take(1 << 20))
    with pytest.raises(ssl.SSLWantReadError):
        peer.read()
    server.layer.write(b"last words")
    server.layer.close()
    assert server.transport.closed
    assert not server.transport.aborted
    incoming.write(server.transport.take(1 << 20))
    assert peer.read(100) == b"last words"
    assert peer.read(100) == b""


def test_peers_goodbye_ends_the_connection_after_what_came_before_it(
    authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    client, server = connected(authority, server_context)
    client.layer.write(b"last words")
    client.layer.close()
    server.layer.data_received(client.transport.take(1 << 20))
    assert server.inner.received == b"last words"
    assert server.inner.events == ["made", "eof"]
    assert server.transport.closed
    assert not server.layer.eof_received()
    server.layer.connection_lost(None)
    assert server.inner.events == ["made", "eof", None]


def test_nothing_is_sent_after_close(authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    client, _ = connected(authority, server_context)
    client.layer.close()
    sent = bytes(client.transport.sent)
    client.layer.write(b"too late")
    client.layer.close()
    assert client.transport.sent == sent
    assert client.layer.is_closing()


def test_abort_says_nothing(authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    client, _ = connected(authority, server_context)
    client.layer.abort()
    client.layer.write(b"too late")
    assert client.transport.aborted
    assert not client.transport.sent


@pytest.mark.parametrize("cause", [None, ConnectionResetError("gone")])
def test_end_of_the_transport_reaches_the_inner_protocol_once(
    authority: trustme.CA, server_context: ssl.SSLContext, cause: Exception | None
) -> None:
    client, _ = connected(authority, server_context)
    client.layer.connection_lost(cause)
    assert client.inner.events == ["made", cause]
    client.layer.write(b"too late")
    assert not client.transport.sent


def test_bytes_after_close_notify_are_not_kept(authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    """A peer that has said goodbye and sends on must not fill the memory."""
    client, server = connected(authority, server_context)
    client.layer.close()
    server.layer.data_received(client.transport.take(1 << 20))
    for _ in range(64):
        if server.transport.closed:
            break
        server.layer.data_received(bytes(65_536))
    assert server.inner.received == b""
    assert server.layer._incoming.pending < 1 << 20


def test_attack_peer_that_makes_tls_answer_without_end(authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    """Key updates, each of which wants another; whoever sends them need not read the answers."""
    client, server = connected(authority, server_context)
    before = len(server.transport.sent)
    for _ in range(3000):
        client.layer.write(b"x")
        server.layer._outgoing.write(bytes(30))  # as OpenSSL does when it reads a KeyUpdate
        server.layer.data_received(client.transport.take(1 << 20))
        if server.transport.aborted:
            break
    assert server.transport.aborted
    assert len(server.transport.sent) - before <= MAX_ANSWERS


# --- flow control -----------------------------------------------------------------------------------------------------


def test_pauses_pass_both_ways(authority: trustme.CA, server_context: ssl.SSLContext) -> None:
    client, _ = connected(authority, server_context)
    client.layer.pause_reading()
    assert not client.transport.reading
    client.layer.resume_reading()
    assert client.transport.reading
    client.layer.pause_writing()
    client.layer.resume_writing()
    assert client.inner.events == ["made", "pause", "resume"]
    client.layer.write(b"x")
    assert client.layer.get_write_buffer_size() == len(client.transport.sent) > 0


def test_full_transport_during_the_handshake_concerns_nobody(server_context: ssl.SSLContext) -> None:
    end = End(server_context, server_side=True)
    end.connect()
    end.layer.pause_writing()
    end.layer.resume_writing()
    assert end.inner.events == []
    end.layer.connection_lost(None)
    assert end.layer.ready.exception()


def test_layer_without_a_transport_is_silent(server_context: ssl.SSLContext) -> None:
    end = End(server_context, server_side=True)
    end.layer.write(b"x")
    end.layer.pause_reading()
    end.layer.resume_reading()
    end.layer.close()
    assert end.layer.get_write_buffer_size() == 0
    assert not end.transport.sent

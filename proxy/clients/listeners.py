"""Where clients come in: listeners, connections before their encryption is settled, and the transports behind them."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from proxy import protocol as p
from proxy.auth.access import LOCAL_PEER, Origin, origin_of
from proxy.clients.client import Client
from proxy.clients.client_hello import NO_APPLICATION_PROTOCOL, ClientHello
from proxy.clients.lobby import Guest, Lobby
from proxy.clients.unix_socket import UnixSocket
from proxy.config.schema import Listen
from proxy.errors import TOO_MANY_CONNECTIONS, CloseReason
from proxy.session.ports import End, House
from proxy.system.turns import Intake, Turns
from proxy.tasks import Tasks
from proxy.tls import certificates, contexts
from proxy.tls.layer import TlsLayer

ACCEPT_BATCH: Final = 64
"""Connections taken from the kernel's queue before anybody else has a turn."""
ACCEPT_PAUSE: Final = 1.0
"""Seconds without accepting, after the kernel had no file descriptor for a client."""
LINGER: Final = 5.0
"""Seconds that a closed client has to read what was written to it."""
ALERT_LINGER: Final = 1.0
"""Seconds that it has to read the alert of a failed handshake. It is still sending then: were the socket closed at
once, the kernel would answer with a reset, and the alert would be lost."""
DAY: Final = 86_400.0
SOON: Final = 14 * DAY
"""Seconds before its end in which the listener's certificate is spoken of."""
MARGIN: Final = 128
"""Connections that may knock beyond max_client_conn: cancel requests, and those that are told there is no room."""

_HANDSHAKE: Final = 0x16
"""The first byte of a TLS handshake; no start-up packet begins with it."""


class Doors:
    """Listen, and make each connection that is let in a client of the house.

    `clients` gets every client, and whoever ends them takes them out. `login_timeout` covers the time from the first
    knock on. `turns` are shared with whoever else reads much.
    """

    def __init__(
        self,
        config: Listen,
        house: House,
        clients: set[Client],
        tasks: Tasks,
        login_timeout: float,
        turns: Turns,
    ) -> None:
        self._config = config
        self._clients = clients
        self._tasks = tasks
        self._turns = turns
        self._login_timeout = login_timeout
        self._listeners: list[socket.socket] = []
        self._unix: UnixSocket | None = None
        self._lobby = Lobby()
        self._knocking: set[Door] = set()
        self._idents = 0
        self.house = house
        self.certificate_ends = 0.0
        """Unix time at which the certificate that clients are shown ends; 0: there is none."""
        self._say_again = 0.0
        self.tls: contexts.ClientSide | None = None
        self.binding = b""
        if config.tls != "off":
            self.use_certificate(self.read_certificate())

    def read_certificate(self) -> contexts.ClientSide:
        """Read the certificate, its key, the clients' CAs and the revoked ones.

        Raises ConfigError for files that cannot be used.
        """
        config = self._config
        return contexts.client_side(
            config.tls_cert_file,
            config.tls_key_file,
            config.tls_ca_file,
            config.tls_crl_file,
            demand_certificate=config.tls == "verify",
        )

    def use_certificate(self, side: contexts.ClientSide) -> None:
        """Show this certificate to those who come from now on."""
        self.tls = side
        self.binding = contexts.end_point(side.certificate) or b""
        shown = certificates.read(side.certificate)
        self.certificate_ends = shown.ends.timestamp() if shown is not None else 0.0
        self._say_again = 0.0

    def look_at_certificate(self, now: float) -> None:
        """Say once a day that the certificate ends soon, or has ended: who verifies it comes in no more."""
        ends = self.certificate_ends
        if not ends or now < max(self._say_again, ends - SOON):
            return
        if now < ends:
            self._say_again = min(now + DAY, ends)
            event, level = "TLS certificate ends soon", "warning"
        else:
            self._say_again = now + DAY
            event, level = "TLS certificate has ended", "error"
        self.house.audit.event(event, level=level, days_left=int((ends - now) // DAY))

    # --- listeners ------------------------------------------------------------------------------------------------

    def open(self) -> int:
        """Listen on every address; return the port. Raises OSError, InUseError or ConfigError."""
        host, port = self._config.host, self._config.port
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, number, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, number)
            self._listeners.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
        taken: int = self._listeners[0].getsockname()[1]
        if self._config.unix_socket_dir:
            self._unix = UnixSocket(self._config, taken)
            self._listeners.append(self._unix.listener)
        loop = asyncio.get_running_loop()
        for listener in self._listeners:  # who finds one of them open finds all
            listener.listen(self._config.backlog)
            loop.add_reader(listener, self._accept, listener)
        return taken

    def close(self) -> None:
        """Listen no more, and close who has not come in yet."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            if listener.fileno() >= 0:
                loop.remove_reader(listener)
                listener.close()
        if self._unix is not None:
            self._unix.close()
            self._unix = None
        for door in list(self._knocking):
            door.close()

    @property
    def unix_socket(self) -> str:
        """Return the path of the Unix socket, if there is one."""
        return "" if self._unix is None else self._unix.path

    def sweep(self, now: float) -> None:
        """Close who stays silent."""
        for door in list(self._knocking):
            door.sweep(now, self._login_timeout)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPT_BATCH):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # a client that has gone already
            except OSError as error:
                # Out of file descriptors or memory: the listener stays readable, so trying again at once would spin.
                self.house.audit.event("accept failed", level="error", errno=error.errno)
                loop.remove_reader(listener)
                loop.call_later(ACCEPT_PAUSE, self._listen_again, listener)
                return
            stats = self.house.stats
            stats.clients_accepted += 1
            name = address[0] if sock.family in (socket.AF_INET, socket.AF_INET6) else ""
            present = len(self._lobby) + self.house.clients
            if present >= self.house.max_client_conn + MARGIN and not self._lobby.make_room(name, loop.time()):
                stats.client_closes[CloseReason.TOO_MANY_CLIENTS.value] += 1
                sock.close()
                continue
            sock.setblocking(False)
            if name:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            door = Door(self, self._lobby.enter(name, loop.time()))
            self._knocking.add(door)
            self._tasks.start(self._open_door(door, sock), "door")

    def _listen_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    # --- who knocks -----------------------------------------------------------------------------------------------

    def left(self, door: Door) -> None:
        """Forget a door: its connection has come in, or has closed."""
        self._knocking.discard(door)

    def connection(self, guest: Guest, *, direct: bool = False) -> ClientConnection:
        """Return the transport of a client whose encryption is settled."""
        self._idents += 1
        return ClientConnection(self, guest, self._idents, direct=direct)

    def shake_hands(self, layer: TlsLayer, connection: ClientConnection) -> None:
        """Wait for the end of a handshake that has begun."""
        self._tasks.start(self._shake_hands(layer, connection), "handshake")

    def enter(self, client: Client) -> None:
        """Keep a client that has a transport."""
        self._clients.add(client)

    async def _open_door(self, door: Door, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: Intake(self._turns, door), sock)
        except OSError:
            door.connection_lost(None)

    async def _shake_hands(self, layer: TlsLayer, connection: ClientConnection) -> None:
        guest = connection.guest
        try:
            async with asyncio.timeout_at(guest.since + self._login_timeout):
                await layer.ready
        except ssl.SSLError as error:
            connection.tls_failed(_why(error))
            await asyncio.sleep(ALERT_LINGER)  # still counted: it holds a file descriptor
        except (OSError, TimeoutError) as error:
            connection.tls_failed(_why(error))
        except BaseException:
            layer.abort()
            raise
        else:
            return
        layer.abort()
        guest.leave()


def _why(error: Exception) -> str:
    """Return what was wrong with a handshake, without anything that the client has sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate was not accepted: {error.verify_message}"
    return getattr(error, "reason", None) or type(error).__name__


class Door(asyncio.Protocol):
    """A connection before its encryption is settled.

    It takes of what comes exactly the 8 bytes of SSLRequest or GSSENCRequest, and hands over all that is behind them:
    whatever a client sent ahead of its TLS handshake becomes part of that handshake and fails there (CVE-2021-23214). A
    handshake that is meant for another protocol is told so: `no_application_protocol`, as PostgreSQL 17 tells it
    (alpn_cb() in libpq/be-secure-openssl.c).
    """

    __slots__ = ("_doors", "_ended", "_guest", "_head", "_hello", "_intake", "_tries")

    def __init__(self, doors: Doors, guest: Guest) -> None:
        self._doors = doors
        self._guest = guest
        self._head = b""
        """What has come and is not used yet."""
        self._hello: ClientHello | None = None
        """What is read of the handshake, once TLS is agreed upon."""
        self._intake: Intake | None = None
        self._tries = 0
        self._ended = False
        guest.turn_out = self._turn_out

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._intake = cast(Intake, transport)
        if self._ended:
            self._intake.close()

    def data_received(self, data: bytes) -> None:
        self._head += data
        while not self._ended and self._hello is None and self._ask(self._head):
            data = self._head
        if not self._ended and self._hello is not None and data:
            self._look_at_hello(self._hello, data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(CloseReason.CLIENT_LOST)

    def _ask(self, head: bytes) -> bool:
        """Look at what a client begins with; return whether that was a request, or the beginning of TLS."""
        if len(head) < 8 and head[:4] == p.SSL_REQUEST[: len(head[:4])]:
            return False  # a request of 8 bytes, or less of anything else than can be told
        if head[:8] in (p.SSL_REQUEST, p.GSSENC_REQUEST):
            self._head = head[8:]
            self._negotiate(head[:8])
        elif head[0] == _HANDSHAKE and self._tls_is_spoken:
            if self._tries:  # after a request it would be no direct TLS
                self._end(CloseReason.CLIENT_PROTOCOL)
            self._hello = ClientHello()
        else:
            self._hand_over(self._doors.connection(self._guest))
        return True

    @property
    def _tls_is_spoken(self) -> bool:
        return self._doors.tls is not None and self._guest.address != ""

    def _negotiate(self, request: bytes) -> None:
        self._tries += 1
        if self._tries > 2:  # one of each kind
            self._end(CloseReason.CLIENT_PROTOCOL)
            return
        with_tls = request == p.SSL_REQUEST and self._tls_is_spoken
        if self._intake is not None:
            self._intake.write(b"S" if with_tls else b"N")
        if with_tls:
            self._hello = ClientHello()

    def _look_at_hello(self, hello: ClientHello, data: bytes) -> None:
        try:
            protocols = hello.feed(data)
        except ValueError as error:
            self._fail(str(error))
            return
        if protocols is None:
            return
        if protocols and contexts.ALPN.encode() not in protocols:
            if self._intake is not None:
                self._intake.write(NO_APPLICATION_PROTOCOL)
            self._fail("the client offers other protocols than postgresql (ALPN)")
        elif self._doors.tls is not None:
            connection = self._doors.connection(self._guest, direct=not self._tries)
            connection.binding = self._doors.binding
            layer = TlsLayer(self._doors.tls, connection, server_side=True)
            self._guest.turn_out = layer.abort
            self._hand_over(layer)
            self._doors.shake_hands(layer, connection)

    def _hand_over(self, protocol: asyncio.Protocol) -> None:
        self._ended = True
        self._doors.left(self)
        if self._intake is not None:
            self._intake.hand_over(protocol, self._head)
        self._head = b""

    def _fail(self, why: str) -> None:
        self._doors.house.audit.event("client tls failed", level="warning", peer=self._guest.address, why=why)
        self._end(CloseReason.CLIENT_TLS)

    def _end(self, reason: CloseReason) -> None:
        if self._ended:
            return
        self._ended = True
        self._head = b""
        self._doors.left(self)
        self._guest.leave()
        if self._intake is not None:
            self._intake.close()
        house = self._doors.house
        if reason is not CloseReason.CLIENT_LOST:
            peer = self._guest.address or LOCAL_PEER
            house.audit.event("close", level="warning", peer=peer, reason=reason.value)
        house.stats.client_closes[reason.value] += 1

    def _turn_out(self) -> None:
        self._end(CloseReason.TOO_MANY_CLIENTS)

    def close(self) -> None:
        self._end(CloseReason.DRAIN)

    def sweep(self, now: float, timeout: float) -> None:
        """Close a client that stays silent."""
        if timeout and now - self._guest.since >= timeout:
            self._end(CloseReason.CLIENT_LOGIN_TIMEOUT)


class ClientConnection(asyncio.Protocol):
    """The transport of one client. `direct`: its TLS began with the first byte, so ALPN has to say for what."""

    __slots__ = ("_client", "_direct", "_doors", "_ident", "_transport", "binding", "guest", "receive", "write")

    receive: Callable[[bytes], None]
    write: Callable[[bytes], None]

    def __init__(self, doors: Doors, guest: Guest, ident: int, *, direct: bool) -> None:
        self._doors = doors
        self._ident = ident
        self._direct = direct
        self._client: Client | None = None
        self._transport: asyncio.Transport | None = None
        self.guest = guest
        self.binding = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self.write = transport.write  # the port's method is the transport's own: no call in between
        shaken: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        origin = Origin(origin_of(self.guest.address))
        if shaken is not None:
            if self._direct and shaken.selected_alpn_protocol() != contexts.ALPN:
                # As PostgreSQL does: a handshake that was meant for another protocol must not end up here (ALPACA).
                self.tls_failed("direct TLS without the ALPN protocol postgresql")
                transport.close()
                return
            name = contexts.common_name(shaken.getpeercert(binary_form=True))
            origin = Origin(origin.address, shaken.version() or "TLS", self.binding, name)
        house = self._doors.house
        self.guest.turn_out = self._turn_out
        self._client = client = Client(house, self, origin, self._ident, self.guest.since)
        self.receive = client.client_data
        self._doors.enter(self._client)

    def tls_failed(self, why: str) -> None:
        """Count and log a handshake that led to nothing."""
        house = self._doors.house
        house.stats.client_closes[CloseReason.CLIENT_TLS.value] += 1
        house.audit.event("client tls failed", level="warning", peer=self.guest.address, why=why)

    def data_received(self, data: bytes) -> None:
        client = self._client
        if client is None:
            return
        try:
            self.receive(data)
        except Exception as error:
            self._doors.house.audit.event("bug", level="error", what=type(error).__name__, where="client data")
            client.bug()

    @property
    def ended(self) -> End:
        # As the server looks for it while a query runs (WL_SOCKET_CLOSED, storage/ipc/latch.c).
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None or sock.fileno() < 0 or not hasattr(select, "POLLRDHUP"):
            return End.NONE
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        seen = sum(events for _, events in poll.poll(0))
        if seen & (select.POLLHUP | select.POLLERR):
            return End.RESET
        return End.FIN if seen else End.NONE

    def eof_received(self) -> bool:
        # True keeps the transport open for what is still to be written. It may be told again when reading is resumed.
        return self._client is not None and self._client.client_finished()

    def connection_lost(self, exc: Exception | None) -> None:
        self.guest.leave()
        client, self._client = self._client, None
        if client is not None:
            client.client_lost()

    def pause_writing(self) -> None:
        if self._client is not None:
            self._client.client_writable(False)

    def resume_writing(self) -> None:
        if self._client is not None:
            self._client.client_writable(True)

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def let_in(self) -> None:
        self.guest.leave()

    def _turn_out(self) -> None:
        if self._client is not None:
            reason = CloseReason.TOO_MANY_CLIENTS
            hint = "Log in at once, or ask the operator of SideCart to raise client.max_client_conn."
            self._client.end(reason, TOO_MANY_CONNECTIONS, "sorry, too many clients already", hint=hint)

    def close(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.close()
            if transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(LINGER, transport.abort)

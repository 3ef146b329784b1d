"""Where clients come in: listeners, connections before their encryption is settled, and the transports behind them."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from proxy import certificates, client_hello, tls
from proxy import protocol as p
from proxy.access import LOCAL_PEER, Origin, origin_of
from proxy.client import Client
from proxy.config import Listen
from proxy.errors import CloseReason
from proxy.house import House
from proxy.tasks import Tasks
from proxy.tls_layer import TlsLayer
from proxy.turns import Intake, Turns
from proxy.unix_socket import UnixSocket

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
        self._knocking: set[Door] = set()
        self._handshakes = 0
        self._idents = 0
        self.house = house
        self.certificate_ends = 0.0
        """Unix time at which the certificate that clients are shown ends; 0: there is none."""
        self._say_again = 0.0
        self.tls: tls.ClientSide | None = None
        self.binding = b""
        if config.tls != "off":
            self.load_certificate()

    def load_certificate(self) -> None:
        """Read the certificate, its key, the clients' CAs and the revoked ones; those who come from now on see them.

        Raises ConfigError, and leaves everything as it was, for files that cannot be used.
        """
        config = self._config
        self.tls = tls.client_side(
            config.tls_cert_file,
            config.tls_key_file,
            config.tls_ca_file,
            config.tls_crl_file,
            demand_certificate=config.tls == "verify",
        )
        self.binding = tls.end_point(self.tls.certificate) or b""
        shown = certificates.read(self.tls.certificate)
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
            present = len(self._knocking) + self._handshakes + len(self._clients)
            if present >= self.house.max_client_conn + MARGIN:
                stats.client_closes[CloseReason.TOO_MANY_CLIENTS.value] += 1
                sock.close()
                continue
            sock.setblocking(False)
            if sock.family != getattr(socket, "AF_UNIX", None):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                self._knocking.add(Door(self, sock, address[0], loop.time()))
            else:
                self._knocking.add(Door(self, sock, "", loop.time()))

    def _listen_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    # --- who knocks -----------------------------------------------------------------------------------------------

    def left(self, door: Door) -> None:
        """Forget a door: its connection has come in, or has closed."""
        self._knocking.discard(door)

    def admit(self, connection: ClientConnection, sock: socket.socket, *, with_tls: bool) -> None:
        """Give a connection whose encryption is settled to a session of its own."""
        self._idents += 1
        connection.ident = self._idents
        self._tasks.start(self._admit(connection, sock, with_tls), "client")

    def enter(self, client: Client) -> None:
        """Keep a client that has a transport."""
        self._clients.add(client)

    async def _admit(self, connection: ClientConnection, sock: socket.socket, with_tls: bool) -> None:
        loop = asyncio.get_running_loop()
        self._handshakes += 1
        try:
            if not with_tls or self.tls is None:
                await loop.connect_accepted_socket(lambda: Intake(self._turns, connection), sock)
                return
            connection.binding = self.binding
            layer = TlsLayer(self.tls, connection, server_side=True)
            async with asyncio.timeout_at(connection.arrived + self._login_timeout):
                await loop.connect_accepted_socket(lambda: Intake(self._turns, layer), sock)
                try:
                    await layer.ready
                except BaseException:
                    layer.close()
                    raise
        except ssl.SSLError as error:
            connection.tls_failed(_why(error))
            await asyncio.sleep(ALERT_LINGER)  # still counted: it holds a file descriptor
            layer.abort()
        except (OSError, TimeoutError) as error:
            connection.tls_failed(_why(error))
        finally:
            self._handshakes -= 1


def _why(error: Exception) -> str:
    """Return what was wrong with a handshake, without anything that the client has sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate was not accepted: {error.verify_message}"
    return getattr(error, "reason", None) or type(error).__name__


class Door:
    """A connection before its encryption is settled.

    It peeks at the first bytes, and takes from the socket exactly the 8 of SSLRequest or GSSENCRequest: whatever a
    client sent ahead of its TLS handshake becomes part of that handshake and fails there (CVE-2021-23214). A handshake
    that is meant for another protocol is told so: `no_application_protocol`, as PostgreSQL 17 tells it (alpn_cb() in
    libpq/be-secure-openssl.c).
    """

    __slots__ = ("_address", "_doors", "_retry", "_shaking", "_since", "_sock", "_tries")

    def __init__(self, doors: Doors, sock: socket.socket, address: str, now: float) -> None:
        self._doors = doors
        self._sock = sock
        self._address = address
        self._since = now
        self._tries = 0
        self._shaking = False  # TLS was agreed upon
        self._retry: asyncio.TimerHandle | None = None
        asyncio.get_running_loop().add_reader(sock, self._readable)

    def _readable(self) -> None:
        try:
            head = self._sock.recv(client_hello.LONGEST if self._shaking else 8, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._end(CloseReason.CLIENT_LOST)
            return
        if not head:
            self._end(CloseReason.CLIENT_LOST)
        elif self._shaking:
            self._look_at_hello(head)
        elif head[:4] == p.SSL_REQUEST[: len(head)] and len(head) < 8:
            self._wait_for_more()
        elif head in (p.SSL_REQUEST, p.GSSENC_REQUEST):
            self._negotiate(head)
        elif head[0] == _HANDSHAKE and self._tls_is_spoken:
            if self._tries:  # after a request it would be no direct TLS
                self._end(CloseReason.CLIENT_PROTOCOL)
            else:
                self._shaking = True
                self._readable()
        else:
            self._hand_over(with_tls=False)

    def _wait_for_more(self) -> None:
        """Wait for the rest of what came in pieces: the socket stays readable, and nobody shall spin on it."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock)
        self._retry = loop.call_later(0.02, self._resume)

    def _look_at_hello(self, head: bytes) -> None:
        protocols = client_hello.offered(head)
        if protocols is None:
            self._wait_for_more()
        elif protocols and tls.ALPN.encode() not in protocols:
            with contextlib.suppress(OSError):
                self._sock.recv(client_hello.LONGEST)  # what is left unread would be answered with a reset
                self._sock.send(client_hello.NO_APPLICATION_PROTOCOL)
            why = "the client offers other protocols than postgresql (ALPN)"
            self._doors.house.audit.event("client tls failed", level="warning", peer=self._address, why=why)
            self._end(CloseReason.CLIENT_TLS)
        else:
            self._hand_over(with_tls=True, direct=not self._tries)

    @property
    def _tls_is_spoken(self) -> bool:
        return self._doors.tls is not None and self._address != ""

    def _resume(self) -> None:
        self._retry = None
        asyncio.get_running_loop().add_reader(self._sock, self._readable)

    def _negotiate(self, request: bytes) -> None:
        self._tries += 1
        if self._tries > 2:  # one of each kind
            self._end(CloseReason.CLIENT_PROTOCOL)
            return
        with_tls = request == p.SSL_REQUEST and self._tls_is_spoken
        try:
            self._sock.recv(8)
            self._sock.send(b"S" if with_tls else b"N")
        except OSError:
            self._end(CloseReason.CLIENT_LOST)
            return
        self._shaking = with_tls

    def _hand_over(self, *, with_tls: bool, direct: bool = False) -> None:
        self._detach()
        connection = ClientConnection(self._doors, self._address, self._since, direct=direct)
        self._doors.admit(connection, self._sock, with_tls=with_tls)

    def _detach(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        else:
            asyncio.get_running_loop().remove_reader(self._sock)
        self._doors.left(self)

    def _end(self, reason: CloseReason) -> None:
        self._detach()
        self._sock.close()
        house = self._doors.house
        if reason is not CloseReason.CLIENT_LOST:
            house.audit.event("close", level="warning", peer=self._address or LOCAL_PEER, reason=reason.value)
        house.stats.client_closes[reason.value] += 1

    def close(self) -> None:
        self._end(CloseReason.DRAIN)

    def sweep(self, now: float, timeout: float) -> None:
        """Close a client that stays silent."""
        if timeout and now - self._since >= timeout:
            self._end(CloseReason.CLIENT_LOGIN_TIMEOUT)


class ClientConnection(asyncio.Protocol):
    """The transport of one client. `direct`: its TLS began with the first byte, so ALPN has to say for what."""

    __slots__ = ("_address", "_client", "_direct", "_doors", "_transport", "arrived", "binding", "ident", "write")

    write: Callable[[bytes], None]

    def __init__(self, doors: Doors, address: str, arrived: float, *, direct: bool) -> None:
        self._doors = doors
        self._address = address
        self._direct = direct
        self._client: Client | None = None
        self._transport: asyncio.Transport | None = None
        self.arrived = arrived
        self.binding = b""
        self.ident = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self.write = transport.write  # the port's method is the transport's own: no call in between
        shaken: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        origin = Origin(origin_of(self._address))
        if shaken is not None:
            if self._direct and shaken.selected_alpn_protocol() != tls.ALPN:
                # As PostgreSQL does: a handshake that was meant for another protocol must not end up here (ALPACA).
                self.tls_failed("direct TLS without the ALPN protocol postgresql")
                transport.close()
                return
            name = tls.common_name(shaken.getpeercert(binary_form=True))
            origin = Origin(origin.address, shaken.version() or "TLS", self.binding, name)
        house = self._doors.house
        self._client = Client(house, self, origin, self.ident, self.arrived)
        self._doors.enter(self._client)

    def tls_failed(self, why: str) -> None:
        """Count and log a handshake that led to nothing."""
        house = self._doors.house
        house.stats.client_closes[CloseReason.CLIENT_TLS.value] += 1
        house.audit.event("client tls failed", level="warning", peer=self._address, why=why)

    def data_received(self, data: bytes) -> None:
        client = self._client
        if client is None:
            return
        try:
            client.client_data(data)
        except Exception as error:
            self._doors.house.audit.event("bug", level="error", what=type(error).__name__, where="client data")
            client.bug()

    @property
    def hung_up(self) -> bool:
        # As the server looks for it while a query runs (WL_SOCKET_CLOSED, storage/ipc/latch.c).
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None or sock.fileno() < 0 or not hasattr(select, "POLLRDHUP"):
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
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

    def close(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.close()
            if transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(LINGER, transport.abort)

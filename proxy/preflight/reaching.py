"""Go towards a server one step at a time, each bounded: its addresses, a connection, TLS, and a certificate to look at.

`proxy/databases/connector.py` goes the same way in one go. Here each step tells by itself what is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any, NamedTuple, TypeAlias, TypeVar

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.tls import contexts
from proxy.tls.certificates import Authority
from proxy.tls.layer import TlsLayer

T = TypeVar("T")
Address: TypeAlias = tuple[int, int, int, Any]
"""Family, type, protocol number and socket address, as socket.socket() and connect() take them."""


_RUNS = itertools.count()


class NoTlsError(Exception):
    """The server does not go on with TLS: `answer` is the byte that it gave, empty where it closed."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("no TLS")
        self.answer = answer


class Shaken(NamedTuple):
    """What a TLS handshake brought."""

    version: str
    """Such as TLSv1.3."""
    certificate: bytes
    """The server's own, as DER."""
    protocol: str
    """What the server has selected by ALPN; empty: nothing."""


def run(work: Coroutine[Any, Any, None], grace: float = 1.0) -> bool:
    """Run to its end, as asyncio.run does, but wait no longer than `grace` for the threads of what was given up.

    Return whether they have ended. If not, Python itself would wait for them, and os._exit alone ends the process.
    """
    name = f"preflight {next(_RUNS)}"
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=name))
    try:
        loop.run_until_complete(work)
    finally:
        loop.run_until_complete(_end_all())
        loop.close()
    own = [thread for thread in threading.enumerate() if thread.name.startswith(f"{name}_")]
    for thread in own:
        thread.join(grace)
    return not any(thread.is_alive() for thread in own)


async def _end_all() -> None:
    """Cancel what still runs in this loop, as after a Ctrl-C, and wait for it."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


async def resolve(host: str, port: int, seconds: float) -> list[Address]:
    """Return the addresses of a host. Raises OSError (socket.gaierror), TimeoutError."""

    def ask() -> list[Address]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys((family, kind, number, address) for family, kind, number, _, address in found))

    return await within(seconds, ask)


async def within(seconds: float, work: Callable[[], T]) -> T:
    """Run blocking work in a thread that nobody waits for at the end. Raises what it raises, and TimeoutError.

    `asyncio.to_thread` keeps the process until its threads are done, and a lookup may take a minute.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(act: Callable[[], None]) -> None:
        def unless_done() -> None:
            if not outcome.done():
                act()

        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(unless_done)

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            failure = error
            settle(lambda: outcome.set_exception(failure))
        else:
            settle(lambda: outcome.set_result(result))

    threading.Thread(target=run, name="preflight", daemon=True).start()
    async with asyncio.timeout(seconds):
        return await outcome


async def connect(address: Address, seconds: float) -> socket.socket:
    """Return a connected socket. Raises OSError, TimeoutError."""
    family, kind, number, place = address
    sock = socket.socket(family, kind, number)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


def context(upstream: Upstream) -> ssl.SSLContext | None:
    """Return the context with which the upstream is checked; None for sslmode disable. Raises ConfigError."""
    bundled = resources.files("proxy").joinpath("data/rds-ca.pem").read_bytes()
    return contexts.upstream_context(upstream.sslmode, upstream.sslrootcert, bundled, upstream.sslcert, upstream.sslkey)


async def shake_hands(address: Address, context: ssl.SSLContext, host: str, seconds: float, *, direct: bool) -> Shaken:
    """Connect, agree on TLS, and close; nothing but the handshake is sent.

    Raises NoTlsError, OSError (ssl.SSLError, ssl.SSLCertVerificationError), TimeoutError.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds):
        sock = await connect(address, seconds)
        try:
            if not direct:
                await loop.sock_sendall(sock, p.SSL_REQUEST)
                answer = await loop.sock_recv(sock, 1)
                if answer != b"S":
                    raise NoTlsError(answer)
            layer = TlsLayer(context, asyncio.Protocol(), server_hostname=host)
            await loop.create_connection(lambda: layer, sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            await layer.ready
            shaken: ssl.SSLObject = layer.get_extra_info("ssl_object")
            return Shaken(
                shaken.version() or "",
                shaken.getpeercert(binary_form=True) or b"",
                shaken.selected_alpn_protocol() or "",
            )
        finally:
            layer.abort()


async def certificate(address: Address, host: str, seconds: float, *, direct: bool) -> bytes:
    """Return the certificate that a server shows, whoever that is: to explain why it was refused, and for nothing else.

    Nothing is verified, so nothing is sent over that connection. Empty where it cannot be had.
    """
    unverified = contexts.upstream_context("require", "", b"")
    if unverified is None:
        return b""
    with contextlib.suppress(NoTlsError, OSError, TimeoutError):
        return (await shake_hands(address, unverified, host, seconds, direct=direct)).certificate
    return b""


def authorities(context: ssl.SSLContext) -> list[Authority]:
    """Return the CAs that a context trusts, of those that it has read."""
    found = []
    for each in context.get_ca_certs():
        ends = ssl.cert_time_to_seconds(str(each["notAfter"]))
        subject: Any = each["subject"]
        names = {key: value for parts in subject for key, value in parts}
        name = names.get("commonName") or names.get("organizationalUnitName", "")
        found.append(Authority(name, datetime.datetime.fromtimestamp(ends, datetime.UTC)))
    return found

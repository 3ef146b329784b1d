"""Say in one sentence why the server could not start listening, and what to do about it."""

from __future__ import annotations

import errno
import socket

from proxy.config.schema import Config


def taken(host: str, port: int) -> bool:
    """Say whether another program listens on this address. Port 0 is never taken."""
    for family, kind, protocol, _, address in _addresses(host, port):
        with socket.socket(family, kind, protocol) as probe:
            # As the server does it: the ashes of closed connections (TIME_WAIT) do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return True
    return False


def explain(error: OSError, config: Config) -> str:
    """Return the sentence for an OSError of `proxy.server.run`."""
    places = (("listen", config.listen.host, config.listen.port), ("metrics", config.metrics.host, config.metrics.port))
    if error.errno == errno.EADDRINUSE:
        for section, host, port in places:
            if taken(host, port):
                return (
                    f"Port {port} of {host} is in use by another program: stop that program, or choose another port"
                    f" with {section}.port (SIDECART_{section.upper()}_PORT)."
                )
        return f"A port is in use by another program ({error}): stop it, or set listen.port or metrics.port."
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        for section, host, port in places:
            if not _is_ours(host, port):
                return f"{host} is not an address of this machine: correct {section}.host."
    if error.errno == errno.EACCES:
        return "A port below 1024 needs special rights: choose one from 1024 with listen.port and metrics.port."
    return f"SideCart could not start: {error}."


def _is_ours(host: str, port: int) -> bool:
    for family, kind, protocol, _, address in _addresses(host, 0 if port < 1024 else port):
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    continue
            return True
    return False


def _addresses(
    host: str, port: int
) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]]:
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    except socket.gaierror:
        return []

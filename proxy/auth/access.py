"""Who may come in, and how they have to prove who they are: the rules of the configuration, the first that fits.

What a client is told is what pg_hba.conf would have it told (src/backend/libpq/auth.c, hba.c).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final

from proxy.auth.users import Users
from proxy.config import values
from proxy.config.schema import AuthRule
from proxy.errors import INVALID_AUTHORIZATION_SPECIFICATION, LoginRefusedError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LOCAL_PEER: Final = "[local]"
"""What PostgreSQL calls a client of the Unix socket."""

DEFAULT_RULES: Final = (
    AuthRule(networks=(), method="trust"),
    AuthRule(networks=values.networks(values.LOOPBACK), method="trust"),
    AuthRule(networks=values.networks(values.ALL), method="scram-sha-256"),
)
"""Where none are configured: who is on this machine may come in, all others need a password."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection comes from, and what its TLS handshake has shown."""

    address: Address | None
    """None: the Unix socket."""
    tls: str = ""
    """The version, such as TLSv1.3; empty: in the clear."""
    binding: bytes = field(default=b"", repr=False)
    """The channel-binding data of tls-server-end-point; empty: there are none."""
    certificate: str | None = None
    """The common name in the client's certificate, which was verified; None: it has shown none."""

    @property
    def peer(self) -> str:
        """Return how the log and the client's errors call it."""
        return LOCAL_PEER if self.address is None else str(self.address)


def origin_of(address: str) -> Address | None:
    """Return the address that a socket tells of its peer; None for a Unix socket, which tells none.

    An IPv4 address in IPv6's clothes (::ffff:10.0.0.1) is an IPv4 address; a zone (fe80::1%eth0) is left out.
    """
    if not address:
        return None
    found = ipaddress.ip_address(address.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


LOOPBACK: Final = Origin(ipaddress.IPv4Address("127.0.0.1"))


class Access:
    """Find the method for a client. `tls` is the mode of listen.tls, which binds what comes over the network."""

    __slots__ = ("_rules", "_tls", "users")

    def __init__(self, rules: tuple[AuthRule, ...] = (), users: Users | None = None, tls: str = "prefer") -> None:
        self._rules = rules or DEFAULT_RULES
        self._tls = tls
        self.users = Users() if users is None else users

    def method(self, origin: Origin, database: str, user: str) -> str:
        """Return `trust`, `scram-sha-256` or `cert`. Raises LoginRefusedError where nothing lets the client in."""
        who = f'host "{origin.peer}", user "{user}", database "{database}"'
        who += ", SSL encryption" if origin.tls else ", no encryption"
        if origin.address is not None and not origin.tls and self._tls in ("require", "verify"):
            raise LoginRefusedError(
                INVALID_AUTHORIZATION_SPECIFICATION,
                f"no pg_hba.conf entry for {who}",
                detail=f"SideCart takes connections over the network with TLS only (listen.tls is {self._tls}).",
                hint="Connect with sslmode=require.",
                why="listen.tls asks for TLS",
            )
        for number, rule in enumerate(self._rules, 1):
            if not _fits(rule, origin.address, database, user):
                continue
            if rule.method == "reject":
                raise LoginRefusedError(
                    INVALID_AUTHORIZATION_SPECIFICATION,
                    f"pg_hba.conf rejects connection for {who}",
                    detail="SideCart has no pg_hba.conf: a rule in its auth.rules rejects this connection.",
                    why=f"auth.rules[{number}] rejects it",
                )
            return rule.method
        raise LoginRefusedError(
            INVALID_AUTHORIZATION_SPECIFICATION,
            f"no pg_hba.conf entry for {who}",
            detail="SideCart has no pg_hba.conf: no rule in its auth.rules fits this connection.",
            hint="Ask the operator of SideCart to add one.",
            why="no rule in auth.rules fits",
        )


def _fits(rule: AuthRule, address: Address | None, database: str, user: str) -> bool:
    if rule.databases and database not in rule.databases:
        return False
    if rule.users and user not in rule.users:
        return False
    if address is None or not rule.networks:
        return address is None and not rule.networks
    return any(address.version == network.version and address in network for network in rule.networks)

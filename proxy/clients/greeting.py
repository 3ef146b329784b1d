"""The greeting that a client waits for: an upstream says what the client's settings are, once for each snapshot."""

from __future__ import annotations

from typing import Protocol, cast

from proxy import protocol as p
from proxy.errors import INVALID_PARAMETER_VALUE, CloseReason, LoginRefusedError, UpstreamError, UpstreamProtocolError
from proxy.pooling import owed as r
from proxy.pooling.pool import Upstream as PooledUpstream
from proxy.pooling.sent import Groups
from proxy.pooling.snapshot import Settings, replay
from proxy.pooling.unnamed import Unnamed
from proxy.session.ports import Database, House, Upstream
from proxy.session.session import Unparsed


class Guest(Protocol):
    """A client that waits for its greeting."""

    def greet(self, served: Database, settings: Settings, parameters: dict[str, str]) -> None: ...
    def refuse(self, error: UpstreamError) -> None: ...


class Greeter:
    """Has the settings of a new client validated, and reported, by the server itself: once for each snapshot."""

    __slots__ = ("_error", "_guest", "_house", "_link", "_pool", "_served", "settings", "unnamed")

    def __init__(self, guest: Guest, house: House, served: Database, settings: Settings) -> None:
        self._guest: Guest | None = guest
        self._house = house
        self._served = served
        self._pool = served.pool
        self._link: Upstream | None = None
        self._error: UpstreamError | None = None
        self.settings = settings
        self.unnamed: Unnamed[Unparsed] = Unnamed(Groups())

    def start(self) -> None:
        """Lease an upstream, or stand in line for one."""
        upstream = self._pool.lease(self, self.settings, self._house.now())
        if upstream is not None:
            self.leased(upstream)

    def give_up(self) -> None:
        """Forget the client: it has gone."""
        self._guest = None
        self._pool.leave(self)
        link, self._link = self._link, None
        if link is not None:
            link.settings = None
            link.detach()
            self._pool.recycle(link, discard=False)

    # Waiter

    def leased(self, upstream: PooledUpstream) -> None:
        link = self._link = cast(Upstream, upstream)
        link.unnamed_of = None
        if link.settings is self.settings and not self._pool.reloaded:
            self._done(link)
            return
        link.attach(self)
        link.replies.listener = self
        link.replies.owe(r.SKIP_QUERY)
        # A server whose configuration was reloaded reports that when something runs there.
        link.write(p.query(replay(link.settings, self.settings) or b"SELECT 1"))
        link.settings = self.settings
        link.customs |= self.settings.customs  # even if the server refuses them

    def lease_failed(self, error: UpstreamError) -> None:
        if self._guest is not None:
            self._guest.refuse(error)

    def still_waiting(self, seconds: float) -> None:
        pass  # a notice ahead of the greeting would confuse drivers

    def holding(self) -> tuple[str, str]:
        return ("a client", "logging in")

    def _done(self, link: Upstream) -> None:
        parameters = dict(link.parameters)
        self._link = None
        link.detach()
        self._pool.release(link, self._house.now())
        guest = self._guest
        if guest is None:
            return
        if self._error is not None:
            guest.refuse(self._error)
        else:
            guest.greet(self._served, self.settings, parameters)

    # Owner

    def upstream_data(self, chunk: bytes) -> None:
        link = self._link
        if link is None:
            return
        try:
            link.replies.feed(chunk)
        except UpstreamProtocolError as error:
            self._lose(error.reason)
            return
        if link.replies.halted is not None:
            self._lose(CloseReason.UPSTREAM_LOST)
        elif link.replies.ready:
            link.replies.forget_ready()
            self._done(link)

    def upstream_lost(self) -> None:
        self._lose(CloseReason.UPSTREAM_LOST)

    def _lose(self, reason: CloseReason) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.detach()
            link.close(reason)
            self._pool.lost(link, self._house.now())
        if self._guest is not None:
            self._guest.refuse(UpstreamError("the connection to the server was lost during login", reason=reason))

    def upstream_writable(self, writable: bool) -> None:
        pass

    def bug(self) -> None:
        self._house.stats.bugs += 1
        self._lose(CloseReason.BUG)

    # Listener

    def bind_failed(self) -> None:
        pass

    def parameter_reported(self, body: bytes) -> bytes | None:
        if self._link is not None:
            p.note_parameter(self._link.parameters, body)
        return b""

    def skipped_row(self, body: bytes) -> None:
        pass  # what set_config() returns

    def skipped_error(self, body: bytes) -> bool:
        """Keep the server's words for the client. Its settings are what they were: the replay is one transaction."""
        fields = p.error_fields(body)
        text = fields.get("M", "invalid startup parameter")
        self._error = LoginRefusedError(fields.get("C", INVALID_PARAMETER_VALUE), text)
        if self._link is not None:
            self._link.settings = None
        return True

    def in_its_words(self, body: bytes) -> bytes:
        return body

    def notification_arrived(self, body: bytes) -> bool:
        return False

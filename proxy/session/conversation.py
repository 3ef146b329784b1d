"""Where everything that happens to one client's session arrives: from the client, its pool, its upstream, the helper.

Nothing here waits: a session that has to wait for an upstream, for a verdict from elsewhere, or for replies that are
owed keeps its bytes, pauses its client, and goes on in `leased`, `judged` or at ReadyForQuery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from proxy import protocol as p
from proxy.errors import CONNECTION_FAILURE, QUERY_CANCELED, CloseReason, UpstreamError
from proxy.pooling.pool import Upstream as PooledUpstream
from proxy.pooling.sent import Awaits
from proxy.pooling.unnamed import Unnamed
from proxy.session import from_upstream, leasing, parameter_status, pump
from proxy.session.ledger import Ledger
from proxy.session.peer import End, Identity, Peer
from proxy.session.ports import Database, House, Wire
from proxy.session.session import Session, Unparsed
from proxy.sql.verdict import Verdict


class Conversation:
    """Hand what arrives to the session. `end` is called once, when that cannot go on: see `Peer`."""

    __slots__ = ("client_data", "session", "unnamed", "upstream_data")

    def __init__(
        self,
        house: House,
        wire: Wire,
        database: Database,
        ledger: Ledger,
        who: Identity,
        reported: Mapping[str, str],
        codec: str,
        end: End,
    ) -> None:
        self.session = Session(house, database, ledger, Peer(wire, who, reported, end), codec, self)
        self.unnamed: Unnamed[Unparsed] = self.session.unnamed
        """Is told what becomes of the unnamed statement."""
        self.client_data: Callable[[bytes], None] = partial(pump.take, self.session)
        """Takes bytes from the client."""
        self.upstream_data: Callable[[bytes], None] = partial(from_upstream.take, self.session)
        """Takes bytes from the linked upstream."""

    # --- the client -----------------------------------------------------------------------------------------------

    def client_finished(self) -> None:
        """Learn that the client sends nothing more. What it has sent is answered; half a message is none."""
        self.session.peer.finished = True
        pump.leave_if_finished(self.session)

    def client_writable(self, writable: bool) -> None:
        """Learn that the client's write buffer has filled, or has room again."""
        session = self.session
        session.peer.writable = writable
        if session.link is not None:
            if writable:
                session.link.upstream.resume_reading()
            else:
                session.link.upstream.pause_reading()
        session.pace()

    def cancel(self, then: Callable[[], None] | None = None, *, cause: str = "") -> str:
        """Cancel what this session runs or waits for; return the outcome for the metric.

        Where that is `sent`, `then` is called once the server has dealt with it. What we ask ourselves goes on. `cause`
        is the limit of ours that asks for it; without one the user does.
        """
        session, link = self.session, self.session.link
        if link is not None and link.replies.awaited:
            link.cancelled = cause
            link.upstream.cancel(then)
            return "sent"
        text = f"canceling statement due to {cause or 'user request'}"
        error = UpstreamError(text, QUERY_CANCELED, reason=CloseReason.CLIENT_CANCEL_REQUEST)
        if session.waiting and session.pool.leave(self):
            self.lease_failed(error)
            return "waiting"
        if session.texts.cancel():
            session.wait_error = error
            pump.go_on(session)
            return "waiting"
        return "idle"

    def close(self) -> None:
        """Leave whatever it waits for, and hand the upstream back."""
        session = self.session
        session.texts.cancel()
        session.peer.closed = True
        session.inbox.clear()
        if session.waiting:
            session.pool.leave(self)
        session.awaits = Awaits.NOTHING
        if session.link is not None:
            from_upstream.hand_back(session, session.link)

    def bug(self) -> None:
        """End after an unexpected exception: this session and its upstream never resume."""
        from_upstream.fail(self.session)

    # --- its pool -------------------------------------------------------------------------------------------------

    def leased(self, upstream: PooledUpstream) -> None:
        """Go on with what waited for an upstream."""
        session = self.session
        link = leasing.attach(session, upstream, session.house.now())
        pump.go_on(session)
        if session.link is link:
            # By a newer catalogue it was refused, or has to be judged elsewhere once more: nothing went upstream.
            leasing.let_go(session, link)

    def lease_failed(self, error: UpstreamError) -> None:
        """Answer what waited with the error."""
        session, who = self.session, self.session.peer.who
        session.house.audit.event(
            "lease failed",
            session=who.ident,
            peer=who.peer,
            user=who.user,
            database=session.pool.database,
            reason=error.reason.value,
            why=str(error),
            **({"holders": error.detail} if error.detail else {}),
        )
        session.wait_error = error
        pump.go_on(session)

    def still_waiting(self, seconds: float) -> None:
        text = f"the statement has been waiting for an upstream connection for {seconds:.0f} s"
        self.session.notify(p.notice_response("NOTICE", "00000", text))

    def holding(self) -> tuple[str, str]:
        session, who = self.session, self.session.peer.who
        reason = "pinned: " + "+".join(session.ledger.pins) if session.ledger.pins else ""
        if not reason:
            reason = "running" if session.running else "in a transaction"
        return f"{who.user}@{who.peer}" + (f" ({who.application})" if who.application else ""), reason

    # --- the helper process, and the catalogues -------------------------------------------------------------------

    def judged(self, verdict: Verdict | None) -> None:
        """Go on with what waited for a verdict; None: judge it again, by the catalogue as it is now."""
        self.session.texts.answered(verdict)
        pump.go_on(self.session)

    # --- its upstream ---------------------------------------------------------------------------------------------

    def upstream_lost(self) -> None:
        """Learn that the linked upstream's socket has ended."""
        if self.session.link is not None:
            lost = (CloseReason.UPSTREAM_LOST, CONNECTION_FAILURE, from_upstream.GONE)
            from_upstream.lose(self.session, self.session.link, *lost)

    def upstream_writable(self, writable: bool) -> None:
        """Learn that the upstream's write buffer has filled, or has room again."""
        self.session.peer.full = not writable
        self.session.pace()

    def bind_failed(self) -> None:
        link = self.session.link
        if link is not None:
            link.bound = link.bound_before

    def parameter_reported(self, body: bytes) -> bytes | None:
        return parameter_status.reported(self.session, body)

    def in_its_words(self, body: bytes) -> bytes:
        return from_upstream.in_its_words(self.session, body)

    def skipped_row(self, body: bytes) -> None:
        from_upstream.take_row(self.session, body)

    def skipped_error(self, body: bytes) -> bool:
        return self.session.ledger.reading

    def notification_arrived(self, body: bytes) -> bool:
        # Whoever was let through what the filter refuses may listen, too, and has the upstream for itself.
        return self.session.ledger.scarred

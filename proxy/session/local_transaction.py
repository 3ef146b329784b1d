"""The transaction that no server knows of: begun, or failed, while its client has no upstream."""

from __future__ import annotations

from typing import Final

from proxy import protocol as p
from proxy.errors import UpstreamError

BEGIN: Final = p.query(b"BEGIN")


class LocalTransaction:
    """Hold the transaction status of a client that has no upstream, and what makes it real on one.

    | status | event | then |
    | --- | --- | --- |
    | IDLE | BEGIN | IN_TRANSACTION; it goes out with the first statement that needs the server |
    | IN_TRANSACTION | an error that is answered here | FAILED |
    | IN_TRANSACTION, FAILED | COMMIT, ROLLBACK | IDLE |
    | IN_TRANSACTION, FAILED | a lease | IDLE: the server has it |
    | any | the upstream is lost in a transaction | FAILED |
    """

    __slots__ = ("begin", "parting", "seen", "status")

    def __init__(self) -> None:
        self.status = p.IDLE
        self.begin = BEGIN
        """The Query that begins it."""
        self.seen = p.IDLE
        """The transaction status that the client was last told, by whomever."""
        self.parting: UpstreamError | None = None
        """How a transaction was lost that the client is in, as long as it was not told."""

    def fail(self) -> None:
        """Note an error that was answered here."""
        if self.status == p.IN_TRANSACTION:
            self.status = p.FAILED

    def made_real(self) -> bytes:
        """Return the Query that begins it on a server, which has it from now on."""
        begin, self.begin = self.begin, BEGIN
        self.status = p.IDLE
        return begin

    def became(self, status: int) -> None:
        """Note the status in which a lost upstream, or a unit that is sent again, leaves the client."""
        self.status = status
        self.begin = BEGIN

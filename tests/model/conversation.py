"""Speak the protocol with a server, batch by batch, and keep what counts of each answer.

Compared is every backend message. Left out are the greeting's cancel key, the place in PostgreSQL's source where an
error was raised, the words of a refusal, and the DETAIL of a syntax error, which SideCart may answer itself. The
ParameterStatus messages of an answer are compared without their order, which nothing defines.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from proxy import protocol as p
from tests.model.scripts import STAND_IN, Batch, End, Until

PATIENCE = 20.0
GLANCE = 0.005
"""How long a client's answer is awaited that may have to wait for others first."""
LOOK = 1.0
"""The same for one that should have an upstream: others may hold more of them than anybody can tell."""
READ_ONLY_SQL_TRANSACTION = "25006"
SYNTAX_ERROR = "42601"
REFUSAL = ": SideCart forwards reads only"
"""How the refusal of a function ends."""

Seen = tuple[str, object]
"""The type of a backend message and what of it counts."""


@dataclass(slots=True)
class Answer:
    """Hold what came for a batch, or up to the end of the connection."""

    messages: list[Seen] = field(default_factory=list)
    parameters: set[tuple[str, str]] = field(default_factory=set)


def what_counts(kind: int, body: bytes) -> object:
    """Return what has to be equal of a backend message.

    SQLSTATE 25006 is SideCart's refusal: no script asks for what PostgreSQL itself would answer so. That of a function
    has PostgreSQL's own code, and says whose it is.
    """
    if kind == p.BACKEND_KEY_DATA:
        return "a key"
    if kind not in (p.ERROR_RESPONSE, p.NOTICE_RESPONSE):
        return body
    # A text in latin1 becomes the same replacement characters on both sides.
    fields = p.error_fields(body)
    sqlstate = fields.get("C")
    text = fields.get("M", "")
    if sqlstate == READ_ONLY_SQL_TRANSACTION or text == f'syntax error at or near "{STAND_IN}"':
        return "refused"
    if text.endswith(REFUSAL):
        return "refused"
    # F, L and R are PostgreSQL's file, line and routine.
    left_out = "FLRD" if sqlstate == SYNTAX_ERROR else "FLR"
    return {code: text for code, text in fields.items() if code not in left_out}


class Connection:
    """Speak the protocol with one server. `ended` tells that it has hung up, or kept us waiting too long."""

    def __init__(self, port: int, parameters: Mapping[str, str]) -> None:
        self._port = port
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.key = b""
        self.status = p.IDLE
        """The transaction status with the last whole answer."""
        self.answers: list[Answer] = []
        self.ended = False
        self.owed: Batch | None = None
        """The batch whose answer has not come yet."""
        self.answered: Batch | None = None
        """The batch whose answer came last."""
        self._rest = b""  # of a batch, to be sent later
        self._answer = Answer()
        self._status = p.IDLE
        self._readies = 0
        self._fence = False
        self.sock.sendall(p.startup_message(parameters))
        self._greeting = True

    # --- sending ------------------------------------------------------------------------------------------------

    def send(self, batch: Batch, data: bytes) -> None:
        self.owed = batch
        self.write(data)

    def write(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except (ConnectionError, TimeoutError):
            self._end("the connection ended")

    def send_torn(self, batch: Batch, data: bytes) -> None:
        """Send half of it; `send_rest` sends the rest."""
        half = len(data) // 2
        self._rest = data[half:]
        self.send(batch, data[:half])

    def send_rest(self) -> None:
        if self._rest:
            rest, self._rest = self._rest, b""
            self.write(rest)

    def cancel(self, own_key: bool = True) -> None:
        """Send a CancelRequest, and wait until the server has closed its connection: then it has acted."""
        pid, secret = struct.unpack_from("!I", self.key)[0], self.key[4:]
        if not own_key:
            secret = bytes(byte ^ 0x5A for byte in secret)
        with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as sock, suppress(ConnectionError):
            sock.sendall(p.cancel_request(pid, secret))
            sock.recv(1)

    def leave(self, how: End) -> None:
        with suppress(OSError):
            if how is End.TERMINATE:
                self.sock.sendall(p.TERMINATE_MESSAGE)
            elif how is End.RESET:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # --- receiving ----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing is owed."""
        return self.owed is None and not self._greeting

    @property
    def has_flushed(self) -> bool:
        """Whether a group is open whose answers have come with a Flush."""
        return self.answered is not None and self.answered.until is Until.FLUSHED

    def collect(self, seconds: float | None = None) -> bool:
        """Read what is owed; return whether all of it has come in that time. No answer in PATIENCE is the end."""
        deadline = time.monotonic() + (PATIENCE if seconds is None else seconds)
        while not (self.idle or self.ended):
            if self._take():
                continue
            self.sock.settimeout(max(deadline - time.monotonic(), 1e-4))
            try:
                data = self.sock.recv(1 << 18)
            except TimeoutError:
                if seconds is not None:
                    return False
                self.give_up()
                break
            except ConnectionError:
                data = b""
            if not data:
                self._end("the connection ended")
                break
            self._buffer += data
        return True

    def _take(self) -> bool:
        """Take one message; return whether there was one."""
        buffer = self._buffer
        if len(buffer) < 5:
            return False
        kind, length = p.read_header(buffer)
        if len(buffer) <= length:
            return False
        body = buffer[5 : length + 1]
        self._buffer = buffer[length + 1 :]
        if kind == p.PARAMETER_STATUS:
            self._answer.parameters.add(p.parameter_parts(body))
        else:
            self._answer.messages.append((chr(kind), what_counts(kind, body)))
        if kind == p.BACKEND_KEY_DATA:
            self.key = body
        elif kind == p.CLOSE_COMPLETE:
            self._fence = True
        elif kind == p.READY_FOR_QUERY:
            self._status = body[0]
            self._readies += 1
        if self._is_over(kind):
            self._finish()
        return True

    def _is_over(self, kind: int) -> bool:
        batch = self.owed
        if batch is None or batch.until is Until.READY:
            return self._readies == (1 if batch is None else batch.readies)
        if batch.until is Until.FENCE:
            return self._fence and kind == p.READY_FOR_QUERY
        return self._fence or kind == p.ERROR_RESPONSE

    def _finish(self) -> None:
        self.answers.append(self._answer)
        self._answer = Answer()
        self._readies = 0
        self._fence = False
        self.answered, self.owed = self.owed, None
        self.status = self._status
        self._greeting = False

    def give_up(self) -> None:
        """Note that no answer came in PATIENCE."""
        if not self.idle:
            self._end(f"no answer in {PATIENCE:g} s")

    def _end(self, why: str) -> None:
        self._answer.messages.append(("end", why))
        self.ended = True
        self._finish()

"""A server that floods whoever connects, in one phase of a connection; run as `python -m tests.flooding PHASE KIND`.

It is a process of its own, so that it takes no time from the one that measures. It prints its port.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import sys
import threading
from collections.abc import Callable

from proxy import protocol as p
from tests.hostile import AUTH_OK, Conversation, HungUpError, row, sasl, sasl_continue

BLOCK = 1 << 20
PHASES = ("login", "logged in", "scram", "idle", "cleaning", "query", "catalogue", "role")
"""When it floods: instead of asking for a proof; behind AuthenticationOk; while a proof is computed; on connections
that nobody uses; when a statement was cancelled; in answer to a client; in answer to the look at the catalogue, and at
the role."""

_GREETING = AUTH_OK + p.parameter_status("server_version", "17.5") + p.backend_key_data(1, b"1234") + p.READY[p.IDLE]
_DESCRIPTION = p.message(p.ROW_DESCRIPTION, struct.pack("!H", 1) + b"c\0" + struct.pack("!IHIhih", 0, 0, 25, -1, -1, 0))


def blocks(kind: str) -> Callable[[], bytes]:
    """Return what makes the next block of whole messages of this kind."""
    if kind == "parameters":  # no name comes twice
        counter = iter(range(1 << 40))
        return lambda: b"".join(p.parameter_status(f"p{next(counter)}", "v") for _ in range(20_000))
    if kind == "noise":
        noise = secrets.token_bytes(BLOCK)
        return lambda: p.message(p.DATA_ROW, struct.pack("!Hi", 1, BLOCK) + noise)
    if kind == "long notices":
        return lambda: p.message(p.NOTICE_RESPONSE, bytes(7 << 20))
    one = {
        "parameter": p.parameter_status("TimeZone", "UTC"),
        "notices": p.message(p.NOTICE_RESPONSE, b"\0"),
        "rows": p.message(p.DATA_ROW, b"\0\0"),
        "rows of nulls": p.message(p.DATA_ROW, row(*[None] * 500)),
        "descriptions": _DESCRIPTION,
        "junk": b"\0",
    }[kind]
    block = one * (BLOCK // len(one))
    return lambda: block


class Flooding:
    """Hold the conversation with one connection."""

    def __init__(self, sock: socket.socket, phase: str, kind: str) -> None:
        self._talk = Conversation(sock)
        self._phase = phase
        self._sock = sock
        self._blocks = blocks(kind)

    def flood(self) -> None:
        try:
            while True:
                self._sock.sendall(self._blocks())
        except OSError as error:
            raise HungUpError from error

    def run(self) -> None:
        talk, phase = self._talk, self._phase
        first = talk.startup()
        if first[:4] == p.SSL_REQUEST[4:]:
            talk.say(b"N")
            talk.startup()
        elif len(first) < 20:
            return  # a CancelRequest
        if phase == "login":
            self.flood()
        if phase == "scram":
            talk.say(sasl("SCRAM-SHA-256"))
            talk.say(sasl_continue(f"r={talk.client_first()}x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1000000"))
            self.flood()
        if phase == "logged in":
            talk.say(AUTH_OK)
            self.flood()
        talk.say(_GREETING)
        while True:
            kind = talk.take(1)
            text = talk.take(int.from_bytes(talk.take(4), "big") - 4)
            if kind == b"Q":
                self._answer(text)
            elif kind == b"S":
                talk.say(p.READY[p.IDLE])
            elif kind == b"X":
                return

    def _answer(self, text: bytes) -> None:
        says = self._talk.say
        if text.startswith(b"SELECT pg_catalog.current_setting('default_transaction_read_only')"):
            read_only = p.message(p.DATA_ROW, row(b"on", b"on", b"UTF8", b"", b"1"))
            says(_DESCRIPTION + read_only + p.message(p.COMMAND_COMPLETE, b"SELECT 1\0") + p.READY[p.IDLE])
            if self._phase == "idle":
                self.flood()
            return
        asked = "role" if b"pg_roles" in text else "catalogue" if b"pg_proc" in text else "query"
        if asked == self._phase:
            says(_DESCRIPTION)
            self.flood()
        if self._phase == "cleaning" and asked == "query":
            says(_DESCRIPTION)
            self._talk.take(1)
            self.flood()
        says(p.error_response("ERROR", "42501", "no") + p.READY[p.IDLE])


def serve(phase: str, kind: str) -> None:
    """Print the port, then flood until the process is ended."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def handle(sock: socket.socket) -> None:
        with sock, contextlib.suppress(HungUpError):
            Flooding(sock, phase, kind).run()

    while True:
        sock, _ = listener.accept()
        threading.Thread(target=handle, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    serve(*sys.argv[1:3])

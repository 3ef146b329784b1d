"""Transactions without an upstream: a BEGIN, and the COMMIT or ROLLBACK behind it, that no server needs to know of."""

from __future__ import annotations

import re
from typing import Final

from proxy import protocol as p
from proxy.errors import MalformedMessageError
from proxy.pooling.snapshot import ANY_SETTINGS
from proxy.session.session import Session
from proxy.sql.verdict import Action, Verdict

ENDS: Final = frozenset(("commit", "rollback"))
"""Kinds of texts that end a transaction."""
_COMMITTED, _ROLLED_BACK = (p.message(p.COMMAND_COMPLETE, tag + b"\0") for tag in (b"COMMIT", b"ROLLBACK"))
_SPACE: Final = rb"(?:\s|--[^\n]*\n|/\*[^*/]*\*/)*"
_BEGINNING = re.compile(_SPACE + rb"(begin|start)\b", re.IGNORECASE)
_BOUNDS = re.compile(_SPACE + rb"(?:begin|start|commit|end|rollback|abort)\b", re.IGNORECASE)
_MAX_BOUNDARY: Final = 256
_PARSED_AND_BOUND = p.message(p.PARSE_COMPLETE) + p.message(p.BIND_COMPLETE)
_BOUNDARY_ENDS: Final = {
    p.message(p.BIND, bytes(6) + formats) + describe + p.execute(b"") + p.SYNC_MESSAGE: _PARSED_AND_BOUND + described
    for formats in (b"\0\0", b"\0\1\0\0", b"\0\1\0\1")
    for describe, described in ((b"", b""), (p.message(p.DESCRIBE, b"P\0"), p.message(p.NO_DATA)))
}
"""Bind, Describe, Execute and Sync of a statement without parameters, whatever the format of its results; and what
answers its Parse, Bind and Describe."""


def ends_here(session: Session, verdict: Verdict) -> bool:
    """Whether a text begins or ends a transaction that no server knows of."""
    if session.link is not None:
        return False
    return bool(verdict.boundary) or (session.local.parting is not None and verdict.kind in ENDS)


def take(session: Session, verdict: Verdict, text: bytes, before: bytes = b"") -> bool:
    """Begin or end a transaction that no server knows of; return whether that could be done.

    A BEGIN goes out together with the first statement that needs the server: now() and the snapshot start there.
    `before` is what the client gets ahead of CommandComplete.
    """
    local = session.local
    if verdict.boundary == "begin":
        found = _BEGINNING.match(text)
        if found is None or local.status != p.IDLE:
            return False
        tag = b"BEGIN" if found[1][:1] in b"bB" else b"START TRANSACTION"
        answer = p.message(p.COMMAND_COMPLETE, tag + b"\0")
        if verdict.action is Action.REPLACE:
            answer = p.notice_response("WARNING", "01000", verdict.warning, codec=session.codec) + answer
        local.begin = p.query(verdict.text or text)
        local.status = p.IN_TRANSACTION
    else:
        if local.status == p.IDLE:
            return False
        answer = _ROLLED_BACK if local.status == p.FAILED or verdict.boundary == "rollback" else _COMMITTED
        error, local.parting = local.parting, None
        if error is not None and verdict.boundary != "rollback":
            answer = p.error_response("ERROR", error.sqlstate, str(error), codec=session.codec)
            before = b""  # a COMMIT that fails has ended the transaction all the same
        local.status = p.IDLE
    session.unnamed.drop()
    local.seen = local.status
    session.house.stats.statements[verdict.label] += 1
    session.peer.wire.write(before + answer + p.READY[local.status])
    return True


def take_group(session: Session, data: bytes) -> bool:
    """Do the same for a group that is nothing but that, as psycopg sends it; return whether it is one.

    The beginning of one is kept until its end is there, or something else: without Sync or Flush no answer is due.
    """
    end = 1 + int.from_bytes(data[1:5], "big")
    if session.link is not None or not 13 < end <= min(_MAX_BOUNDARY, len(data)) or session.swallowing:
        return False
    rest = data[end:]
    form = next((form for form in _BOUNDARY_ENDS if form.startswith(rest)), None)
    text = None if form is None else _boundary(data, end)
    if form is None or text is None:
        return False
    if len(rest) < len(form):
        session.inbox.keep(data, len(data) + 1)
        return True
    verdict = session.filter.judge(text, session.codec, extended=True)
    if not verdict.boundary:
        session.texts.counted = True
        return False
    if session.meter is not None:
        if session.meter.charge():
            return False  # its Execute is refused in its turn
        session.meter.paid = False
    if not take(session, verdict, text, _BOUNDARY_ENDS[form]):
        return False
    session.unnamed.keep((data[:end], ANY_SETTINGS, verdict, session.filter.functions, session.codec))
    return True


def _boundary(data: bytes, end: int) -> bytes | None:
    """Return the text of a Parse of the unnamed statement that looks like a BEGIN, COMMIT or ROLLBACK; else None."""
    try:
        name, text = p.parse_parts(data, 5, end)
    except MalformedMessageError:
        return None
    return text if not name and _BOUNDS.match(text) else None

"""Whole groups that most drivers send, in one step: what the general path does of them, with nothing in its middle."""

from __future__ import annotations

from typing import Final

from proxy import protocol as p
from proxy.pooling import owed as r
from proxy.pooling.owed import Owed
from proxy.session import leasing, reparsing
from proxy.session.link import Link
from proxy.session.session import Session
from proxy.sql.verdict import Verdict

_EXECUTE_AND_SYNC = p.execute(b"") + p.SYNC_MESSAGE
_BEHIND_BIND: Final = {
    p.message(p.DESCRIBE, b"P\0") + _EXECUTE_AND_SYNC: (r.BIND, r.DESCRIBE, r.EXECUTE, r.SYNC),
    _EXECUTE_AND_SYNC: (r.BIND, r.EXECUTE, r.SYNC),
}
"""What such a group has behind its Bind, and the replies that are owed from there on."""


def held_back(session: Session) -> bool:
    """Whether something in the session keeps a group from being forwarded without a closer look.

    That is all that a lease can refuse for, too: nothing here raises Refusal.
    """
    link, ledger, local = session.link, session.ledger, session.local
    if session.swallowing or ledger.recodes or ledger.unsure or session.meter or session.wait_error or local.parting:
        return True
    if link is None:
        return local.status == p.FAILED  # hardly anything of such a transaction needs a server
    return link.stirred or link.portals.held_back or link.replies.skipping


def parse_group(session: Session, data: bytes) -> bool:
    """Forward Parse, Bind, maybe Describe, Execute and Sync of the unnamed statement and portal, if it is that.

    In one chunk, the Parse seen and allowed before. Return whether it was. Raises MustWait.
    """
    end = 1 + int.from_bytes(data[1:5], "big")
    bind_end = end + 1 + int.from_bytes(data[end + 1 : end + 5], "big")
    if data[end : end + 1] != b"B" or data[end + 5 : end + 7] != b"\0\0":
        return False
    owed = _BEHIND_BIND.get(data[bind_end:])
    judge = session.filter
    parse = data[:end]
    verdict = judge.plain_parses.get(parse)
    if owed is None or verdict is None or session.codec != "utf-8" or held_back(session):
        return False
    link = session.link
    ahead = b"" if link is None or link.group_open else _guard(link)
    if ahead is None:
        return False
    judge.counts.hits += not session.texts.counted
    if link is None:
        link = leasing.lease(session)
    statement = (parse, session.ledger.settings.parsing, verdict, judge.functions, session.codec)
    link.replies.owed.append(session.unnamed.parse_sent(statement))
    session.house.stats.statements[verdict.label] += 1
    _send(session, link, verdict, owed, data, ahead + data if ahead else data)
    return True


def bind_group(session: Session, data: bytes) -> bool:
    """Forward Bind, maybe Describe, Execute and Sync of a named statement, if it is that; return whether it was.

    In one chunk, to the unnamed portal, the statement known, and on the link. Raises MustWait.
    """
    end = 1 + int.from_bytes(data[1:5], "big")
    owed = _BEHIND_BIND.get(data[end:])
    if owed is None or data[5] or held_back(session):
        return False
    held = link = session.link
    if session.local.status != p.IDLE if held is None else held.group_open or held.own is not None:
        return False  # where names of the client's own stand, it may be there under its own, and is used so
    stop = data.find(0, 6, end)
    name = data[6:stop]
    statement = session.prepared.known(name)
    if (
        statement is None
        or statement.judge is not session.filter.functions
        or not reparsing.at_home(session, statement)
    ):
        return False
    verdict = statement.verdict
    if verdict.effects or verdict.steers:
        return False
    if link is None:
        link = leasing.lease(session)
    server_name = link.held.use(statement)
    if server_name is None or session.prepared.shown.setdefault(server_name, name) != name:
        return False
    ahead = b"" if held is None else _guard(held)
    if ahead is None:
        return False
    out = p.rewritten(p.BIND, end + 1 - stop + len(server_name), b"\0" + server_name, data[stop:])
    _send(session, link, verdict, owed, data, ahead + out if ahead else out)
    return True


def _guard(link: Link) -> bytes | None:
    """Return the guard of layer 2, if it goes ahead of a group that begins now, and owe its reply; None: it waits."""
    if not (link.replies.owed or link.blind):
        return b""
    guard = link.ahead()
    if guard:
        link.replies.owed.append(r.GUARDING)
    return guard


def _send(session: Session, link: Link, verdict: Verdict, owed: tuple[Owed, ...], data: bytes, out: bytes) -> None:
    """Send a group that came as `data`, as `out`; the replies from its Bind on are `owed`."""
    session.doing = verdict
    if link.unit is not None:
        link.remember(data)
    link.replies.owed.extend(owed)
    link.group_open = False
    link.portals.bound = True
    session.groups.sent += 1
    link.upstream.write(link.flushed() + out if link.prefix else out)

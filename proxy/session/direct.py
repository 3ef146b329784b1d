"""What most drivers send, in one step: what the general path does of it, with nothing in its middle.

A Query that comes alone, or a whole group, whose like was seen before, on a link with nothing to be looked at.
"""

from __future__ import annotations

from typing import Final

from proxy import protocol as p
from proxy.filter import Filter
from proxy.pooling import owed as r
from proxy.pooling.owed import Owed
from proxy.session import leasing
from proxy.session.link import MAX_UNIT, Link
from proxy.session.session import Session
from proxy.sql.plain import DIGITS
from proxy.sql.verdict import Verdict

_EXECUTE_AND_SYNC = p.execute(b"") + p.SYNC_MESSAGE
_BEHIND_BIND: Final = {
    p.message(p.DESCRIBE, b"P\0") + _EXECUTE_AND_SYNC: (r.BIND, r.DESCRIBE, r.EXECUTE, r.SYNC),
    _EXECUTE_AND_SYNC: (r.BIND, r.EXECUTE, r.SYNC),
}
"""What such a group has behind its Bind, and the replies that are owed from there on."""
_ONE_QUERY: Final = (r.QUERY,)


def held_back(session: Session) -> bool:
    """Whether something in the session keeps a group from being forwarded without a closer look.

    That is all that a lease can refuse for, too: nothing here raises Refusal. A group behind something that is
    unanswered may need the guard ahead.
    """
    link, ledger, local = session.link, session.ledger, session.local
    if session.swallowing or ledger.recodes or ledger.unsure or session.meter or session.wait_error or local.parting:
        return True
    if link is None:
        return local.status == p.FAILED  # hardly anything of such a transaction needs a server
    if link.stirred or link.unclean or link.group_open or link.replies.owed:
        return True
    return link.noted is not None and link.noted.held_back


def query(session: Session, data: bytes) -> bool:
    """Forward a Query that was seen and allowed before, maybe with other numbers; return whether it was.

    It comes alone in its chunk. Raises MustWait.
    """
    judge = session.filter
    same = judge.plain.queries.get(data)
    verdict = same or _alike(judge, data)
    if verdict is None or session.codec != "utf-8" or held_back(session):
        return False
    if same is None:
        judge.counts.shape_hits += not session.texts.counted
    else:
        judge.counts.hits += not session.texts.counted
    link = session.link or leasing.take(session)
    session.unnamed.end_sent()
    session.house.stats.statements[verdict.label] += 1
    link.bound = link.bound_before = False
    _send(session, link, verdict, _ONE_QUERY, data, data)
    return True


def _alike(judge: Filter, data: bytes) -> Verdict | None:
    """Return the verdict on Queries that differ from this one in nothing but digits, if it is one whole message."""
    return judge.plain.alike.get(data.translate(DIGITS)) if int.from_bytes(data[1:5], "big") == len(data) - 1 else None


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
    verdict = judge.plain.parses.get(parse)
    if owed is None or verdict is None or session.codec != "utf-8" or held_back(session):
        return False
    judge.counts.hits += not session.texts.counted
    link = session.link or leasing.take(session)
    statement = (parse, session.ledger.settings.parsing, verdict, judge.functions, session.codec)
    link.replies.owed.append(session.unnamed.parse_sent(statement))
    session.house.stats.statements[verdict.label] += 1
    link.bound = True
    _send(session, link, verdict, owed, data, data)
    return True


def bind_group(session: Session, data: bytes) -> bool:
    """Forward Bind, maybe Describe, Execute and Sync of a named statement, if it is that; return whether it was.

    In one chunk, to the unnamed portal, the statement known, and on the link. Raises MustWait.
    """
    end = 1 + int.from_bytes(data[1:5], "big")
    owed = _BEHIND_BIND.get(data[end:])
    if owed is None or data[5] or held_back(session):
        return False
    stop = data.find(0, 6, end)
    name = data[6:stop]
    judge, ledger, link = session.filter, session.ledger, session.link
    statement = session.prepared.as_parsed(name, judge.functions, ledger.settings.parsing)
    if statement is None or (judge.folds and ledger.special):
        return False
    if link is None:
        if session.local.status != p.IDLE:
            return False
        link = leasing.take(session)
    server_name = link.held.use(statement)
    if server_name is None or session.prepared.shown.setdefault(server_name, name) != name:
        return False
    head = p.write_header(p.BIND, end + 5 - stop + len(server_name))
    link.bound = True
    out = b"".join((head, b"\0", server_name, data[stop:]))
    _send(session, link, statement.verdict, owed, data, out)
    return True


def _send(session: Session, link: Link, verdict: Verdict, owed: tuple[Owed, ...], data: bytes, out: bytes) -> None:
    """Send a group that came as `data`, as `out`; the replies from its Bind on are `owed`."""
    session.doing = verdict
    if link.unit:
        link.remember(data)
    elif link.unit is not None:
        link.unit = data if len(data) <= MAX_UNIT else None
    link.replies.owed.extend(owed)
    session.groups.sent += 1
    link.upstream.write(link.flushed() + out if link.prefix else out)

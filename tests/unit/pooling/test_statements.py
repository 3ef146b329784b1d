"""Prepared statements: what a client's own name on the link means, and texts of ours inside a Query of the client's."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.pooling import owed as r
from proxy.pooling.owed import DONE, Described, Dropped, NamedParse, Owed
from proxy.pooling.sent import Groups, MustWait
from proxy.pooling.snapshot import NO_SETTINGS
from proxy.pooling.statements import Held, Own, Prepared, Statement
from proxy.sql.verdict import Action, Verdict
from tests.unit.pooling.test_replies import Listener


def test_name_of_the_clients_own_is_on_the_link_when_the_server_has_said_so() -> None:
    groups = Groups()
    own = Own(groups)
    own.parse_sent(b"s1", False)
    assert (own.find(b"s1"), bool(own)) == (False, False)
    groups.sent += 1
    with pytest.raises(MustWait):
        own.find(b"s1")
    groups.answered += 1
    assert own.find(b"s1") is None  # it has failed
    own.keep(b"s1", True)
    assert (own.find(b"s1"), bool(own)) == (True, True)
    own.all_closes_sent()
    assert own.find(b"s1") is None
    groups.lose()
    assert (own.find(b"s1"), own.all(), bool(own)) == (True, [b"s1"], False)


def test_statement_that_was_dropped_before_it_was_described_stays_dropped() -> None:
    held = Held("test", 10)
    statement = Statement(b"select 1\0\0\0", NO_SETTINGS, Verdict(Action.ALLOW, "select"), None)
    held.keep(statement, b"sidecart:1")
    held.all()
    held.replace(statement, statement)
    assert held.names == {}


def test_pipeline_of_more_statements_than_fit_is_answered_after_some_were_closed() -> None:
    """Each is closed to make room, or with its twin, while what Describe says of it is still to come: a KeyError."""
    groups = Groups()
    held, prepared = Held("test", 2), Prepared(groups)
    listener = Listener()
    owed: list[Owed] = []
    for number in range(8):
        name = b"s%d" % number
        statement = Statement(b"select 1\0\0\0", NO_SETTINGS, Verdict(Action.ALLOW, "select"), None)

        def kept(parsed: Statement, name: bytes = name) -> None:
            prepared.keep(name, parsed)
            held.keep(parsed, b"sidecart:" + name)

        def replaced(mine: Statement, shared: Statement, name: bytes = name) -> None:
            held.replace(mine, shared)
            prepared.replace(name, mine, shared)

        parsed = NamedParse(r.PARSE, statement, name, kept, replaced)
        parsed.settle(DONE, listener)
        owed.extend(Dropped(held, closed) for closed in held.surplus(1) + held.twins(statement))
        described = Described(r.SKIP_DESCRIBE, parsed.described)
        described.collect(p.NO_DATA, b"n")
        owed.append(described)
    for reply in owed:
        reply.settle(DONE, listener)
        assert not reply.changed
    assert len({id(statement) for statement in prepared.all().values()}) == 1
    assert len(held.names) <= 1 and not held.stale

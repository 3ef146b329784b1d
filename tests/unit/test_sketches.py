"""Sketches: written and read again, written by seed, made short, followed, and compared."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from proxy import protocol as p
from tests.model import writer
from tests.model.following import Following
from tests.model.performing import difference
from tests.model.shrink import shrunk
from tests.model.sketch import Message, Sketch, bind, execute, is_safe, parse, query, sketch, without

SEEDS = range(400)
EXAMPLE = """
A [TimeZone=Asia/Tokyo; options=-c search_path=here]: P s 'select ''x''' (25, 0), B p s ('4', null), S | Q '' / H ^5 | X
B: 300 x (P "" 'reset all', B "" "", E "") / H leaves
C: B "" "a ""b", D S s, D P p, E p 2, C S s, C P p, S
order ABA
""".strip()


def test_a_sketch_is_read_as_it_is_written() -> None:
    assert str(sketch(EXAMPLE)) == EXAMPLE
    for seed in SEEDS:
        assert sketch(str(writer.write(seed))) == writer.write(seed)


@pytest.mark.parametrize(
    "text",
    (
        "A: R 'x'",
        "B: S",
        "A: Q x",
        "A: S S",
        "A: P s 'unfinished",
        "A: 3 x (S",
        "nothing",
        "A: S leaves, S",
        "A: 3 S",
    ),
)
def test_what_is_no_sketch(text: str) -> None:
    with pytest.raises(ValueError):
        sketch(text)


def test_bytes_of_messages() -> None:
    (part,) = sketch("A: P s 'select $1' (25), B p s ('4', null), E p 2, C P p, D S s, S, Q 'x', H, X").parts
    data = b"".join(message.data() for message in part.messages)
    assert data == (
        p.parse(b"s", b"select $1", b"\0\1\0\0\0\x19")
        + p.message(p.BIND, b"p\0s\0\0\0\0\2\0\0\0\x014\xff\xff\xff\xff\0\1\0\0")
        + p.message(p.EXECUTE, b"p\0\0\0\0\2")
        + p.message(p.CLOSE, b"Pp\0")
        + p.message(p.DESCRIBE, b"Ss\0")
        + p.SYNC_MESSAGE
        + p.query(b"x")
        + p.message(p.FLUSH)
        + p.TERMINATE_MESSAGE
    )
    assert query("delete").data("refused") == p.query(b"refused")


def test_one_seed_writes_one_sketch() -> None:
    assert [writer.write(seed) for seed in SEEDS] == [writer.write(seed) for seed in SEEDS]
    assert len(set(map(writer.write, SEEDS))) == len(SEEDS)


def test_everything_is_written() -> None:
    """Each kind of message, named and not; several groups a write; all texts; all that a write and a client can be."""
    written = [writer.write(seed) for seed in range(2000)]
    parts = [part for each in written for part in each.parts]
    writes = [write for part in parts for write in part.writes]
    messages = [message for write in writes for message in write.messages]
    seen = Counter((message.kind, message.target, bool(message.name or message.portal)) for message in messages)
    for kind in ("PB", "E"):
        for letter in kind:
            assert min(seen[letter, "", True], seen[letter, "", False]) > 100
    assert all(seen[letter, target, True] > 100 for letter in "DC" for target in "SP")
    assert all(seen[letter, "", False] > 100 for letter in "QSHX")
    texts = {message.text for message in messages if message.kind in "QP"}
    assert texts == set(writer.vocabulary())
    assert {min(8, len(each.parts)) for each in written} == {2, 3, 4, 5, 8}
    assert {sum(message.kind in "QS" for message in write.messages) for write in writes} >= {1, 2, 3, 4}
    assert sum(message.limit > 0 for message in messages) > 100
    assert sum(part.leaves for part in parts) > 100
    assert sum(bool(part.parameters) for part in parts) > 100
    assert sum(write.times > 1 for write in writes) > 20
    assert min(sum(not write.waits for write in writes), sum(write.cut > 0 for write in writes)) > 100


def test_no_sketch_meets_the_unnamed_portal_of_a_query() -> None:
    assert not is_safe([query("begin"), query("select 1/0"), bind("", "s"), Message("S"), execute()])
    assert is_safe([query("begin"), bind("", "s"), execute(), Message("S"), execute("p")])
    assert is_safe([bind("", "s"), Message("S"), execute()])
    for seed in SEEDS:
        assert all(is_safe(list(part.messages)) for part in writer.write(seed).parts)


def test_messages_are_left_out() -> None:
    whole = sketch("A: Q 'set app.x to 1', Q 'select 1' | Q 'set app.x to 1'\nB: S, X")
    assert str(without(whole, re.compile(r"app\.|^X"))) == "A: Q 'select 1' | S\nB: S"


# --- made short -----------------------------------------------------------------------------------------------------


def test_what_fails_is_made_short() -> None:
    """Whatever of a sketch is needed stays: here a message of one client, and another one of a second client."""

    def fails(each: Sketch) -> bool:
        first = [number for number, part in enumerate(each.parts) if any("'begin'" in str(m) for m in part.messages)]
        second = [number for number, part in enumerate(each.parts) if any(m.kind == "C" for m in part.messages)]
        return any(one != other for one in first for other in second)

    made = 0
    for seed in range(300):
        if fails(written := writer.write(seed)):
            short = shrunk(written, fails, 2000)
            assert fails(short)
            assert [len(list(part.messages)) for part in short.parts] == [1, 1]
            assert not short.order
            made += 1
    assert made > 3


def test_what_is_made_short_stays_safe() -> None:
    whole = sketch('A: Q \'begin\' | B "" s, E "", S')
    short = shrunk(whole, lambda each: any(m.kind == "E" for part in each.parts for m in part.messages))
    assert str(short) == 'A: E ""'
    short = shrunk(whole, lambda each: {"Q", "E"} <= {m.kind for part in each.parts for m in part.messages})
    assert str(short) == 'A: Q \'begin\' | B "" s, E ""'


def test_trains_are_made_short() -> None:
    whole = sketch('A: 200 x (P "" \'select 1\', B "" "") / H leaves')
    short = shrunk(whole, lambda each: len(list(each.parts[0].messages)) > 6)
    assert [write.times for write in short.parts[0].writes] == [4]


def test_attempts_are_bounded() -> None:
    tried: list[Sketch] = []

    def fails(each: Sketch) -> bool:
        tried.append(each)
        return False

    whole = writer.write(1)
    assert shrunk(whole, fails, 7) == whole
    assert len(tried) == 7


# --- followed -------------------------------------------------------------------------------------------------------


def followed(messages: list[Message], answer: str) -> Following:
    """Follow an answer given by its types; small z is a ReadyForQuery in a transaction."""
    out = Following()
    out.receive(p.READY_FOR_QUERY, b"I")
    out.send(messages)
    for kind in answer:
        if kind in "Zz":
            out.receive(p.READY_FOR_QUERY, b"I" if kind == "Z" else b"T")
        elif kind == "E":
            out.receive(p.ERROR_RESPONSE, b"C22012\0\0")
        elif kind == "S":
            out.receive(p.PARAMETER_STATUS, b"TimeZone\0UTC\0")
        else:
            out.receive(ord(kind), b"")
    return out


GROUP = [parse("", "select 1"), bind("", ""), execute()]
SYNC = Message("S")


@pytest.mark.parametrize(
    ("messages", "answer", "answered"),
    (
        ([*GROUP, SYNC], "12DCZ", True),
        ([*GROUP, SYNC], "12DC", False),
        ([*GROUP, SYNC], "1E", False),
        ([*GROUP, SYNC], "1EZ", True),
        (GROUP, "", True),
        ([*GROUP, Message("H")], "12", False),
        ([*GROUP, Message("H")], "12DC", True),
        ([*GROUP, Message("H")], "E", True),
        ([*GROUP, query("x"), SYNC], "12DCDCz", False),
        ([*GROUP, query("x"), SYNC], "12DCDCzZ", True),
        ([*GROUP, query("x"), SYNC], "1EZ", True),
        ([query("x")], "TDCTDCEZ", True),
        ([query("x"), query("y")], "EZ", False),
        ([SYNC], "EZ", True),
    ),
)
def test_an_answer_is_followed(messages: list[Message], answer: str, answered: bool) -> None:
    found = followed(messages, answer)
    assert not found.broken
    assert found.is_answered is answered
    assert all(-1 <= reply.answers <= len(messages) for reply in found.replies)


@pytest.mark.parametrize(
    ("messages", "answer"),
    (
        ([*GROUP, query("x"), SYNC], "1EZCZ"),
        ([SYNC], "ZZ"),
        ([*GROUP, SYNC], "2"),
        ([*GROUP, SYNC], "12Z"),
        ([query("x")], "1"),
    ),
)
def test_what_answers_nothing_is_seen(messages: list[Message], answer: str) -> None:
    assert followed(messages, answer).broken


def test_what_is_sent_behind_an_error_is_not_awaited_until_sync() -> None:
    found = followed([*GROUP], "E")
    found.send([query("ignored"), Message("H")])
    assert found.is_answered
    found.send([SYNC, query("x")])
    assert not found.is_answered
    found.receive(p.READY_FOR_QUERY, b"I")
    found.receive(p.READY_FOR_QUERY, b"I")
    assert found.is_answered and not found.broken


def test_the_place_of_a_parameter_in_its_group_does_not_count() -> None:
    messages = [*GROUP, SYNC]
    assert followed(messages, "12SCZ").replies == followed(messages, "12CSZ").replies
    assert followed(messages, "12SCZ").replies != followed(messages, "12CZ").replies


# --- compared: a server in memory, whose clients share a setting where they must not ---------------------------------


ANSWERS = {
    "P": p.PARSE_COMPLETE,
    "B": p.BIND_COMPLETE,
    "C": p.CLOSE_COMPLETE,
    "E": p.COMMAND_COMPLETE,
    "D": p.NO_DATA,
}


def said(whole: Sketch, *, shared: bool) -> list[Following]:
    """Play a server that knows SET and SHOW of one setting; `shared` is the fault."""
    everybody = {"timezone": "UTC"}
    out = []
    for part in whole.parts:
        held = everybody if shared else {"timezone": "UTC"}
        following = Following()
        following.receive(p.READY_FOR_QUERY, b"I")
        following.send(part.messages)
        for message in part.messages:
            if message.text.startswith("set timezone to "):
                held["timezone"] = message.text.removeprefix("set timezone to ")
            if message.kind == "Q":
                if message.text == "show timezone":
                    following.receive(p.DATA_ROW, held["timezone"].encode())
                following.receive(p.READY_FOR_QUERY, b"I")
            elif message.kind == "S":
                following.receive(p.READY_FOR_QUERY, b"I")
            elif message.kind in ANSWERS:
                following.receive(ANSWERS[message.kind], b"")
        out.append(following)
    return out


def test_a_setting_that_leaks_is_found_and_shown_in_two_lines() -> None:
    def fails(each: Sketch) -> bool:
        return difference(each, said(each, shared=False), said(each, shared=True)) is not None

    found = [written for seed in SEEDS if fails(written := writer.write(seed))]
    assert len(found) > 10
    for written in map(writer.write, SEEDS):
        assert not difference(written, said(written, shared=False), said(written, shared=False))
    for each in found[:5]:
        short = shrunk(each, fails, 5000)
        assert sorted(len(list(part.messages)) for part in short.parts) == [1, 1]
        what = difference(short, said(short, shared=False), said(short, shared=True))
        assert what is not None
        assert (what.client, what.message) == (1, "Q 'show timezone'")


def test_a_client_that_leaves_need_not_have_heard_all() -> None:
    whole = sketch("A: Q 'show timezone' | Q 'x' leaves")
    twins, found = said(whole, shared=False), said(whole, shared=False)
    found[0].replies = found[0].replies[:1]
    assert difference(whole, twins, found) is None
    whole = sketch("A: Q 'show timezone' | Q 'x'")
    assert difference(whole, twins, found) is not None


def test_a_client_that_leaves_need_not_have_heard_of_a_setting() -> None:
    whole = sketch('A: Q \'show timezone\', S, P "" \'select 1\', B "" "", E "", S leaves')
    messages = list(whole.parts[0].messages)
    twins = [followed(messages, "SDCZSZ12DCSZ")]
    for answer in ("SDCZSZ12D", "SDCZSZ12SD", "SDCZSZ"):
        assert difference(whole, twins, [followed(messages, answer)]) is None
    for answer in ("DCZSZ12D", "SDCZSZ1C", "SDCZZ1"):
        assert difference(whole, twins, [followed(messages, answer)]) is not None

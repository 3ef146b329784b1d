"""The queue of replies owed: what is forwarded, skipped, replaced, however the bytes are cut."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, strategies

from proxy import protocol as p
from proxy.errors import UpstreamProtocolError
from proxy.pooling import owed as r
from proxy.pooling.owed import FAILED, Outcome, Owed, StandIn
from proxy.pooling.replies import MAX_CONTROL_MESSAGE, Replies, TripwireError
from proxy.pooling.sent import Groups
from proxy.pooling.unnamed import Unnamed

READY_I = p.READY[p.IDLE]
PARSED = p.message(p.PARSE_COMPLETE)
BOUND = p.message(p.BIND_COMPLETE)
ROWS = p.message(p.ROW_DESCRIPTION, b"\0\0")
SELECTED = p.message(p.COMMAND_COMPLETE, b"SELECT 1\0")
ERROR = p.error_response("ERROR", "22012", "division by zero")


def row(*values: bytes) -> bytes:
    return p.message(
        p.DATA_ROW, struct.pack("!H", len(values)) + b"".join(struct.pack("!i", len(v)) + v for v in values)
    )


class Recorder(Unnamed[bytes]):
    """Writes down what it is told."""

    def __init__(self, events: list[object]) -> None:
        super().__init__(Groups())
        self.events = events

    def repeated(self, outcome: Outcome) -> None:
        self.events.append(("repeated", outcome))


class Listener:
    def __init__(self) -> None:
        self.events: list[object] = []
        self.forward_parameters = True
        self.unnamed: Unnamed[bytes] = Recorder(self.events)

    def bind_failed(self) -> None:
        self.events.append("bind failed")

    def parameter_reported(self, body: bytes) -> bytes | None:
        self.events.append(p.parameter_parts(body))
        return None if self.forward_parameters else b""

    def skipped_row(self, body: bytes) -> None: ...

    def skipped_error(self, body: bytes) -> bool:
        return False

    def in_its_words(self, body: bytes) -> bytes:
        return body.replace(b"sidecart:1", b"mine")

    def notification_arrived(self, body: bytes) -> bool:
        return False


def make(*owed: Owed) -> tuple[Replies, Listener]:
    listener = Listener()
    replies = Replies(listener)
    for reply in owed:
        replies.owe(reply)
    return replies, listener


def feed_in(replies: Replies, data: bytes, size: int) -> bytes:
    return b"".join(replies.feed(data[i : i + size]) for i in range(0, len(data), size))


def test_a_whole_answer_passes_as_the_same_object() -> None:
    replies, _ = make(r.QUERY)
    answer = ROWS + row(b"1") + SELECTED + READY_I
    assert replies.feed(answer) is answer
    assert not replies.owed
    assert (replies.ready, replies.told, replies.asked) == (True, True, False)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
def test_answers_pass_unchanged_however_they_are_cut(size: int) -> None:
    replies, _ = make(r.PARSE, r.BIND, r.DESCRIBE, r.EXECUTE, r.SYNC, r.QUERY)
    answer = PARSED + BOUND + ROWS + row(b"x" * 50) * 3 + SELECTED + READY_I + ROWS + row(b"y") + SELECTED + READY_I
    assert feed_in(replies, answer, size) == answer
    assert not replies.owed
    assert replies.whole


def test_ready_for_query_inside_a_row_is_a_row() -> None:
    replies, _ = make(r.QUERY)
    data = ROWS + row(READY_I * 3)
    assert replies.feed(data) == data
    assert replies.owed
    assert not replies.ready
    # … also where a chunk ends with it
    half = row(b"z" * 10 + READY_I)
    assert replies.feed(half[: 5 + 2 + 4 + 10]) + replies.feed(half[5 + 2 + 4 + 10 :]) == half
    assert not replies.ready


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_replies_to_our_own_query_are_skipped(size: int) -> None:
    replies, listener = make(r.SKIP_QUERY, r.QUERY)
    listener.forward_parameters = False
    ours = ROWS + row(b"on") + p.parameter_status("TimeZone", "UTC") + SELECTED + READY_I
    theirs = ROWS + row(b"1") + SELECTED + READY_I
    assert feed_in(replies, ours, size) == b""
    assert not listener.unnamed.held
    assert feed_in(replies, theirs, size) == theirs
    assert listener.unnamed.held  # and is none
    assert listener.events == [("TimeZone", "UTC")]


def test_parameter_status_among_skipped_replies_reaches_the_client_on_request() -> None:
    replies, _ = make(r.SKIP_QUERY)
    status = p.parameter_status("TimeZone", "UTC")
    assert replies.feed(status + p.message(p.COMMAND_COMPLETE, b"SET\0") + READY_I) == status


def test_failed_replay_ends_the_upstream() -> None:
    replies, _ = make(r.SKIP_QUERY, r.QUERY)
    assert replies.feed(ERROR + READY_I + SELECTED + READY_I) == b""
    assert replies.halted == ERROR[5:]


def test_message_of_ours_that_fails_ends_the_upstream_only_in_a_group_of_ours() -> None:
    for sync, out, halted in ((r.SKIP_SYNC, b"", ERROR[5:]), (r.CUT_SYNC, ERROR, None)):
        replies, _ = make(r.SKIP, sync, r.QUERY)
        assert replies.feed(ERROR) == out
        assert replies.halted == halted
    assert replies.feed(READY_I + SELECTED + READY_I) == SELECTED + READY_I


def test_repeated_parse_is_skipped_but_its_error_answers_the_bind() -> None:
    replies, _ = make(r.REPEAT_UNNAMED, r.BIND, r.EXECUTE, r.SYNC)
    assert replies.feed(PARSED + BOUND + SELECTED + READY_I) == BOUND + SELECTED + READY_I
    replies, listener = make(r.REPEAT_UNNAMED, r.BIND, r.EXECUTE, r.SYNC)
    assert replies.feed(ERROR + READY_I) == ERROR + READY_I
    assert ("repeated", FAILED) in listener.events


def test_error_in_an_extended_message_skips_to_sync() -> None:
    replies, _ = make(r.PARSE, r.BIND, r.EXECUTE, r.QUERY, r.SYNC, r.QUERY)
    assert replies.feed(ERROR) == ERROR
    assert list(replies.owed) == [r.SYNC, r.QUERY]
    assert not replies.skipping


def test_error_before_the_sync_is_sent_leaves_nothing_owed_until_then() -> None:
    replies, _ = make(r.PARSE)
    replies.feed(ERROR)
    assert replies.skipping
    replies.owe(r.BIND)
    replies.owe(r.QUERY)  # ignored by the server: it gets no answer
    replies.owe(StandIn(r.REFUSED, b"never sent"))
    assert not replies.owed
    replies.owe(r.SYNC)
    assert list(replies.owed) == [r.SYNC]
    assert replies.feed(READY_I) == READY_I


def test_error_in_a_simple_query_is_followed_by_its_own_ready() -> None:
    replies, _ = make(r.QUERY, r.QUERY)
    assert replies.feed(ERROR + READY_I) == ERROR + READY_I
    assert list(replies.owed) == [r.QUERY]


@pytest.mark.parametrize("size", [1, 6, 1000])
def test_refusal_takes_the_place_of_its_stand_ins_error(size: int) -> None:
    replies, _ = make(r.PARSE, r.BIND, r.EXECUTE)
    ours = p.error_response("ERROR", "25006", "cannot execute DELETE")
    replies.owe(StandIn(r.REFUSED, ours))
    replies.owe(r.SYNC)
    theirs = p.error_response("ERROR", "34000", "portal does not exist")
    before = PARSED + BOUND + SELECTED
    assert feed_in(replies, before + theirs + p.READY[p.FAILED], size) == before + ours + p.READY[p.FAILED]
    assert replies.status == p.FAILED


def test_refusal_behind_an_earlier_error_is_skipped_like_any_message() -> None:
    replies, _ = make(r.PARSE)
    replies.owe(StandIn(r.REFUSED, b"first"))
    replies.owe(r.SYNC)
    second = p.error_response("ERROR", "25006", "second")
    replies.owe(StandIn(r.REFUSED, second))
    replies.owe(r.SYNC)
    stand_in = p.error_response("ERROR", "34000", "portal does not exist")
    assert replies.feed(ERROR + READY_I + stand_in + READY_I) == ERROR + READY_I + second + READY_I


def test_unnamed_parse_outcomes() -> None:
    replies, listener = make()
    for parse in (b"1", b"2", b"3"):
        replies.owe(listener.unnamed.parse_sent(parse))
    replies.owe(r.SYNC)
    replies.feed(PARSED)
    assert (listener.unnamed.message, listener.unnamed.held) == (b"1", True)
    replies.feed(ERROR)
    assert (listener.unnamed.message, listener.unnamed.held) == (None, True)  # the third was ignored
    assert replies.feed(READY_I) == READY_I and not replies.owed


@pytest.mark.parametrize("kind", [p.COPY_IN_RESPONSE, p.COPY_BOTH_RESPONSE])
def test_copy_from_the_client_trips(kind: int) -> None:
    replies, _ = make(r.QUERY)
    with pytest.raises(TripwireError):
        replies.feed(p.message(kind, b"\0\0\0"))


@pytest.mark.parametrize(
    "tag", [b"INSERT 0 1", b"DELETE 3", b"CREATE TABLE", b"DROP TABLE", b"ALTER SYSTEM", b"", b"DO"]
)
def test_tag_of_a_write_trips(tag: bytes) -> None:
    replies, _ = make(r.QUERY)
    with pytest.raises(TripwireError):
        replies.feed(p.message(p.COMMAND_COMPLETE, tag + b"\0"))


@pytest.mark.parametrize(
    "data",
    [
        READY_I,
        row(b"1"),
        PARSED,
        SELECTED,
        p.message(p.AUTHENTICATION, bytes(4)),
        p.message(0x7A, b""),
        struct.pack("!BI", p.ROW_DESCRIPTION, 3),
        struct.pack("!BI", p.ERROR_RESPONSE, 0xFFFFFFFF),
    ],
)
def test_what_nothing_owed_allows_ends_the_upstream(data: bytes) -> None:
    replies, _ = make()
    with pytest.raises(UpstreamProtocolError):
        replies.feed(data)


LENGTHS = (0, 1, 3, 0x40000003, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFB, 0xFFFFFFFF)


@pytest.mark.parametrize("size", [1, 2, 5, 64])
@pytest.mark.parametrize("kind", [p.DATA_ROW, p.COPY_DATA])
@pytest.mark.parametrize("length", LENGTHS)
def test_attack_row_of_a_negative_length(kind: int, length: int, size: int) -> None:
    """A length of -5 was forwarded as a row of 4 GB: everything that came behind it went to the client unread."""
    replies, _ = make(r.QUERY)
    begun = feed_in(replies, ROWS + row(b"1"), size)
    assert begun == ROWS + row(b"1")
    with pytest.raises(UpstreamProtocolError, match="row"):
        feed_in(replies, struct.pack("!BI", kind, length) + b"x" * 20, size)


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize(
    "kind",
    sorted({*p.BACKEND_LIMITS, p.PARAMETER_DESCRIPTION, p.ROW_DESCRIPTION, p.ERROR_RESPONSE, p.PARAMETER_STATUS}),
)
def test_attack_length_that_no_message_of_its_kind_has(kind: int, size: int) -> None:
    for owed in (r.QUERY, r.PARSE, r.BIND, r.DESCRIBE, r.EXECUTE, r.CLOSE, r.SYNC, r.SKIP, r.SKIP_QUERY):
        for length in (*LENGTHS, p.BACKEND_LIMITS.get(kind, MAX_CONTROL_MESSAGE) + 1):
            replies, _ = make(owed)
            with pytest.raises(UpstreamProtocolError, match=r"length|out of place"):
                feed_in(replies, struct.pack("!BI", kind, length) + b"x" * 20, size)


@pytest.mark.parametrize("size", [1, 4, 5, 100, 261, 70_000, 1 << 20])
def test_attack_long_notices_are_not_held(size: int) -> None:
    notice = p.notice_response("NOTICE", "00000", "x" * 300_000)
    replies, _ = make(r.QUERY)
    given = 0
    passed = b""
    for at in range(0, len(notice), size):
        given += len(piece := notice[at : at + size])
        passed += replies.feed(piece)
        assert given - len(passed) < 261
        assert replies.whole == (not passed or passed == notice)
    assert passed == notice
    assert feed_in(replies, notice + SELECTED + READY_I, size) == notice + SELECTED + READY_I


@pytest.mark.parametrize("size", [1, 5, 300, 1 << 20])
def test_last_words_are_heard_in_a_long_notice(size: int) -> None:
    replies, _ = make(r.QUERY)
    last = p.notice_response("WARNING", "57P02", "x" * 100_000)
    assert feed_in(replies, last, size) == b""
    assert replies.fatal


def test_long_notice_of_a_query_of_ours_reaches_nobody() -> None:
    replies, _ = make(r.SKIP_QUERY, r.QUERY)
    notice = p.notice_response("NOTICE", "00000", "x" * 100_000)
    assert feed_in(replies, notice + SELECTED + READY_I, 1000) == b""


@pytest.mark.parametrize("tag", [b"SELECT 1", b"SELECT 1\0\0", b"\0SELECT 1\0", b"", b"SHOW\0x", b"SELECT 1\0x\0"])
def test_attack_tag_that_does_not_end(tag: bytes) -> None:
    replies, _ = make(r.QUERY)
    with pytest.raises(UpstreamProtocolError):
        replies.feed(p.message(p.COMMAND_COMPLETE, tag))


def test_longest_messages_of_their_kind_pass() -> None:
    replies, _ = make(r.QUERY)
    header = struct.pack("!BI", p.DATA_ROW, p.MAX_ROW)
    assert replies.feed(header) == header
    replies, _ = make(r.DESCRIBE, r.SYNC)
    described = p.message(p.PARAMETER_DESCRIPTION, bytes(MAX_CONTROL_MESSAGE - 4))
    assert replies.feed(described) == described


def test_reply_to_the_wrong_message_ends_the_upstream() -> None:
    for owed, data in (
        (r.BIND, PARSED),
        (r.PARSE, BOUND),
        (r.SYNC, SELECTED),
        (r.EXECUTE, READY_I),
        (r.PARSE, ROWS),
    ):
        replies, _ = make(owed)
        with pytest.raises(UpstreamProtocolError):
            replies.feed(data)


def test_copy_out_streams() -> None:
    replies, _ = make(r.EXECUTE, r.SYNC)
    begin = p.message(p.COPY_OUT_RESPONSE, b"\0\0\0")
    data = p.message(p.COPY_DATA, b"1\tx\n" * 100)
    assert replies.feed(begin + data[:50]) == begin + data[:50]
    assert replies.copying
    rest = data[50:] + p.message(p.COPY_DONE) + p.message(p.COMMAND_COMPLETE, b"COPY 100\0") + READY_I
    assert replies.feed(rest) == rest
    assert not replies.owed
    assert not replies.copying


# --- whatever is sent, and however it is answered and cut -------------------------------------------------------------

NO_DATA = p.message(p.NO_DATA)
CLOSED = p.message(p.CLOSE_COMPLETE)
SET = p.message(p.COMMAND_COMPLETE, b"SET\0")
REFUSAL = p.error_response("ERROR", "25006", "cannot execute DELETE")


class Watched(Owed):
    """Writes down what has become of it."""

    __slots__ = ("outcomes",)

    def __init__(self, like: Owed) -> None:
        self._be(like)
        self.outcomes: list[Outcome] = []
        if like is r.REFUSED:
            self.when_failed = REFUSAL

    def settle(self, outcome: Outcome, holder: r.Holder) -> None:
        self.outcomes.append(outcome)
        self.like.settle(outcome, holder)


# What a server answers to each where nothing is wrong, and what of it the client gets.
SAYS = {
    r.QUERY: (ROWS + row(b"1") + SELECTED + READY_I,) * 2,
    r.SYNC: (READY_I, READY_I),
    r.PARSE: (PARSED, PARSED),
    r.REPEAT: (PARSED, b""),
    r.BIND: (BOUND, BOUND),
    r.BIND_NAMED: (BOUND, BOUND),
    r.DESCRIBE: (NO_DATA, NO_DATA),
    r.EXECUTE: (row(b"22") * 2 + SELECTED,) * 2,
    r.CLOSE: (CLOSED, CLOSED),
    r.SKIP_PARSE: (PARSED, b""),
    r.SKIP_DESCRIBE: (p.message(p.PARAMETER_DESCRIPTION, bytes(2)) + ROWS, b""),
    r.SKIP_EXECUTE: (row(b"3") + SELECTED, b""),
    r.SKIP_SET: (SET, b""),
    r.SKIP_CLOSE: (CLOSED, b""),
    r.SKIP_ANYHOW: (PARSED, b""),
    r.SKIP_SYNC: (READY_I, b""),
    r.SKIP_QUERY: (ROWS + row(b"4") + SELECTED + READY_I, b""),
}


class Server:
    """Answers what is owed as PostgreSQL does, into `said`; knows what the client gets of it, and what each becomes."""

    def __init__(self) -> None:
        self.said = b""
        self.shown = b""
        self.ignoring = False
        self.due: list[tuple[Watched, int, Outcome]] = []
        """Each reply that is watched, what has to be said until its outcome is known, and that."""

    def gets(self, reply: Owed, *, fails: bool) -> None:
        like, outcome = reply.like, Outcome.DONE
        self.ignoring = self.ignoring and not like.syncs
        if self.ignoring:
            outcome = Outcome.IGNORED
        elif fails or like is r.REFUSED:
            outcome = Outcome.DONE if like is r.QUERY else Outcome.FAILED
            self.said += ERROR
            self.shown += ERROR if reply.when_failed is None else reply.when_failed
            if like is r.QUERY:
                self.said += READY_I
                self.shown += READY_I
            else:
                self.ignoring = True
        else:
            said, shown = SAYS[like]
            self.said += said
            self.shown += shown
        if isinstance(reply, Watched):
            self.due.append((reply, len(self.said), outcome))


CLIENTS = (r.PARSE, r.REPEAT, r.BIND, r.BIND_NAMED, r.DESCRIBE, r.EXECUTE, r.CLOSE, r.REFUSED, r.SYNC, r.SYNC, r.QUERY)
WITHIN = (r.SKIP_PARSE, r.SKIP_DESCRIBE, r.SKIP_EXECUTE, r.SKIP_SET, r.SKIP_CLOSE)
NEVER_FAIL = (r.SYNC, r.SKIP_SYNC, r.SKIP_QUERY)


@given(
    strategies.lists(
        strategies.tuples(
            strategies.sampled_from((*CLIENTS, *CLIENTS, *WITHIN, r.SKIP_ANYHOW, r.SKIP_QUERY)),
            strategies.booleans(),  # whether it is watched, or is the one that all share
            strategies.integers(0, 3),  # whether it fails
            strategies.lists(strategies.integers(1, 60), max_size=4),  # pieces of the answers that come then
        ),
        max_size=40,
    ),
    strategies.booleans(),
)
def test_each_reply_is_settled_once_whatever_is_sent_answered_and_cut(
    script: list[tuple[Owed, bool, int, list[int]]], lost: bool
) -> None:
    server, (replies, _) = Server(), make()
    fed, out, group_open = 0, b"", False

    def send(like: Owed, *, watched: bool, fails: bool) -> None:
        reply = Watched(like) if watched or like is r.REFUSED else like
        replies.owe(reply)
        server.gets(reply, fails=fails and like not in NEVER_FAIL)

    for like, watched, failing, pieces in [*script, (r.SYNC, True, 0, [])]:
        if group_open and like in (r.SKIP_ANYHOW, r.SKIP_QUERY):
            continue  # these stand between groups alone
        send(like, watched=watched, fails=not failing)
        if like is r.SKIP_ANYHOW:
            send(r.SKIP_SYNC, watched=watched, fails=False)
        elif like not in (r.SYNC, r.QUERY, r.SKIP_QUERY) or (like is r.QUERY and server.ignoring):
            group_open = True
        else:
            group_open = group_open and like is not r.SYNC
        for size in pieces:
            out += replies.feed(server.said[fed : fed + size])
            fed = min(fed + size, len(server.said))
    if lost:
        replies.forget()
    else:
        out += replies.feed(server.said[fed:])
        fed = len(server.said)
        assert (out, replies.groups.unanswered) == (server.shown, 0)
    assert server.shown.startswith(out)
    assert replies.halted is None
    assert not replies.owed
    for reply, known, outcome in server.due:
        assert reply.outcomes == [outcome if known <= fed else Outcome.IGNORED], reply

"""The client session: one frontend message at a time; what to forward, what to answer here, what to refuse.

Pure: bytes come in through `client_data` and `upstream_data`, and leave through two ports, the wire to the client and
the leased upstream. Nothing here waits: a session that has to wait for an upstream, for a verdict from elsewhere, or
for replies that are owed keeps its bytes, pauses its client, and goes on in `leased`, `judged` or at ReadyForQuery.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from proxy import protocol as p
from proxy.errors import (
    DUPLICATE_PREPARED_STATEMENT,
    PROGRAM_LIMIT_EXCEEDED,
    PROTOCOL_VIOLATION,
    QUERY_CANCELED,
    ClientProtocolError,
    CloseReason,
    MalformedMessageError,
    UpstreamError,
)
from proxy.filter import Filter
from proxy.ours import NO_NAME, PREFIX
from proxy.pooling import owed as r
from proxy.pooling.guard import UNKNOWN
from proxy.pooling.owed import Described, Done, Dropped, Learned, Owed, Run
from proxy.pooling.pool import Pool
from proxy.pooling.sent import NEVER, UnsettledError
from proxy.pooling.snapshot import ANY_SETTINGS, LEARN, NEXT_SETTINGS
from proxy.pooling.statements import OF_ANOTHER, Context, Statement
from proxy.session.answering import (
    ANALYSED,
    EXECUTE_OF_EXECUTE,
    FETCH_OF_FETCH,
    LATE_PORTAL,
    OTHER_LETTERS,
    STOP,
    Answering,
)
from proxy.session.carrying import NAMEDATALEN, NAMING
from proxy.session.judging import PATH_IN_USE, Judging
from proxy.session.ledger import ENCODING, PREPARED_STATEMENT, Ledger
from proxy.session.linked import CLIENTS, MAX_UNIT, OURS, Effects, Identity, Unparsed
from proxy.session.ports import House, Upstream, Wire
from proxy.sql import observe, tables
from proxy.sql.verdict import Action, Effect, Verdict, changes_path

STREAM_BIND_FROM: Final = 65_536
"""A Bind that is not whole after so many bytes is forwarded as it arrives: only its two names are read."""
MESSAGE_SLACK: Final = 262_400
"""What a Parse may carry beside its text: a name, and 65,535 parameter types of 4 bytes."""

_CLOSE_COMPLETE = p.message(p.CLOSE_COMPLETE)
_BIND_GROUP = (r.BIND, r.DESCRIBE, r.EXECUTE, r.SYNC)
_GROUP_END = p.message(p.DESCRIBE, b"P\0") + p.execute(b"") + p.SYNC_MESSAGE
_COMMITTED, _ROLLED_BACK = (p.message(p.COMMAND_COMPLETE, tag + b"\0") for tag in (b"COMMIT", b"ROLLBACK"))
_SPACE: Final = rb"(?:\s|--[^\n]*\n|/\*[^*/]*\*/)*"
_BEGINNING = re.compile(_SPACE + rb"(begin|start)\b", re.IGNORECASE)
_BOUNDS = re.compile(_SPACE + rb"(?:begin|start|commit|end|rollback|abort)\b", re.IGNORECASE)
_MOVING: Final = re.compile(rb"\b(?:now|today|tomorrow|yesterday)\b[^'()$]*['$]", re.IGNORECASE)
"""A constant that means another time at each Parse: a client's own one counts, not that of others."""
_MAX_BOUNDARY: Final = 256
_DESCRIBE_PORTAL = p.message(p.DESCRIBE, b"P\0")
_BOUNDARY_ENDS: Final = tuple(
    p.message(p.BIND, bytes(6) + formats) + describe + p.execute(b"") + p.SYNC_MESSAGE
    for formats in (b"\0\0", b"\0\1\0\0", b"\0\1\0\1")
    for describe in (b"", _DESCRIBE_PORTAL)
)
"""Bind, Describe, Execute and Sync of a statement without parameters, whatever the format of its results."""
_PARSED_AND_BOUND = p.message(p.PARSE_COMPLETE) + p.message(p.BIND_COMPLETE)
_NO_DATA = p.message(p.NO_DATA)
_NOTHING: Final = Verdict(Action.ALLOW, "empty")
"""Of a Bind to what does not exist: the server says so."""
_BY_BIND_ALONE: Final = Verdict(
    Action.REFUSE,
    "execute",
    rule="setting-name",
    sqlstate=tables.FUNCTION_SQLSTATE,
    message="permission denied for function set_config: SideCart forwards reads only",
    detail="What it sets are the values of a Bind message, and EXECUTE has none (rule: setting-name).",
    hint="Execute it by the protocol, or give set_config constants.",
)
"""Of an EXECUTE of what was prepared by the protocol."""
_ENDS: Final = frozenset(("commit", "rollback"))
_LOOKS_UP: Final = frozenset(("select", "explain", "declare", "copy", "prepare", "execute"))
"""Kinds of texts of one statement in which there can be names that the search_path decides about."""
_IN_FAILED: Final = frozenset(("empty", "multi", *tables.TRANSACTION_KINDS.values()))
"""Kinds of texts of which the server does more in a failed transaction than to say so."""


class Session(Answering):
    """One client's conversation, from its greeting on."""

    __slots__ = ()

    def __init__(
        self,
        house: House,
        wire: Wire,
        pool: Pool,
        judge: Filter,
        ledger: Ledger,
        who: Identity,
        reported: Mapping[str, str],
        codec: str,
        end: Callable[[CloseReason, str, str], None],
    ) -> None:
        super().__init__(house, wire, pool, judge, ledger, who, reported, codec, end)
        self._judging = Judging(house, judge, pool.database, self)
        self._sql_effects: Effects = ()  # what statements do that were prepared by SQL
        self._passes = False

    def __repr__(self) -> str:
        return f"<Session {self.who} {chr(self.status)} link={self.link is not None} waiting={self.waiting}>"

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def judging(self) -> bool:
        """Whether the next message waits for a verdict, or for a newer catalogue."""
        return self._judging.awaited

    @property
    def resting(self) -> bool:
        """Whether the client could go now and lose nothing but its session's state."""
        return not (self._held_up or self.running or self.status != p.IDLE or self._group_open)

    @property
    def unfinished(self) -> bool:
        """Whether an upstream waits for the rest of a message, or of a group whose answers nothing has asked for."""
        return self.link is not None and (bool(self._flow) or (self._group_open and not self._flushes))

    @property
    def unread(self) -> bool:
        """Whether an upstream waits for the client to read."""
        return self.link is not None and not self._writable

    @property
    def _held_back(self) -> bool:
        """Whether something in the session keeps a group from being forwarded without a closer look."""
        return bool(
            (
                self._swallowing
                or self.ledger.recodes
                or self._wait_error
                or self._parting
                or self._portals
                or self._unrun
                or self._meter
                or self._replans
            )
            or self.ledger.unsure
            or self._discards is not None
            or self._block
        )

    @property
    def _held_up(self) -> bool:
        """Whether the message at the head of the inbox waits for something else than more bytes."""
        return self.waiting or self._judging.awaited or self._stalled

    def cancel(self, then: Callable[[], None] | None = None, *, cause: str = "") -> str:
        """Cancel what this session runs or waits for; return the outcome for the metric.

        Where that is `sent`, `then` is called once the server has dealt with it. What we ask ourselves goes on. `cause`
        is the limit of ours that asks for it; without one the user does.
        """
        if self.link is not None and self.link.replies.awaited:
            self._cancelled = True
            self._cancel_cause = cause
            self.link.cancel(then)
            return "sent"
        text = f"canceling statement due to {cause or 'user request'}"
        error = UpstreamError(text, QUERY_CANCELED, reason=CloseReason.CLIENT_CANCEL_REQUEST)
        if self.waiting and self.pool.leave(self):
            self.lease_failed(error)
            return "waiting"
        if self._judging.cancel():
            self._wait_error = error
            self._go_on()
            return "waiting"
        return "idle"

    def close(self) -> None:
        """Leave whatever it waits for, and hand the upstream back."""
        self._judging.cancel()
        super().close()

    # --- bytes from the client ------------------------------------------------------------------------------------

    def client_data(self, data: bytes) -> None:
        """Take bytes from the client."""
        self.activity += 1
        self._house.stats.client_bytes_received += len(data)
        if self._leaving:
            return
        if self._inbox or self.waiting:
            self._inbox.append(data)
            self._have += len(data)
            if self._held_up or self._have < self._need:
                return
            data = b"".join(self._inbox)
            self._inbox.clear()
        self._serve(data)

    def client_finished(self) -> None:
        """Learn that the client sends nothing more. What it has sent is answered; half a message is none."""
        self._finished = True
        self._leave_if_finished()

    def client_writable(self, writable: bool) -> None:
        """Learn that the client's write buffer has filled, or has room again."""
        self._writable = writable
        if self.link is not None:
            if writable:
                self.link.resume_reading()
            else:
                self.link.pause_reading()
        self._pace()

    def _pace(self) -> None:
        """Pause the client's reading while it waits, does not read itself, or sends faster than the upstream takes."""
        hold = self._held_up or not self._writable or self._upstream_full
        if hold != self._paused and not self.closed:
            self._paused = hold
            if hold:
                self._wire.pause_reading()
            else:
                self._wire.resume_reading()

    def _keep(self, rest: bytes, need: int) -> None:
        """Keep bytes that cannot be served yet, until there are `need` of them."""
        if rest:
            self._inbox.append(rest)
        self._have = len(rest)
        self._need = need

    def _serve(self, data: bytes, *, again: bool = False) -> None:
        """Serve these bytes; what breaks the protocol ends the connection, in its turn. `again`: as for `_pump`."""
        try:
            self._pump(data, again=again)
        except ClientProtocolError as error:
            self._unit = None
            self._leave(CloseReason.CLIENT_PROTOCOL, error.sqlstate, str(error))

    def _pump(self, data: bytes, *, again: bool = False) -> None:
        """Serve every whole message in `data`; send what goes upstream in one write, and keep the rest.

        `again`: the first one has waited.
        """
        if not self._flow:
            kind = data[:1]
            if kind == b"P" and (self._direct(data) or self._bounds_in_group(data)):
                return
            if kind == b"B" and self._direct_bind(data):
                return
        size = len(data)
        pos = start = 0
        first = 0 if self.link is not None else -1  # where the messages begin that went to the link
        out: list[bytes] = []
        need = 5
        if self._flow:
            pos = min(size, self._flow)
            self._flow -= pos
            start = pos if self._flow_drop else 0
        ended = False
        try:
            while size - pos >= 5 and not ended:
                kind, length = p.read_header(data, pos)
                limit = p.FRONTEND_LIMITS.get(kind)
                if limit is None or not 4 <= length <= limit:
                    p.check_frontend(kind, length)
                end = pos + 1 + length
                if end > size:
                    if not self._streams(kind, length, size - pos):
                        need = end - pos if kind != p.BIND else min(end - pos, STREAM_BIND_FROM)
                        break
                    self._passes = False  # unless its handler says so: what was no Bind would be taken for messages
                try:
                    if self._group_open or self.link is None or not (self.link.replies.owed or self._blind):
                        answer = _HANDLERS[kind](self, data, pos, end)
                    else:
                        answer = self._begin_group(self.link, kind, data, pos, end)
                except MalformedMessageError as error:
                    answer = self._malformed(kind, error)
                if answer is STOP:
                    break
                if again:
                    again = self._judging.counted = False
                    self._forget_path()
                self._flushes = kind == p.FLUSH
                if self._meter is not None:
                    self._meter.paid = False  # the next one is another statement
                if first < 0 and self.link is not None:
                    first = pos
                if answer is _END:
                    ended, answer = True, b""
                if end > size:
                    self._flow = end - size
                    self._flow_drop = not self._passes
                    end = size
                if answer is not None:
                    if pos > start:
                        out.append(data[start:pos])
                    if answer:
                        out.append(answer)
                    start = end
                pos = end
        finally:
            # Also ahead of Terminate, and of a message that breaks the protocol: what is owed was sent.
            self._send(data, start, pos, out)
        if self._unit is not None and first >= 0:
            self._remember(data[first:pos] if first or pos < size else data)
        if ended:
            self._leave(CloseReason.CLIENT_TERMINATE)
        elif pos < size:
            self._keep(data[pos:], need)

    def _begin_group(self, link: Upstream, kind: int, data: bytes, pos: int, end: int) -> bytes | None:
        """Serve a message with which a group begins, behind something unanswered: it may need the guard ahead."""
        ahead = self._ahead(link) if kind in _BEGINNERS else b""
        if ahead is None:
            return self._stall()
        owed = link.replies.owed
        before = len(owed)
        answer = _HANDLERS[kind](self, data, pos, end)
        if not ahead or answer is STOP or len(owed) == before:
            return answer
        owed.insert(before, r.GUARDING)
        return ahead + (data[pos : min(end, len(data))] if answer is None else answer)

    def _leave_if_finished(self) -> None:
        """Act on the end of what the client sends, once it is served."""
        if self._finished and not (self._leaving or self._held_up or self.closed):
            self._leave(CloseReason.CLIENT_LOST)

    def _leave(self, reason: CloseReason, sqlstate: str = "", text: str = "") -> None:
        """End, but answer first what was asked before, as a server does that reads one message after the other."""
        link = self.link
        if link is None or not link.replies.awaited:
            self._end(reason, sqlstate, text)
            return
        self._leaving = (reason, sqlstate, text)
        if self._group_open and not self._half_sent:
            self._group_open = False
            link.replies.owe(r.CUT_SYNC)
            link.write(p.SYNC_MESSAGE)

    def _remember(self, sent: bytes) -> None:
        """Keep what was sent, to send it again should the upstream be lost before it answers."""
        unit = self._unit + sent if self._unit else sent
        self._unit = None if len(unit) > MAX_UNIT or self._flow else unit

    def _send(self, data: bytes, start: int, pos: int, out: list[bytes]) -> None:
        """Write what goes upstream: what has to go first, the pieces in `out`, and data[start:pos] as it came."""
        link = self.link
        if link is None or not (out or pos > start or self._prefix or self._suffix):
            return
        if self._prefix:
            out.insert(0, self._flushed())
        if not out and not start and pos == len(data) and not self._suffix:
            link.write(data)  # the client's own bytes object
            return
        if pos > start:
            out.append(data[start:pos])
        if self._suffix:
            out.append(self._suffix)
            self._suffix = b""
        link.write(b"".join(out))

    def _direct(self, data: bytes) -> bool:
        """Forward the group that most drivers send for a query with parameters; return whether it was one.

        Parse, Bind, Describe, Execute and Sync of the unnamed statement and portal in one chunk, the Parse seen and
        allowed before. With `_DIRECT` in replies it brought such a group and its answer from 11 to 6 µs.
        """
        end = 1 + int.from_bytes(data[1:5], "big")
        bind_end = len(data) - len(_GROUP_END)
        if (
            data[end : end + 1] != b"B"
            or end + 1 + int.from_bytes(data[end + 1 : end + 5], "big") != bind_end
            or data[end + 5 : end + 7] != b"\0\0"
            or not data.endswith(_GROUP_END)
        ):
            return False
        parse = data[:end]
        verdict = self.filter.plain_parses.get(parse)
        if verdict is None or self.codec != "utf-8" or self._held_back:
            return False
        link = self.link
        ahead = b""
        if link is None:
            link = self._lease()
            if link is None:
                self._keep(data, 5)
                return True
        elif link.replies.skipping:
            return False
        elif (link.replies.owed or self._blind) and not self._group_open:
            guard = self._ahead(link)
            if guard is None:
                return False
            if guard:
                link.replies.owed.append(r.GUARDING)
                ahead = guard
        self._steer_by(link, verdict)
        statement = (parse, self.ledger.settings.parsing, verdict, self.filter.functions, self.codec)
        link.replies.owed.append(self.unnamed.parse_sent(statement))
        link.replies.owed.extend(_BIND_GROUP)
        self.filter.counts.hits += 1
        self.doing = verdict
        self._house.stats.statements[verdict.label] += 1
        if self._unit is not None:
            self._remember(data)
        if self._prefix or ahead:
            data = self._flushed() + ahead + data
        self._group_open = False
        self._bound = True
        self.groups.sent += 1
        link.write(data)
        return True

    def _direct_bind(self, data: bytes) -> bool:
        """Forward the group that drivers send for a prepared statement; return whether it was one.

        Bind of a named statement to the unnamed portal, Describe, Execute and Sync in one chunk, the statement known,
        and on the link. It brought such a group and its answer from 12 to 8 µs.
        """
        end = 1 + int.from_bytes(data[1:5], "big")
        if data[end:] != _GROUP_END or data[5] or self._held_back or self._group_open:
            return False
        stop = data.find(0, 6, end)
        statement = self.prepared.known(data[6:stop])
        if statement is None or statement.judge is not self.filter.functions:
            return False
        if statement.verdict.effects or statement.verdict.steers or not self._at_home(statement):
            return False
        held = link = self.link
        if link is None:
            if self._outside != p.IDLE:
                return False
            link = self._lease()
            if link is None:
                self._keep(data, 5)
                return True
        elif link.replies.skipping:
            return False
        server_name = link.held.use(statement)
        if server_name is None or self.prepared.shown.setdefault(server_name, data[6:stop]) != data[6:stop]:
            return False
        ahead = b""
        if held is not None and (held.replies.owed or self._blind):
            guard = self._ahead(held)
            if guard is None:
                return False
            if guard:
                link.replies.owed.append(r.GUARDING)
                ahead = guard
        link.replies.owed.extend(_BIND_GROUP)
        self.doing = statement.verdict
        if self._unit is not None:
            self._remember(data)
        self._bound = True
        self.groups.sent += 1
        out = p.rewritten(p.BIND, end + 1 - stop + len(server_name), b"\0" + server_name, data[stop:])
        link.write(self._flushed() + ahead + out if self._prefix or ahead else out)
        return True

    def _streams(self, kind: int, length: int, have: int) -> bool:
        """Say whether a message that is not whole yet is handled now, and its rest passed on as it arrives."""
        if kind == p.BIND:
            return have >= STREAM_BIND_FROM
        if kind == p.COPY_DATA:
            return True
        return kind in (p.QUERY, p.PARSE) and length > self._house.max_query_length + MESSAGE_SLACK

    # --- one handler for each frontend message --------------------------------------------------------------------
    #
    # Each returns None to forward the message's exact bytes, other bytes to send in their place (b"" for nothing), or
    # STOP to leave the message unserved until there is what it waits for, or _END.

    def _query(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self.ledger.recodes:
            return self._recoding(self._query_text, data, pos, end)
        return self._query_text(data, pos, end)

    def _query_text(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        if end > len(data):
            return self._too_long(simple=True, unnamed=True)
        if self._meter is not None and (late := self._limited(simple=True, unnamed=True)) is not None:
            return late
        text = p.query_text(data, pos + 5, end)
        self._names_may_change()
        if self.ledger.recodes and (late := self._in_doubt(text)) is not None:
            return late
        verdict = self._verdict(text, extended=False)
        if verdict is None:
            return self._waited(simple=True, unnamed=True)
        if not self._judging.passes(verdict, text, self.codec):
            return self._refuse(verdict, simple=True, unnamed=True)
        ends = verdict.boundary or (self._parting is not None and verdict.kind in _ENDS)
        if ends and self.link is None and self._bounds_here(verdict, text):
            return b""
        if verdict.effects and (foreign := self._names_ours(verdict)):
            return self._no_statement(foreign, simple=True)
        if verdict.effects and (late := self._outdated_by(verdict, simple=True)) is not None:
            return late
        if self.link is None and self._outside == p.FAILED and verdict.kind not in _IN_FAILED:
            return self._failed_already(simple=True)
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=True, unnamed=True)
        if self._group_open and self._comes_too_late(verdict):
            self._end_group(link)
            return self._stall()
        before = behind = b""
        effects: Effects = ()
        try:
            self._check_discarded()
            if verdict.effects and self._fetches_on(verdict):
                return self._refuse(FETCH_OF_FETCH, simple=True, unnamed=True)
            if self._moves_used_path(verdict):
                return self._refuse(PATH_IN_USE, simple=True, unnamed=True)
            opens = verdict.action is Action.REFUSE and self._house.observe and self._opens(link)
            if opens and self._group_open:
                return self._refuse(verdict, simple=True, unnamed=True)
            before = self._set_after_discard(verdict)
            replans = self._has_to_replan(link, verdict)
            between = replans and self._replans_between(link, verdict, verdict.text or text)
            if between:
                link.held.drop_apart()
            elif replans:  # ahead of statements that keep what they were parsed as
                before += self._replan(link, query=True)
            leaving = self._leaves_failed(link, verdict, verdict.text or text)
            if leaving is not None:
                if self._group_open and link.replies.owed:
                    self._end_group(link)  # in a transaction block its Sync changes nothing
                    return self._stall()
                before += self._provide_in_failed(link, verdict, *leaving)
            elif verdict.effects:
                before += self._provide_own(link, verdict, query=True, ended=replans and not between)
        except UnsettledError:
            return self._stall()
        if self._block == OURS:
            before += self._help(observe.END)  # the Query is in no transaction; the group's Sync ends what has failed
        replaced = self._let_through(link, verdict)
        if verdict.action is Action.REFUSE:
            self._pin_for(self._judging.sets_beside(text, self.codec))
        if self._meter is not None and verdict.statements > 1 and not self._repeated:
            self._meter.charge_more(verdict.statements - 1)
        if verdict.nulls:
            replaced = self._with_startup(verdict, text)
        if opens:
            link.replies.owe(r.SKIP_QUERY)
            before += p.query(observe.BEGIN)
        self._steer_by(link, verdict)
        self._ended_within()
        self.unnamed.end_sent()
        put: bytes | None = None
        if verdict.effects or between:
            effects = self._effects(verdict)
            owed = self._followed(link, effects, r.QUERY)
            if between and owed is r.QUERY:
                owed = Run(r.QUERY)
            if isinstance(owed, Run) and verdict.kind == "multi" and (between or self.ledger.startup.items):
                put = self._put_between(owed, text if replaced is None else replaced, replans=between)
            link.replies.owe(owed)
            self._keep_prepared(verdict)
            self._pin_for(effects)
        elif opens:
            link.replies.owe(Run(r.QUERY))
            behind = self._end_ours(link)
        else:
            link.replies.owe(r.QUERY)
        self._ending = verdict.kind in _ENDS
        self._bound = self._bound_before = False
        if put is None:
            behind = behind or self._set_again(verdict, effects, group=False)
        elif put != text:
            replaced = put
        if replaced is None and not before and not behind:
            return None
        return before + (data[pos:end] if replaced is None else p.query(replaced)) + behind

    def _recoding(
        self, serve: Callable[[bytes, int, int], bytes | None], data: bytes, pos: int, end: int
    ) -> bytes | None:
        """Serve a message in the encoding in which the server reads it, if that is known before all is answered."""
        self._note_codec()
        group, codec = self._recoded
        if group != self.groups.sent:
            return serve(data, pos, end)
        answered, self.codec = self.codec, codec
        try:
            return serve(data, pos, end)
        finally:
            self.codec = answered

    def _note_codec(self) -> None:
        """Keep in mind in which encoding the server reads a group that begins now, if nothing else is under way."""
        if self.link is None or not (self.link.replies.owed or self._group_open):
            self._recoded = (self.groups.sent, self._codec_ahead())

    def _codec_ahead(self) -> str:
        """Return the codec by which the server reads what is sent now; nothing is unanswered.

        Behind a DISCARD ALL what the client connected with is set again first: see `_check_discarded`.
        """
        again = None if self._discards is None else self.ledger.lost.get(ENCODING)
        return self.codec if again is None else self.filter.python_codec(again[0]) or self.codec

    def _parse(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self.ledger.recodes:
            return self._recoding(self._parse_text, data, pos, end)
        return self._parse_text(data, pos, end)

    def _parse_text(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        if end > len(data):
            return self._too_long(simple=False, unnamed=data[pos + 5 : pos + 6] == b"\0")
        name, text = p.parse_parts(data, pos + 5, end)
        if (late := self._misread(name)) is not None:
            return late
        types = data[pos + 5 + len(name) + 1 + len(text) + 1 : end]
        if self.ledger.recodes and (late := self._in_doubt(text)) is not None:
            return late
        verdict = self._verdict(text, extended=True, types=types)
        judge = self.filter.functions
        if verdict is None:
            return self._waited(simple=False, unnamed=not name)
        if not self._judging.passes(verdict, text, self.codec):
            return self._refuse(verdict, simple=False, unnamed=not name)
        if verdict.effects and (foreign := self._names_ours(verdict)):
            return self._no_statement(foreign)
        if self.link is None and self._outside == p.FAILED and verdict.kind not in _IN_FAILED:
            return self._failed_already(simple=False, unnamed=not name)
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=False, unnamed=not name)
        if name and self.ledger.reading and PREPARED_STATEMENT in self.ledger.pins:
            return self._stall()  # the server is being asked whether SQL has prepared anything
        try:
            self._check_discarded()
            if self._moves_used_path(verdict):
                return self._refuse(PATH_IN_USE, simple=False, unnamed=not name)
            known = self.prepared.find(name[: NAMEDATALEN - 1]) if name else None
            told = self._can_be_told(verdict)
            if told and (late := self._described_by(verdict)) is not None:
                return late
            before = self._set_after_discard(verdict)
            if self._has_to_replan(link, verdict):
                before += self._replan(link)
            if verdict.effects:
                before += self._provide_own(link, verdict, parse=True)
        except UnsettledError:
            return self._stall()
        replaced = self._let_through(link, verdict)
        self._ending = verdict.kind in _ENDS
        self._group_open = True
        if verdict.kind in ANALYSED:
            self._read_in = self.groups.sent
            self._names_may_change()  # a constant of a domain is checked at its Parse, by whatever function
        if verdict.kind in OF_ANOTHER:
            self._fresh = (b"S" + name, self.groups.sent)
            if not name:
                self._unnamed_parsed_in = self.groups.sent
        context = self._context(verdict, text)  # what it runs itself may change that
        if verdict.effects:
            self._note_inside(verdict)
        if verdict.nulls:
            replaced = self._with_startup(verdict, text)
        if name:
            original = text + b"\0" + types
            body = original if replaced is None else replaced + b"\0" + types
            if known is not None or name.startswith(PREFIX):
                return before + self._parse_in_vain(link, name, body)
            if self.prepared.full:
                return before + self._too_many()
            statement = Statement(
                body,
                context,
                verdict,
                judge,
                original if verdict.nulls and replaced is not None else None,
                self.codec,
            )
            statement.apart = _MOVING.search(text) is not None
            statement.parsed_in = self.groups.sent
            if PREPARED_STATEMENT in self.ledger.pins:
                return before + self._parse_own(link, name, statement, told=told)
            return before + self._parse_named(link, name, statement, told=told)
        message = data[pos:end] if replaced is None else p.parse(name, replaced, types)
        learned = Learned(self.codec) if context is None else None
        link.replies.owe(self.unnamed.parse_sent((message, learned or context, verdict, judge, self.codec)))
        behind = b""
        if learned is not None:
            behind = self._help(LEARN, learned)
        elif told:
            behind = self._describe_unnamed(link, message)
        if self.codec == "utf-8":
            self.filter.remember_parse(message, verdict)
        return before + message + behind if before or behind else None if replaced is None else message

    def _parse_in_vain(self, link: Upstream, name: bytes, body: bytes) -> bytes:
        """Send a Parse whose name is taken under another: only if nothing else is wrong with it that is its error."""
        ours = link.held.new_name()
        link.replies.owe(r.SKIP)
        link.replies.owe(Dropped(link.held, ours))
        shown = name.decode(self.codec, "replace")
        text = f'prepared statement "{shown}" already exists'
        error = p.error_response("ERROR", DUPLICATE_PREPARED_STATEMENT, text, codec=self.codec)
        trial = p.message(p.PARSE, ours + b"\0" + body) + p.target(p.CLOSE, b"S", ours)
        return trial + self._answer_error(error, simple=False)

    def _bind(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self.ledger.recodes:
            return self._recoding(self._bind_values, data, pos, end)
        return self._bind_values(data, pos, end)

    def _bind_values(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        portal, statement, rest = p.bind_names(data, pos + 5, min(end, len(data)))
        if (late := self._misread(portal, statement)) is not None:
            return late
        return self._use(statement, portal, data, pos, end, rest)

    def _given(self, verdict: Verdict, types: bytes, data: bytes, rest: int, end: int) -> Verdict | bytes:
        """Judge a Bind's values where its statement gives them to set_config; return the verdict, or the answer."""
        if end > len(data):
            error = p.error_response(
                "ERROR",
                PROGRAM_LIMIT_EXCEEDED,
                f"the values of a statement with set_config are longer than {STREAM_BIND_FROM} bytes",
                hint="Set it in a statement of its own.",
                codec=self.codec,
            )
            return self._answer_error(error, simple=False)
        values = p.bind_values(data, rest, end)
        told = b"".join(value for value in values if value is not None)
        if self.ledger.recodes and (late := self._in_doubt(told)) is not None:
            return late
        given = self.filter.judge_bind(verdict, p.parameter_types(types), values, self.codec)
        return self._refuse(given, simple=False) if given.action is Action.REFUSE else given

    def _describe(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        if self.ledger.recodes:
            self._note_codec()
        target, name = p.target_parts(data, pos + 5, end, "Describe")
        if (late := self._misread(name)) is not None:
            return late
        if target == 0x50:  # 'P', a portal
            return self._describe_portal(name, data, pos, end)
        return self._use(name, None, data, pos, end, end)

    def _describe_portal(self, portal: bytes, data: bytes, pos: int, end: int) -> bytes | None:
        link = self.link
        if link is not None and not portal and self._portal_of is not None and self._portal_of[1] == self.groups.sent:
            self._group_open = True
            link.replies.owe(Described(r.DESCRIBE, partial(self._tell_rows, self._portal_of[0])))
            return None
        if link is None or (not self._portals and self._portals_sent.settled):
            return self._forward(r.DESCRIBE)
        try:
            key = portal[: NAMEDATALEN - 1]
            verdict = self._portals_sent.find(key, self._portals.get(key))
            if verdict is None or verdict.kind not in OF_ANOTHER:
                return self._forward(r.DESCRIBE)
            if self._fetches_on(verdict):
                return self._refuse(FETCH_OF_FETCH, simple=False)
            if self._executes_on(verdict):
                return self._refuse(EXECUTE_OF_EXECUTE, simple=False)
            if (late := self._described_by(verdict)) is not None:
                return late
            before = self._look_first(link, b"P" + portal, verdict)
        except UnsettledError:
            return self._stall()
        link.replies.owe(r.DESCRIBE)
        self._group_open = True
        return before + data[pos:end] if before else None

    def _execute(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        if self.ledger.recodes:
            self._note_codec()
        p.check_execute(data, pos + 5, end)
        portal = data[pos + 5 : end - 5][: NAMEDATALEN - 1]
        if (late := self._misread(portal)) is not None:
            return late
        self._names_may_change(portal)
        if end - pos == 10 and self._bound_in != self.groups.sent:
            if self.groups.unanswered:
                return self._stall()
            if not self._bound and (self.link is None or self.status == p.FAILED):
                return self._no_portal()
        if self._meter is not None and (late := self._limited(simple=False)) is not None:
            return late
        if not self._portals and self._portals_sent.settled:
            self._ran_in = self.groups.sent
            self._executed(None)
            return self._forward(r.EXECUTE)
        link = self.link
        try:
            verdict = self._portals_sent.find(portal, self._portals.get(portal))
            if verdict is None or link is None:
                self._ran_in = self.groups.sent
                self._executed(None)
                return self._forward(r.EXECUTE)
            if (late := self._outdated_by(verdict, simple=False)) is not None:
                return late
            if self._moves_used_path(verdict):
                return self._refuse(PATH_IN_USE, simple=False)
            if verdict.kind in OF_ANOTHER:
                if self._fetches_on(verdict):
                    return self._refuse(FETCH_OF_FETCH, simple=False)
                if all(verdict is not bound.get(portal) for bound in (self._unrun, self._filled)):
                    return self._refuse(LATE_PORTAL, simple=False)
                self._filled[portal] = verdict
            before = self._provide_own(link, verdict)
            if verdict.kind == "commit" and data[end : end + 1] != b"S":
                before += self._before_end(link)
            if verdict.action is Action.REFUSE and self._house.observe:
                if self._opens(link):
                    before += self._help(observe.BEGIN)
                    self._block = OURS
                elif not self._block and self._status_behind(link) == UNKNOWN:
                    return self._refuse(verdict, simple=False)
        except UnsettledError:
            return self._stall()
        if verdict.kind in ("begin", "commit", "rollback"):
            self._block = CLIENTS if verdict.kind == "begin" else 0
        self._steer_by(link, verdict)
        effects = self._effects(verdict)
        ends = verdict.kind in _ENDS or any(effect is Effect.DISCARD_ALL for effect, _ in verdict.effects)
        self._ran_in = NEVER if ends else self.groups.sent
        if ends:
            self._asked_in = self._read_in = NEVER  # another transaction begins
        self._keep_prepared(verdict)
        owed = self._followed(link, effects, r.EXECUTE)
        self._executed(verdict)
        link.replies.owe(owed)
        self._group_open = True
        self._pin_for(effects)
        behind = self._set_again(verdict, effects, group=True)
        return before + data[pos:end] + behind if before or behind else None

    def _close(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        if self.ledger.recodes:
            self._note_codec()
        target, name = p.target_parts(data, pos + 5, end, "Close")
        if (late := self._misread(name)) is not None:
            return late
        link = self.link
        statement = target == 0x53  # 'S'
        if link is None:
            # Nothing is owed, no portal is open, and closing what does not exist is no error.
            if statement and name:
                self.prepared.forget(name[: NAMEDATALEN - 1])
            elif statement:
                self.unnamed.drop()
            self._wire.write(_CLOSE_COMPLETE)
            return b""
        self._names_may_change()
        if not statement:
            return self._forward(r.CLOSE)
        try:
            self._check_discarded()
        except UnsettledError:
            return self._stall()
        self._group_open = True
        if not name:
            self.unnamed.end_sent()
            link.replies.owe(r.CLOSE_UNNAMED)
            return None
        # The server has it under this name only if SQL may know it; else this closes nothing, which is no error.
        key = name[: NAMEDATALEN - 1]
        self.prepared.close_sent(key)
        self._own.close_sent(key)
        link.replies.owe(Done(r.CLOSE, partial(self._closed, key)))
        self.ledger.loosened = bool(self.ledger.pins)
        return p.target(p.CLOSE, b"S", NO_NAME) if name.startswith(PREFIX) else None

    def _closed(self, name: bytes) -> None:
        self.prepared.forget(name)
        self._own.forget(name)

    def _sync(self, data: bytes, pos: int, end: int) -> bytes | None:
        p.check_empty(pos + 5, end)
        if self._swallowing or self.link is None:
            self._swallowing = False
            self._seen = self.status
            self._wire.write(p.READY[self.status])
            return b""
        self._group_open = False
        self.link.replies.owe(r.SYNC)
        if self._block == OURS:
            return p.SYNC_MESSAGE + self._end_ours(self.link)
        self._block = 0
        return None

    def _flush(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        p.check_empty(pos + 5, end)
        return b"" if self.link is None else None

    def _terminate(self, data: bytes, pos: int, end: int) -> bytes | None:
        return _END

    def _copy(self, data: bytes, pos: int, end: int) -> bytes | None:
        return b""  # no COPY FROM ever begins; the server ignores these outside of one

    def _function_call(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        oid, formats, arguments = p.function_call_parts(data, pos + 5, end)
        if self._meter is not None and (late := self._limited(simple=True)) is not None:
            return late
        self._names_may_change()
        verdict = self.filter.judge_function_call(oid, formats, arguments)
        if verdict.action is not Action.ALLOW:
            return self._refuse(verdict, simple=True)
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=True)
        ended = self._help(observe.END) if self._block == OURS else b""
        self._ended_within()
        link.replies.owe(r.FUNCTION)
        self._house.stats.statements[verdict.label] += 1
        return ended + data[pos:end] if ended else None

    def _malformed(self, kind: int, error: MalformedMessageError) -> bytes:
        """Answer a message that does not hold what its type asks for, as the server does that never gets to it."""
        response = p.error_response("ERROR", PROTOCOL_VIOLATION, str(error), codec=self.codec)
        if kind != p.SYNC:
            return self._answer_error(response, simple=kind in (p.QUERY, p.FUNCTION_CALL))
        if self._ignored():
            self._wire.write(response)  # it is a Sync even so: nothing is ignored any more
            before = b""
        else:
            before = self._answer_error(response, simple=False)
        sync = self._sync(p.SYNC_MESSAGE, 0, len(p.SYNC_MESSAGE))
        return before + (p.SYNC_MESSAGE if sync is None else sync)

    # --- waiting --------------------------------------------------------------------------------------------------

    def _verdict(
        self, text: bytes, *, extended: bool, types: bytes = b"", codec: str = "", moves: bool = False
    ) -> Verdict | None:
        """Return the verdict on a text, and on the types of a Parse; None: it is awaited, or was in vain."""
        if self._wait_error is not None:
            return None
        self._judge_by_path(moves=moves)
        verdict = self._judging.verdict(text, codec or self.codec, extended=extended, types=types)
        if verdict is None:
            self._pace()
        elif verdict.action is Action.REFUSE and self._waits_for_path(verdict, moves=moves):
            return None
        return verdict

    def _moves_used_path(self, verdict: Verdict) -> bool:
        """Whether a statement may change the search_path that a portal relies on. Raises UnsettledError."""
        return self._path_in_use and any(changes_path(*each) for each in self._effects(verdict))

    def _judge_by_path(self, *, moves: bool = False) -> None:
        """Judge what comes next by the search_path that it finds; where that is not known, as under every path.

        `moves`: what it stands in may change the path first.
        """
        judge, ledger = self._judge, self.ledger
        if moves or ledger.roams:
            found = judge.under(self._told_path) if self._told_path and not moves else judge.wide
        elif (path := ledger.settings.path) is None:
            found = judge  # the path that the session began with: nothing has to be looked for
        else:
            found = judge.under(path)
        self.filter = self._judging.filter = found

    def _forget_path(self) -> None:
        """Forget which search_path the message found that has been served: another one need not find it."""
        if self._told_path is not None:
            self._told_path = None
            self.filter = self._judge.wide

    def _waits_for_path(self, verdict: Verdict, *, moves: bool = False) -> bool:
        """Have the message wait where a text is no read under every search_path, and nobody knows which one there is.

        Only the server does: what was set can have failed, or been rolled back. It is asked in front of the message,
        as long as a path holds that is told there: not behind the first statement of a text.
        """
        link, ledger = self.link, self.ledger
        if verdict.action is not Action.REFUSE or not ledger.roams or self._told_path is not None or link is None:
            return False
        if self.groups.unanswered:
            self._stall()  # it may be known then
            return True
        if moves or verdict.kind not in _LOOKS_UP or link.cancelling:
            return False
        if "search_path" in ledger.lost or link.replies.status == p.FAILED:
            return False  # it is set again ahead of the message, or the server says no more than that all has failed
        if not self._asking:
            self._ask_path(link)
        self._stall()
        return True

    def judged(self, verdict: Verdict | None) -> None:
        """Go on with what waited for a verdict; None: judge it again, by the catalogue as it is now."""
        self._judging.answered(verdict)
        self._go_on()

    def _go_on(self) -> None:
        data = b"".join(self._inbox)
        self._inbox.clear()
        self._judging.counted = True
        self._serve(data, again=True)
        self._judging.counted = False
        self._wait_error = None
        if not self.waiting and not self._judging.awaited:
            self._judging.served()
            if not self._stalled:
                self._forget_path()
        self._leave_if_finished()
        self._pace()

    # --- transactions without an upstream -------------------------------------------------------------------------

    def _bounds_here(self, verdict: Verdict, text: bytes, before: bytes = b"") -> bool:
        """Begin or end a transaction that no server knows of; return whether that could be done.

        A BEGIN goes out together with the first statement that needs the server: now() and the snapshot start there.
        `before` is what the client gets ahead of CommandComplete.
        """
        if verdict.boundary == "begin":
            found = _BEGINNING.match(text)
            if found is None or self._outside != p.IDLE:
                return False
            tag = b"BEGIN" if found[1][:1] in b"bB" else b"START TRANSACTION"
            answer = p.message(p.COMMAND_COMPLETE, tag + b"\0")
            if verdict.action is Action.REPLACE:
                answer = p.notice_response("WARNING", "01000", verdict.warning, codec=self.codec) + answer
            self._begin = p.query(verdict.text or text)
            self._outside = p.IN_TRANSACTION
        else:
            if self._outside == p.IDLE:
                return False
            answer = _ROLLED_BACK if self._outside == p.FAILED or verdict.boundary == "rollback" else _COMMITTED
            error, self._parting = self._parting, None
            if error is not None and verdict.boundary != "rollback":
                answer = p.error_response("ERROR", error.sqlstate, str(error), codec=self.codec)
                before = b""  # a COMMIT that fails has ended the transaction all the same
            self._outside = p.IDLE
        self.unnamed.drop()
        self._seen = self._outside
        self._house.stats.statements[verdict.label] += 1
        self._wire.write(before + answer + p.READY[self._outside])
        return True

    def _bounds_in_group(self, data: bytes) -> bool:
        """Do the same for a group that is nothing but that, as psycopg sends it; return whether it is one.

        The beginning of one is kept until its end is there, or something else: without Sync or Flush no answer is due.
        """
        end = 1 + int.from_bytes(data[1:5], "big")
        if self.link is not None or not 13 < end <= min(_MAX_BOUNDARY, len(data)) or self._ignored():
            return False
        rest = data[end:]
        form = next((form for form in _BOUNDARY_ENDS if form.startswith(rest)), None)
        if form is None:
            return False
        try:
            name, text = p.parse_parts(data, 5, end)
        except MalformedMessageError:
            return False
        if name or not _BOUNDS.match(text):
            return False
        if len(rest) < len(form):
            self._keep(data, len(data) + 1)
            return True
        verdict = self.filter.judge(text, self.codec, extended=True)
        if not verdict.boundary:
            self._judging.counted = True
            return False
        if self._meter is not None:
            if self._meter.charge():
                return False  # its Execute is refused in its turn
            self._meter.paid = False
        before = _PARSED_AND_BOUND + (_NO_DATA if _DESCRIBE_PORTAL in form else b"")
        if not self._bounds_here(verdict, text, before):
            return False
        self.unnamed.keep((data[:end], ANY_SETTINGS, verdict, self.filter.functions, self.codec))
        return True

    # --- prepared statements --------------------------------------------------------------------------------------

    def _use(self, name: bytes, portal: bytes | None, data: bytes, pos: int, end: int, rest: int) -> bytes | None:
        """Forward a Bind to a portal, or a Describe (None), of a statement; parse it first where the link lacks it."""
        try:
            self._check_discarded()
            return (
                self._use_named(name, portal, data, pos, end, rest)
                if name
                else self._use_unnamed(portal, data, pos, end, rest)
            )
        except UnsettledError:
            return self._stall()

    def _use_named(self, name: bytes, portal: bytes | None, data: bytes, pos: int, end: int, rest: int) -> bytes | None:
        statement = self.prepared.find(name[: NAMEDATALEN - 1])
        if statement is None:
            if name.startswith(PREFIX) or self.link is None:
                return self._no_statement(name)
            if (late := self._outdated(name[: NAMEDATALEN - 1], simple=False)) is not None:
                return late
            # The server may have it, by SQL; else its own error is the right one.
            self._owe_use(self.link, portal, Verdict(Action.ALLOW, "execute", effects=self._sql_effects))
            return None
        if (late := self._judge_again(statement, simple=False)) is not None:
            return late
        link = self.link
        verdict = statement.verdict
        self._settle_context(statement)
        if not self._at_home(statement):
            if statement.context is None:
                statement.apart = True  # nobody else has it yet
            else:
                statement = self.prepared.part(name[: NAMEDATALEN - 1], statement)
        if verdict.at_bind and portal is not None:
            given = self._given(verdict, statement.types, data, rest, end)
            if isinstance(given, bytes):
                return given
            verdict = given
        if statement.silent and portal is None:
            return self._describe_here(statement.types)
        server_name = None if link is None else self._name_on(link, statement, name)
        if server_name is None and self._may_have_failed:
            values = None if portal is None else data[rest:end]
            answer = self._use_when_failed(name, statement.body, statement.verdict, values)
            if answer is not None:
                return answer
        if link is None and self._outside == p.FAILED and statement.verdict.kind not in _IN_FAILED:
            return self._failed_already(simple=False, unnamed=False)
        if link is None:
            link = self._lease()
            if link is None:
                return self._waited(simple=False)
            server_name = self._name_on(link, statement, name)
        if portal is not None and self._comes_too_late(verdict):
            self._end_group(link)
            return self._stall()
        if self._moves_used_path(verdict):
            return self._refuse(PATH_IN_USE, simple=False)
        of_another = portal is None and verdict.kind in OF_ANOTHER
        if of_another:
            late = self._describe_of_another(statement.parsed_in, statement.body, verdict)
            if late is None:
                late = self._described_by(verdict)
            if late is not None:
                return late
        before = self._set_after_discard(verdict)
        if verdict.effects:
            before += self._provide_own(link, verdict)
            server_name = self._name_on(link, statement, name)  # those of ours may be closed now
        if of_another:
            before += self._look_first(link, b"S" + name, verdict)
            if statement.rows and server_name != statement.noted_as and self.status != p.FAILED:
                return before + self._describe_here(
                    statement.types, statement.rows
                )  # parsed again it may note something else
        if server_name is None:
            if self._unreadable_named(statement):
                return before + self._no_statement(name)
            server_name, parse = self._parse_again(link, statement, name)
            before += parse
        self.prepared.shown[server_name] = name
        self.doing = verdict
        self._owe_use(link, portal, verdict)
        start = b"S" if portal is None else portal + b"\0"
        length = end - pos - 5 - len(name) + len(server_name)
        kind = p.DESCRIBE if portal is None else p.BIND
        return before + p.rewritten(kind, length, start + server_name + b"\0", data[rest : min(end, len(data))])

    def _at_home(self, statement: Statement) -> bool:
        """Whether a statement is used under the settings that shaped it, if others may use it, too.

        The plan is made then, or made anew, with the literals, and with what functions labelled IMMUTABLE return.
        """
        context = statement.context
        if context is ANY_SETTINGS or statement.apart:
            return True
        ledger = self.ledger
        if context is not ledger.settings.parsing or ledger.unsure:
            return False
        return not (self.filter.folds and ledger.special)

    def _judge_again(self, statement: Statement, *, simple: bool, moves: bool = False) -> bytes | None:
        """Answer where a statement is no read by the catalogue as it is now, or has to wait; None: it may run.

        The server analyses it anew where the search_path is another one than at its Parse (RevalidateCachedQuery(),
        plancache.c), so it has to be a read under both. `moves`: as in `_judge_by_path`.
        """
        self._judge_by_path(moves=moves)
        if statement.judge is self.filter.functions:
            return None
        text = statement.text
        codec = statement.codec
        types = statement.body[len(text) + 1 :]
        verdict = self._verdict(text, extended=True, types=types, codec=codec, moves=moves)
        if verdict is None:
            return self._waited(simple=simple, unnamed=simple)
        if not self._judging.passes(verdict, text, codec):
            return self._refuse(verdict, simple=simple, unnamed=simple)
        if (late := self._judge_as_parsed(statement.context, text, types, codec, simple=simple)) is not None:
            return late
        statement.verdict, statement.judge = verdict, self.filter.functions
        return None

    def _judge_as_parsed(
        self, context: Context | Learned, text: bytes, types: bytes, codec: str, *, simple: bool
    ) -> bytes | None:
        """Do the same under the search_path that shaped a statement, for it may be parsed again under that."""
        context = context.context if isinstance(context, Learned) else context
        if context in (None, ANY_SETTINGS, NEXT_SETTINGS):
            return None
        now, parsed = self.filter, self._judge.under(context.path)
        if parsed is now or now is self._judge.wide:
            return None
        self._judging.filter = parsed
        verdict = self._judging.verdict(text, codec, extended=True, types=types)
        self._judging.filter = now
        if verdict is None:
            self._pace()
            return self._waited(simple=simple, unnamed=simple)
        if self._judging.passes(verdict, text, codec):
            return None
        return self._refuse(verdict, simple=simple, unnamed=simple)

    def _outdated(self, name: bytes, *, simple: bool, moves: bool = False) -> bytes | None:
        """Do the same for a statement that the server has under the client's own name."""
        self._judge_by_path(moves=moves)
        verdict = None if self._wait_error is not None else self._judging.again(name)
        if verdict is None:
            self._pace()
            return self._waited(simple=simple, unnamed=simple)
        if self._waits_for_path(verdict, moves=moves):
            return STOP
        return None if verdict.action is Action.ALLOW else self._refuse(verdict, simple=simple, unnamed=simple)

    def _outdated_by(self, verdict: Verdict, *, simple: bool) -> bytes | None:
        """Do the same for all statements that a text executes by SQL.

        What it does itself may come first, or be a value that one of them is given.
        """
        try:
            if self._misnames(verdict):
                return self._refuse(OTHER_LETTERS, simple=simple, unnamed=simple)
            effects = self._effects(verdict)
            moves = (self.ledger.roams and verdict.statements > 1) or any(changes_path(*each) for each in effects)
            names = [text.encode(self.codec, "replace") for effect, text in effects if effect is Effect.EXECUTE]
            found = [(name, self.prepared.find(name)) for name in names]
        except UnsettledError:
            return self._stall()
        for name, statement in found:
            late: bytes | None
            if statement is None:
                late = self._outdated(name, simple=simple, moves=moves)
            else:
                late = self._judge_again(statement, simple=simple, moves=moves)
                if late is None and statement.verdict.kind in OF_ANOTHER:
                    late = self._refuse(EXECUTE_OF_EXECUTE, simple=simple, unnamed=simple)
                if late is None and statement.verdict.at_bind:
                    late = self._refuse(_BY_BIND_ALONE, simple=simple, unnamed=simple)
            if late is not None:
                return late
        return None

    def _described_by(self, verdict: Verdict) -> bytes | None:
        """Do the same for what an EXECUTE gives the rows of.

        A Describe has the server analyse that, if the search_path is another one by now (CachedPlanGetTargetList(),
        plancache.c).
        """
        return self._outdated_by(verdict, simple=False) if verdict.kind == "execute" else None

    def _name_on(self, link: Upstream, statement: Statement, name: bytes) -> bytes | None:
        """Return under which name a message finds a statement of this name of the client's. Raises UnsettledError."""
        key = name[: NAMEDATALEN - 1]
        if self._own.find(key):
            return key
        ours = self.prepared.on_link(statement, link.held)
        if ours is not None and self.prepared.shown.get(ours, name) != name and self.running:
            return None  # an error that is on its way is to tell the other name
        return ours

    def _use_unnamed(self, portal: bytes | None, data: bytes, pos: int, end: int, rest: int) -> bytes | None:
        unnamed: Unparsed | None = self.unnamed.which()
        if self.link is None and unnamed is None:
            return self._no_statement(b"")
        self._judge_by_path()
        if unnamed is not None and unnamed[3] is not self.filter.functions:
            message, context, _, _, codec = unnamed
            _, text = p.parse_parts(message, 5, len(message))
            verdict = self._verdict(text, extended=True, types=message[7 + len(text) :], codec=codec)
            if verdict is None:
                return self._waited(simple=False)
            if not self._judging.passes(verdict, text, codec):
                return self._refuse(verdict, simple=False)
            if (
                late := self._judge_as_parsed(context, text, message[7 + len(text) :], codec, simple=False)
            ) is not None:
                return late
            unnamed = (message, context, verdict, self.filter.functions, codec)
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=False)
        there = self.unnamed.there()
        before = b""
        if unnamed is not None:
            message, context, verdict, _, codec = unnamed
            if not there and self._unreadable(context, message, codec):
                return self._no_statement(b"")
            if verdict.at_bind and portal is not None:
                given = self._given(verdict, message[message.index(0, 6) + 1 :], data, rest, end)
                if isinstance(given, bytes):
                    return given
                verdict = given
            if portal is None and (types := self._silent_unnamed(message, verdict)) is not None:
                return self._describe_here(types)
            if not there and self._may_have_failed:
                values = None if portal is None else data[rest:end]
                answer = self._use_when_failed(b"", message[6:], verdict, values)
                if answer is not None:
                    return answer
            if portal is not None and self._comes_too_late(verdict):
                self._end_group(link)
                return self._stall()
            if self._moves_used_path(verdict):
                return self._refuse(PATH_IN_USE, simple=False)
            of_another = portal is None and verdict.kind in OF_ANOTHER
            if of_another:
                late = self._describe_of_another(self._unnamed_parsed_in, message[6:], verdict)
                if late is None:
                    late = self._described_by(verdict)
                if late is not None:
                    return late
            before = self._set_after_discard(verdict)
            if verdict.effects:
                before += self._provide_own(link, verdict)
            if of_another:
                before += self._look_first(link, b"S", verdict)
            if not there:
                if isinstance(context, Learned):
                    context = context.context
                before += self._in_context(link, context, partial(self._repeat_unnamed, link, message, verdict))
                self._count_replay()
            if portal is None:
                link.replies.owe(Described(r.DESCRIBE, partial(self._tell_unnamed, message)))
                self._group_open = True
                return before + data[pos:end] if before else None
            self._owe_use(link, portal, verdict)
            if not portal and verdict.kind == "select":
                self._portal_of = (message, self.groups.sent)
        elif there:
            self._owe_use(link, portal, _NOTHING)
        else:
            return self._no_statement(b"")
        return before + data[pos : min(end, len(data))] if before else None

    def _owe_use(self, link: Upstream, portal: bytes | None, verdict: Verdict) -> None:
        if portal is None:
            link.replies.owe(r.DESCRIBE)
        else:
            self._read_in = self.groups.sent
            self._bound_to(link, portal, verdict)
        self._group_open = True
        self._passes = True

    def _names_ours(self, verdict: Verdict) -> bytes:
        """Return the name of ours that SQL gives to PREPARE, EXECUTE or DEALLOCATE, if it does."""
        names = (text.encode(self.codec, "replace") for effect, text in verdict.effects if effect in NAMING)
        return next((name for name in names if name.startswith(PREFIX)), b"")

    # --- what handlers have in common -----------------------------------------------------------------------------

    def _forward(self, owed: Owed) -> bytes | None:
        """Forward an extended message as it is."""
        try:
            self._check_discarded()
        except UnsettledError:
            return self._stall()
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=False)
        link.replies.owe(owed)
        self._group_open = True
        return None


_BEGINNERS: Final = frozenset((p.QUERY, p.PARSE, p.BIND, p.DESCRIBE, p.EXECUTE, p.CLOSE, p.FUNCTION_CALL))
"""Messages with which a group begins that can make the server do something."""
_END: Final = b"end"
"""A handler's answer that ends the session, once what stands before it has been sent. Told by identity."""

_HANDLERS: Final[Mapping[int, Callable[[Session, bytes, int, int], bytes | None]]] = {
    p.QUERY: Session._query,
    p.PARSE: Session._parse,
    p.BIND: Session._bind,
    p.DESCRIBE: Session._describe,
    p.EXECUTE: Session._execute,
    p.CLOSE: Session._close,
    p.SYNC: Session._sync,
    p.FLUSH: Session._flush,
    p.TERMINATE: Session._terminate,
    p.FUNCTION_CALL: Session._function_call,
    p.COPY_DATA: Session._copy,
    p.COPY_DONE: Session._copy,
    p.COPY_FAIL: Session._copy,
}

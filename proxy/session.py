"""The client session: one frontend message at a time; what to forward, what to answer here, what to refuse.

Pure: bytes come in through `client_data` and `upstream_data`, and leave through two ports, the wire to the client and
the leased upstream. Nothing here waits: a session that has to wait for an upstream, or for a verdict from elsewhere,
keeps its bytes, pauses its client, and goes on in `leased` or `judged`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from proxy import observe, rules
from proxy import protocol as p
from proxy import replies as r
from proxy.errors import (
    ADMIN_SHUTDOWN,
    CONNECTION_FAILURE,
    INTERNAL_ERROR,
    INVALID_SQL_STATEMENT_NAME,
    PROGRAM_LIMIT_EXCEEDED,
    QUERY_CANCELED,
    ClientProtocolError,
    CloseReason,
    UpstreamError,
    UpstreamProtocolError,
)
from proxy.filter import Filter
from proxy.functions import Functions
from proxy.house import House, Question, Upstream, Wire
from proxy.ledger import PREPARED_STATEMENT, SETTING, Ledger
from proxy.pool import Pool
from proxy.pool import Upstream as PooledUpstream
from proxy.replies import TripwireError
from proxy.snapshot import Settings, read_back, replay, restore
from proxy.unnamed import Unnamed
from proxy.verdict import Action, Effect, Verdict

STREAM_BIND_FROM: Final = 65_536
"""A Bind that is not whole after so many bytes is forwarded as it arrives: only its two names are read."""
MESSAGE_SLACK: Final = 262_400
"""What a Parse may carry beside its text: a name, and 65,535 parameter types of 4 bytes."""

MAX_INLINE: Final = 2_048
"""Bytes of a text that is judged at once; a longer one that is not known yet goes to the helper process.

A text of so many bytes holds the event loop for 18 ms at the worst (`1+1+1+…`; 37 ms for 4 kB, 60 ms for 16 kB of
`1::int::int…`), an ordinary one for less than one.
"""

OBSERVED: Final = "observed"
"""The pin of a client that sent what filter.mode observe has let through."""

INTERNAL_ERROR_TEXT: Final = "SideCart met an internal error and closed this connection"

_CLOSE_COMPLETE = p.message(p.CLOSE_COMPLETE)
_GROUP = (r.PARSE_UNNAMED, r.BIND, r.DESCRIBE, r.EXECUTE, r.SYNC)
_GROUP_END = p.message(p.DESCRIBE, b"P\0") + p.execute(b"") + p.SYNC_MESSAGE
_UPSTREAM_GONE = "terminating connection because the connection to the server was lost"


@dataclass(slots=True)
class Identity:
    """Say who a client is: for logs, and for messages about who holds what."""

    ident: int
    peer: str
    user: str
    application: str = ""


class Session:
    """One client's conversation, from its greeting on.

    `end` is called once, when the session cannot go on: with the reason, the SQLSTATE and the text that the client has
    to be told, if any; a text is empty where the client knows, or where half a message is out.
    """

    __slots__ = (
        "_asked",
        "_end",
        "_flow",
        "_flow_drop",
        "_found",
        "_greeted",
        "_group_open",
        "_have",
        "_house",
        "_inbox",
        "_need",
        "_notices",
        "_paused",
        "_prefix",
        "_question",
        "_reading",
        "_refreshed",
        "_restored",
        "_swallowing",
        "_told",
        "_uncarried",
        "_upstream_full",
        "_verdict",
        "_wait_error",
        "_wire",
        "_writable",
        "activity",
        "answered",
        "closed",
        "codec",
        "filter",
        "ledger",
        "link",
        "pool",
        "reported",
        "unnamed",
        "waiting",
        "who",
    )

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
        self._house = house
        self._wire = wire
        self._end = end
        self.pool = pool
        self.filter = judge
        self.ledger = ledger
        self.who = who
        self._greeted = reported
        self.reported = reported
        """ParameterStatus values that the client was last told; shared with other sessions until they differ."""
        self.codec = codec
        """The Python codec of the client's encoding."""
        self.unnamed = Unnamed()
        self.link: Upstream | None = None
        self.waiting = False
        self.closed = False
        self.answered = 0
        """Counts the chunks that brought a ReadyForQuery: while it stands still, one statement runs."""
        self.activity = 0
        """Counts chunks of either side; a sweep that finds it unchanged knows that nothing happened."""
        self._inbox: list[bytes] = []
        self._have = 0
        self._need = 0
        self._flow = 0  # bytes of a message that is streamed or thrown away as it arrives
        self._flow_drop = False
        self._group_open = False  # extended messages went upstream since the last Sync
        self._swallowing = False  # an extended message was refused here: everything up to Sync is ignored
        self._wait_error: UpstreamError | None = None  # how the wait of the message at the head of the inbox ended
        self._question: Question | None = None  # what is asked elsewhere about that message: the session is judging
        self._asked: tuple[bytes, str, bool, Functions] | None = None  # what was sent to the helper, and judged by
        self._verdict: Verdict | None = None  # what the helper says of just that
        self._refreshed = False  # that message has waited for a newer catalogue already
        self._notices: list[bytes] = []
        self._prefix = b""
        self._reading = False  # the server is being asked what the session holds
        self._found: dict[str, str] = {}
        self._uncarried = False
        self._paused = False
        self._writable = True
        self._upstream_full = False
        self._restored = False  # lost settings were set again in the running transaction block
        self._told = False  # the upstream's own FATAL has reached the client: no second one

    def __repr__(self) -> str:
        return f"<Session {self.who} {chr(self.status)} link={self.link is not None} waiting={self.waiting}>"

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return self.ledger.settings

    @property
    def customs(self) -> frozenset[str]:
        return self.ledger.settings.customs

    @property
    def status(self) -> int:
        """Return the transaction status; a session without an upstream is idle."""
        return p.IDLE if self.link is None else self.link.replies.status

    @property
    def running(self) -> bool:
        """Whether a statement is under way."""
        return self.link is not None and bool(self.link.replies.owed)

    @property
    def judging(self) -> bool:
        """Whether the next message waits for a verdict, or for a newer catalogue."""
        return self._question is not None

    @property
    def resting(self) -> bool:
        """Whether the client could go now and lose nothing but its session's state."""
        return not (self.waiting or self.judging or self.running or self.status != p.IDLE or self._group_open)

    @property
    def whole(self) -> bool:
        """Whether what the client has got ends between two messages."""
        return self.link is None or self.link.replies.whole

    def holding(self) -> tuple[str, str]:
        reason = "pinned: " + "+".join(self.ledger.pins) if self.ledger.pins else ""
        if not reason:
            reason = "running" if self.running or self.judging else "in a transaction"
        who = self.who
        return f"{who.user}@{who.peer}" + (f" ({who.application})" if who.application else ""), reason

    def cancel(self) -> str:
        """Cancel what this session runs or waits for; return the outcome for the metric."""
        if self.running and self.link is not None:
            self.link.cancel()
            return "sent"
        text = "canceling statement due to user request"
        error = UpstreamError(text, QUERY_CANCELED, reason=CloseReason.CLIENT_CANCEL_REQUEST)
        if self.waiting and self.pool.leave(self):
            self.lease_failed(error)
            return "waiting"
        if self._question is not None:
            self._question.cancel()
            self._question = None
            self._wait_error = error
            self._go_on()
            return "waiting"
        return "idle"

    # --- bytes from the client ------------------------------------------------------------------------------------

    def client_data(self, data: bytes) -> None:
        """Take bytes from the client. Raises ClientProtocolError for what closes its connection."""
        self.activity += 1
        self._house.stats.client_bytes_received += len(data)
        if self._inbox or self.waiting:
            self._inbox.append(data)
            self._have += len(data)
            if self.waiting or self._question is not None or self._have < self._need:
                return
            data = b"".join(self._inbox)
            self._inbox.clear()
        self._pump(data)

    def client_writable(self, writable: bool) -> None:
        """Learn that the client's write buffer has filled, or has room again."""
        self._writable = writable
        if self.link is not None:
            if writable:
                self.link.resume_reading()
            else:
                self.link.pause_reading()
        self._pace()

    def upstream_writable(self, writable: bool) -> None:
        """Learn that the upstream's write buffer has filled, or has room again."""
        self._upstream_full = not writable
        self._pace()

    def _pace(self) -> None:
        """Pause the client's reading while it waits, does not read itself, or sends faster than the upstream takes."""
        hold = self.waiting or self._question is not None or not self._writable or self._upstream_full
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

    def _pump(self, data: bytes) -> None:
        """Serve every whole message in `data`; send what goes upstream in one write, and keep the rest."""
        if data[:1] == b"P" and not self._flow and self._direct(data):
            return
        size = len(data)
        pos = start = 0
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
                if end > size and not self._streams(kind, length, size - pos):
                    need = end - pos if kind != p.BIND else min(end - pos, STREAM_BIND_FROM)
                    break
                answer = _HANDLERS[kind](self, data, pos, end)
                if answer is _STOP:
                    break
                if answer is _END:
                    ended, answer = True, b""
                if end > size:
                    self._flow = end - size
                    self._flow_drop = answer is not None and not answer.endswith(data[pos:size])
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
        if ended:
            self._end(CloseReason.CLIENT_TERMINATE, "", "")
        elif pos < size:
            self._keep(data[pos:], need)

    def _send(self, data: bytes, start: int, pos: int, out: list[bytes]) -> None:
        """Write what goes upstream: what has to go first, the pieces in `out`, and data[start:pos] as it came."""
        link = self.link
        if link is None or not (out or pos > start or self._prefix):
            return
        if self._prefix:
            out.insert(0, self._prefix)
            self._prefix = b""
        if not out and not start and pos == len(data):
            link.write(data)  # the client's own bytes object
            return
        if pos > start:
            out.append(data[start:pos])
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
        if verdict is None or self.codec != "utf-8" or self._swallowing or self._wait_error or self.ledger.lost:
            return False
        link = self.link
        if link is None:
            link = self._lease()
            if link is None:
                self._keep(data, 5)
                return True
        elif link.replies.skipping:
            return False
        link.replies.owed.extend(_GROUP)
        self.unnamed.parse_sent(parse)
        self.filter.hits += 1
        self._house.stats.statements[verdict.label] += 1
        if self._prefix:
            data, self._prefix = self._prefix + data, b""
        self._group_open = False
        link.write(data)
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
    # _STOP to leave the message unserved until there is an upstream or a verdict for it, or _END.

    def _query(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        if end > len(data):
            return self._too_long(simple=True, unnamed=True)
        text = p.query_text(data, pos + 5, end)
        if len(text) > MAX_INLINE:
            known = self._judge_long(text, extended=False)
            if known is None:
                return self._waited(simple=True, unnamed=True)
            verdict = known
        else:
            verdict = self.filter.judge(text, self.codec)
        if verdict.action is Action.REFUSE:
            if verdict.unresolved and self._awaits_catalogue():
                return self._waited(simple=True, unnamed=True)
            if not (self._is_missing(verdict) or self._observes(verdict, text)):
                return self._refuse(verdict, simple=True, unnamed=True)
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=True, unnamed=True)
        self._restore(link)
        link.replies.owe(r.QUERY)
        self._group_open = False
        self.unnamed.end_sent()
        if verdict.action is not Action.ALLOW:
            replaced = self._let_through(link, verdict)
            return None if replaced is None else p.query(replaced)
        self._house.stats.statements[verdict.label] += 1
        if verdict.effects:
            self._pin_for(verdict)
        return None

    def _parse(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        if end > len(data):
            return self._too_long(simple=False, unnamed=data[pos + 5 : pos + 6] == b"\0")
        name, text = p.parse_parts(data, pos + 5, end)
        if len(text) > MAX_INLINE:
            known = self._judge_long(text, extended=True)
            if known is None:
                return self._waited(simple=False, unnamed=not name)
            verdict = known
        else:
            verdict = self.filter.judge(text, self.codec, extended=True)
        if verdict.action is Action.REFUSE:
            if verdict.unresolved and self._awaits_catalogue():
                return self._waited(simple=False, unnamed=not name)
            if not (self._is_missing(verdict) or self._observes(verdict, text)):
                return self._refuse(verdict, simple=False, unnamed=not name)
        types = data[pos + 5 + len(name) + 1 + len(text) + 1 : end]
        if self.filter.types_matter and len(types) > 2:
            objection = self.filter.judge_types(p.parameter_types(types))
            if objection is not None and not self._observes(objection, text):
                return self._refuse(objection, simple=False, unnamed=not name)
            verdict = objection or verdict
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=False, unnamed=not name)
        self._restore(link)
        replaced: bytes | None = None
        if verdict.action is Action.ALLOW:
            self._house.stats.statements[verdict.label] += 1
            if verdict.effects:
                self._pin_for(verdict)
        elif (instead := self._let_through(link, verdict)) is not None:
            replaced = p.parse(name, instead, types)
        if name:
            self._pin(PREPARED_STATEMENT, "a named statement")
            link.replies.owe(r.PARSE)
        else:
            message = replaced or data[pos:end]
            self.unnamed.parse_sent(message)
            link.replies.owe(r.PARSE_UNNAMED)
            if self.codec == "utf-8":
                self.filter.remember_parse(message, verdict)
        self._group_open = True
        return replaced

    def _bind(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        _, statement, _ = p.bind_names(data, pos + 5, min(end, len(data)))
        return self._use(statement, r.BIND, data, pos, end)

    def _describe(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        target, name = p.target_parts(data, pos + 5, end, "Describe")
        if target == 0x50:  # 'P', a portal
            return self._forward(r.DESCRIBE)
        return self._use(name, r.DESCRIBE, data, pos, end)

    def _execute(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        p.check_execute(data, pos + 5, end)
        return self._forward(r.EXECUTE)

    def _close(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        target, name = p.target_parts(data, pos + 5, end, "Close")
        unnamed = target == 0x53 and not name  # 'S', a statement
        if self.link is None:
            # Whatever has a name cannot exist, and closing what does not exist is no error.
            if unnamed:
                self.unnamed.drop()
            self._wire.write(_CLOSE_COMPLETE)
            return b""
        if unnamed:
            self.unnamed.end_sent()
        elif target == 0x53:
            self.ledger.loosened = True
        return self._forward(r.CLOSE_UNNAMED if unnamed else r.CLOSE)

    def _sync(self, data: bytes, pos: int, end: int) -> bytes | None:
        p.check_empty(pos + 5, end, "Sync")
        if self._swallowing or self.link is None:
            self._swallowing = False
            self._wire.write(p.READY[p.IDLE])
            return b""
        self._group_open = False
        self.link.replies.owe(r.SYNC)
        return None

    def _flush(self, data: bytes, pos: int, end: int) -> bytes | None:
        p.check_empty(pos + 5, end, "Flush")
        return b"" if self.link is None or self._ignored() else None

    def _terminate(self, data: bytes, pos: int, end: int) -> bytes | None:
        return _END

    def _copy(self, data: bytes, pos: int, end: int) -> bytes | None:
        return b""  # no COPY FROM ever begins; the server ignores these outside of one

    def _function_call(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        oid, formats, arguments = p.function_call_parts(data, pos + 5, end)
        verdict = self.filter.judge_function_call(oid, formats, arguments)
        if verdict.action is not Action.ALLOW:
            return self._refuse(verdict, simple=True)
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=True)
        self._restore(link)
        link.replies.owe(r.FUNCTION)
        self._group_open = False
        self._house.stats.statements[verdict.label] += 1
        if verdict.effects:
            self._pin_for(verdict)
        return None

    # --- verdicts that are not there at once ----------------------------------------------------------------------

    def _judge_long(self, text: bytes, *, extended: bool) -> Verdict | None:
        """Return the verdict of a long text, if it is known; else ask for it, and return None."""
        if self._wait_error is not None:
            return None
        if len(text) > self._house.max_query_length:
            return self.filter.judge(text, self.codec, extended=extended)  # it looks at the length first
        asked = (text, self.codec, extended, self.filter.functions)
        if self._verdict is not None and asked == self._asked:
            return self._verdict
        verdict = self.filter.recall(text, self.codec, extended)
        if verdict is None:
            self._asked = asked
            self._question = self._house.judge.ask(self, self.filter, text, self.codec, extended)
            self._pace()
        return verdict

    def _awaits_catalogue(self) -> bool:
        """Whether a message with a name that nobody knows has to wait for a newer catalogue, or has done so in vain."""
        if self._wait_error is not None:
            return True
        if self._refreshed:
            return False
        self._question = self._house.catalogues.refresh_for(self.pool.database, self)
        if self._question is None:
            return False
        self._refreshed = True
        self._pace()
        return True

    def judged(self, verdict: Verdict | None) -> None:
        """Go on with what waited for a verdict; None: judge it again, by the catalogue as it is now."""
        self._question = None
        self._verdict = verdict
        self._go_on()

    # --- what handlers have in common -----------------------------------------------------------------------------

    def _ignored(self) -> bool:
        """Whether the server would ignore this message: an error came, and the Sync did not."""
        return self._swallowing or (self.link is not None and self.link.replies.skipping)

    def _forward(self, owed: int) -> bytes | None:
        """Forward an extended message that needs no look at the unnamed statement."""
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=False)
        self._restore(link)
        link.replies.owe(owed)
        self._group_open = True
        return None

    def _use(self, statement: bytes, owed: int, data: bytes, pos: int, end: int) -> bytes | None:
        """Forward a Bind or a Describe of a statement; repeat the unnamed statement's Parse where the link lacks it."""
        unnamed = self.unnamed.coming
        if self.link is None and (statement or unnamed is None):
            # A client with named statements is pinned: without a link there are none.
            return self._no_statement(statement)
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=False)
        self._restore(link)  # first: it may destroy the unnamed statement
        if statement or self.unnamed.synced:
            link.replies.owe(owed)
            self._group_open = True
            return None
        if unnamed is None:
            return self._no_statement(statement)
        link.replies.owe(r.SKIP_PARSE)
        link.replies.owe(owed)
        self._group_open = True
        self.unnamed.repeat_sent()
        self._house.stats.replays += 1
        return unnamed + data[pos : min(end, len(data))]

    def _no_statement(self, name: bytes) -> bytes:
        shown = name.decode(self.codec, "replace")
        text = f'prepared statement "{shown}" does not exist' if name else "unnamed prepared statement does not exist"
        error = p.error_response("ERROR", INVALID_SQL_STATEMENT_NAME, text, codec=self.codec)
        return self._answer_error(error, simple=False)

    def _too_long(self, *, simple: bool, unnamed: bool) -> bytes:
        limit = self._house.max_query_length
        error = p.error_response(
            "ERROR",
            PROGRAM_LIMIT_EXCEEDED,
            f"the statement is longer than {limit} bytes",
            hint="Send a shorter statement, or ask the operator to raise client.max_query_length.",
        )
        self._house.stats.statements[("refuse", "unparsable")] += 1
        self._house.stats.refused["too-long"] += 1
        return self._answer_error(error, simple=simple, unnamed=unnamed)

    def _refuse(self, verdict: Verdict, *, simple: bool, unnamed: bool = False) -> bytes:
        self._house.stats.statements[verdict.label] += 1
        self._house.stats.refused[verdict.rule] += 1
        self._note("refused", verdict)
        error = p.error_response(
            "ERROR",
            verdict.sqlstate,
            verdict.message,
            detail=verdict.detail,
            hint=verdict.hint,
            position=verdict.position,
            codec=self.codec,
        )
        return self._answer_error(error, simple=simple, unnamed=unnamed)

    def _note(self, event: str, verdict: Verdict) -> None:
        self._house.audit.event(
            event,
            session=self.who.ident,
            user=self.who.user,
            database=self.pool.database,
            application=self.who.application,
            kind=verdict.kind,
            rule=verdict.rule,
            sqlstate=verdict.sqlstate,
        )

    def _answer_error(self, error: bytes, *, simple: bool, unnamed: bool = False) -> bytes:
        """Answer one message with an error, in its turn; return what stands for it upstream.

        `simple`: a ReadyForQuery follows. `unnamed`: the message would have destroyed the unnamed statement even so.
        """
        link = self.link
        if link is None or (not link.replies.owed and link.replies.status == p.IDLE and not self._group_open):
            if unnamed:
                self.unnamed.drop()
            self._swallowing = not simple
            self._wire.write(error + p.READY[p.IDLE] if simple else error)
            return b""
        # The server has to know: it skips to Sync, rolls back, and turns `T` into `E` as it does for its own errors.
        if unnamed:
            self.unnamed.parse_sent(None)
            stand_in = p.REFUSED_PARSE
        else:
            stand_in = p.REFUSED_EXECUTE
        link.replies.owe_refusal(error, r.REFUSED_UNNAMED if unnamed else r.REFUSED)
        if not simple:
            self._group_open = True
            return stand_in
        link.replies.owe(r.SYNC)
        self._group_open = False
        return stand_in + p.SYNC_MESSAGE

    def _is_missing(self, verdict: Verdict) -> bool:
        """Whether a relation does not exist, by a catalogue that was read a moment ago.

        Then the server says so before it does anything, and its own answer is the one that a client expects. Of several
        statements the earlier ones would run; names beyond ASCII are the server's to fold and to cut.
        """
        return (
            verdict.rule == "unknown-relation"
            and verdict.kind != "multi"
            and verdict.message.isascii()
            and self._house.catalogues.is_current(self.pool.database)
        )

    def _observes(self, verdict: Verdict, text: bytes) -> bool:
        """Whether filter.mode lets this refused text go upstream all the same."""
        return self._house.observe and observe.lets_through(verdict.rule, text, self.codec)

    def _let_through(self, link: Upstream, verdict: Verdict) -> bytes | None:
        """Account for what goes upstream though it is not allowed as it came; return the text to send instead, if any.

        What a refused text leaves behind is unknown, so nobody else gets the upstream of a client that sent one.
        """
        stats = self._house.stats
        if self._is_missing(verdict):
            stats.statements[("allow", verdict.kind)] += 1
            return None
        if verdict.action is Action.REPLACE:
            stats.statements[verdict.label] += 1
            if verdict.effects:
                self._pin_for(verdict)
            self._notify(p.notice_response("WARNING", "01000", verdict.warning, codec=self.codec))
            return verdict.text
        stats.statements[("observe", verdict.kind)] += 1
        stats.observed[verdict.rule] += 1
        self._note("observed", verdict)
        self.ledger.scarred = True
        self._pin(OBSERVED, verdict.rule)
        link.replies.observed = True
        return None

    def _notify(self, notice: bytes) -> None:
        """Send a notice as soon as no message is half-way out."""
        if self.link is None or self.link.replies.whole:
            self._wire.write(notice)
        else:
            self._notices.append(notice)

    def _pin_for(self, verdict: Verdict) -> None:
        if any(effect in _RESETTING for effect, _ in verdict.effects):
            self._restored = False
        for reason in self.ledger.apply(verdict.effects):
            self._pinned(reason)

    def _pin(self, reason: str, name: str) -> None:
        if self.ledger.pin(reason, name):
            self._pinned(reason)

    def _pinned(self, reason: str) -> None:
        self._house.stats.pins[reason] += 1
        self._house.audit.event("pinned", session=self.who.ident, user=self.who.user, reason=reason)

    # --- lease and release ----------------------------------------------------------------------------------------

    def _lease(self) -> Upstream | None:
        """Take an upstream, or stand in line; None after a wait in vain, too."""
        if self._wait_error is not None:
            return None
        upstream = self.pool.lease(self, self._house.now())
        if upstream is None:
            self.waiting = True
            self._pace()
            return None
        return self._attach(upstream)

    def _attach(self, pooled: PooledUpstream) -> Upstream:
        upstream = cast(Upstream, pooled)  # the pool holds what the server opened for it
        self.link = upstream
        self.unnamed.attach(upstream.unnamed_of is self)
        upstream.unnamed_of = None
        upstream.replies.listener = self
        upstream.attach(self)
        if not self._writable:
            upstream.pause_reading()
        if upstream.settings is not self.ledger.settings:
            self._ask_first(replay(upstream.settings, self.ledger.settings))
            upstream.settings = self.ledger.settings
            self.ledger.lost.clear()
            self._house.stats.replays += 1
        return upstream

    def _restore(self, link: Upstream) -> None:
        """Set start-up settings again that a RESET has undone, before the next statement can miss them.

        Inside a transaction block this is done once, and again after its end, which may have rolled it back.
        """
        lost = self.ledger.lost
        if not lost or link.replies.owed:
            return
        if link.replies.status == p.IDLE:
            self._ask_first(restore(lost))
            lost.clear()
        elif link.replies.status == p.IN_TRANSACTION and not self._restored:
            self._ask_first(restore(lost))
            self._restored = True

    def _ask_first(self, sql: bytes) -> None:
        """Put a Query of ours in front of what goes out next. It destroys the upstream's unnamed statement."""
        if self.link is not None:
            self._prefix += p.query(sql)
            self.link.replies.owe(r.SKIP_QUERY)
            self.unnamed.other_sent()

    def _waited(self, *, simple: bool, unnamed: bool = False) -> bytes:
        """Answer a message that lacks an upstream or a verdict: stop here, or report that the wait was in vain."""
        error = self._wait_error
        if error is None:
            return _STOP
        self._wait_error = None
        response = p.error_response(
            "ERROR", error.sqlstate, str(error), detail=error.detail, hint=error.hint, codec=self.codec
        )
        return self._answer_error(response, simple=simple, unnamed=unnamed)

    def leased(self, upstream: PooledUpstream) -> None:
        """Go on with what waited for an upstream."""
        self.waiting = False
        link = self._attach(upstream)
        self._go_on()
        if self.link is link:
            # By a newer catalogue it was refused, or has to be judged elsewhere once more: nothing went upstream.
            self._let_go(link)

    def lease_failed(self, error: UpstreamError) -> None:
        """Answer what waited with the error."""
        self.waiting = False
        self._house.audit.event("lease failed", session=self.who.ident, user=self.who.user, reason=error.reason.value)
        self._wait_error = error
        self._go_on()

    def still_waiting(self, seconds: float) -> None:
        text = f"the statement has been waiting for an upstream connection for {seconds:.0f} s"
        self._notify(p.notice_response("NOTICE", "00000", text))

    def _go_on(self) -> None:
        data = b"".join(self._inbox)
        self._inbox.clear()
        try:
            self._pump(data)
        except ClientProtocolError as error:
            self._end(CloseReason.CLIENT_PROTOCOL, error.sqlstate, str(error))
        self._wait_error = None
        if not self.waiting and self._question is None:
            self._asked = self._verdict = None
            self._refreshed = False
        self._pace()

    def _release(self, link: Upstream) -> None:
        self.link = None
        if not self._writable:
            link.resume_reading()
        if self.ledger.lost:
            link.settings = None
            self.ledger.lost.clear()
        link.unnamed_of = self if self.unnamed.stays else None
        link.detach()
        self.pool.release(link, self._house.now())

    # --- bytes from the upstream ----------------------------------------------------------------------------------

    def upstream_data(self, chunk: bytes) -> None:
        """Take bytes from the linked upstream. Raises nothing: an upstream that breaks the protocol is closed."""
        link = self.link
        if link is None:
            return
        self.activity += 1
        try:
            out = link.replies.feed(chunk)
        except TripwireError as error:
            self._house.stats.bugs += 1
            self._house.audit.event("tripwire", level="error", session=self.who.ident, what=str(error))
            self._end_link(CloseReason.TRIPWIRE)
            return
        except UpstreamProtocolError as error:
            self._house.audit.event("upstream protocol", level="error", session=self.who.ident, what=str(error))
            self._end_link(CloseReason.UPSTREAM_PROTOCOL)
            return
        if out:
            self._house.stats.client_bytes_sent += len(out)
            self._wire.write(out)
        if self._notices and link.replies.whole:
            self._wire.write(b"".join(self._notices))
            self._notices.clear()
        if link.replies.ready:
            self._ready(link)

    def _ready(self, link: Upstream) -> None:
        """Act on ReadyForQuery: nothing owed, status `I` and no pin is the end of the link."""
        replies = link.replies
        read = replies.ready >> r.SKIP_QUERY & 1
        replies.ready = 0
        self.answered += 1
        if not replies.owed:
            self.unnamed.settled()
        if replies.status == p.IDLE:
            self._restored = False
        if self._reading and read:  # the answer was an error: a cancel, or a timeout that the client has set
            self._not_carried()
        if self._let_go(link):
            self._house.stats.transactions += 1

    def _let_go(self, link: Upstream) -> bool:
        """Give the upstream back where nothing keeps it; return whether that was so.

        Where settings were changed, or a pin may have ended, the server is asked first; its answer leads here again.
        """
        replies, ledger = link.replies, self.ledger
        if replies.owed or replies.status != p.IDLE or self._group_open or (ledger.pins and not ledger.loosened):
            return False
        if ledger.touched or ledger.loosened:
            self._read_back(link)
            return False
        self._release(link)
        return True

    def _read_back(self, link: Upstream) -> None:
        """Ask what the settings are that statements have changed: then they can go to another upstream.

        Only the server knows: a SET can have been rolled back, to a savepoint too, and DateStyle is relative.
        """
        ledger = self.ledger
        self._reading = True
        self._found = {}
        lost = ledger.lost
        self._ask_first((restore(lost) + b";" if lost else b"") + read_back(ledger.ask(), state=ledger.asked_state))
        lost.clear()
        prefix, self._prefix = self._prefix, b""
        link.write(prefix)

    def skipped_row(self, body: bytes) -> None:
        values = p.row_values(body) if self._reading else []
        if len(values) != 2:
            return
        name, value = (b"" if value is None else value for value in values)
        if name:
            # Which characters the bytes of a client without an encoding are, only the server knows.
            if self.codec == rules.RAW and not value.isascii():
                self._uncarried = True
            self._found[name.decode("ascii", "replace")] = value.decode(self.codec, "replace")
        else:
            self._settings_read()

    def _settings_read(self) -> None:
        """Take over what the upstream has said, and forget the pins that hold nothing any more."""
        ledger = self.ledger
        if ledger.asked_state:
            ledger.unpin({name[1:] for name in self._found if name[0] == "."})
        found = {name: value for name, value in self._found.items() if name[0] != "."}
        if ledger.read_back(found) and not self._uncarried:
            self._reading = False
            if self.link is not None:
                self.link.settings = ledger.settings
        else:
            self._not_carried()

    def _not_carried(self) -> None:
        """Keep the upstream, since what was set on it cannot be set on another one, or is not known."""
        self._reading = False
        self.ledger.not_read_back()
        self._pin(SETTING, "what could not be read back")

    def upstream_lost(self) -> None:
        """Learn that the linked upstream's socket has ended: with it goes this client's transaction or state."""
        self._end_link(CloseReason.UPSTREAM_LOST)

    def _end_link(self, reason: CloseReason) -> None:
        """Close the upstream, and this client with it."""
        whole = self._drop_link(reason)
        sqlstate = ADMIN_SHUTDOWN if reason is CloseReason.UPSTREAM_LOST else CONNECTION_FAILURE
        self._end(reason, sqlstate, _UPSTREAM_GONE if whole and not self._told else "")

    def _drop_link(self, reason: CloseReason) -> bool:
        """Close the linked upstream; return whether what the client has got of it ends between two messages."""
        link = self.link
        if link is None:
            return True
        self.link = None
        link.detach()
        link.close(reason)
        self.pool.lost(link, self._house.now())
        return link.replies.whole

    def bug(self) -> None:
        """End after an unexpected exception: this session and its upstream never resume."""
        self._house.stats.bugs += 1
        whole = self._drop_link(CloseReason.BUG)
        self._end(CloseReason.BUG, INTERNAL_ERROR, INTERNAL_ERROR_TEXT if whole else "")

    def close(self) -> None:
        """Leave the line, and hand the upstream back: clean, to be cleaned, or not at all."""
        self.closed = True
        self._inbox.clear()
        self._asked = None
        if self._question is not None:
            self._question.cancel()
            self._question = None
        if self.waiting:
            self.pool.leave(self)
            self.waiting = False
        link = self.link
        if link is None:
            return
        self.link = None
        link.detach()
        if not self._writable:
            link.resume_reading()
        if self.ledger.pins or self.ledger.lost or self.ledger.touched or self._reading:
            link.settings = None
        half_sent = self._flow and not self._flow_drop
        if self.ledger.scarred or link.replies.copying or half_sent:
            link.close(CloseReason.DIRTY)
            self.pool.lost(link, self._house.now())
        elif link.replies.owed or link.replies.status != p.IDLE or self._group_open or self.ledger.pins:
            self.pool.recycle(link, discard=bool(self.ledger.pins))
        else:
            self.pool.release(link, self._house.now())

    # Listener of the replies owed

    def parameter_reported(self, body: bytes) -> bytes | None:
        name, value = p.parameter_parts(body)
        if self.link is not None:
            self.link.parameters[name] = value
        if (name == "default_transaction_read_only" and value == "off") or (
            name == "standard_conforming_strings" and value != "on"
        ):
            raise TripwireError(f"the upstream reports {name} = {value}")
        if name.lower() in self.ledger.lost and not self._restored:
            # The server's value after a RESET; ours, which follows, is what the client connected with.
            value = self._greeted.get(name, value)
        if name == "client_encoding":
            codec = self.filter.python_codec(value)
            if codec is None:
                raise TripwireError(f"the upstream reports client_encoding = {value}")
            self.codec = codec
        elif name == "application_name":
            self.who.application = value
        if self.reported.get(name) == value:
            return b""
        self.reported = {**self.reported, name: value}
        return p.parameter_status(name, value)

    def error_reported(self, body: bytes) -> None:
        if b"\0VFATAL\0" in body or b"\0VPANIC\0" in body:
            self._told = True

    def skipped_error(self, body: bytes) -> None:
        if self._reading:
            return
        fields = p.error_fields(body)
        raise UpstreamProtocolError(f"settings could not be replayed: {fields.get('C')}")

    def notification_arrived(self, body: bytes) -> bool:
        return "listen" in self.ledger.pins


_RESETTING: Final = frozenset({Effect.RESET, Effect.RESET_LOCAL, Effect.DISCARD_ALL})

_STOP: Final = b"stop"
"""A handler's answer that leaves its message for later. Told by identity."""

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

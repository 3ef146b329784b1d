"""The client session: one frontend message at a time; what to forward, what to answer here, what to refuse.

Pure: bytes come in through `client_data` and `upstream_data`, and leave through two ports, the wire to the client and
the leased upstream. Nothing here waits: a session that has to wait for an upstream, for a verdict from elsewhere, or
for replies that are owed keeps its bytes, pauses its client, and goes on in `leased`, `judged` or at ReadyForQuery.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from proxy import protocol as p
from proxy import replies as r
from proxy import rules
from proxy.errors import (
    DUPLICATE_PREPARED_STATEMENT,
    INVALID_SQL_STATEMENT_NAME,
    PROGRAM_LIMIT_EXCEEDED,
    QUERY_CANCELED,
    ClientProtocolError,
    CloseReason,
    UpstreamError,
)
from proxy.filter import Filter
from proxy.house import House, Upstream, Wire
from proxy.judging import Judging
from proxy.ledger import PREPARED_STATEMENT, Ledger
from proxy.linked import MAX_UNIT, RESETTING, Identity, Linked, Unparsed
from proxy.pool import Pool
from proxy.snapshot import ANY_SETTINGS, LEARN, TAKE_OFF, restore, wear
from proxy.statements import (
    PREFIX,
    Closed,
    Context,
    Described,
    Dropped,
    Learned,
    Parsed,
    Run,
    Statement,
    Ticket,
    UnsettledError,
)
from proxy.verdict import Action, Effect, Verdict

STREAM_BIND_FROM: Final = 65_536
"""A Bind that is not whole after so many bytes is forwarded as it arrives: only its two names are read."""
MESSAGE_SLACK: Final = 262_400
"""What a Parse may carry beside its text: a name, and 65,535 parameter types of 4 bytes."""

OBSERVED: Final = "observed"
"""The pin of a client that sent what filter.mode observe has let through."""

NAMEDATALEN: Final = 64
"""Of longer names of prepared statements the server looks at the first 63 bytes only (commands/prepare.c)."""

_CLOSE_COMPLETE = p.message(p.CLOSE_COMPLETE)
_GROUP = (r.PARSE_UNNAMED, r.BIND, r.DESCRIBE, r.EXECUTE, r.SYNC)
_GROUP_END = p.message(p.DESCRIBE, b"P\0") + p.execute(b"") + p.SYNC_MESSAGE
_HELPER = PREFIX + b"helper"
"""The statement and portal that run what has to be asked inside a group of the client's."""
_NO_NAME = PREFIX + b"none"
_COMMITTED, _ROLLED_BACK = (p.message(p.COMMAND_COMPLETE, tag + b"\0") for tag in (b"COMMIT", b"ROLLBACK"))
_BEGINNING = re.compile(rb"\s*(begin|start\s+transaction)\b", re.IGNORECASE)
_SHAPELESS: Final = frozenset(rules.TRANSACTION_KINDS.values())
"""Kinds of statements without literals and names of objects. The server parses them in a failed transaction, too."""
_NAMING: Final = frozenset({Effect.PREPARE, Effect.EXECUTE, Effect.DEALLOCATE})
_TOLD: Final = frozenset({Effect.DEALLOCATE, Effect.DISCARD_ALL}) | RESETTING


class Session(Linked):
    """One client's conversation, from its greeting on."""

    __slots__ = ("_judging", "_passes")

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
        self._passes = False  # the message whose handler runs is forwarded, as far as it has come

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
    def _held_up(self) -> bool:
        """Whether the message at the head of the inbox waits for something else than more bytes."""
        return self.waiting or self._judging.awaited or self._stalled

    def cancel(self) -> str:
        """Cancel what this session runs or waits for; return the outcome for the metric."""
        if self.running and self.link is not None:
            self._cancelled = True
            self.link.cancel()
            return "sent"
        text = "canceling statement due to user request"
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
        """Take bytes from the client. Raises ClientProtocolError for what closes its connection."""
        self.activity += 1
        self._house.stats.client_bytes_received += len(data)
        if self._inbox or self.waiting:
            self._inbox.append(data)
            self._have += len(data)
            if self._held_up or self._have < self._need:
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

    def _pump(self, data: bytes) -> None:
        """Serve every whole message in `data`; send what goes upstream in one write, and keep the rest."""
        if data[:1] == b"P" and not self._flow and self._direct(data):
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
                if end > size and not self._streams(kind, length, size - pos):
                    need = end - pos if kind != p.BIND else min(end - pos, STREAM_BIND_FROM)
                    break
                answer = _HANDLERS[kind](self, data, pos, end)
                if answer is _STOP:
                    break
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
            self._end(CloseReason.CLIENT_TERMINATE, "", "")
        elif pos < size:
            self._keep(data[pos:], need)

    def _remember(self, sent: bytes) -> None:
        """Keep what was sent, to send it again should the upstream be lost before it answers."""
        unit = self._unit + sent if self._unit else sent
        self._unit = None if len(unit) > MAX_UNIT or self._flow else unit

    def _send(self, data: bytes, start: int, pos: int, out: list[bytes]) -> None:
        """Write what goes upstream: what has to go first, the pieces in `out`, and data[start:pos] as it came."""
        link = self.link
        if link is None or not (out or pos > start or self._prefix):
            return
        if self._prefix:
            out.insert(0, self._flushed())
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
        if (
            verdict is None
            or self.codec != "utf-8"
            or self._swallowing
            or self._wait_error
            or self._parting
            or self._portals
            or self.ledger.unsure
        ):
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
        self.unnamed.parse_sent((parse, self.ledger.settings.parsing, verdict, self.filter.functions))
        self.filter.hits += 1
        self._house.stats.statements[verdict.label] += 1
        if self._unit is not None:
            self._remember(data)
        if self._prefix:
            data = self._flushed() + data
        self._group_open = False
        self.prepared.group += 1
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
    # _STOP to leave the message unserved until there is what it waits for, or _END.

    def _query(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        if end > len(data):
            return self._too_long(simple=True, unnamed=True)
        text = p.query_text(data, pos + 5, end)
        verdict = self._verdict(text, extended=False)
        if verdict is None:
            return self._waited(simple=True, unnamed=True)
        if not self._judging.passes(verdict, text, self.codec):
            return self._refuse(verdict, simple=True, unnamed=True)
        if verdict.boundary and self.link is None and self._bounds_here(verdict, text):
            return b""
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=True, unnamed=True)
        before = b""
        try:
            if verdict.effects:
                before = self._provide_own(link, verdict, group=False)
        except UnsettledError:
            return self._stall()
        replaced = self._let_through(link, verdict)
        if verdict.effects:
            code, ticket = self._followed(link, verdict, r.QUERY)
            link.replies.owe(code, ticket)
            self._pin_for(verdict)
        else:
            link.replies.owe(r.QUERY)
        self._group_open = False
        self.prepared.group += 1
        self.unnamed.end_sent()
        behind = self._set_again(verdict, group=False)
        if replaced is None and not before and not behind:
            return None
        return before + (data[pos:end] if replaced is None else p.query(replaced)) + behind

    def _parse(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        if end > len(data):
            return self._too_long(simple=False, unnamed=data[pos + 5 : pos + 6] == b"\0")
        name, text = p.parse_parts(data, pos + 5, end)
        types = data[pos + 5 + len(name) + 1 + len(text) + 1 : end]
        verdict = self._verdict_with_types(text, types)
        if verdict is None:
            return self._waited(simple=False, unnamed=not name)
        if not self._judging.passes(verdict, text, self.codec):
            return self._refuse(verdict, simple=False, unnamed=not name)
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=False, unnamed=not name)
        try:
            known = self.prepared.find(name[: NAMEDATALEN - 1]) if name else None
            before = self._provide_own(link, verdict, group=True) if verdict.effects else b""
        except UnsettledError:
            return self._stall()
        replaced = self._let_through(link, verdict)
        self._group_open = True
        if name:
            body = (text if replaced is None else replaced) + b"\0" + types
            if known is not None or name.startswith(PREFIX):
                return before + self._parse_in_vain(link, name, body)
            if PREPARED_STATEMENT in self.ledger.pins or self.prepared.full:
                return before + self._parse_own(link, name, body)
            return before + self._parse_named(link, name, body, verdict)
        message = data[pos:end] if replaced is None else p.parse(name, replaced, types)
        link.replies.owe(r.PARSE_UNNAMED)
        context: Context | Learned = self._context(verdict)
        behind = b""
        if context is None:
            context = Learned(self.codec)
            behind = self._help(LEARN, r.SKIP_EXECUTE, context)
        self.unnamed.parse_sent((message, context, verdict, self.filter.functions))
        if self.codec == "utf-8":
            self.filter.remember_parse(message, verdict)
        return before + message + behind if before or behind else None if replaced is None else message

    def _parse_named(self, link: Upstream, name: bytes, body: bytes, verdict: Verdict) -> bytes:
        """Send a client's Parse under a name of ours, and ask what it describes: that decides who shares it."""
        statement = Statement(body, self._context(verdict), verdict, self.filter.functions)
        out = self._drop(link, link.held.make_room())
        parsed = Parsed(self.prepared, link.held, name[: NAMEDATALEN - 1], statement, link.held.new_name())
        link.replies.owe(r.PARSE_NAMED, parsed)
        out += self._parse_and_describe(link, parsed)
        if statement.context is None:
            out += self._help(LEARN, r.SKIP_EXECUTE, Learned(self.codec, statement))
        return out

    def _parse_own(self, link: Upstream, name: bytes, body: bytes) -> bytes:
        """Send a client's Parse as it is: the server has statements of the client's, and knows which names are free."""
        self._pin(PREPARED_STATEMENT, "a named statement")
        link.replies.owe(r.PARSE)
        return p.message(p.PARSE, name + b"\0" + body)

    def _parse_in_vain(self, link: Upstream, name: bytes, body: bytes) -> bytes:
        """Send a Parse whose name is taken under another: only if nothing else is wrong with it that is its error."""
        link.replies.owe(r.SKIP)
        link.replies.owe(r.SKIP)
        shown = name.decode(self.codec, "replace")
        text = f'prepared statement "{shown}" already exists'
        error = p.error_response("ERROR", DUPLICATE_PREPARED_STATEMENT, text, codec=self.codec)
        trial = p.message(p.PARSE, _HELPER + b"\0" + body) + p.target(p.CLOSE, b"S", _HELPER)
        return trial + self._answer_error(error, simple=False)

    def _bind(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        portal, statement, rest = p.bind_names(data, pos + 5, min(end, len(data)))
        return self._use(statement, portal, data, pos, end, rest)

    def _describe(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        target, name = p.target_parts(data, pos + 5, end, "Describe")
        if target == 0x50:  # 'P', a portal
            return self._forward(r.DESCRIBE)
        return self._use(name, None, data, pos, end, end)

    def _execute(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        p.check_execute(data, pos + 5, end)
        verdict = self._portals.get(data[pos + 5 : end - 5]) if self._portals else None
        if verdict is None:
            return self._forward(r.EXECUTE)
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=False)
        try:
            before = self._provide_own(link, verdict, group=True)
        except UnsettledError:
            return self._stall()
        code, ticket = self._followed(link, verdict, r.EXECUTE)
        link.replies.owe(code, ticket)
        self._group_open = True
        self._pin_for(verdict)
        behind = self._set_again(verdict, group=True)
        return before + data[pos:end] + behind if before or behind else None

    def _close(self, data: bytes, pos: int, end: int) -> bytes | None:
        if self._ignored():
            return b""
        target, name = p.target_parts(data, pos + 5, end, "Close")
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
        if not statement:
            return self._forward(r.CLOSE)
        self._group_open = True
        if not name:
            self.unnamed.end_sent()
            link.replies.owe(r.CLOSE_UNNAMED)
            return None
        # The server has it under this name only if SQL may know it; else this closes nothing, which is no error.
        link.replies.owe(r.CLOSE_NAMED, Closed(self.prepared, name[: NAMEDATALEN - 1]))
        self._own.pop(name[: NAMEDATALEN - 1], None)
        self.ledger.loosened = bool(self.ledger.pins)
        return p.target(p.CLOSE, b"S", _NO_NAME) if name.startswith(PREFIX) else None

    def _sync(self, data: bytes, pos: int, end: int) -> bytes | None:
        p.check_empty(pos + 5, end, "Sync")
        self.prepared.group += 1
        if self._swallowing or self.link is None:
            self._swallowing = False
            self._seen = self.status
            self._wire.write(p.READY[self.status])
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
        self._passes = False
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
        link.replies.owe(r.FUNCTION)
        self._group_open = False
        self.prepared.group += 1
        self._house.stats.statements[verdict.label] += 1
        return None

    # --- waiting --------------------------------------------------------------------------------------------------

    def _verdict(self, text: bytes, *, extended: bool) -> Verdict | None:
        """Return the verdict on a text; None: it is awaited, or was in vain."""
        if self._wait_error is not None:
            return None
        verdict = self._judging.verdict(text, self.codec, extended=extended)
        if verdict is None:
            self._pace()
        return verdict

    def _verdict_with_types(self, text: bytes, types: bytes) -> Verdict | None:
        """Return the verdict on a Parse: its text, and the types of its parameters."""
        verdict = self._verdict(text, extended=True)
        if verdict is None or verdict.action is Action.REFUSE or not self.filter.types_matter or len(types) <= 2:
            return verdict
        return self.filter.judge_types(p.parameter_types(types)) or verdict

    def judged(self, verdict: Verdict | None) -> None:
        """Go on with what waited for a verdict; None: judge it again, by the catalogue as it is now."""
        self._judging.answered(verdict)
        self._go_on()

    def _waited(self, *, simple: bool, unnamed: bool = False) -> bytes:
        """Answer a message that lacks an upstream or a verdict: stop here, or report that the wait was in vain."""
        error = self._wait_error
        if error is None or self._judging.awaited:
            return _STOP
        self._wait_error = None
        response = p.error_response(
            "ERROR", error.sqlstate, str(error), detail=error.detail, hint=error.hint, codec=self.codec
        )
        return self._answer_error(response, simple=simple, unnamed=unnamed)

    def _stall(self) -> bytes:
        """Leave a message until all that is owed has come: what it means depends on whether that succeeds."""
        self._stalled = True
        self._pace()
        return _STOP

    def _go_on(self) -> None:
        data = b"".join(self._inbox)
        self._inbox.clear()
        try:
            self._pump(data)
        except ClientProtocolError as error:
            self._end(CloseReason.CLIENT_PROTOCOL, error.sqlstate, str(error))
        self._wait_error = None
        if not self.waiting and not self._judging.awaited:
            self._judging.served()
        self._pace()

    # --- transactions without an upstream -------------------------------------------------------------------------

    def _bounds_here(self, verdict: Verdict, text: bytes) -> bool:
        """Begin or end a transaction that no server knows of; return whether that could be done.

        A BEGIN goes out together with the first statement that needs the server: now() and the snapshot start there.
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
            if self._outside == p.IDLE or (self._parting is not None and verdict.boundary == "commit"):
                return False
            answer = _ROLLED_BACK if self._outside == p.FAILED or verdict.boundary == "rollback" else _COMMITTED
            self._parting = None
            self._outside = p.IDLE
        self.unnamed.drop()
        self.prepared.group += 1
        self._seen = self._outside
        self._house.stats.statements[verdict.label] += 1
        self._wire.write(answer + p.READY[self._outside])
        return True

    # --- prepared statements --------------------------------------------------------------------------------------

    def _use(self, name: bytes, portal: bytes | None, data: bytes, pos: int, end: int, rest: int) -> bytes | None:
        """Forward a Bind to a portal, or a Describe (None), of a statement; parse it first where the link lacks it."""
        try:
            return (
                self._use_named(name, portal, data, pos, end, rest)
                if name
                else self._use_unnamed(portal, data, pos, end)
            )
        except UnsettledError:
            return self._stall()

    def _use_named(self, name: bytes, portal: bytes | None, data: bytes, pos: int, end: int, rest: int) -> bytes | None:
        statement = self.prepared.find(name[: NAMEDATALEN - 1])
        if statement is None:
            if name.startswith(PREFIX) or self.link is None:
                return self._no_statement(name)
            # The server may have it, by SQL; else its own error is the right one.
            if self._portals:
                self._portals.pop(portal or b"", None)
            self._owe_use(self.link, portal)
            return None
        if statement.judge is not self.filter.functions:
            text = statement.text
            verdict = self._verdict_with_types(text, statement.body[len(text) + 1 :])
            if verdict is None:
                return self._waited(simple=False)
            if not self._judging.passes(verdict, text, self.codec):
                return self._refuse(verdict, simple=False)
            statement.verdict, statement.judge = verdict, self.filter.functions
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=False)
        server_name = link.held.use(statement) or self.prepared.repeated(statement)
        effects = statement.verdict.effects
        before = self._provide_own(link, statement.verdict, group=True) if effects else b""
        if server_name is None:
            server_name, parse = self._parse_again(link, statement)
            before += parse
        self._note_portal(portal, statement.verdict)
        self._owe_use(link, portal)
        start = b"S" if portal is None else portal + b"\0"
        length = end - pos - 5 - len(name) + len(server_name)
        kind = p.DESCRIBE if portal is None else p.BIND
        return before + p.rewritten(kind, length, start + server_name + b"\0", data[rest : min(end, len(data))])

    def _use_unnamed(self, portal: bytes | None, data: bytes, pos: int, end: int) -> bytes | None:
        unnamed: Unparsed | None = self.unnamed.coming
        if self.link is None and unnamed is None:
            return self._no_statement(b"")
        if unnamed is not None and unnamed[3] is not self.filter.functions:
            message, context, _, _ = unnamed
            _, text = p.parse_parts(message, 5, len(message))
            verdict = self._verdict_with_types(text, message[7 + len(text) :])
            if verdict is None:
                return self._waited(simple=False)
            if not self._judging.passes(verdict, text, self.codec):
                return self._refuse(verdict, simple=False)
            unnamed = (message, context, verdict, self.filter.functions)
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=False)
        before = b""
        if unnamed is not None:
            message, context, verdict, _ = unnamed
            if verdict.effects:
                before = self._provide_own(link, verdict, group=True)
            if not self.unnamed.synced:
                if isinstance(context, Learned):
                    context = context.context
                before += self._in_context(link, context, message, r.REPEAT_UNNAMED)
                self.unnamed.repeat_sent()
                self._house.stats.replays += 1
            self._note_portal(portal, verdict)
        elif not self.unnamed.synced:
            return self._no_statement(b"")
        self._owe_use(link, portal)
        return before + data[pos : min(end, len(data))] if before else None

    def _owe_use(self, link: Upstream, portal: bytes | None) -> None:
        link.replies.owe(r.DESCRIBE if portal is None else r.BIND)
        self._group_open = True
        self._passes = True

    def _note_portal(self, portal: bytes | None, verdict: Verdict) -> None:
        """Keep in mind what an Execute of this portal leaves behind."""
        if portal is not None:
            if verdict.effects:
                self._portals[portal] = verdict
            elif self._portals:
                self._portals.pop(portal, None)

    def _parse_again(self, link: Upstream, statement: Statement) -> tuple[bytes, bytes]:
        """Put a statement on a link that lacks it; return its name there, and what to send."""
        out = self._drop(link, link.held.make_room())
        parsed = Parsed(self.prepared, link.held, None, statement, link.held.new_name())
        self._house.stats.replays += 1
        parse = p.message(p.PARSE, parsed.server_name + b"\0" + statement.body)
        out += self._in_context(link, statement.context, parse, r.REPEAT_NAMED, parsed)
        return parsed.server_name, out + self._describe_ours(link, parsed)

    def _describe_ours(self, link: Upstream, parsed: Parsed) -> bytes:
        link.replies.owe(r.SKIP_DESCRIBE, Described(parsed))
        return p.target(p.DESCRIBE, b"S", parsed.server_name)

    def _parse_and_describe(self, link: Upstream, parsed: Parsed) -> bytes:
        parse = p.message(p.PARSE, parsed.server_name + b"\0" + parsed.statement.body)
        return parse + self._describe_ours(link, parsed)

    def _drop(self, link: Upstream, names: list[bytes]) -> bytes:
        """Close statements of ours."""
        for name in names:
            link.replies.owe(r.SKIP_CLOSE, Dropped(link.held, name))
        return b"".join(p.target(p.CLOSE, b"S", name) for name in names)

    def _context(self, verdict: Verdict) -> Context:
        """Return the settings that shape a Parse which is sent now; None where the server has to be asked."""
        return ANY_SETTINGS if verdict.kind in _SHAPELESS else self.ledger.context

    def _in_context(
        self, link: Upstream, context: Context, parse: bytes, code: int, ticket: Ticket | None = None
    ) -> bytes:
        """Send a Parse again under the settings that shaped it, whatever they are now."""
        if context in (None, ANY_SETTINGS, self.ledger.context) or link.replies.status == p.FAILED:
            link.replies.owe(code, ticket)
            return parse
        out = self._help(wear(context))
        link.replies.owe(code, ticket)
        return out + parse + self._help(TAKE_OFF)

    def _help(self, sql: bytes, code: int = r.SKIP, ticket: Ticket | None = None) -> bytes:
        """Run a statement of ours inside a group of the client's."""
        if self.link is None:
            return b""
        owe = self.link.replies.owe
        begin, execute, end = p.run(_HELPER, sql)
        owe(r.SKIP)
        owe(r.SKIP)
        owe(code, ticket)
        owe(r.SKIP)
        owe(r.SKIP)
        return begin + execute + end

    def _provide_own(self, link: Upstream, verdict: Verdict, *, group: bool) -> bytes:
        """Put statements that SQL names on the link under their own names: PREPARE, EXECUTE and DEALLOCATE see them.

        Only EXECUTE needs more than the name. `group`: the statement runs in a group of extended messages. Raises
        UnsettledError.
        """
        wanted = []
        for effect, text in verdict.effects:
            if effect in _NAMING and text:
                name = text.encode(self.codec, "replace")
                wanted.append((name, self.prepared.find(name), effect is Effect.EXECUTE))
        code = r.SKIP if group else r.SKIP_ANYHOW
        out = b""
        for name, statement, whole in wanted:
            if statement is None or self._own.get(name, -1) >= whole:
                continue
            if name in self._own:
                link.replies.owe(r.SKIP)
                out += p.target(p.CLOSE, b"S", name)
            self._own[name] = whole
            if whole:
                parse = p.message(p.PARSE, name + b"\0" + statement.body)
                out += self._in_context(link, statement.context, parse, code)
            else:
                link.replies.owe(code)
                out += p.parse(name, b"")
        if out and not group:
            # A Query behind a failed message would be ignored; on its own it gets the server's answer.
            link.replies.owe(r.SKIP_SYNC)
            out += p.SYNC_MESSAGE
        return out

    def _followed(self, link: Upstream, verdict: Verdict, code: int) -> tuple[int, Ticket | None]:
        """Follow what a statement does to names and settings, where that matters: return how its reply is owed."""
        if not any(effect in _TOLD for effect, _ in verdict.effects):
            return code, None
        closes = []
        for effect, text in verdict.effects:
            if effect is Effect.DISCARD_ALL or (effect is Effect.DEALLOCATE and not text):
                self.prepared.all_closes_sent()
            elif effect is Effect.DEALLOCATE:
                closes.append(text.encode(self.codec, "replace"))
                self.prepared.close_sent(closes[-1])

        resets = any(effect in RESETTING for effect, _ in verdict.effects)

        def dropped(name: bytes | None) -> None:
            if name is None:
                self.prepared.forget_all()
                self._own.clear()
                link.held.clear()
                self._discarded = resets
            else:
                self.prepared.forget(name)
                self._own.pop(name, None)

        return r.QUERY_RUN if code == r.QUERY else r.EXECUTE_RUN, Run(closes, dropped, resets=resets)

    def _set_again(self, verdict: Verdict, *, group: bool) -> bytes:
        """Set start-up settings again right behind a RESET, which knows the server's own values only."""
        if not self.ledger.lost or self.link is None or not any(effect in RESETTING for effect, _ in verdict.effects):
            return b""
        if group:
            return self._help(restore(self.ledger.lost), r.SKIP_SET)
        self.link.replies.owe(r.SKIP_TRY)  # in a failed transaction nothing was reset, and nothing can be set
        return p.query(restore(self.ledger.lost))

    def _no_statement(self, name: bytes) -> bytes:
        shown = name.decode(self.codec, "replace")
        text = f'prepared statement "{shown}" does not exist' if name else "unnamed prepared statement does not exist"
        error = p.error_response("ERROR", INVALID_SQL_STATEMENT_NAME, text, codec=self.codec)
        return self._answer_error(error, simple=False)

    # --- what handlers have in common -----------------------------------------------------------------------------

    def _ignored(self) -> bool:
        """Whether the server would ignore this message: an error came, and the Sync did not."""
        return self._swallowing or (self.link is not None and self.link.replies.skipping)

    def _forward(self, owed: int) -> bytes | None:
        """Forward an extended message as it is."""
        link = self.link or self._lease()
        if link is None:
            return self._waited(simple=False)
        link.replies.owe(owed)
        self._group_open = True
        return None

    def _too_long(self, *, simple: bool, unnamed: bool) -> bytes:
        self._passes = False
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
            if self._outside == p.IN_TRANSACTION:
                self._outside = p.FAILED
            self._swallowing = not simple
            self._wire.write(error + p.READY[self.status] if simple else error)
            if simple:
                self._seen = self.status
            return b""
        # The server has to know: it skips to Sync, rolls back, and turns `T` into `E` as it does for its own errors.
        if simple:
            # Like for like: behind an earlier error the server skips these as it would skip what was refused.
            self._group_open = False
            self.prepared.group += 1
            if unnamed:
                self.unnamed.end_sent()
                link.replies.owe_refusal(error, r.REFUSED_QUERY)
                return p.REFUSED_QUERY
            link.replies.owe_refusal(error, r.REFUSED_CALL)
            return p.REFUSED_CALL
        self._group_open = True
        if unnamed:
            self.unnamed.parse_sent(None)
            link.replies.owe_refusal(error, r.REFUSED_UNNAMED)
            return p.REFUSED_PARSE
        link.replies.owe_refusal(error)
        return p.REFUSED_EXECUTE

    def _let_through(self, link: Upstream, verdict: Verdict) -> bytes | None:
        """Account for what goes upstream; return the text to send instead, if any.

        What a refused text leaves behind is unknown, so nobody else gets the upstream of a client that sent one.
        """
        stats = self._house.stats
        if verdict.action is Action.ALLOW:
            stats.statements[verdict.label] += 1
        elif verdict.action is Action.REPLACE:
            stats.statements[verdict.label] += 1
            self._notify(p.notice_response("WARNING", "01000", verdict.warning, codec=self.codec))
            return verdict.text
        elif self._judging.is_missing(verdict):
            stats.statements[("allow", verdict.kind)] += 1
        else:
            stats.statements[("observe", verdict.kind)] += 1
            stats.observed[verdict.rule] += 1
            self._note("observed", verdict)
            self.ledger.scarred = True
            self._pin(OBSERVED, verdict.rule)
            link.replies.observed = True
        return None


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

"""What a client is told here, without the server or in its place: refusals, errors of ours, waits in vain."""

from __future__ import annotations

from typing import Final

from proxy import protocol as p
from proxy.errors import (
    FEATURE_NOT_SUPPORTED,
    IN_FAILED_SQL_TRANSACTION,
    INVALID_CURSOR_NAME,
    INVALID_SQL_STATEMENT_NAME,
    PROGRAM_LIMIT_EXCEEDED,
    PROTOCOL_VIOLATION,
)
from proxy.ours import NO_NAME
from proxy.pooling import owed as r
from proxy.pooling.owed import Shown, StandIn
from proxy.pooling.sent import UnsettledError
from proxy.pooling.statements import MAX_KEPT
from proxy.session.carrying import Carrying
from proxy.session.judging import MAX_INLINE
from proxy.session.ledger import PREPARED_STATEMENT
from proxy.session.ports import Upstream
from proxy.sql import text as texts
from proxy.sql.verdict import Action, Effect, Verdict

OBSERVED: Final = "observed"
"""The pin of a client that sent what filter.mode observe has let through."""
_WITH_ROWS: Final = frozenset(("select", "show", "explain", "fetch", "execute"))
"""Kinds of statements that may give rows (UtilityReturnsTuples(), tcop/utility.c)."""
ANALYSED: Final = frozenset(("select", "explain", "declare"))
"""Kinds of statements that are analysed at their Parse, under a snapshot (analyze_requires_snapshot() in analyze.c)."""
EXECUTE_OF_EXECUTE: Final = Verdict(
    Action.REFUSE,
    "execute",
    rule="execute-of-execute",
    sqlstate=FEATURE_NOT_SUPPORTED,
    message="cannot execute a prepared statement that is an EXECUTE or FETCH",
    detail="PostgreSQL reads its rows by the columns that it had when it was prepared, and can end with all its"
    " sessions where they are others by now (rule: execute-of-execute).",
    hint="Execute what that statement executes or fetches.",
)
FETCH_OF_FETCH: Final = Verdict(
    Action.REFUSE,
    "fetch",
    rule="fetch-of-fetch",
    sqlstate=FEATURE_NOT_SUPPORTED,
    message="cannot fetch from a portal that has its rows from an EXECUTE or another FETCH",
    detail="PostgreSQL can end with all its sessions when it looks for the columns of such rows"
    " (rule: fetch-of-fetch).",
    hint="Fetch from the cursor that the rows are of.",
)
LATE_PORTAL: Final = Verdict(
    Action.REFUSE,
    "execute",
    rule="late-portal",
    sqlstate=FEATURE_NOT_SUPPORTED,
    message="cannot run a portal of EXECUTE or FETCH behind something else",
    detail="PostgreSQL reads its rows by the columns that it had at its Bind, and can end with all its sessions where"
    " they are others by now (rule: late-portal).",
    hint="Send its Execute right behind its Bind.",
)
OTHER_LETTERS: Final = Verdict(
    Action.REFUSE,
    "name",
    rule="other-letters",
    sqlstate=FEATURE_NOT_SUPPORTED,
    message="cannot use such a name of a prepared statement or portal in another encoding than the server's",
    detail="In the server's letters it may be another's, or longer than it keeps (rule: other-letters).",
    hint="Name it in ASCII, or set client_encoding to the server's encoding.",
)
STOP: Final = b"stop"
"""A handler's answer that leaves its message for later. Told by identity."""


class Answering(Carrying):
    """A client's session, and what it says itself. Every answer is what a handler sends upstream for the message."""

    __slots__ = ("_passes",)

    _passes: bool
    """The message whose handler runs is forwarded, as far as it has come."""

    def _ignored(self) -> bool:
        """Whether the server would ignore this message: an error came, and the Sync did not."""
        return self._swallowing or (self.link is not None and self.link.replies.skipping)

    def _waited(self, *, simple: bool, unnamed: bool = False) -> bytes:
        """Answer a message that lacks an upstream or a verdict: stop here, or report that the wait was in vain."""
        error = self._wait_error
        if error is None or self._judging.awaited:
            return STOP
        self._wait_error = None
        response = p.error_response(
            "ERROR", error.sqlstate, str(error), detail=error.detail, hint=error.hint, codec=self.codec
        )
        return self._answer_error(response, simple=simple, unnamed=unnamed)

    def _limited(self, *, simple: bool, unnamed: bool = False) -> bytes | None:
        """Answer a statement that comes too early for its client's rate; None: it may go on, and has been counted."""
        if self._meter is None or not (excess := self._meter.charge()):
            return None
        self._wait_error = self._too_fast(excess)
        return self._waited(simple=simple, unnamed=unnamed)

    def _in_doubt(self, text: bytes) -> bytes | None:
        """Hold a text up whose letters depend on a client_encoding that was sent and not answered; None: it goes on.

        The server reads each message in the encoding that it has by then: judged in another one it means other names.
        """
        link = self.link
        if text.isascii() or self._recoded[0] == self.groups.sent:
            return None
        if link is None or not (link.replies.owed or self._group_open):
            return None
        if self.groups.unanswered:
            return self._stall()
        if self._obscured_in != self.groups.sent:
            return None  # what has changed it was in a group before this one, and is answered
        # The server tells a change in the middle of a group when that ends, before 14 at once: so it is asked.
        if not self._asking:
            self._ask_codec(link)
        return self._stall()

    def _misread(self, *names: bytes) -> bytes | None:
        """Refuse names of a message that the server has in other letters; None: they are the same there.

        Names are known by their bytes: in one encoding, that in which the server cuts off what is too long.
        """
        told = b"".join(names)
        if told.isascii():
            return None
        if self.ledger.recodes and (late := self._in_doubt(told)) is not None:
            return late
        return None if self._has_the_servers_letters else self._refuse(OTHER_LETTERS, simple=False)

    def _ask_codec(self, link: Upstream) -> None:
        """Ask which client_encoding there is now, in the middle of a group; behind an error nobody wants to know."""
        group = self.groups.sent

        def told(value: str) -> None:
            self._asking = False
            if value:
                self._recoded = (group, self._codec_of(value))

        self._asking = True
        self._suffix += self._help(b"SHOW client_encoding", Shown(told)) + p.message(p.FLUSH)

    def _ask_path(self, link: Upstream) -> None:
        """Ask which search_path there is now, for the message at the head of the inbox alone."""

        def told(value: str) -> None:
            self._asking = False
            self._told_path = value

        self._asking = True
        self._suffix += self._help(b"SHOW search_path", Shown(told))
        if self._group_open:
            self._suffix += p.message(p.FLUSH)
        else:
            link.replies.owe(r.SKIP_SYNC)
            self._suffix += p.SYNC_MESSAGE

    def _stall(self) -> bytes:
        """Leave a message until all that is owed has come: what it means depends on whether that succeeds."""
        self._stalled = True
        self._pace()
        return STOP

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
            self._ended_within()
            if unnamed:
                self._bound = self._bound_before = False
                self.unnamed.end_sent()
                link.replies.owe(StandIn(r.REFUSED_QUERY, error))
                return p.REFUSED_QUERY
            link.replies.owe(StandIn(r.REFUSED_CALL, error))
            return p.REFUSED_CALL
        self._group_open = True
        if unnamed:
            link.replies.owe(self.unnamed.refusal_sent(error))
            return p.REFUSED_PARSE
        link.replies.owe(StandIn(r.REFUSED, error))
        return p.REFUSED_EXECUTE

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

    def _too_long(self, *, simple: bool, unnamed: bool) -> bytes:
        verdict = Verdict(
            Action.REFUSE,
            "unparsable",
            rule="too-long",
            sqlstate=PROGRAM_LIMIT_EXCEEDED,
            message=f"the statement is longer than {self._house.max_query_length} bytes",
            hint="Send a shorter statement, or ask the operator to raise client.max_query_length.",
        )
        return self._refuse(verdict, simple=simple, unnamed=unnamed)

    def _no_statement(self, name: bytes, *, simple: bool = False, ahead: bytes = b"") -> bytes:
        shown = name.decode(self.codec, "replace")
        text = f'prepared statement "{shown}" does not exist' if name else "unnamed prepared statement does not exist"
        error = p.error_response("ERROR", INVALID_SQL_STATEMENT_NAME, text, codec=self.codec)
        return self._answer_error(ahead + error, simple=simple, unnamed=simple)

    def _too_many(self) -> bytes:
        """Answer a Parse of a client that keeps too many named statements."""
        error = p.error_response(
            "ERROR",
            PROGRAM_LIMIT_EXCEEDED,
            f"the named statements of one session take more than {MAX_KEPT >> 20} MB",
            hint="Close those that are not needed any more.",
            codec=self.codec,
        )
        return self._answer_error(error, simple=False)

    def _no_portal(self) -> bytes:
        """Answer for the unnamed portal where the client has none.

        The server may have one that a failed Query has left in an aborted transaction, and reads freed memory when it
        is executed: exec_execute_message(), tcop/postgres.c, ended with SIGSEGV in 15.18.
        """
        error = p.error_response("ERROR", INVALID_CURSOR_NAME, 'portal "" does not exist', codec=self.codec)
        return self._answer_error(error, simple=False)

    def _use_when_failed(self, name: bytes, body: bytes, verdict: Verdict, values: bytes | None) -> bytes | None:
        """Answer a Bind, or a Describe, where a failed transaction forbids to parse its statement; None: parse it.

        `body` is that of its Parse, behind the name; `values` are what a Bind has behind its names, None for a
        Describe. PostgreSQL looks at the transaction late: what gives no rows is described, and a Bind with too many
        values or too few is told so (exec_describe_statement_message() and exec_bind_message(), tcop/postgres.c).
        Raises UnsettledError where it is not known yet whether the transaction has failed.
        """
        if self._is_steered and not self.groups.unanswered:
            return None  # what stands before it in its own group may end it
        if self.status != p.FAILED and not self.groups.unanswered:
            return None
        wrong = "" if values is None else self._miscounted(name, body, verdict, values)
        if not wrong and (values is not None or verdict.kind in _WITH_ROWS):
            return None
        if self.groups.unanswered:
            raise UnsettledError
        if wrong:
            error = p.error_response("ERROR", PROTOCOL_VIOLATION, wrong, codec=self.codec)
            return self._answer_error(error, simple=False)
        return self._describe_here(body[body.index(0) + 1 :])

    def _miscounted(self, name: bytes, body: bytes, verdict: Verdict, values: bytes) -> str:
        """Say what is wrong with the count of values in a Bind; "" if nothing is, or nobody knows.

        What is not analysed at its Parse has the parameters alone that are typed there: the $1 of a PREPARE is not its.
        """
        end = body.index(0)
        formats = 2 + 2 * int.from_bytes(values[:2], "big")
        analysed = verdict.kind in ANALYSED
        if (analysed and end > MAX_INLINE) or len(values) < formats + 2:
            return ""
        given = int.from_bytes(values[formats : formats + 2], "big")
        typed = int.from_bytes(body[end + 1 : end + 3], "big")
        wanted = max(typed, texts.parameters(body[:end].decode(self.codec, "replace"))) if analysed else typed
        if given == wanted:
            return ""
        shown = name.decode(self.codec, "replace")
        return f'bind message supplies {given} parameters, but prepared statement "{shown}" requires {wanted}'

    def _describe_of_another(self, parsed_in: int, body: bytes, verdict: Verdict) -> bytes | None:
        """Answer a Describe of a statement that gives other rows than its own, if that leads nowhere any more.

        `parsed_in` is the group of its Parse, and `body` that of the Parse. None: it may go on, behind what
        `_look_first` returns; in the group of its Parse the server knows what it has noted there. Raises
        UnsettledError.
        """
        if self._fetches_on(verdict):
            return self._refuse(FETCH_OF_FETCH, simple=False)
        if self._executes_on(verdict):
            return self._refuse(EXECUTE_OF_EXECUTE, simple=False)
        if parsed_in == self.groups.sent:
            return None
        if self.groups.unanswered:
            raise UnsettledError  # it is not known yet what it has noted
        if self.status == p.FAILED or PREPARED_STATEMENT in self.ledger.pins:
            return None
        for effect, text in verdict.effects:
            name = text.encode(self.codec, "replace")
            if effect is Effect.EXECUTE and self.prepared.find(name) is None:
                parameters = p.message(p.PARAMETER_DESCRIPTION, body[body.index(0) + 1 :])
                return self._no_statement(name, ahead=parameters)
        return None

    def _look_first(self, link: Upstream, what: bytes, verdict: Verdict) -> bytes:
        """Return what goes ahead of a Describe of such a statement."""
        if verdict.kind == "fetch" and self._fresh == (what, self.groups.sent):
            return b""
        return self._look_for_cursors(link, verdict)

    def _describe_here(self, types: bytes, rows: bytes = b"") -> bytes:
        """Answer a Describe of a statement, not a query, that gives such rows. `types` are those of its Parse."""
        answer = p.message(p.PARAMETER_DESCRIPTION, types)
        answer += p.message(p.ROW_DESCRIPTION, rows) if rows else p.message(p.NO_DATA)
        if self.link is None:
            self._wire.write(answer)
            return b""
        self._group_open = True
        self.link.replies.owe(StandIn(r.CLOSE, answer))
        return p.target(p.CLOSE, b"S", NO_NAME)

    def _failed_already(self, *, simple: bool, unnamed: bool = True) -> bytes:
        """Answer in a failed transaction that no server knows of."""
        error = self._parting
        if error is not None:
            self._wait_error, self._parting = error, None
            return self._waited(simple=simple, unnamed=unnamed)
        text = "current transaction is aborted, commands ignored until end of transaction block"
        return self._answer_error(
            p.error_response("ERROR", IN_FAILED_SQL_TRANSACTION, text, codec=self.codec), simple=simple, unnamed=unnamed
        )

    def _let_through(self, link: Upstream, verdict: Verdict) -> bytes | None:
        """Account for what goes upstream; return the text to send instead, if any.

        What a refused text leaves behind is unknown, so nobody else gets the upstream of a client that sent one.
        """
        stats = self._house.stats
        self.doing = verdict
        if verdict.action is Action.ALLOW:
            stats.statements[verdict.label] += 1
        elif verdict.action is Action.REPLACE:
            stats.statements[verdict.label] += 1
            self._notify(p.notice_response("WARNING", "01000", verdict.warning, codec=self.codec))
            return verdict.text
        else:
            stats.statements[("observe", verdict.kind)] += 1
            stats.observed[verdict.rule] += 1
            self._note("observed", verdict)
            self.ledger.scarred = True
            self._pin(OBSERVED, verdict.rule)
            link.replies.observed = True
        return None

    def _note(self, event: str, verdict: Verdict) -> None:
        self._house.audit.event(
            event,
            session=self.who.ident,
            peer=self.who.peer,
            user=self.who.user,
            database=self.pool.database,
            application=self.who.application,
            kind=verdict.kind,
            rule=verdict.rule,
            sqlstate=verdict.sqlstate,
            **({"object": verdict.object} if verdict.object else {}),
        )

"""What goes along with a client's messages: statements that the link lacks, settings lost to a RESET, names for SQL.

Every method returns the bytes to send, and has registered the replies to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Final

from proxy import protocol as p
from proxy.pooling import owed as r
from proxy.pooling.guard import PUT_BACK, UNKNOWN
from proxy.pooling.owed import Described, Done, Dropped, Learned, NamedParse, Owed, Run
from proxy.pooling.sent import NEVER, UnsettledError
from proxy.pooling.snapshot import (
    ANY_SETTINGS,
    DISCARD_PLANS,
    LEARN,
    NEXT_SETTINGS,
    TAKE_OFF,
    Restore,
    literal,
    restore,
    set_again,
    wear,
)
from proxy.pooling.statements import OF_ANOTHER, Context, Statement
from proxy.session.judging import MAX_INLINE, Judging
from proxy.session.ledger import ENCODING, PREPARED_STATEMENT
from proxy.session.linked import Effects, Linked
from proxy.session.ports import Upstream
from proxy.sql import observe
from proxy.sql import text as texts
from proxy.sql.tables import Refused
from proxy.sql.verdict import Effect, Verdict

NAMEDATALEN: Final = 64
"""Of longer names of prepared statements and portals the server looks at the first 63 bytes only (commands/prepare.c,
utils/mmgr/portalmem.c)."""
NAMING: Final = frozenset({Effect.PREPARE, Effect.EXECUTE, Effect.DEALLOCATE})
RESETTING: Final = frozenset({Effect.RESET, Effect.RESET_LOCAL, Effect.DISCARD_ALL})
_PLANNED: Final = frozenset({"select", "explain", "execute", "copy", "declare", "fetch", "multi"})
"""Kinds of texts that can call a function."""
_LEAVING: Final = frozenset({"commit", "rollback", "rollback_to"})
_FIRST: Final = re.compile(rb'[\s;]*((?:\s|--[^\n]*\n|/\*[^*/]*\*/|[\w$\x80-\xff]|"[^"]*")*);')
"""The first statement of a text, if it has only words and names in it."""
_Missing = tuple[bytes, Statement, bool, bool | None]
"""A name that SQL uses, its statement, whether it needs all of that, and what of it is on the link: see `Own`."""
_EXPLAINED: Final = frozenset({"select", "declare", "execute"})
"""Kinds of prepared statements of which EXPLAIN EXECUTE does not say that they have no plan."""
_READS: Final = frozenset({"select", "set", "show", "empty"})
_VALUES: Final = frozenset({Effect.SETTING, Effect.SETTING_LOCAL})
_SETTING: Final = frozenset({"set", "reset"})
"""Kinds of statements that do to settings what they say, if they succeed, and take no snapshot."""
_TOLD: Final = frozenset({Effect.DEALLOCATE, Effect.DISCARD_ALL, Effect.DISCARD_PLANS}) | RESETTING


def _gives(rows: bytes, described: bytes) -> bool:
    """Return whether a statement that is described so gives these rows."""
    return described[2 + 4 * int.from_bytes(described[:2], "big") :] == rows


class Carrying(Linked):
    """A client's session, and what it takes along from upstream to upstream."""

    __slots__ = ("_judging", "_sql_effects")

    _judging: Judging
    _sql_effects: Effects
    """What statements do that were prepared by SQL."""

    # --- statements ---------------------------------------------------------------------------------------------------

    def _context(self, verdict: Verdict, text: bytes) -> Context:
        """Return the settings that shape a Parse which is sent now; None where the server has to be asked."""
        # Nothing but a query is analysed at Parse; whatever else it is, is read when it runs (analyze.c). But which
        # letters its bytes are is settled at once.
        return self.ledger.context if verdict.kind == "select" or not text.isascii() else ANY_SETTINGS

    def _in_context(
        self, link: Upstream, context: Context, parse: Callable[[], bytes], *, ended: bool = False
    ) -> bytes:
        """Send a Parse again under the settings that shaped it, whatever they are now. `ended`: no matter how it is
        known to stand with the transaction."""
        failed = self._status_behind(link) == p.FAILED and not ended
        if failed or context in (None, ANY_SETTINGS, NEXT_SETTINGS, self.ledger.context):
            return parse()
        return self._help(wear(context)) + parse() + self._help(TAKE_OFF)

    def _settle_context(self, statement: Statement) -> None:
        """Note under which settings a statement is analysed by the use that comes now, if it is that."""
        if statement.context is not NEXT_SETTINGS:
            return
        if self.link is None or self._status_behind(self.link) != p.FAILED:  # nothing is analysed there
            statement.context = self.ledger.context

    def _unreadable_named(self, statement: Statement) -> bool:
        return self._unreadable(statement.context, statement.body, statement.codec)

    def _unreadable(self, context: Context | Learned, body: bytes, codec: str) -> bool:
        """Whether the server could read other letters in a statement, were it parsed again, than it was judged by.

        Nobody knows which settings shaped it: what asked for them has failed, or is not answered.
        """
        if isinstance(context, Learned):
            context = context.context
        return context is None and not body.isascii() and (codec != self.codec or self.ledger.recodes)

    def _help(self, sql: bytes, reply: Owed = r.SKIP) -> bytes:
        """Run a statement of ours inside a group of the client's."""
        link = self.link
        if link is None:
            return b""
        self._asked_in = self.groups.sent
        # Each has a name of its own: where an error or a cancel leaves one behind, it is in nobody's way.
        name = link.held.new_name()
        owe = link.replies.owe
        begin, execute, end = p.run(name, sql)
        owe(r.SKIP)
        owe(r.SKIP)
        owe(reply)
        owe(r.SKIP)
        owe(Dropped(link.held, name))
        return begin + execute + end

    def _drop(self, link: Upstream, names: list[bytes]) -> bytes:
        """Close statements of ours."""
        self.prepared.closes_sent(names)
        for name in names:
            link.replies.owe(Dropped(link.held, name))
        return b"".join(p.target(p.CLOSE, b"S", name) for name in names)

    def _parse_named(self, link: Upstream, name: bytes, statement: Statement, *, told: bool) -> bytes:
        """Send a client's Parse under a name of ours, and ask what it describes: that decides who shares it."""
        out = self._drop(link, link.held.surplus(1))
        parsed = self._parsed(link, statement, name[: NAMEDATALEN - 1], new=True)
        link.replies.owe(parsed)
        out += self._parse_and_describe(link, parsed, told=told)
        statement.noted_as = parsed.server_name
        # Those who have its twin get the new one, unless Describe says that it is none of theirs any more.
        out += self._drop(link, link.held.twins(statement))
        return out + self._learn(statement)

    def _parse_own(self, link: Upstream, name: bytes, statement: Statement, *, told: bool) -> bytes:
        """Send a client's Parse as it is: the server has statements of the client's, and knows which names are free."""
        key = name[: NAMEDATALEN - 1]

        def kept(parsed: Statement) -> None:
            self.prepared.keep(key, parsed)
            self._own.keep(key, True)

        parsed = NamedParse(r.PARSE, statement, name, kept, partial(self.prepared.replace, key))
        statement.noted_as = key
        self.prepared.parse_sent(key, statement)
        self._own.parse_sent(key, True)
        link.replies.owe(parsed)
        return self._parse_and_describe(link, parsed, told=told) + self._learn(statement)

    def _learn(self, statement: Statement) -> bytes:
        """Ask for the settings that shaped a Parse, where only the server knows them."""
        if statement.context is not None:
            return b""
        return self._help(LEARN, Learned(self.codec, statement))

    def _parsed(self, link: Upstream, statement: Statement, client: bytes, *, new: bool) -> NamedParse:
        """Follow a Parse under a name of ours of the client's statement of that name: a `new` one, or parsed before."""
        held = link.held
        name = held.new_name()

        def kept(parsed: Statement) -> None:
            if new:
                self.prepared.keep(client, parsed)
            held.keep(parsed, name)

        def replaced(mine: Statement, shared: Statement) -> None:
            held.replace(mine, shared)
            self.prepared.replace(client, mine, shared)

        self.prepared.repeat_sent(statement, name)
        if new:
            self.prepared.parse_sent(client, statement)
        return NamedParse(r.PARSE if new else r.REPEAT, statement, name, kept, replaced)

    def _parse_again(self, link: Upstream, statement: Statement, name: bytes) -> tuple[bytes, bytes]:
        """Put the client's statement of this name on a link that lacks it; return its name there, and what to send."""
        self._asked_in = self.groups.sent
        out = self._drop(link, link.held.surplus(1))
        parsed = self._parsed(link, statement, name[: NAMEDATALEN - 1], new=False)
        self._count_replay()

        def parse() -> bytes:
            link.replies.owe(parsed)
            return self._parse_and_describe(link, parsed, told=False)

        out += self._in_context(link, statement.context, parse)
        return parsed.server_name, out + self._learn(statement) if statement.apart else out

    def _parse_and_describe(self, link: Upstream, parsed: NamedParse, *, told: bool) -> bytes:
        """Send a Parse, and ask what belongs to its statement's identity; `told`: what it has noted of another one."""
        parse = p.message(p.PARSE, parsed.server_name + b"\0" + parsed.statement.body)
        return parse + self._describe_ours(link, parsed, told)

    def _describe_ours(self, link: Upstream, parsed: NamedParse, told: bool) -> bytes:
        statement = parsed.statement
        if told:
            link.replies.owe(Described(r.SKIP_DESCRIBE, statement.note_rows, exact=True))
            return p.target(p.DESCRIBE, b"S", parsed.server_name)
        if statement.verdict.kind != "select":
            return b""  # the server notes once what it gives, and never looks again (plancache.c)
        link.replies.owe(Described(r.SKIP_DESCRIBE, parsed.described))
        return p.target(p.DESCRIBE, b"S", parsed.server_name)

    def _describe_unnamed(self, link: Upstream, message: bytes) -> bytes:
        """Ask what the server has noted of a Parse that gives the rows of another statement, or of a cursor."""
        link.replies.owe(Described(r.SKIP_DESCRIBE, partial(self._tell_unnamed, message)))
        return p.target(p.DESCRIBE, b"S", b"")

    def _silent_unnamed(self, message: bytes, verdict: Verdict) -> bytes | None:
        """Return the parameter types of such a statement if it was noted that it gives no rows: see `Statement`."""
        told = self._unnamed_told
        if verdict.kind not in OF_ANOTHER or told is None or told[0] is not message:
            return None
        types = message[message.index(0, 6) + 1 :]
        return types if told[1] == types else None

    def _repeat_unnamed(self, link: Upstream, message: bytes, verdict: Verdict) -> bytes:
        self._asked_in = self.groups.sent
        link.replies.owe(r.REPEAT_UNNAMED)
        self.unnamed.repeat_sent()
        told = self._unnamed_told
        if told is None or told[0] is not message or verdict.kind in OF_ANOTHER:
            return message  # the client has to ask what it gives, in a group that it does not know yet
        _, before, whole = told
        same = before.__eq__ if whole else partial(_gives, before)
        link.replies.owe(Described(r.SKIP_DESCRIBE, same))
        return message + p.target(p.DESCRIBE, b"S", b"")

    def _tell_unnamed(self, message: bytes, described: bytes) -> bool:
        self._unnamed_told = (message, described, True)
        return True

    def _tell_rows(self, message: bytes, rows: bytes) -> bool:
        """The same of what a Describe of its portal has said, which tells no parameters."""
        if self._unnamed_told is None or self._unnamed_told[0] is not message:
            self._unnamed_told = (message, rows, False)
        return True

    def _opens(self, link: Upstream) -> bool:
        """Whether what filter.mode observe lets through needs a transaction of ours, for it is in none.

        It runs alone. Raises UnsettledError while anything that was sent before is unanswered.
        """
        if self._block:
            return False
        if self.groups.unanswered:
            raise UnsettledError
        return self._status_behind(link) == p.IDLE

    def _end_ours(self, link: Upstream) -> bytes:
        """End a transaction of ours behind the group that it was begun in: the client learns how that has ended."""
        self._block = 0
        self._steer(UNKNOWN)
        link.replies.owe(r.SKIP_TRY)
        return p.query(observe.END)

    def _before_end(self, link: Upstream) -> bytes:
        """Put the setting of layer 2 back before a COMMIT that has something behind it in its own group.

        That is another transaction, and nothing can go ahead of it but what is part of this one: it holds if this one
        does. A ROLLBACK undoes what was set. Raises UnsettledError while earlier groups are unanswered.
        """
        if self.groups.unanswered:
            raise UnsettledError
        if self._status_behind(link) == p.FAILED:
            return b""  # this COMMIT is a ROLLBACK
        return self._help(PUT_BACK)

    def _note_inside(self, verdict: Verdict) -> None:
        """Note what the functions set that a statement uses: a Parse can run a CHECK, and a Bind what is IMMUTABLE."""
        inside = tuple(each for each in verdict.effects if each[0] is Effect.SETTING_INSIDE)
        if inside:
            self._pin_for(inside)
            self._obscured_in = self.groups.sent
            self._recoded = (NEVER, "")

    def _bound_to(self, link: Upstream, portal: bytes, verdict: Verdict) -> None:
        """Owe the reply to a Bind, and keep in mind what an Execute of this portal leaves behind."""
        self._path_in_use |= verdict.under_path
        if not portal:
            self._portal_of = None
            self._bound = True
            self._bound_in = self.groups.sent
        key = portal[: NAMEDATALEN - 1]
        noted = verdict if verdict.effects or verdict.steers or self.ledger.recodes else None
        if verdict.kind in OF_ANOTHER:
            noted = copy(verdict)  # no other Bind's: where this one fails, the portal is still that of the one before
            self._fresh = (b"P" + portal, self.groups.sent)
            self._unrun[key] = noted
        elif verdict.kind == "select":
            self._names_may_change()  # it is planned here: a function that is labelled IMMUTABLE runs then
        if noted is not None or self._portals or not self._portals_sent.settled:
            self._portals_sent.put(key, noted)
            self._note_inside(verdict)
            link.replies.owe(Done(r.BIND_NAMED if portal else r.BIND, partial(self._note_portal, key, noted)))
            if portal:
                # SQL can FETCH from it, and that leaves the same behind.
                self._pin_for(self._effects(verdict))
        else:
            link.replies.owe(r.BIND_NAMED if portal else r.BIND)

    def _executed(self, verdict: Verdict | None) -> None:
        """Keep in mind in which encoding the server reads the rest of the group, behind an Execute of this verdict.

        It gets there only if the Execute has succeeded. None, or what may change the encoding in a way that the text
        does not tell, or that may end the transaction for which it was set: it is not known any more.
        """
        group = self.groups.sent
        if (
            verdict is not None
            and verdict.kind in _READS
            and not verdict.steers
            and all(effect in _VALUES and name != ENCODING for effect, name in verdict.effects)
        ):
            return
        self._obscured_in = group
        if verdict is not None and verdict.codec:
            self._recoded = (group, verdict.codec)
        elif self._recoded[0] == group:
            self._recoded = (NEVER, "")

    def _note_portal(self, portal: bytes, verdict: Verdict | None) -> None:
        if verdict is None:
            self._portals.pop(portal, None)
        else:
            self._portals[portal] = verdict

    # --- rows of another statement, or of a cursor --------------------------------------------------------------------
    #
    # To name the columns of an EXECUTE or FETCH the server goes on to what gives the rows, and from there on and on. It
    # does not look whether a cursor is there (FetchStatementTargetList(), tcop/pquery.c), nor how deep it is by then:
    # a Describe ended PostgreSQL 18 with SIGSEGV, and so all its sessions. Nor does it ask again which columns these
    # rows have: those noted at Bind, or by the Parse of what EXECUTE runs, are taken for theirs (PortalStart() there,
    # UtilityTupleDescriptor() in tcop/utility.c), and a number where there was a text is the length of a text.

    @property
    def _has_the_servers_letters(self) -> bool:
        return self.codec == self.filter.python_codec(self.reported.get("server_encoding", ""))

    def _misnames(self, verdict: Verdict) -> bool:
        """Whether SQL may mean one of the client's statements that is known by other letters. Raises UnsettledError."""
        return (
            any(effect in NAMING and not name.isascii() for effect, name in verdict.effects)
            and not self._has_the_servers_letters
            and not all(map(bytes.isascii, self.prepared.all()))
        )

    def _cursors(self, verdict: Verdict) -> list[bytes]:
        """Return the cursors whose rows a statement gives. Raises UnsettledError."""
        return [
            name.encode(self.codec, "replace")[: NAMEDATALEN - 1]
            for effect, name in self._effects(verdict)
            if effect is Effect.FETCH
        ]

    def _fetches_on(self, verdict: Verdict) -> bool:
        """Whether one of these cursors may have its rows from another one. Raises UnsettledError."""
        if not self._portals and self._portals_sent.settled:
            return False
        for cursor in self._cursors(verdict):
            if not (cursor.isascii() or self._has_the_servers_letters) and (
                not self._portals_sent.settled or any(each.kind in OF_ANOTHER for each in self._portals.values())
            ):
                return True  # it is not known which of them it is
            behind = self._portals_sent.find(cursor, self._portals.get(cursor))
            if behind is None or behind.kind not in OF_ANOTHER:
                continue
            # A FETCH from the portal that it was bound to gives nothing: that was not there yet.
            if behind.kind != "fetch" or any(each != cursor for each in self._cursors(behind)):
                return True
        return False

    def _executes_on(self, verdict: Verdict) -> bool:
        """Whether a statement executes one that has its rows from another one, in its turn. Raises UnsettledError."""
        for effect, text in verdict.effects:
            if effect is Effect.EXECUTE:
                statement = self.prepared.find(text.encode(self.codec, "replace"))
                if statement is not None and statement.verdict.kind in OF_ANOTHER:
                    return True
        return False

    def _can_be_told(self, verdict: Verdict) -> bool:
        """Whether to ask what a statement has noted of another one, right behind its Parse. Raises UnsettledError."""
        if verdict.kind not in OF_ANOTHER or self._fetches_on(verdict) or self._executes_on(verdict):
            return False
        return verdict.kind == "fetch" or not self._cursors(verdict)

    def _look_for_cursors(self, link: Upstream, verdict: Verdict) -> bytes:
        """Ask first for the cursors of what is described behind this: where one is gone, that is the error."""
        out = b""
        for cursor in self._cursors(verdict):
            link.replies.owe(Described(r.SKIP_DESCRIBE, lambda described: True))
            out += p.target(p.DESCRIBE, b"P", cursor)
        return out

    # --- names that SQL uses ------------------------------------------------------------------------------------------

    def _provide_own(
        self, link: Upstream, verdict: Verdict, *, query: bool = False, ended: bool = False, parse: bool = False
    ) -> bytes:
        """Put statements that SQL names on the link under their own names: PREPARE, EXECUTE and DEALLOCATE see them.

        Only EXECUTE needs more than the name, and needs it at its `parse` already. Whoever lists statements is to see
        this client's alone. `query`: in front of a Query; `ended`: behind a Query of ours alone. Raises UnsettledError.
        """
        if self._status_behind(link) == p.FAILED and not (ended or self.groups.unanswered):
            return b""  # whatever it is, the server says no more than that the transaction has failed
        missing, lists = self._missing_own(verdict, parse=parse)
        if (parse or query) and (missing or lists) and self.groups.unanswered and not ended:
            raise UnsettledError  # in a transaction that fails only now, ours would fail in the place of the client's
        alone = query and (ended or not self._group_open)
        out = self._drop(link, self.prepared.drop_sent(link.held) if lists else [])
        like = r.SKIP_ANYHOW if alone else r.SKIP_FIRM if query else r.SKIP_PARSE
        for name, statement, whole, there in missing:
            if there is not None:
                self._own.close_sent(name)
                link.replies.owe(Done(r.SKIP_CLOSE, partial(self._own.forget, name)))
                out += p.target(p.CLOSE, b"S", name)
            if whole:
                self._settle_context(statement)
                parse_it = partial(self._parse_as_it_is, link, statement, name, like)
                out += self._in_context(link, statement.context, parse_it, ended=ended)
            else:
                self._owe_own(link, name, whole, like)
                shown = statement.original if lists else None
                out += p.parse(name, b"") if shown is None else p.message(p.PARSE, name + b"\0" + shown)
        if out and alone:
            # A Query behind a failed message would be ignored; on its own it gets the server's answer. Inside a group
            # that is the client's to end it has to be ignored where what stands before it has failed.
            link.replies.owe(r.SKIP_SYNC)
            out += p.SYNC_MESSAGE
        return out

    def _missing_own(self, verdict: Verdict, *, parse: bool = False) -> tuple[list[_Missing], bool]:
        """Return the statements that SQL names and the link lacks, and whether it lists all. Raises UnsettledError."""
        wanted: dict[bytes, tuple[Statement, bool]] = {}
        lists = False
        for effect, text in self._effects(verdict):
            if effect is Effect.EXECUTE or (effect in NAMING and text and not parse):
                name = text.encode(self.codec, "replace")
                statement = self.prepared.find(name)
                if statement is not None and not (effect is Effect.EXECUTE and self._unreadable_named(statement)):
                    _, whole = wanted.get(name, (statement, False))
                    wanted[name] = (statement, whole or effect is Effect.EXECUTE)
            elif effect is Effect.LIST_STATEMENTS:
                for name, statement in reversed(self.prepared.all().items()):
                    _, whole = wanted.get(name, (statement, False))
                    readable = statement.original is None and not self._unreadable_named(statement)
                    wanted[name] = (statement, whole or readable)
                lists = True
        # The oldest comes first: prepare_time shows it. But what executes another one is noted by the server as what
        # that is: the other one comes before it, or it does not.
        ordered = list(wanted.items())[::-1]
        ordered.sort(key=lambda item: item[1][0].verdict.kind == "execute")
        ordered.sort(key=lambda item: not item[1][0].silent)
        return [
            (name, statement, whole, there)
            for name, (statement, whole) in ordered
            if (there := self._own.find(name)) is None
            or there < whole
            or (lists and not whole)  # under its original text, which is never run
        ], lists

    def _parse_as_it_is(self, link: Upstream, statement: Statement, name: bytes, like: Owed) -> bytes:
        """Parse a statement under the client's own name."""
        self._asked_in = self.groups.sent
        self._owe_own(link, name, True, like)
        parse = p.message(p.PARSE, name + b"\0" + statement.body)
        if statement.verdict.kind != "select":
            return parse
        link.replies.owe(Described(r.SKIP_DESCRIBE, statement.gives))
        return parse + p.target(p.DESCRIBE, b"S", name)

    def _owe_own(self, link: Upstream, name: bytes, whole: bool, like: Owed) -> None:
        self._own.parse_sent(name, whole)
        link.replies.owe(Done(like, partial(self._own.keep, name, whole)))

    # --- what a statement does ----------------------------------------------------------------------------------------

    def _comes_too_late(self, verdict: Verdict) -> bool:
        """Whether a statement fails behind what is ours in the open group, and does not behind what is the client's.

        Nothing may have run ahead of DISCARD ALL in its group (PreventInTransactionBlock(), xact.c), and nothing may
        have read ahead of an isolation level in its transaction (check_transaction_isolation(), variable.c). Only the
        former ends the portals that were bound there.
        """
        group = self.groups.sent
        if verdict.kind in ("rollback", "multi") and self._discards == group:
            return True  # it would undo what is set again behind the DISCARD ALL of its group
        if self._asked_in != group or self._ran_in == group or self._block or self._blind:
            return False
        if self.link is not None and self._status_behind(self.link) == p.FAILED:
            return False  # it fails in any case
        if any(effect is Effect.DISCARD_ALL for effect, _ in verdict.effects):
            return True
        return verdict.kind in ("begin", "multi") and self._read_in != group

    def _effects(self, verdict: Verdict) -> Effects:
        """Return what a text leaves behind, and what the statements do that it executes by name."""
        if not any(effect in NAMING for effect, _ in verdict.effects):
            return verdict.effects
        effects: list[tuple[Effect, str]] = []
        self._expand(verdict.effects, effects, {})
        return tuple(effects)

    def _keep_prepared(self, verdict: Verdict) -> None:
        """Note what the server is about to prepare by SQL."""
        first = PREPARED_STATEMENT not in self.ledger.pins
        for name, text in verdict.prepares:
            self._judging.keep(name.encode(self.codec, "replace"), text, self.codec, first=first)
            first = False

    def _expand(
        self,
        effects: Effects,
        into: list[tuple[Effect, str]],
        drops: dict[tuple[bytes, bool], Effects],
        *,
        runs: bool = True,
    ) -> None:
        """Add these effects, and those of what they execute, which may be an EXECUTE again, each where it comes.

        `drops` holds the names that have been looked at, and what each of them drops. Of what is explained (not `runs`)
        only a query counts (ExplainOneUtility(), commands/explain.c).
        """
        if any(effect is Effect.PREPARE for effect, _ in effects):
            what = {each for each in effects if each[0] not in NAMING}
            self._sql_effects = tuple(what.union(self._sql_effects))
        explained = False
        for effect, text in effects:
            into.append((effect, text))
            explained, now = effect is Effect.EXPLAIN, runs and not explained
            if effect is not Effect.EXECUTE:
                continue
            name = text.encode(self.codec, "replace")
            if (name, now) in drops:
                into += drops[name, now]
                continue
            drops[name, now] = ()
            start = len(into)
            statement = self.prepared.find(name)
            if statement is None:
                into += self._sql_effects
            elif now or statement.verdict.kind in _EXPLAINED:
                self._keep_prepared(statement.verdict)
                self._expand(statement.verdict.effects, into, drops, runs=now)
            drops[name, now] = tuple(each for each in into[start:] if each[0] is Effect.DEALLOCATE)

    def _followed(self, link: Upstream, effects: Effects, owed: Owed) -> Owed:
        """Follow what a statement does to names and settings, where that matters: return the reply that is owed."""
        if not any(effect in _TOLD for effect, _ in effects):
            return owed
        closes = []
        for effect, text in effects:
            if effect is Effect.DISCARD_ALL or (effect is Effect.DEALLOCATE and not text):
                self.prepared.all_closes_sent()
                self._own.all_closes_sent()
            elif effect is Effect.DEALLOCATE:
                name = text.encode(self.codec, "replace")
                closes.append(name)
                self.prepared.close_sent(name)
                self._own.close_sent(name)

        resets = any(effect in RESETTING for effect, _ in effects)

        def dropped(name: bytes | None) -> None:
            if name is None:
                self.prepared.forget_all()
                self._own.all()
                link.held.clear()
            else:
                self.prepared.forget(name)
                self._own.forget(name)

        return Run(owed, closes, dropped, self.prepared.discard_plans, resets=resets)

    def _set_after_discard(self, verdict: Verdict) -> bytes:
        """Set start-up settings again for what is parsed or bound behind a DISCARD ALL of the same group.

        Not in front of another one: what runs ahead of it in a group forbids it (PreventInTransactionBlock(), xact.c).
        All names are gone in this group. Where nothing else is unanswered nothing behind this raises UnsettledError;
        until then this does: what it registers would be owed, and never sent.
        """
        if not self._put_off or any(effect is Effect.DISCARD_ALL for effect, _ in verdict.effects):
            return b""
        if self.groups.unanswered:
            raise UnsettledError
        self._put_off = False
        if self._discards != self.groups.sent or not self.ledger.lost:
            return b""
        return self._help(restore(self.ledger.lost), r.SKIP_SET)

    def _has_to_replan(self, link: Upstream, verdict: Verdict) -> bool:
        """Whether functions plan anew first: a setting was changed in this lease, and their plans are of other clients.

        All statements are analysed anew then, under the settings of the moment: not as long as SQL has any, which
        keep what their literals meant before.
        """
        if not (self._replans and self.filter.caches) or verdict.kind not in _PLANNED:
            return False
        if self.groups.unanswered or self._group_open or self.ledger.pins or self._own:
            return False
        if link.replies.status == p.FAILED:
            return False
        discards = verdict.kind == "execute" and any(each is Effect.DISCARD_ALL for each, _ in self._effects(verdict))
        return not discards  # that fails, and behind an Execute of ours in other words

    def _replan(self, link: Upstream, *, query: bool = False) -> bytes:
        """Have functions plan anew. Ahead of a Query it is one, too, which is unanswered then."""
        self._replans = False
        link.held.drop_apart()
        if not query:
            return self._help(DISCARD_PLANS)
        link.replies.owe(r.SKIP_QUERY)
        return p.query(DISCARD_PLANS)

    def _check_discarded(self) -> None:
        """Have start-up settings there for a group behind one with a DISCARD ALL. Raises UnsettledError.

        DISCARD ALL commits at once; what sets them again behind it is undone by a later error of its group.
        """
        if self._discards in (None, self.groups.sent):
            return
        self._put_off = False
        if self.groups.unanswered:
            raise UnsettledError
        self._discards = None
        if self.link is not None and self.ledger.lost and self.link.replies.status == p.IDLE:
            self._ask_first(restore(self.ledger.lost))

    def _with_startup(self, verdict: Verdict, text: bytes) -> bytes | None:
        """Put what the client connected with in the place of a NULL for set_config, which the server would answer with
        its own value; return the text to send, if it is another."""
        built = text
        for at, name in reversed(verdict.nulls):
            value = self.ledger.startup.get(name)
            if value is not None and text[at : at + 4].lower() == b"null" and text.isascii():
                built = built[:at] + literal(value) + built[at + 4 :]
        return None if built is text else built

    def _leaves_failed(self, link: Upstream, verdict: Verdict, text: bytes) -> tuple[str, bytes] | None:
        """Return the kind and the text of the first statement of a Query, if names that it uses need that to run first.

        In a failed transaction nothing can be parsed until it is left. Raises UnsettledError.
        """
        if verdict.kind != "multi" or self._status_behind(link) != p.FAILED or self.groups.unanswered:
            return None
        if not any(effect in NAMING or effect is Effect.LIST_STATEMENTS for effect, _ in verdict.effects):
            return None
        found = _FIRST.match(text)
        if found is None:
            return None
        kind = self.filter.judge(found[1], self.codec).kind
        return (kind, found[1]) if kind in _LEAVING and any(self._missing_own(verdict)) else None

    def _provide_in_failed(self, link: Upstream, verdict: Verdict, kind: str, first: bytes) -> bytes:
        """Put names on the link in front of a Query that leaves a failed transaction by its first statement.

        That runs ahead of them already. ROLLBACK TO can be said twice; behind another one a transaction fails in the
        place of the one that has ended.
        """
        owe = link.replies.owe
        if kind == "rollback_to":
            name = link.held.new_name()
            begin, execute, end = p.run(name, first)
            owe(r.SKIP)
            owe(r.SKIP)
            owe(r.SKIP_ANYHOW)  # there may be no such savepoint
            owe(r.SKIP)
            owe(Dropped(link.held, name))
            provided = self._provide_own(link, verdict, query=True, ended=True)
            if not provided:
                owe(r.SKIP_SYNC)
            return begin + execute + end + (provided or p.SYNC_MESSAGE)
        chains = not self.filter.judge(first, self.codec).boundary
        owe(r.SKIP_QUERY)
        provided = self._provide_own(link, verdict, query=True, ended=True)
        if not chains:
            owe(r.SKIP_QUERY)
        owe(r.SKIP_ANYHOW)
        owe(r.SKIP_SYNC)
        again = b"" if chains else p.query(b"BEGIN")
        return p.query(first) + provided + again + p.REFUSED_EXECUTE + p.SYNC_MESSAGE

    def _replans_between(self, link: Upstream, verdict: Verdict, text: bytes) -> bool:
        """Whether functions plan anew inside a Query, behind its first statement: that may set an isolation level.

        Nothing may have read in its transaction then, and DISCARD PLANS takes a snapshot.
        """
        if verdict.kind != "multi" or self._status_behind(link) != p.IN_TRANSACTION:
            return False
        if any(effect in NAMING or effect is Effect.LIST_STATEMENTS for effect, _ in verdict.effects):
            return False  # what they are parsed for comes first, and reads
        pieces = self._cut(text)
        return bool(pieces) and self._judged(pieces[0]).kind not in _PLANNED

    def _cut(self, text: bytes) -> list[str]:
        """Cut a text apart at the ends of its statements; what is behind the last is one more. Empty: it cannot be."""
        if len(text) > MAX_INLINE:
            return []
        try:
            decoded = texts.decode(text, self.codec)
            ends = texts.ends(decoded)
        except Refused:
            return []
        if decoded.encode(self.codec) != text:
            return []  # its bytes are not those of the statements
        utf8 = decoded.encode()
        return [utf8[start:end].decode() for start, end in zip([0, *ends], [*ends, len(utf8)], strict=True)]

    def _judged(self, piece: str) -> Verdict:
        return self.filter.judge(piece.lstrip(";").encode(self.codec), self.codec)

    def _put_between(self, run: Run, text: bytes, *, replans: bool) -> bytes | None:
        """Put statements of ours between those of a Query; return the text to send, None where it cannot be cut.

        Start-up settings are set again behind a RESET, and functions plan anew ahead of the first statement that can
        call one, if it `replans`. The `run` then knows which statements are ours.
        """
        pieces = self._cut(text)
        if not pieces:
            return None
        built = ""
        hidden: list[int] = []
        inserts: list[tuple[int, int]] = []

        def put(sql: bytes, behind: int) -> None:
            nonlocal built
            ours = "\n;" + sql.decode("ascii")  # what stands before may end with a comment
            hidden.append(behind + len(inserts))
            inserts.append((len(built), len(ours)))
            built += ours

        for number, piece in enumerate(pieces[:-1]):
            verdict = self._judged(piece)
            if replans and verdict.kind in _PLANNED:
                put(DISCARD_PLANS, number)
                replans = False
            built += piece
            lost: dict[str, Restore] = {}
            for effect, name in self._effects(verdict):
                lost |= self.ledger.lost_by(effect, name)
            if verdict.kind in _SETTING:
                for each in lost.items():
                    put(set_again(*each), number + 1)
            elif lost:
                put(restore(lost), number + 1)
        run.hide(hidden, inserts)
        return (built + pieces[-1]).encode(self.codec)

    def _set_again(self, verdict: Verdict, effects: Effects, *, group: bool) -> bytes:
        """Set start-up settings again right behind a RESET, which knows the server's own values only."""
        link, lost = self.link, self.ledger.lost
        if not lost or link is None or not any(effect in RESETTING for effect, _ in effects):
            return b""
        if group and any(effect is Effect.DISCARD_ALL for effect, _ in effects):
            self._discards = self.groups.sent
            self._put_off = True
            return b""
        again: list[bytes] = []
        # In a group, and in a transaction block, this runs if the RESET has. Others are there again.
        if verdict.kind in _SETTING and (group or self._status_behind(link) == p.IN_TRANSACTION):
            just = {name for effect, of in effects for name in self.ledger.lost_by(effect, of)}
            again = [set_again(name, restored) for name, restored in lost.items() if name in just]
        again = again or [restore(lost)]
        if group:
            return b"".join(self._help(sql, r.SKIP_SET) for sql in again)
        link.replies.owe(r.SKIP_TRY)  # in a failed transaction nothing was reset, and nothing can be set
        return p.query(b";".join(again))

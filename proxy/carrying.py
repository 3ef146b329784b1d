"""What goes along with a client's messages: statements that the link lacks, settings lost to a RESET, names for SQL.

Every method returns the bytes to send, and has registered the replies to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from proxy import observe
from proxy import protocol as p
from proxy import replies as r
from proxy import text as texts
from proxy.guard import PUT_BACK, UNKNOWN
from proxy.house import Upstream
from proxy.judging import MAX_INLINE, Judging
from proxy.ledger import PREPARED_STATEMENT
from proxy.linked import Effects, Linked
from proxy.rules import Refused
from proxy.snapshot import ANY_SETTINGS, LEARN, TAKE_OFF, Restore, restore, wear
from proxy.statements import (
    PREFIX,
    Context,
    Described,
    Dropped,
    Learned,
    Owned,
    Parsed,
    Run,
    Statement,
    Ticket,
    UnsettledError,
)
from proxy.verdict import Effect, Verdict

NAMEDATALEN: Final = 64
"""Of longer names of prepared statements the server looks at the first 63 bytes only (commands/prepare.c)."""
HELPER: Final = PREFIX + b"helper"
"""The statement and portal that run what has to be asked inside a group of the client's."""
NAMING: Final = frozenset({Effect.PREPARE, Effect.EXECUTE, Effect.DEALLOCATE})
RESETTING: Final = frozenset({Effect.RESET, Effect.RESET_LOCAL, Effect.DISCARD_ALL})
_NEVER: Final = (-1, 0)
"""The note of a name that was not put on the link."""
_TOLD: Final = frozenset({Effect.DEALLOCATE, Effect.DISCARD_ALL}) | RESETTING


class Carrying(Linked):
    """A client's session, and what it takes along from upstream to upstream."""

    __slots__ = ("_judging", "_sql_effects")

    _judging: Judging
    _sql_effects: Effects
    """What statements do that were prepared by SQL."""

    # --- statements ---------------------------------------------------------------------------------------------------

    def _context(self, verdict: Verdict) -> Context:
        """Return the settings that shape a Parse which is sent now; None where the server has to be asked."""
        # Nothing but a query is analysed at Parse; whatever else it is, is read when it runs (analyze.c).
        return self.ledger.context if verdict.kind == "select" else ANY_SETTINGS

    def _in_context(self, link: Upstream, context: Context, parse: Callable[[], bytes]) -> bytes:
        """Send a Parse again under the settings that shaped it, whatever they are now."""
        if context in (None, ANY_SETTINGS, self.ledger.context) or link.replies.status == p.FAILED:
            return parse()
        return self._help(wear(context)) + parse() + self._help(TAKE_OFF)

    def _help(self, sql: bytes, code: int = r.SKIP, ticket: Ticket | None = None) -> bytes:
        """Run a statement of ours inside a group of the client's."""
        if self.link is None:
            return b""
        owe = self.link.replies.owe
        begin, execute, end = p.run(HELPER, sql)
        owe(r.SKIP)
        owe(r.SKIP)
        owe(code, ticket)
        owe(r.SKIP)
        owe(r.SKIP)
        return begin + execute + end

    def _drop(self, link: Upstream, names: list[bytes]) -> bytes:
        """Close statements of ours."""
        for name in names:
            link.replies.owe(r.SKIP_TICKET, Dropped(link.held, name))
        return b"".join(p.target(p.CLOSE, b"S", name) for name in names)

    def _parse_named(self, link: Upstream, name: bytes, body: bytes, verdict: Verdict) -> bytes:
        """Send a client's Parse under a name of ours, and ask what it describes: that decides who shares it."""
        statement = Statement(body, self._context(verdict), verdict, self.filter.functions)
        out = self._drop(link, link.held.surplus(1))
        parsed = Parsed(self.prepared, link.held, name[: NAMEDATALEN - 1], statement, link.held.new_name())
        link.replies.owe(r.PARSE_NAMED, parsed)
        out += self._parse_and_describe(link, parsed)
        # Those who have its twin get the new one, unless Describe says that it is none of theirs any more.
        out += self._drop(link, link.held.twins(statement))
        if statement.context is None:
            out += self._help(LEARN, r.SKIP_EXECUTE, Learned(self.codec, statement))
        return out

    def _parse_own(self, link: Upstream, name: bytes, body: bytes) -> bytes:
        """Send a client's Parse as it is: the server has statements of the client's, and knows which names are free."""
        text = body[: body.index(0)]
        first = PREPARED_STATEMENT not in self.ledger.pins
        self._judging.keep(name[: NAMEDATALEN - 1], text, self.codec, body[len(text) + 1 :], first=first)
        self._pin(PREPARED_STATEMENT, "a named statement")
        link.replies.owe(r.PARSE)
        return p.message(p.PARSE, name + b"\0" + body)

    def _parse_again(self, link: Upstream, statement: Statement) -> tuple[bytes, bytes]:
        """Put a statement on a link that lacks it; return its name there, and what to send."""
        held = link.held
        out = self._drop(link, held.surplus(1))
        parsed = Parsed(self.prepared, held, None, statement, held.new_name())
        self._count_replay()

        def parse() -> bytes:
            link.replies.owe(r.REPEAT_NAMED, parsed)
            return self._parse_and_describe(link, parsed)

        return parsed.server_name, out + self._in_context(link, statement.context, parse)

    def _parse_and_describe(self, link: Upstream, parsed: Parsed) -> bytes:
        parse = p.message(p.PARSE, parsed.server_name + b"\0" + parsed.statement.body)
        return parse + self._describe_ours(link, parsed)

    def _describe_ours(self, link: Upstream, parsed: Parsed) -> bytes:
        if parsed.statement.verdict.kind != "select":
            return b""  # the server notes once what it gives, and never looks again (plancache.c)
        link.replies.owe(r.SKIP_DESCRIBE, Described(parsed.described))
        return p.target(p.DESCRIBE, b"S", parsed.server_name)

    def _repeat_unnamed(self, link: Upstream, message: bytes) -> bytes:
        link.replies.owe(r.REPEAT_UNNAMED)
        self.unnamed.repeat_sent()
        self.unnamed.group = self.prepared.group
        told = self._unnamed_told
        if told is None or told[0] is not message:
            return message  # the client has to ask what it gives, in a group that it does not know yet
        link.replies.owe(r.SKIP_DESCRIBE, Described(told[1].__eq__))
        return message + p.target(p.DESCRIBE, b"S", b"")

    def _tell_unnamed(self, message: bytes, described: bytes) -> bool:
        self._unnamed_told = (message, described)
        return True

    def _opens(self, link: Upstream) -> bool:
        """Whether what filter.mode observe lets through needs a transaction of ours, for it is in none.

        It runs alone. Raises UnsettledError while anything that was sent before is unanswered.
        """
        if self._block:
            return False
        if link.replies.groups:
            raise UnsettledError
        return (self._steered or link.replies.status) == p.IDLE

    def _end_ours(self, link: Upstream) -> bytes:
        """End a transaction of ours behind the group that it was begun in: the client learns how that has ended."""
        self._block = 0
        self._steered = UNKNOWN
        link.replies.owe(r.SKIP_TRY)
        return p.query(observe.END)

    def _before_end(self, link: Upstream) -> bytes:
        """Put the setting of layer 2 back before a COMMIT that has something behind it in its own group.

        That is another transaction, and nothing can go ahead of it but what is part of this one: it holds if this one
        does. A ROLLBACK undoes what was set. Raises UnsettledError while earlier groups are unanswered.
        """
        replies = link.replies
        if replies.groups:
            raise UnsettledError
        if replies.status == p.FAILED and self._steered == 0:
            return b""  # this COMMIT is a ROLLBACK
        return self._help(PUT_BACK)

    def _note_portal(self, portal: bytes | None, verdict: Verdict) -> None:
        """Keep in mind what an Execute of this portal leaves behind."""
        if portal is not None:
            if verdict.effects or verdict.steers:
                self._portals[portal] = verdict
            elif self._portals:
                self._portals.pop(portal, None)

    # --- names that SQL uses ------------------------------------------------------------------------------------------

    def _provide_own(self, link: Upstream, verdict: Verdict, *, alone: bool = False, parse: bool = False) -> bytes:
        """Put statements that SQL names on the link under their own names: PREPARE, EXECUTE and DEALLOCATE see them.

        Only EXECUTE needs more than the name, and needs it at its `parse` already. Whoever lists statements is to see
        this client's alone. `alone`: in front of a Query, not in a group of extended messages. Raises UnsettledError.
        """
        if link.replies.status == p.FAILED and not link.replies.owed:
            return b""  # whatever it is, the server says no more than that the transaction has failed
        group = self.prepared.group
        wanted: list[tuple[bytes, Statement | None, bool]] = []
        lists = False
        for effect, text in verdict.effects:
            if effect is Effect.EXECUTE or (effect in NAMING and text and not parse):
                name = text.encode(self.codec, "replace")
                wanted.append((name, self.prepared.find(name), effect is Effect.EXECUTE))
            elif effect is Effect.LIST_STATEMENTS:
                wanted += [(name, statement, True) for name, statement in self.prepared.all().items()]
                lists = True
        for name, statement, _ in wanted if link.replies.groups else ():
            # In front of a Query in a transaction that fails only now, ours would be one error more.
            if statement is not None and (alone or self._own.get(name, (True, group))[1] != group):
                raise UnsettledError
        out = self._drop(link, [*self.prepared.repeats(), *link.held.all()] if lists else [])
        for name, statement, whole in wanted:
            if statement is None or self._own.get(name, _NEVER)[0] >= whole:
                continue
            if name in self._own:
                link.replies.owe(r.SKIP)
                out += p.target(p.CLOSE, b"S", name)
            ticket = Owned(self._own, name, (whole, group))
            if whole:
                out += self._in_context(
                    link, statement.context, partial(self._parse_as_it_is, link, statement, name, ticket, alone)
                )
            else:
                self._owe_own(link, ticket, alone)
                out += p.parse(name, b"")
        if out and alone:
            # A Query behind a failed message would be ignored; on its own it gets the server's answer.
            link.replies.owe(r.SKIP_SYNC)
            out += p.SYNC_MESSAGE
        return out

    def _parse_as_it_is(self, link: Upstream, statement: Statement, name: bytes, ticket: Owned, alone: bool) -> bytes:
        """Parse a statement under the client's own name."""
        self._owe_own(link, ticket, alone)
        parse = p.message(p.PARSE, name + b"\0" + statement.body)
        if statement.verdict.kind != "select":
            return parse
        link.replies.owe(r.SKIP_DESCRIBE, Described(statement.gives))
        return parse + p.target(p.DESCRIBE, b"S", name)

    def _owe_own(self, link: Upstream, ticket: Owned, alone: bool) -> None:
        if alone:
            link.replies.owe(r.SKIP_ANYHOW)  # the Query behind it says what is wrong
        else:
            link.replies.owe(r.SKIP_TICKET, ticket)

    # --- what a statement does ----------------------------------------------------------------------------------------

    def _effects(self, verdict: Verdict) -> Effects:
        """Return what a text leaves behind, and what the statements do that it executes by name."""
        effects = verdict.effects
        for effect, text in verdict.effects:
            if effect is Effect.EXECUTE:
                statement = self.prepared.find(text.encode(self.codec, "replace"))
                effects += self._sql_effects if statement is None else statement.verdict.effects
            elif effect is Effect.PREPARE:
                what = {each for each in verdict.effects if each[0] not in NAMING}
                self._sql_effects = tuple(what.union(self._sql_effects))
        return effects

    def _keep_prepared(self, verdict: Verdict) -> None:
        """Note what the server is about to prepare by SQL."""
        for name, text in verdict.prepares:
            first = PREPARED_STATEMENT not in self.ledger.pins
            self._judging.keep(name.encode(self.codec, "replace"), text, self.codec, first=first)

    def _own_closes_sent(self, names: Iterable[bytes]) -> None:
        """Note that what was sent ends these names of the client's: whatever comes behind it has to put them there."""
        self._own.update((name, (-1, self.prepared.group)) for name in list(names) if name in self._own)

    def _followed(self, link: Upstream, effects: Effects, code: int) -> tuple[int, Ticket | None]:
        """Follow what a statement does to names and settings, where that matters: return how its reply is owed."""
        if not any(effect in _TOLD for effect, _ in effects):
            return code, None
        closes = []
        for effect, text in effects:
            if effect is Effect.DISCARD_ALL or (effect is Effect.DEALLOCATE and not text):
                self.prepared.all_closes_sent()
                self._own_closes_sent(self._own)
            elif effect is Effect.DEALLOCATE:
                closes.append(text.encode(self.codec, "replace"))
                self.prepared.close_sent(closes[-1])
                self._own_closes_sent(closes[-1:])

        resets = any(effect in RESETTING for effect, _ in effects)

        def dropped(name: bytes | None) -> None:
            if name is None:
                self.prepared.forget_all()
                link.held.clear()
            else:
                self.prepared.forget(name)
            # What was put there again behind it stays.
            for own in list(self._own) if name is None else [name]:
                if self._own.get(own, _NEVER)[0] < 0:
                    self._own.pop(own, None)

        return r.QUERY_RUN if code == r.QUERY else r.EXECUTE_RUN, Run(closes, dropped, resets=resets)

    def _check_discarded(self) -> None:
        """Have start-up settings there for a group behind one with a DISCARD ALL. Raises UnsettledError.

        DISCARD ALL commits at once; what sets them again behind it is undone by a later error of its group.
        """
        if self._discards in (None, self.prepared.group):
            return
        if self.link is not None and self.link.replies.groups:
            raise UnsettledError
        self._discards = None
        if self.link is not None and self.ledger.lost and self.link.replies.status == p.IDLE:
            self._ask_first(restore(self.ledger.lost))

    def _set_between(self, run: Run, text: bytes) -> bytes | None:
        """Set start-up settings again between a RESET and the statements behind it in the same Query.

        Return the text to send, if it is another; its `run` then knows which statements are ours.
        """
        if len(text) > MAX_INLINE:
            return None
        try:
            decoded = texts.decode(text, self.codec)
            ends = texts.ends(decoded)
        except Refused:
            return None
        if decoded.encode(self.codec) != text:
            return None  # the bytes cannot be cut apart at the statements' ends
        utf8 = decoded.encode()
        built = ""
        hidden: list[int] = []
        inserts: list[tuple[int, int]] = []
        start = 0
        for number, end in enumerate(ends[:-1], 1):
            piece = utf8[start:end].decode()
            built += piece
            start = end
            lost: dict[str, Restore] = {}
            for effect, name in self._effects(self.filter.judge(piece.lstrip(";").encode(self.codec), self.codec)):
                lost |= self.ledger.lost_by(effect, name)
            if lost:
                ours = ";" + restore(lost).decode("ascii")
                hidden.append(number + len(inserts))
                inserts.append((len(built), len(ours)))
                built += ours
        run.hide(hidden, inserts)
        return (built + utf8[start:].decode()).encode(self.codec) if inserts else None

    def _set_again(self, effects: Effects, *, group: bool) -> bytes:
        """Set start-up settings again right behind a RESET, which knows the server's own values only."""
        if not self.ledger.lost or self.link is None or not any(effect in RESETTING for effect, _ in effects):
            return b""
        if group:
            if any(effect is Effect.DISCARD_ALL for effect, _ in effects):
                self._discards = self.prepared.group
            return self._help(restore(self.ledger.lost), r.SKIP_SET)
        self.link.replies.owe(r.SKIP_TRY)  # in a failed transaction nothing was reset, and nothing can be set
        return p.query(restore(self.ledger.lost))

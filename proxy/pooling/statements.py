"""Named prepared statements: what a client has, what an upstream holds of them, and when two of them are the same.

A client's statement lives on upstreams under a name that SideCart gave, and is parsed again where the leased upstream
lacks it. Literals are baked in at Parse, so its identity is its text, its parameter types and the settings that shaped
them; what Describe says of it belongs to it as well: a table that was altered makes another statement of the same text.

What was *sent* may fail, or be skipped behind an earlier error: `sent` tells what a message finds that is sent now, and
a method that asks it raises MustWait where that depends on what has not been answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import ClassVar, Final
from weakref import WeakValueDictionary

from proxy.ours import PREFIX
from proxy.pooling.sent import NEVER, Groups, Sent
from proxy.pooling.snapshot import ANY_SETTINGS, NEXT_SETTINGS, Settings
from proxy.sql.verdict import Verdict

MAX_KEPT: Final = 64 << 20
"""Bytes of named statements that one client may keep: far more than drivers do, and a bound."""
_OVERHEAD: Final = 512

OF_ANOTHER: Final = frozenset({"execute", "fetch"})
"""Kinds of statements that give the rows of another one, or of a cursor."""

Context = Settings | None
"""The settings that shape what a Parse means (`Settings.parsing`); None: not known yet."""


class Statement:
    """Hold what is needed to parse a statement again, and the verdict on it.

    `body` is its Parse message behind the name: text, NUL, parameter types; `codec` that of the text. `described` is
    what Describe said of it, by `comparable`; None until the server has. `judge` is whatever `verdict` was found by:
    another one asks anew. `original` is the body that the client sent, if another one goes out: lists of statements
    show it. `silent`: it was noted at its Parse that it gives no rows, and whoever parses it again would find something
    else. Otherwise `rows` is the RowDescription that was noted, and `noted_as` the name under which it was parsed then.
    `apart`: it is used under other settings than those that shaped it, and shared with nobody: its plan has them.
    `parsed_in` is the number of the group in which its client parsed it.
    """

    __slots__ = (
        "__weakref__",
        "apart",
        "body",
        "codec",
        "context",
        "described",
        "judge",
        "noted_as",
        "original",
        "parsed_in",
        "rows",
        "silent",
        "verdict",
    )
    _shared: ClassVar[WeakValueDictionary[tuple[bytes, Settings, bytes], Statement]] = WeakValueDictionary()

    def __init__(
        self,
        body: bytes,
        context: Context,
        verdict: Verdict,
        judge: object,
        original: bytes | None = None,
        codec: str = "utf-8",
    ) -> None:
        self.body = body
        self.codec = codec
        self.original = original
        self.context = context
        self.described: bytes | None = None if verdict.kind == "select" else b""
        self.verdict = verdict
        self.judge = judge
        self.silent = False
        self.rows = b""
        self.noted_as = b""
        self.parsed_in = NEVER
        self.apart = False

    def __repr__(self) -> str:
        return f"<Statement of {len(self.body)} bytes, {self.verdict.kind}>"

    @property
    def text(self) -> bytes:
        return self.body[: self.body.index(0)]

    @property
    def types(self) -> bytes:
        """Return its parameter types as a ParameterDescription holds them, for a statement other than a query."""
        return self.body[self.body.index(0) + 1 :]  # nothing else has parameters to infer

    def note_rows(self, described: bytes) -> bool:
        """Take what the server says of a statement that gives the rows of another one, if that is there at its Parse.

        The server notes that once (UtilityTupleDescriptor(), tcop/utility.c); what is described empty gives none.
        """
        self.silent = described == self.types
        self.rows = described[len(self.types) :]
        return True

    def gives(self, described: bytes) -> bool:
        """Return whether this is what its clients were told."""
        return self.described in (None, described)

    def shape(self, context: Settings) -> None:
        """Note under which settings it was analysed last."""
        self.context = context

    def shaped(self) -> Context:
        """Return under which."""
        return self.context

    def part(self) -> Statement:
        """Return the same statement for one client alone."""
        own = copy(self)
        own.apart = True
        return own

    def share(self) -> Statement:
        """Return the one statement that all clients share which have this one."""
        if self.context is None or self.described is None or self.apart:
            return self
        if self.original is not None:
            return self  # what it is shown as is its client's
        if self.verdict.kind in OF_ANOTHER:
            return self  # whether it is `silent` depends on what its client has
        return self._shared.setdefault((self.body, self.context, self.described), self)


class Held:
    """What one upstream holds under names of ours: at most `limit` statements, the least used ones go first."""

    __slots__ = ("_by_name", "_count", "_texts", "_token", "full", "limit", "names", "stale")

    def __init__(self, token: str, limit: int) -> None:
        self._token = token.encode()
        self._count = 0
        self._texts: dict[tuple[bytes, Context], Statement] = {}
        self._by_name: dict[bytes, Statement] = {}
        self.limit = limit
        self.names: dict[Statement, bytes] = {}
        """As far as the server has answered; the one that was used last stands last."""
        self.stale: dict[bytes, None] = {}
        """Names that nothing leads to any more: to be closed."""
        self.full = False
        """Whether there may be anything to close."""

    def new_name(self) -> bytes:
        self._count += 1
        return PREFIX + b"%s:%d" % (self._token, self._count)

    def use(self, statement: Statement) -> bytes | None:
        """Return the name of a statement, if the upstream has it."""
        name = self.names.get(statement)
        # Only where one has to go soon does the order matter: moving costs 0.1 µs for each Bind.
        if name is not None and 2 * len(self.names) > self.limit:
            del self.names[statement]
            self.names[statement] = name
        return name

    def twins(self, statement: Statement) -> list[bytes]:
        """Forget one that was parsed from the same text under the same settings; return its name, to be closed."""
        twin = self._texts.get((statement.body, statement.context))
        return [] if twin is None or twin not in self.names else [self._forget(twin)]

    def surplus(self, room: int = 0) -> list[bytes]:
        """Forget what is too much, with `room` for more; return the names to close."""
        self.full = False
        names = list(self.stale)
        self.stale.clear()
        while self.names and len(self.names) + room > self.limit:
            names.append(self._forget(next(iter(self.names))))
        return names

    def keep(self, statement: Statement, name: bytes) -> None:
        """Note that the server holds a statement under this name; it may have held it under another."""
        older = self._forget(statement) if statement in self.names else name
        if older != name:
            self._set_aside(older)
        self.names[statement] = name
        self.full = self.full or len(self.names) > self.limit
        self._by_name[name] = statement
        if statement.context is not None and not statement.apart:
            self._texts[statement.body, statement.context] = statement

    def replace(self, statement: Statement, shared: Statement) -> None:
        """Note that a statement has turned out to be another one."""
        if statement in self.names:  # it may have been dropped meanwhile
            self.keep(shared, self._forget(statement))

    def all(self) -> list[bytes]:
        """Forget everything; return the names to close."""
        names = [*self.names.values(), *self.stale]
        self.clear()
        return names

    def drop_apart(self) -> None:
        """Forget what is used under other settings than those that shaped it: it is analysed anew under those now."""
        for statement in [each for each in self.names if each.apart]:
            self._set_aside(self._forget(statement))

    def closed(self, name: bytes) -> None:
        """Note that the server has dropped a statement."""
        self.stale.pop(name, None)
        statement = self._by_name.get(name)
        if statement is not None:
            self._forget(statement)

    def left(self, name: bytes) -> None:
        """Note that the server may have a statement of this name, whatever it is."""
        if name not in self._by_name:
            self._set_aside(name)

    def _set_aside(self, name: bytes) -> None:
        self.stale[name] = None
        self.full = True

    def clear(self) -> None:
        """Note that the server has dropped all prepared statements."""
        self.full = False
        self.names.clear()
        self._texts.clear()
        self._by_name.clear()
        self.stale.clear()

    def _forget(self, statement: Statement) -> bytes:
        if self._texts.get(key := (statement.body, statement.context)) is statement:
            del self._texts[key]
        name = self.names.pop(statement)
        del self._by_name[name]
        return name


class Prepared:
    """The named statements of one client."""

    __slots__ = (
        "_discards_in",
        "_groups",
        "_names",
        "_repeated",
        "_sent",
        "_there",
        "before",
        "shown",
        "size",
    )

    def __init__(self, groups: Groups) -> None:
        self.size = 0
        self.shown: dict[bytes, bytes] = {}
        """By which name the client has used one of ours last, on the present link: errors of the server tell names."""
        self._names: dict[bytes, Statement] = {}  # as far as the server has answered
        self._sent: Sent[bytes, Statement | None] = Sent(groups)  # what is sent makes of a name
        self._repeated: Sent[Statement, bytes | None] = Sent(groups)  # sent to the link, under which name
        self._there: Sent[bytes, bool] = Sent(groups)  # whether a Parse has gone to a name of ours, or a Close
        self._groups = groups
        self._discards_in = NEVER  # the group of a DISCARD PLANS that nobody has noted yet
        self.before: dict[bytes, Statement | None] = {}
        """What names were at the `mark` that have changed since."""

    def __repr__(self) -> str:
        return f"<Prepared {len(self._names)} statements, {self._sent!r}>"

    @property
    def full(self) -> bool:
        return self.size >= MAX_KEPT

    # --- sent -----------------------------------------------------------------------------------------------------

    def as_parsed(self, name: bytes, judge: object, context: Settings) -> Statement | None:
        """Return the client's statement of this name, if nothing that was sent can have changed that.

        And if it was judged by this, leaves nothing behind, and means under these settings what it meant at its Parse.
        """
        statement = self._names.get(name)
        if statement is None or self._sent.newest >= self._groups.answered:  # not `Sent.settled`
            return None
        if statement.judge is not judge or statement.verdict.effects or statement.verdict.steers:
            return None
        shaped = statement.context
        if shaped in (context, ANY_SETTINGS):
            return statement
        # A use under another search_path has it analysed anew, and so has the next one in any case.
        stays = shaped is not None and shaped is not NEXT_SETTINGS and shaped.path == context.path
        return statement if statement.apart and stays else None

    def find(self, name: bytes) -> Statement | None:
        """Return the client's statement of this name, as a message finds it that is sent now."""
        return self._sent.find(name, self._names.get(name))

    def all(self) -> dict[bytes, Statement]:
        """Return all statements by name, oldest first, as a message finds them that is sent now."""
        names = dict.fromkeys((*self._names, *self._sent.things))
        return {name: found for name in names if (found := self.find(name)) is not None}

    def parse_sent(self, name: bytes, statement: Statement) -> None:
        self._sent.put(name, statement)

    def close_sent(self, name: bytes) -> None:
        if name in self._names or not self._sent.settled:
            self._sent.put(name, None)

    def all_closes_sent(self) -> None:
        """Note a statement that drops all: DEALLOCATE ALL, DISCARD ALL."""
        self._sent.put_every(None)
        self._repeated.put_every(None)
        self._there.put_every(value=False)

    def on_link(self, statement: Statement, held: Held) -> bytes | None:
        """Return the name of ours under which a message finds a statement on the link, if it is there."""
        name = self._repeated.find(statement, held.use(statement))
        return name if name is not None and self._there.find(name, known=True) else None

    def closes_sent(self, server_names: Iterable[bytes]) -> None:
        """Note that names of ours are closed on the link: whatever was sent under them is gone."""
        for name in server_names:
            self._there.put(name, value=False)

    def repeat_sent(self, statement: Statement, server_name: bytes) -> None:
        self._repeated.put(statement, server_name)
        self._there.put(server_name, value=True)

    def drop_sent(self, held: Held) -> list[bytes]:
        """Note that everything is closed which the link holds under names of ours; return these names.

        One statement may have gone there under several: what leads to it is the last one alone. Raises MustWait.
        """
        sent = [name for name in self._there.things if self._there.find(name, known=False)]
        names = list(dict.fromkeys([*sent, *held.all()]))
        self._repeated.put_every(None)
        return names

    # --- answered -------------------------------------------------------------------------------------------------

    def keep(self, name: bytes, statement: Statement) -> None:
        """Note that the server has it."""
        self.forget(name)
        self._names[name] = statement
        self.size += len(statement.body) + _OVERHEAD

    def replace(self, name: bytes, mine: Statement, shared: Statement) -> None:
        """Note that the statement of this name has turned out to be one that others have, too."""
        if self._names.get(name) is mine:
            self._names[name] = shared
        self._sent.swap(name, mine, shared)
        self._repeated.rename(mine, shared)

    def part(self, name: bytes, statement: Statement) -> Statement:
        """Make the statement of this name one that no other client uses; return it."""
        if self._names.get(name) is not statement:
            statement.apart = True  # its Parse is not answered yet: nobody else has it
            return statement
        own = self._names[name] = statement.part()
        self._sent.swap(name, statement, own)
        return own

    def discard_plans_sent(self) -> None:
        self._discards_in = self._groups.sent

    def note_discarded_plans(self) -> None:
        """Act on a DISCARD PLANS in the group of what is sent now. Raises MustWait behind one of another group."""
        if self._discards_in != NEVER and self._groups.settle(self._discards_in, True, False):
            self._discard_plans(self.all())

    def plans_discarded(self) -> None:
        """Note that each statement is analysed anew by its next use."""
        self._discard_plans(self._names)

    def _discard_plans(self, statements: Mapping[bytes, Statement]) -> None:
        self._discards_in = NEVER
        for name, statement in list(statements.items()):
            if statement.context not in (ANY_SETTINGS, NEXT_SETTINGS):
                self.part(name, statement).context = NEXT_SETTINGS

    def forget(self, name: bytes) -> None:
        """Note that it is gone."""
        old = self._names.pop(name, None)
        self.before.setdefault(name, old)
        if old is not None:
            self.size -= len(old.body) + _OVERHEAD

    def forget_all(self) -> None:
        for name in list(self._names):
            self.forget(name)

    def mark(self) -> None:
        """Note that nothing is owed: `undo` returns to this."""
        self.before.clear()
        self.shown.clear()

    def undo(self) -> None:
        """Undo what was answered since the mark: the client has not seen it, and everything is sent again."""
        before, self.before = self.before, {}
        for name, statement in before.items():
            if statement is None:
                self.forget(name)
            else:
                self.keep(name, statement)
        self.before.clear()


class Own:
    """What stands on the link under a client's own names, where SQL finds it: PREPARE, EXECUTE, DEALLOCATE and lists.

    Of each name it is told whether all of a statement is there (True), or its name alone.
    """

    __slots__ = ("_names", "_sent")

    def __init__(self, groups: Groups) -> None:
        self._names: dict[bytes, bool] = {}  # as far as the server has answered
        self._sent: Sent[bytes, bool | None] = Sent(groups)

    def __repr__(self) -> str:
        return f"<Own {self._names} {self._sent!r}>"

    def __bool__(self) -> bool:
        return bool(self._names)

    def find(self, name: bytes) -> bool | None:
        """Return what of a name a message finds there that is sent now; None: nothing. Raises MustWait."""
        return self._sent.find(name, self._names.get(name))

    def parse_sent(self, name: bytes, whole: bool) -> None:
        self._sent.put(name, whole)

    def close_sent(self, name: bytes) -> None:
        self._sent.put(name, None)

    def all_closes_sent(self) -> None:
        self._sent.put_every(None)

    def keep(self, name: bytes, whole: bool) -> None:
        """Note that the server has it."""
        self._names[name] = whole

    def forget(self, name: bytes) -> None:
        """Note that the server has dropped it."""
        self._names.pop(name, None)

    def all(self) -> list[bytes]:
        """Forget everything; return the names."""
        names = list(self._names)
        self._names.clear()
        return names

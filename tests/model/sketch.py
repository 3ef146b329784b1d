"""Sketches: plays of a few clients in the short notation of bug reports, as data, as text and as bytes.

One line a client. `|` stands between writes of which the first is answered before the second is sent, `/` between those
that do not wait; a comma stands between messages:

    A [TimeZone=Asia/Tokyo]: P s 'select 1', B "" s, E "", S | Q 'deallocate s' / Q 'select 2'
    B: Q 'show timezone' ^5 leaves
    order ABA

`Q 'text'`, `P name 'text' (types)`, `B portal name (values)`, `D S name`, `D P portal`, `E portal limit`, `C S name`,
`C P portal`, S for Sync, H for Flush, X for Terminate. `^5`: the write comes in two pieces, and the others have their
turns between them; the first has 5/16 of its bytes. `300 x (...)`: the write has these messages 300 times. `leaves`:
the client resets its connection without waiting. `order` says whose write is next; when it ends, one client after the
other goes on to its end.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase

from proxy import protocol as p
from tests import wire

Value = str | None


@dataclass(frozen=True, slots=True)
class Message:
    """Hold one frontend message; `kind` is its letter in the notation, `target` what D and C mean: S or P."""

    kind: str
    name: str = ""
    portal: str = ""
    text: str = ""
    values: tuple[Value, ...] = ()
    types: tuple[int, ...] = ()
    limit: int = 0
    target: str = ""

    def __str__(self) -> str:
        match self.kind:
            case "Q":
                return f"Q {_quoted(self.text)}"
            case "P":
                types = f" ({', '.join(map(str, self.types))})" if self.types else ""
                return f"P {_name(self.name)} {_quoted(self.text)}{types}"
            case "B":
                shown = ", ".join("null" if value is None else _quoted(value) for value in self.values)
                return f"B {_name(self.portal)} {_name(self.name)}" + (f" ({shown})" if self.values else "")
            case "E":
                return f"E {_name(self.portal)}" + (f" {self.limit}" if self.limit else "")
            case "D" | "C":
                return f"{self.kind} {self.target} {_name(self.portal if self.target == 'P' else self.name)}"
            case _:
                return self.kind

    def data(self, text: str | None = None) -> bytes:
        """Return its bytes, with another text if one is given."""
        sql = (self.text if text is None else text).encode()
        match self.kind:
            case "Q":
                return p.query(sql)
            case "P":
                return p.parse(
                    self.name.encode(), sql, struct.pack(f"!H{len(self.types)}I", len(self.types), *self.types)
                )
            case "B":
                values = [None if value is None else value.encode() for value in self.values]
                return wire.bind(self.name, values, portal=self.portal)
            case "E":
                return wire.execute(self.portal, self.limit)
            case "D":
                return wire.describe(self.target, self.portal if self.target == "P" else self.name)
            case "C":
                return wire.close(self.target, self.portal if self.target == "P" else self.name)
            case _:
                return {"S": p.SYNC_MESSAGE, "H": wire.FLUSH, "X": p.TERMINATE_MESSAGE}[self.kind]


SYNC = Message("S")
FLUSH = Message("H")
TERMINATE = Message("X")


def query(text: str) -> Message:
    return Message("Q", text=text)


def parse(name: str, text: str, *types: int) -> Message:
    return Message("P", name, text=text, types=types)


def bind(portal: str, name: str, *values: Value) -> Message:
    return Message("B", name, portal, values=values)


def execute(portal: str = "", limit: int = 0) -> Message:
    return Message("E", portal=portal, limit=limit)


def describe(target: str, name: str) -> Message:
    return Message("D", portal=name, target="P") if target == "P" else Message("D", name, target="S")


def close(target: str, name: str) -> Message:
    return Message("C", portal=name, target="P") if target == "P" else Message("C", name, target="S")


@dataclass(frozen=True, slots=True)
class Write:
    """Hold messages that are sent at once, `times` times; `cut` is where they are torn, in 16ths of the bytes, or 0."""

    messages: tuple[Message, ...]
    waits: bool = True
    cut: int = 0
    times: int = 1

    @property
    def all_messages(self) -> tuple[Message, ...]:
        return self.messages * self.times

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.messages))
        return (f"{self.times} x ({shown})" if self.times > 1 else shown) + (f" ^{self.cut}" if self.cut else "")


@dataclass(frozen=True, slots=True)
class Part:
    """Hold what one client says, with its start-up parameters, and whether it leaves without waiting."""

    writes: tuple[Write, ...]
    parameters: tuple[tuple[str, str], ...] = ()
    leaves: bool = False

    @property
    def messages(self) -> Iterator[Message]:
        return (message for write in self.writes for message in write.all_messages)

    def __str__(self) -> str:
        shown = f" [{'; '.join(f'{name}={value}' for name, value in self.parameters)}]" if self.parameters else ""
        out = f"{shown}: " + "".join(
            f"{write}" + ("" if number == len(self.writes) - 1 else " | " if write.waits else " / ")
            for number, write in enumerate(self.writes)
        )
        return out + (" leaves" if self.leaves else "")


@dataclass(frozen=True, slots=True)
class Sketch:
    """Hold the parts of a few clients, and whose turn is when."""

    parts: tuple[Part, ...]
    order: tuple[int, ...] = ()

    def __str__(self) -> str:
        lines = [f"{ascii_uppercase[number]}{part}" for number, part in enumerate(self.parts)]
        if self.order:
            lines.append("order " + "".join(ascii_uppercase[number] for number in self.order))
        return "\n".join(lines)

    @property
    def texts(self) -> set[str]:
        return {message.text for part in self.parts for message in part.messages if message.kind in "QP"}


def without(whole: Sketch, pattern: re.Pattern[str]) -> Sketch:
    """Return a sketch without the messages in whose notation the pattern is found."""

    def left(write: Write) -> Write:
        messages = tuple(message for message in write.messages if not pattern.search(str(message)))
        return replace(write, messages=messages or (SYNC,))

    return replace(whole, parts=tuple(replace(part, writes=tuple(map(left, part.writes))) for part in whole.parts))


def is_safe(messages: Sequence[Message]) -> bool:
    """Tell whether PostgreSQL surely survives what a client says."""
    return _meets_no_portal_of_a_query(messages) and _describes_what_is_there(messages)


def _describes_what_is_there(messages: Sequence[Message]) -> bool:
    """Tell whether no Describe can ask for the rows of a FETCH whose cursor is gone, or is the portal of another FETCH.

    FetchStatementTargetList() does not look. So a FETCH is described right behind its Parse or its Bind, and is bound
    to no portal that has a name.
    """
    texts: dict[str, set[str]] = {}
    before: Message | None = None

    def fetches(name: str, seen: frozenset[str] = frozenset()) -> bool:
        return name not in seen and any(
            text.startswith("fetch") or (text.startswith("execute") and fetches(text[8:9], seen | {name}))
            for text in texts.get(name, ())
        )

    for message in messages:
        behind = before is not None and not any(text.startswith("execute") for text in texts.get(before.name, ()))
        match message.kind, message.target:
            case "P", _:
                texts.setdefault(message.name, set()).add(message.text)
            case "B", _:
                if message.portal and fetches(message.name):
                    return False
            case "D", "S":
                made = before is not None and (before.kind, before.name) == ("P", message.name)
                if fetches(message.name) and not (made and behind):
                    return False
            case "D", "P":
                if before is not None and (before.kind, before.portal) == ("B", message.portal):
                    if fetches(before.name) and not behind:
                        return False
                elif any(map(fetches, texts)):
                    return False
        before = message
    return True


def _meets_no_portal_of_a_query(messages: Sequence[Message]) -> bool:
    """Tell whether no Execute and no Describe can meet the unnamed portal of a simple Query.

    PostgreSQL itself may crash there, if the Query has failed in a transaction: exec_execute_message() looks at what
    was freed. So the unnamed portal is used in the group of its Bind, or by a client that has sent no Query.
    """
    bound = asked = False
    for message in messages:
        if message.kind == "B" and not message.portal:
            bound = True
        elif message.kind == "Q":
            asked, bound = True, False
        elif message.kind == "S":
            bound = bound and not asked
        elif message.kind in "ED" and message.target != "S" and not message.portal and asked and not bound:
            return False
    return True


# --- reading the notation -------------------------------------------------------------------------------------------

_NAME = re.compile(r"[a-z_]\w*\Z")
_TOKEN = re.compile(r"""\s*('(?:[^']|'')*'|"(?:[^"]|"")*"|\w+|[,|/()^])""")


def _name(name: str) -> str:
    return name if _NAME.match(name) and name != "x" else '"' + name.replace('"', '""') + '"'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def sketch(text: str) -> Sketch:
    """Read a sketch from its text; raises ValueError where it is none."""
    parts: list[Part] = []
    order: tuple[int, ...] = ()
    for line in filter(None, map(str.strip, text.splitlines())):
        if found := re.fullmatch(r"order ([A-Z]+)", line):
            order = tuple(ascii_uppercase.index(letter) for letter in found[1])
        elif found := re.fullmatch(r"([A-Z])(?: \[(.*?)\])?: *(.*)", line):
            if found[1] != ascii_uppercase[len(parts)]:
                raise ValueError(f"client {found[1]} is out of turn")
            given = [each.partition("=") for each in (found[2] or "").split("; ") if each]
            parts.append(_Reader(found[3]).part(tuple((name, value) for name, _, value in given)))
        else:
            raise ValueError(f"not a line of a sketch: {line}")
    return Sketch(tuple(parts), order)


class _Reader:
    """Read one client's line, token by token."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        at = 0
        text = text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ValueError(f"not a word of the notation: {text[at:]}")
            self._tokens.append(found[1])
            at = found.end()
        self._at = 0

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _accept(self, *wanted: str) -> str:
        return self._next() if self._peek() and self._peek() in wanted else ""

    def _expect(self, wanted: str) -> None:
        if not self._accept(wanted):
            raise ValueError(f"expected {wanted}, found {self._peek() or 'the end'}")

    def part(self, parameters: tuple[tuple[str, str], ...]) -> Part:
        writes: list[Write] = []
        while self._peek() and self._peek() != "leaves":
            messages, cut, times = self._write()
            separator = self._accept("|", "/")
            writes.append(Write(messages, separator != "/", cut, times))
            if not separator:
                break
        leaves = bool(self._accept("leaves"))
        if self._peek():
            raise ValueError(f"not expected: {self._peek()}")
        return Part(tuple(writes), parameters, leaves)

    def _write(self) -> tuple[tuple[Message, ...], int, int]:
        times = 1
        if self._peek().isdigit():
            times = int(self._next())
            self._expect("x")
            self._expect("(")
        messages = [self._message()]
        while self._accept(","):
            messages.append(self._message())
        if times > 1:
            self._expect(")")
        cut = int(self._next()) if self._accept("^") else 0
        return tuple(messages), cut, times

    def _message(self) -> Message:
        kind = self._next()
        match kind:
            case "Q":
                return query(self._text())
            case "P":
                return parse(self._word(), self._text(), *(int(each or "0") for each in self._list()))
            case "B":
                return bind(self._word(), self._word(), *self._list())
            case "E":
                return execute(self._word(), int(self._next()) if self._peek().isdigit() else 0)
            case "D" | "C":
                target = self._next()
                name = self._word()
                return describe(target, name) if kind == "D" else close(target, name)
            case "S" | "H" | "X":
                return Message(kind)
            case _:
                raise ValueError(f"not a message: {kind}")

    def _text(self) -> str:
        token = self._next()
        if not token.startswith("'"):
            raise ValueError(f"expected a text, found {token}")
        return token[1:-1].replace("''", "'")

    def _word(self) -> str:
        token = self._next()
        return token[1:-1].replace('""', '"') if token.startswith('"') else token

    def _list(self) -> Iterator[Value]:
        if self._accept("("):
            while True:
                token = self._next()
                yield None if token == "null" else token[1:-1].replace("''", "'") if token[0] == "'" else token
                if not self._accept(","):
                    break
            self._expect(")")

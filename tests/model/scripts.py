"""What the clients of the model test say: frontend messages in words and bytes, batches of them, scripts, plays."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from proxy import protocol as p

STAND_IN = "refused"
"""What PostgreSQL is sent where SideCart has to refuse: a syntax error, which fails in the same turn, in any state."""


@dataclass(frozen=True, slots=True)
class Message:
    """Hold one frontend message in words, as SideCart gets it, and as PostgreSQL gets it on a private connection."""

    shown: str
    data: bytes
    direct: bytes

    def __repr__(self) -> str:
        return self.shown


def query(text: str, *, refused: bool = False) -> Message:
    return Message(f"Query {text!r}", p.query(text.encode()), p.query((STAND_IN if refused else text).encode()))


def parse(name: str, text: str, types: Sequence[int] = (), *, refused: bool = False) -> Message:
    tail = struct.pack(f"!H{len(types)}I", len(types), *types)
    shown = f"Parse {name!r} {text!r}" + (f" types {list(types)}" if types else "")
    data, direct = (p.parse(name.encode(), sql.encode(), tail) for sql in (text, STAND_IN if refused else text))
    return Message(shown, data, direct)


def bind(portal: str, name: str, values: Sequence[bytes | None] = (), result_format: int = 0) -> Message:
    body = f"{portal}\0{name}\0".encode() + struct.pack("!HH", 0, len(values))
    body += b"".join(struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in values)
    shown = f"Bind {portal!r} of {name!r} {list(values)}" + (" binary" if result_format else "")
    return _message(shown, p.BIND, body + struct.pack("!HH", 1, result_format))


def execute(portal: str = "", limit: int = 0) -> Message:
    shown = f"Execute {portal!r}" + (f" limit {limit}" if limit else "")
    return _message(shown, p.EXECUTE, f"{portal}\0".encode() + struct.pack("!I", limit))


def describe(target: str, name: str) -> Message:
    """Describe a statement, `S`, or a portal, `P`."""
    return _message(f"Describe {target} {name!r}", p.DESCRIBE, f"{target}{name}\0".encode())


def close(target: str, name: str) -> Message:
    return _message(f"Close {target} {name!r}", p.CLOSE, f"{target}{name}\0".encode())


def _message(shown: str, kind: int, body: bytes = b"") -> Message:
    data = p.message(kind, body)
    return Message(shown, data, data)


SYNC = _message("Sync", p.SYNC)
FLUSH = _message("Flush", p.FLUSH)
_FENCE = close("P", "fence")


class Until(Enum):
    """Say where the answer of a batch ends."""

    READY = "at its last ReadyForQuery: one for each Query and each Sync"
    FENCE = "at the ReadyForQuery behind its only CloseComplete, since an error may skip one of its Queries"
    FLUSHED = "at its only CloseComplete, or at an error: no ReadyForQuery follows a Flush"


@dataclass(frozen=True, slots=True)
class Batch:
    """Hold messages that are sent at once. `cancelled` is the text of theirs that is cancelled once it is asleep."""

    messages: tuple[Message, ...]
    until: Until = Until.READY
    readies: int = 1
    cancelled: str = ""

    @property
    def texts(self) -> list[Message]:
        """Return the messages that hold SQL."""
        return [message for message in self.messages if message.shown.startswith(("Query", "Parse"))]

    def __repr__(self) -> str:
        words = "; ".join(message.shown for message in self.messages)
        return words + (" -- and a CancelRequest while it runs" if self.cancelled else "")


@dataclass(frozen=True, slots=True)
class StrayCancel:
    """Send a CancelRequest while nothing of this client runs; `key` says whose it is."""

    own_key: bool

    def __repr__(self) -> str:
        return "CancelRequest " + ("while nothing runs" if self.own_key else "with a key of nobody's")


Step = Batch | StrayCancel


def batch(*groups: Sequence[Message]) -> Batch:
    """Return groups, each of which one Query or one Sync ends, as one batch: a pipeline, if there are several."""
    return Batch(tuple(message for group in groups for message in group), readies=len(groups))


def say(text: str) -> Batch:
    return batch([query(text)])


def fenced(*messages: Message) -> Batch:
    """Return a group with a Query in the middle, which is not answered if something before it fails."""
    return Batch((*messages, SYNC, _FENCE, SYNC), Until.FENCE)


def flushed(*messages: Message) -> Batch:
    """Return messages whose answers a Flush asks for; a batch with a Sync has to follow."""
    return Batch((*messages, _FENCE, FLUSH), Until.FLUSHED)


class End(Enum):
    """Say how a client goes."""

    TERMINATE = "says Terminate"
    CLOSE = "closes its socket"
    RESET = "resets its connection"


@dataclass(frozen=True, slots=True)
class Script:
    """Hold what one client says: start-up parameters, steps, and how it goes.

    `unheard` is a batch that it sends at the end without waiting for the answer, cut to `cut` 16ths if it is torn.
    """

    parameters: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]
    end: End = End.TERMINATE
    unheard: Batch | None = None
    cut: int = 16

    def lines(self) -> list[str]:
        shown = ", ".join(f"{name}={value}" for name, value in self.parameters)
        last = []
        if self.unheard is not None:
            part = "" if self.cut == 16 else f" (only {self.cut}/16 of the bytes)"
            last = [f"{self.unheard!r}{part} -- and does not wait for the answer"]
        return [f"connects: {shown or 'no parameters'}", *map(repr, self.steps), *last, self.end.value]


class How(Enum):
    """Say how a client takes its turn."""

    WAIT = "and waits"
    GO_ON = "and the next client goes on before it is answered"
    TORN = "in two pieces"
    TORN_WIDE = "in two pieces, the next clients between them"


@dataclass(frozen=True, slots=True)
class Turn:
    """Say who takes the next step: the `who`th of those that have any left."""

    who: int
    how: How = How.WAIT

    def __repr__(self) -> str:
        return f"{self.who}" + ("" if self.how is How.WAIT else f" {self.how.value}")


@dataclass(frozen=True)
class Play:
    """Hold the scripts of some clients, and in which order they go on; after the last turn the first one ends first."""

    scripts: tuple[Script, ...]
    turns: tuple[Turn, ...] = ()

    def __repr__(self) -> str:
        out = ["Play"]
        for number, script in enumerate(self.scripts):
            out.append(f"  client {number}")
            out += [f"    {line}" for line in script.lines()]
        out.append(f"  turns: {', '.join(map(repr, self.turns)) or 'one client after the other'}")
        return "\n".join(out)

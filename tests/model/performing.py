"""Perform sketches: each client alone on a private connection to PostgreSQL, and all of them through SideCart.

One thread and plain sockets, so that a sketch is always performed in the same order. A client whose answer may have to
wait for others, since they may hold all upstreams, lets its turns pass until it has come.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby

from proxy import protocol as p
from proxy.demo.shop import DATABASE, READER
from tests.model.following import REPORTS_CHANGES, Following, Reply, first_difference, major_of, said_once, said_twice
from tests.model.sketch import Message, Part, Sketch, Write, query
from tests.wire import OF_NAMES, STAND_IN

GLANCE = 0.01
"""How long an answer is awaited that may have to wait for others."""
LOOK = 1.5
"""The same for one that should not: what holds an upstream is not known for certain."""

_KEEPS = re.compile(r"(?i)PREPARE|WITH HOLD|create temp")
"""What may keep an upstream beyond a transaction."""
_BEGINS = re.compile(r"(?i)^\s*(begin|start transaction)\b[^;]*;?\s*$")


class Speaker:
    """Speak for one client with one server."""

    def __init__(self, port: int, part: Part) -> None:
        self.part = part
        self.following = Following()
        self.ended = False
        self._buffer = bytearray()
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(p.startup_message({"user": READER, "database": DATABASE, **dict(part.parameters)}))

    def send(self, data: bytes) -> None:
        # A connection that has ended is seen where it is read.
        with suppress(ConnectionError, TimeoutError):
            self._sock.sendall(data)

    def collect(self, seconds: float, *, to_end: bool = False) -> bool:
        """Read until everything is answered, or up to the end of the connection; return False when the time is over."""
        deadline = time.monotonic() + seconds
        while not self.ended and (to_end or not self.following.is_answered) and not self.following.broken:
            self._sock.settimeout(max(deadline - time.monotonic(), 1e-4))
            try:
                data = self._sock.recv(1 << 18)
            except TimeoutError:
                return False
            except ConnectionError:
                data = b""
            if not data:
                self.end("the connection ended")
                break
            self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 5:
            kind, length = p.read_header(bytes(buffer[at : at + 5]))
            if len(buffer) - at <= length:
                break
            self.following.receive(kind, bytes(buffer[at + 5 : at + length + 1]))
            at += length + 1
        del buffer[:at]

    def end(self, why: str) -> None:
        if not self.ended:
            self.following.end(why)
            self.ended = True

    def close(self, *, reset: bool = False) -> None:
        with suppress(OSError):
            if reset:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


def alone(port: int, sketch: Sketch, refused: Callable[[str], bool]) -> list[Following]:
    """Return what each client of a sketch gets on a private connection; a syntax error stands for what is refused."""
    out = []
    for speaker in [Speaker(port, part) for part in sketch.parts]:
        speaker.collect(30)
        messages = list(speaker.part.messages)
        speaker.following.send(messages)
        speaker.send(b"".join(m.data(STAND_IN) if m.kind in "QP" and refused(m.text) else m.data() for m in messages))
        if not speaker.collect(30, to_end=any(message.kind == "X" for message in messages)):
            speaker.end("no answer")
        speaker.close()
        out.append(speaker.following)
    return out


def has_crashed(sketch: Sketch, twins: Sequence[Following]) -> bool:
    """Whether a private connection ended without a word: messages that SideCart refuses can end PostgreSQL."""
    return any(
        [reply.kind for reply in twin.replies[-2:]] != ["E", "end"]
        and twin.replies[-1].kind == "end"
        and not any(message.kind == "X" for message in part.messages)
        for part, twin in zip(sketch.parts, twins, strict=True)
    )


def refused(port: int, texts: Iterable[str]) -> frozenset[str]:
    """Return those of some texts that SideCart refuses, each asked by a client of its own."""
    out = []
    for text in texts:
        (answer,) = alone(port, Sketch((Part((Write((query(text),)),)),)), lambda text: False)
        if any(reply.body == "refused" for reply in answer.replies):
            out.append(text)
    return frozenset(out)


class _Actor:
    """Hold one client of a sketch that is performed through SideCart, and what its twin got."""

    def __init__(self, part: Part, twin: Following) -> None:
        self.part = part
        self.speaker: Speaker | None = None
        self.taken = 0
        self.over = False
        self._rest = b""
        self._keeps = False
        self._begun = False
        """Whether a BEGIN that may not have been sent on is all that its transaction has."""

    @property
    def holds(self) -> bool:
        """Whether it may hold an upstream."""
        speaker = self.speaker
        if speaker is None or self.over:
            return False
        following = speaker.following
        return not following.is_answered or following.status != p.IDLE or following.open or self._keeps

    @property
    def has_one(self) -> bool:
        """Whether it surely holds one."""
        following = self.speaker.following if self.speaker is not None else Following()
        return following.status == p.IN_TRANSACTION and not self._begun

    @property
    def all_said(self) -> bool:
        return self.taken == len(self.part.writes) and not self._rest

    def start(self, port: int) -> None:
        self.speaker = Speaker(port, self.part)

    def say(self, speaker: Speaker) -> None:
        """Send the next write, or what is left of the one that was torn."""
        if self._rest:
            rest, self._rest = self._rest, b""
            speaker.send(rest)
            return
        write = self.part.writes[self.taken]
        self.taken += 1
        messages = write.all_messages
        self._note(messages)
        data = b"".join(message.data() for message in messages)
        cut = len(data) * write.cut // 16
        self._rest = data[cut:] if cut else b""
        speaker.following.send(messages)
        speaker.send(data[:cut] if cut else data)

    @property
    def awaits(self) -> bool:
        """Whether what it has said is answered before it goes on."""
        if self._rest or (self.all_said and self.part.leaves):
            return False
        return not self.taken or self.part.writes[self.taken - 1].waits

    def _note(self, messages: Iterable[Message]) -> None:
        texts = [message.text for message in messages if message.kind in "QP"]
        self._keeps = self._keeps or any(_KEEPS.search(text) for text in texts)
        if texts:
            self._begun = any(_BEGINS.search(text) for text in texts)


class Performance:
    """Let the clients of a sketch go on through a SideCart of so many upstreams, turn by turn."""

    def __init__(self, sketch: Sketch, port: int, upstreams: int, twins: Sequence[Following], patience: float) -> None:
        self._sketch = sketch
        self._port = port
        self._upstreams = upstreams
        self._patience = patience
        self._actors = [_Actor(part, twin) for part, twin in zip(sketch.parts, twins, strict=True)]

    def run(self) -> list[Following]:
        for number in self._sketch.order:
            actor = self._actors[number]
            if not actor.over:
                self._step(actor)
        got_on = time.monotonic()
        while here := [actor for actor in self._actors if not actor.over]:
            for actor in here:
                while not actor.over and self._step(actor):
                    got_on = time.monotonic()
            if time.monotonic() > got_on + self._patience:
                for actor in here:
                    if actor.speaker is not None and not actor.over:
                        actor.speaker.end("no answer")
                        self._leave(actor, actor.speaker)
        return [actor.speaker.following if actor.speaker else Following() for actor in self._actors]

    def _step(self, actor: _Actor) -> bool:
        """Let a client take its turn; return False where it waits for others."""
        speaker = actor.speaker
        if speaker is None:
            actor.start(self._port)
            assert actor.speaker is not None
            speaker = actor.speaker
            if not self._collected(actor, speaker):
                return False
        if actor.awaits and not self._collected(actor, speaker):
            return False
        if speaker.ended or speaker.following.broken:
            self._leave(actor, speaker)
            return True
        if actor.all_said:
            if not actor.part.leaves and not self._collected(actor, speaker):
                return False
            self._leave(actor, speaker)
            return True
        actor.say(speaker)
        if actor.awaits:
            self._collected(actor, speaker)
        return True

    def _collected(self, actor: _Actor, speaker: Speaker) -> bool:
        others = sum(other.holds for other in self._actors if other is not actor)
        sure = actor.has_one or others < self._upstreams
        said = actor.all_said and any(message.kind == "X" for message in actor.part.messages)
        return speaker.collect(min(LOOK, self._patience) if sure else GLANCE, to_end=said)

    def _leave(self, actor: _Actor, speaker: Speaker) -> None:
        if not actor.part.leaves and not speaker.ended:
            speaker.send(p.TERMINATE_MESSAGE)
        speaker.close(reset=actor.part.leaves)
        actor.over = True


@dataclass(frozen=True, slots=True)
class Difference:
    """Say where an answer differs: whose, the frontend message, and the two backend messages."""

    client: int
    message: str
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"client {'ABCDEFGHIJ'[self.client]}, {self.message}\n  expected: {self.expected}\n  found:    {self.found}"
        )


def difference(sketch: Sketch, twins: Sequence[Following], found: Sequence[Following]) -> Difference | None:
    """Return the first difference between what clients got and what their twins got."""
    for number, (part, twin, ours) in enumerate(zip(sketch.parts, twins, found, strict=True)):
        left, right = _counting(twin, twin), _counting(ours, twin)
        if major_of(reply.body for reply in twin.replies if reply.kind == "S") < REPORTS_CHANGES:
            left, right = _said_once((left, right))
        if part.leaves:
            left, right = _up_to_the_end(left, right)
        left, right = _up_to_refusal(*_up_to_fatal(left, right))
        at = first_difference(left, right)
        if at is None:
            continue
        pair = [side[at] if at < len(side) else None for side in (left, right)]
        answers = min(each.answers for each in pair if each is not None)
        messages = list(part.messages)
        message = (
            str(messages[answers]) if 0 <= answers < len(messages) else "the greeting" if answers < 0 else "the end"
        )
        shown = [f"{each.kind} {each.body}"[:400] if each is not None else "nothing" for each in pair]
        if ours.broken:
            shown[1] += f" ({ours.broken})"
        return Difference(number, message, *shown)
    return None


def _said_once(sides: Sequence[list[Reply]]) -> list[list[Reply]]:
    """Leave out each ParameterStatus that says what the last one of its name has said: see REPORTS_CHANGES."""
    grouped = [[(kind, list(each)) for kind, each in groupby(side, lambda reply: reply.kind)] for side in sides]
    told = [
        [[reply.body for reply in each if isinstance(reply.body, tuple)] if kind == "S" else [] for kind, each in side]
        for side in grouped
    ]
    left_out = said_twice(told[0]) | said_twice(told[1])
    return [
        [
            reply
            for (kind, group), new in zip(side, said_once(parameters, left_out), strict=True)
            for reply in (dict.fromkeys(group) if kind == "S" else group)
            if kind != "S" or reply.body in new
        ]
        for side, parameters in zip(grouped, told, strict=True)
    ]


def _up_to_the_end(theirs: list[Reply], ours: list[Reply]) -> tuple[list[Reply], list[Reply]]:
    """Leave out what a client that has left did not wait for, and ParameterStatus in the group that was not over then.

    A server from 14 on sends it at the end of its group (`ReportChangedGUCOptions()`, utils/misc/guc.c).
    """
    over = max((number for number, reply in enumerate(ours, 1) if reply.kind == "Z"), default=0)
    left, right = ([reply for reply in side[over:] if reply.kind != "S"] for side in (theirs, ours))
    return theirs[:over] + left[: len(right)], ours[:over] + right


def _up_to_fatal(theirs: list[Reply], ours: list[Reply]) -> tuple[list[Reply], list[Reply]]:
    """End both sides where the server has ended the private connection: who has lost an upstream gets an ERROR.

    It has to stand in the same place, with the same code and message.
    """
    for number, reply in enumerate(theirs):
        if isinstance(reply.body, dict) and reply.body.get("V") == "FATAL":
            last = [
                replace(each, body={**each.body, "S": "", "V": ""}) if isinstance(each.body, dict) else each
                for each in (reply, *ours[number : number + 1])
            ]
            return [*theirs[:number], last[0]], [*ours[:number], *last[1:]]
    return theirs, ours


def _up_to_refusal(theirs: list[Reply], ours: list[Reply]) -> tuple[list[Reply], list[Reply]]:
    """End both sides where SideCart refuses what only the names of its client show: its twin has gone another way."""
    for number, reply in enumerate(ours):
        if reply.body == OF_NAMES:
            return theirs[:number], ours[:number]
    return theirs, ours


def _counting(side: Following, twin: Following) -> list[Reply]:
    """Leave out the answers to messages behind which nobody has asked for any."""
    return [reply for reply in side.replies if not twin.comparable <= reply.answers < twin.sent]

"""The answer to a Query of SideCart's own, kept small until it is whole: the server may not be what it says it is.

What a catalogue or a role's privileges are told in repeats itself, and shrinks to a tenth. What does not shrink, or
does not end, is no such answer. Python's objects for its values, which weigh more than the bytes, are made at the end.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from proxy import protocol as p
from proxy.errors import UpstreamFloodError, UpstreamProtocolError

MAX_PACKED: Final = 10 << 20
"""Bytes that an answer may have when it is packed."""
MAX_MESSAGE: Final = 8 << 20
"""Bytes of one message of it."""
ROW_COST: Final = 64
"""Bytes that a row costs in memory beside its values."""
VALUE_COST: Final = 42
"""Bytes that a value costs in memory beside what it says."""
STEP: Final = 32_768
"""Bytes that are unpacked before others may have a turn."""

_KINDS: Final = frozenset(
    (
        p.ROW_DESCRIPTION,
        p.DATA_ROW,
        p.COMMAND_COMPLETE,
        p.EMPTY_QUERY_RESPONSE,
        p.NOTICE_RESPONSE,
        p.PARAMETER_STATUS,
        p.NOTIFICATION_RESPONSE,
    )
)
"""What it may hold beside its end."""

Rows = list[list[bytes | None]]


class OwnAnswer:
    """Take the bytes of an answer as they come; give its rows when all have come.

    `limit` bounds what the rows will cost in memory, headers and objects included. `error` is the body of the
    ErrorResponse that has ended it, if one has. Statements without a result count for nothing.
    """

    __slots__ = ("_cost", "_limit", "_packed", "_packer", "_rest", "_size", "error", "results")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._cost = 0
        self._packer = zlib.compressobj(1)
        self._packed: list[bytes] = []
        self._size = 0
        self._rest = bytearray()
        self.error: bytes | None = None
        self.results: list[Rows] = []
        """The rows of each result, once `unpack` has made them."""

    def feed(self, data: bytes) -> bool:
        """Take what has come; return whether that is all.

        Raises UpstreamFloodError where there is more than may be, UpstreamProtocolError for what does not belong there.
        """
        rest = self._rest
        rest += data
        size, at, cost = len(rest), 0, self._cost
        ended = False
        while size - at >= 5 and not ended:
            kind, length = p.read_header(rest, at)
            if not 4 <= length <= MAX_MESSAGE:
                raise UpstreamProtocolError("invalid length of a backend message")
            end = at + 1 + length
            if end > size:
                break
            cost += length + ROW_COST
            if kind == p.DATA_ROW:
                cost += VALUE_COST * int.from_bytes(rest[at + 5 : min(end, at + 7)], "big")
            elif kind == p.READY_FOR_QUERY:
                ended = True
            elif kind == p.ERROR_RESPONSE:
                self.error = bytes(rest[at + 5 : end])
                return True
            elif kind not in _KINDS:
                raise UpstreamProtocolError(f"backend message {chr(kind)!r} out of place")
            if cost > self._limit:
                raise UpstreamFloodError(f"the answer needs more than {self._limit} bytes of memory")
            at = end
        self._cost = cost
        with memoryview(rest) as view, view[:at] as messages:
            self._keep(messages)
        del rest[:at]
        return ended

    def _keep(self, messages: memoryview) -> None:
        packed = self._packer.compress(messages)
        if packed:
            self._packed.append(packed)
            self._size += len(packed)
            if self._size > MAX_PACKED:
                raise UpstreamFloodError(f"the answer has more than {MAX_PACKED} bytes when it is packed")

    def forget(self) -> None:
        """Let go of what has come: it is of no use. Who was told why holds this object, until cycles are looked for."""
        self._packed.clear()
        self._rest.clear()
        self.results = []
        del self._packer

    def unpack(self) -> Iterator[None]:
        """Make the rows of what has come, and stop now and then: others may have a turn.

        Raises UpstreamProtocolError for a row that is none.
        """
        rest = b""
        for piece in self._pieces():
            data = rest + piece if rest else piece
            at = 0
            while len(data) - at >= 5:
                kind, length = p.read_header(data, at)
                end = at + 1 + length
                if end > len(data):
                    break
                if kind == p.ROW_DESCRIPTION:
                    self.results.append([])
                elif kind == p.DATA_ROW:
                    if not self.results:
                        raise UpstreamProtocolError("row out of place")
                    self.results[-1].append(p.row_values(data[at + 5 : end]))
                at = end
            rest = data[at:]
            yield

    def _pieces(self) -> Iterator[bytes]:
        self._packed.append(self._packer.flush())
        unpacker = zlib.decompressobj()
        for packed in self._packed:
            left = packed
            while left:
                yield unpacker.decompress(left, STEP)
                left = unpacker.unconsumed_tail
        yield unpacker.flush()

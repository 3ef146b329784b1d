"""Version 3 of the frontend/backend protocol: bytes to messages and back, with every length bounded.

Names and layouts are those of the PostgreSQL manual, chapter "Frontend/Backend Protocol". The limits are
PostgreSQL's own (`SocketBackend()` in src/backend/tcop/postgres.c, `pqcomm.h`). Nothing here knows a socket.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from proxy.errors import (
    FEATURE_NOT_SUPPORTED,
    ClientProtocolError,
    MalformedMessageError,
    NoStartupError,
    UpstreamFloodError,
    UpstreamProtocolError,
)
from proxy.ours import NO_NAME

# Frontend messages
BIND: Final = 0x42  # 'B'
CLOSE: Final = 0x43  # 'C'
DESCRIBE: Final = 0x44  # 'D'
EXECUTE: Final = 0x45  # 'E'
FUNCTION_CALL: Final = 0x46  # 'F'
FLUSH: Final = 0x48  # 'H'
PARSE: Final = 0x50  # 'P'
QUERY: Final = 0x51  # 'Q'
SYNC: Final = 0x53  # 'S'
TERMINATE: Final = 0x58  # 'X'
COPY_DATA: Final = 0x64  # 'd', both directions
COPY_DONE: Final = 0x63  # 'c', both directions
COPY_FAIL: Final = 0x66  # 'f'
PASSWORD: Final = 0x70  # 'p': PasswordMessage, SASLInitialResponse, SASLResponse

# Backend messages
PARSE_COMPLETE: Final = 0x31  # '1'
BIND_COMPLETE: Final = 0x32  # '2'
CLOSE_COMPLETE: Final = 0x33  # '3'
NOTIFICATION_RESPONSE: Final = 0x41  # 'A'
COMMAND_COMPLETE: Final = 0x43  # 'C'
DATA_ROW: Final = 0x44  # 'D'
ERROR_RESPONSE: Final = 0x45  # 'E'
COPY_IN_RESPONSE: Final = 0x47  # 'G'
COPY_OUT_RESPONSE: Final = 0x48  # 'H'
EMPTY_QUERY_RESPONSE: Final = 0x49  # 'I'
BACKEND_KEY_DATA: Final = 0x4B  # 'K'
NOTICE_RESPONSE: Final = 0x4E  # 'N'
AUTHENTICATION: Final = 0x52  # 'R'
PARAMETER_STATUS: Final = 0x53  # 'S'
ROW_DESCRIPTION: Final = 0x54  # 'T'
FUNCTION_CALL_RESPONSE: Final = 0x56  # 'V'
COPY_BOTH_RESPONSE: Final = 0x57  # 'W'
READY_FOR_QUERY: Final = 0x5A  # 'Z'
NO_DATA: Final = 0x6E  # 'n'
PORTAL_SUSPENDED: Final = 0x73  # 's'
PARAMETER_DESCRIPTION: Final = 0x74  # 't'
NEGOTIATE_PROTOCOL_VERSION: Final = 0x76  # 'v'

# Transaction status, as ReadyForQuery carries it
IDLE: Final = 0x49  # 'I'
IN_TRANSACTION: Final = 0x54  # 'T'
FAILED: Final = 0x45  # 'E'

# Codes in place of a protocol version (pqcomm.h)
CANCEL_REQUEST_CODE: Final = 80877102
SSL_REQUEST_CODE: Final = 80877103
GSSENC_REQUEST_CODE: Final = 80877104
PROTOCOL_3_0: Final = 3 << 16
PROTOCOL_3_2: Final = (3 << 16) | 2

SSL_REQUEST: Final = struct.pack("!II", 8, SSL_REQUEST_CODE)
GSSENC_REQUEST: Final = struct.pack("!II", 8, GSSENC_REQUEST_CODE)

MAX_STARTUP_PACKET: Final = 10_000  # MAX_STARTUP_PACKET_LENGTH
SMALL_MESSAGE: Final = 10_000  # PQ_SMALL_MESSAGE_LIMIT
LARGE_MESSAGE: Final = 0x3FFFFFFE  # PQ_LARGE_MESSAGE_LIMIT, MaxAllocSize - 1
FUNCTION_CALL_LIMIT: Final = 65_536
"""Allowed calls are large-object reads: a few integers. PostgreSQL itself would take 1 GiB."""

FRONTEND_LIMITS: Final[Mapping[int, int]] = {
    BIND: LARGE_MESSAGE,
    CLOSE: SMALL_MESSAGE,
    COPY_DATA: LARGE_MESSAGE,
    COPY_DONE: SMALL_MESSAGE,
    COPY_FAIL: SMALL_MESSAGE,
    DESCRIBE: SMALL_MESSAGE,
    EXECUTE: SMALL_MESSAGE,
    FLUSH: SMALL_MESSAGE,
    FUNCTION_CALL: FUNCTION_CALL_LIMIT,
    PARSE: LARGE_MESSAGE,
    QUERY: LARGE_MESSAGE,
    SYNC: SMALL_MESSAGE,
    TERMINATE: SMALL_MESSAGE,
}
"""Longest length field of each frontend message that a logged-in client may send. Any other type byte is fatal."""

MAX_ROW: Final = LARGE_MESSAGE + 4
"""Longest length field of a DataRow or CopyData: itself and a StringInfo (enlargeStringInfo(), common/stringinfo.c)."""
BACKEND_LIMITS: Final[Mapping[int, int]] = {
    PARSE_COMPLETE: 4,
    BIND_COMPLETE: 4,
    CLOSE_COMPLETE: 4,
    NO_DATA: 4,
    EMPTY_QUERY_RESPONSE: 4,
    PORTAL_SUSPENDED: 4,
    COPY_DONE: 4,
    READY_FOR_QUERY: 5,
    COMMAND_COMPLETE: 4 + 64,  # COMPLETION_TAG_BUFSIZE in tcop/cmdtag.h
    COPY_OUT_RESPONSE: 4 + 1 + 2 + 2 * 0xFFFF,
    BACKEND_KEY_DATA: 4 + 4 + 256,
}
"""Longest length field of each backend message that has a longest one; most are of one length.

ParameterDescription has none: a text may have more parameters than the 65535 that a Bind can give, and their types are
all told, behind a number of 16 bits that has overflowed (exec_describe_statement_message(), tcop/postgres.c).
"""

read_header = struct.Struct("!BI").unpack_from
"""Read (type, length) at an offset. The length counts itself but not the type byte; it is unsigned, so a negative
one is merely too long."""


write_header = struct.Struct("!BI").pack
"""Build a header from (type, length)."""


def check_frontend(kind: int, length: int) -> None:
    """Refuse a header that no legal frontend message has, before anything of its body is buffered.

    Raises ClientProtocolError, as fatal to the connection as it is in PostgreSQL.
    """
    limit = FRONTEND_LIMITS.get(kind)
    if limit is None:
        raise ClientProtocolError(f"invalid frontend message type {kind}")
    if not 4 <= length <= limit:
        raise ClientProtocolError(f"invalid message length {length} for message type {chr(kind)!r}")


# --- frontend bodies ---------------------------------------------------------------------------------------------
#
# What is wrong with them is said in PostgreSQL's words (libpq/pqformat.c), and does not end the connection: each of
# these functions raises MalformedMessageError.

_NULL: Final = 0xFFFFFFFF
"""The length of a value that is NULL."""


def _string(data: bytes, start: int, end: int) -> int:
    """Find the NUL that ends the string at `start` in data[:end]; return the offset behind it."""
    stop = data.find(0, start, end)
    if stop < 0:
        raise MalformedMessageError("invalid string in message")
    return stop + 1


def _left(at: int, size: int, end: int) -> int:
    """Return the offset behind the next `size` bytes."""
    if end - at < size:
        raise MalformedMessageError("insufficient data left in message")
    return at + size


def _ended(at: int, end: int) -> None:
    if at != end:
        raise MalformedMessageError("invalid message format")


def query_text(data: bytes, start: int, end: int) -> bytes:
    """Return the text of the Query whose body is data[start:end]: everything before a NUL that must come last."""
    if data.find(0, start, end) != end - 1 or end == start:
        _ended(_string(data, start, end), end)
    return data[start : end - 1]


def parse_parts(data: bytes, start: int, end: int) -> tuple[bytes, bytes]:
    """Return (statement name, text) of the Parse whose body is data[start:end]; its types must fill it exactly."""
    text = _string(data, start, end)
    types = _string(data, text, end)
    count = int.from_bytes(data[types : _left(types, 2, end)], "big")
    _ended(_left(types, 2 + 4 * count, end), end)
    return data[start : text - 1], data[text : types - 1]


def parameter_types(types: bytes) -> tuple[int, ...]:
    """Return the OIDs in the end of a Parse: what stands behind its text, by `parse_parts` of the right length."""
    return struct.unpack(f">{len(types) // 4}I", types[2:])


def bind_names(data: bytes, start: int, end: int) -> tuple[bytes, bytes, int]:
    """Return (portal, statement, offset behind both) of the Bind whose body starts at `start`."""
    statement = _string(data, start, end)
    rest = _string(data, statement, end)
    return data[start : statement - 1], data[statement : rest - 1], rest


def bind_values(data: bytes, start: int, end: int) -> list[bytes | None]:
    """Return the values, None for NULL, of the Bind that goes on at `start`, behind its names.

    The formats of values and results are passed over.
    """
    at = start

    def take(size: int) -> bytes:
        nonlocal at
        begin, at = at, _left(at, size, end)
        return data[begin:at]

    def number(size: int) -> int:
        return int.from_bytes(take(size), "big")

    take(2 * number(2))
    values = [None if (length := number(4)) == _NULL else take(length) for _ in range(number(2))]
    take(2 * number(2))
    _ended(at, end)
    return values


def target_parts(data: bytes, start: int, end: int, what: str) -> tuple[int, bytes]:
    """Return (kind, name) of the Describe or Close in data[start:end]: `S` a statement, `P` a portal."""
    if start == end:
        raise MalformedMessageError("no data left in message")
    _ended(_string(data, start + 1, end), end)
    if data[start] not in b"SP":
        raise MalformedMessageError(f"invalid {what.upper()} message subtype {data[start]}")
    return data[start], data[start + 1 : end - 1]


def check_execute(data: bytes, start: int, end: int) -> None:
    """Check that the Execute in data[start:end] is a portal's name and a row limit."""
    _ended(_left(_string(data, start, end), 4, end), end)


def check_empty(start: int, end: int) -> None:
    """Check that a Sync or Flush carries nothing."""
    _ended(start, end)


def function_call_parts(data: bytes, start: int, end: int) -> tuple[int, list[int], list[bytes | None]]:
    """Return (function OID, one format for each argument, arguments) of the FunctionCall in data[start:end]."""
    at = start

    def take(size: int) -> bytes:
        nonlocal at
        begin, at = at, _left(at, size, end)
        return data[begin:at]

    oid = int.from_bytes(take(4), "big")
    count = int.from_bytes(take(2), "big")
    formats = list(struct.unpack(f"!{count}h", take(2 * count)))
    given = int.from_bytes(take(2), "big")
    if count > 1 and count != given:
        text = f"function call message contains {count} argument formats but {given} arguments"
        raise MalformedMessageError(text)
    arguments: list[bytes | None] = []
    for _ in range(given):
        length = int.from_bytes(take(4), "big", signed=True)
        if length < -1:
            raise MalformedMessageError(f"invalid argument size {length} in function call message")
        arguments.append(None if length < 0 else take(length))
    take(2)  # format of the result
    _ended(at, end)
    if count != given:
        formats = (formats or [0]) * given
    return oid, formats, arguments


# --- start-up packets --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Startup:
    """Hold what a StartupMessage says: its protocol version, its parameters in order, and `_pq_.` options."""

    version: int
    parameters: dict[str, str]
    unknown_options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Hold the key that a CancelRequest presents. The secret has 4 bytes in protocol 3.0, up to 256 in 3.2."""

    pid: int
    secret: bytes


def startup_length(head: bytes) -> int:
    """Return the length of the start-up packet that begins with these 4 bytes or more.

    Raises NoStartupError where no start-up packet can begin so, as a Terminate cannot; the text says what it looks like
    instead, for the log alone: PostgreSQL, too, closes without a word (COMMERROR in ProcessStartupPacket(),
    tcop/backend_startup.c).
    """
    if head[:1] == b"\x16":
        raise NoStartupError("received an unexpected TLS handshake: TLS is not spoken on this connection")
    length = int.from_bytes(head[:4], "big")
    if not 8 <= length <= MAX_STARTUP_PACKET:
        if head[:4] in (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI"):
            raise NoStartupError("received an HTTP request: this port speaks the PostgreSQL protocol")
        raise NoStartupError("invalid length of startup packet")
    return length


def read_startup(packet: bytes) -> Startup | CancelRequest:
    """Decode one whole start-up packet, its 4 bytes of length included: StartupMessage or CancelRequest.

    Raises ClientProtocolError: SSLRequest and GSSENCRequest have no place here, protocol 2 is not spoken.
    """
    version = int.from_bytes(packet[4:8], "big")
    if version == CANCEL_REQUEST_CODE:
        if not 16 <= len(packet) <= 12 + 256:
            raise NoStartupError("invalid length of cancel request packet")
        return CancelRequest(int.from_bytes(packet[8:12], "big"), packet[12:])
    if version in (SSL_REQUEST_CODE, GSSENC_REQUEST_CODE):
        raise ClientProtocolError("encryption was requested a second time")
    if version >> 16 != 3:
        raise ClientProtocolError(
            f"unsupported frontend protocol {version >> 16}.{version & 0xFFFF}: server supports 3.0 to 3.2",
            FEATURE_NOT_SUPPORTED,
        )
    if packet[-1] != 0:
        raise ClientProtocolError("invalid startup packet layout: expected terminator as last byte")
    fields = packet[8:-1].split(b"\0")
    # Every string ends with NUL, so the split leaves one empty field behind the last of them.
    if fields.pop() != b"" or len(fields) % 2:
        raise ClientProtocolError("invalid startup packet layout: expected pairs of name and value")
    parameters: dict[str, str] = {}
    unknown = []
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if not name:
            raise ClientProtocolError("invalid startup packet layout: empty parameter name")
        key = name.decode("utf-8", "surrogateescape")
        if key.startswith("_pq_."):
            unknown.append(key)
        else:
            parameters[key] = value.decode("utf-8", "surrogateescape")
    return Startup(version, parameters, tuple(unknown))


def startup_message(parameters: Mapping[str, str]) -> bytes:
    """Build our StartupMessage to the upstream, protocol 3.0."""
    body = b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in parameters.items())
    return struct.pack("!II", len(body) + 9, PROTOCOL_3_0) + body + b"\0"


def cancel_request(pid: int, secret: bytes) -> bytes:
    """Build a CancelRequest."""
    return struct.pack("!III", 12 + len(secret), CANCEL_REQUEST_CODE, pid) + secret


# --- builders ----------------------------------------------------------------------------------------------------


def message(kind: int, body: bytes = b"") -> bytes:
    """Build one typed message, of either direction."""
    return write_header(kind, len(body) + 4) + body


def query(text: bytes) -> bytes:
    """Build a Query."""
    return message(QUERY, text + b"\0")


def parse(name: bytes, text: bytes, types: bytes = b"\0\0") -> bytes:
    """Build a Parse; `types` is the count of parameter types and the types, as they stand in the message."""
    return message(PARSE, name + b"\0" + text + b"\0" + types)


def execute(portal: bytes) -> bytes:
    """Build an Execute without a row limit."""
    return message(EXECUTE, portal + b"\0" + bytes(4))


def rewritten(kind: int, length: int, start: bytes, rest: bytes) -> bytes:
    """Build a message that begins with other bytes than the client's, whose body had `length` bytes in all.

    `start` stands in the place of the first bytes of that body; `rest` is what has arrived of the others.
    """
    return write_header(kind, length + 4) + start + rest


def in_place(message: bytes, replaced: bytes | None, before: bytes = b"", behind: bytes = b"") -> bytes | None:
    """Return what goes out for a message: what goes ahead of it, itself or what replaces it, what goes behind.

    None: it alone, as it is.
    """
    if replaced is None and not before and not behind:
        return None
    return before + (message if replaced is None else replaced) + behind


def run(name: bytes, sql: bytes) -> tuple[bytes, bytes, bytes]:
    """Build the messages that run a statement inside a group, and touch neither unnamed statement nor portal.

    Return Parse and Bind; Execute; Close of the portal and of the statement.
    """
    bind = message(BIND, name + b"\0" + name + b"\0" + bytes(6))
    return parse(name, sql) + bind, execute(name), target(CLOSE, b"P", name) + target(CLOSE, b"S", name)


def target(kind: int, what: bytes, name: bytes) -> bytes:
    """Build a Describe or Close of a statement (`S`) or portal (`P`)."""
    return message(kind, what + name + b"\0")


SYNC_MESSAGE: Final = message(SYNC)
TERMINATE_MESSAGE: Final = message(TERMINATE)

_NO_SQL: Final = b"sidecart: refused"
REFUSED_PARSE: Final = parse(b"", _NO_SQL)
"""Stands upstream in the place of a refused Parse of the unnamed statement: no SQL, so it destroys the old one as any
failed Parse does, or is skipped with it."""
REFUSED_EXECUTE: Final = execute(NO_NAME)
"""Stands upstream in the place of a refused message: it fails in the message's turn, and fails the transaction."""
REFUSED_QUERY: Final = query(_NO_SQL)
"""The same for a Query, and likewise no SQL."""
REFUSED_CALL: Final = message(FUNCTION_CALL, struct.pack("!IHHH", 0, 0, 0, 0))
"""The same for a FunctionCall: no function has the OID 0."""

READY: Final[Mapping[int, bytes]] = {
    status: message(READY_FOR_QUERY, bytes([status])) for status in (IDLE, IN_TRANSACTION, FAILED)
}
AUTHENTICATION_OK: Final = message(AUTHENTICATION, bytes(4))


def authentication(code: int, body: bytes = b"") -> bytes:
    """Build an Authentication message, such as AuthenticationSASL."""
    return message(AUTHENTICATION, struct.pack("!I", code) + body)


def parameter_status(name: str, value: str) -> bytes:
    """Build a ParameterStatus."""
    return message(PARAMETER_STATUS, name.encode() + b"\0" + value.encode("utf-8", "surrogateescape") + b"\0")


def backend_key_data(pid: int, secret: bytes) -> bytes:
    """Build a BackendKeyData."""
    return message(BACKEND_KEY_DATA, struct.pack("!I", pid) + secret)


def negotiate_protocol_version(newest_minor: int, unknown_options: Iterable[str]) -> bytes:
    """Build a NegotiateProtocolVersion: the newest version of 3 that we speak, and the options that we do not.

    The version is sent whole, as PostgreSQL sends it (`SendNegotiateProtocolVersion()`, backend_startup.c).
    """
    names = [name.encode("utf-8", "surrogateescape") for name in unknown_options]
    body = struct.pack("!II", PROTOCOL_3_0 | newest_minor, len(names)) + b"".join(n + b"\0" for n in names)
    return message(NEGOTIATE_PROTOCOL_VERSION, body)


def error_response(
    severity: str,
    sqlstate: str,
    text: str,
    *,
    detail: str = "",
    hint: str = "",
    position: int = 0,
    codec: str = "utf-8",
) -> bytes:
    """Build an ErrorResponse (severity ERROR or FATAL), its fields in the client's encoding `codec`."""
    return message(ERROR_RESPONSE, _fields(severity, sqlstate, text, detail, hint, position, codec))


def notice_response(
    severity: str, sqlstate: str, text: str, *, detail: str = "", hint: str = "", codec: str = "utf-8"
) -> bytes:
    """Build a NoticeResponse (severity WARNING or NOTICE), its fields in the client's encoding `codec`."""
    return message(NOTICE_RESPONSE, _fields(severity, sqlstate, text, detail, hint, 0, codec))


def _fields(severity: str, sqlstate: str, text: str, detail: str, hint: str, position: int, codec: str) -> bytes:
    pairs = [("S", severity), ("V", severity), ("C", sqlstate), ("M", text)]
    pairs += [(code, value) for code, value in (("D", detail), ("H", hint)) if value]
    if position:
        pairs.append(("P", str(position)))
    encoded = (code.encode() + value.encode(codec, "replace").replace(b"\0", b"?") for code, value in pairs)
    return b"".join(field + b"\0" for field in encoded) + b"\0"


# --- backend bodies ----------------------------------------------------------------------------------------------


def error_fields(body: bytes, codec: str = "utf-8") -> dict[str, str]:
    """Read the fields of an ErrorResponse or NoticeResponse body, by their one-letter codes."""
    return {
        field[:1].decode("ascii", "replace"): field[1:].decode(codec, "replace") for field in body.split(b"\0") if field
    }


def parameter_parts(body: bytes) -> tuple[str, str]:
    """Return (name, value) of a ParameterStatus body."""
    parts = body.split(b"\0")
    if len(parts) != 3:
        raise UpstreamProtocolError("malformed ParameterStatus")
    return parts[0].decode("utf-8", "replace"), parts[1].decode("utf-8", "surrogateescape")


MAX_PARAMETERS: Final = 100
"""Parameters that a server may report: PostgreSQL 18 reports 15, and an extension can add its own."""
MAX_PARAMETER_BYTES: Final = 2 << 20
"""Bytes of all their names and values: search_path, which is one of them, is as long as a client makes it."""


def note_parameter(known: dict[str, str], body: bytes) -> tuple[str, str]:
    """Note a ParameterStatus body among those that are known, and return its name and value.

    Raises UpstreamFloodError where there are more than any server has.
    """
    name, value = parameter_parts(body)
    known[name] = value
    if len(known) > MAX_PARAMETERS or sum(map(len, known)) + sum(map(len, known.values())) > MAX_PARAMETER_BYTES:
        raise UpstreamFloodError("the upstream reports too many parameters")
    return name, value


def column_types(body: bytes) -> bytes:
    """Return what a RowDescription body says of the result's type: names, type OIDs and modifiers of the columns.

    Left out is where they come from: a table that was dropped and created again changes no result
    (`equalTupleDescs()`, access/common/tupdesc.c).
    """
    try:
        (count,) = struct.unpack_from("!H", body, 0)
        at = 2
        found = [body[:2]]
        for _ in range(count):
            name = body.index(0, at) + 1
            found += (body[at:name], body[name + 6 : name + 10], body[name + 12 : name + 16])
            at = name + 18
    except (struct.error, ValueError) as error:
        raise UpstreamProtocolError("malformed RowDescription") from error
    if at != len(body):
        raise UpstreamProtocolError("malformed RowDescription")
    return b"".join(found)


def row_values(body: bytes) -> list[bytes | None]:
    """Return the columns of a DataRow body. Used for our own queries only: a client's rows are never opened."""
    try:
        (count,) = struct.unpack_from("!H", body, 0)
        at = 2
        values: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from("!i", body, at)
            at += 4
            if length < -1:
                raise UpstreamProtocolError("malformed DataRow")
            values.append(None if length < 0 else body[at : at + length])
            at += max(length, 0)
    except struct.error as error:
        raise UpstreamProtocolError("malformed DataRow") from error
    if at != len(body):
        raise UpstreamProtocolError("malformed DataRow")
    return values

"""Say what helper processes are sent and what they answer: MessagePack, each message behind four bytes of length.

A catalogue travels in pieces, so that nobody who decodes one is held up for long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any, Final, get_type_hints

import msgspec

from proxy.errors import INTERNAL_ERROR, STATEMENT_TOO_COMPLEX
from proxy.sql.catalog import Catalog, Key, Taint
from proxy.sql.policy import Policy
from proxy.sql.resolve import built_in
from proxy.sql.resolve.building import Builder, cut
from proxy.sql.resolve.world import Own, Tables, World
from proxy.sql.verdict import Action, Verdict

PATIENCE: Final = 10.0
"""Seconds that a helper may take for a text, or for one step of a proof."""
MEMORY: Final = 2 << 30
"""Bytes of address space that a helper may have. The tree of a text takes up to 500 times the text."""
PIECE: Final = 1000
"""Entries of a catalogue that are decoded at a time: 100,000 in one go held the event loop for 0.25 s."""

Results = list[list[list[bytes | None]]]
"""The rows of each result of a Query, their values in text format."""


# --- a catalogue ------------------------------------------------------------------------------------------------------

_HINTS: Final = {**get_type_hints(Catalog), "taints": dict[Key, Taint], "world": Own | None}
_Form = msgspec.defstruct("_Form", [(item.name, _HINTS[item.name]) for item in fields(Catalog)], array_like=True)
"""A Catalog as it travels: all its fields, in their order; of its world, what it was built of."""


def form(catalog: Catalog, **others: Any) -> Any:
    """Give a catalogue the form in which it travels; `others` stand in the place of its own values."""
    others.setdefault("world", None if catalog.world is None else catalog.world.own)
    return _Form(*(others.get(item.name, getattr(catalog, item.name)) for item in fields(catalog)))


def catalog_of(form: Any, world: World | None) -> Catalog:
    return Catalog(**{item.name: getattr(form, item.name) for item in fields(Catalog)} | {"world": world})


def pieces_of(catalog: Catalog) -> Iterator[Piece]:
    """Cut a catalogue's mappings, and leave them empty, so that no piece holds up who decodes it for long."""
    for name in MAPPINGS:
        entries = iter(getattr(catalog, name).items())
        while some := dict(islice(entries, PIECE)):
            yield Piece(form(Catalog(), **{name: some}))
    if catalog.world is not None:
        for part in cut(catalog.world.own, PIECE):
            yield Piece(form(Catalog(), world=part))


def rest_of(catalog: Catalog) -> Any:
    """Give the form of a catalogue without what is cut."""
    world = None if catalog.world is None else catalog.world.own._replace(tables=Tables())
    return form(catalog, world=world, **{name: {} for name in MAPPINGS})


def joined(form: Any, pieces: Iterable[Piece]) -> Catalog:
    """Put a catalogue that was cut together again."""
    builder = None if form.world is None else built_in.builder(form.world)
    for piece in pieces:
        add(form, builder, piece)
    return catalog_of(form, None if builder is None else builder.world())


def add(form: Any, builder: Builder | None, piece: Piece) -> None:
    part: Any = piece.catalog
    for name in MAPPINGS:
        getattr(form, name).update(getattr(part, name))
    if builder is not None and part.world is not None:
        builder.add(part.world.tables)


MAPPINGS: Final = ("functions", "relations", "types", "operators", "taints", "leaves")


# --- messages ---------------------------------------------------------------------------------------------------------


class Learn(msgspec.Struct, tag=True, array_like=True):
    """Judge by this policy and this catalogue from now on, whose mappings came in pieces before. Has no answer."""

    policy: Policy
    catalog: _Form | None  # type: ignore[valid-type]


class Text(msgspec.Struct, tag=True, array_like=True):
    sql: bytes
    encoding: str
    extended: int
    types: tuple[int, ...] = ()
    schemas: tuple[int, ...] | None = None
    keeps_path: bool = False
    """Both as in Filter."""


class Proof(msgspec.Struct, tag=True, array_like=True):
    results: bytes
    """`Results`, encoded."""
    policy: Policy
    skip: frozenset[int]
    paths: tuple[tuple[int, ...], ...] = ()


class Step(msgspec.Struct, tag=True, array_like=True):
    """Answer in between: the function, relation or type with this OID comes next."""

    oid: int


class Judged(msgspec.Struct, tag=True, array_like=True):
    verdict: Verdict


class Piece(msgspec.Struct, tag=True, array_like=True):
    """A part of a catalogue: of the one that was proved, or that is to be learned."""

    catalog: _Form  # type: ignore[valid-type]


class Proved(msgspec.Struct, tag=True, array_like=True):
    """Answer with the catalogue, but for its mappings: they came in pieces."""

    catalog: _Form  # type: ignore[valid-type]


class Failed(msgspec.Struct, tag=True, array_like=True):
    why: str


encode = msgspec.msgpack.Encoder().encode
read_request = msgspec.msgpack.Decoder(Learn | Piece | Text | Proof).decode
read_answer = msgspec.msgpack.Decoder(Step | Judged | Proved | Failed).decode
read_piece = msgspec.msgpack.Decoder(Piece).decode
PIECE_HEAD = b"\x92\xa5Piece"
"""How the MessagePack of a Piece begins: an array of two, its tag. Many come in one read, and are decoded in turns."""
Answer = Judged | Proved | Failed


def encode_results(results: Sequence[Sequence[Sequence[bytes | None]]]) -> bytes:
    """Return results as a proof takes them; equal bytes are equal results."""
    return encode(results)


# --- verdicts on what could not be judged -----------------------------------------------------------------------------

TOO_COMPLEX: Final = Verdict(
    Action.REFUSE,
    "unparsable",
    rule="depth",
    sqlstate=STATEMENT_TOO_COMPLEX,
    message="the statement is too complex to be judged",
    detail=f"Reading it took more than {PATIENCE:g} s or {MEMORY >> 30} GB of memory (rule: depth).",
    hint="Send fewer values in one text: as an array parameter, or in several statements.",
)
NOT_JUDGED: Final = Verdict(
    Action.REFUSE,
    "unparsable",
    rule="internal",
    sqlstate=INTERNAL_ERROR,
    message="the statement could not be judged",
    detail="The process that judges long texts could not do it (rule: internal).",
    hint="Send it again; if it is refused again, ask the operator to look into SideCart's log.",
)

"""What parse analysis looks names up in: rows as a server gives them, above what is built in. No socket."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from msgspec import structs

from proxy.sql.resolve import Resolver, building, built_in, rows, world
from proxy.sql.resolve.building import Builder
from proxy.sql.resolve.layers import Layered
from proxy.sql.resolve.search import with_catalog
from proxy.sql.resolve.world import Column, Own, Relation, Tables, columns_of
from proxy.sql.text import parse

ANY_VERSION = range(13, 19)
PUBLIC = 2200
DIGEST = (built_in.digest(15) or "").encode()
FUNCTION = (
    b"16400",
    b"2200",
    b"lower",
    b"f",
    b"25 23",
    b"25",
    b"f",
    b"0",
    b"1",
    b"25 23 25",
    b"iio",
    rb"a\s/\b/",
    None,
)
RECORDED: dict[str, rows.Rows] = {
    "schemas": [[b"pg_catalog", b"11", b"t"], [b"hidden", b"16384", b"f"], [b"dropped", b"16385", None]],
    "types": [[*b"16390 2200 mood e E f 0 f 16391 0 -1 0 f f 3506 3507 0".split()]],
    "functions": [[*FUNCTION, None, None], [*FUNCTION[:2], b"last", b"a", *FUNCTION[4:], b"n", b"0"]],
    "operators": [[*b"16410 2200 @ 0 16390 25 16400".split()]],
    "casts": [[*b"16390 1043 16400 a f 16420".split()]],
    "classes": [[*b"16430 403 16390 16431".split()]],
    "members": [[*b"1976 403 23 16390 1 97".split()]],
    "support": [[*b"1976 23 16390 3 351".split()]],
    "relations": [
        [b"16440", b"2200", b"t", b"r", b"16442", b"0", b"16441", rb"23 id/1700:655366 a\sb/25 c\bd"],
        [b"16450", b"16384", b"t", b"v", b"16452", b"0", b"16451", None],
        [b"16460", b"2200", b"s", b"S", b"0", b"0", b"0", b"20 last_value"],
    ],
    "parents": [[b"16440", b"16450"], [b"16440", b"16460"]],
    "ranges": [[*b"16470 16390 16471".split()]],
}


def text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def answers(digest: bytes = DIGEST, first: bytes = b"12000", **others: rows.Rows) -> list[rows.Rows]:
    found = RECORDED | others
    return [[[digest, first]], *(found[name] for name in Tables._fields if name in found)]


def recorded() -> world.World:
    own = built_in.own(15, answers(), text)
    assert own is not None
    return built_in.build(own)


# --- what is built in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("major", ANY_VERSION)
def test_what_every_version_has_built_in(major: int) -> None:
    found = built_in.built_in(major)
    assert found is not None
    assert found is built_in.built_in(major)
    assert found.types[23].name == "int4"
    assert [each.oid for each in found.functions_named["lower"]] == ([870, 3848, 4235] if major >= 14 else [870, 3848])
    assert found.operators[96].function == 65
    assert found.casts[23, 20].context == "i"
    assert found.members[1976, 23, 23, 3] == 96
    assert (1976, 3) in found.strategies[96]
    assert (23, 4128) in found.in_range[1976, 23]
    assert found.subtypes[3904] == 23
    assert found.multiranges.get(3904, 0) == (4451 if major >= 14 else 0)
    assert not found.relations
    assert len(found.functions) > 3000
    assert len(built_in.codes(major)) == len(found.functions)
    assert max(found.functions) < rows.FIRST_OWN
    assert max(found.types) < rows.FIRST_OWN


def test_versions_differ() -> None:
    worlds = [built_in.built_in(major) for major in ANY_VERSION]
    counts = [len(each.functions) for each in worlds if each is not None]
    assert all(one < other for one, other in pairwise(counts))
    assert len({built_in.digest(major) for major in ANY_VERSION}) == len(ANY_VERSION)


@pytest.mark.parametrize("major", [0, 12, 19])
def test_version_that_is_not_known_has_no_world(major: int) -> None:
    assert built_in.built_in(major) is None
    assert built_in.own(major, answers(), text) is None
    assert not built_in.is_another(major, answers())
    with pytest.raises(ValueError, match="is not known"):
        built_in.build(Own(major))


# --- what a database has beside it ------------------------------------------------------------------------------------


def test_own_objects_stand_beside_the_built_in_ones() -> None:
    found = recorded()
    below = built_in.built_in(15)
    assert below is not None
    assert found.schemas == {"pg_catalog": 11, "hidden": 16384, "dropped": 16385}
    assert found.usable == {11}
    assert found.types[16390].name == "mood"
    assert found.types[23] is below.types[23]
    assert {870, 16400} < {each.oid for each in found.functions_named["lower"]}
    assert found.functions_named["upper"] is below.functions_named["upper"]
    assert len(below.functions_named["lower"]) == len(found.functions_named["lower"]) - 1
    assert found.functions[16400].names == ("a/", "\\", "")
    assert [(each.aggregate, each.direct) for each in found.functions_named["last"]] == [("n", 0)]
    assert [each.left for each in found.operators_named["@"] if each.oid == 16410] == [0]
    assert found.casts[16390, 1043].function == 16400
    assert found.casts[23, 20] is below.casts[23, 20]
    assert [each.type for each in found.classes[403] if each.oid >= 16384] == [16390]
    assert len(found.classes[403]) == len(below.classes[403]) + 1
    assert found.classes[405] is below.classes[405]
    assert found.members[1976, 23, 16390, 1] == 97
    assert found.strategies[97][-1] == (1976, 1)
    assert found.in_range[1976, 23] == [*below.in_range[1976, 23], (16390, 351)]
    assert found.parents == {16440: [16450, 16460]}
    assert found.multiranges[16470] == 16471
    assert found.ranges[16471] == 16470
    assert found.subtypes[16470] == 16390


def test_nothing_built_in_is_copied_for_a_database_without_the_like() -> None:
    own = built_in.own(15, answers(**{name: [] for name in RECORDED}), text)
    assert own is not None
    found, below = built_in.build(own), built_in.built_in(15)
    assert below is not None
    for name in ("types", "types_named", "functions", "functions_named", "operators", "operators_named", "casts"):
        assert getattr(found, name) is getattr(below, name)
    for name in ("classes", "members", "strategies", "in_range", "subtypes", "ranges", "multiranges"):
        assert getattr(found, name) is getattr(below, name)


def test_relations_and_their_columns() -> None:
    found = recorded()
    table, view = found.relations_named["t"]
    assert table.columns == (Column("id", 23, -1), Column("a/b", 1700, 655366), Column("c\\d", 25, -1))
    assert table.columns is table.columns
    assert view.columns == ()
    assert found.relations[16460].columns == (Column("last_value", 20, -1),)


def test_types_of_rows_follow_from_relations() -> None:
    found = recorded()
    row, array = found.types[16442], found.types[16441]
    assert (row.name, row.schema, row.kind, row.relation, row.array) == ("t", PUBLIC, "c", 16440, 16441)
    assert (array.name, array.schema, array.element, array.is_array) == ("_t", PUBLIC, 16442, True)
    assert [each.oid for each in found.types_named["t"]] == [16442, 16452]
    assert [each.oid for each in found.types_named["_t"]] == [16441, 16451]
    assert found.types_named.get("s") is None
    assert found.types_named.get("_s", ()) == ()
    assert "s" not in found.types_named
    with pytest.raises(KeyError):
        found.types[0]
    with pytest.raises(KeyError):
        found.types_named["nowhere"]
    assert found.types.get(99, None) is None
    assert set(found.types) > {23, 16390, 16441, 16442, 16451, 16452}
    assert len(found.types) == len(set(found.types))
    assert {"int4", "mood", "t", "_t"} < set(found.types_named)
    assert len(found.types_named) == len(set(found.types_named))


def test_type_that_was_read_wins_over_the_one_that_follows() -> None:
    """A name that does not follow from the relation's, or what a superuser made of it."""
    moved = [[*b"16441 16384 __t b A f 16442 t 0 0 -1 0 f t 750 751 0".split()]]
    own = built_in.own(15, answers(types=moved), text)
    assert own is not None
    found = built_in.build(own)
    assert found.types[16441].schema == 16384
    assert [each.oid for each in found.types_named["_t"]] == [16451]
    assert [each.oid for each in found.types_named["__t"]] == [16441]


def test_thousand_tables_of_one_name_share_their_columns() -> None:
    shape = "23 id/25 name"
    builder = Builder(15, built_in.built_in(15))
    for number in range(1000):
        same = "".join(["23 id", "/25 name"])
        builder.add(Tables(relations=[Relation(20000 + number, 30000 + number, "t", "r", 0, 0, 0, same)]))
    found = builder.world()
    assert len(found.relations_named["t"]) == 1000
    assert len({id(each.shape) for each in found.relations.values()}) == 1
    assert found.relations[20007].columns == columns_of(shape)[0]
    assert len({id(each) for each in found.own.tables.relations}) == 1000


def test_parts_make_the_same_world_as_the_whole() -> None:
    own = built_in.own(15, answers(), text)
    assert own is not None
    builder = built_in.builder(own)
    parts = list(building.cut(own, 1))
    assert len(parts) == sum(map(len, own.tables))
    for part in parts:
        builder.add(part.tables)
    assert builder.world().own == built_in.build(own).own == own


# --- a server with others ---------------------------------------------------------------------------------------------


def everything(**others: list[list[bytes | None]]) -> list[rows.Rows]:
    """Return what a server of version 15 would answer that nobody has changed, read whole, with own objects."""
    found: dict[str, list[list[bytes | None]]] = {name: [[*row] for row in given] for name, given in RECORDED.items()}
    for kind in built_in.KINDS:
        found[kind] = [[value.encode() for value in row] for row in built_in._rows(kind, 15)] + found[kind]
    return answers(b"1 2 3", b"0", **(found | others))


def test_answer_that_is_not_whole_will_not_do_where_something_is_another() -> None:
    assert built_in.is_another(15, answers(b"1 2 3"))
    assert built_in.own(15, answers(b"1 2 3"), text) is None
    assert not built_in.is_another(15, answers())


def test_server_with_more_built_in_still_shares_the_rest() -> None:
    more = [*everything()[3], [b"4551", *FUNCTION[1:12], b"77", None, None]]
    own = built_in.own(15, everything(functions=[[*row] for row in more]), text)
    assert own is not None
    assert own.over
    assert [each.oid for each in own.tables.functions] == [16400, 16400, 4551]
    assert own.tables.changed == []


@pytest.mark.parametrize(
    ("value", "place", "over"),
    [(b"lowered", 2, False), (b"2200", 1, False), (b"1", 12, True)],
    ids=["name", "schema", "code"],
)
def test_changed_function_is_another(value: bytes, place: int, over: bool) -> None:
    functions = [[*row] for row in everything()[3]]
    (lower,) = (row for row in functions if row[0] == b"870")
    lower[place] = value
    own = built_in.own(15, everything(functions=functions), text)
    assert own is not None
    assert own.over is over
    assert own.tables.changed == ([870] if over else [])
    found = built_in.build(own)
    assert found.changed == frozenset(own.tables.changed)
    assert found.functions[870].name == ("lowered" if place == 2 else "lower")
    assert found.functions[870].schema == (2200 if place == 1 else 11)
    assert not any(each.oid == 870 for each in found.functions_named["lower"]) or place != 2


def test_function_that_is_gone_is_not_there() -> None:
    functions = [[*row] for row in everything()[3] if row[0] != b"870"]
    own = built_in.own(15, everything(functions=functions), text)
    assert own is not None
    found = built_in.build(own)
    assert found.functions.get(870) is None
    assert 870 not in {each.oid for each in found.functions_named["lower"]}
    assert found.functions[871].name == "upper"


# --- what no search for cycles goes through ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", world.Row.__subclasses__())
def test_no_search_for_cycles_looks_at_the_rows_of_a_catalogue(kind: type[world.Row]) -> None:
    """20,000 tables made one of 0.1 s, in which no client was served."""
    values = [0] * len(structs.fields(kind))
    assert not gc.is_tracked(kind(*values))


def test_a_world_is_gone_with_its_last_user() -> None:
    class Named(dict[str, Sequence[world.Relation]]):
        """As a dict, and one that tells when it is gone."""

    found = replace(recorded(), relations_named=Named())
    gone = weakref.ref(found.relations_named)
    resolver = Resolver(found, with_catalog((2200,)))
    resolver.resolve(parse("SELECT lower('a')")[0]["stmt"])
    gc.disable()
    try:
        del found, resolver
        assert gone() is None
    finally:
        gc.enable()


# --- two levels -------------------------------------------------------------------------------------------------------


def test_layered_looks_up_in_both() -> None:
    found = Layered({"a": 1, "b": 2}, {"b": 3, "c": 4})
    assert [found.get(key) for key in "abcd"] == [1, 2, 4, None]
    assert found.get("d", ()) == ()
    assert dict(found) == {"a": 1, "b": 2, "c": 4}
    assert len(found) == 3
    assert "c" in found
    assert "d" not in found
    assert found["c"] == 4
    with pytest.raises(KeyError):
        found["d"]


@pytest.mark.parametrize("results", [[], answers()[:-1], [*answers(), []], [[], *answers()[1:]]])
def test_other_results_are_an_error(results: list[rows.Rows]) -> None:
    with pytest.raises((ValueError, IndexError)):
        built_in.own(15, results, text)


def test_name_that_is_no_utf8_spoils_no_other() -> None:
    """In a database in SQL_ASCII: each name is decoded by itself."""

    def either(value: bytes | None) -> str:
        try:
            return (value or b"").decode()
        except UnicodeDecodeError:
            return (value or b"").decode("latin-1")

    relation = [b"16440", b"2200", b"t", b"r", b"0", b"0", b"0", b"23 \xc3\xa9/23 \xe9t\xe9"]
    found = rows.read(answers(relations=[relation]), either)
    assert [each.name for each in found.relations[0].columns] == ["é", "été"]

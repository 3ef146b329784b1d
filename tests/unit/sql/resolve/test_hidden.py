"""Each built-in function that takes values of any type is one that somebody has looked at."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from proxy.sql.resolve import built_in, hidden, oids
from proxy.sql.resolve.coercion import Coercion
from proxy.sql.resolve.world import Own, Tables, World

# What is called by its name alone is judged by that, and what writes values out by the server.
_LEFT = {"satisfies_hash_partition", "pg_restore_attribute_stats", "pg_restore_relation_stats"}
_WRITES = ("_out", "_send")
MAJORS = range(13, 19)


def world(major: int) -> World:
    return built_in.build(Own(major, True, Tables()))


def names(major: int) -> set[str]:
    functions = world(major).functions.values()
    return {
        each.name
        for each in functions
        if not hidden.OF_ANY_TYPE.isdisjoint(each.arguments) and oids.INTERNAL not in each.arguments
    }


@pytest.mark.parametrize("major", MAJORS)
def test_every_function_of_any_type_is_listed(major: int) -> None:
    left = {name for name in names(major) - hidden.ROLES.keys() if not name.endswith(_WRITES)}
    assert left <= _LEFT


def test_no_other_function_is_listed() -> None:
    assert hidden.ROLES.keys() <= set().union(*map(names, MAJORS))


def test_of_a_function_that_is_not_listed_nobody_knows_what_it_does() -> None:
    found = world(15)
    (function,) = (each for each in found.functions_named["to_json"] if each.schema == oids.PG_CATALOG)
    coercion = Coercion(found)
    given = [oids.ANYELEMENT], [oids.TEXT], [oids.ANYELEMENT]
    assert hidden.runs(coercion, function, *given) == [("cast-to-json", {oids.TEXT})]
    assert hidden.runs(coercion, replace(function, name="new"), *given) == [("everything", {oids.TEXT})]
    assert hidden.runs(coercion, replace(function, schema=2200), *given) == [("everything", {oids.TEXT})]
    assert hidden.runs(coercion, None, *given) == [("everything", {oids.TEXT})]
    assert hidden.runs(coercion, function, [oids.TEXT], [oids.TEXT], [oids.TEXT]) == []

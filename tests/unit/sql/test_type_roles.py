"""What runs of a type in a role is what it has of its own, and what it is made of."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.proofs.taints import NOWHERE, Finding, spread
from proxy.sql.catalog import (
    CAST,
    CHECK,
    COMPARE,
    FUNCTION,
    INPUT,
    OUTPUT,
    TO_JSON,
    TO_TEXT,
    TYPE,
    CastRow,
    Key,
    TypeRow,
)
from proxy.sql.type_roles import Roles

MOOD, MOODS, ROW, DOMAIN, RANGE, GONE = 20_000, 20_001, 20_002, 20_003, 20_004, 20_005
SHOWN = 30_000
TYPES = {
    row.oid: row
    for row in (
        TypeRow(MOOD, "public", "mood", "e", (), (), (1, 2, 3), sorting=(2,), inputs=(1,), outputs=(3,)),
        TypeRow(MOODS, "public", "_mood", "b", (MOOD,), (), (), element=MOOD),
        TypeRow(ROW, "public", "row", "c", (MOODS, MOOD), (), ()),
        TypeRow(DOMAIN, "public", "domain", "d", (ROW,), ("CHECKED",), (4,), base=ROW),
        TypeRow(RANGE, "public", "range", "r", (MOOD,), (), (5, 2)),
        TypeRow(GONE, "public", "of_gone", "b", (9,), (), (), element=9),
    )
}
CASTS = [CastRow(SHOWN, MOOD, 114, 6, "e"), CastRow(SHOWN + 1, MOOD, 25, 7, "e"), CastRow(SHOWN + 2, MOOD, 23, 8, "e")]


def used(role: str, oid: int, casts: Iterable[CastRow] = CASTS) -> set[Key | str]:
    found: set[Key | str] = set()
    roles = Roles(
        TYPES,
        casts,
        TYPES,
        use=lambda kind, oids: found.update((kind, each) for each in oids),
        call=lambda oids: found.update((FUNCTION, each) for each in oids),
        checks=lambda row: found.update(row.expressions),
    )
    roles.judges[role](TYPES[oid])
    return found


def test_each_role_has_its_own_code() -> None:
    assert used(INPUT, MOOD) == {(FUNCTION, 1)}
    assert used(COMPARE, MOOD) == {(FUNCTION, 2)}
    assert used(OUTPUT, MOOD) == {(FUNCTION, 3)}
    assert used(TO_JSON, MOOD) == {(CAST, SHOWN), (OUTPUT, MOOD)}
    assert used(TO_TEXT, MOOD) == {(CAST, SHOWN + 1), (OUTPUT, MOOD)}


def test_domain_over_a_row_runs_what_its_columns_have() -> None:
    assert used(CHECK, DOMAIN) == {"CHECKED", (FUNCTION, 4)}
    assert used(INPUT, DOMAIN) == {(CHECK, DOMAIN), (INPUT, MOOD)}
    assert used(TO_JSON, DOMAIN) == {(TO_JSON, MOOD), (OUTPUT, DOMAIN)}


def test_range_compares_its_bounds_whenever_it_is_made() -> None:
    assert used(INPUT, RANGE) == {(INPUT, MOOD), (COMPARE, RANGE)}
    assert used(COMPARE, RANGE) == {(FUNCTION, 5), (FUNCTION, 2), (COMPARE, MOOD)}


def test_rows_and_arrays_without_code_of_their_own_have_no_roles() -> None:
    def judged(*casts: CastRow) -> frozenset[int]:
        return Roles(TYPES, casts, TYPES, use=lambda *_: None, call=lambda _: None, checks=lambda _: None).judged

    assert judged() == {MOOD, DOMAIN, RANGE}
    assert judged(CastRow(SHOWN, ROW, 114, 6, "e")) == {MOOD, DOMAIN, RANGE, ROW}


def test_what_uses_a_role_uses_the_whole_type_as_long_as_nobody_has_judged_it_by_role() -> None:
    objects = {
        (FUNCTION, 1): Finding("function f()", "f", uses={(CHECK, DOMAIN): NOWHERE}),
        (TYPE, DOMAIN): Finding("domain d", "d", why="its CHECK writes"),
    }
    assert (FUNCTION, 1) in spread(objects, by_role=False)[0]
    objects[OUTPUT, DOMAIN] = Finding("domain d", "d", why="its output writes")
    assert (FUNCTION, 1) not in spread(objects)[0]
    objects[CHECK, DOMAIN] = Finding("domain d", "d", why="its CHECK writes")
    assert (FUNCTION, 1) in spread(objects)[0]


def test_what_a_type_is_made_of_and_nobody_has_read_is_no_read() -> None:
    types = {**TYPES, MOODS: TYPES[MOODS]._replace(parts=(9,), functions=(1,))}
    found: set[Key] = set()
    roles = Roles(
        types,
        (),
        types,
        use=lambda kind, oids: found.update((kind, each) for each in oids),
        call=lambda _: None,
        checks=lambda _: None,
    )
    roles.judges[OUTPUT](types[MOODS])
    assert found == {(TYPE, 9)}

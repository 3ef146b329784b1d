"""Make the comparison's other side wrong on purpose: a harness that cannot fail proves nothing.

Two kinds of faults: in answers that are otherwise the server's own, and in the world that the resolver believes in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from msgspec import structs

from proxy.sql.resolve import oids
from proxy.sql.resolve.world import Tables
from tests.oracle import picked
from tests.oracle.compare import Answer, Rejection
from tests.oracle.server import Analysed

STATEMENTS: Final = (
    "SELECT lower(v), upper(t), length(c), t || v, v || 'x', id + n, s * m, -f, n = id, t = 'a', v LIKE 'a%' FROM t1",
    "SELECT sqrt($1), $2 + 1, round($3, 2), lower($4), $5 || t, id = $6 FROM t1",
    "SELECT id::text, t::int, '1'::numeric, v::varchar(3), a::text[], ta::int[], po::text, 5::positive,"
    " 'x'::label FROM t1",
    "SELECT md::text, jb::text, p::text, '(1,x)'::pair, ROW(1, 'x')::pair, '{1,2}'::int[], po + 1, l || 'x' FROM t1",
    "SELECT coalesce(id, n, 1.5), greatest(id, n), least(v, t), nullif(id, n), CASE id WHEN 1.5 THEN v ELSE t"
    " END FROM t1",
    "SELECT id IN (1, 2.5), n BETWEEN 1 AND id, id = ANY (a), v = ANY (ARRAY['a']), (id, t) < (n, v), (id, t) ="
    " (1, 'x') FROM t1",
    "SELECT id IS DISTINCT FROM n, a || id, a || a, a[1], array_append(ta, 'x'), ARRAY[1, 2.5, NULL], a ="
    " ARRAY[1] FROM t1",
    "SELECT DISTINCT v, md, d FROM t1 ORDER BY 2, 1",
    "SELECT DISTINCT ON (t) t, id FROM t1 ORDER BY t, id DESC",
    "SELECT v, count(*), max(n), sum(id), avg(m), string_agg(t, ',' ORDER BY id), array_agg(DISTINCT md) FROM"
    " t1 GROUP BY v",
    "SELECT id, sum(n) OVER (PARTITION BY v ORDER BY e RANGE BETWEEN '1 day' PRECEDING AND '2 days' FOLLOWING) FROM t1",
    "SELECT rank() OVER (ORDER BY n DESC), lag(t, 1) OVER w FROM t1 WINDOW w AS (ORDER BY id RANGE 5 PRECEDING)",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY n), mode() WITHIN GROUP (ORDER BY v), rank('a') WITHIN"
    " GROUP (ORDER BY t)"
    " FROM t1",
    "SELECT id FROM t1 UNION SELECT id FROM t2 UNION SELECT 1.5 ORDER BY id",
    "SELECT * FROM t1 JOIN t2 USING (id, v) JOIN (SELECT id, t1 FROM t3) t3 USING (id) NATURAL JOIN parent"
    " WHERE t1.id = t3.t1",
    "SELECT x.a, y FROM table_of(1) x, unnest(ARRAY['a', 'b']) y, generate_series(1, 5) z WHERE z > 2 AND y = x.b",
    "SELECT with_defaults(1), with_defaults(1, c => 2), with_defaults(a => 1, b => 'x'), many(1, 2, 3),"
    " many(VARIADIC ARRAY[1])",
    "SELECT twice(id), twice(v), same_pair(1, a), outs(1), (outs(2)).b, t1.full_name, of_pair(p),"
    " pg_typeof(md), to_json(t1) FROM t1",
    "WITH RECURSIVE q(x, y) AS (SELECT 1, 'a'::text UNION SELECT x + 1, y || 'x' FROM q WHERE x < 10) SELECT x,"
    " lower(y) FROM q",
    "SELECT extract(year FROM e), overlay(t PLACING v FROM 2), substring(t FROM 2 FOR 3), position('a' IN v),"
    " trim(t) FROM t1",
    "SELECT xmlelement(name a, t), (p).a, (p).b, p = p, r @> 5, now() - e, z AT TIME ZONE 'UTC', e + i FROM t1",
    "SELECT * FROM t1 TABLESAMPLE bernoulli (10) WHERE m > 1 AND NOT k AND g = 'x' AND o = 5 AND u IS NOT NULL",
    "SELECT (SELECT max(n) FROM t2 WHERE t2.id = t1.id), EXISTS (SELECT FROM t3 WHERE t1 = t1.id), ARRAY(SELECT"
    " v FROM t2) FROM t1",
    "VALUES (1, 'a'), (2.5, 'b')",
    "SELECT json_build_object('a', id), row_to_json(t1), quote_literal(n), concat(id, v), format('%s', t) FROM t1",
)
"""Texts that together use everything which the faults below spoil. They are taken by every version."""


class Use(NamedTuple):
    kind: str
    location: int
    oids: frozenset[int] | None


class Resolution(NamedTuple):
    uses: list[Use]
    output: list[tuple[str, int | None]]
    parameters: list[int]


Fault = Callable[[Resolution], Answer]


def echo(found: Analysed) -> Resolution | Rejection:
    """Return the server's own answer as if it were the resolver's."""
    if found.complaint is not None:
        return Rejection(found.complaint.sqlstate, found.complaint.message)
    uses = [Use(each.kind, each.location, frozenset((each.oid,))) for each in picked.picked(found.tree)]
    return Resolution(uses, picked.output(found.tree), list(found.parameters))


def _without(kind: str) -> Fault:
    return lambda answer: answer._replace(uses=[use for use in answer.uses if use.kind != kind])


def _others(kind: str) -> Fault:
    """Let one object be taken for another."""
    return lambda answer: answer._replace(
        uses=[
            use._replace(oids=frozenset(oid + 1 for oid in use.oids or ())) if use.kind == kind else use
            for use in answer.uses
        ]
    )


def _swapped(kind: str) -> Fault:
    """Give each place what belongs to the place of the same kind before it."""

    def swap(answer: Resolution) -> Resolution:
        mine = [use for use in answer.uses if use.kind == kind]
        others = [use for use in answer.uses if use.kind != kind]
        turned = [use._replace(oids=next_.oids) for use, next_ in zip(mine, mine[1:] + mine[:1], strict=True)]
        return answer._replace(uses=others + turned)

    return swap


def _moved(answer: Resolution) -> Resolution:
    return answer._replace(
        uses=[use._replace(location=use.location + 1) if use.location >= 0 else use for use in answer.uses]
    )


def _first_only(answer: Resolution) -> Resolution:
    """Keep one use of each kind: a walk that stops too early."""
    return answer._replace(uses=list({use.kind: use for use in answer.uses}.values()))


ANSWER_FAULTS: Final[Mapping[str, Fault]] = {
    **{f"no {kind}": _without(kind) for kind in sorted(picked.DECIDING)},
    **{f"another {kind}": _others(kind) for kind in ("function", "operator", "io", "const", "domain")},
    "functions swapped": _swapped("function"),
    "operators swapped": _swapped("operator"),
    "everything one byte further": _moved,
    "one of each kind": _first_only,
    "nothing at all": lambda answer: answer._replace(uses=[]),
    "rejected": lambda answer: Rejection("42883", "function does not exist"),
    "a column less": lambda answer: answer._replace(output=answer.output[1:]),
    "columns of another type": lambda answer: answer._replace(output=[(name, 16) for name, _ in answer.output]),
    "columns of another name": lambda answer: answer._replace(
        output=[("x" + name, oid) for name, oid in answer.output]
    ),
    "parameters are text": lambda answer: answer._replace(parameters=[25] * len(answer.parameters)),
}
"""Faults in the server's own answer, by what is wrong."""

Fault = Callable[[Tables], Tables]


def _each(table: str, where: Callable[[Any], bool] = lambda row: True, **values: Any) -> Fault:
    """Let some rows of a table have these values."""

    def change(tables: Tables) -> Tables:
        rows = [structs.replace(row, **values) if where(row) else row for row in getattr(tables, table)]
        return tables._replace(**{table: rows})

    return change


def _none(table: str, where: Callable[[Any], bool] = lambda row: True) -> Fault:
    """Let a table be without some rows."""
    return lambda tables: tables._replace(**{table: [row for row in getattr(tables, table) if not where(row)]})


def _shaped(change: Callable[[str], str]) -> Fault:
    """Let all relations have other columns: `change` is given each one's `shape`."""
    return lambda tables: tables._replace(
        relations=[structs.replace(row, shape=change(row.shape)) for row in tables.relations]
    )


WORLD_FAULTS: Final[Mapping[str, Fault]] = {
    "no type is preferred": _each("types", preferred=False),
    "every type is preferred": _each("types", preferred=True),
    "one category for all types": _each("types", category="S"),
    "no array type": _each("types", is_array=False),
    "domains are base types": _each("types", lambda row: row.kind == "d", kind="b"),
    "domains over text": _each("types", lambda row: row.kind == "d", base=oids.TEXT),
    "no row types": _each("relations", row_type=0),
    "no defaults of arguments": _each("functions", defaults=0),
    "nothing is variadic": _each("functions", variadic=0),
    "every function gives text": _each("functions", result=oids.TEXT),
    "no names of arguments": _each("functions", names=()),
    "no aggregates": _none("functions", lambda row: row.kind == "a"),
    "no function takes text": _none("functions", lambda row: oids.TEXT in row.arguments),
    "no polymorphic functions": _none("functions", lambda row: oids.ANYELEMENT in row.arguments),
    "no operators of integers of two sizes": _none(
        "operators", lambda row: {row.left, row.right} == {oids.INT4, oids.INT8}
    ),
    "every operator gives text": _each("operators", result=oids.TEXT),
    "no implicit casts": _each("casts", lambda row: row.context == "i", context="e"),
    "all casts are implicit": _each("casts", context="i"),
    "no casts": _none("casts"),
    "casts without functions": _each("casts", function=0),
    "no operator classes": _none("classes"),
    "columns are text": _shaped(lambda shape: re.sub(r"(^|/)\d+(:-?\d+)? ", rf"\g<1>{oids.TEXT} ", shape)),
    "no columns called id": _shaped(
        lambda shape: "/".join(part for part in shape.split("/") if part.partition(" ")[2] != "id")
    ),
}
"""Faults in what the resolver is told about the catalogue, by what is wrong."""

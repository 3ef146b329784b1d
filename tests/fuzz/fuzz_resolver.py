"""Resolve and judge statements at random in schemas at random: nothing may fail, or take long for its length.

What is right is for tests/oracle to say; here there is no server. Schema and statement number n of a seed are always
the same: `python -m tests.fuzz.fuzz_resolver --seed S --only N` shows them again.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from random import Random
from typing import Any, NamedTuple

import click
from pglast.parser import ParseError, parse_sql_json

from proxy.filter import Filter
from proxy.sql.catalog import Catalog
from proxy.sql.policy import Policy
from proxy.sql.resolve import NotModelledError, RejectedError, Resolver, building, built_in, oids, world
from proxy.sql.resolve.search import with_catalog
from tests.oracle import branches, generator, naming, typed
from tests.oracle import catalogue as oracle

PUBLIC, RIVAL = 2200, 16999
PER_SCHEMA = 200
"""Statements in each schema."""
SLOW = 1.0
"""Seconds of CPU time that a statement may take, and so may each megabyte of a longer one."""
ENOUGH = 20
"""Findings: then it ends."""
_COLUMNS = {
    "id": 23,
    "n": 20,
    "s": 21,
    "f": 700,
    "d": 701,
    "m": 1700,
    "v": 1043,
    "t": 25,
    "c": 1042,
    "g": 19,
    "o": 26,
    "k": 16,
    "e": 1082,
    "z": 1184,
    "ts": 1114,
    "i": 1186,
    "j": 114,
    "jb": 3802,
    "a": 1007,
    "ta": 1009,
    "u": 2950,
    "y": 17,
    "x": 142,
    "md": 17000,
    "p": 17002,
    "po": 17004,
    "l": 25,
    "sh": 1043,
    "nu": 1007,
    "r": 3904,
    "q": 18,
    "bt": 1560,
    "w": 1043,
    "name": 25,
    "extra": 1700,
    "lower": 23,
    "tab": 23,
    "upper": 25,
}
"""What the statements take for columns, and their types where a table is honest."""
_BASES = (16, 17, 19, 20, 21, 23, 25, 26, 114, 142, 600, 700, 701, 705, 869, 1042, 1043, 1082, 1114, 1184, 1186, 1700)
_ODD = (
    2276,
    2277,
    2278,
    2249,
    2283,
    2287,
    2776,
    3500,
    3802,
    3831,
    3904,
    4451,
    4537,
    4538,
    5077,
    5078,
    5079,
    5080,
    0,
    99,
)
_CALLED = (
    "lower",
    "length",
    "abs",
    "sum",
    "max",
    "twice",
    "text",
    "int4",
    "takes",
    "many",
    "concat",
    "t1",
    "date",
    "json",
)
_SIGNS = ("=", "<>", "<", ">", "+", "-", "||", "->", "~~", "@>", "%")


class Finding(NamedTuple):
    what: str
    text: str


# -- a schema ----------------------------------------------------------------------------------------------------------


def tables(rng: Random, below: world.World) -> world.Tables:
    """Return rows of a database that nobody would make: all that a catalogue can hold, and some that it cannot."""
    columns = {f"c_{each.name}": each.oid for each in below.types.values() if each.kind in "bderm"}
    types = [_type(rng, 17000 + 2 * at) for at in range(rng.randint(1, 8))]
    known = (*_BASES, *(each.oid for each in types))

    def some(odd: float = 0.15) -> int:
        return rng.choice(_ODD) if rng.random() < odd else rng.choice(known)

    relations = [
        world.Relation(
            18000 + at,
            RIVAL if rng.random() < 0.05 else PUBLIC,
            name,
            rng.choice("rrrrvmpfS"),
            19000 + 2 * at,
            rng.choice((0, 0, 0, 19002)),
            19001 + 2 * at,
            _shape(rng, some, columns if name == "every_type" else _COLUMNS),
        )
        for at, name in enumerate(("t1", "t2", "t3", "parent", "child", "tab", "lower", "v1", "v2", "every_type"))
    ]
    functions = [_function(rng, 20000 + at, some) for at in range(rng.choice((0, 10, 60)))]
    operators = [
        world.Operator(
            21000 + at,
            rng.choice((PUBLIC, RIVAL)),
            rng.choice(_SIGNS),
            rng.choice((0, some(), some())),
            some(),
            rng.choice((16, some())),
            rng.choice((0, 20000)),
        )
        for at in range(rng.choice((0, 5, 30)))
    ]
    casts = [
        world.Cast(some(0), some(0), rng.choice((0, 20000)), rng.choice("iae"), rng.choice("fib"), 22000 + at)
        for at in range(rng.choice((0, 3, 12)))
    ]
    classes = [world.OperatorClass(23000 + at, rng.choice((403, 405)), some(), 23500 + at) for at in range(3)]
    members = [world.Member(23500 + at, 403, some(), some(), rng.randint(1, 5), 21000) for at in range(3)]
    return world.Tables(
        schemas=[("pg_catalog", oids.PG_CATALOG, True), ("public", PUBLIC, True), ("rival", RIVAL, rng.random() < 0.8)],
        types=types,
        functions=functions,
        operators=operators,
        casts=casts,
        classes=classes,
        members=members,
        support=[world.Support(23500, some(), some(), 3, 20000)],
        relations=relations,
        parents=[world.Inheritance(rng.randint(18000, 18009), rng.randint(18000, 18009)) for _ in range(3)],
        ranges=[world.Range(17000, some(), 17002)],
    )


def _shape(rng: Random, some: Callable[[float], int], columns: Mapping[str, int]) -> str:
    """Return the columns of a table: most are there and of the types that statements take them for."""
    found = [
        f"{oid if rng.random() < 0.9 else some(0.1)}{':7' * (rng.random() < 0.1)} {name}"
        for name, oid in columns.items()
        if rng.random() < 0.95
    ]
    return "/".join(found if rng.random() < 0.9 else rng.sample(found, len(found) // 8))


def _type(rng: Random, oid: int) -> world.Type:
    kind = rng.choice("bbcderm")
    name = rng.choice(("mood", "pair", "positive", "label", "text", "int8", "short", "numbers", "nested", "date"))
    # A domain is over what was there before it.
    base = rng.choice((*_BASES, *range(17000, oid, 2))) if kind == "d" else 0
    return world.Type(
        oid,
        rng.choice((PUBLIC, RIVAL)),
        name,
        kind,
        rng.choice("SNUEDRC"),
        rng.random() < 0.2,
        rng.choice((0, 0, 23, 25)),
        rng.random() < 0.1,
        rng.choice((0, oid + 1)),
        base,
        rng.choice((-1, -1, 7)),
        18000 if kind == "c" else 0,
        rng.random() < 0.5,
        rng.random() < 0.2,
        *(20000, 20001, rng.choice((0, 20002))),
    )


def _function(rng: Random, oid: int, some: Callable[[float], int]) -> world.Function:
    arguments = tuple(some(0.4) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4))))
    kind = rng.choice("ffffffawp")
    outs = tuple(some(0.3) for _ in range(rng.choice((0, 0, 0, 1, 2))))
    modes = "i" * len(arguments) + "".join(rng.choice("ot") for _ in outs) if outs else ""
    count = len(arguments) + len(outs)
    return world.Function(
        oid,
        rng.choice((PUBLIC, RIVAL)),
        rng.choice(_CALLED),
        kind,
        arguments,
        some(0.4),
        rng.random() < 0.2,
        rng.choice((0, 0, 23, 25, 2276)) if arguments else 0,
        rng.randint(0, len(arguments)) if rng.random() < 0.3 else 0,
        (*arguments, *outs) if outs else (),
        modes,
        tuple(rng.choice(("a", "b", "c", "")) for _ in range(count)) if rng.random() < 0.4 else (),
        rng.choice("noh") if kind == "a" else "",
        rng.randint(0, len(arguments)),
    )


# -- statements --------------------------------------------------------------------------------------------------------


def _catalogue(made: world.World) -> oracle.Catalogue:
    """Return what statements are made of, as the oracle reads it from a server."""
    types = {
        each.oid: oracle.Type(each.oid, f'"{each.name}"', f'"c_{each.name}"', "1", each.kind, each.array)
        for each in made.types.values()
        if each.kind in "bderm" and each.name
    }
    functions = [
        oracle.Function(
            each.oid,
            "public",
            f'"{each.name}"',
            each.kind,
            each.arguments,
            each.defaults,
            each.variadic,
            each.returns_set,
            each.result,
            each.names if len(each.names) == len(each.arguments) and all(each.names) else (),
            each.aggregate,
            min(each.direct, len(each.arguments)),
        )
        for each in made.functions.values()
    ]
    operators = [
        oracle.Operator(each.oid, "public", each.name, each.left, each.right, each.result)
        for each in made.operators.values()
        if each.right
    ]
    return oracle.Catalogue(made.major, types, functions, operators, list(made.casts))


def texts(made: world.World, rng: Random) -> Iterator[str]:
    """Yield statements of every generator in turn, some of them with parts of others in them."""
    found = _catalogue(made)
    at_random = generator.Generator(found, rng)
    makers: list[Iterator[str]] = [
        branches.statements(made.major, rng),
        naming.statements(rng),
        (text for text, _ in typed.Typed(found, rng).statements()),
        iter(at_random.statement, ""),
    ]
    while True:
        for maker in makers:
            yield next(maker)


def _body(text: str) -> Any:
    try:
        parsed = json.loads(parse_sql_json(text))["stmts"]
    except ParseError:
        return None
    return parsed[0]["stmt"] if len(parsed) == 1 and "SelectStmt" in parsed[0]["stmt"] else None


_EXPRESSIONS = frozenset(("A_Expr", "FuncCall", "ColumnRef", "A_Const", "TypeCast", "SubLink", "RowExpr", "CaseExpr"))


def _slots(tree: Any) -> list[dict[str, Any]]:
    """Return the nodes of a tree that hold an expression, each as the dict whose only key is its kind."""
    found: list[dict[str, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if len(node) == 1 and node.keys() <= _EXPRESSIONS:
                found.append(node)
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return found


def _splice(tree: Any, other: Any, rng: Random) -> None:
    """Put an expression of another tree into one: places of the text mean nothing any more."""
    places, parts = _slots(tree), _slots(other)
    if places and parts:
        place, part = rng.choice(places), json.loads(json.dumps(rng.choice(parts)))
        place.clear()
        place.update(part)


# -- the contract ------------------------------------------------------------------------------------------------------


class Schema:
    """Hold statements against the contract in one schema."""

    def __init__(self, seed: int, number: int) -> None:
        self._rng = Random(f"{seed} {number}")
        major = self._rng.choice((13, 14, 15, 16, 17, 18))
        below = built_in.built_in(major)
        assert below is not None
        self.made = building.build(major, tables(self._rng, below), below)
        path = with_catalog(self._rng.choice(((PUBLIC,), (RIVAL, PUBLIC), (PUBLIC, oids.PG_CATALOG))))
        self.resolver = Resolver(self.made, path)
        self.filter = Filter(Policy(server_version=major * 10000))
        self.filter.learn_paths(["public"], shadowed=False)
        self.filter.learn_catalog(Catalog(world=self.made, begins_with="public", path=path))

    def findings(self, counts: Counter[str], slowest: list[tuple[float, str]]) -> Iterator[Finding]:
        """Yield what is wrong with some statements; count what became of them."""
        before: Any = None
        for text in islice(texts(self.made, self._rng), PER_SCHEMA):
            tree = _body(text)
            if tree is None:
                counts["no query"] += 1
                continue
            parameters = [self._rng.choice((*_BASES, *_ODD)) for _ in range(self._rng.choice((0, 0, 1, 3)))]
            yield from self._resolved(text, tree, parameters, counts, slowest)
            if before is not None:
                _splice(tree, before, self._rng)
                yield from self._resolved(f"(spliced) {text}", tree, parameters, counts, slowest)
            before = tree
            verdict = self.filter.judge(text.encode())
            counts[f"judged {verdict.action.value}"] += 1
            if verdict.rule == "internal":
                yield Finding("the filter fails", text)

    def _resolved(
        self, text: str, tree: Any, parameters: list[int], counts: Counter[str], slowest: list[tuple[float, str]]
    ) -> Iterator[Finding]:
        started = time.process_time()
        try:
            self.resolver.resolve(tree, parameters)
            counts["resolved"] += 1
        except RejectedError:
            counts["rejected"] += 1
        except NotModelledError:
            counts["not modelled"] += 1
        except RecursionError:
            counts["too deep"] += 1
        except Exception:
            yield Finding(traceback.format_exc(limit=-3), text)
        seconds = time.process_time() - started
        slowest.append((seconds, text))
        slowest.sort(reverse=True)
        del slowest[3:]
        if seconds > SLOW * max(1, len(text) / 1e6):
            yield Finding(f"takes {seconds:.2f} s", text)


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long to go on.")
@click.option("--seed", default=1, show_default=True, help="Another seed gives other schemas and statements.")
@click.option("--only", type=int, help="The schema with this number alone.")
def main(seconds: float, seed: int, only: int | None) -> None:
    """Resolve statements; exit with 1 if one failed or took too long."""
    started = time.monotonic()
    counts: Counter[str] = Counter()
    slowest: list[tuple[float, str]] = []
    found = 0
    number = only or 0
    while found < ENOUGH and time.monotonic() < started + seconds:
        for finding in Schema(seed, number).findings(counts, slowest):
            found += 1
            click.echo(f"FOUND --seed {seed} --only {number}: {finding.what}\n  {finding.text[:2000]}")
        number += 1
        if only is not None:
            break
    took = ", ".join(f"{took * 1000:.0f} ms for {len(text)} bytes" for took, text in slowest)
    outcomes = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    click.echo(f"seed {seed}, {time.monotonic() - started:.0f} s: {number} schemas; {outcomes}; slowest: {took}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

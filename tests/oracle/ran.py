"""Say which functions ran that a verdict had not looked at: what is judged for a statement has to hold all that runs.

What is judged is found by asking the judgement itself: it is given a catalogue without taints that notes who is asked
for. From there on it goes along what `prove` has found to be used.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, NamedTuple

from proxy.demo.embedded import EmbeddedServer
from proxy.operating import catalogue
from proxy.proofs.prove import uses
from proxy.sql import kinds
from proxy.sql import text as texts
from proxy.sql.catalog import FUNCTION, OPERATOR, RELATION, TYPE, Key, Rows, Taint
from proxy.sql.functions import LEADS, Functions
from proxy.sql.judgement import Judgement, Terms
from proxy.sql.picked import Meaning, Picked, pick
from proxy.sql.policy import Policy
from proxy.sql.resolve import Resolver
from proxy.sql.tables import Refused
from tests.oracle.hidden import SETTINGS, Maker, Statement, things
from tests.oracle.reporting import DATABASE, Reports
from tests.oracle.server import Analyst

Edges = Mapping[Key, frozenset[Key]]


class Judged(NamedTuple):
    """What the filter looks at for one statement."""

    asked: frozenset[Key]
    functions: frozenset[int]
    """Those that it comes to from there."""


class _Noted:
    """Stand in for the taints: there are none, and whoever is asked for is noted."""

    def __init__(self) -> None:
        self.keys: set[Key] = set()

    def get(self, key: Key, /) -> Taint | None:
        self.keys.add(key)
        return None


class Closures:
    """Answer for one database. `reporters` are functions that are known to do nothing but say that they run.

    So what is found over them, or over an operator or a table, does not lead further, to all that the types of their
    arguments or columns have: else nothing could be missing of a type as soon as one function of it ran.
    """

    def __init__(self, rows: Rows, reporters: Iterable[int]) -> None:
        self._policy = Policy(server_version=rows.version)
        found = uses(rows, self._policy)
        self.major = rows.version // 10000
        self.has_code_in_c = any(row.language == "c" for row in rows.functions)
        self._noted = _Noted()
        names = replace(
            found.names,
            taints=self._noted,
            tainted_operators=frozenset((*found.names.operators, *LEADS)),
            tainted_types=True,
            code=Taint("code of tables", "which one, its argument says", ""),
        )
        self._functions = Functions(self._policy, names, remember=False)
        assert names.world is not None
        self._world, self._path = names.world, names.path
        self.forget()
        self.nameless = found.nameless
        domains = {(TYPE, row.oid) for row in rows.types if row.kind == "d"}
        returned = {row.oid: {(TYPE, row.returns[0])} & domains for row in rows.functions if row.returns}
        tables = {row.oid for row in rows.relations if row.kind != "v" and not row.expressions}
        quiet = set(reporters)
        self.edges: dict[Key, frozenset[Key]] = {}
        for key, finding in found.objects.items():
            kind, oid = key
            used = frozenset((*finding.uses, *finding.carries))
            if kind == FUNCTION and oid in quiet:
                used = frozenset(returned[oid])
            elif kind == OPERATOR or (kind == RELATION and oid in tables):
                used = frozenset(each for each in used if each[0] != TYPE)
            self.edges[key] = used

    def forget(self) -> None:
        """Resolve names from now on as if none had been met."""
        self.resolver = Resolver(self._world, self._path)

    def judged(self, sql: str, types: tuple[int, ...], *, resolves: bool, extended: bool = False) -> Judged | None:
        """Return what is judged for a statement; None: it is refused whatever anything does."""
        self._noted.keys.clear()
        own = None if any(type_ >= 16384 for type_ in types) and not resolves else frozenset[int]()
        judgement = Judgement(
            self._functions,
            self._policy,
            Terms(own=own, bound=extended, meaning=Meaning(self.resolver, types) if resolves else None),
        )
        try:
            for raw in texts.parse(sql):
                kinds.judge(judgement, raw["stmt"])
        except Refused:
            return None
        asked = frozenset(self._noted.keys)
        if types and not (resolves and self.is_resolved(sql, types)):
            # The types that a Parse declares are judged by themselves: `Filter.judge_types`.
            asked |= {(TYPE, type_) for type_ in types}
        return Judged(asked, self.reached(asked, self.edges))

    def reached(self, asked: Iterable[Key], edges: Edges) -> frozenset[int]:
        """Return the functions that one comes to."""
        found = {*asked, *self.nameless}
        waiting = list(found)
        while waiting:
            for key in edges.get(waiting.pop(), ()):
                if key not in found:
                    found.add(key)
                    waiting.append(key)
        return frozenset(oid for kind, oid in found if kind == FUNCTION)

    def is_resolved(self, sql: str, types: tuple[int, ...]) -> bool:
        (raw,) = texts.parse(sql)
        body = raw["stmt"].get("SelectStmt")
        return body is not None and isinstance(pick(Meaning(self.resolver, types), body), Picked)


class Miss(NamedTuple):
    """A function that ran, and that the filter would not have looked at."""

    function: str
    resolves: bool
    statement: Statement
    settings: Mapping[str, str]


class Evidence(NamedTuple):
    """One statement whose names were resolved, and in which something ran."""

    sql: str
    types: tuple[int, ...]
    ran: frozenset[int]
    asked: frozenset[Key]


@dataclass
class Tally:
    """What came of all statements."""

    statements: int = 0
    ran: int = 0
    """Those in which a function ran."""
    failed: Counter[str] = field(default_factory=Counter)
    """Those that ended with an error, by SQLSTATE; what ran until then counts."""
    refused: int = 0
    """Those that are refused whatever anything does, and not run."""
    resolved: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    """How many statements ran each function."""
    judged: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """The functions that were judged for all statements, with names resolved and without."""
    misses: list[Miss] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    """A statement for each error that there was."""
    evidence: list[Evidence] = field(default_factory=list)


def learn(server: EmbeddedServer) -> Closures:
    """Read the database of `reporting.create`."""
    with Reports(server) as reports:
        return Closures(catalogue.load(server.dsn(DATABASE)), reports.reporters)


def run(server: EmbeddedServer, closures: Closures, limit: int, *, seed: str = "1") -> Tally:
    """Run statements in the database, and hold what ran against what is judged."""
    tally = Tally()
    with Analyst(server.port, DATABASE) as analyst, Reports(server) as reports:
        maker = Maker(things(analyst), random.Random(seed))
        oids = {row[0]: int(row[1] or 0) for row in analyst.run("SELECT format_type(oid, NULL), oid FROM pg_type")}
        names = dict(analyst.run("SELECT oid, oid::regprocedure FROM pg_proc WHERE oid >= 16384"))
        left = maker.statements()
        for at in range(max(limit // AT_ONCE, len(SETTINGS))):
            settings = SETTINGS[at % len(SETTINGS)]
            reports.settle(settings)
            for statement in (*(maker.fixed() if at < len(SETTINGS) else ()), *islice(left, AT_ONCE)):
                types = tuple(oids[_SPELT.get(each, each)] if each else 0 for each in statement.types)
                _try(closures, reports, statement, types, settings, tally, names)
    return tally


AT_ONCE: Final = 50
"""Statements that are run with one setting before the next."""
_SPELT: Final = {"int": "integer", "bool": "boolean", "float8": "double precision", "varchar": "character varying"}
_SPELT.update({f"{name}[]": f"{spelt}[]" for name, spelt in list(_SPELT.items())})


def _try(
    closures: Closures,
    reports: Reports,
    statement: Statement,
    types: tuple[int, ...],
    settings: Mapping[str, str],
    tally: Tally,
    names: Mapping[str | None, str | None],
) -> None:
    tally.statements += 1
    extended = bool(statement.values or statement.binary)
    found = {
        resolves: closures.judged(statement.sql, types, resolves=resolves, extended=extended)
        for resolves in (True, False)
    }
    if not any(found.values()):
        tally.refused += 1
        return
    run_ = reports.run(statement.sql, statement.values, types, binary=statement.binary)
    tally.ran += bool(run_.functions)
    judged = found[True]
    if judged is not None and closures.is_resolved(statement.sql, types):
        tally.resolved += 1
        if run_.functions:
            tally.evidence.append(Evidence(statement.sql, types, run_.functions, judged.asked))
    if run_.sqlstate:
        tally.failed[run_.sqlstate] += 1
        tally.errors.setdefault(_ANY.sub("…", f"{run_.sqlstate} {run_.message}"), statement.sql)
    tally.runs.update(names[str(oid)] or "" for oid in run_.functions)
    for resolves, judged in found.items():
        if judged is not None:
            tally.judged[resolves] += len(judged.functions)
            for oid in run_.functions - judged.functions:
                tally.misses.append(Miss(names[str(oid)] or "", resolves, statement, settings))


_ANY: Final = re.compile(r'"[^"]*"|\d+|(?<=type )\S+')


def report(tally: Tally) -> str:
    """Return the outcome in words."""
    failed, judged = tally.failed.total(), tally.judged
    lines = [
        f"{tally.statements} statements: {tally.refused} refused, {failed} fail, {tally.resolved} resolved",
        f"in {tally.ran} something ran: {len(tally.runs)} functions; {len(tally.misses)} misses",
        f"judged were {judged[True]} functions with names resolved, {judged[False]} without",
    ]
    for miss in tally.misses[:30]:
        how = "resolved" if miss.resolves else "by names"
        lines.append(f"  {miss.function} {how}: {miss.statement.sql} {miss.statement.types} {dict(miss.settings)}")
    return "\n".join(lines)

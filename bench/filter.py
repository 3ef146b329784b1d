"""Time verdicts, side by side with `pglast.parse_sql` and a Visitor that looks at every node of the same text.

All variants take turns in short rounds within one process, so that a machine whose speed drifts drifts for all; figures
are medians over the rounds, and the ratios are what counts. Run it with `make bench-filter`.
"""

from __future__ import annotations

import functools
import gc
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click
import pglast
from pglast.visitors import Visitor

from proxy.databases.helpers.messages import Text
from proxy.databases.helpers.worker import judge_text
from proxy.demo.embedded import EmbeddedServer
from proxy.filter import MAX_SEEN, Filter, Policy
from proxy.operating import catalogue
from proxy.proofs.prove import prove
from proxy.session.judging import MAX_INLINE
from proxy.sql import text as texts
from proxy.sql.cache import VerdictCache
from proxy.sql.catalog import Catalog
from proxy.sql.verdict import Action

SELECT = "SELECT abalance FROM pgbench_accounts WHERE aid = 47110;"
JOIN = (
    "SELECT o.id, o.placed_at, c.name, sum(l.quantity * l.unit_price) AS total FROM orders o"
    " JOIN customers c ON c.id = o.customer_id JOIN lines l ON l.order_id = o.id"
    " WHERE o.placed_at >= '2024-01-01' AND c.country = 'DE' GROUP BY 1, 2, 3 ORDER BY total DESC LIMIT 20"
)
# The longest of those that psql 15 sends for `\d orders`: its columns (psql -E shows them).
DESCRIBE = r"""SELECT a.attname,
  pg_catalog.format_type(a.atttypid, a.atttypmod),
  (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true)
   FROM pg_catalog.pg_attrdef d
   WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef),
  a.attnotnull,
  (SELECT c.collname FROM pg_catalog.pg_collation c, pg_catalog.pg_type t
   WHERE c.oid = a.attcollation AND t.oid = a.atttypid AND a.attcollation <> t.typcollation) AS attcollation,
  a.attidentity,
  a.attgenerated
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = '16385' AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;"""
TEXTS = {"pgbench's SELECT": (SELECT, 15.0), "a join": (JOIN, 60.0), r"psql's \d": (DESCRIBE, 110.0)}
"""Texts, and the microseconds that a verdict without the cache may take."""
COMMENTS = {
    "pgbench's SELECT": "{sql} /*action='index',traceparent='00-{number:032x}-{number:016x}-01'*/",
    "a join": "-- user: analyst{number}, dashboard: 7\n{sql}",
    r"psql's \d": "/* Query ID: {number}, Scheduled: False */ {sql} -- {number}",
}
"""What tools put before and behind each of the texts, another one with every statement."""
TABLES = """
CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
CREATE TABLE customers (id int PRIMARY KEY, name text, country text);
CREATE TABLE orders (id int PRIMARY KEY, placed_at timestamptz, customer_id int);
CREATE TABLE lines (id int PRIMARY KEY, order_id int, quantity int, unit_price numeric(10, 2));
"""
EQUAL = "SELECT 1 FROM customers c WHERE " + " AND ".join(["c.name = c.name"] * 3_050)
RESOLVED = {
    "pgbench's SELECT": (SELECT, 20.0),
    "a join": (JOIN, 100.0),
    r"psql's \d": (DESCRIBE, 1_000.0),
    "c.name = c.name AND …": (EQUAL, 50_000.0),
}
"""Texts over these tables, and the microseconds that a verdict may take beyond the parser's, their names resolved."""
REPEATED_AIM, SHAPED_AIM, COMMENTED_AIM, RATIO_AIM, BATCH_AIM = 0.5, 3.0, 4.0, 0.3, 10_000
"""Microseconds for a text that is known, and for one with new constants; how often that of the same text without a
comment one may take whose comment changes; how much of pglast's time; statements a second."""

ROUND = 0.004  # seconds
OTHERS = 2_000  # texts that differ in a constant: more than are judged in a round
BATCH = 40_000
SELDOM = 20  # of how many rounds what takes longer than one takes part in one


class Looking(Visitor):
    """Look at every node, and do nothing."""

    def visit(self, ancestors: Any, node: Any) -> None:
        pass


@dataclass(slots=True)
class Variant:
    """One way to treat a text; `times` are microseconds a call, one for each round."""

    name: str
    call: Callable[[], object]
    aim: float = 0.0
    calls: int = 1
    times: list[float] = field(default_factory=list)

    def calibrate(self) -> None:
        """Find how many calls fill a round."""
        self.call()
        while self._time() < ROUND / 2:
            self.calls *= 2

    def round(self) -> None:
        self.times.append(self._time() / self.calls * 1e6)

    def _time(self) -> float:
        call = self.call
        started = time.process_time()  # what else the machine does is no part of it
        for _ in range(self.calls):
            call()
        return time.process_time() - started

    @property
    def median(self) -> float:
        return statistics.median(self.times)


@click.command()
@click.option("--rounds", default=300, show_default=True, help="How often each variant has its turn.")
@click.option("--batch/--no-batch", default=True, help="Time `sidecart check --batch`, too.")
@click.option("--catalogue/--no-catalogue", "resolved", default=True, help="Time names resolved in a catalogue, too.")
def main(rounds: int, batch: bool, resolved: bool) -> None:
    """Print microseconds for a verdict, the aims, and the ratios to pglast's own tools."""
    pairs = [_pair(name, sql, aim) for name, (sql, aim) in TEXTS.items()]
    cached = [
        Variant("repeated text", _repeated(SELECT), REPEATED_AIM),
        Variant("same shape, new constant", _new_constants(), SHAPED_AIM),
    ]
    commented = [_comment_changes(name) for name in TEXTS]
    variants = [*itertools.chain(*pairs), *cached, *itertools.chain(*commented)]
    empty = Variant("", lambda: None)
    for variant in (empty, *variants):
        variant.calibrate()
    for _ in range(rounds):
        for variant in (empty, *variants):
            variant.round()
    click.echo(
        f"Microseconds, medians of {rounds} rounds; a call of nothing takes {empty.median:.2f} and is taken off\n"
    )
    click.echo(f"{'':42} {'verdict':>8} {'aim':>6}   {'parse_sql + Visitor':>19} {'ratio':>6} {'aim':>5}")
    for ours, theirs in pairs:
        # Round by round, since neighbours in time share the machine's mood.
        ratio = statistics.median(a / b for a, b in zip(ours.times, theirs.times, strict=True))
        click.echo(
            f"{ours.name:42} {ours.median - empty.median:8.1f} {ours.aim:6.0f}   {theirs.median - empty.median:19.1f}"
            f" {ratio:6.2f} {RATIO_AIM:5.1f}"
        )
    for variant in cached:
        click.echo(f"{variant.name:42} {variant.median - empty.median:8.2f} {variant.aim:6.1f}")
    click.echo(f"\n{'comment changes':42} {'verdict':>8} {'without':>8} {'ratio':>6} {'aim':>5}   {'uncached':>8}")
    for (uncached, _), (changing, without) in zip(pairs, commented, strict=True):
        ratio = statistics.median(a / b for a, b in zip(changing.times, without.times, strict=True))
        click.echo(
            f"{changing.name:42} {changing.median - empty.median:8.2f} {without.median - empty.median:8.2f}"
            f" {ratio:6.2f} {COMMENTED_AIM:5.1f}   {uncached.median - empty.median:8.1f}"
        )
    if resolved:
        _print_resolved(rounds)
    if batch:
        for name, statements in (("new constants", _others()), ("other names, so no cached verdict", _other_names())):
            click.echo(f"check --batch, {name}: {_batch(statements):.0f} statements/s, aim {BATCH_AIM}")


def _pair(name: str, sql: str, aim: float) -> tuple[Variant, Variant]:
    judge, text = Filter(cache=VerdictCache(0)).judge, sql.encode()
    assert judge(text).action is Action.ALLOW
    return (
        Variant(f"{name} ({len(text)} characters), uncached", lambda: judge(text), aim),
        Variant(name, lambda: Looking()(pglast.parse_sql(sql))),
    )


def _print_resolved(rounds: int) -> None:
    """Print what a verdict costs that is not remembered, where a catalogue says what its names mean."""
    version, known = _catalogue()
    rows: list[tuple[Variant, Variant, Variant, float]] = []
    for name, (sql, aim) in RESOLVED.items():
        resolving, wide = (_knowing(sql.encode(), version, known, resolves=each) for each in (True, False))
        rows.append(
            (
                Variant(f"{name} ({len(sql.encode())} characters)", resolving),
                Variant("names not resolved", wide),
                Variant("parser", _parsing(sql)),
                aim,
            )
        )
    for variant in itertools.chain(*(row[:3] for row in rows)):
        variant.calibrate()
    for turn in range(rounds):
        for *variants, _ in rows:
            if variants[0].calls > 1 or turn % SELDOM == 0:
                for variant in variants:
                    variant.round()
    click.echo(
        f"\n{'with a catalogue, uncached':42} {'verdict':>8} {'parser':>8} {'beyond':>8} {'aim':>6}   unresolved"
    )
    for resolving_, wide_, parser, aim in rows:
        beyond = statistics.median(a - b for a, b in zip(resolving_.times, parser.times, strict=True))
        click.echo(
            f"{resolving_.name:42} {resolving_.median:8.1f} {parser.median:8.1f} {beyond:8.1f} {aim:6.0f}"
            f"   {wide_.median:10.1f}"
        )


def _catalogue() -> tuple[int, Catalog]:
    """Return the version of a PostgreSQL server, and what is known of a database with these tables."""
    with EmbeddedServer() as server:
        server.sql("CREATE DATABASE bench")
        server.sql(TABLES, "bench")
        found = catalogue.load(server.dsn("bench"))
        return found.version, prove(found, Policy(server_version=found.version))


def _knowing(text: bytes, version: int, known: Catalog, *, resolves: bool) -> Callable[[], object]:
    filter_ = Filter(cache=VerdictCache(0))
    filter_.learn_version(version)
    filter_.learn_catalog(known)
    if not resolves:
        filter_ = filter_.wide
    assert filter_.judge(text).action is Action.ALLOW
    if len(text) <= MAX_INLINE:
        return lambda: filter_.judge(text)
    request = Text(text, "utf-8", 0, schemas=filter_.schemas, keeps_path=filter_.keeps_path)
    return lambda: judge_text(filter_, request)  # as the helper process does it that gets such texts


def _parsing(sql: str) -> Callable[[], object]:
    parse = functools.partial(texts.parse, sql)
    if len(sql) <= MAX_INLINE:
        return parse

    def call() -> object:
        gc.disable()
        try:
            return parse()
        finally:
            gc.enable()

    return call


def _repeated(sql: str) -> Callable[[], object]:
    judge, text = Filter().judge, sql.encode()
    return lambda: judge(text)


def _others() -> list[bytes]:
    return [SELECT.replace("47110", str(number)).encode() for number in range(100_000, 100_000 + OTHERS)]


def _other_names() -> list[bytes]:
    return [SELECT.replace("abalance", f"column_{number}").encode() for number in range(BATCH)]


def _new_constants() -> Callable[[], object]:
    filter_, following = Filter(), itertools.cycle(_others()).__next__
    judge = filter_.judge

    def call() -> object:
        return judge(following())

    call()
    call()
    assert filter_.counts.shape_hits == 1, "there is no normal form"
    return call


def _comment_changes(name: str) -> tuple[Variant, Variant]:
    """Return a text under comments that are all different, and the same with new constants and no comment."""
    sql, comment = TEXTS[name][0], COMMENTS[name]
    plain = itertools.cycle([sql.replace("1", str(number)).encode() for number in range(OTHERS)]).__next__
    texts = [comment.format(sql=sql, number=number).encode() for number in range(4 * MAX_SEEN)]
    filter_, following = Filter(), itertools.cycle(texts).__next__
    judge = filter_.judge
    known = Filter().judge
    for text in (plain(), plain()):
        known(text)
    for text in (following(), following()):
        judge(text)
    assert filter_.counts.misses == 1, "the comment decides"
    return Variant(name, lambda: judge(following())), Variant(name, lambda: known(plain()))


def _batch(statements: list[bytes]) -> float:
    """Return how many statements a second the command answers, its start left out."""
    lines = [json.dumps({"sql": sql.decode()}).encode() + b"\n" for sql in statements]
    stream = b"".join(itertools.islice(itertools.cycle(lines), BATCH))
    with subprocess.Popen(
        [sys.executable, "-m", "proxy", "check", "--batch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b'{"sql": "SELECT 1"}\n')
        process.stdin.flush()
        process.stdout.readline()
        started = time.perf_counter()
        answers, _ = process.communicate(stream)
        spent = time.perf_counter() - started
    assert answers.count(b'"allow"') == BATCH, answers[:500]
    return BATCH / spent


if __name__ == "__main__":
    main()

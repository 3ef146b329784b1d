"""Hypothesis strategies for plays: what clients say by theme, and the order in which they go on.

A script is a list of phrases, each a few steps that make sense together (BEGIN, something, ROLLBACK, a look at what is
left) or a single step out of nowhere. Strategies have no state, so that any part of a play can be left out: a failure
shrinks to the few messages that cause it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TypeGuard

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.model import writer
from tests.model.scripts import (
    SYNC,
    Batch,
    End,
    How,
    Message,
    Play,
    Script,
    Step,
    StrayCancel,
    Turn,
    Until,
    batch,
    bind,
    close,
    describe,
    execute,
    fenced,
    flushed,
    parse,
    query,
    say,
)

Phrase = tuple[Step, ...]

READS = (
    "SELECT 1",
    "",
    "  ;",
    "SELECT id, total FROM orders WHERE id < 4 ORDER BY id",
    "SELECT 1; SELECT 'two'; SELECT 3",
    "SELECT name FROM categories WHERE name = 'Café'",
    "SELECT repeat('x', 30000)",
    "SELECT pg_sleep(0.002)",
    "SELECT current_user, session_user",
    "VALUES (1, 'x'), (2, NULL)",
    "TABLE categories LIMIT 0",
    "EXPLAIN (COSTS off) SELECT * FROM orders WHERE id = 1",
    "COPY (SELECT id, name FROM categories ORDER BY id LIMIT 3) TO STDOUT",
)
FAILURES = ("SELECT 1/0", "SELECT nope", "selec", "SELECT 1; SELECT 1/0; SELECT 2", "SELECT 'é', nope", "TABLE nope")
REFUSED = (
    "DELETE FROM orders",
    "SELECT 1; DELETE FROM orders",
    "BEGIN; DELETE FROM orders",
    "COMMIT; TRUNCATE orders",
    "SET datestyle TO german; DELETE FROM orders",
)

PROBES = (
    "SELECT timestamptz '2025-06-01 00:00+00', date '2025-12-24', interval '1 day 2:03'",
    "SHOW datestyle",
    "SHOW timezone",
    "SHOW search_path",
    "SHOW application_name",
    "SHOW work_mem",
    "SHOW statement_timeout",
    "SHOW transaction_isolation",
    "SHOW default_transaction_isolation",
    "SHOW client_encoding",
    "SELECT current_setting('datestyle'), current_setting('app.tenant', true), current_setting('app.user', true)",
    "SELECT name, setting FROM pg_settings WHERE name IN ('DateStyle', 'TimeZone', 'work_mem', 'application_name',"
    " 'search_path', 'IntervalStyle', 'default_transaction_isolation', 'extra_float_digits') ORDER BY 1",
    "SELECT 0.1::float8 + 0.2, 'Café', '\\x00ff'::bytea",
)
SETS = (
    "SET datestyle TO german",
    "SET datestyle TO mdy",
    "SET datestyle TO 'SQL, DMY'",
    "SET timezone TO 'Europe/Paris'",
    "SET TIME ZONE INTERVAL '+02:30' HOUR TO MINUTE",
    "SET application_name TO 'zzz'",
    "SET application_name TO 'é''\\'",
    "SET search_path TO pg_catalog",
    'SET search_path TO public, "$user", "a, b"',
    "SET client_encoding TO latin1",
    "SET NAMES 'utf8'",
    "SET intervalstyle TO iso_8601",
    "SET extra_float_digits TO 0",
    "SET bytea_output TO escape",
    "SET work_mem TO '3MB'",
    "SET work_mem TO 3072",
    "SET statement_timeout TO '50s'",
    "SET lock_timeout = 7000",
    "SET default_transaction_isolation TO 'repeatable read'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET client_min_messages TO error",
    "SELECT set_config('datestyle', 'Postgres, DMY', false)",
    "SELECT set_config('timezone', 'Asia/Tokyo', false), set_config('work_mem', '5MB', false)",
    "SELECT set_config('search_path', 'pg_catalog, public', false)",
    "SET datestyle TO german; SET timezone TO 'Asia/Tokyo'",
    "SET datestyle TO german; SELECT 1/0",
    "SET datestyle TO sql; SELECT date '2025-12-24'; SET timezone TO 'Europe/Paris'",
    "SET datestyle TO nonsense",
    "SET work_mem TO 'much'",
)
CUSTOM = (
    "SET app.tenant TO 'a'",
    "SET app.tenant = b",
    "SELECT set_config('app.user', 'ü', false)",
    "SELECT set_config('app.tenant', '7', true)",
    "SET LOCAL app.tenant TO 'local'",
    "RESET app.tenant",
    "SET app.user TO DEFAULT",
)
SET_LOCALS = (
    "SET LOCAL datestyle TO german",
    "SET LOCAL timezone TO 'Asia/Tokyo'",
    "SELECT set_config('datestyle', 'SQL, DMY', true)",
    "SET LOCAL work_mem TO '7MB'",
    "SET LOCAL search_path TO pg_catalog",
    "SET LOCAL datestyle TO DEFAULT",
)
RESETS = (
    "RESET datestyle",
    "RESET timezone",
    "SET datestyle TO DEFAULT",
    "SET search_path TO DEFAULT",
    "SET TIME ZONE LOCAL",
    "RESET application_name",
    "RESET work_mem",
    "RESET ALL",
    "RESET datestyle; SHOW datestyle",
    "SET datestyle TO ISO; RESET ALL; SELECT timestamptz '2025-06-01', nope",
    "DISCARD ALL",
    "DISCARD PLANS",
    "DISCARD SEQUENCES",
)

BEGINS = (
    "BEGIN",
    "START TRANSACTION",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION READ ONLY",
    "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
    "BEGIN; SELECT 1",
    "begin;",
)
ENDINGS = (
    "COMMIT",
    "ROLLBACK",
    "END",
    "ABORT",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "SELECT 5; COMMIT",
    "COMMIT; SELECT 6",
    "ROLLBACK; BEGIN",
)
SAVEPOINTS = ("SAVEPOINT a", "ROLLBACK TO a", "RELEASE a", "SAVEPOINT b", "ROLLBACK TO SAVEPOINT b", "RELEASE nope")
MODES = (
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET TRANSACTION READ ONLY",
    "SET CONSTRAINTS ALL DEFERRED",
    "LOCK TABLE orders IN ACCESS SHARE MODE",
    "BEGIN; SELECT 1; COMMIT",
    "SELECT txid_current_if_assigned()",
)
CURSORS = (
    "DECLARE c CURSOR FOR SELECT id FROM orders ORDER BY id",
    "FETCH 2 FROM c",
    "MOVE 3 IN c",
    "CLOSE c",
    "FETCH BACKWARD 1 FROM c",
    "DECLARE c SCROLL CURSOR FOR SELECT id FROM categories ORDER BY id",
    "FETCH 1 FROM pt",
    "CLOSE pt",
)
HOLDS = (
    "DECLARE h CURSOR WITH HOLD FOR SELECT id FROM orders ORDER BY id LIMIT 50",
    "FETCH 3 FROM h",
    "CLOSE h",
    "CLOSE ALL",
    "SELECT name, is_holdable FROM pg_cursors WHERE name <> '' ORDER BY name",
)
PREPARED = (
    "PREPARE p AS SELECT 42, date '2025-12-24'",
    "PREPARE s1 AS SELECT 'prepared with SQL'",
    "PREPARE q (int) AS SELECT id FROM orders WHERE id < $1 ORDER BY id",
    "EXECUTE p",
    "EXECUTE q(3)",
    "EXECUTE s1",
    "EXECUTE s1(4)",
    "EXECUTE s2(4)",
    "EXPLAIN (COSTS off) EXECUTE s1",
    "DEALLOCATE p",
    "DEALLOCATE s1",
    "DEALLOCATE PREPARE s2",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "SELECT name, statement, from_sql FROM pg_prepared_statements WHERE name <> '' ORDER BY name",
)

_NAMED_BY_SQL = (
    "EXECUTE {}",
    "EXECUTE {}(4)",
    "DEALLOCATE {}",
    "EXPLAIN (COSTS off) EXECUTE {}",
    "BEGIN; DEALLOCATE {}; ROLLBACK",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "SELECT name, statement, from_sql FROM pg_prepared_statements WHERE name <> '' ORDER BY name",
)
"""What SQL does with a statement of the protocol."""

TEXT = 25

Statement = tuple[str, Sequence[bytes | None]]
"""A text for Parse, and the values for Bind."""

EXTENDED: tuple[Statement, ...] = (
    ("SELECT 1", ()),
    ("", ()),
    ("SELECT $1::int + 1", (b"4",)),
    ("SELECT id FROM orders WHERE id < $1 ORDER BY id", (b"30",)),
    ("SELECT $1::text, current_setting('datestyle')", ("é".encode(),)),
    ("SELECT $1::text IS NULL", (None,)),
    ("SELECT $1::date", (b"2025-12-24",)),
    ("SELECT timestamptz '2025-06-01', date '01/02/2020'", ()),
    ("SELECT * FROM categories ORDER BY id", ()),
    ("SHOW datestyle", ()),
    ("COPY (SELECT 1) TO STDOUT", ()),
)
BROKEN: tuple[Statement, ...] = (
    ("SELECT 1/$1::int", (b"0",)),
    ("SELECT nope", ()),
    ("selec", ()),
    ("SELECT $1::int", (b"x",)),
    ("SELECT $1::int", ()),
    ("SELECT 1; SELECT 2", ()),
)
REFUSED_EXTENDED: tuple[Statement, ...] = (
    ("DELETE FROM orders WHERE id = $1", (b"1",)),
    ("UPDATE orders SET status = $1", (b"x",)),
)
CALLS = tuple(f"SELECT public.{call}()" for call in writer.CALLS)
CALLS_THAT_FAIL = tuple(f"SELECT public.{call}(), 1/0" for call in writer.CALLS)
"""Functions that set something in their bodies, for their session or for their transaction."""
_REFUSED = (
    frozenset(REFUSED)
    | {text for text, _ in REFUSED_EXTENDED}
    | {text for text in CALLS + CALLS_THAT_FAIL if "refused()" in text}
)

PARAMETERS = (
    ("DateStyle", "German"),
    ("TimeZone", "Asia/Kolkata"),
    ("options", "-c search_path=public -c extra_float_digits=0"),
    ("work_mem", "9MB"),
    ("application_name", "c1"),
)
CUSTOM_PARAMETERS = (("options", "-c app.tenant=start"), ("app.user", "start"))

NAMES = ("", "s1", "s2")
PORTALS = ("", "pt")

_RESETS = re.compile(r"\b(RESET|DISCARD ALL|DEFAULT|LOCAL')")

# --- parts ---------------------------------------------------------------------------------------------------------

one_of = st.sampled_from


def _ask(text: str) -> Message:
    return query(text, refused=text in _REFUSED)


def _prepare(name: str, text: str, types: Sequence[int] = ()) -> Message:
    return parse(name, text, types, refused=text in _REFUSED)


def _group(name: str, portal: str, statement: Statement, form: int, limit: int) -> list[Message]:
    """Write a whole use of a statement, with more or less around it."""
    text, values = statement
    out = [_prepare(name, text)]
    if form & 1:
        out.append(describe("S", name))
    out.append(bind(portal, name, values, form >> 1 & 1))
    if form & 4:
        out.append(describe("P", portal))
    out.append(execute(portal, limit))
    if form & 8:
        out.append(execute(portal, limit))
    if form & 16:
        out.append(close("P", portal))
    return out


def _wholes(
    statements: Sequence[Statement], names: Sequence[str], portals: Sequence[str]
) -> SearchStrategy[list[Message]]:
    return st.builds(
        _group, one_of(names), one_of(portals), one_of(statements), one_of((0, 4, 5, 2, 9, 25)), one_of((0, 1, 2, 5))
    )


def _kept(names: Sequence[str]) -> SearchStrategy[Phrase]:
    """Write a statement that later groups use, when others have had the upstream.

    Some are parsed under settings that end with the transaction, some meet SQL that names them.
    """

    def build(name: str, statement: Statement, described: bool, around: tuple[str, ...], between: list[str]) -> Phrase:
        text, values = statement
        parsed = batch([_prepare(name, text), *([describe("S", name)] if described else []), SYNC])
        bound = batch([bind("", name, values), describe("P", ""), execute(), SYNC])
        again = batch([describe("S", name), bind("", name, values), execute(), SYNC])
        named = [say(sql.format(name or "s1")) for sql in between]
        whole = [*map(say, around[:-1]), parsed, *map(say, around[-1:])]
        return *whole, bound, *named, again, bound

    return st.builds(
        build,
        one_of(names),
        one_of(EXTENDED),
        st.booleans(),
        st.just(()) | st.tuples(one_of(BEGINS[:3]), one_of(SET_LOCALS), one_of((*ENDINGS[:4], "ROLLBACK; BEGIN"))),
        st.lists(one_of(_NAMED_BY_SQL), max_size=2),
    )


def _joined(phrase: SearchStrategy[Phrase]) -> SearchStrategy[Phrase]:
    """Write phrases whose batches go out at once, as far as each ends with its own ReadyForQuery."""

    def join(phrases: list[Phrase]) -> Phrase:
        out: list[Step] = []
        for step in (step for phrase in phrases for step in phrase):
            last = out[-1] if out else None
            if _is_plain(step) and _is_plain(last):
                out[-1] = Batch(last.messages + step.messages, readies=last.readies + step.readies)
            else:
                out.append(step)
        return tuple(out)

    return st.builds(join, st.lists(phrase, min_size=1, max_size=3))


def _is_plain(step: Step | None) -> TypeGuard[Batch]:
    return isinstance(step, Batch) and step.until is Until.READY and not step.cancelled


def _looses(names: Sequence[str], portals: Sequence[str]) -> SearchStrategy[list[Message]]:
    """Write a part that depends on what was before.

    Never an Execute of the unnamed portal without its Bind: behind a simple Query that failed in a transaction it can
    crash PostgreSQL, as seen on 15.18 (exec_execute_message() looks at statements that were freed). SideCart therefore
    says that there is no such portal; so it does for Describe, which is left out as well.
    """
    loose: list[list[Message]] = [[]]
    for name in names:
        loose += [[bind("", name, values), describe("P", ""), execute()] for values in ((), (b"4",))]
        loose += [[describe("S", name)], [close("S", name)], [parse(name, "SELECT $1::int + 1")]]
        loose += [[parse(name, "SELECT $1 || 'x'", [TEXT])], [bind("pt", name), execute("pt", 2)]]
    for portal in portals:
        loose += [[close("P", portal)]]
        loose += [[describe("P", portal)], [execute(portal, 2)], [execute(portal)]] if portal else []
    return one_of(loose)


def _texts(texts: Sequence[str]) -> SearchStrategy[list[Message]]:
    """Run texts that have no parameters through the extended protocol."""
    return st.builds(lambda text: [_prepare("", text), bind("", ""), describe("P", ""), execute()], one_of(texts))


def _single(texts: Sequence[str]) -> SearchStrategy[Phrase]:
    return one_of([(batch([_ask(text)]),) for text in texts])


def _sync(parts: list[list[Message]]) -> list[Message]:
    """End a group, in which DISCARD ALL runs once at most.

    PostgreSQL lets it run again right behind itself, but not behind the settings that SideCart puts there for a client
    that has connected with any.
    """
    out: list[Message] = []
    discarded = False
    for part in parts:
        discards = any("DISCARD ALL" in message.shown for message in part)
        uses = not any(message.shown.startswith("Parse") for message in part)
        if discarded and (discards or uses):
            continue
        out += part
        discarded |= discards
    return [*out, SYNC]


def _groups(part: SearchStrategy[list[Message]], texts: Sequence[str]) -> SearchStrategy[Phrase]:
    """Write extended groups: most of them alone, some as a pipeline with Queries between them."""
    group = st.builds(_sync, st.lists(part, max_size=4))
    simple = st.builds(lambda text: [_ask(text)], one_of(texts))
    pipeline = st.lists(group | simple, min_size=2, max_size=4)
    alone = st.builds(lambda messages: (batch(messages),), group)
    return alone | alone | alone | st.builds(lambda groups: (batch(*groups),), pipeline)


def _odd(part: SearchStrategy[list[Message]], texts: Sequence[str]) -> SearchStrategy[Phrase]:
    """Write groups with a Query in the middle, and groups that a Flush divides."""

    def middle(before: list[Message], text: str, after: list[Message]) -> Phrase:
        return (fenced(*_without_close(before), _ask(text), *_without_close(after)),)

    def divided(before: list[Message], after: list[Message]) -> Phrase:
        return flushed(*_without_close(before)), batch([*after, SYNC])

    return st.builds(middle, part, one_of(texts), part) | st.builds(divided, part, part)


def _without_close(messages: list[Message]) -> list[Message]:
    """Leave the Close out: the fence has to be the only one."""
    return [message for message in messages if not message.shown.startswith("Close")]


def _around(first: Sequence[str], inside: SearchStrategy[Phrase], last: Sequence[str]) -> SearchStrategy[Phrase]:
    """Write a transaction."""

    def build(begin: str, middle: list[Phrase], end: str) -> Phrase:
        return say(begin), *(step for phrase in middle for step in phrase), say(end)

    return st.builds(build, one_of(first), st.lists(inside, max_size=4), one_of(last))


def _extended_transactions(inside: SearchStrategy[list[Message]]) -> SearchStrategy[Phrase]:
    """Write BEGIN and the first statement in one group, as pgJDBC does."""

    def build(begin: str, part: list[Message], end: str) -> Phrase:
        return (
            batch([parse("", begin), bind("", ""), execute(), *part, SYNC]),
            batch([parse("", end), bind("", ""), execute(), SYNC]),
        )

    return st.builds(build, one_of(BEGINS[:4]), inside, one_of(ENDINGS[:4]))


def _cancelled(text: str, *, extended: bool = False) -> Batch:
    if extended:
        # What sleeps must not be there for others to bind.
        return Batch((parse("", text), bind("", ""), execute(), SYNC, close("S", ""), SYNC), readies=2, cancelled=text)
    return Batch((query(text),), cancelled=text)


_SLEEP = "SELECT pg_sleep(30)"
_SLEEPERS = (_SLEEP, _SLEEP, f"SET datestyle TO german; {_SLEEP}", f"BEGIN; {_SLEEP}")


def _cancels() -> SearchStrategy[Phrase]:
    awake = one_of([(StrayCancel(own_key=True),), (StrayCancel(own_key=False),)])
    whole = st.builds(lambda text: (_cancelled(text),), one_of(_SLEEPERS))
    return awake | whole | st.just((_cancelled(_SLEEP, extended=True),))


def _of_client(number: int, script: Script) -> Script:
    """Tell the sleeps of the clients apart: a cancel has to wait until its own client is asleep."""

    def own(step: Step) -> Step:
        if not isinstance(step, Batch) or not step.cancelled:
            return step
        return _cancelled(f"{step.cancelled}, {number}", extended=len(step.messages) > 1)

    return replace(script, steps=tuple(own(step) for step in script.steps))


# --- themes --------------------------------------------------------------------------------------------------------


def _settings_theme() -> SearchStrategy[Phrase]:
    changes = _single(SETS) | _single(RESETS)
    probes = _single(PROBES)
    inside = _single(SET_LOCALS) | _single(SAVEPOINTS) | changes | probes | _single(FAILURES[:3]) | _single(REFUSED[:2])
    part = _texts((*SETS, *RESETS, *SET_LOCALS)) | _texts(PROBES) | _wholes(EXTENDED + BROKEN, ("",), ("",))
    return (
        changes
        | probes
        | _around(BEGINS, inside, ENDINGS)
        | changes
        | _groups(part, (*PROBES, *SETS, *RESETS))
        | probes
        | _single(READS[:4] + FAILURES + REFUSED)
    )


def _custom_theme() -> SearchStrategy[Phrase]:
    probe = _single(PROBES[10:11])
    changes = _single(CUSTOM)
    inside = changes | probe | _single(SAVEPOINTS) | _single(FAILURES[:1])
    part = _texts((*CUSTOM, PROBES[10]))
    return changes | probe | _around(BEGINS, inside, ENDINGS) | probe | _groups(part, CUSTOM) | _single(RESETS)


def _functions_theme() -> SearchStrategy[Phrase]:
    called: tuple[Statement, ...] = tuple((text, ()) for text in CALLS + CALLS_THAT_FAIL)
    part = _wholes(called + EXTENDED[4:10], NAMES, ("",)) | _looses(NAMES, ("",)) | _texts((*CALLS, *SET_LOCALS))
    groups = _groups(part, CALLS + CALLS_THAT_FAIL + PREPARED)
    calls = _single(CALLS) | _single(CALLS_THAT_FAIL)
    probes = _single(PROBES)
    inside = calls | probes | groups | _single(SAVEPOINTS) | _single(SET_LOCALS)
    return (
        calls
        | groups
        | probes
        | _around(BEGINS, inside, ENDINGS)
        | groups
        | _single(SETS[:9] + RESETS + CUSTOM)
        | _single(PREPARED)
    )


def _statements_theme() -> SearchStrategy[Phrase]:
    whole = _wholes(EXTENDED + BROKEN + REFUSED_EXTENDED, NAMES, PORTALS)
    part = whole | _looses(NAMES, PORTALS) | _looses(NAMES, PORTALS) | _texts(PREPARED)
    groups = _groups(part, READS[:4] + PREPARED)
    sql = _single(PREPARED)
    inside = groups | sql | _single(SAVEPOINTS) | _single(FAILURES[:2])
    return (
        groups
        | sql
        | _kept(NAMES)
        | _kept(NAMES)
        | groups
        | _around(BEGINS, inside | _kept(NAMES), ENDINGS)
        | _single(SETS[:9] + RESETS)
        | _single(READS[:4])
    )


def _transactions_theme() -> SearchStrategy[Phrase]:
    loose = _single(BEGINS + ENDINGS + SAVEPOINTS + MODES)
    reads = _single(READS + PROBES[:2])
    part = _texts((*BEGINS[:4], *ENDINGS[:6], *SAVEPOINTS, *MODES[:5])) | _wholes(EXTENDED + BROKEN, ("",), ("",))
    inside = reads | loose | _single(FAILURES + REFUSED) | _groups(part, READS[:4]) | _single(SET_LOCALS)
    return (
        _around(BEGINS, inside, ENDINGS)
        | loose
        | reads
        | _groups(part, BEGINS + ENDINGS + READS[:4])
        | _extended_transactions(_wholes(EXTENDED + BROKEN + REFUSED_EXTENDED, ("",), ("",)))
        | _single(FAILURES + REFUSED)
    )


def _portals_theme() -> SearchStrategy[Phrase]:
    part = (
        _wholes(EXTENDED + BROKEN + REFUSED_EXTENDED, ("", "", "s1"), PORTALS)
        | _looses(("", "s1"), (*PORTALS, "c"))
        | _texts((*CURSORS, "SELECT 1"))
    )
    odd = _odd(part, READS[:5] + CURSORS[1:4] + FAILURES[:3] + BEGINS[:1] + ENDINGS[:2])
    groups = _groups(part, READS[:5] + CURSORS)
    cursors = _single(CURSORS + HOLDS)
    inside = groups | cursors | odd | _single(SAVEPOINTS) | _single(FAILURES[:2])
    return groups | _around(BEGINS, inside, ENDINGS) | odd | cursors | _single(READS) | _single(HOLDS)


def _leaving_theme() -> SearchStrategy[Phrase]:
    part = _wholes(EXTENDED + BROKEN, NAMES, PORTALS) | _looses(NAMES, PORTALS)
    inside = _cancels() | _single(READS + CURSORS + SET_LOCALS + SAVEPOINTS)
    return (
        _cancels()
        | _single(READS + SETS + HOLDS + PREPARED[:4])
        | _groups(part, READS[:6])
        | _around(BEGINS, inside, ENDINGS)
        | _single(PROBES)
    )


_BIG = "SELECT id, repeat('y', 2000) FROM orders WHERE id < 2000"
_UNHEARD = (
    batch([query("SELECT pg_sleep(30), 8")]),
    batch([query(_BIG)]),
    batch([query(f"COPY ({_BIG}) TO STDOUT")]),
    batch([query("BEGIN; SET LOCAL datestyle TO german")]),
    batch([query("SET datestyle TO german; SELECT pg_sleep(30), 9")]),
    batch([query("SET datestyle TO german")]),
    batch([query("PREPARE p AS SELECT 1")]),
    batch([query("DECLARE h CURSOR WITH HOLD FOR SELECT id FROM orders")]),
    batch([query("SET app.tenant TO 'gone'")]),
    batch([query("DELETE FROM orders", refused=True)]),
    Batch((parse("", "SET timezone TO 'Asia/Tokyo'"), bind("", ""), execute())),
    Batch((parse("s1", "SELECT 1"), bind("pt", "s1"), execute("pt", 1))),
    Batch((parse("", _BIG), bind("", ""), execute("", 100), SYNC, query("BEGIN"))),
)


@cache
def theme(name: str) -> SearchStrategy[Phrase]:
    made = {
        "settings": _settings_theme,
        "custom settings": _custom_theme,
        "functions": _functions_theme,
        "statements": _statements_theme,
        "transactions": _transactions_theme,
        "portals": _portals_theme,
        "leaving": _leaving_theme,
    }
    phrase = st.one_of([build() for build in made.values()]) if name == "everything" else made[name]()
    return phrase | phrase | phrase | _joined(phrase)


THEMES = ("settings", "custom settings", "functions", "statements", "transactions", "portals", "leaving", "everything")


def _turn(number: int) -> Turn:
    hows = (How.WAIT, How.WAIT, How.WAIT, How.WAIT, How.GO_ON, How.GO_ON, How.TORN, How.TORN_WIDE)
    return Turn(number % 8, hows[number // 8])


def _unique(parameters: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(dict(parameters).items())


@cache
def plays(about: str, *, clients: int = 8) -> SearchStrategy[Play]:
    """Return plays of two to so many clients on a theme."""
    leaving = about in ("leaving", "everything")
    custom = about in ("custom settings", "functions", "everything")
    offered = PARAMETERS + (CUSTOM_PARAMETERS if custom else ())
    ends = one_of(tuple(End)) if leaving else st.just(End.TERMINATE)
    unheard = st.none() | one_of(_UNHEARD) if leaving else st.none()

    def script(
        parameters: list[tuple[str, str]], phrases: list[Phrase], end: End, last: Batch | None, cut: int
    ) -> Script:
        steps = [step for phrase in phrases for step in phrase]
        if parameters and any(_RESETS.search(repr(step)) for step in steps):
            # What sets start-up settings again behind a RESET is a query, behind which no isolation level is chosen.
            steps = [step for step in steps if "ISOLATION" not in repr(step)]
        if last is not None and end is End.TERMINATE:
            last = None
        return Script(_unique(parameters), tuple(steps), end, last, cut)

    scripts = st.builds(
        script,
        st.lists(one_of(offered), max_size=2),
        st.lists(theme(about), min_size=1, max_size=6),
        ends,
        unheard,
        one_of((16, 16, 8, 1, 15)),
    )
    turn = st.integers(0, 63).map(_turn)
    turns = st.lists(turn, max_size=40) | st.lists(turn, min_size=20, max_size=80)  # of the first few have many
    return st.builds(
        lambda cast, order: Play(tuple(_of_client(*each) for each in enumerate(cast)), tuple(order)),
        st.lists(scripts, min_size=2, max_size=clients),
        turns,
    )

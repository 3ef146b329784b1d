"""Write sketches at random: one seed, one sketch. What the clients have in common is small, so that they meet often.

They use the same few names of statements and portals in SQL and in the protocol, the same texts under different
settings, and the functions of FUNCTIONS, which set something in their bodies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random

from tests.model.sketch import (
    FLUSH,
    SYNC,
    TERMINATE,
    Message,
    Part,
    Sketch,
    Value,
    Write,
    bind,
    close,
    describe,
    execute,
    is_safe,
    parse,
    query,
)

TABLES = """
CREATE SCHEMA here; CREATE TABLE here.spot AS SELECT 'here' AS place;
CREATE SCHEMA there; CREATE TABLE there.spot AS SELECT 'there' AS place, 7 AS more;
CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.spot AS SELECT 'elsewhere' AS place;
GRANT USAGE ON SCHEMA here, there, elsewhere TO PUBLIC;
GRANT SELECT ON here.spot, there.spot, elsewhere.spot TO PUBLIC;
"""

_SQL = "CREATE FUNCTION public.{} RETURNS text LANGUAGE sql AS $$ select set_config({}) $$;"
_PLPGSQL = "CREATE FUNCTION public.{} RETURNS text LANGUAGE plpgsql AS $$ begin {}; return 'done'; end $$;"
FUNCTIONS = "\n".join(
    (
        # What sets for the session is refused, but where the operator allows it.
        _SQL.format("refused()", "'datestyle', 'German', false"),
        _SQL.format("german()", "'datestyle', 'German', false"),
        _PLPGSQL.format("elsewhere()", "perform set_config('search_path', 'elsewhere', false)"),
        _PLPGSQL.format("tenant()", "perform set_config('app.tenant', 'f', false)"),
        _PLPGSQL.format("dmy_local()", "perform set_config('datestyle', 'ISO, DMY', true)"),
        _SQL.format("user_local()", "'app.user', 'f', true"),
        _PLPGSQL.format("paris_local()", "perform set_config('timezone', 'Europe/Paris', true)"),
        _PLPGSQL.format("there_local()", "perform set_config('search_path', 'there', true)"),
        _PLPGSQL.format(
            "more_local()",
            "perform set_config('app.user', 'g', true); perform set_config('app.tenant', 'g', true);"
            " perform set_config('intervalstyle', 'iso_8601', true)",
        ),
        # In SQL: what PL/pgSQL says of where an error was raised depends on the search_path of its first call.
        "CREATE FUNCTION public.fails_local() RETURNS text LANGUAGE sql AS"
        " $$ select set_config('datestyle', 'SQL, DMY', true); select (1/0)::text $$;",
        _PLPGSQL.format(
            "undone_local()",
            "begin perform set_config('datestyle', 'SQL, DMY', true); perform set_config('app.tenant', 'u', true);"
            " perform 1/0; exception when division_by_zero then null; end",
        ),
        "CREATE FUNCTION public.in_german() RETURNS text LANGUAGE sql SET datestyle TO 'German'"
        " AS $$ select '2020-01-02'::date::text $$;",
    )
)
ALLOWED = "public.german, public.elsewhere, public.tenant"
CALLS = (
    "refused",
    "german",
    "elsewhere",
    "tenant",
    "dmy_local",
    "user_local",
    "paris_local",
    "there_local",
    "more_local",
    "fails_local",
    "undone_local",
    "in_german",
)

SPOT = "select place from spot"
DATES = "select date '01/02/2020', timestamptz '2025-06-01 00:00+00'"

READS = (
    "select 1",
    "",
    "select 11; select 12",
    "select x from generate_series(1, 5) as x",
    DATES,
    "select timestamptz '2025-06-01 00:00', '01/02/2020'::date",
    SPOT,
    "select * from spot",
    "select '2020-02-01'::date, current_setting('datestyle')",
    "select current_setting('app.tenant', true)",
    "copy (select 1) to stdout",
    "show timezone",
)
FAILURES = ("select 1/0", "select nope", "selec", "select 1; select 1/0")
SETS = (
    "set search_path to elsewhere",
    "set search_path to here",
    "set datestyle to 'ISO, DMY'",
    "set datestyle to german",
    "set timezone to 'Asia/Tokyo'",
    "set app.tenant to 'a'",
    "select set_config('app.user', 'b', false)",
    "select set_config('timezone', 'Europe/Paris', false)",
    "set application_name to 'me'",
    "set work_mem to '3MB'",
    "set statement_timeout to '50s'",
    "set session characteristics as transaction isolation level serializable",
)
LOCALS = (
    "set local search_path to there",
    "set local datestyle to 'SQL, DMY'",
    "select set_config('datestyle', 'ISO, DMY', true)",
    "select set_config('app.tenant', 'l', true)",
    "set local timezone to 'Asia/Tokyo'",
    "set local datestyle to default",
)
RESETS = (
    "reset all",
    "reset search_path",
    "reset datestyle",
    "set timezone to default",
    "select set_config('timezone', null, false)",
    "reset app.tenant",
    "discard all",
    "discard plans",
    "deallocate all",
)
BEGINS = (
    "begin",
    "start transaction isolation level repeatable read",
    "begin; select 1",
    "begin read only",
)
ENDS = (
    "commit",
    "rollback",
    "rollback",
    "commit and chain",
    "commit; begin",
)
PLAIN = "select 7"
"""Stands for what is no text for a Parse. A SAVEPOINT that is executed outside a transaction, or in a group behind
ROLLBACK, ends the connection (DefineSavepoint() in xact.c), and EXPLAIN EXECUTE of a statement that runs itself crashes
PostgreSQL, which knows no end of it."""
SAVEPOINTS = ("savepoint v", "rollback to v", "release v")
CURSORS = (
    "declare c cursor for select x from generate_series(1, 9) as x",
    "declare h cursor with hold for select x from generate_series(1, 4) as x",
    "fetch 2 from c",
    "fetch 1 from h",
    "fetch 1 from p",
    "close c",
    "close all",
)
MIXED = (
    "set timezone to 'Asia/Tokyo'; select 1/0",
    "set datestyle to german; select date '2020-01-02'; begin",
    "set timezone to default; start transaction isolation level repeatable read",
    "set timezone to 'Asia/Tokyo'; select name from pg_prepared_statements order by name; begin",
    "rollback; execute s",
    "rollback; deallocate s",
    "rollback; prepare s as select 13",
    "commit; execute t",
    "begin; set search_path to elsewhere; commit",
    "begin; deallocate s; rollback",
    "deallocate all; prepare s as select 15",
    "discard all; select 1",
    "reset all; select current_setting('datestyle')",
)
PREPARED = "select name, statement, from_sql from pg_prepared_statements order by name"
LOOKS = (
    PREPARED,
    "select statement from pg_prepared_statements order by name",
    "select name from pg_prepared_statements order by name",
)
SHOWN = (
    "select current_setting('datestyle'), current_setting('timezone'), current_setting('search_path'),"
    " current_setting('application_name'), current_setting('work_mem'), current_setting('intervalstyle')"
)
CUSTOM = "select current_setting('app.tenant', true), current_setting('app.user', true)"
PROBES = (SHOWN, CUSTOM, DATES, "show search_path", "show datestyle", "show timezone")

NAMES = ("s", "t")
SQL_NAMED = ("execute {}", "deallocate {}", "prepare {} as select 21", "explain (costs off) execute {}")
SQL_MORE = (
    "prepare {} as select date '01/02/2020'",
    "prepare {} as select place from spot",
    "prepare {} (int) as select $1 + 1",
    "execute {}(4)",
)

WITH_VALUES: tuple[tuple[str, tuple[Value, ...]], ...] = (
    ("select $1::int + 1", ("4",)),
    ("select 1/$1::int", ("0",)),
    ("select $1::date", ("01/02/2020",)),
    ("select $1::text, current_setting('datestyle')", ("x",)),
    ("select $1::int", ()),
    ("select x from generate_series(1, $1::int) as x", ("3",)),
)

PARAMETERS = (
    ("DateStyle", "German"),
    ("TimeZone", "Asia/Kolkata"),
    ("options", "-c search_path=here"),
    ("options", "-c app.tenant=start"),
    ("application_name", "mine"),
)


KINDS: tuple[tuple[str, ...], ...] = (
    READS,
    FAILURES,
    SETS,
    LOCALS,
    RESETS,
    (*BEGINS, *ENDS),
    SAVEPOINTS,
    CURSORS,
    MIXED,
    LOOKS,
    PROBES,
    tuple(f"select public.{call}()" for call in CALLS),
    tuple(f"select public.{call}(), 1/0" for call in CALLS[:6]),
    tuple(text.format(name) for text in SQL_NAMED for name in NAMES),
    tuple(text.format(name) for text in SQL_MORE for name in NAMES),
)


def vocabulary() -> list[str]:
    """Return every text that a sketch can have."""
    texts = [text for kind in KINDS for text in kind]
    return list(dict.fromkeys((*texts, *(text for text, _ in WITH_VALUES), PLAIN)))


def write(seed: int) -> Sketch:
    """Return the sketch of a seed: always the same one."""
    return _Writer(Random(seed)).sketch()


class _Writer:
    def __init__(self, random: Random) -> None:
        self._random = random
        # What this sketch is about: some kinds of texts come often, others not at all.
        self._weights = [random.choice((0, 1, 1, 3)) for _ in KINDS]
        self._weights[0] = 2
        self._weights[1] = random.choice((0, 1, 2))
        self._named = random.random()
        """How much of it are statements with a name."""
        few = random.choice((0, 3, 6, 12))
        self._texts = tuple(self._any_text() for _ in range(few))
        """All texts that the clients have in common, if they are few."""

    def sketch(self) -> Sketch:
        random = self._random
        parts = [self._part() for _ in range(random.choice((2, 2, 2, 3, 3, 4, 5, 8)))]
        turns = [
            number for number, part in enumerate(parts) for _ in part.writes[: random.randint(1, len(part.writes))]
        ]
        if random.random() < 0.7:
            random.shuffle(turns)
        return Sketch(tuple(parts), tuple(turns))

    def _part(self) -> Part:
        random = self._random
        parameters = dict(random.sample(PARAMETERS, random.randint(1, 2))) if random.random() < 0.35 else {}
        writes = [self._write() for _ in range(random.randint(1, 6))]
        end = random.random()
        leaves = end < 0.12
        if end < 0.06:
            train = (*random.choice(((parse("", "reset all"),), (parse("", self._text()),))), bind("", ""), execute())
            writes.append(Write(train, False, times=random.choice((2, 30, 200))))
            writes.append(Write((FLUSH,), False))
        elif end < 0.2:
            # Terminate behind messages that have not been answered.
            writes[-1] = Write((*writes[-1].messages, TERMINATE))
        elif not leaves:
            writes += self._probes()
        writes[-1] = replace(writes[-1], waits=True)  # nothing follows
        return Part(tuple(_safe(writes)), tuple(parameters.items()), leaves)

    def _write(self) -> Write:
        random = self._random
        messages: list[Message] = []
        for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
            messages += self._group()
        if random.random() < 0.06:
            messages.append(FLUSH)
        cut = random.randint(1, 15) if random.random() < 0.1 else 0
        return Write(tuple(messages), random.random() < 0.8, cut)

    def _group(self) -> list[Message]:
        random = self._random
        if random.random() < 0.35:
            return [query(self._text())]
        messages: list[Message] = []
        for _ in range(random.choice((1, 1, 2, 2, 3))):
            messages += self._use()
        if random.random() < 0.1:
            messages.insert(random.randint(0, len(messages)), query(self._text()))
        if random.random() < 0.1:
            messages.insert(random.randint(0, len(messages)), FLUSH)
        if random.random() < 0.95:
            messages.append(SYNC)
        return messages

    def _use(self) -> list[Message]:
        """Write a whole use of a statement, or a part of one that depends on what was before."""
        random = self._random
        name = random.choice(NAMES) if random.random() < self._named else ""
        portal = "p" if random.random() < 0.15 else ""
        limit = random.choice((1, 2)) if random.random() < 0.15 else 0
        if random.random() < 0.25:
            text, values = random.choice(WITH_VALUES)
        else:
            text, values = self._text(), ()
            if text in SAVEPOINTS or (name and _may_run_itself(name, text)):
                text = PLAIN
        run = [bind(portal, name, *values), execute(portal, limit)]
        if random.random() < 0.2:
            run.insert(1, describe("P", portal))
        if random.random() < 0.08:
            run.append(execute(portal, limit))
        if random.random() < 0.05:
            run.append(close("P", portal))
        made = parse(name, text, *((25,) if values and random.random() < 0.1 else ()))
        part = random.random()
        if part < 0.5:
            return [made, *([describe("S", name)] if random.random() < 0.2 else []), *run]
        if part < 0.68:
            return run
        if part < 0.82:
            return [made]
        if part < 0.88:
            return [describe("S", name)]
        if part < 0.94:
            return [close("S", name)]
        if part < 0.97:
            return [execute(portal, limit)]
        return [random.choice((describe, close))("P", portal)]

    def _text(self) -> str:
        return self._random.choice(self._texts) if self._texts else self._any_text()

    def _any_text(self) -> str:
        (kind,) = self._random.choices(KINDS, self._weights)
        return self._random.choice(kind)

    def _probes(self) -> list[Write]:
        """Ask for what a session holds: its unnamed statement, its settings, its statements and what they are."""
        looks: list[Write] = [Write((SYNC, bind("", ""), execute(), SYNC, query("rollback")))]
        looks.append(Write(tuple(map(query, (*PROBES, PREPARED)))))
        named = [query(f"execute {name}") for name in NAMES]
        bound = [message for name in NAMES for message in (describe("S", name), bind("", name), execute(), SYNC)]
        looks.append(Write(tuple(named + bound if self._random.random() < 0.5 else bound + named)))
        return looks


def _may_run_itself(name: str, text: str) -> bool:
    return "execute" in text and (text.startswith("explain") or name == NAMES[1] or f"execute {NAMES[1]}" not in text)


def _safe(writes: Iterable[Write]) -> Iterator[Write]:
    """Leave out what could end PostgreSQL: see `is_safe`. Of each write it is not known what has come before."""
    said: list[Message] = []
    for write in writes:
        kept: list[Message] = []
        for message in write.messages:
            if is_safe([*said, query(""), *kept, message]):
                kept.append(message)
        said += kept
        yield replace(write, messages=tuple(kept) or (SYNC,))

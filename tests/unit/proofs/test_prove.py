"""What is proved a read is one: each way to hide a writer in a database, by name, and the honest objects beside it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.filter import Filter
from proxy.proofs import plpgsql
from proxy.proofs.prove import Proof, explain, prove
from proxy.sql import tables
from proxy.sql.catalog import (
    ANY_NUMBER,
    CAST_TO,
    FUNCTION,
    OPERATOR,
    RELATION,
    TYPE,
    UNREADABLE,
    BuiltIn,
    Callable,
    CastRow,
    Catalog,
    FamilyRow,
    FunctionRow,
    OperatorRow,
    RelationRow,
    Rows,
    TypeRow,
)
from proxy.sql.policy import Policy
from proxy.sql.verdict import Action, Effect
from tests.unit.proofs.test_plpgsql import SET_SLOTS, SLOTS

CORPUS = Path(__file__).parents[2] / "data" / "corpus.jsonl"

BUILT_IN_TYPES = (
    "bool:16 bytea:17 name:19 int8:20 int2:21 int4:23 text:25 oid:26 json:114 float8:701 _int4:1007 _text:1009"
    " varchar:1043 date:1082 timestamptz:1184 numeric:1700 refcursor:1790 regprocedure:2202 regclass:2205"
    " record:2249 cstring:2275 void:2278 trigger:2279 internal:2281 anyelement:2283 uuid:2950 regdictionary:3769"
    " jsonb:3802"
)
OIDS = {name: int(oid) for name, oid in (pair.split(":") for pair in BUILT_IN_TYPES.split())}
PSEUDO = ("record", "cstring", "void", "trigger", "internal", "anyelement")
HEAD = re.compile(r"(?P<schema>\w+)\.(?P<name>.+?)\((?P<arguments>[^)]*)\)(?: returns (?P<returns>.+))?")


class World:
    """Make the rows of a database, in few words. Each method returns the OID of what it makes."""

    def __init__(self) -> None:
        self.rows = Rows(
            150018,
            "shop",
            types=tuple(
                TypeRow(oid, "pg_catalog", name, "p" if name in PSEUDO else "b", (), (), ())
                for name, oid in OIDS.items()
            ),
        )
        self._oids = dict(OIDS)
        self._next = 20_000

    def oid(self, name: str) -> int:
        return self._oids[name.replace("integer", "int4").removeprefix("setof ")]

    def _add(self, kind: str, *rows: Any) -> int:
        added: dict[str, Any] = {kind: (*getattr(self.rows, kind), *rows)}
        self.rows = replace(self.rows, **added)
        self._next += 10
        return self._next - 10

    def function(self, head: str, body: str, language: str = "plpgsql", defaults: str = "", **more: Any) -> int:
        """Make a function from `public.f(a int4, b text) returns int4` and its body."""
        found = re.fullmatch(HEAD, head)
        assert found
        named = [argument.rpartition(" ") for argument in found["arguments"].split(", ") if argument]
        returns = found["returns"] or "int4"
        row = FunctionRow(
            oid=self._next,
            schema=found["schema"],
            name=found["name"],
            kind="f",
            language=language,
            volatility="v",
            arguments=tuple(self.oid(type_) for _, _, type_ in named),
            defaults=0,
            variadic=False,
            returns=(self.oid(returns),),
            trigger=returns == "trigger",
            source=body,
            definition=f"CREATE OR REPLACE FUNCTION {head}\n LANGUAGE {language}\nAS $function${body}$function$"
            if language in ("sql", "plpgsql")
            else "",
            default_expressions=defaults,
            settings=(),
            extension="",
            support=(),
        )
        return self._add("functions", row._replace(**more))

    def sql(self, head: str, body: str, **more: Any) -> int:
        return self.function(head, body, "sql", **more)

    def relation(self, name: str, kind: str = "r", definition: str = "", **more: Any) -> int:
        """Make a table or view in public, and its row type."""
        oid, row_type = self._next, self._next + 1
        self._oids[f"public.{name}"] = row_type
        parts = more.pop("parts", ())
        self._add("types", TypeRow(row_type, "public", name, "c", parts, (), ()))
        row = RelationRow(oid, "public", name, kind, row_type, definition, (), (), "", (), (), parts, ())
        self.rows = replace(self.rows, relations=(*self.rows.relations, row._replace(**more)))
        return oid

    def view(self, name: str, definition: str, **more: Any) -> int:
        return self.relation(name, "v", definition, **more)

    def type(self, name: str, kind: str, *, parts: tuple[int, ...] = (), check: str = "", **more: Any) -> int:
        """Make a type in public, and its array type."""
        oid, array = self._next, self._next + 1
        self._oids |= {f"public.{name}": oid, f"public.{name}[]": array}
        row = TypeRow(oid, "public", name, kind, parts, (check,) if check else (), ())._replace(**more)
        return self._add("types", row, TypeRow(array, "public", f"_{name}", "b", (oid,), (), ()))

    def operator(self, name: str, left: str, right: str, function: int, support: tuple[int, ...] = ()) -> int:
        operands = (self.oid(left) if left else 0, self.oid(right))
        return self._add("operators", OperatorRow(self._next, "public", name, *operands, function, support))

    def cast(self, source: str, target: str, function: int, context: str = "e") -> int:
        return self._add("casts", CastRow(self._next, self.oid(source), self.oid(target), function, context))

    def family(self, name: str, *functions: int) -> int:
        return self._add("families", FamilyRow(self._next, "public", name, functions))

    def built_in(self, oid: int, name: str) -> int:
        self._add("built_ins", BuiltIn(oid, "pg_catalog", name))
        return oid

    def prove(self, policy: Policy | None = None, **more: Any) -> Catalog:
        return prove(self.rows, policy or Policy(), **more)

    def why(self, key: tuple[str, int], policy: Policy | None = None) -> str:
        """Say why an object is no read; empty for a read."""
        taint = self.prove(policy).taints.get(key)
        return "" if taint is None else taint.why

    def refused(self, sql: str, policy: Policy | None = None) -> str:
        """Give the rule by which a statement is refused; empty if it is not."""
        filter_ = Filter(policy or Policy(server_version=self.rows.version))
        filter_.learn_catalog(self.prove(policy))
        verdict = filter_.judge(sql.encode())
        return verdict.rule if verdict.action is Action.REFUSE else ""


INSERT = "begin insert into public.t values ((random()*1e9)::int, 'w', 1); return 1; end"


@pytest.fixture
def world() -> World:
    """Give a database with one table, one writer and one reader."""
    made = World()
    made.relation("t")
    made.function("public.writer() returns int4", INSERT)
    made.function("public.reader() returns int4", "begin return (select max(id) from public.t); end")
    return made


def why(world: World, head: str, body: str, language: str = "plpgsql", **more: Any) -> str:
    """Say why a function is no read; empty for a read."""
    return world.why((FUNCTION, world.function(head, body, language, **more)))


# -- bodies in PL/pgSQL ------------------------------------------------------------------------------------------------


def with_types(world: World) -> World:
    world.type("positive", "d", parts=(), check="(VALUE > 0)")
    world.type("pair", "c")
    world.type("pairs", "c")
    world.type("mood", "e")
    return world


@pytest.mark.parametrize("slot", [*SLOTS, *SET_SLOTS])
def test_a_writer_is_found_wherever_it_hides(slot: str, world: World) -> None:
    with_types(world)
    body = ({**SLOTS, **SET_SLOTS})[slot]
    head = "public.f() returns setof int4" if slot in SET_SLOTS else "public.f() returns int4"
    assert why(world, head, body.replace("HERE", "public.reader()")) == ""
    assert (
        why(world, head, body.replace("HERE", "public.writer()"))
        == "it calls function public.writer(), whose body executes INSERT"
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (INSERT, "its body executes INSERT"),
        ("begin update public.t set v = 'x'; end", "its body executes UPDATE"),
        ("begin with w as (delete from public.t returning id) select 1 from w; end", "its body executes DELETE"),
        ("begin create temp table x (a int); end", "its body executes CREATE TABLE"),
        ("begin lock table public.t; end", "its body executes LOCK TABLE"),
        ("begin set work_mem = '1GB'; end", "its body executes SET"),
        ("begin execute 'select 1'; end", "its body executes dynamic SQL"),
        ("begin perform pg_notify('x', 'y'); end", "its body calls pg_catalog.pg_notify, which does more than read"),
        ("begin return nextval('public.s'); end", "its body calls pg_catalog.nextval, which does more than read"),
        ("begin return lo_create(0); end", "its body calls pg_catalog.lo_create, which does more than read"),
        ("begin perform set_config('app.tenant', '42', false); end", "its body sets app.tenant for the session"),
        ("begin perform setseed(0.5); end", "its body leaves a trace in the session (setseed)"),
        ("begin perform set_config('role', 'x', true); end", 'its body is refused: cannot set parameter "role" to "x"'),
        ("begin perform 1 from public.t for update; end", "its body executes SELECT FOR UPDATE"),
        ("begin perform query_to_xml($1, true, true, ''); end", "its body is refused: permission denied for function"),
        ("begin return missing(); end", "its body is refused: function missing does not exist"),
        ("begin return (select 1 from lost); end", 'its body is refused: relation "lost" does not exist'),
        ("begin if; end", "its body cannot be parsed: "),
        ("begin return 1 +; end", "its body cannot be parsed: syntax error"),
        (f"begin return {UNREADABLE}; end", "its body could not be printed by the server"),
    ],
)  # fmt: skip
def test_bodies_that_do_more_than_read(body: str, reason: str, world: World) -> None:
    assert why(world, "public.f(a text) returns int4", body).startswith(reason)


@pytest.mark.parametrize(
    "body",
    [
        "begin return (select v from public.t where id = i); end",
        "begin perform set_config('work_mem', '64MB', true); return i; end",
        "begin perform pg_sleep(0); return current_setting('app.tenant', true); end",
        "declare n int; begin get diagnostics n = row_count; raise notice '% %', n, sqlerrm; return found; end",
        "#variable_conflict use_column\nbegin return 1; end",
        "declare a alias for i; r record; c cursor (k int) for select k as v;\n"
        "begin for r in c(a) loop raise notice '%', r.v; end loop; open c(1); fetch c into r; close c; return r.v; end",
    ],
)
def test_bodies_that_only_read(body: str, world: World) -> None:
    assert why(world, "public.f(i int4) returns int4", body) == ""


def test_a_stable_liar_and_an_immutable_liar(world: World) -> None:
    for label in "si":
        body = "begin perform pg_catalog.pg_notify('x', 'y'); return 1; end"
        assert "pg_notify" in why(world, "public.liar() returns int4", body, volatility=label)
        assert "INSERT" in why(world, "public.caller() returns int4", "begin return writer(); end", volatility=label)


def test_a_reader_that_is_volatile_by_default_is_a_read(world: World) -> None:
    assert why(world, "public.f() returns int4", "begin return (select count(*) from t); end", volatility="v") == ""


def test_recursion_that_only_reads_is_a_read(world: World) -> None:
    body = "begin return case when n < 2 then 1 else n * public.f(n - 1) end; end"
    assert why(world, "public.f(n int4) returns int4", body) == ""


def test_mutual_recursion_is_as_good_as_its_worst_member(world: World) -> None:
    ping = world.function("public.ping(n int4) returns int4", "begin return public.pong(n); end")
    pong = world.function("public.pong(n int4) returns int4", "begin return public.ping(n); end")
    assert world.why((FUNCTION, ping)) == world.why((FUNCTION, pong)) == ""
    ping = world.function("public.tick(n int4) returns int4", "begin return public.tock(n); end")
    pong = world.function("public.tock(n int4) returns int4", "begin return public.tick(n) + writer(); end")
    assert world.why((FUNCTION, pong)) == "it calls function public.writer(), whose body executes INSERT"
    assert world.why((FUNCTION, ping)) == (
        "it calls function public.tock(int4), which leads to function public.writer(), whose body executes INSERT"
    )


def test_a_name_in_a_body_can_mean_any_schemas_function(world: World) -> None:
    # A varchar picks public.lower, although pg_catalog comes first, whatever proconfig says.
    world.function("public.lower(a varchar) returns text", INSERT)
    body = "select lower($1)"
    assert "public.lower(varchar)" in why(world, "public.slugify(a text) returns text", body, "sql")
    settings = ("search_path=pg_catalog",)
    assert "public.lower(varchar)" in why(world, "public.set(a text) returns text", body, "sql", settings=settings)
    honest = "select lower(replace($1, ' ', '-'))"  # of text, and nothing fits that better than pg_catalog's
    assert why(world, "public.slugs(a text) returns text", honest, "sql") == ""
    world.function("hidden.helper() returns int4", INSERT)
    assert "hidden.helper()" in why(world, "public.f() returns int4", "begin return helper(); end")


def test_overloads_are_told_apart_by_the_number_of_arguments(world: World) -> None:
    world.function("public.twice(a int4) returns int4", "begin return a * 2; end")
    world.function("public.twice(a int4, b int4) returns int4", INSERT)
    assert why(world, "public.one() returns int4", "begin return twice(1); end") == ""
    assert "INSERT" in why(world, "public.two() returns int4", "begin return twice(1, 2); end")


def test_attribute_notation_calls_a_function(world: World) -> None:
    world.function("public.computed(r public.t) returns int4", INSERT)
    assert "public.computed" in why(world, "public.f() returns int4", "select (t).computed from t", "sql")
    assert "public.computed" in why(world, "public.g() returns int4", "select t.computed from t", "sql")


def test_a_sum_through_an_operator_of_the_database(world: World) -> None:
    world.operator("+", "int4", "text", world.function("public.vop(a int4, b text) returns int4", INSERT))
    assert "operator public.+ (int4, text)" in why(world, "public.f(b text) returns int4", "begin return 1 + b; end")


# -- bodies in SQL -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("select 1", ""),
        ("select 1; values (2); table public.t; ", ""),
        ("-- nothing", ""),
        ("select 1; insert into public.t values (1)", "its body executes INSERT"),
        ("select set_config('a.b', 'x', true), set_config('a.b', null, true)", ""),
        ("select set_config('a.b', null, false)", "its body sets a.b for the session"),
        ("select set_config('a.b', 'x', false)", "its body sets a.b for the session"),
        ("select set_config('a.b', '', true), set_config('c.d', '', false)", "its body sets c.d for the session"),
        ("execute p", "its body executes EXECUTE"),
        ("select pg_advisory_lock(1)", "its body calls pg_catalog.pg_advisory_lock, which takes a lock"),
        ("begin; select 1", "its body executes BEGIN"),
        ("copy public.t to stdout", "its body executes COPY"),
        ("select 1 into x", "its body executes SELECT INTO"),
        ("select (select writer())", "it calls function public.writer(), whose body executes INSERT"),
        ("selec 1", "its body cannot be parsed: syntax error"),
        (f"select 1 {UNREADABLE}", "its body could not be printed by the server"),
    ],
)
def test_bodies_in_sql(body: str, reason: str, world: World) -> None:
    found = why(world, "public.f() returns int4", body, "sql")
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("BEGIN ATOMIC\n SELECT 1;\n SELECT public.reader();\nEND", ""),
        ("BEGIN ATOMIC\nEND", ""),
        ("RETURN (public.reader() + 1)", ""),
        ("RETURN lower('x')", ""),  # printed like this, it is pg_catalog's
        ("BEGIN ATOMIC\n SELECT 1;\n INSERT INTO public.t VALUES (1);\nEND", "its body executes INSERT"),
        ("BEGIN ATOMIC\n SELECT public.writer();\nEND", "it calls function public.writer()"),
        ("RETURN public.writer()", "it calls function public.writer()"),
        ("RETURN nextval('public.s')", "its body calls pg_catalog.nextval"),
        ("RETURN", "its body cannot be parsed"),
        (UNREADABLE, "its body could not be printed by the server"),
    ],
)
def test_bodies_in_standard_form(body: str, reason: str, world: World) -> None:
    world.function("public.lower(a varchar) returns text", INSERT)
    definition = f"CREATE OR REPLACE FUNCTION public.f()\n RETURNS integer\n LANGUAGE sql\n{body}\n"
    found = why(world, "public.f() returns int4", "", "sql", definition=definition)
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_an_empty_body_in_sql_is_a_read(world: World) -> None:
    assert why(world, "public.f() returns void", "", "sql") == ""


# -- around the body ---------------------------------------------------------------------------------------------------


def test_a_default_that_calls_a_writer(world: World) -> None:
    head, defaults = "public.defarg(a int8) returns int8", "nextval('public.s'::regclass)"
    assert why(world, head, "select a", "sql", defaults=defaults) == (
        "its argument's default calls pg_catalog.nextval, which does more than read"
    )
    assert "public.writer()" in why(world, head, "select a", "sql", defaults="1, public.writer()")
    assert why(world, head, "select a", "sql", defaults="lower('x'::text), 2") == ""
    assert why(world, head, "select a", "sql", defaults=UNREADABLE) != ""


@pytest.mark.parametrize("setting", ["role=admin", "transaction_read_only=off", "search_path=public, pg_catalog"])
def test_a_setting_that_no_client_may_change(setting: str, world: World) -> None:
    name, _, value = setting.partition("=")
    assert (
        why(world, "public.f() returns int4", "select 1", "sql", settings=(setting,)) == f'it sets {name} to "{value}"'
    )


@pytest.mark.parametrize("setting", ['search_path=public, "a ""b"', "work_mem=64MB", "Search_Path=pg_catalog, pg_temp"])
def test_a_setting_that_any_client_may_change(setting: str, world: World) -> None:
    assert why(world, "public.f() returns int4", "select 1", "sql", settings=(setting,)) == ""


# -- what reads leave behind -------------------------------------------------------------------------------------------


def effects(world: World, sql: str, policy: Policy | None = None) -> set[tuple[Effect, str]]:
    """Say what a statement leaves behind, which is let through."""
    filter_ = Filter(policy or Policy(server_version=world.rows.version))
    filter_.learn_catalog(world.prove(policy))
    verdict = filter_.judge(sql.encode())
    assert verdict.action is Action.ALLOW, verdict
    return set(verdict.effects)


DMY = {(Effect.SETTING_INSIDE, "datestyle")}


def test_what_a_function_sets_for_its_transaction_is_an_effect_of_all_that_use_it(world: World) -> None:
    world.sql("public.dmy() returns text", "select set_config('DateStyle', 'ISO, DMY', true)")
    world.function("public.deep() returns text", "begin return dmy(); end")
    world.sql("public.defaulted(a text) returns text", "select a", defaults="public.deep()", arguments=(OIDS["text"],))
    world.view("dated", "SELECT public.deep() AS style")
    world.view("again", "SELECT style FROM public.dated")
    world.function("public.of_row(r public.t) returns text", "begin return dmy(); end")
    for sql in ("select dmy()", "select * from again", "select public.defaulted('x')", "select t.of_row from t"):
        assert effects(world, sql) == DMY, sql
    assert effects(world, "select table_to_xml('again', true, true, '')") == DMY
    assert effects(world, "select schema_to_xml('public', true, true, '')") == DMY
    assert effects(world, "select reader()") == set()


def test_a_function_that_takes_a_transaction_id_is_a_read_that_says_so(world: World) -> None:
    world.sql("public.mine() returns text", "select pg_current_xact_id()::text")
    world.view("numbered", "SELECT public.mine() AS id")
    assert effects(world, "select id from numbered") == {(Effect.TRANSACTION_ID, "pg_current_xact_id")}


def test_a_custom_setting_of_a_function_reads_as_empty_behind_it(world: World) -> None:
    world.sql("public.worn() returns int4", "select 1", settings=("App.Tenant=x", "datestyle=ISO"))
    assert effects(world, "select worn()") == {(Effect.SETTING_INSIDE, "app.tenant")}


def test_a_function_that_the_operator_allows_leaves_behind_what_its_body_does(world: World) -> None:
    world.sql("public.dmy() returns text", "select set_config('datestyle', 'ISO, DMY', true)")
    world.sql("public.sets() returns text", "select set_config('search_path', 'a', false)")
    world.sql("public.calls() returns text", "select dmy()")
    policy = Policy(allow_functions=("public.sets", "public.calls"), server_version=world.rows.version)
    assert effects(world, "select sets()", policy) == {(Effect.SETTING, "search_path")}
    assert effects(world, "select calls()", policy) == DMY


def test_what_sets_something_where_no_name_shows_it_is_no_read(world: World) -> None:
    dmy = world.sql("public.dmy(a int4, b text) returns text", "select set_config('datestyle', 'ISO, DMY', true)")
    plus = world.operator("+", "int4", "text", dmy)
    checked = world.type("checked", "d", check="(public.dmy(1, VALUE) <> '')")
    reason = "it sets datestyle, and no name in a statement shows that"
    assert (world.why((OPERATOR, plus)), world.why((TYPE, checked))) == (reason, reason)
    assert world.refused("select 1 + 'x'::text") == "unproved-operator"
    assert world.refused("select 'x'::checked") == "unproved-type"


@pytest.mark.parametrize("language", ["internal", "c", "plpython3u", "plperl", "plv8"])
def test_a_language_that_cannot_be_read(language: str, world: World) -> None:
    found = why(world, "public.f(a oid) returns oid", "lo_create", language, volatility="i")
    assert found == f"it is written in {language}, which cannot be read"


def test_a_procedure_is_no_read(world: World) -> None:
    assert why(world, "public.p() returns void", "begin null; end", kind="p") == "it is a procedure, which can commit"


def test_a_trigger_function_is_not_there_to_call(world: World) -> None:
    world.function("public.fires() returns trigger", INSERT)
    assert "fires" not in world.prove().functions
    assert explain(world.rows, Policy(), "fires") == []


def test_an_argument_of_a_tainted_domain(world: World) -> None:
    evil_domain(world)
    reason = "it uses domain public.evildom, which leads to function public.chk(text), whose body executes INSERT"
    assert why(world, "public.f(a public.evildom) returns int4", "select 1", "sql") == reason
    assert why(world, "public.g() returns public.evildom", "select 'x'", "sql") == reason


def test_the_types_functions_and_defaults_of_an_aggregate(world: World) -> None:
    step = world.function("public.vsf(a int4, b int4) returns int4", INSERT)
    good = world.function("public.add(a int4, b int4) returns int4", "begin return a + b; end")
    setter = world.built_in(2078, "set_config")
    plus = world.built_in(177, "int4pl")
    query = world.built_in(2923, "query_to_xml")

    def made(*support: int) -> str:
        return why(world, "public.agg(a int4) returns int4", "aggregate_dummy", "internal", kind="a", support=support)

    assert made(step) == "it calls function public.vsf(int4, int4), whose body executes INSERT"
    assert made(good, plus) == ""
    assert "pg_catalog.set_config" in made(good, setter)
    # Nobody sees the text that it gets there.
    assert "pg_catalog.query_to_xml" in made(query)
    assert "the function with OID 4711" in made(4711)


# -- extensions --------------------------------------------------------------------------------------------------------


def extension(world: World, name: str, owner: str, language: str = "c", **more: Any) -> str:
    return why(world, f"other.{name}(a text) returns int4", "symbol", language, extension=owner, **more)


def test_the_table_holds_only_for_functions_that_the_extension_owns(world: World) -> None:
    assert extension(world, "pg_stat_statements", "pg_stat_statements") == ""
    assert extension(world, "pg_stat_statements", "") == "it is written in c, which cannot be read"
    assert "cannot be read" in extension(world, "pg_stat_statements", "forged")
    assert "INSERT" in why(world, "public.gen_salt(a text) returns int4", INSERT)


@pytest.mark.parametrize("name", ["show_topology", "dbi_resource_id", "role_password_encryption_type"])
def test_what_the_drivers_of_aws_ask_on_connecting(world: World, name: str) -> None:
    said = why(world, f"rds_tools.{name}(a text) returns int4", "symbol", "c", extension="rds_tools")
    assert said == ""
    assert extension(world, name, "rds_tools") != "", "it lives in the schema of its own"


def test_a_listed_function_that_writes(world: World) -> None:
    oid = world.function("other.dblink_exec(a text) returns text", "x", "c", extension="dblink")
    taint = world.prove().taints.get((FUNCTION, oid))
    assert taint is not None
    assert taint.rule == "extension-function"
    assert "dblink" in taint.why


def test_what_an_extension_declares_is_believed_of_reading_extensions_only(world: World) -> None:
    assert extension(world, "hstore_to_json", "hstore", volatility="i") == ""
    assert extension(world, "hstore_to_json", "hstore", volatility="s") == ""
    assert "VOLATILE" in extension(world, "hstore_to_json", "hstore", volatility="v")
    assert extension(world, "textin", "citext", "internal", volatility="i") == ""
    assert extension(world, "f", "made_at_home", volatility="i") == "it is written in c, which cannot be read"
    assert extension(world, "f", "hstore", "plpython3u", volatility="i") != ""


@pytest.mark.parametrize(("name", "owner"), [("isn_weak", "isn"), ("st_fromflatgeobuftotable", "postgis")])
def test_an_extensions_function_that_is_falsely_declared_immutable(name: str, owner: str, world: World) -> None:
    assert extension(world, name, owner, volatility="i") == "it does more than read, and is declared IMMUTABLE"


def test_a_planners_function_is_believed_whatever_its_label(world: World) -> None:
    world.relation("spatial_ref_sys")
    head = "other.gserialized_gist_sel_2d(a internal, b oid) returns float8"
    assert why(world, head, "symbol", "c", extension="postgis", volatility="v") == ""


def test_an_extensions_function_in_sql_is_proved_by_its_body(world: World) -> None:
    assert "INSERT" in why(world, "other.f() returns int4", INSERT, extension="hstore", volatility="i")


def test_a_function_that_runs_text_is_a_read_at_a_call_and_nowhere_else(world: World) -> None:
    crosstab = world.function("other.crosstab2(a text) returns record", "x", "c", extension="tablefunc")
    assert world.why((FUNCTION, crosstab)) == ""
    assert world.refused("select * from other.crosstab2('select 1')") == ""
    assert world.refused("select * from other.crosstab2('delete from t')") == "sql-text-function"
    operator = world.operator("###", "", "text", crosstab)
    assert "crosstab2" in world.why(("operator", operator))
    assert extension(world, "connectby", "tablefunc") == "it can do more than read, depending on its arguments"


def test_what_an_extension_does_with_a_name_has_to_be_known(world: World) -> None:
    """A newer version of an extension whose labels are believed may bring a function that runs what it is given."""
    given = {
        "unaccent(a regdictionary, b text)": "unaccent",
        "_postgis_index_extent(a regclass, b text)": "postgis",
        "oid_dist(a oid, b oid)": "btree_gist",
        "new_in(a cstring, b oid, c int4)": "vector",
        "renders(a regclass)": "postgis",
        "calls(a regprocedure, b text)": "postgis",
        "looks(a oid)": "hstore",
    }
    refused = []
    for head, owner in given.items():
        oid = world.function(f"public.{head} returns text", "x", "c", extension=owner, volatility="s")
        refused += [head.partition("(")[0]] if "the name it is given" in world.why((FUNCTION, oid)) else []
    assert refused == ["renders", "calls", "looks"]


def test_what_an_extension_reads_although_nobody_names_it(world: World) -> None:
    """st_transform() looks up spatial_ref_sys, whose owner can give it a policy that calls what it likes."""
    heads = [f"public.{name}(a text) returns int4" for name in ("st_transform", "st_area")]
    made = [world.function(head, "symbol", "c", extension="postgis", volatility="i") for head in heads]
    world.relation("spatial_ref_sys")
    assert [world.why((FUNCTION, oid)) for oid in made] == ["", ""]
    world.function("public.writer() returns bool", INSERT)
    world.rows = replace(world.rows, relations=())
    world.relation("spatial_ref_sys", expressions=("public.writer()",))
    runs = "it runs what the extension postgis looks up, which leads to function public.writer()"
    assert all(world.why((FUNCTION, oid)).startswith(runs) for oid in made)


def test_operators_that_an_extension_calls_by_name_in_sql_of_its_own(world: World) -> None:
    """st_asgml() joins auth_name to ':' in SQL that names no schema, so anybody's `||` for two varchar runs."""
    made = world.function("public.st_asgml(a text) returns text", "symbol", "c", extension="postgis", volatility="s")
    other = world.function("public.digest(a text) returns text", "symbol", "c", extension="pgcrypto", volatility="i")
    world.relation("spatial_ref_sys")
    writer = world.function("public.joined(a varchar, b varchar) returns text", INSERT)
    world.operator("||", "varchar", "varchar", writer)
    assert "joined" in world.why((FUNCTION, made))
    assert world.why((FUNCTION, other)) == ""


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("dblink_build_sql_insert", "dblink"),
        ("dblink_build_sql_update", "dblink"),
        ("dblink_build_sql_delete", "dblink"),
        ("bt_index_parent_check", "amcheck"),
        ("_pgr_dijkstra", "pgrouting"),
        ("pgr_degree", "pgrouting"),
        ("st_mapalgebrafct", "postgis_raster"),
        ("plpgsql_check_function", "plpgsql_check"),
        ("set_user", "set_user"),
        ("memcache_set", "pgmemcache"),
        ("prepare_all", "pre_prepare"),
    ],
)
def test_an_extensions_function_that_runs_what_it_is_given(world: World, name: str, owner: str) -> None:
    expected = f"it is one of those of the extension {owner} that do more than read"
    assert extension(world, name, owner, volatility="i") == expected


def test_the_table_of_extensions_is_one_of_real_names() -> None:
    assert {"citext", "hstore", "pg_trgm", "postgis", "vector"} <= tables.READING_EXTENSIONS.keys()
    # These run SQL that they get as text, read files, or reach other servers.
    outside = {
        "tablefunc",
        "xml2",
        "dblink",
        "postgres_fdw",
        "file_fdw",
        "address_standardizer",
        "pgrouting",
        "adminpack",
    }
    assert not outside & tables.READING_EXTENSIONS.keys()


# -- types -------------------------------------------------------------------------------------------------------------


def evil_domain(world: World) -> int:
    world.function("public.chk(a text) returns bool", INSERT)
    return world.type("evildom", "d", check="public.chk((VALUE)::text)")


EVIL = "function public.chk(text), whose body executes INSERT"


@pytest.mark.parametrize(
    "body",
    [
        "declare x public.evildom; begin null; end",
        "declare x evildom := 'x'; begin null; end",
        "declare x constant EvilDom not null := 'x'; begin null; end",
        "declare x public.evildom[]; begin null; end",
        "declare x public.holder; begin null; end",
        "declare x public.holder%rowtype; begin null; end",
        "declare x holder%ROWTYPE; begin null; end",
        "declare x public.holder.d%type; begin null; end",
        "declare x holder.d%type[]; begin null; end",
        "declare c cursor (k evildom) for select 1; begin null; end",
        "begin begin declare x public.evildom; begin null; end; end; end",
        "begin return 'x'::evildom; end",
        "begin return null::holder; end",
        "begin perform array_agg(x::evildom) from t; end",
    ],
)
def test_a_domain_that_a_body_names(body: str, world: World) -> None:
    world.relation("holder", parts=(evil_domain(world),))
    found = why(world, "public.f() returns int4", body)
    assert found.startswith(
        ("it uses domain public.evildom", "it uses type public.evildom[]", "it uses type public.holder")
    )
    assert found.endswith(EVIL)


def test_a_domain_whose_check_only_reads(world: World) -> None:
    type_ = world.type("positive", "d", check="(VALUE > 0)")
    assert world.why((TYPE, type_)) == ""
    assert not world.prove().tainted_types


def test_types_that_contain_a_tainted_domain(world: World) -> None:
    evil = evil_domain(world)
    array = evil + 1
    composite = world.type("ct", "c", parts=(array,))
    spread = world.type("spread", "r", parts=(composite,))
    above = world.type("above", "d", parts=(spread,))
    table = world.relation("holder", parts=(above,))
    for key in ((TYPE, array), (TYPE, composite), (TYPE, spread), (TYPE, above), (RELATION, table)):
        assert world.why(key).endswith(EVIL)
    assert world.prove().tainted_types


def test_a_base_type_with_an_input_function_that_writes(world: World) -> None:
    function = world.function("public.thing_in(a cstring) returns int4", "thing_in", "c")
    type_ = world.type("thing", "b", functions=(function,))
    assert world.why((TYPE, type_)) == (
        "it calls function public.thing_in(cstring), which is written in c, which cannot be read"
    )


def test_a_domains_default_and_a_check_that_was_not_printed(world: World) -> None:
    assert "nextval" in world.why((TYPE, world.type("d1", "d", check="nextval('public.s'::regclass)")))
    assert world.why((TYPE, world.type("d2", "d", check=UNREADABLE))) == (
        "its CHECK or default could not be printed by the server"
    )


# -- casts -------------------------------------------------------------------------------------------------------------


def test_a_cast_that_has_to_be_written(world: World) -> None:
    type_ = world.type("ct", "c")
    table = world.relation("holder", parts=(type_,))
    world.cast("text", "public.ct", world.function("public.castf(a text) returns public.ct", INSERT))
    reason = (
        "it has the cast from text to public.ct, which leads to function public.castf(text), whose body executes INSERT"
    )
    assert world.why((TYPE, type_)) == world.why((RELATION, table)) == world.why((TYPE, OIDS["text"])) == ""
    assert world.why((CAST_TO, type_)) == reason
    # PL/pgSQL assigns, and assigning runs no cast that has to be written.
    assert why(world, "public.f(a public.ct) returns int4", "declare x public.ct := a; begin return 1; end") == ""
    assert world.why((CAST_TO, type_ + 1)).startswith("it can need the cast to public.ct")
    for cast in ("lower('x')::ct", "array[lower('x')]::ct[]", "row(lower('x'))::holder"):
        assert world.refused(f"select {cast}") == "unproved-cast"
    assert world.refused("select '(1)'::ct, id from holder") == ""
    assert world.prove().everything is None


def test_a_cast_that_is_not_written_taints_the_types_that_are_not_built_in(world: World) -> None:
    type_ = world.type("ct", "c")
    world.cast("text", "public.ct", world.function("public.castf(a text) returns public.ct", INSERT), "i")
    assert world.why((TYPE, type_)).startswith("it has the cast from text to public.ct")
    assert world.why((TYPE, OIDS["text"])) == ""
    assert world.refused("select '(1)'::ct") == "unproved-type"


@pytest.mark.parametrize(
    "body",
    [
        "declare x public.ct := 'x'::text; begin null; end",
        "declare r public.holder; begin r.c := lower('x'); end",
        "declare r public.holder%rowtype; begin r.c := lower('x'); end",
        "declare x public.holder.c%type; begin x := lower('x'); end",
        "declare x public.ct[]; begin x[1] := lower('x'); end",
    ],
)
def test_an_assignment_that_casts(body: str, world: World) -> None:
    type_ = world.type("ct", "c")
    world.relation("holder", parts=(type_,))
    world.cast("text", "public.ct", world.function("public.castf(a text) returns public.ct", INSERT), "a")
    assert why(world, "public.f() returns int4", body).startswith("it uses type public.")
    found = why(world, "public.g() returns public.ct", "select lower('x')", "sql")
    assert found.startswith("it uses type public.ct, which leads to function public.castf(text)")


def test_a_cast_away_from_a_row_type_taints_the_table(world: World) -> None:
    world.cast("public.t", "text", world.function("public.shown(a public.t) returns text", INSERT))
    assert world.refused("select t::text from t") == "unproved-relation"


@pytest.mark.parametrize("context", ["i", "a"])
def test_a_cast_between_built_in_types_spoils_everything(context: str, world: World) -> None:
    world.cast("int4", "text", world.function("public.castf(a int4) returns text", INSERT), context)
    everything = world.prove().everything
    assert everything is not None
    assert everything.what == "the cast from int4 to text"
    assert everything.allow == "public.castf"
    assert world.refused("select 1") == "unproved-cast"
    assert world.refused("select 1", Policy(allow_functions=("public.castf",))) == ""


def test_a_cast_between_built_in_types_that_has_to_be_written_counts_there(world: World) -> None:
    world.cast("int4", "text", world.function("public.castf(a int4) returns text", INSERT))
    world.type("d", "d", base=OIDS["text"])
    world.type("c", "c")
    assert world.prove().everything is None
    for read in ("select 1", "select 1::int8, 'x'::text, lower('x')", "select 1 + 1 = 2"):
        assert world.refused(read) == ""
    for cast in (
        *("1::text", "cast(i as text)", "text(1)", "array[1]::text[]", "1::d", "array[1]::d[]", "row(1)::c"),
        *("quote_literal(1)", "quote_nullable(1)", "1 || 'x'::name", "pg_catalog.quote_literal(1)", "json_array(1)"),
    ):
        assert world.refused(f"select {cast} from t") == "unproved-cast", cast
    assert why(world, "public.f(a int4) returns int4", "begin perform a::text; return 1; end")
    assert why(world, "public.g(a int4) returns int4", "begin perform quote_literal(a); return 1; end")
    assert why(world, "public.h(a int4) returns int4", "begin return a + 1; end") == ""
    world.operator("==>", "", "int4", world.built_in(1285, "quote_literal"))
    assert world.refused("select ==> 1") == "unproved-operator"


def test_attack_copy_and_execute_where_a_cast_spoils_everything(world: World) -> None:
    world.cast("text", "uuid", world.function("public.castf(a text) returns uuid", INSERT), "i")
    for text in (
        "copy t to stdout",
        "execute p(quote_literal(1))",
        "explain select 1",
        "declare c cursor for select 1",
    ):
        assert world.refused(text) == "unproved-cast"
    for text in ("begin", "set work_mem = '1MB'", "show work_mem", "lock table t in access share mode"):
        assert world.refused(text) == ""


def test_extension_is_trusted_as_a_whole_but_for_what_is_known_to_do_more(world: World) -> None:
    c = {"extension": "unit", "source": "unit"}
    unit = world.type(
        "unit", "b", functions=(world.function("public.unit_in(a cstring)", "", "c", **c),), extension="unit"
    )
    union = world.function("public.unit_union(a public.unit, b public.unit) returns public.unit", "", "c", **c)
    world.operator("@||", "public.unit", "public.unit", union)
    world.rows = replace(world.rows, operators=tuple(row._replace(extension="unit") for row in world.rows.operators))
    world.relation("counted", column_types=(unit,), own_columns=(("seen", unit),), columns=("id", "seen"))
    world.function("public.mine(a public.unit)", "", "c")
    world.function("public.dblink_exec(a text)", "", "c", extension="dblink")
    trusting = Policy(allow_extensions=("unit", "dblink"))
    for text in ("select seen from counted", "select unit_union(seen, seen) from counted", "select 'x'::unit @|| 'y'"):
        assert world.refused(text).startswith("unproved-")
        assert world.refused(text, trusting) == ""
    assert world.refused("select id from counted") == ""
    assert world.refused("select mine('x')", trusting) == "unproved-function"
    assert world.refused("select dblink_exec('x')", trusting) == "extension-function"
    assert world.refused("select seen from counted", Policy(allow_extensions=("hl",))) == "unproved-type"
    deny = Policy(allow_extensions=("unit",), deny_functions=("unit_union",))
    assert world.refused("select unit_union(seen, seen) from counted", deny) == "denied-function"


def test_hint_names_the_extension(world: World) -> None:
    world.function("public.unit_union(a int4)", "", "c", extension="unit")
    world.sql("public.mine(a int4)", "select unit_union(a)")
    judge = Filter(Policy())
    judge.learn_catalog(world.prove())
    for name in ("unit_union", "mine"):
        assert judge.judge(f"select {name}(1)".encode()).hint == (
            f'The operator can allow it: filter.allow_functions: ["public.{name}"], or all of the extension:'
            ' filter.allow_extensions: ["unit"].'
        )
    world.function("public.dblink_exec(a text)", "", "c", extension="dblink")
    judge.learn_catalog(world.prove())
    assert judge.judge(b"select dblink_exec('x')").hint.endswith('filter.allow_functions: ["public.dblink_exec"].')


def test_attack_type_that_is_another_one_without_a_word(world: World) -> None:
    compare = world.function("public.compare(a int4, b int4) returns int4", INSERT)
    world.type("ordered", "b", functions=(compare,), sorting=(compare,))
    source = world.type("other", "b")
    world.cast("public.other", "public.ordered", 0, "i")
    assert world.why((TYPE, source)).startswith("it has the cast from public.other to public.ordered, which leads to")
    assert world.prove().everything is None
    world.cast("json", "public.ordered", 0, "i")
    assert world.refused("select '1'::json") == "unproved-cast"


def test_attack_array_with_a_cast_or_an_operator_class_of_its_own(world: World) -> None:
    shown = world.type("shown", "e")
    world.cast("public.shown[]", "text", world.function("public.castf(a public.shown[]) returns text", INSERT))
    table = world.relation("holder", parts=(shown,))
    assert world.why((TYPE, shown)).startswith("it uses type public.shown[]")
    assert world.why((RELATION, table)).startswith("it uses type public.shown, which leads to")


def test_attack_array_of_multiranges_with_a_cast_of_its_own(world: World) -> None:
    spread = world.type("spread", "r")
    world.type("spreads", "m", parts=(spread,))
    world.cast("public.spreads[]", "text", world.function("public.castf(a public.spreads[]) returns text", INSERT))
    assert world.why((TYPE, spread)).startswith("it uses type public.spreads, which leads to")


def test_attack_operator_that_the_planner_puts_in_the_place_of_a_built_in(world: World) -> None:
    function = world.function("public.turned(a text, b text) returns bool", INSERT)
    world.operator("^^^", "text", "text", function)
    assert world.refused("select 1") == ""
    world.rows = replace(world.rows, operators=tuple(row._replace(replaces=True) for row in world.rows.operators))
    assert world.refused("select 1") == "unproved-operator"


def test_attack_operator_family_that_nobody_names(world: World) -> None:
    compare = world.function("public.compare(a int4, b int4) returns int4", INSERT)
    harmless = world.function("public.harmless(a int4, b int4) returns int4", "select 1", "sql")
    world.family("harmless_ops", harmless, world.built_in(351, "btint4cmp"))
    assert world.refused("select 1") == ""
    world.family("ops", compare)
    assert world.refused("select 1") == "unproved-operator"
    assert world.refused("select 1", Policy(allow_functions=("public.compare",))) == ""
    assert world.refused("select 1", Policy(allow_functions=("public.ops",))) == ""


def test_attack_operator_family_with_a_built_in_function_that_writes(world: World) -> None:
    world.family("ops", world.built_in(964, "lo_unlink"))
    assert world.refused("select 1") == "unproved-operator"


@pytest.mark.parametrize(
    ("head", "more"),
    [
        ("public.lower(a text) returns text", {}),
        ("public.lower(a text, b int4) returns text", {"defaults": 1}),
        ("public.lower(a _text) returns text", {"variadic": True}),
        ("public.lower(a text, b _int4) returns text", {"variadic": True, "defaults": 1}),
        ("public.abs(a _int4) returns text", {"variadic": True}),
    ],
)
def test_attack_function_that_hides_a_built_in_by_the_path(head: str, more: dict[str, Any], world: World) -> None:
    defaults = "1" if "defaults" in more else ""
    row = {key: value for key, value in more.items() if key != "defaults"}
    world.function(head, INSERT, defaults=defaults)
    world.rows = replace(
        world.rows,
        functions=tuple(
            f._replace(defaults=more.get("defaults", 0), **row) if f.schema + "." + f.name in head else f
            for f in world.rows.functions
        ),
    )
    assert world.refused("select set_config('search_path', $1, true)") == "setting-value"


def test_function_that_no_path_takes_for_a_built_in(world: World) -> None:
    world.function("public.lower(a text, b int4) returns text", INSERT)
    world.function("public.lower(a varchar) returns text", INSERT)
    assert world.refused("select set_config('search_path', $1, true)") == ""


def test_a_cast_that_only_reads(world: World) -> None:
    function = world.function("public.castf(a int4) returns text", "select $1::text", "sql")
    world.cast("int4", "text", function, "i")
    catalog = world.prove()
    assert catalog.everything is None
    assert catalog.implicit_casts


# -- operators ---------------------------------------------------------------------------------------------------------


def test_an_operator_and_its_estimator(world: World) -> None:
    function = world.function("public.vop(a int4, b text) returns int4", INSERT)
    good = world.function("public.op(a int4, b text) returns int4", "begin return a; end")
    world.operator("@@@", "int4", "text", function)
    world.operator("!!!", "", "text", good)
    world.operator("???", "int4", "text", good, support=(function,))
    catalog = world.prove()
    assert catalog.tainted_operators == {"@@@", "???"}
    assert [(found.left, found.right) for found in catalog.operators["!!!"]] == [("", "text")]
    assert world.refused("select 1 @@@ 'x'") == "unproved-operator"
    assert world.refused("select !!! 'x'") == ""


def test_an_operator_over_a_built_in_function_that_writes(world: World) -> None:
    # It needs no superuser: create operator public.## (rightarg = oid, function = lo_unlink).
    unlink = world.built_in(964, "lo_unlink")
    operator = world.operator("##", "", "oid", unlink)
    assert world.why(("operator", operator)) == (
        "it calls function pg_catalog.lo_unlink, which does more than read, or can do more than read"
    )
    assert world.refused("select ## 4711::oid", Policy(allow_functions=("lo_unlink", "pg_catalog.*"))) != ""
    assert world.refused("select ## 4711::oid", Policy(allow_functions=("public.##",))) == ""
    assert world.why(("operator", world.operator("#", "", "oid", 4711))) == (
        "it calls the function with OID 4711, which is not in the catalogue that was read"
    )


# -- relations ---------------------------------------------------------------------------------------------------------


def test_views(world: World) -> None:
    bad = world.view("v2", " SELECT public.writer() AS w;")
    above = world.view("above", " SELECT v2.w FROM public.v2;")
    counts = world.view("vv", " SELECT nextval('public.s'::regclass) AS n;")
    good = world.view("good", " SELECT t.id, lower(t.v) AS v FROM public.t;")
    lost = world.view("lost", UNREADABLE)
    world.function("public.lower(a varchar) returns text", INSERT)  # is printed with its schema, where it is meant
    assert world.why((RELATION, bad)) == "it calls function public.writer(), whose body executes INSERT"
    assert world.why((RELATION, above)) == (
        "it reads view public.v2, which leads to function public.writer(), whose body executes INSERT"
    )
    assert world.why((RELATION, counts)) == "its definition calls pg_catalog.nextval, which does more than read"
    assert world.why((RELATION, good)) == ""
    assert world.why((RELATION, lost)) == "its definition could not be printed by the server"


def test_what_a_view_hides_is_found_by_pg_depend(world: World) -> None:
    writer = world.rows.functions[0].oid
    operator = world.operator("=", "text", "text", writer)
    assert "writer" in world.why((RELATION, world.view("hides", " SELECT 1 AS a;", functions=(writer,))))
    assert "operator public.=" in world.why((RELATION, world.view("hides", " SELECT 1 AS a;", operators=(operator,))))


def test_a_policy_that_calls_a_writer(world: World) -> None:
    world.function("public.chk(a text) returns bool", INSERT)
    table = world.relation("rls", expressions=("public.chk('x'::text)",))
    good = world.relation("guarded", expressions=("(owner = CURRENT_USER)",))
    bad = world.relation("numbered", expressions=("(nextval('public.s'::regclass) > 0)",))
    assert world.why((RELATION, table)) == "it calls function public.chk(text), whose body executes INSERT"
    assert world.why((RELATION, good)) == ""
    assert world.why((RELATION, bad)) == (
        "its policy or generated column calls pg_catalog.nextval, which does more than read"
    )


def test_a_partition_and_a_child_of_another_server(world: World) -> None:
    far = world.relation("far", "f", server="elsewhere")
    parent = world.relation("parent", "p", children=(far,))
    assert world.why((RELATION, far)) == "it reads the foreign server elsewhere"
    assert world.why((RELATION, parent)) == (
        "it reads foreign table public.far, which reads the foreign server elsewhere"
    )
    policy = Policy(allow_functions=("public.far",))
    assert world.why((RELATION, far), policy) == world.why((RELATION, parent), policy) == ""


def test_what_planning_a_read_of_a_table_calls(world: World) -> None:
    writer = world.rows.functions[0].oid
    assert "writer" in world.why((RELATION, world.relation("indexed", functions=(writer,))))
    crosstab = world.function("other.crosstab2(a text) returns record", "x", "c", extension="tablefunc")
    assert "crosstab2" in world.why((RELATION, world.relation("checked", functions=(crosstab,))))


def test_a_child_that_is_missing_from_the_reading(world: World) -> None:
    assert world.why((RELATION, world.relation("parent", children=(4711,)))) == (
        "it reads the relation with OID 4711, which is not in the catalogue that was read"
    )


# -- the operator's list -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["writer", "public.writer", "public.wr*", "*"])
def test_what_the_operator_lists_has_no_taint_and_hands_none_on(pattern: str, world: World) -> None:
    caller = world.function("public.caller() returns int4", "begin return writer(); end")
    policy = Policy(allow_functions=(pattern,))
    assert world.why((FUNCTION, caller)) != ""
    assert world.why((FUNCTION, caller), policy) == ""
    assert not world.prove(policy).taints.get((FUNCTION, world.rows.functions[0].oid))


def test_a_listed_caller_leaves_the_writer_refused(world: World) -> None:
    world.function("public.caller() returns int4", "begin return writer(); end")
    policy = Policy(allow_functions=("public.caller",))
    assert world.refused("select caller()", policy) == ""
    assert world.refused("select writer()", policy) == "unproved-function"


def test_a_pattern_with_a_star_does_not_mean_a_listed_writer_of_an_extension(world: World) -> None:
    oid = world.function("other.dblink_exec(a text) returns text", "x", "c", extension="dblink")
    assert world.why((FUNCTION, oid), Policy(allow_functions=("other.*",))) != ""
    assert world.why((FUNCTION, oid), Policy(allow_functions=("other.dblink_exec",))) == ""


def test_the_list_is_for_views_and_types_too(world: World) -> None:
    view = world.view("v2", "SELECT public.writer()")
    type_ = evil_domain(world)
    policy = Policy(allow_functions=("public.v2", "evildom"))
    assert world.why((RELATION, view), policy) == world.why((TYPE, type_), policy) == ""


def test_a_denied_function_in_a_body(world: World) -> None:
    policy = Policy(deny_functions=("pg_sleep",))
    oid = world.function("public.naps() returns int4", "begin perform pg_sleep(1); end")
    assert world.why((FUNCTION, oid)) == ""
    assert "pg_sleep" in world.why((FUNCTION, oid), policy)
    for body in ("begin perform pg_sleep_for('1s'); end", "begin perform pg_catalog.pg_sleep_until(now()); end"):
        oid = world.function("public.naps() returns int4", body)
        assert "pg_sleep" in world.why((FUNCTION, oid), policy)
        assert world.why((FUNCTION, oid)) == ""


def test_a_denied_function_that_no_name_shows(world: World) -> None:
    sleep = world.built_in(2626, "pg_sleep")
    asked = world.function("public.asked(a text, b text) returns bool", "begin return a = b; end")
    operator = world.operator("###", "text", "text", asked)
    aggregate = world.function("public.agg(a int4) returns int4", "x", "internal", kind="a", support=(asked,))
    naps = world.operator("##", "", "float8", sleep)
    keys = [("operator", operator), (FUNCTION, aggregate), ("operator", naps)]
    assert [world.why(key) for key in keys[:2]] == ["", ""]
    policy = Policy(deny_functions=("public.asked", "pg_sleep"), allow_functions=("public.*",))
    assert [bool(world.why(key, policy)) for key in [(FUNCTION, asked), *keys]] == [True, False, False, False]
    policy = Policy(deny_functions=("public.asked", "pg_sleep"))
    assert all(world.why(key, policy) for key in keys)
    assert "filter.deny_functions" in world.why(keys[0], policy)


# -- what a call does not show -----------------------------------------------------------------------------------------


def test_what_shows_the_statements_of_other_clients(world: World) -> None:
    """A client that reads pg_prepared_statements sees its own, for the others are taken away before; not here."""
    for name in ("pg_prepared_statements", "pg_backend_memory_contexts", "pg_cursors"):
        world.relation(name, "v", schema="pg_catalog")
    made = [
        (RELATION, world.view("v", "SELECT p.statement FROM pg_prepared_statements p")),
        (RELATION, world.view("f", "SELECT p.statement FROM pg_prepared_statement() p")),
        (RELATION, world.view("x", "SELECT table_to_xml('pg_prepared_statements', true, false, '')")),
        (FUNCTION, world.function("public.p() returns int4", "begin return count(*) from pg_prepared_statements; end")),
        (FUNCTION, world.sql("public.s() returns int4", "select 1 from pg_catalog.pg_prepared_statements")),
    ]
    for key in made:
        taint = world.prove().taints.get(key)
        assert taint is not None
        assert taint.rule == "other-clients"
        assert taint.why.endswith("shows what other clients have prepared on the connection")
    memory = world.view("m", "SELECT m.ident FROM pg_backend_memory_contexts m")
    assert "pg_get_backend_memory_contexts" in world.why((RELATION, memory))
    assert world.why((RELATION, world.view("c", "SELECT c.statement FROM pg_cursors c"))) == ""


def test_code_of_a_table_that_a_number_names(world: World) -> None:
    asks = world.sql("public.asks(a oid) returns text", "select pg_get_partition_constraintdef(a)")
    assert "pg_get_partition_constraintdef" in world.why((FUNCTION, asks))
    writer = world.function("public.key() returns int4", INSERT)
    world.view("v", "SELECT 1", functions=(writer,))
    assert world.prove().code is None
    assert world.refused("select pg_get_partition_constraintdef(1)") == ""
    world.relation("t", "p", functions=(writer,))
    taint = world.prove().code
    assert taint is not None
    assert taint.what == "function public.key()"
    assert world.refused("select pg_get_partition_constraintdef(1)") == "unproved-function"


def test_functions_that_no_table_knows_are_no_users(world: World) -> None:
    world.sql("public.pg_brand_new() returns int4", "select 1")
    assert world.refused("select pg_brand_new()") == ""
    world.rows = replace(world.rows, strangers=frozenset({"pg_brand_new"}))
    assert world.refused("select pg_brand_new()") == "unknown-built-in"
    assert world.refused("select public.pg_brand_new()") == ""
    uses = world.sql("public.uses() returns int4", "select pg_brand_new()")
    assert "unknown to this version" in world.why((FUNCTION, uses))


# -- the catalogue -----------------------------------------------------------------------------------------------------


def test_how_many_arguments_a_call_may_have(world: World) -> None:
    plain = world.function("public.f(a int4, b int4, c int4) returns int4", "begin end", defaults="1, 2")
    oid = world.rows.functions[-1].oid
    assert oid == plain
    world.rows = replace(world.rows, functions=(world.rows.functions[-1]._replace(defaults=2),))
    world.function("public.g(a int4, b _int4) returns int4", "begin end", variadic=True)
    catalog = world.prove()
    assert catalog.functions["f"] == (Callable(plain, "public", 1, 3, "int4"),)
    assert (catalog.functions["g"][0].low, catalog.functions["g"][0].high) == (1, ANY_NUMBER)


def test_what_a_call_gives_is_known_of_built_in_types_only(world: World) -> None:
    evil_domain(world)
    for returns in ("text", "anyelement", "record", "public.evildom"):
        world.sql(f"public.f() returns {returns}", "select 1")
    assert [found.returns for found in world.prove().functions["f"]] == ["text", "", "", ""]


def test_the_catalogue_says_where_it_is_from(world: World) -> None:
    catalog = world.prove()
    assert (catalog.version, catalog.database, catalog.exact) == (150018, "shop", False)
    assert isinstance(catalog.taints, dict)


def test_the_servers_version_decides_which_names_are_built_in(world: World) -> None:
    head, body = "public.f() returns int4", "select count(any_value(id)) from t"
    assert "any_value" in why(world, head, body, "sql")  # from 16 on
    world.rows = replace(world.rows, version=160004)
    assert world.why((FUNCTION, world.rows.functions[-1].oid)) == ""


# -- the helper process ------------------------------------------------------------------------------------------------


def test_a_body_that_ends_the_parser_is_skipped_and_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    oids = [row.oid for row in world.rows.functions]
    world.prove(progress=parsed.append)
    assert parsed == oids
    parsed.clear()
    monkeypatch.setattr(plpgsql, "read", lambda *_: pytest.fail("it was parsed"))
    catalog = prove(world.rows, Policy(), skip=oids, progress=parsed.append)
    assert parsed == []
    taints = [taint for taint in map(catalog.taints.get, ((FUNCTION, oid) for oid in oids)) if taint]
    assert {(taint.what, taint.why, taint.allow, taint.rule) for taint in taints} == {
        (f"function public.{name}()", "its text ends the parser", f"public.{name}", "") for name in ("writer", "reader")
    }


def test_a_view_that_ends_the_parser_spoils_itself_and_no_function(world: World) -> None:
    oid = world.view("deep", "SELECT 1 AS one")
    announced: list[int] = []
    world.prove(progress=announced.append)
    assert announced[-1] == oid
    taints = prove(world.rows, Policy(), skip=[oid]).taints
    taint = taints.get((RELATION, oid))
    assert taint is not None
    assert (taint.what, taint.why) == ("view public.deep", "its text ends the parser")
    functions = [(FUNCTION, row.oid) for row in world.rows.functions]
    assert [taints.get(key) for key in functions] == [world.prove().taints.get(key) for key in functions]


def test_a_fault_of_ours_makes_no_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(plpgsql, "read", fails)
    assert world.why((FUNCTION, world.rows.functions[1].oid)) == (
        "it could not be judged, which is a fault of SideCart (KeyError)"
    )


# -- explaining --------------------------------------------------------------------------------------------------------


def test_a_proof_says_what_is_used_and_where_it_goes_wrong(world: World) -> None:
    evil_domain(world)
    world.function(
        "public.outer(a int4) returns int4", "\ndeclare n int;\nbegin\n n := writer();\n return reader();\nend"
    )
    world.sql("other.outer() returns int4", "select 1;\n\n select nextval('public.s')")
    world.function("public.good(a text) returns int4", "begin return (select reader() from t); end")
    world.view("v2", " SELECT public.reader() AS w;")
    refused, other = explain(world.rows, Policy(), "outer")
    assert refused == Proof(
        "function public.outer(int4)",
        world.prove().taints.get((FUNCTION, world.rows.functions[-3].oid)),
        ("function public.writer()", "function public.reader()"),
        "n := writer()",
        4,
    )
    assert (other.statement, other.line) == ("select nextval('public.s')", 3)
    assert explain(world.rows, Policy(), "public.good") == [
        Proof("function public.good(text)", None, ("table public.t", "function public.reader()"), "", 0)
    ]
    assert [proof.what for proof in explain(world.rows, Policy(), "v2")] == ["view public.v2"]
    assert [proof.what for proof in explain(world.rows, Policy(), "evildom")] == ["domain public.evildom"]
    assert explain(world.rows, Policy(), "nothing") == []


# -- the corpus --------------------------------------------------------------------------------------------------------


def fixture() -> World:
    """Make the objects of tests/data/fixture.sql, as the catalogues of a server hold them."""
    made = World()
    for name in ("t", "mv"):
        made.relation(name)
    made.relation("s", "S")
    made.view("vv", " SELECT nextval('public.s'::regclass) AS n;")
    made.sql("public.slugify(text) returns text", " select lower(replace($1,' ','-')) ")
    made.function("public.my_stable_report() returns int8", " begin return (select count(*) from public.t); end ")
    made.function("public.writer() returns int4", INSERT)
    made.function("public.vol_writer() returns int4", INSERT)
    made.function("public.stable_calls_vol() returns int4", " begin return public.vol_writer(); end ", volatility="s")
    made.function("public.writer_stable() returns int4", " begin perform pg_catalog.pg_notify('x','y'); return 1; end ")
    made.function(
        "public.imm_notify() returns int4", " begin perform pg_notify('x','y'); return 1; end ", volatility="i"
    )
    made.function("public.dynamic(q text) returns void", " begin execute q; end ")
    made.function("public.leaks_setting() returns text", " begin return set_config('app.tenant','42',false); end ")
    defarg = {"defaults": "nextval('public.s'::regclass)"}
    made.sql("public.defarg(a int8) returns int8", "select a", **defarg)
    made.rows = replace(made.rows, functions=(*made.rows.functions[:-1], made.rows.functions[-1]._replace(defaults=1)))
    step = made.function("public.vsf(int4, int4) returns int4", INSERT)
    made.function("public.evilagg(int4) returns int4", "aggregate_dummy", "internal", kind="a", support=(step,))
    vop = made.function("public.vop(int4, text) returns int4", INSERT)
    made.operator("+", "int4", "text", vop)
    made.operator("@@@", "int4", "text", vop)
    evil_domain(made)
    made.type("ct", "c")
    made.cast("text", "public.ct", made.function("public.castf(text) returns public.ct", INSERT))
    made.function("public.computed(public.t) returns int4", INSERT)
    made.function("public.lower(varchar) returns text", INSERT)
    made.function("public.last(anyelement) returns anyelement", " begin perform pg_notify('x','y'); return $1; end ")
    made.function("public.proc1() returns void", INSERT, kind="p")
    made.view("v2", " SELECT public.vol_writer() AS w;")
    made.relation("rls", expressions=("public.chk('x'::text)",))
    return made


CASES = [json.loads(line) for line in CORPUS.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.get("requires") == "catalog" and case["id"] not in ("A-udf-0342", "A-udf-0344")],
    ids=lambda case: str(case["id"]),
)
def test_the_corpus_of_a_database_with_hidden_writers(case: dict[str, Any]) -> None:
    # The two that are left out need extensions.
    refused = fixture().refused(case["sql"])
    assert bool(refused) == (case["verdict"] == "block"), refused


# -- void --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["$1", "x", "anything.x", "$1::void"])
def test_attack_argument_of_type_void_drops_out_of_a_polymorphic_body(argument: str, world: World) -> None:
    """Called with void, the body's $1 is a parameter of that type: ParseFuncOrColumn() leaves it out."""
    world.sql("public.two(x anyelement, n int4) returns int4", "select n")
    world.function("public.two(n int4) returns int4", INSERT)
    body = f"select two({argument}, 1)"
    assert "calls function public.two(int4)" in why(world, "public.anything(x anyelement) returns int4", body, "sql")
    if "void" not in argument:
        assert why(world, "public.something(x text) returns int4", body, "sql") == ""
    honest = "select length(x::text) + two(1::text, 1)"
    assert why(world, "public.anyone(x anyelement) returns int4", honest, "sql") == ""


def test_what_gives_a_value_of_type_void_is_known_by_name(world: World) -> None:
    noted = world.sql("public.noted(a int4, b int4) returns void", "select 1")
    world.sql("public.columns(a int4) returns record", "select 1, 2", returns=(world.oid("record"), world.oid("void")))
    world.function("public.moved(a int4) returns void", "begin commit; end", kind="p")
    world.sql("public.taken(a void, b int4) returns int4", "select 1", arguments=(OIDS["void"], OIDS["int4"]))
    world.operator("####", "int4", "int4", noted)
    world.operator("###", "int4", "int4", world.function("public.other() returns int4", "begin return 1; end"))
    world.operator("##", "", "float8", world.built_in(2626, "pg_sleep"))
    assert world.prove().voids == {"noted", "columns", "taken", "####", "##", "pg_sleep"}


# -- what plans hold ---------------------------------------------------------------------------------------------------

DATED = (
    ("begin return date 'now'; end", "v", True),
    ("begin return date $x$ Tomorrow 12:00 $x$; end", "v", True),
    ("begin return U&'today'; end", "s", True),
    ("begin return 1; -- it's now\nend", "v", False),
    ("begin return now(); end", "s", False),
    ("begin return now(); end", "i", True),
    ("begin return current_date; end", "i", True),
    ("begin return (select 1 from facts); end", "s", False),
    ("begin return (select 1 from facts); end", "i", True),
    ("begin return extract(year from date '2020-01-01'); end", "i", False),
    ("begin insert into facts values ('now'); end", "v", False),
)


@pytest.mark.parametrize(("body", "volatility", "expected"), DATED)
def test_plans_that_hold_what_was_true_when_they_were_made(
    body: str, volatility: str, expected: bool, world: World
) -> None:
    world.relation("facts")
    world.function("public.f() returns text", body, volatility=volatility)
    assert world.prove().plans.dated is expected


@pytest.mark.parametrize(("volatility", "expected"), [("i", True), ("s", False)])
@pytest.mark.parametrize(
    "body", ["return (select 1 from facts)", "return now()", "return age(timestamptz '2020-01-01')"]
)
def test_plans_that_hold_what_another_function_found(body: str, volatility: str, expected: bool, world: World) -> None:
    world.relation("facts")
    world.function("public.f() returns text", f"begin {body}; end", volatility="s")
    world.function("public.g() returns text", "begin return public.f(); end", volatility="s")
    world.function("public.h() returns text", "begin return public.g(); end", volatility=volatility)
    assert world.prove().plans.dated is expected


def test_a_trigger_that_has_the_time_in_it_is_in_no_plan_of_a_reader(world: World) -> None:
    world.function("public.stamp() returns trigger", "begin new.at := 'now'; return new; end", trigger=True)
    assert not world.prove().plans.dated

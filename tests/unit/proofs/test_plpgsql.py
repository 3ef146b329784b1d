"""Nothing that a PL/pgSQL body evaluates is lost on the way to the filter."""

from __future__ import annotations

import re

import pytest

from proxy.proofs import plpgsql
from proxy.proofs.plpgsql import RowType, Unreadable, read

SLOTS = {
    "an assignment": "declare x int; begin x := HERE; end",
    "an assignment with =": "declare x int; begin x = HERE; end",
    "a subscript of an assignment": "declare x int[]; begin x[HERE] := 1; end",
    "a slice of an assignment": "declare x int[]; begin x[1:HERE] := array[1]; end",
    "a second subscript": "declare x int[]; begin x[1][HERE] := 1; end",
    "a subscript in a subscript": "declare x int[]; begin x[x[HERE]] := 1; end",
    "a subscript of a field": "declare r record; begin r.a[HERE] := 1; end",
    "a subscript before a field": "declare r public.pairs; begin r.items[HERE].a := 1; end",
    "a subscript that holds a named argument": "declare x int[]; begin x[abs(n => HERE)] := 1; end",
    "a default": "declare x int := HERE; begin null; end",
    "a default with =": "declare x int = HERE; begin null; end",
    "a default with DEFAULT": "declare x int not null default HERE; begin null; end",
    "a constant": "declare x constant int := HERE; begin null; end",
    "a default of a second section": "declare x int; declare y int := HERE; begin null; end",
    "a default in an inner block": "begin declare x int := HERE; begin null; end; end",
    "a default in a labelled block": "begin <<inner>> declare x int := HERE; begin null; end; end",
    "a default of a domain": "declare x public.positive := HERE; begin null; end",
    "a default of a record": "declare x record := row(HERE); begin null; end",
    "a default of a composite": "declare x public.pair := row(HERE, 1); begin null; end",
    "a default of a row type": "declare x public.t%rowtype := row(HERE); begin null; end",
    "a default of a column's type": "declare x public.t.id%type := HERE; begin null; end",
    "a default of an array of a domain": "declare x public.positive[] := array[HERE]; begin null; end",
    "a query of a cursor": "declare c cursor for select HERE; begin null; end",
    "a query of a cursor with arguments": "declare c no scroll cursor (k int, l public.mood) is select HERE; begin end",
    "an argument of a cursor": "declare c cursor (k int) for select k; begin open c(HERE); end",
    "a named argument of a cursor": "declare c cursor (k int) for select k; begin open c(k := HERE); end",
    "a loop over a cursor": "declare c cursor (k int) for select k; begin for r in c(HERE) loop null; end loop; end",
    "a query of an unbound cursor": "declare c refcursor; begin open c for select HERE; end",
    "a count of rows to fetch": "declare c refcursor; x int; begin fetch absolute HERE from c into x; end",
    "a count of rows to move": "declare c refcursor; begin move forward HERE from c; end",
    "IF": "begin if HERE = 1 then null; end if; end",
    "THEN": "begin if true then perform HERE; end if; end",
    "ELSIF": "begin if true then null; elsif HERE = 1 then null; end if; end",
    "a body of ELSIF": "begin if true then null; elsif true then perform HERE; end if; end",
    "ELSE": "begin if true then null; else perform HERE; end if; end",
    "CASE": "begin case HERE when 1 then null; end case; end",
    "WHEN": "begin case 1 when HERE then null; else null; end case; end",
    "WHEN of a searched CASE": "begin case when HERE = 1 then null; end case; end",
    "a body of WHEN": "begin case when true then perform HERE; end case; end",
    "ELSE of a CASE": "begin case when true then null; else perform HERE; end case; end",
    "LOOP": "begin loop perform HERE; end loop; end",
    "EXIT WHEN": "begin loop exit when HERE = 1; end loop; end",
    "CONTINUE WHEN": "begin loop continue when HERE = 1; end loop; end",
    "WHILE": "begin while HERE = 1 loop null; end loop; end",
    "a body of WHILE": "begin while true loop perform HERE; end loop; end",
    "a lower bound": "begin for i in HERE..2 loop null; end loop; end",
    "an upper bound": "begin for i in reverse 2..HERE loop null; end loop; end",
    "a step": "begin for i in 1..2 by HERE loop null; end loop; end",
    "a body of FOR": "begin for i in 1..2 loop perform HERE; end loop; end",
    "a query of FOR": "declare r record; begin for r in select HERE loop null; end loop; end",
    "a body of FOR over a query": "declare r record; begin for r in select 1 loop perform HERE; end loop; end",
    "FOREACH": "declare x int; begin foreach x in array array[HERE] loop null; end loop; end",
    "FOREACH SLICE": "declare x int[]; begin foreach x slice 1 in array array[[HERE]] loop null; end loop; end",
    "a body of FOREACH": "declare x int; begin foreach x in array array[1] loop perform HERE; end loop; end",
    "PERFORM": "begin perform 1 from public.t where id = HERE; end",
    "SELECT INTO": "declare x int; begin select HERE into strict x; end",
    "WITH": "declare x int; begin with w as (select HERE as y) select y into x from w; end",
    "RAISE": "begin raise notice '%', HERE; end",
    "an option of RAISE": "begin raise exception 'x' using hint = HERE, errcode = '22012'; end",
    "a message of RAISE": "begin raise using message = HERE; end",
    "ASSERT": "begin assert HERE = 1; end",
    "a message of ASSERT": "begin assert true, HERE; end",
    "an exception handler": "begin null; exception when division_by_zero or sqlstate '22P02' then perform HERE; end",
    "a second handler": "begin null; exception when no_data_found then null; when others then perform HERE; end",
    "a nested block": "begin begin begin perform HERE; end; end; end",
    "RETURN": "begin return HERE; end",
    "RETURN of a query": "begin return (select max(id) from public.t where id > HERE); end",
}
"""One body for each place where something is evaluated."""

SET_SLOTS = {
    "RETURN NEXT": "begin return next HERE; end",
    "RETURN QUERY": "begin return query select HERE; end",
    "RETURN QUERY of a WITH": "begin return query with w as (select HERE) select * from w; end",
}


def is_scalar(names: tuple[str, ...]) -> bool | None:
    return {"positive": True, "mood": True, "Evil Dom": True, "pair": False, "pairs": False, "t": False}.get(names[-1])


def created(body: str, arguments: str = "", returns: str = "integer") -> str:
    head = f"CREATE OR REPLACE FUNCTION public.f({arguments})\n RETURNS {returns}\n LANGUAGE plpgsql\n"
    return f"{head}AS $function${body}$function$"


def evaluated(body: str, arguments: str = "", returns: str = "integer") -> list[str]:
    parts = read(created(body, arguments, returns), body, is_scalar)
    return [piece.sql for piece in parts.pieces]


def refused(body: str, arguments: str = "", returns: str = "integer") -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        read(created(body, arguments, returns), body, is_scalar)
    return caught.value


@pytest.mark.parametrize("slot", [*SLOTS, *SET_SLOTS])
def test_everything_that_is_evaluated_is_there_to_judge(slot: str) -> None:
    body = ({**SLOTS, **SET_SLOTS})[slot].replace("HERE", "public.writer()")
    returns = "SETOF integer" if slot in SET_SLOTS else "integer"
    found = [sql for sql in evaluated(body, returns=returns) if "public.writer()" in sql]
    assert found
    assert all(re.match(r"\s*(select|with)\b", sql, re.IGNORECASE) for sql in found)


def test_a_target_of_an_assignment_is_no_call() -> None:
    # `SELECT r.last` would be last(r) where a function last exists.
    assert evaluated("declare r record; begin r.last := 1; r.last[2].x := 3; end") == [
        "SELECT NULL::record",
        "SELECT  1",
        "SELECT subscripted[2]",
        "SELECT  3",
    ]


def test_an_assignment_is_split_at_its_operator_and_no_other() -> None:
    body = "declare x int[]; begin x[abs(n := 1)] = (2 = 3)::int; x[4] := x[5] = 6; end"
    assert evaluated(body)[1:] == [
        "SELECT subscripted[abs(n := 1)]",
        "SELECT  (2 = 3)::int",
        "SELECT subscripted[4]",
        "SELECT  x[5] = 6",
    ]


@pytest.mark.parametrize(
    ("body", "why", "text"),
    [
        ("begin execute 'insert into t values (1)'; end", "executes dynamic SQL", "EXECUTE 'insert into t values (1)'"),
        ("declare r record; begin for r in execute 'x' loop end loop; end", "executes dynamic SQL", "FOR … IN EXECUTE 'x'"),  # noqa: E501
        ("declare c refcursor; begin open c for execute 'x'; end", "executes dynamic SQL", "OPEN … FOR EXECUTE 'x'"),
        ("begin call public.p(); end", "executes CALL or DO", "call public.p()"),
        ("begin do $$ begin end $$; end", "executes CALL or DO", "do $$ begin end $$"),
        ("begin commit; end", "executes COMMIT", ""),
        ("begin rollback and chain; end", "executes ROLLBACK", ""),
    ],
)  # fmt: skip
def test_statements_that_are_never_reads(body: str, why: str, text: str) -> None:
    found = refused(body)
    assert (found.why, found.text, found.line) == (why, text, 1)


def test_return_query_execute_is_dynamic() -> None:
    found = refused("\nbegin\n return query execute 'select 1' using 2; end", returns="SETOF integer")
    assert (found.why, found.text, found.line) == ("executes dynamic SQL", "RETURN QUERY EXECUTE 'select 1'", 3)


def test_a_body_that_does_not_parse_is_refused_with_the_parsers_message() -> None:
    assert refused("begin return next 1; end").why == "cannot be parsed: cannot use RETURN NEXT in a non-SETOF function"


def test_a_node_that_the_table_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(plpgsql._NODES, "stmt_perform")
    assert refused("begin perform 1; end").why == "holds stmt_perform, which the filter does not know"


def test_a_field_that_the_table_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(plpgsql._NODES["stmt_fori"], "step")
    assert refused("begin for i in 1..2 by 3 loop null; end loop; end").why.startswith("holds stmt_fori.step")


@pytest.mark.parametrize(
    "tree",
    [
        "[]",
        "[{}]",
        "not JSON",
        '[{"PLpgSQL_function":{"datums":[]}}]',
        '[{"PLpgSQL_function":{"action":{}}},{"PLpgSQL_function":{"action":{}}}]',
        '[{"PLpgSQL_function":{"action":{"PLpgSQL_expr":{"query":"1","parseMode":1}}}}]',
        '[{"PLpgSQL_function":{"action":{"PLpgSQL_expr":{"query":"1","parseMode":2,"func":1}}}}]',
        '[{"PLpgSQL_function":{"action":{"PLpgSQL_expr":{"query":"x","parseMode":3}}}}]',
    ],
)
def test_a_tree_that_is_not_as_expected_is_refused(tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plpgsql, "parse_plpgsql_json", lambda _: tree)
    refused("begin null; end")


# -- types -------------------------------------------------------------------------------------------------------------


def test_types_of_variables_are_there_to_judge() -> None:
    body = """
declare a numeric(10, 2) not null := 1; b public."Evil Dom"[]; c constant double precision default 2;
 d public.mood collate "C"; e cursor (k public.positive, l text) for select 1; f alias for a;
begin null; end"""
    types = [sql.removeprefix("SELECT NULL::") for sql in evaluated(body) if "NULL::" in sql]
    assert types == [
        "numeric(10, 2)",
        'public."Evil Dom"[]',
        "double precision",
        "public.mood",
        "public.positive",
        "text",
    ]


def test_types_taken_from_relations_are_named() -> None:
    body = (
        'declare a public.t%rowtype; b "T".v%type; c public.t.v%TYPE[]; d a%type; e /* x */ Pair % RowType;\nbegin end'
    )
    assert read(created(body), body, is_scalar).row_types == [
        RowType(("public", "t"), 1),
        RowType(("T",), 1),
        RowType(("public", "t"), 1),
        RowType((), 1),
        RowType(("pair",), 1),
    ]


def test_a_name_of_64_letters_is_cut_as_the_server_cuts_it() -> None:
    body = f"declare a {'é' * 40}%rowtype; begin end"
    ((names, _),) = read(created(body), body, is_scalar).row_types
    assert names == ("é" * 31,)


def test_a_type_in_unicode_escapes_is_refused() -> None:
    assert refused('declare a U&"evil\\0064om"%rowtype; begin end').why == "names a type with Unicode escapes"


@pytest.mark.parametrize(
    "body",
    [
        "begin perform declare from public.t; end",
        "declare",
        "declare x",
        "declare x int",
        "declare x int; y",
        "declare c cursor (k int",
        "declare c cursor for select 1",
    ],
)
def test_the_word_declare_where_no_section_begins_is_refused(body: str) -> None:
    assert refused(body).why == 'holds the word "declare" where the filter cannot read on'


def test_what_is_taken_for_a_declaration_by_mistake_is_no_type() -> None:
    # It cannot be parsed, so that the function is refused.
    assert "SELECT NULL::return 1" in evaluated("begin perform 1 as declare; return 1; begin null; end; end")


def test_declare_in_a_string_or_a_comment_is_no_section() -> None:
    assert evaluated("begin /* declare x evil; */ perform 'declare x evil := 1; begin'; end -- declare") == [
        "SELECT 'declare x evil := 1; begin'"
    ]


def test_a_false_section_hides_no_view() -> None:
    # Read as a declaration, `from t` would be a variable of type t, and t might be replaced by a built-in type.
    body = "begin perform 1 as declare from mood; begin null; end; end"
    assert "SELECT 1 as declare from mood" in evaluated(body)


# -- what the parser cannot know ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "arguments", "returns"),
    [
        ("declare x public.mood; n int; begin select 1, 'well' into n, x; return n; end", "", "integer"),
        ("declare x public.mood[]; y public.pair[]; z public.t.v%type[]; begin x[1] := 'ill'; end", "", "integer"),
        ("declare r public.t%rowtype; begin r.v := 'x'; select * into r from public.t; end", "", "integer"),
        ("declare r public.pair; begin r.a := 1; return r; end", "", "public.pair"),
        ("begin return a[1]; end", "VARIADIC a integer[]", "integer"),
        ("begin select 1, 'ill' into n, m; end", "OUT n integer, OUT m public.mood", "record"),
        ("begin m := 'ill'; end", "INOUT m public.mood", "public.mood"),
        ("begin return query select 1, 'ill'; n := 1; return next; end", "", "TABLE(n integer, m public.mood)"),
        ("begin return next m; end", "m public.mood[]", "SETOF public.mood[]"),
        ("begin f.n := 1; end", "n integer", "integer"),
        ("begin return; end", "", "void"),
        ("begin return $1 || '$body$'; end", "text, p public.pair", "text"),
    ],
)  # fmt: skip
def test_types_of_the_database_do_not_stop_the_parser(body: str, arguments: str, returns: str) -> None:
    assert read(created(body, arguments, returns), body, is_scalar)


def test_lines_are_the_bodys_own() -> None:
    body = "\ndeclare\n x public\n .mood\n := 'ill';\nbegin\n perform public.writer();\nend"
    (piece,) = (piece for piece in read(created(body), body, is_scalar).pieces if "writer" in piece.sql)
    assert (piece.text, piece.line) == ("SELECT public.writer()", 7)

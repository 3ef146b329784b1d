"""Clients that write pipelines get, message for message, what a private connection to PostgreSQL gives each of them.

What they write is random (tests/model/writer.py), but for what was found once. `python -m tests.model.pipelines`
performs more of it, and makes short what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from proxy.demo.embedded import EmbeddedServer
from tests import servers
from tests.model import writer
from tests.model.pipelines import Judge, judges
from tests.model.sketch import sketch

FOUND = {
    "a group that fails keeps the unnamed statement, which is a SET": """
        A: P "" 'set search_path to elsewhere', S | P t 'select nope', P "" 'select 1', S, B "" "", E "", S
        B: Q 'show search_path'
    """,
    "a local setting of a function is baked into a statement": """
        A: S | Q 'begin' | Q 'select public.dmy_local()' | P s 'select date ''01/02/2020''', S | Q 'commit' | S
        B: P s 'select date ''01/02/2020''', S | B "" s, E "", S
        order ABAAAAB
    """,
    "a custom setting of a function reads empty for the next client": """
        A: Q 'select public.user_local()'
        B: Q 'select current_setting(''app.user'', true)'
    """,
    "a setting of a function that the operator allows": """
        A: Q 'select public.german(), public.elsewhere()' | Q 'select public.tenant()' | S
        B: Q 'show datestyle', Q 'show search_path', Q 'select current_setting(''app.tenant'', true)'
        order AAAB
    """,
    "a setting of a statement that SQL has named": """
        A: Q 'prepare q as select 11' | P s 'set search_path to elsewhere', B "" s, E "", S | Q 'deallocate all' | S
        B: Q 'show search_path'
        order AAAB
    """,
    "the statements of others": """
        A: P l 'select statement from pg_prepared_statements', S | Q 'execute l'
        B: P secret 'select ''secret''', S
        order AB
    """,
    "a name that is left over on the upstream": """
        A: P x1 'select 1', S | P "" 'deallocate x1', B "" "", E "", P x1 'select 2', E "", S
        B: P x1 'select 7', S | Q 'execute x1'
    """,
    "what an EXECUTE found at its Parse, described behind an Execute of its group": """
        A: P "" 'execute s', P u 'execute s', P t 'select 7', B "" t, E "", D S "", D S u, S
    """,
    "DISCARD PLANS has a literal read anew, once, by the next use of its statement": """
        A: P t 'select date ''01/02/2020''', S | Q 'discard plans' | Q 'set datestyle to german' | B "" t, E "", S | Q 'set datestyle to iso, mdy' | B "" t, E "", S | Q 'execute t'
    """,  # noqa: E501
    "DISCARD PLANS that an error ahead of it keeps from running": """
        A: P t 'select date ''01/02/2020''', P s 'discard plans', S | B "" t ('0'), B "" s, E "", S | Q 'set datestyle to german' | B "" t, E "", S
    """,  # noqa: E501
    "DISCARD PLANS, and a use in a failed transaction, which reads nothing anew": """
        A: P t 'select date ''01/02/2020''', S | Q 'discard plans' | Q 'begin' | Q 'select 1/0' | B "" t, S | Q 'rollback' | Q 'set datestyle to german' | B "" t, E "", S
    """,  # noqa: E501
    "a rollback in the group of a DISCARD ALL does not undo what is set again behind that": """
        A [DateStyle=German]: P "" 'discard all', B "" "", E "", P t 'rollback', B "" t, E "", S | Q 'select date ''01/02/2020''' | P "" 'discard all', B "" "", E "", Q 'rollback' | P "" 'discard all', B "" "", E "", Q 'select 1; rollback' | Q 'select date ''01/02/2020'''
    """,  # noqa: E501
    "a FATAL of the server inside a transaction is an ERROR": """
        A: P t 'begin', P "" 'execute t(4)', B "" "", E "", B p "", E p, S
    """,
    "a client that leaves while its settings are set again": """
        A [DateStyle=German; TimeZone=Asia/Kolkata]: 300 x (P "" 'reset all', B "" "", E "") / H leaves
        B [TimeZone=Asia/Tokyo]: P "" 'reset all', B "" "", E "", S | Q 'select 1'
    """,
    "a Query that is ignored behind an error": """
        A: P s 'select 1', S | P "" 'select nope', Q 'set timezone to ''Asia/Tokyo''; select name from pg_prepared_statements' | S | Q 'show timezone'
    """,  # noqa: E501
    "a Query that is ignored behind an error, with a BEGIN in it": """
        A: P s 'select 1', S | P "" 'select nope', Q 'select name from pg_prepared_statements; begin' | S
    """,
    "EXECUTE behind the ROLLBACK of a failed transaction": """
        A: P s 'select 1', S | Q 'begin' | Q 'select 1/0' | Q 'rollback; execute s'
    """,
    "DEALLOCATE behind the ROLLBACK of a failed transaction": """
        A: P s 'select 1', S | Q 'begin' | Q 'select 1/0' | Q 'rollback; deallocate s' | Q 'execute s'
    """,
    "PREPARE behind the ROLLBACK of a failed transaction": """
        A: P s 'select 1', S | Q 'begin' | Q 'select 1/0' | Q 'rollback; prepare s as select 2' | Q 'execute s'
    """,
    "a start-up setting is set again ahead of an isolation level": """
        A [TimeZone=Asia/Tokyo]: Q 'set timezone to default; start transaction isolation level repeatable read'
    """,
    "two DISCARD ALL in a group of a client with a start-up setting": """
        A [TimeZone=Asia/Tokyo]: P "" 'discard all', B "" "", E "", P "" 'discard all', B "" "", E "", S
    """,
    "a start-up setting is what set_config with NULL sets": """
        A [TimeZone=Asia/Tokyo]: Q 'select set_config(''timezone'', null, false)' | Q 'show timezone'
    """,
    "Describe of a FETCH that was parsed before its cursor": """
        A: P s 'select 1', P "" 'fetch 1 from p', S | B p s, D S "", S
        B: Q 'show timezone'
        order ABA
    """,
    "Describe of an EXECUTE that was parsed before its statement": """
        A: P t 'execute s', P s 'select 1', S | Q 'select name from pg_prepared_statements' | D S t, S
    """,
    "Describe of a statement in a failed transaction": """
        A: P t 'begin' | Q 'select name from pg_prepared_statements' | Q 'execute t', D S s, S, D S t, S
    """,
    "Terminate behind what has not been answered": """
        A: Q 'select 2', P s 'select 1', B "" s, E "", S, X
    """,
    "a name in the statement that an EXECUTE runs": """
        A: P s 'deallocate t', P t 'select 1', S | Q 'execute s' | Q 'execute t'
    """,
    "DISCARD ALL by a statement with a name, of a client with a start-up setting": """
        A [DateStyle=German]: Q 'prepare t as select 21' | P s 'discard all', B "" s, E "", S
    """,
    "a statement that is closed as its twin in its own group": """
        A: P s 'select 1', H | P t 'select 1', H | B "" s, E "", H | P u 'select 1', H | B "" s, E "", B "" t, E "", B "" u, E "", S
    """,  # noqa: E501
    "a guard behind a START TRANSACTION that is answered with the end of another group": """
        A: Q 'select 1', P "" 'start transaction', B "" "", E "", P "" 'fetch 2 from c', B "" "", E "" | S, Q 'fetch 2 from c' | Q 'rollback'
    """,  # noqa: E501
    "an unnamed EXECUTE that is parsed in a transaction which fails only now": """
        A: P s 'select 1', P "" 'select $1::int', S | Q 'begin' | Q 'select 1/0', P "" 'execute s', S | B "" "", S | Q 'rollback'
    """,  # noqa: E501
    "an unnamed EXECUTE that was described before its statement": """
        A: P "" 'execute t', D S "", P t 'select public.paris_local()', S | B "" "", D S "", E "", S
    """,
    "an EXECUTE that was parsed before its statement, by SQL": """
        A: P s 'execute t(4)' | P t 'select name, statement, from_sql from pg_prepared_statements order by name', S | Q 'execute s'
    """,  # noqa: E501
    "too few values behind a Close in a failed transaction": """
        A: P s 'select 1/$1::int', S | Q 'select name from pg_prepared_statements' | Q 'begin' | Q 'select nope' | C S t, B "" s, S
    """,  # noqa: E501
    "the text of a set_config with NULL, of a client with a start-up setting": """
        A [TimeZone=Asia/Tokyo]: P t 'select set_config(''timezone'', null, false)', P l 'select statement from pg_prepared_statements order by name', S | Q 'execute l' | Q 'execute t' | Q 'execute l' | B "" t, E "", S | Q 'show timezone' | Q 'prepare z as select 1' | P u 'select set_config(''timezone'', null, false)', S | Q 'execute l', Q 'execute u', Q 'execute l' | B "" u, E "", S | Q 'deallocate t', Q 'execute l'
        B: Q 'show timezone'
    """,  # noqa: E501
    "an unnamed statement that is ignored behind an error": """
        A: P t 'select 1', S, P t 'select 7', P "" 'set timezone to ''Asia/Tokyo''' | S, B "" "", E "", S
    """,
    "an isolation level behind a RESET of its group, of a client with a start-up setting": """
        A [DateStyle=German]: P t 'reset datestyle', S | B p t, E p | Q 'start transaction isolation level repeatable read' | Q 'show datestyle'
    """,  # noqa: E501
    "EXECUTE behind a SET LOCAL of the statement's group": """
        A: P "" 'set local timezone to ''Asia/Tokyo''', B "" "", E "", P t 'select timestamptz ''2025-06-01 00:00'', ''01/02/2020''::date', S, Q 'execute t'
    """,  # noqa: E501
    "names for a Query that a failed transaction ignores, behind a Close": """
        A: P b 'select 1', S | Q 'begin', Q 'select nope' | C S a, Q 'explain execute b; rollback to s; deallocate a' | Q 'rollback'
    """,  # noqa: E501
    "a BEGIN behind an EXECUTE that a failed transaction ignores": """
        A: Q 'begin', Q 'select nope' | C S zz, P "" 'execute c', Q 'begin', S, Q 'show timezone' | Q 'rollback'
    """,
    "an EXECUTE that a failed transaction ignores, of a client that is pinned, behind a Close": """
        A: P b 'select 1', S | Q 'begin' | Q 'declare a cursor with hold for select 1' | Q 'select 1/0' | C S a, Q 'execute b' | Q 'rollback'
    """,  # noqa: E501
    "PREPARE behind a Query and the ROLLBACK of a failed transaction": """
        A: Q 'begin', P s 'select 7', B "" t ('4'), S | Q 'show search_path', Q 'rollback; prepare s as select 13'
    """,
    "a list of statements behind a DISCARD ALL of its group, of a client with a start-up setting": """
        A [options=-c app.tenant=start]: P "" 'discard all', B "" "", E "", P "" 'select name, statement, from_sql from pg_prepared_statements order by name', S
    """,  # noqa: E501
    "EXECUTE behind a setting of its group, which has functions plan anew": """
        A: P t 'set datestyle to german' | B "" t, E "", Q 'execute s', Q 'execute t'
    """,
    "DISCARD ALL behind a Parse whose settings only the server knows": """
        A: P "" 'discard all', B "" "", E "", P "" 'select $1::text, current_setting(''datestyle'')', Q 'discard all'
        B: Q 'select public.paris_local()', P "" 'select $1::int', Q 'discard all' | Q 'show timezone'
        C: P "" 'select public.fails_local()', Q 'discard all'
    """,
    "DISCARD ALL in the group of a Parse whose settings only the server knows": """
        A: P "" 'set search_path to elsewhere', B "" "", E "", S | P s 'select $1::text, current_setting(''datestyle'')', P "" 'discard all', B "" "", E "", S
        B: Q 'set datestyle to german' | P "" 'select 1/$1::int', P t 'discard all', B "" t, E "", S, B "" "" ('1'), E "", S
        C: Q 'select public.german(), 1/0', P "" 'select public.user_local(), 1/0' | P "" 'discard all', B "" "", E "", S
    """,  # noqa: E501
    "DISCARD ALL that fails behind what the client has run itself": """
        A: Q 'select public.paris_local()', P s 'select 1', B "" s, E "", Q 'discard all', S | B "" s, E "", S
    """,
    "DISCARD ALL that is ignored behind an error in its group": """
        A: Q 'select public.paris_local()', P s 'select date ''01/02/2020''', P t 'select nope', Q 'discard all', P u 'select 2', S | B "" s, E "", S, B "" u, E "", S
        B: Q 'begin', Q 'select public.paris_local()', P s 'select 1', P t 'select nope', Q 'discard all', S, B "" s, E "", S | Q 'rollback' | B "" s, E "", S
    """,  # noqa: E501
    "an isolation level behind Describe of a statement that is parsed again": """
        A: Q 'select public.elsewhere()' | Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        B [application_name=mine; TimeZone=Asia/Kolkata]: P t 'select public.in_german()', S | D S t, Q 'set timezone to default; start transaction isolation level repeatable read' ^3 | Q 'rollback'
        order AB
    """,  # noqa: E501
    "START TRANSACTION behind Describe of a statement that is parsed again": """
        A: Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        B: C S t ^2 | P s 'select public.dmy_local(), 1/0', S | D S s, Q 'start transaction isolation level repeatable read' | Q 'rollback'
        order BBB
    """,  # noqa: E501
    "COMMIT AND CHAIN that has something behind it, in a transaction that has failed": """
        A: Q 'start transaction isolation level repeatable read' | E p, S, P "" 'commit and chain', B "" "", E "", E "", S | Q 'rollback'
    """,  # noqa: E501
    "an error of a statement that has an equal one": """
        A: P t 'prepare t as select 21' | P s 'prepare t as select 21', S | B "" t ('4'), B "" s, S
    """,
    "too few values for the unnamed statement in a failed transaction": """
        A: P "" 'select 1/$1::int' | P t 'set application_name to ''me''', B "" t, E "", S | P s 'begin read only', B p s, E p, P s 'set search_path to here' | S, B "" "", Q 'rollback'
    """,  # noqa: E501
    "Terminate behind what has no Sync": """
        A: P "" 'set datestyle to ''ISO, DMY''', B "" "", E "", X
        B: P "" 'set datestyle to ''ISO, DMY''', B "" "", E "", H, X
        C: Q 'select 1', P "" 'set datestyle to ''ISO, DMY''', B "" "", E "", X
    """,
    "Describe of an EXECUTE whose statement is gone": """
        A: P t 'select public.undone_local()', P s 'execute t' | C S t | Q 'execute s', D S s, S
        B: P t 'select 7', P s 'execute t(4)' | C S t | Q 'execute t', D S s, S
    """,
    "Describe of an EXECUTE whose statement is another one": """
        A: P t 'select 7', P s 'execute t(4)' | C S t, P t 'prepare s as select place from spot' | Q 'execute s', D S s, S
    """,  # noqa: E501
    "Describe of a FETCH whose cursor is there, and of one that never was": """
        A: Q 'begin', Q 'declare c cursor for select x from generate_series(1, 9) as x' | P s 'fetch 2 from c', D S s, S | D S s, B "" s, D P "", E "", D P "", S | P "" 'fetch 2 from c', D S "", B "" "", D P "", E "", S | Q 'commit'
        B: P s 'fetch 2 from c', D S s, S, D S s, B "" s, D P "", E "", S | P "" 'fetch 2 from c', D S "", B "" "", D P "", E "", S
    """,  # noqa: E501
    "a name behind what leaves a failed transaction, a savepoint's and a chain's included": """
        A: P b 'select date ''01/02/2020''', S | Q 'begin' | Q 'set datestyle to ''ISO, DMY''' | Q 'savepoint s' | Q 'select nope' | Q 'rollback to nope; execute b' | Q 'rollback to s; execute b; rollback; execute b' | Q 'begin; savepoint "s;"; select nope' | Q ' rollback /* ; */ to "s;"; deallocate b; execute b' | Q 'rollback'
        B: P b 'select 2', S | Q 'begin isolation level repeatable read' | Q 'select nope' | Q 'commit and chain; execute b; show transaction_isolation; select nope' | Q 'rollback and chain; execute b; show transaction_isolation' | Q 'rollback'
        C: P b 'select date ''01/02/2020''', S | Q 'set datestyle to ''ISO, DMY''' | Q 'begin' | Q 'select nope' | Q 'rollback; execute b'
    """,  # noqa: E501
    "a name behind what leaves a failed transaction, in a group that is open": """
        A: P b 'select 1', S | Q 'begin' | Q 'select nope' | C S x, Q 'rollback; execute b', S | Q 'begin; select nope' | P x 'rollback', B "" x, H, Q 'rollback; execute b', S | Q 'begin; select nope' | C S x, H | Q 'rollback; execute b' | S
        B: P b 'select 2', S | Q 'begin', Q 'savepoint s', Q 'set search_path to here', Q 'select nope', C S x, Q 'rollback to s; execute b; show search_path', S | Q 'rollback'
        C: P b 'select 3', S | Q 'begin', Q 'select nope', C S x, P "" 'select 1', Q 'rollback; execute b' | Q 'select 1' | S | Q 'rollback'
        D: P b 'select 4', S | Q 'begin' | Q 'savepoint s' | Q 'select nope' | P "" 'rollback to s', B "" "", E "", P "" 'execute b', B "" "", E "", S | Q 'select nope' | P "" 'rollback to s', B "" "", E "", Q 'execute b' | Q 'select nope' | Q 'rollback to s', Q 'execute b' | Q 'rollback'
    """,  # noqa: E501
    "too many values, or too few, for what is not analysed at its Parse, in a failed transaction": """
        A: P a 'prepare x (int) as select $1 + 1', P b 'execute x($1)', P d 'explain select $1::int', P e 'declare c cursor for select $1::int', P f 'show timezone' (23), P i '', S | Q 'begin' | Q 'select nope' | B "" a ('0'), S | B "" a, S | B "" b ('0'), S | B "" d, S | B "" d ('0'), S | B "" e, S | B "" e ('0'), S | B "" f, S | B "" f ('0'), S | B "" i ('0'), S | B "" i, S | Q 'rollback'
    """,  # noqa: E501
    "letters in a group that may have changed their encoding": """
        A: Q 'begin' | Q 'set client_encoding to latin1' | P x 'select ''é'', length(''é'')', S | C S x, P x 'select ''é'', length(''é'')', B "" x, E "", C S x, P x 'select ''ö'', length(''é'')', B "" x, E "", S | Q 'commit'
        B: P s 'select set_config($1, $2, $3)', S | Q 'begin', Q 'set client_encoding to latin1', B "" s ('client_encoding', 'utf8', 'f'), E "", B "" s ('app.tenant', 'é', 'f'), E "", P "" 'select ''é'', length(''é'')', B "" "", E "", S | Q 'rollback'
        C: Q 'begin' | Q 'set client_encoding to latin1', Q 'savepoint s', Q 'set client_encoding to utf8' | P "" 'rollback to s', B "" "", E "", P "" 'select ''é'', length(''é'')', B "" "", E "", P "" 'rollback', B "" "", E "", P n 'select ''é'', length(''é'')', B "" n, E "", S | B "" n, E "", S
        D: P "" 'select set_config(''client_encoding'', ''latin1'', false)', B "" "", E "", Q 'select ''é'', length(''é'')' | P "" 'select set_config(''client_encoding'', ''utf8'', false)', B "" "", E "", P "" 'select ''é'', 1/0', B "" "", E "", P "" 'select ''é''', S | Q 'select ''é'', length(''é'')'
    """,  # noqa: E501
    "what EXPLAIN EXECUTE does not run, and what a list of EXECUTEs has dropped before one fails": """
        A: P t 'deallocate t' | P "" 'explain (costs off) execute t', B "" "", E "", B "" t, E "", S | Q 'explain (costs off) execute t'
        B: P t 'deallocate t', P u 'execute t', S | P "" 'explain (costs off) execute u', B "" "", E "", B "" t, E "", B "" u, E "", S | Q 'execute t'
        C: P t 'deallocate all', P d 'discard all', P u 'select 1', S | P "" 'explain (costs off) execute t', B "" "", E "", P "" 'explain (costs off) execute d', B "" "", E "", B "" u, E "", S | Q 'execute u'
        D: P t 'deallocate t', S | Q 'execute t; deallocate nope' | Q 'execute t'
        E: P t 'deallocate x', P x 'select 1', P y 'select 2', S | Q 'explain execute t; deallocate y; execute y' | Q 'execute x' | Q 'execute t; deallocate nope' | Q 'execute x'
    """,  # noqa: E501
    "a transaction that no server knew of, and the unnamed statement that an upstream still has": """
        A: P "" 'select 7', B "" "", E "", S | P "" 'begin', B "" "", E "", S | P "" 'commit', B "" "", E "", S | B "" "", E "", S
    """,  # noqa: E501
    "a Parse under a name that is taken, and fails, in a group that SideCart ends": """
        A: P s 'discard all' | P s 'select nope', B p s, S
        B: P t 'select 1', P b 'select 2', S | Q 'begin' | Q 'select nope' | P t 'select 2', Q 'rollback; execute b' | S | Q 'rollback'
    """,  # noqa: E501
    "an isolation level in a transaction in which start-up settings were reset": """
        A [TimeZone=Asia/Tokyo]: Q 'set timezone to default; begin' | Q 'set transaction isolation level repeatable read' | Q 'rollback'
        B [TimeZone=Asia/Tokyo]: Q 'begin' | Q 'reset timezone' | Q 'set transaction isolation level repeatable read' | Q 'rollback'
        C [TimeZone=Asia/Tokyo; DateStyle=German]: Q 'begin' | P "" 'reset timezone', B "" "", E "", S | P "" 'reset datestyle', B "" "", E "", S | Q 'set transaction isolation level repeatable read' | Q 'rollback'
        D [TimeZone=Asia/Tokyo; DateStyle=German]: Q 'begin' | Q 'reset timezone' | Q 'reset all; set datestyle to iso; reset datestyle -- yes' | Q 'set transaction isolation level repeatable read' | Q 'show datestyle; show timezone' | Q 'commit' | Q 'show datestyle; show timezone'
        E [TimeZone=Asia/Tokyo; DateStyle=German]: Q 'begin; reset all -- x' | Q 'set transaction isolation level repeatable read; show timezone' | Q 'set timezone to utc; savepoint s; reset timezone; show timezone; rollback to s; show timezone; reset timezone' | Q 'commit; show timezone'
        F [TimeZone=Asia/Tokyo; options=-c search_path=here]: Q 'set search_path to elsewhere' | Q 'begin' | Q 'reset search_path' | Q 'set transaction isolation level repeatable read; show search_path' | Q 'commit; show search_path'
    """,  # noqa: E501
    "an isolation level ahead of what has functions plan anew, in a transaction that has set something": """
        A: Q 'set timezone to default; start transaction isolation level repeatable read', C S t, Q 'select 1; select 1/0' | Q 'commit and chain', Q 'set timezone to default; start transaction isolation level repeatable read'
        B: Q 'begin; set timezone to utc' | Q 'set transaction isolation level repeatable read; select public.dmy_local()' | Q 'rollback'
        C: Q 'begin; set timezone to utc' | Q 'set transaction isolation level repeatable read; select 1; select nope' | Q 'rollback'
    """,  # noqa: E501
    "a start-up setting is not set again behind a set_config with NULL that has not run": """
        A [TimeZone=Asia/Tokyo]: Q 'set timezone to ''Asia/Kolkata''' | P "" 'select set_config(''timezone'', null, false) where false', B "" "", E "", S | Q 'show timezone'
        B [TimeZone=Asia/Tokyo]: Q 'set timezone to utc' | Q 'select set_config(''timezone'', null, false) where false; show timezone' | Q 'show timezone'
    """,  # noqa: E501
    "EXECUTE of a DISCARD ALL behind one that has functions plan anew": """
        A: P "" 'select $1::text, current_setting(''datestyle'')', B "" "" ('x'), E "", P s 'discard all', B "" s, E "", S, P "" 'execute s(4)', B "" "", E "", S
    """,  # noqa: E501
    "too few values behind a transaction that has begun and failed in one write": """
        A: P s 'select 1/$1::int' (25), S | Q 'begin read only', P t 'set local search_path to there', B "" t, B "" "", E "", S, B "" s, S
        B: P s 'select 1/$1::int' (25), S | Q 'begin read only', P t 'set local search_path to there', B "" t, E "", B "" "nope", E "", S, B "" s, S, P "" 'rollback', B "" "", E "", B "" s, S | Q 'rollback'
        C: P s 'select 1/$1::int' (25), S | Q 'begin', Q 'set local search_path to there', Q 'select nope', Q 'rollback', B "" s, S, Q 'begin', Q 'set local datestyle to german', P "" 'select nope', S, D S s, S | Q 'rollback'
        D: P s 'set timezone to utc', P t 'select $1::int', S | Q 'begin; select 1', Q 'set local search_path to there', Q 'select nope', D S s, S, B "" t, S, P "" 'rollback', B "" "", E "", D S s, B "" t ('1'), E "", S | Q 'rollback'
    """,  # noqa: E501
    "a list of statements behind a Parse of another text of the same statement, answered only now": """
        A: P t 'select 7' | Q 'set local search_path to there', P s 'select 7', S, B "" t, Q 'select name, statement, from_sql from pg_prepared_statements order by name'
    """,  # noqa: E501
    "a list of statements behind two names of one that the upstream lacks": """
        A: P a 'select 7', S, P b 'select 7', S | B "" a, E "", B "" b, E "", Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        B: Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        order ABA
    """,  # noqa: E501
    "the same by the extended protocol, in the group": """
        A: P a 'select 7', S, P b 'select 7', S | B "" a, E "", B "" b, E "", P "" 'select name, statement, from_sql from pg_prepared_statements order by name', B "" "", E "", S
        B: Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        order ABA
    """,  # noqa: E501
    "a use under another search_path, which analyses a statement anew": """
        A: P t 'select date ''01/02/2020'', timestamptz ''2025-06-01 00:00+00''' | Q 'select public.elsewhere()', B "" t | Q 'select public.german()' | Q 'execute t'
    """,  # noqa: E501
    "the same, both settings known, and the statement parsed on the link anew": """
        A: P t 'select date ''01/02/2020'', timestamptz ''2025-06-01 00:00+00''', S | Q 'set search_path to elsewhere' | B "" t, S | Q 'set datestyle to german' | B "" t, E "", S | Q 'execute t'
        B: Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        order AAAABA
    """,  # noqa: E501
    "a use that fails under another search_path, and analyses nothing": """
        A: P t 'select date ''01/02/2020'', timestamptz ''2025-06-01 00:00+00''', S | Q 'set search_path to elsewhere' | B "" "nope", B "" t, S | Q 'set datestyle to german' | B "" t, E "", S | Q 'execute t'
        B: Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        order AAAABA
    """,  # noqa: E501
    "a Describe under another search_path": """
        A: P t 'select date ''01/02/2020'', timestamptz ''2025-06-01 00:00+00''', S | Q 'set search_path to elsewhere' | D S t, S | Q 'set datestyle to german' | B "" t, E "", S
        B: Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        order AAAABA
    """,  # noqa: E501
    "EXECUTE under another search_path": """
        A: P t 'select date ''01/02/2020'', timestamptz ''2025-06-01 00:00+00''', S | Q 'set search_path to elsewhere' | Q 'execute t' | Q 'set datestyle to german' | B "" t, E "", S | Q 'execute t'
        B: Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        order AAAABA
    """,  # noqa: E501
    "a search_path that comes to the same schemas": """
        A: P t 'select date ''01/02/2020'', timestamptz ''2025-06-01 00:00+00''', S | Q 'set search_path to public' | B "" t, S | Q 'set datestyle to german' | B "" t, E "", S | Q 'execute t'
        B: Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        order AAAABA
    """,  # noqa: E501
    "the unnamed statement under another search_path": """
        A: P p 'set search_path to elsewhere', P d 'set datestyle to german', P "" 'select date ''01/02/2020'', timestamptz ''2025-06-01 00:00+00''', S | B p p, E p, S | B "" "", S | B d d, E d, S | B "" "", E "", S
        B: Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        order AAAABA
    """,  # noqa: E501
    "plans that are discarded, settled by a use under settings that nobody knows": """
        A: P t 'select date ''01/02/2020'', timestamptz ''2025-06-01 00:00+00''', S | Q 'discard plans' | Q 'select public.german()', B "" t, S | Q 'set datestyle to mdy' | B "" t, E "", S | Q 'execute t'
        B: Q 'select name, statement, from_sql from pg_prepared_statements order by name'
        order AAAABA
    """,  # noqa: E501
    "EXECUTE behind a SET of the search_path that nobody has read back": """
        A: P t 'select date ''01/02/2020''' | Q 'set search_path to there, public', Q 'execute t' | Q 'select public.german()', B pt t, E pt, S
    """,  # noqa: E501
    "a list under another search_path, which analyses nothing": """
        A: P s 'select date ''01/02/2020''' | S, Q 'select set_config(''search_path'', ''elsewhere'', false)' | Q 'select name, statement, from_sql from pg_prepared_statements order by name' | Q 'set datestyle to german', B "" s, E "", S
    """,  # noqa: E501
    "EXECUTE behind a DISCARD PLANS in a transaction that is rolled back": """
        A: P s 'select date ''03/04/2021''' | Q 'begin', Q 'discard plans' | Q 'set datestyle to german' | Q 'execute s' | Q 'rollback' | B "" s, E "", S
    """,  # noqa: E501
    "a use in one write with a DISCARD PLANS": """
        A: P t 'select date ''01/02/2020''' | Q 'select public.german()' | Q 'discard plans', B "" t, E "", S
    """,
    "a use behind a DISCARD PLANS that is ignored": """
        A: P s 'select date ''01/02/2020''', P x 'discard plans', B "" x, E "", S | P s 'select 7', B pt s, S, Q 'select public.german()' | B pt s, E pt, S
    """,  # noqa: E501
    "a use in the group of a DISCARD PLANS": """
        A: P s 'select date ''01/02/2020''', P x 'discard plans', B "" x, E "", C S x | B "" s | P x 'set datestyle to ''SQL, DMY''', B "" x, E "", S | B "" s, E "", S
    """,  # noqa: E501
    "a use under another search_path whose Parse is not answered": """
        A [DateStyle=German]: P t 'select date ''03/04/2021''' | P x 'set search_path to elsewhere', B "" x, E "", B "" t, Q 'set datestyle to mdy' | Q 'execute t'
    """,  # noqa: E501
    "a RESET ALL and a SET behind it, of a client with a start-up setting": """
        A [DateStyle=German]: Q 'reset all; set datestyle to mdy', Q 'show datestyle' | Q 'begin; reset all; set datestyle to mdy', Q 'rollback'
    """,  # noqa: E501
    "a RESET of one setting, in a group that has set another start-up setting": """
        A [DateStyle=German; TimeZone=UTC]: Q 'reset all', P x 'set datestyle to mdy', B "" x, E "" | Q 'reset timezone' | Q 'reset all', P x 'set datestyle to mdy', B "" x, E "" | Q 'reset search_path'
    """,  # noqa: E501
    "a use by the protocol behind EXECUTE in the group of a DISCARD PLANS": """
        A: P s 'select date ''01/02/2020''', P x 'discard plans', B "" x, E "" | Q 'execute s' | Q 'set datestyle to german' | B "" s, E "", S
    """,  # noqa: E501
}
"""What once differed."""

JudgeOf = Callable[[int], Judge]


@pytest.fixture(scope="module")
def judge_of() -> Iterator[JudgeOf]:
    with EmbeddedServer(plaintext=True, auth="trust") as server, judges(server) as find:
        yield find


def perform(judge: Judge, seeds: range) -> None:
    for seed in seeds:
        played = writer.write(seed)
        what = judge.look(played)
        if what is not None:
            short = judge.shrink(played)
            pytest.fail(f"seed {seed}\n{short}\n{judge.look(short) or what}")


def test_what_is_refused(judge_of: JudgeOf) -> None:
    """A syntax error stands for it on private connections, so that it must be what is meant to be refused."""
    assert judge_of(1).refused == {"select public.refused()", "select public.refused(), 1/0"}


@pytest.mark.parametrize("upstreams", (1, pytest.param(2, marks=pytest.mark.deep)))
@pytest.mark.parametrize("text", FOUND.values(), ids=FOUND)
def test_what_was_found_once(text: str, upstreams: int, judge_of: JudgeOf) -> None:
    what = judge_of(upstreams).look(sketch(text))
    assert what is None, f"\n{what}"


def test_a_few_pipelines(judge_of: JudgeOf) -> None:
    perform(judge_of(1), range(60))


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("upstreams", (1, 2))
def test_pipelines(upstreams: int, judge_of: JudgeOf) -> None:
    perform(judge_of(upstreams), range(4000))


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("major", servers.MAJORS)
def test_pipelines_on_every_version_of_postgresql(major: int) -> None:
    """ParameterStatus comes earlier on 13, and 18 reports search_path."""
    with servers.running(major, auth="trust", plaintext=True) as server, judges(server) as find:
        perform(find(2), range(4000, 4400))

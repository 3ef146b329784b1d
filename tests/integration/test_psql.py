"""psql through SideCart prints what it prints on a direct connection of the same role, byte for byte."""

from __future__ import annotations

import difflib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.private_ca import server_certificate
from proxy.demo.shop import Shop
from tests.running import SideCart, wait_until

Finished = tuple[int, bytes, bytes]
"""Exit code, standard output, standard error."""


def difference(direct: Finished, through: Finished) -> str:
    """Return what differs, in the lines of a diff."""
    before, after = [
        [f"exit code {code}", *out.decode("latin-1").splitlines(), *err.decode("latin-1").splitlines()]
        for code, out, err in (direct, through)
    ]
    return "\n".join(difflib.unified_diff(before, after, "direct", "through SideCart", n=1, lineterm=""))


@dataclass(frozen=True)
class Psql:
    """Runs psql as the reader, through SideCart or direct."""

    program: Path
    direct: str
    through: str
    password: str

    def start(self, target: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
        return subprocess.Popen(
            [self.program, target, "-X", *arguments],
            env=kept | {"PGPASSWORD": self.password, "LANG": "C.UTF-8"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, target: str, script: str | bytes, *arguments: str, **environment: str) -> Finished:
        process = self.start(target, *arguments, **environment)
        out, err = process.communicate(script.encode() if isinstance(script, str) else script, timeout=30)
        return process.returncode, out, err

    def same(self, script: str | bytes, *arguments: str, **environment: str) -> Finished:
        """Run a script on both, compare everything, and return it."""
        direct = self.run(self.direct, script, *arguments, **environment)
        through = self.run(self.through, script, *arguments, **environment)
        assert through == direct, difference(direct, through)
        return direct


@pytest.fixture(scope="module")
def psql(postgres: EmbeddedServer, shop: Shop, sidecart: SideCart, tool: Callable[[str], Path]) -> Psql:
    who = f"dbname={shop.dbname} user={shop.reader}"
    return Psql(
        tool("psql"),
        f"host={postgres.host} port={postgres.port} {who} sslmode=require",
        f"host=127.0.0.1 port={sidecart.port} {who} sslmode=disable",
        shop.reader_password,
    )


@pytest.fixture
def superuser(postgres: EmbeddedServer) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        yield connection


def running(superuser: psycopg.Connection[Any], text: str) -> int:
    """Return how many sessions run this statement now."""
    row = superuser.execute(
        "select count(*) from pg_stat_activity where state = 'active' and query = %s and pid <> pg_backend_pid()",
        [text],
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    "command",
    [
        r"\d", r"\d+", r"\d orders", r"\d+ orders", r"\d+ open_orders", r"\d orders_pkey", r"\d nothing", r"\l", r"\l+",
        r"\dt", r"\dt+", r"\dt public.*", r"\df", r"\df+", r"\dfS pg_read*", r"\sf spent_by", r"\sv open_orders",
        r"\dv", r"\dv+", r"\di", r"\di+", r"\ds", r"\dm", r"\du", r"\du+", r"\dn", r"\dn+", r"\dp", r"\ddp", r"\db+",
        r"\dT", r"\dTS+ int*", r"\dC", r"\dD", r"\do", r"\da", r"\dx", r"\dx+", r"\dy", r"\det", r"\des", r"\dRp",
        r"\dRs", r"\dF+", r"\dL", r"\dO", r"\drds", r"\dAc", r"\dd", r"\dl", r"\dP", r"\dX", r"\encoding",
        r"\z orders", r"\echo :SERVER_VERSION_NAME :ENCODING",
    ],
)  # fmt: skip
def test_backslash_command_prints_the_same(psql: Psql, command: str) -> None:
    code, out, err = psql.same(command)
    assert code == 0
    assert out or err


def test_error_of_a_describe_command_is_the_servers_own(psql: Psql) -> None:
    _, _, err = psql.same(r"\d nothing")
    assert err == b'Did not find any relation named "nothing".\n'


def test_changed_parameters_are_the_same(psql: Psql) -> None:
    # SideCart always asks for an encoding: psql has to as well, to see the same source of that setting.
    _, out, _ = psql.same(r"\dconfig", PGCLIENTENCODING="UTF8")
    assert b"default_transaction_read_only" in out


def test_expanded_output(psql: Psql) -> None:
    _, out, _ = psql.same("\\x\nselect * from orders where id < 3 order by id;\n\\x auto\nselect 1;")
    assert out.startswith(b"Expanded display is on.\n-[ RECORD 1 ]")


def test_gdesc(psql: Psql) -> None:
    _, out, _ = psql.same("select * from orders \\gdesc\nselect 1 as one \\gdesc\nselect * from nope \\gdesc\n")
    assert b"numeric(12,2)" in out


def test_gexec_gset_and_if(psql: Psql) -> None:
    script = """
        select format('select %L', name) from categories order by id limit 3 \\gexec
        select count(*) as n from orders \\gset
        select :n / 2;
        \\if :{?n}
        select 'known';
        \\endif
        select status, country, count(*) from orders o join customers c on c.id = customer_id
        group by 1, 2 order by 1, 2
        \\crosstabview
    """
    _, out, err = psql.same(script)
    assert b"50000" in out
    assert not err


def test_copy_select_to_stdout(psql: Psql) -> None:
    _, out, err = psql.same(
        "\\copy (select * from orders order by id) to stdout\n\\copy categories to stdout csv header\n"
    )
    assert out.count(b"\n") == 100_021
    assert not err
    psql.same("copy (select * from products order by id) to stdout with (format binary)")


def test_fetch_count_reads_with_a_cursor(psql: Psql) -> None:
    _, out, _ = psql.same("\\set FETCH_COUNT 1000\nselect * from orders order by id;\nselect 1/0;\nselect 'next';")
    assert b"(100000 rows)" in out
    assert b"next" in out


ERRORS = """
select * from nope;
select nope
  from orders
  where id = 1;
select 'é', nope from orders;
select * from orders where total = 'x';
select 日本 from orders;
\\set VERBOSITY verbose
select nope;
select 1/0;
\\errverbose
\\set VERBOSITY sqlstate
select 1/0;
\\set VERBOSITY terse
select nope;
\\set SHOW_CONTEXT always
select '{"open'::json;
begin; select 1/0; select 1; rollback;
begin; savepoint a; select 1/0; rollback to a; select 2; commit;
select 1; select 1/0; select 2;
select 1\\; select 2\\; select 1/0\\; select 3;
\\set ON_ERROR_ROLLBACK on
begin;
select 1/0;
select 'goes on';
commit;
\\set AUTOCOMMIT off
select 1;
select 1/0;
select 2;
rollback;
"""


def test_errors_with_the_caret(psql: Psql) -> None:
    code, _, err = psql.same(ERRORS)
    assert code == 0
    assert b"\nLINE 1: select * from nope;\n                      ^\n" in b"\n" + err
    assert err.count(b"^") >= 6


@pytest.mark.parametrize(
    "text", ["selec 1;", "select 1 +;", "select\n  'é'\n  frm orders;", "select '日本' frm orders x;", "table;"]
)
def test_syntax_error_is_the_servers_own(psql: Psql, text: str) -> None:
    _, _, err = psql.same(text)
    assert err.startswith(b"ERROR:  syntax error at or near ")


def test_error_ends_the_script_when_asked(psql: Psql) -> None:
    assert psql.same("select 1/0; select 2;", "-v", "ON_ERROR_STOP=1")[0] == 3
    assert psql.same("", "-c", "select 1/0")[0] == 1
    assert psql.same("select 1; select 2;", "-1")[0] == 0


def test_timing_off_and_other_switches(psql: Psql) -> None:
    psql.same(
        "\\timing off\nselect 1;\n\\pset format csv\ntable categories;\n\\pset null NULL\nselect null;\n\\a\n"
        "\\t\nselect 1;\n"
    )


def test_notices_and_settings(psql: Psql) -> None:
    script = """
        set datestyle to german; select date '2025-12-24'; show datestyle; reset datestyle; select date '2025-12-24';
        begin; begin; commit; commit;
        set app.tenant to 'x'; show app.tenant; reset all; show app.tenant;
        set time zone 'Europe/Paris'; select timestamptz '2025-06-01 00:00+00'; show timezone;
        discard all; show timezone;
        show search_path; show application_name; show client_encoding; show is_superuser; show session_authorization;
        prepare p(int) as select $1 + 1; execute p(1); deallocate p; execute p(1);
        declare c cursor with hold for select id from orders order by id; fetch 3 from c; close c; fetch c;
        select current_user, session_user, current_database(), current_schema;
    """
    psql.same(script)


# --- encodings --------------------------------------------------------------------------------------------------------

E_ACUTE = """
    select name from categories where name = 'Café'; select 'é' as "é", length('é'); select 'é', nope;
    show client_encoding;
"""


@pytest.mark.parametrize(
    ("environment", "codec"),
    [
        ({"LANG": "C"}, "utf-8"),
        ({"PGCLIENTENCODING": "SQL_ASCII"}, "utf-8"),
        ({"PGCLIENTENCODING": "LATIN1"}, "latin-1"),
        ({"PGCLIENTENCODING": "WIN1252"}, "cp1252"),
        ({"PGCLIENTENCODING": "UTF8"}, "utf-8"),
    ],
)
def test_encodings(psql: Psql, environment: dict[str, str], codec: str) -> None:
    _, out, _ = psql.same(E_ACUTE.encode(codec), **environment)
    assert "Café".encode(codec) in out


def test_character_without_equivalent_is_the_servers_error(psql: Psql) -> None:
    _, _, err = psql.same("select chr(26085)", PGCLIENTENCODING="LATIN1")
    assert b"has no equivalent in encoding" in err


def test_encoding_changed_in_the_session(psql: Psql) -> None:
    script = b"\\encoding LATIN1\nselect '\xe9';\nset client_encoding to utf8;\nselect '\xc3\xa9';\n"
    script += b"reset client_encoding;\nselect '\xc3\xa9';\n"
    assert b"\xe9" in psql.same(script)[1]


@pytest.mark.parametrize(("encoding", "codec"), [("UTF8", "utf-8"), ("LATIN1", "latin-1"), ("SQL_ASCII", "utf-8")])
@pytest.mark.parametrize(
    "script", ["select 'é' \\; delete from orders;", "with é as (delete from orders returning 1) table é;"]
)
def test_caret_of_a_refusal_is_under_the_word(psql: Psql, script: str, encoding: str, codec: str) -> None:
    code, out, err = psql.run(psql.through, script.encode(codec), PGCLIENTENCODING=encoding)
    lines = err.splitlines()
    assert lines[0].startswith(b"ERROR:  cannot execute DELETE")
    line, caret = lines[1], lines[2]
    assert line.startswith(b"LINE 1: ")
    # Columns on the screen: psql counts the bytes of SQL_ASCII, and characters otherwise.
    columns = line.decode("latin-1" if encoding == "SQL_ASCII" else codec)
    assert columns[caret.index(b"^") :].startswith("delete from orders")
    assert (code, out) == (0, b"")


# --- cancel -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_cancels_the_statement_and_no_other(
    psql: Psql, superuser: psycopg.Connection[Any], sidecart: SideCart
) -> None:
    mine, theirs = "select pg_sleep(60) -- mine", "select pg_sleep(60) -- theirs"
    neighbour = psql.start(psql.through, "-c", theirs)
    process = psql.start(psql.through, "-c", mine)
    try:
        wait_until(lambda: running(superuser, mine) and running(superuser, theirs), 10, "both statements to run")
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        seconds = time.monotonic() - started
        assert (process.returncode, out) == (1, b"")
        assert err == b"Cancel request sent\nERROR:  canceling statement due to user request\n"
        assert seconds < 1
        assert running(superuser, mine) == 0
        assert running(superuser, theirs) == 1
        assert neighbour.poll() is None
    finally:
        for each in (process, neighbour):
            each.send_signal(signal.SIGINT)
            each.communicate(timeout=10)
    assert psql.same("select 'after'")[0] == 0


def test_ctrl_c_then_the_next_statement(psql: Psql, superuser: psycopg.Connection[Any]) -> None:
    text = "select pg_sleep(60), 'in a script';"
    finished = []
    for target in (psql.direct, psql.through):
        process = psql.start(target)
        assert process.stdin is not None
        process.stdin.write(f"begin;\n{text}\nselect 1;\nrollback;\nselect 'next';\n".encode())
        process.stdin.flush()
        wait_until(lambda: running(superuser, text), 10, "the statement to run")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        finished.append((process.returncode, out, err))
    assert finished[0] == finished[1]
    assert b"canceling statement due to user request" in finished[1][2]


def test_watch_until_ctrl_c(psql: Psql) -> None:
    # psql's exit code depends on whether the signal strikes while the statement runs: it is not compared.
    def two_rounds(target: str) -> list[bytes]:
        process = psql.start(target)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"select count(*) from orders \\watch 0.05\n")
        process.stdin.flush()
        lines: list[bytes] = []
        while lines.count(b"(1 row)\n") < 2:
            lines.append(process.stdout.readline())
            assert lines[-1]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        assert not err.replace(b"Cancel request sent\n", b"")  # there is one if it struck while the statement ran
        # The title is the time of day: the one thing that cannot be equal.
        return [line for line in lines if b"(every " not in line]

    assert two_rounds(psql.through) == two_rounds(psql.direct)


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_with_tls_and_without(psql: Psql, shop: Shop, upstream: Upstream, tmp_path: Path) -> None:
    pair = server_certificate(hosts=("localhost",), addresses=("127.0.0.1",))
    for name, content in (("ca.pem", pair.ca), ("cert.pem", pair.certificate), ("key.pem", pair.key)):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    files = {
        "SIDECART_LISTEN_TLS_CERT_FILE": tmp_path / "cert.pem",
        "SIDECART_LISTEN_TLS_KEY_FILE": tmp_path / "key.pem",
    }
    with SideCart(upstream, **files) as running_with_tls:
        target = f"host=127.0.0.1 port={running_with_tls.port} dbname={shop.dbname} user=analyst"
        ask = "select name from categories order by id;\n\\conninfo\n"
        expected = psql.run(psql.direct, "select name from categories order by id")[1]
        for mode in ("require", "prefer", "verify-full", "disable", "allow"):
            code, out, err = psql.run(f"{target} sslmode={mode} sslrootcert={tmp_path / 'ca.pem'}", ask)
            assert (code, err) == (0, b""), mode
            assert out.startswith(expected)
            assert (b"TLSv1.3" in out) == (mode in ("require", "prefer", "verify-full")), mode


def test_attack_plain_text_where_tls_is_required(psql: Psql, upstream: Upstream, tmp_path: Path) -> None:
    pair = server_certificate(hosts=("localhost",), addresses=("127.0.0.1",))
    for name, content in (("cert.pem", pair.certificate), ("key.pem", pair.key)):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    environment = {
        "SIDECART_LISTEN_TLS": "require",
        "SIDECART_LISTEN_TLS_CERT_FILE": tmp_path / "cert.pem",
        "SIDECART_LISTEN_TLS_KEY_FILE": tmp_path / "key.pem",
    }
    with SideCart(upstream, **environment) as strict:
        assert psql.run(f"{strict.dsn} sslmode=require", "select 1")[0] == 0
        code, out, err = psql.run(f"{strict.dsn} sslmode=disable", "select 1")
        assert (code, out) == (2, b"")
        assert b"FATAL" in err


def test_without_a_certificate_of_ours_it_makes_one(psql: Psql, sidecart: SideCart) -> None:
    for mode in ("prefer", "require", "disable"):
        assert psql.run(f"{sidecart.dsn} sslmode={mode}", "select 1")[0] == 0, mode


def test_tls_off(psql: Psql, upstream: Upstream) -> None:
    with SideCart(upstream, SIDECART_LISTEN_TLS="off") as plain:
        assert psql.run(f"{plain.dsn} sslmode=prefer", "select 1")[0] == 0
        code, _, err = psql.run(f"{plain.dsn} sslmode=require", "select 1")
        assert code == 2
        assert b"server does not support SSL" in err


def test_unknown_database_names_the_served_one(psql: Psql, sidecart: SideCart) -> None:
    code, _, err = psql.run(f"host=127.0.0.1 port={sidecart.port} user=analyst", "select 1")
    assert code == 2
    assert b'FATAL:  database "analyst" does not exist' in err
    assert b"dbname=shop" in err


def test_refusal_in_a_script_and_what_follows(psql: Psql) -> None:
    script = "begin;\nselect 1;\ndelete from orders;\nselect 2;\nrollback;\nselect 3;\n"
    script += "insert into orders default values;\nselect 4;\n"
    code, out, err = psql.run(psql.through, script, "-At")
    assert (code, out) == (0, b"BEGIN\n1\nROLLBACK\n3\n4\n")
    assert [line for line in err.splitlines() if line.startswith(b"ERROR")] == [
        b"ERROR:  cannot execute DELETE: SideCart forwards reads only",
        b"ERROR:  current transaction is aborted, commands ignored until end of transaction block",
        b"ERROR:  cannot execute INSERT: SideCart forwards reads only",
    ]

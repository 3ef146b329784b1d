"""`sidecart check` as a person, a program and a pipe run it."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer
from proxy.operating import catalogue
from proxy.operating.script import Kind, cut
from proxy.sql.policy import Policy

COMMAND = [sys.executable, "-m", "proxy", "check"]


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("DB_", "SIDECART_", "PG"))} | more


def check(*arguments: str | Path, given: str | bytes = b"", **variables: str) -> tuple[int, str, str]:
    """Run the command and return its exit code, standard output and standard error."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=given.encode() if isinstance(given, str) else given,
        capture_output=True,
        timeout=60,
        env=environment(**variables),
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def places(screen: str) -> list[str]:
    return [line.partition(":  ")[0] for line in screen.splitlines() if line.startswith("<stdin>:")]


# --- files ------------------------------------------------------------------------------------------------------------


def test_reads_say_nothing_and_end_with_0() -> None:
    assert check("-", given="SELECT 1; SHOW work_mem;\n-- nothing\n") == (0, "", "2 statements, 0 refused\n")


def test_refusal_looks_like_psql_with_its_place_before_it(tmp_path: Path) -> None:
    file = tmp_path / "report.sql"
    file.write_bytes("SELECT 1;\r\n\tSELECT 'é日本', nextval('s');\r\nDELETE FROM orders;\r\n".encode())
    code, out, err = check(file)
    assert (code, err) == (1, "3 statements, 2 refused\n")
    assert out == (
        f"{file}:2:16: ERROR:  permission denied for function nextval: SideCart forwards reads only\n"
        "LINE 2: \tSELECT 'é日本', nextval('s');\n"
        "        \t                ^\n"
        "DETAIL:  The function pg_catalog.nextval does more than read (rule: side-effect-function).\n"
        "SEE:  docs/rules/side-effect-function.md\n"
        f"{file}:3:1: ERROR:  cannot execute DELETE: SideCart forwards reads only\n"
        "LINE 3: DELETE FROM orders;\n"
        "        ^\n"
        'DETAIL:  The statement modifies table "orders" (rule: data-modification).\n'
        "HINT:  Run it on a connection that does not go through SideCart.\n"
        "SEE:  docs/rules/data-modification.md\n"
    )


def test_page_shows_what_is_printed(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text(encoding="utf-8")
    printed = page.partition("```console\n")[2].partition("```")[0]
    sql = printed.partition("LINE 12: ")[2].partition("\n")[0]
    (tmp_path / "reports.sql").write_text("\n" * 11 + sql + "\n")
    assert check(tmp_path / "reports.sql")[1] == f"{tmp_path}/{printed}"


def test_replacement_shows_what_is_sent() -> None:
    code, out, err = check("-", given="SELECT 1;\nBEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE;")
    assert (code, err) == (0, "2 statements, 0 refused, 1 replaced\n")
    assert out.startswith("<stdin>:2:1: WARNING:  SideCart forwards reads only: READ WRITE was replaced by READ ONLY\n")
    assert "SENT:  BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY\n" in out


def test_what_is_not_sql_is_named_and_not_judged() -> None:
    script = "\\d orders\nCOPY t FROM STDIN;\ndrop;\n\\.\nSELECT 1 \\gexec\nSELECT :'name';\n\\copy t from 'x'\n"
    code, out, err = check("-", given=script)
    assert places(out) == [
        "<stdin>:1:1: NOTICE",
        "<stdin>:2:8: ERROR",
        "<stdin>:3:1: NOTICE",
        "<stdin>:5:10: NOTICE",
        "<stdin>:6:8: ERROR",
        "<stdin>:7:1: NOTICE",
    ]
    assert "psql's \\d is not SQL, and was not checked\n" in out
    assert "HINT:  psql puts a variable's value in the place of :name" in out
    assert (code, err) == (1, "3 statements, 2 refused; 4 pieces are not SQL and not checked\n")


def test_wrong_statement_hides_no_other() -> None:
    code, out, _ = check("-", given="SELECT (1; DROP TABLE a;\nSELEC 1; SELECT 1x; DROP TABLE b; SELECT 'open; DROP")
    assert code == 1
    assert places(out) == [
        "<stdin>:1:10: ERROR",
        "<stdin>:1:12: ERROR",
        "<stdin>:2:1: ERROR",
        "<stdin>:2:17: ERROR",
        "<stdin>:2:21: ERROR",
        "<stdin>:2:42: ERROR",
    ]


def test_long_line_is_shown_around_the_caret() -> None:
    _, out, _ = check("-", given=f"SELECT {'日, ' * 200}nextval('s'){', 1' * 200}")
    message, line, caret, *_ = out.splitlines()
    assert message.startswith("<stdin>:1:608: ERROR")
    assert line.startswith("LINE 1: ...")
    assert line.endswith("...")
    assert len(line) < 120
    wide = sum(2 if char == "日" else 1 for char in line.partition("nextval")[0])
    assert caret == " " * wide + "^"


def test_file_cannot_command_the_terminal() -> None:
    _, out, _ = check("-", given="SELECT '\x1b[2J\u202e' FROM t FOR UPDATE; SELECT '\x1b]0;x\x07")
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "LINE 1: SELECT '\ufffd[2J\ufffd' FROM t FOR UPDATE;" in out


def test_character_that_the_terminal_has_not_becomes_a_question_mark() -> None:
    code, out, _ = check("-", given="SELECT '日' FROM t FOR UPDATE", PYTHONIOENCODING="ascii")
    assert code == 1
    assert "LINE 1: SELECT '?' FROM t FOR UPDATE\n" in out


def test_unreadable_files_end_with_2_and_hide_no_other(tmp_path: Path) -> None:
    latin = tmp_path / "latin1.sql"
    latin.write_bytes(b"SELECT 1;\nSELECT '\xe9';\n")
    bad = tmp_path / "bad.sql"
    bad.write_text("\ufeffVACUUM;", encoding="utf-8")
    code, out, err = check(tmp_path / "none.sql", latin, tmp_path, bad)
    assert code == 2
    assert out.startswith(f"{bad}:1:1: ERROR:  cannot execute VACUUM")
    assert err == (
        f"sidecart: {tmp_path}/none.sql cannot be read: No such file or directory.\n"
        f"sidecart: {latin}, line 2: this is not UTF-8 text.\n"
        f"sidecart: {tmp_path} cannot be read: Is a directory.\n"
        "1 statement, 1 refused\n"
    )


@pytest.mark.parametrize(
    "arguments", [[], ["--batch", "-"], ["--batch", "--json"], ["--server-version", "x", "-"], ["--nope"]]
)
def test_wrong_options_end_with_2(arguments: list[str]) -> None:
    code, out, err = check(*arguments)
    assert (code, out) == (2, "")
    assert "Error: " in err


@pytest.mark.parametrize("argument", ["-", "--batch"])
def test_closed_standard_input_ends_with_2(argument: str) -> None:
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be read: Bad file descriptor" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_holds_every_statement() -> None:
    code, out, err = check("--json", "-", given="SELECT 1;\n\\x\nBEGIN READ WRITE;\nSELECT 'é', nextval('s')")
    read, meta, replaced, refused = json.loads(out)
    assert (code, err) == (1, "3 statements, 1 refused, 1 replaced; 1 piece is not SQL and not checked\n")
    assert read == {
        "file": "<stdin>",
        "line": 1,
        "column": 1,
        "verdict": "allow",
        "rule": "",
        "sqlstate": "",
        "message": "",
        "detail": "",
        "hint": "",
        "position": 0,
        "sql": "SELECT 1",
    }
    assert (meta["verdict"], meta["line"], meta["sql"]) == ("not-sql", 2, None)
    assert (replaced["verdict"], replaced["sql"]) == ("replace", "BEGIN READ ONLY")
    assert (refused["verdict"], refused["rule"], refused["sql"]) == ("refuse", "side-effect-function", None)
    assert (refused["line"], refused["column"], refused["position"]) == (4, 13, 13)


SCRIPTS = [
    "select 1; selec 2;; select 3 -- a; b\n; select 4 /* /* ; */ ; */;",
    "select ';', 'it''s;', E'it\\'s;' as \"a;\"\";\"; select U&'\\0041;', $$;$$; select $a$ $$;$b$ $a$; select b$$;",
    "select E'a'\n'b\\'; select 15; select E'a' -- x\n'b\\'; select 16;",
    "select 'é;日本', $é$;$é$;\r\nselect 2;",
    "create rule r as on insert to t do (select 1; select 2); select (3);",
    "create or replace function f() returns int begin atomic select case when true then 2 end; end; begin; end;",
    "select 1 \\g \\\\ select 2;\nselect\n\\set x 'don''t;'\n3;\n\\pset title \\\\ select 4;\n\\! : ';'\nselect 5;",
    "copy t from stdin; -- in\n1\n\\.\nselect 6;\nCOPY t (a) FROM STDIN WITH CSV;\r\n2\r\n\\.\r\nselect 7;",
    "copy (select ' from stdin') to stdout;\nselect 8;\ncopy t from '/nowhere/from stdin';\nselect 9;",
    "select 10 \\gset\nselect 'select 11' \\gexec\nselect 12 \\gdesc\nselect 13 \\gx\nselect 14",
]
LOGGED = re.compile(r"^/?\*+ QUERY \*+/?\n(.*?)\n/?\*+/?$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS)
def test_psql_sends_the_statements_that_are_judged(
    script: str, postgres: EmbeddedServer, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """psql -L writes down each text that it sends: an oracle for where a script is cut."""
    file, log = tmp_path / "script.sql", tmp_path / "sent.log"
    file.write_text(f"create temp table t (a int);\n{script}\n", newline="")
    command = [str(tool("psql")), "-X", "-q", "-L", str(log), "-d", postgres.dsn(), "-f", str(file)]
    subprocess.run(command, capture_output=True, timeout=60)
    sent = [text for text in LOGGED.findall(log.read_bytes().decode()) if text != "select 11"]
    judged = [piece.text for piece in cut(file.read_bytes().decode()) if piece.kind is Kind.STATEMENT]
    assert [text.split() for text in judged] == [text.rstrip("; \r\n").split() for text in sent if text != ";"]
    assert len(judged) >= 3


# --- what counts as a read --------------------------------------------------------------------------------------------


def test_configuration_and_options_say_what_is_a_read(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("filter:\n  allow_functions: [public.slugify]\n  deny_functions: [pg_sleep]\n")
    script = "SELECT public.slugify('x'), other(1);\nSELECT pg_sleep(1);"
    code, out, _ = check("-c", config, "--allow-function", "other", "-", given=script)
    assert (code, places(out)) == (1, ["<stdin>:2:8: ERROR"])
    assert "(rule: denied-function)" in out
    code, out, _ = check(
        "-", given=script, SIDECART_CONFIG=str(config), SIDECART_FILTER_ALLOW_FUNCTIONS="other,public.*"
    )
    assert places(out) == ["<stdin>:2:8: ERROR"]
    config.write_text("filter:\n  allow_function: [x]\n")
    code, out, err = check("-c", config, "-")
    assert (code, out) == (2, "")
    assert err.startswith(f"sidecart: {config}, line 2: filter.allow_function: there is no such key")


def test_version_of_the_server_counts() -> None:
    script = "SELECT json_array(1, 2)"
    assert check("-", given=script)[0] == 0
    code, out, _ = check("--server-version", "15", "-", given=script)
    assert code == 1
    assert "(rule: keyword-function)" in out


def test_unknown_function_names_the_option_that_reads_the_catalogue() -> None:
    _, _, err = check("-", given="SELECT slugify('x')")
    assert err.startswith("1 statement, 1 refused; 1 refused as unknown, because no catalogue was read: --catalog DSN ")


def test_catalogue_is_read_and_proved(postgres: EmbeddedServer, shop: sample.Shop) -> None:
    dsn = postgres.dsn(shop.dbname, shop.reader, shop.reader_password)
    script = "SELECT count(*) FROM orders;\nSELECT cancel_order(1);\nSELECT 1 FROM nothing_there;"
    code, out, err = check("--catalog", dsn, "-", given=script)
    assert (code, places(out)) == (1, ["<stdin>:2:8: ERROR", "<stdin>:3:15: ERROR"])
    assert "(rule: unproved-function)" in out
    assert "(rule: unknown-relation)" in out
    assert err == "3 statements, 2 refused\n"


def test_catalogue_out_of_reach_ends_with_2() -> None:
    code, out, err = check("--catalog", "host=127.0.0.1 port=1 dbname=x user=y sslmode=disable", "-", given="SELECT 1")
    assert (code, out) == (2, "")
    assert err.startswith("sidecart: The catalogue of x on 127.0.0.1 port 1 could not be read: ")


def test_catalogue_is_proved_elsewhere_so_what_cannot_be_judged_ends_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogue, "_read", lambda _: [])
    with pytest.raises(catalogue.CatalogueError, match=r"^The catalogue of x on here port 5432 could not be judged: "):
        catalogue.prove("host=here dbname=x user=y", Policy())


# --- a stream of statements -------------------------------------------------------------------------------------------


def batch(given: str | bytes) -> tuple[int, list[dict[str, Any]], str]:
    code, out, err = check("--batch", given=given)
    assert out == "" or out.endswith("\n")
    return code, [json.loads(line) for line in out.splitlines()], err


def line(sql: str) -> str:
    return json.dumps({"sql": sql}) + "\n"


def test_batch_answers_every_line_in_order() -> None:
    given = (
        line("SELECT 'é'")
        + line("BEGIN READ WRITE")
        + line("SELECT 'é', nextval('s')")
        + line("SELECT * FROM pg_authid")
    )
    code, (read, replaced, refused, secret), err = batch(given.rstrip("\n"))
    assert (code, err) == (1, "4 statements, 1 refused, 1 replaced\n")
    nothing = {"rule": "", "sqlstate": "", "message": "", "detail": "", "hint": "", "position": 0}
    assert read == {"verdict": "allow", **nothing, "sql": "SELECT 'é'"}
    assert (replaced["verdict"], replaced["rule"], replaced["sql"]) == ("replace", "read-write", "BEGIN READ ONLY")
    assert refused == {
        "verdict": "refuse",
        "rule": "side-effect-function",
        "sqlstate": "42501",
        "message": "permission denied for function nextval: SideCart forwards reads only",
        "detail": "The function pg_catalog.nextval does more than read (rule: side-effect-function).",
        "hint": "",
        "position": 13,
        "sql": None,
    }
    assert (secret["verdict"], secret["rule"]) == ("allow", "secret-catalogue")


def test_batch_without_a_line_ends_with_0() -> None:
    assert batch("") == (0, [], "0 statements, 0 refused\n")


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"SELECT 1",
        b"[]",
        b"{}",
        b'{"sql": 1}',
        b'{"sql": null}',
        b'{"sql": "SELECT 1"',
        b'{"sql": "SELECT 1"} x',
        b'{"sql": "\xff"}',
        b'{"sql": "\\ud800"}',
        b'{"x": ' + b"[" * 100_000,
        b"\0",
    ],
)
def test_batch_refuses_a_line_that_is_no_object_and_goes_on(wrong: bytes) -> None:
    code, answers, _ = batch(wrong + b"\n" + line("SELECT 1").encode())
    assert code == 1
    assert [(answer["verdict"], answer["rule"], answer["sql"]) for answer in answers] == [
        ("refuse", "input", None),
        ("allow", "", "SELECT 1"),
    ]
    assert answers[0]["message"] == 'the line is not a JSON object such as {"sql": "SELECT 1"}'
    assert answers[0]["sqlstate"] == "22023"


def test_batch_takes_text_that_no_file_could_hold() -> None:
    given = (
        line("SELECT 1\0; DROP TABLE t")
        + line("SELECT 1; SELECT 2")
        + line("")
        + line("SELECT " + "1," * 600_000 + "1")
    )
    _, answers, _ = batch(given)
    assert [answer["rule"] for answer in answers] == ["nul-byte", "", "", "length"]


def test_batch_answers_a_line_while_the_next_one_is_awaited() -> None:
    with subprocess.Popen(
        [*COMMAND, "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def answers(count: int) -> list[dict[str, Any]]:
            text = b""
            while text.count(b"\n") < count:
                assert select.select([process.stdout], [], [], 20)[0], "no answer"
                text += os.read(process.stdout.fileno(), 65536)
            return [json.loads(one) for one in text.splitlines()]

        for number in range(3):
            process.stdin.write(line(f"SELECT {number}").encode())
            assert [answer["sql"] for answer in answers(1)] == [f"SELECT {number}"]
        whole = line("SELECT 'a'").encode() + line("DROP TABLE t").encode()
        process.stdin.write(whole[:10])
        process.stdin.write(whole[10:-1])
        assert [answer["verdict"] for answer in answers(1)] == ["allow"]
        process.stdin.write(whole[-1:])
        assert [answer["verdict"] for answer in answers(1)] == ["refuse"]
        process.stdin.close()
        assert process.wait(20) == 1


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let programs that are started here hear SIGINT: a shell makes its background jobs, and theirs, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_batch_ends_with_130_on_ctrl_c() -> None:
    with subprocess.Popen([*COMMAND, "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line("SELECT 1").encode())
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_batch_ends_quietly_when_nobody_reads_its_answers() -> None:
    with subprocess.Popen(
        [*COMMAND, "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(line("SELECT 1").encode())
        process.stdin.close()
        assert process.wait(20) != 0
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.deep
@pytest.mark.parametrize(
    "form",
    [
        "SELECT abalance FROM pgbench_accounts WHERE aid = {0};",
        "SELECT a{0}, count(*) FROM t{0} WHERE b = {0} GROUP BY 1",
    ],
    ids=["constants differ", "texts differ"],
)
def test_batch_judges_ten_thousand_statements_a_second(form: str) -> None:
    """A second of one core's: what else the machine does must not count."""
    given = "".join(line(form.format(number)) for number in range(40_000))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, answers, _ = batch(given)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 0
    assert len(answers) == 40_000
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4.0

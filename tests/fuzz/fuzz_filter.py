"""Throw mutated texts at `Filter.judge` and hold it to its contract: `make fuzz SECONDS=3600`.

Text number n of a seed is always the same text. So a finding is two numbers, and when the process that judges has died
or hangs, the last number that it wrote down names the text: `python -m tests.fuzz.fuzz_filter --seed S --only N`.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import click
from pglast.parser import ParseError, parse_sql_json

from proxy.filter import Filter
from proxy.sql import tables
from proxy.sql.cache import VerdictCache
from proxy.sql.verdict import Action, Verdict
from tests.splice import Anything

DATA = Path(__file__).parents[1] / "data"
SLOW = 2.0  # seconds of CPU time for one text; `max_query_length` bounds what an honest one can cost
HANGS = 60.0  # seconds in which not one text was judged
ENOUGH = 20  # findings: then it ends
FIRST_SEED = 1

# -- the texts ---------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|\$\w*\$|\s+|\w+|.", re.DOTALL)

PAYLOADS = (
    *("lo_create(0)", "pg_notify('a','b')", "(0::oid).lo_create", "x.lo_creat", '"lo_create"(0)', "nextval('s')"),
    *('U&"l\\006F_create"(0)', "pg_catalog.pg_terminate_backend(1)", "set_config('role','x',false)"),
    *("lo_open(1,131072)", "(select lo_creat(0))", "array[lo_create(0)]"),
    "(with d as (delete from t returning 1) select 1 from d)",
    *("query_to_xml('select lo_create(0)',true,true,'')", "(select 1 into x)", "(select 1 for update)"),
    *("dblink('a','b')", "set_config('work_mem','1MB',false)", "set_config('app.a','1',true)", "lo_open(1,262144)"),
    *("query_to_xml('select 1',true,true,'')", "now()", "(select count(*) from t)", "$1", "null", "-1", "1e9"),
    *("'x'", "E'\\\\'", "U&'\\0041'", "b'1'", "0x1F", "1_000"),
)  # fmt: skip
STATEMENTS = (
    *("delete from t", "create table x(a int)", "select 1 into x", "set role x", "reset transaction_read_only"),
    *("begin read write", "notify x", "copy t from stdin", "select 1", "commit", "set transaction read write"),
    *("do 'x'", " ", "-- x", "/* x */", "set session characteristics as transaction read write"),
    "explain analyze create table x as select 1",
)  # fmt: skip
FRAGMENTS = (
    *("'", '"', "$$", "$a$", "$", "\\", "/*", "*/", "--", "--\n", "\n", ";", "(", ")", "[", "]", "{", ",", "."),
    *("::", ":=", "=>", "E'", "U&'", 'U&"', "N'", "B'", "X'", "'\n'", "' '", "\x00", "\x01", "\x0b", "\ufeff"),
    *("\xa0", "\u2028", "é", "日本", "\U0001f600", "\u017f", "\u212a", "\uff53\uff45\uff4c", "\u0130"),
    *("UESCAPE '!'", "OPERATOR(pg_catalog.+)", "OPERATOR(x.+)", "COLLATE", "+-", "@", "?", "|", "/", "*"),
    *(" union all ", " into x ", " for update ", " from ", " where ", " as ", " over ()"),
    *(" filter (where true) ", " variadic ", " limit "),
)  # fmt: skip
RAW = (
    *(b"\x00", b"\xff", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x95\x5c"),
    *(b"\x8f\xa2\xb7", b"'", b"\\"),
)
SHAPES: tuple[Callable[[str, int], str], ...] = (
    lambda text, n: "(" * n + text + ")" * n,
    lambda text, n: "select (" * n + text + ")" * n,
    lambda text, n: text + " union all select 1" * n,
    lambda text, n: f"select * from (select {'1+' * n}1 as a) b, ({text}) c",
    lambda text, n: "explain " * n + text,
    lambda text, n: "select " + "not " * n + f"exists ({text})",
    lambda text, n: "select " + "array[" * n + f"({text})" + "]" * n,
    lambda text, n: "select " + "case when true then " * n + f"({text})" + " end" * n,
    lambda text, n: f"with a as ({text}) " * n + text,
    lambda text, n: f"copy ({text}) to stdout",
    lambda text, n: f"declare c cursor for {text}",
    lambda text, n: f"prepare p as {text}",
    lambda text, n: "select query_to_xml('" + text.replace("'", "''") + "', true, true, '')",
    lambda text, n: ";" * n + text,
    lambda text, n: "/*" * n + "*/" * n + text,
)
CODECS = sorted(set(tables.ENCODINGS.values()))


@cache
def _sources() -> tuple[list[list[str]], dict[str, list[str]]]:
    """Return the known texts as tokens, and all tokens by their kind."""
    cases = map(json.loads, (DATA / "corpus.jsonl").read_text("utf-8").splitlines())
    texts = [case["sql"] for case in cases if len(case.get("sql", " " * 9999)) < 4000]
    for name in ("attacks.sql", "harmless.sql", "reads.sql"):
        texts += (DATA / name).read_text("utf-8").splitlines()
    tokens = [_TOKEN.findall(text) for text in texts]
    kinds: dict[str, list[str]] = {}
    for token in sorted({token for text in tokens for token in text}):
        kinds.setdefault(_kind(token), []).append(token)
    return tokens, kinds


def _kind(token: str) -> str:
    first = token[0]
    return "1" if first.isdigit() else "a" if first.isalpha() or first in '_"' else first if first in "'$" else "+"


def text_number(seed: int, number: int) -> tuple[bytes, str]:
    """Write the text with this number, and the codec that it is judged by."""
    chance = Random(seed << 40 | number)
    texts, kinds = _sources()
    tokens = list(chance.choice(texts))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        _change_tokens(chance, tokens, texts, kinds)
    text = "".join(tokens)
    if chance.random() < 0.15:
        most = chance.choice((3, 3, 3, 30, 300, 3000))
        text = chance.choice(SHAPES)(text.rstrip("; \n"), chance.randint(1, most))
    encoding = "utf-8" if chance.random() < 0.85 else chance.choice(CODECS)
    data = text.encode(encoding, "replace")
    if chance.random() < 0.15:
        for _ in range(chance.choice((1, 1, 2, 8))):
            data = _change_bytes(chance, data)
    return data, encoding


def _change_tokens(chance: Random, tokens: list[str], texts: list[list[str]], kinds: dict[str, list[str]]) -> None:
    at = chance.randrange(len(tokens)) if tokens else 0
    match chance.choice("eeeepppfsdxyzcj") if tokens else "j":
        case "e":  # another token of the same kind: the likeliest to parse
            constants = [n for n, token in enumerate(tokens) if token[0].isdigit() or token[0] == "'"]
            at = chance.choice(constants) if constants and chance.random() < 0.4 else at
            tokens[at] = chance.choice(kinds[_kind(tokens[at])]) if not tokens[at].isspace() else " "
        case "p":  # an expression in the place of a constant or a name
            places = [n for n, token in enumerate(tokens) if _kind(token) in "1a'"]
            tokens[chance.choice(places) if places else at] = f" {chance.choice(PAYLOADS)} "
        case "f":
            tokens.insert(at, chance.choice(FRAGMENTS))
        case "s":
            tokens[at:at] = ["; ", chance.choice(STATEMENTS), "; "]
        case "d":
            del tokens[at : at + chance.choice((1, 1, 2, 5))]
        case "x":
            other = chance.randrange(len(tokens))
            tokens[at], tokens[other] = tokens[other], tokens[at]
        case "y":
            tokens[at:at] = tokens[at : at + chance.randint(1, 9)] * chance.choice((1, 1, 2, 50))
        case "z":
            other_text = chance.choice(texts)
            start = chance.randrange(len(other_text)) if other_text else 0
            tokens[at:at] = other_text[start : start + chance.randint(1, 9)]
        case "c":
            tokens[at] = tokens[at].swapcase() if chance.random() < 0.5 else f'"{tokens[at]}"'
        case "j":
            tokens += ["; ", *chance.choice(texts)]


def _change_bytes(chance: Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    match chance.randrange(4):
        case 0:
            return data[:at] + chance.choice(RAW) + data[at:]
        case 1:
            return data[:at] + data[at + 1 :]
        case 2:
            return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        case _:
            return data[:at]


# -- the contract ------------------------------------------------------------------------------------------------------

READS = tables.KINDS.keys() | {"TransactionStmt"}
"""Statements that may stand anywhere in the tree of an allowed text, under the default policy."""
REFUSED_CALLS = frozenset(name for name, function in tables.FUNCTIONS.items() if function.verdict == "block")
REFUSED_ATTRIBUTES = frozenset(name for name in REFUSED_CALLS if tables.FUNCTIONS[name].one_argument)
REFUSED_FIELDS = frozenset({"intoClause", "lockingClause", "is_from", "is_program", "filename"})
REFUSED_SETTINGS = frozenset({"session_authorization", "session_replication_role", "session_preload_libraries"})


def _nodes(tree: Any) -> Iterator[tuple[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield from node.items()
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def seen_in(tree: Any) -> str:
    """Name something in a decoded parse tree that no read has; empty when there is nothing.

    It shares the function table with the filter and nothing else: it descends into everything that the JSON holds.
    """
    # Columns that FROM names itself, as in `t AS x (a, b)`: they are there, or the server refuses the statement.
    own = {
        column["String"]["sval"]
        for _, value in _nodes(tree)
        if isinstance(value, dict)
        for column in value.get("colnames", ())
        if "String" in column
    }
    for name, value in _nodes(tree):
        if name.endswith("Stmt") and name not in READS:
            return name
        if name in REFUSED_FIELDS:
            return name
        if name == "FuncCall":
            called = [part["String"]["sval"] for part in value["funcname"]]
            if called[-1] in REFUSED_CALLS and called[:-1] in ([], ["pg_catalog"]):
                return ".".join(called)
        elif name in ("ColumnRef", "A_Indirection"):
            parts = (
                value["fields"][-1:]
                if name == "ColumnRef" and len(value["fields"]) > 1
                else value.get("indirection", [])
            )
            for part in parts:
                if part.get("String", {}).get("sval") in REFUSED_ATTRIBUTES - own:
                    return f"attribute {part['String']['sval']}"
        elif name == "VariableSetStmt" and value.get("name", "").lower() in REFUSED_SETTINGS and "args" in value:
            return f"SET {value['name']}"
    return ""


class Contract:
    """Judge texts by filters that remember and that do not, with a catalogue and without; say what is wrong."""

    def __init__(self) -> None:
        self.warm = Filter(cache=VerdictCache(16 << 20))
        self._cold = Filter(cache=VerdictCache(0))
        self._live = Filter(cache=VerdictCache(0))
        self._live.learn_catalog(Anything())

    def broken(self, text: bytes, encoding: str) -> tuple[Verdict, str]:
        """Judge a text; return the verdict, and the first term of the contract that it breaks, or nothing."""
        started = time.process_time()
        try:
            verdict = self._cold.judge(text, encoding)
            spent = time.process_time() - started
            parsed = self._cold.judge(text, encoding, extended=True)
            live = self._live.judge(text, encoding)
            remembered = [self.warm.judge(text, encoding) for _ in range(2)]  # the second one comes from the cache
        except Exception as error:
            return Verdict(Action.REFUSE, "unparsable"), f"raises {error!r}"
        if "internal" in (verdict.rule, parsed.rule, live.rule):
            return verdict, "internal"
        if spent > SLOW:
            return verdict, f"slow: {spent:.1f} s"
        if remembered != [verdict, verdict]:
            return verdict, f"another verdict from the filter that remembers: {remembered}"
        several = parsed.rule == "several-statements" and verdict.kind in ("multi", "unparsable")
        # What set_config is given may be judged later, at a Bind: then something else is what is wrong, or nothing.
        later = parsed.at_bind or verdict.rule.startswith(("setting", "encoding", "reset-read-only"))
        if parsed != verdict and not several and not later:
            return verdict, f"another verdict for Parse: {parsed}"
        wrong = breach(self._cold, text, encoding, verdict)
        if not wrong and live.action is not verdict.action:
            wrong = breach(self._live, text, encoding, live)
        return verdict, wrong


def breach(filter_: Filter, text: bytes, encoding: str, verdict: Verdict) -> str:
    """Say what is wrong with one verdict of a filter."""
    if verdict.action is Action.REFUSE:
        if not (verdict.rule in tables.RULES and verdict.message and len(verdict.sqlstate) == 5):
            return f"an incomplete refusal: {verdict}"
        return "" if 0 <= verdict.position <= len(text) + 1 else f"position {verdict.position}"
    if verdict.action is Action.REPLACE:
        again = filter_.judge(verdict.text or b"\0", encoding)
        return "" if again.action is Action.ALLOW else f"the replacement is not allowed: {again}"
    try:
        tree = tree_of(decoded(text, encoding))
    except (ParseError, UnicodeError) as error:
        return f"allowed, and not to be parsed: {error}"
    except RecursionError:
        return ""  # the deep ones are counted as allowed and not looked through: json recurses
    found = seen_in(tree)
    return f"allowed with {found}" if found else ""


def tree_of(text: str) -> Any:
    return json.loads(parse_sql_json(text))


def decoded(text: bytes, encoding: str) -> str:
    """Decode strictly; as Latin-1 where the codec makes ASCII characters of other bytes, as `proxy.sql.text` does."""
    plain = text.decode(encoding)
    high = bytes(range(128, 256))
    return plain if plain.encode("ascii", "ignore") == text.translate(None, high) else text.decode("latin-1")


# -- the run -----------------------------------------------------------------------------------------------------------

NUMBER, ALLOWED, REPLACED, SYNTAX, OTHERWISE, SHAPES_HIT, FOUND = range(7)


_CONTEXT = multiprocessing.get_context("spawn")
Counts = Any
"""An array of seven numbers in memory that both processes share: what the child wrote outlives it."""


def _child(seed: int, counts: Counts, deadline: float) -> None:
    contract = Contract()
    supervisor = multiprocessing.parent_process()
    while time.monotonic() < deadline and counts[FOUND] < ENOUGH:
        number = counts[NUMBER]
        if number % 1000 == 0 and not (supervisor and supervisor.is_alive()):
            return  # it was killed, and could not take this process along
        text, encoding = text_number(seed, number)
        verdict, wrong = contract.broken(text, encoding)
        if wrong:
            counts[FOUND] += 1
            _report(seed, number, wrong)
        allowed, replaced = verdict.action is Action.ALLOW, verdict.action is Action.REPLACE
        counts[ALLOWED if allowed else REPLACED if replaced else SYNTAX if verdict.rule == "syntax" else OTHERWISE] += 1
        counts[SHAPES_HIT] = contract.warm.counts.shape_hits
        counts[NUMBER] = number + 1


def _report(seed: int, number: int, wrong: str) -> None:
    text, encoding = text_number(seed, number)
    shown = text if len(text) <= 2000 else text[:1000] + b" ... " + text[-1000:]
    click.echo(f"FOUND --seed {seed} --only {number}: {wrong}\n  {encoding}, {len(text)} bytes: {shown!r}")
    sys.stdout.flush()


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long to go on.")
@click.option("--seed", default=FIRST_SEED, show_default=True, help="Another seed gives other texts.")
@click.option("--only", type=int, help="Judge the one text with this number, in this process.")
def main(seconds: float, seed: int, only: int | None) -> None:
    """Judge mutated texts; exit with 1 if one of them broke the contract, crashed the process or hung it."""
    if only is not None:
        text, encoding = text_number(seed, only)
        click.echo(f"{encoding}: {text!r}")
        verdict, wrong = Contract().broken(text, encoding)
        click.echo(f"{verdict}\n{wrong or 'nothing wrong'}")
        sys.exit(bool(wrong))
    counts: Counts = _CONTEXT.RawArray("Q", 7)
    started = time.monotonic()
    while time.monotonic() < started + seconds and counts[FOUND] < ENOUGH:
        signal = _watch(seed, counts, started, started + seconds)
        if signal:
            counts[FOUND] += 1
            _report(seed, counts[NUMBER], f"the process was ended by signal {signal}")
            counts[NUMBER] += 1
    _summary(seed, counts, started)
    sys.exit(bool(counts[FOUND]))


def _watch(seed: int, counts: Counts, started: float, deadline: float) -> int:
    """Judge in another process until it ends; return the signal that ended it, or 0. One that hangs is killed."""
    process = _CONTEXT.Process(target=_child, args=(seed, counts, deadline), daemon=True)
    process.start()
    last, since, told = -1, time.monotonic(), time.monotonic()
    while process.is_alive():
        process.join(1)
        now = time.monotonic()
        if counts[NUMBER] != last:
            last, since = counts[NUMBER], now
        elif now - since > HANGS:
            process.kill()
        if now - told > 60:
            told = now
            _summary(seed, counts, started)
    if process.exitcode and process.exitcode > 0:
        raise click.ClickException("The fuzzer itself failed; its traceback is above.")
    return -(process.exitcode or 0)


def _summary(seed: int, counts: Counts, started: float) -> None:
    click.echo(
        f"seed {seed}, {time.monotonic() - started:.0f} s: {counts[NUMBER]} texts, {counts[ALLOWED]} allowed,"
        f" {counts[REPLACED]} replaced, {counts[SYNTAX]} syntax errors, {counts[OTHERWISE]} refused otherwise,"
        f" {counts[SHAPES_HIT]} by normal form; {counts[FOUND]} findings"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()

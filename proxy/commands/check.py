"""`sidecart check`: judge SQL files as a linter does, or a stream of statements, without a server."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from proxy import errors
from proxy.filter import Filter
from proxy.operating import offline, terminal
from proxy.operating.script import Kind, Lines, Piece, cut
from proxy.operating.usage import Unusable
from proxy.sql.verdict import Action, Verdict

REFUSED = 1
"""Exit code when something was refused."""
INTERRUPTED = 130
WIDTH = 100
"""Columns of a source line that are shown; of a longer one, what stands around the caret."""
_BLOCK = 1 << 16  # bytes: what a pipe holds on Linux
_MESSAGE = 200  # characters: the message about an open quote holds the rest of the file


class Answer(msgspec.Struct, frozen=True):
    """What --batch writes for a line. `sql` is the text that would be forwarded: null for a refusal."""

    verdict: str
    rule: str
    sqlstate: str
    message: str
    detail: str
    hint: str
    position: int
    sql: str | None


class Finding(msgspec.Struct, frozen=True):
    """What --json writes for a statement, and for what is not SQL: an `Answer` and its place in the file."""

    file: str
    line: int
    column: int
    verdict: str
    rule: str = ""
    sqlstate: str = ""
    message: str = ""
    detail: str = ""
    hint: str = ""
    position: int = 0
    sql: str | None = None


class _Line(msgspec.Struct):
    sql: str


@dataclass(slots=True)
class Summary:
    """Count what was judged."""

    statements: int = 0
    refused: int = 0
    replaced: int = 0
    skipped: int = 0
    """Pieces of a script that are not SQL."""
    unknown: int = 0
    """Refusals that a catalogue could turn into reads."""
    catalogue: bool = field(default=False, kw_only=True)

    def count(self, answer: Answer) -> None:
        self.statements += 1
        self.refused += answer.verdict == "refuse"
        self.replaced += answer.verdict == "replace"
        self.unknown += answer.rule in _LIVE

    @property
    def exit_code(self) -> int:
        return REFUSED if self.refused else 0

    def __str__(self) -> str:
        text = f"{self.statements} statement{'' if self.statements == 1 else 's'}, {self.refused} refused"
        if self.replaced:
            text += f", {self.replaced} replaced"
        if self.skipped:
            text += f"; {self.skipped} {'piece is' if self.skipped == 1 else 'pieces are'} not SQL and not checked"
        if self.unknown and not self.catalogue:
            text += (
                f"; {self.unknown} refused as unknown, because no catalogue was read: --catalog DSN reads what the"
                " database has beside the built-ins"
            )
        return text


_LIVE = frozenset({"unknown-function", "unknown-operator"})
"""Rules by which a name is refused that only the catalogue knows."""


@click.command(
    epilog="Exit code: 0 when nothing is refused, 1 when something is, 2 for wrong options and for files that cannot be"
    " read."
)
@click.argument("files", nargs=-1, metavar="[FILE ...|-]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, with an object for every statement.")
@click.option(
    "--batch",
    is_flag=True,
    help='Read JSON Lines {"sql": "..."} from standard input, and answer each with one line, in order.',
)
@offline.options
def command(
    files: tuple[str, ...],
    as_json: bool,
    batch: bool,
    config_file: Path | None,
    allowed: tuple[str, ...],
    server_version: int | None,
    dsn: str | None,
) -> None:
    """Judge SQL files offline, as SideCart would. - is standard input."""
    if batch and (files or as_json):
        raise click.UsageError("--batch reads standard input and writes JSON Lines: leave out FILE and --json.")
    if not batch and not files:
        raise click.UsageError("Name a file, - for standard input, or --batch.")
    try:
        judge = Filter(offline.policy(config_file, allowed, server_version, os.environ))
        if dsn is not None:
            offline.learn(judge, dsn)
        summary = Summary(catalogue=dsn is not None)
        code = 0
        if batch:
            answer_lines(judge, offline.STDIN, sys.stdout.buffer, summary)
        else:
            code = check(judge, files, summary, as_json=as_json)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    click.echo(summary, err=True)
    sys.exit(code or summary.exit_code)


# --- files ------------------------------------------------------------------------------------------------------------


def check(judge: Filter, files: tuple[str, ...], summary: Summary, *, as_json: bool) -> int:
    """Print what is to be said of the files; return 2 if one of them cannot be read, otherwise 0."""
    code = 0
    findings: list[Finding] = []
    for file in files:
        try:
            text = offline.text(file)
        except Unusable as error:
            error.show()
            code = error.exit_code
            continue
        lines = Lines(text)
        for finding in judge_script(judge, "<stdin>" if file == "-" else file, text, lines, summary):
            if as_json:
                findings.append(finding)
            elif finding.message:
                offline.echo(screen(finding, lines))
    if as_json:
        array = msgspec.json.encode(findings)
        click.echo(msgspec.json.format(array, indent=2))
    return code


def judge_script(judge: Filter, file: str, text: str, lines: Lines, summary: Summary) -> Iterator[Finding]:
    """Judge the statements of a script, one by one and in order."""
    for piece in cut(text):
        if piece.kind is not Kind.STATEMENT:
            summary.skipped += 1
            line, column = lines.place(piece.start)
            yield Finding(file, line, column, "not-sql", message=_skipped(piece))
            continue
        answer = answer_for(piece.text, judge.judge(piece.text.encode()))
        if answer.rule == "syntax" and _VARIABLE.match(piece.text, answer.position - 1):
            answer = msgspec.structs.replace(answer, hint=_VARIABLE_HINT)
        summary.count(answer)
        line, column = lines.place(piece.start + max(answer.position - 1, 0))
        yield Finding(file, line, column, *(getattr(answer, name) for name in answer.__struct_fields__))


def _skipped(piece: Piece) -> str:
    if piece.kind is Kind.DATA:
        return "data of COPY: not SQL, not checked"
    name = piece.text.split()[0]
    return f"psql's {name} is not SQL, and was not checked{_MORE.get(name, '')}"


_MORE = {
    "\\copy": "; it sends COPY to the server",
    "\\gexec": "; it executes what the query returns",
    "\\i": "; check that file by itself",
    "\\ir": "; check that file by itself",
}
_VARIABLE = re.compile(r""":['"{?]?\w""")
_VARIABLE_HINT = (
    "psql puts a variable's value in the place of :name before it sends the statement: check it with a value there."
)


def screen(finding: Finding, lines: Lines) -> str:
    """Return what a person reads of one finding: as psql shows an error, with the place in the file before it."""
    severity = _SEVERITIES[finding.verdict]
    message = _visible(finding.message.partition("\n")[0])
    if len(message) > _MESSAGE:
        message = f"{message[:_MESSAGE]} ..."
    rows = [f"{_visible(finding.file)}:{finding.line}:{finding.column}: {severity}:  {message}"]
    if finding.verdict == "not-sql":
        return rows[0]
    rows += excerpt(lines.line(finding.line), finding.line, finding.column)
    if finding.detail:
        rows.append(f"DETAIL:  {_visible(finding.detail)}")
    if finding.hint:
        rows.append(f"HINT:  {_visible(finding.hint)}")
    if finding.verdict == "replace" and finding.sql is not None:
        rows.append(f"SENT:  {_visible(finding.sql)}")
    rows.append(f"SEE:  {offline.page(finding.rule)}")
    return "\n".join(rows)


_SEVERITIES = {"refuse": "ERROR", "replace": "WARNING", "allow": "WARNING", "not-sql": "NOTICE"}


def excerpt(source: str, line: int, column: int) -> list[str]:
    """Return a source line and, below it, a caret under the column; a long line is cut on both sides."""
    at = column - 1
    start = max(min(at - WIDTH // 2, len(source) - WIDTH), 0)
    end = start + WIDTH
    shown = _visible(source[start:end])
    head = f"LINE {line}: " + ("..." if start else "")
    return [
        head + shown + ("..." if end < len(source) else ""),
        " " * len(head) + "".join(map(_blank, shown[: at - start])) + "^",
    ]


def _visible(text: str) -> str:
    return terminal.visible(text, "\t")


def _blank(char: str) -> str:
    """Return blanks as wide as this character is on a terminal."""
    if char == "\t":
        return char
    return " " * terminal.width(char)


# --- a stream of statements -------------------------------------------------------------------------------------------


def answer_for(sql: str, verdict: Verdict) -> Answer:
    """Put a verdict into the words of --batch."""
    forwarded: str | None = sql
    message = verdict.message
    if verdict.action is Action.REFUSE:
        forwarded = None
    elif verdict.text is not None:
        forwarded = verdict.text.decode()
        message = verdict.warning
    elif verdict.rule:  # allowed, and worth knowing
        return Answer("allow", verdict.rule, "", verdict.detail, "", verdict.hint, 0, sql)
    return Answer(
        verdict.action.value,
        verdict.rule,
        verdict.sqlstate,
        message,
        verdict.detail,
        verdict.hint,
        verdict.position,
        forwarded,
    )


def answer_lines(judge: Filter, source: int, target: BinaryIO, summary: Summary) -> None:
    """Answer each line of the file descriptor `source`, in order, until its end.

    All complete lines that have arrived are judged together, and their answers are flushed before the next read: who
    sends one line and waits gets its answer, and who sends many pays for few system calls.
    """
    answer = _answerer(judge, summary)
    unfinished: list[bytes] = []
    while block := _arrived(source):
        complete, newline, rest = block.rpartition(b"\n")
        if not newline:
            unfinished.append(rest)
            continue
        text = b"".join((*unfinished, complete))
        unfinished = [rest]
        target.write(b"".join([answer(line) for line in text.split(b"\n")]))
        target.flush()
    if last := b"".join(unfinished):
        target.write(answer(last))
        target.flush()


def _arrived(source: int) -> bytes:
    """Wait until there is something to read, and return that; nothing at the end."""
    try:
        return os.read(source, _BLOCK)
    except OSError as error:
        raise Unusable(f"Standard input cannot be read: {error.strerror}.") from error


def _answerer(judge: Filter, summary: Summary) -> Callable[[bytes], bytes]:
    decode = msgspec.json.Decoder(_Line).decode
    encode = msgspec.json.Encoder().encode

    def answer(line: bytes) -> bytes:
        try:
            sql = decode(line).sql
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            given = Answer(
                "refuse",
                "input",
                errors.INVALID_PARAMETER_VALUE,
                'the line is not a JSON object such as {"sql": "SELECT 1"}',
                f"{error} (rule: input).",
                "",
                0,
                None,
            )
        else:
            given = answer_for(sql, judge.judge(sql.encode()))
        summary.count(given)
        return encode(given) + b"\n"

    return answer

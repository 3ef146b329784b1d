"""Make the verdict on one text, by a judgement that knows on what terms it runs. Nothing is remembered here, or raised.

The text is decoded, parsed by PostgreSQL's own grammar (`parse_sql_json`; never `parse_sql`, which ends the process on
long chains of operators), and walked completely against the tables. Whatever the tables and the live catalogue do not
know is refused. `kinds.py` holds what is asked of each statement.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from proxy import errors
from proxy.sql import kinds, tables
from proxy.sql import text as texts
from proxy.sql.judgement import Judgement
from proxy.sql.picked import ByNames
from proxy.sql.policy import Policy
from proxy.sql.tables import Refusal, Refused
from proxy.sql.verdict import Action, Verdict


def make(judgement: Judgement, sql: bytes, encoding: str, *, extended: bool, bare: bytes | None = None) -> Verdict:
    """Judge a text in this Python codec. `extended`: it came in a Parse; `bare`: the same with its comments emptied."""
    # A server in UTF-8 reads an SQL_ASCII client's names as UTF-8, so they have to be looked up as such.
    raw_utf8 = encoding == tables.RAW and not sql.isascii() and is_valid(sql, "utf-8")
    try:
        _check_spelling(judgement, sql if bare is None else bare, encoding, raw_utf8)
        verdict = _judge_text(judgement, sql, "utf-8" if raw_utf8 else encoding, extended)
    except Refused as refused:  # about the text as a whole
        verdict = refuse(refused.refusal, "unparsable", max(refused.location + 1, 0))
    except (RecursionError, MemoryError):
        verdict = refuse(texts.TOO_DEEP, "unparsable")
    except Exception:  # whatever goes wrong, nothing is forwarded
        verdict = refuse(_INTERNAL, "unparsable")
    if judgement.under_path and verdict.action is Action.ALLOW:
        verdict = UNDER_PATH if verdict is ALLOWED["select"] else replace(verdict, under_path=True)
    return _in_bytes(verdict, sql.decode()) if raw_utf8 else verdict


def refuse(refusal: Refusal, kind: str, position: int = 0) -> Verdict:
    """Return the verdict that says a refusal; `position` as in Verdict."""
    return Verdict(
        Action.REFUSE,
        kind,
        rule=refusal.rule,
        sqlstate=refusal.sqlstate,
        message=refusal.message,
        detail=refusal.detail,
        hint=refusal.hint,
        object=refusal.object,
        lacks=refusal.lacks,
        position=position,
    )


def is_valid(sql: bytes, encoding: str) -> bool:
    """Tell whether bytes are a text in this Python codec."""
    try:
        sql.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return False
    return True


def newer(policy: Policy) -> int:
    """Return the server's major version, where it is newer than the grammar; otherwise 0."""
    major = policy.server_version // 10000
    return major if major > texts.GRAMMAR else 0


class _Source(NamedTuple):
    """A text as the client has sent it, and what that reads."""

    sql: bytes
    text: str
    encoding: str

    def part(self, raw: dict[str, Any]) -> bytes:
        """Give one statement as the client has sent it; the whole text where that cannot be cut apart."""
        start = raw.get("stmt_location", 0)
        utf8 = self.text.encode()
        part = utf8[start : start + raw["stmt_len"] if "stmt_len" in raw else len(utf8)].decode()
        return part.encode(self.encoding) if self.text.encode(self.encoding, "replace") == self.sql else self.sql

    def replaced(self, replacements: list[tuple[int, int, str]]) -> str | None:
        """Put generated statements in the place of the client's; everything else stays, byte by byte.

        None: the codec does not give the client's bytes back, so they cannot be cut apart at the statement's ends.
        """
        if self.text.encode(self.encoding) != self.sql:
            return None
        utf8 = self.text.encode()
        parts: list[str] = []
        at = 0
        for start, end, generated in replacements:
            parts += (utf8[at:start].decode(), generated)
            at = len(utf8) if end < 0 else end
        parts.append(utf8[at:].decode())
        return "".join(parts)


def _check_spelling(judgement: Judgement, sql: bytes, encoding: str, raw_utf8: bool) -> None:
    """Refuse a text whose bytes may name to the server what they do not name here.

    A server in SQL_ASCII compares bytes, whatever the client's encoding; every other one converts, but not what comes
    from a client in SQL_ASCII (pg_client_to_server(), mb/mbutils.c).
    """
    catalog = judgement.catalog
    if catalog is None or not catalog.spellings or sql.isascii():
        return
    alike = raw_utf8 or encoding == "utf-8" if catalog.spellings == "SQL_ASCII" else encoding != tables.RAW
    if not alike:
        raise Refused(_SPELLING)


def _judge_text(judgement: Judgement, sql: bytes, encoding: str, extended: bool) -> Verdict:
    if len(sql) > judgement.policy.max_query_length:
        raise Refused(
            Refusal(
                "length",
                f"query is too long: {len(sql)} bytes",
                f"client.max_query_length is {judgement.policy.max_query_length} (rule: length).",
                sqlstate=errors.PROGRAM_LIMIT_EXCEEDED,
            )
        )
    catalog = judgement.catalog
    text = texts.decode(sql, encoding)
    try:
        parsed = texts.parse(text, foreign=catalog is not None and bool(catalog.spellings))
    except Refused as refused:
        position = 0 if _has_no_position(judgement.policy, refused.refusal) else refused.location + 1
        return refuse(_in_time(judgement.policy, refused.refusal), "unparsable", position)
    if not parsed:
        return ALLOWED["empty"]
    if extended and len(parsed) > 1:
        # exec_parse_message(), tcop/postgres.c
        return refuse(
            Refusal(
                "several-statements",
                "cannot insert multiple commands into a prepared statement",
                "A Parse message holds one statement (rule: several-statements).",
                sqlstate=errors.SYNTAX_ERROR,
            ),
            "multi",
        )
    verdict = _judge_statements(judgement, _Source(sql, text, encoding), parsed)
    return verdict if len(parsed) == 1 else replace(verdict, statements=len(parsed))


def _has_no_position(policy: Policy, refusal: Refusal) -> bool:
    """Tell whether the server tells no position of a syntax error of which the grammar does (insertSelectOptions())."""
    return policy.server_version < 180000 and "WITH TIES" in refusal.message and " at or near " not in refusal.message


def _in_time(policy: Policy, refusal: Refusal) -> Refusal:
    """Say of a syntax error that a newer server may know what the grammar does not."""
    version = newer(policy)
    if refusal.rule != "syntax" or not version:
        return refusal
    return refusal._replace(
        hint=f"The server is PostgreSQL {version}, and SideCart reads with the grammar of PostgreSQL"
        f" {texts.GRAMMAR}: if the syntax is new since then, upgrade SideCart, or write the statement without it."
    )


def _judge_statements(judgement: Judgement, source: _Source, parsed: list[dict[str, Any]]) -> Verdict:
    several = len(parsed) > 1
    if several:
        judgement.terms = judgement.terms._replace(alone=False)
    kind = "multi" if several else ""
    replacements: list[tuple[int, int, str]] = []
    prepares: list[tuple[str, bytes]] = []
    for raw in parsed:
        try:
            kinds.judge(judgement, raw["stmt"])
        except Refused as refused:
            return _refuse_at(source.text, raw, refused, kind or judgement.kind)
        kind = kind or judgement.kind
        if several:
            judgement.move(*raw["stmt"])
        if "PrepareStmt" in raw["stmt"]:
            prepares.append((raw["stmt"]["PrepareStmt"]["name"], source.part(raw)))
        if judgement.replacement:
            start = raw.get("stmt_location", 0)
            replacements.append((start, start + raw["stmt_len"] if "stmt_len" in raw else -1, judgement.replacement))
    if several:
        judgement.boundary = judgement.codec = ""
    if replacements:
        return _replace(judgement, source, replacements, kind, tuple(prepares))
    return _allow(judgement, kind, tuple(prepares))


def _refuse_at(text: str, raw: dict[str, Any], refused: Refused, kind: str) -> Verdict:
    """Refuse a statement, with the place in the text that it is about, and the words of its command."""
    start = raw.get("stmt_location", 0)
    end = start + raw["stmt_len"] if "stmt_len" in raw else None
    position, command = texts.caret(text, start, end, refused.location, refused.word)
    refusal = refused.refusal
    message = refusal.message.replace(tables.COMMAND, command or "the statement")
    detail = refusal.detail.replace(tables.COMMAND, command or "the statement")
    refusal = refusal._replace(message=message, detail=detail)
    return refuse(refusal, kind, 0 if refused.location == tables.NO_POSITION else position)


def _allow(judgement: Judgement, kind: str, prepares: tuple[tuple[str, bytes], ...]) -> Verdict:
    """Return the verdict on a text whose statements are all reads, by what they leave behind."""
    effects = tuple(judgement.effects)
    if judgement.flagged:
        return Verdict(
            Action.ALLOW,
            kind,
            rule="secret-catalogue",
            detail=f'The statement reads "{judgement.flagged}" (rule: secret-catalogue).',
            effects=effects,
            prepares=prepares,
            at_bind=tuple(judgement.at_bind),
        )
    if effects:
        return Verdict(
            Action.ALLOW,
            kind,
            effects=effects,
            prepares=prepares,
            nulls=tuple(judgement.nulls),
            at_bind=tuple(judgement.at_bind),
            codec=judgement.codec,
        )
    return _LONE[judgement.boundary] if judgement.boundary else ALLOWED[kind]


def _replace(
    judgement: Judgement,
    source: _Source,
    replacements: list[tuple[int, int, str]],
    kind: str,
    prepares: tuple[tuple[str, bytes], ...],
) -> Verdict:
    """Return the verdict that has another text forwarded in the place of the client's."""
    built = source.replaced(replacements)
    if built is None:
        return refuse(_INTERNAL, kind)
    # Generated text is judged like any other: what is forwarded was seen by the filter in exactly this form.
    again = Judgement(judgement.functions, judgement.policy)
    for raw in texts.parse(built):
        kinds.judge(again, raw["stmt"])
        if again.replacement:
            return refuse(_INTERNAL, kind)
    return Verdict(
        Action.REPLACE,
        kind,
        rule="read-write",
        text=built.encode(source.encoding),
        warning="SideCart forwards reads only: READ WRITE was replaced by READ ONLY",
        effects=tuple(judgement.effects),
        boundary=judgement.boundary,
        prepares=prepares,
    )


def _in_bytes(verdict: Verdict, text: str) -> Verdict:
    """Turn the verdict on a UTF-8 text into one for a session that takes each byte for a character."""
    if not verdict.effects and verdict.action is not Action.REFUSE:
        return verdict

    def raw(words: str) -> str:
        return words.encode().decode(tables.RAW)

    return replace(
        verdict,
        message=raw(verdict.message),
        detail=raw(verdict.detail),
        hint=raw(verdict.hint),
        position=len(text[: verdict.position - 1].encode()) + 1 if verdict.position else 0,
        effects=tuple((effect, raw(name)) for effect, name in verdict.effects),
        prepares=tuple((raw(name), part) for name, part in verdict.prepares),
    )


ALLOWED = {
    kind: Verdict(Action.ALLOW, kind)
    for kind in {*tables.KINDS.values(), *tables.TRANSACTION_KINDS.values(), "empty", "multi", "reset"}
}
"""The verdicts of texts that leave nothing behind, made once: a Verdict costs 1.5 µs."""
UNDER_PATH = replace(ALLOWED["select"], under_path=True)
BY_NAMES = {each: replace(ALLOWED["select"], by_names=each.value) for each in ByNames}
"""That of a query, where it was found by names."""
_LONE = {kind: Verdict(Action.ALLOW, kind, boundary=kind) for kind in ("begin", "commit", "rollback")}
"""The same for lone boundaries of transactions."""

_SPELLING = Refusal(
    "encoding",
    "letters beyond ASCII cannot be read here as the server reads them",
    "Functions or types of this database have names beyond ASCII, and its encoding is not the text's (rule: encoding).",
    "Set client_encoding to UTF8.",
    errors.CHARACTER_NOT_IN_REPERTOIRE,
)
_INTERNAL = Refusal(
    "internal",
    "the statement could not be judged",
    "This is a fault of SideCart, and the statement was not forwarded (rule: internal).",
    "Please report the statement.",
    errors.INTERNAL_ERROR,
)

"""`sidecart rules`: the rules of the filter, and what they make of a function of the database."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from proxy.operating import offline
from proxy.operating.usage import Unusable
from proxy.sql.refusals import allow_line
from proxy.sql.tables import RULES

if TYPE_CHECKING:
    from proxy.proofs.prove import Proof
    from proxy.sql.policy import Policy

REFUSED = 1
"""Exit code when a function that the name can mean, or the query, is refused."""


@click.command(
    epilog="Exit code with --function: 0 when every function of that name is a read, 1 when one is refused, 2 when"
    " there is none. With --explain: 0 when the query is allowed, 1 when it is refused."
)
@click.argument("rule", required=False)
@click.option("--function", metavar="NAME", help="Say why this function is a read, or is refused; needs --catalog.")
@click.option("--explain", "query", metavar="SQL", help="Say what each name in a SELECT means; needs --catalog.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@offline.options
def command(
    rule: str | None,
    function: str | None,
    query: str | None,
    as_json: bool,
    config_file: Path | None,
    allowed: tuple[str, ...],
    server_version: int | None,
    dsn: str | None,
) -> None:
    """List the rules of the filter, or explain one, a function or a query."""
    if query is not None:
        if rule is not None or function is not None:
            raise click.UsageError("Give a RULE, --function or --explain, and no two of them.")
        if dsn is None:
            raise click.UsageError("--explain needs --catalog DSN: what names mean stands in the database.")
        _explain(query, dsn, offline.policy(config_file, allowed, server_version, os.environ), as_json=as_json)
        return
    if function is None:
        show_rules(rule, as_json=as_json)
        return
    if rule is not None:
        raise click.UsageError("Give a RULE or --function, not both.")
    if dsn is None:
        raise click.UsageError("--function needs --catalog DSN: the body of a function stands in its database.")

    # Asyncio, TLS and the parser: nothing that a list of rules needs.
    from proxy.operating import catalogue
    from proxy.proofs import prove

    policy = offline.policy(config_file, allowed, server_version, os.environ)
    proofs = prove.explain(catalogue.load(dsn), policy, function)
    if not proofs:
        raise Unusable(f"There is no {function} in the database, beside what is PostgreSQL's own.")
    if as_json:
        _print_json([_as_json(proof) for proof in proofs])
    else:
        offline.echo("\n\n".join(map(screen, proofs)))
    sys.exit(REFUSED if any(proof.taint is not None for proof in proofs) else 0)


def _explain(query: str, dsn: str, policy: Policy, *, as_json: bool) -> None:
    """Print what the names in a query mean, and end with the exit code that says whether it is allowed."""
    # Asyncio, TLS and the parser: nothing that a list of rules needs.
    from proxy.filter import Filter
    from proxy.operating import explaining
    from proxy.sql.verdict import Action

    judge = Filter(policy)
    offline.learn(judge, dsn)
    found = explaining.explain(query, judge)
    if as_json:
        _print_json([line._asdict() for line in found.lines])
    else:
        offline.echo(explaining.screen(found))
    sys.exit(REFUSED if found.verdict.action is Action.REFUSE else 0)


def show_rules(rule: str | None, *, as_json: bool) -> None:
    """Print all rules, or one."""
    if rule is not None and rule not in RULES:
        near = difflib.get_close_matches(rule, RULES, 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise Unusable(f"There is no rule {rule}.{meant} `sidecart rules` lists them.")
    if as_json:
        _print_json([_entry(name) for name in ((rule,) if rule else RULES)])
    elif rule is not None:
        click.echo(f"{rule}: {RULES[rule]}\nAn example, the reason, and what to do instead: {offline.page(rule)}")
    else:
        table = click.HelpFormatter(max_width=120)
        table.write_dl(list(RULES.items()), col_max=24)
        click.echo(table.getvalue(), nl=False)


def _entry(rule: str) -> dict[str, str]:
    return {"rule": rule, "sentence": RULES[rule], "page": offline.page(rule)}


def _print_json(value: Sequence[Any]) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def screen(proof: Proof) -> str:
    """Return what a person reads of one proof."""
    if proof.taint is None:
        rows = [f"{proof.what}: a read"]
        if uses := _uses(proof):
            rows.append(f"  It uses {', '.join(uses)}.")
        return "\n".join(rows)
    rows = [f"{proof.what}: refused (rule: {_rule(proof)})", f"  Nothing proves that it only reads: {proof.taint.why}."]
    if proof.statement:
        first, *more = proof.statement.splitlines()
        label = f"  LINE {proof.line}: " if proof.line else "  "
        rows += [f"{label}{first}", *(f"{' ' * len(label)}{line}" for line in more)]
    rows.append(f"  {allow_line(proof.taint.allow)}")
    return "\n".join(rows)


def _uses(proof: Proof) -> list[str]:
    """Return what a proof rests on, without the built-in types: they are named without a schema."""
    return [used for used in proof.uses if "." in used]


def _rule(proof: Proof) -> str:
    """Name the rule by which a statement that uses the object is refused; empty for a read."""
    if proof.taint is None:
        return ""
    kind = proof.what.partition(" ")[0]
    return proof.taint.rule or f"unproved-{_KINDS.get(kind, 'relation')}"


_KINDS = {
    "function": "function",
    "aggregate": "function",
    "procedure": "function",
    "operator": "operator",
    "type": "type",
    "domain": "type",
    "cast": "cast",
}
"""Of the first word of `Proof.what`; everything else stands in FROM."""


def _as_json(proof: Proof) -> dict[str, Any]:
    taint = proof.taint
    return {
        "object": proof.what,
        "read": taint is None,
        "rule": _rule(proof),
        "why": "" if taint is None else taint.why,
        "allow": "" if taint is None else taint.allow,
        "uses": _uses(proof),
        "statement": proof.statement,
        "line": proof.line,
    }

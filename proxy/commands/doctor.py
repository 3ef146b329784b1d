"""`sidecart doctor`: connect as the configured role, and say what it may do beside reading, why, and what mends it."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from pathlib import Path
from typing import Any

import click
import msgspec

from proxy.config import schema as configuration
from proxy.config.schema import Config, Upstream
from proxy.errors import ConfigError
from proxy.operating import examining, offline
from proxy.operating.examining import Examination, ExaminationError
from proxy.operating.usage import UNUSABLE, complain, config_option, configured
from proxy.role import findings
from proxy.role.findings import KINDS, OF_SERVER, Finding, Severity

EXIT_CODES = {Severity.OK: 0, Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 3}
"""By the worst finding. 2 is for a wrong configuration, as with every verb."""
UNREACHABLE = 4
"""Exit code when the database could not be asked."""
_WIDTH = 120
_INDENT = " " * 10


@click.command(
    epilog="Exit code: 0 when nothing is worse than info, 1 for a warning, 3 for something critical, 4 when a database"
    " could not be asked, 2 for a wrong configuration."
)
@config_option("config.yaml; without it, the environment alone decides (DB_HOST, DB_READONLY_USERNAME …).")
@click.option("--dbname", help="Examine this database. Default: each one that the configuration names.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object for each database.")
def command(config_file: Path | None, dbname: str | None, as_json: bool) -> None:
    """Examine the role: what it may do beside reading.

    Connect as the configured role, and print what it may do, why that matters, and the SQL that mends it. Nothing is
    changed.
    """
    try:
        config = configured(config_file)
        sys.exit(doctor(config, databases(config, dbname), as_json=as_json))
    except ConfigError as error:
        complain(str(error))
        sys.exit(UNUSABLE)


def databases(config: Config, dbname: str | None) -> dict[str, Upstream]:
    """Return the databases to examine by the names that clients give. Raises ConfigError."""
    names = [dbname] if dbname else list(dict.fromkeys([*filter(None, [config.upstream.dbname]), *config.databases]))
    if not names:
        raise ConfigError(
            "upstream.dbname is empty, so that clients choose the database: name the one to examine with --dbname."
        )
    found = {name: config.database(name) for name in names}
    for name, database in found.items():
        if database is None:
            raise ConfigError(f"The database {name} is not served by this configuration: see upstream.dbname.")
    return {name: database.upstream for name, database in found.items() if database is not None}


def doctor(config: Config, upstreams: dict[str, Upstream], *, as_json: bool) -> int:
    """Examine databases, print what was found, and return the exit code."""
    policy = configuration.filter_policy(config)
    code = 0
    answers: list[dict[str, Any]] = []
    for number, (name, upstream) in enumerate(upstreams.items()):
        try:
            examination = asyncio.run(examining.examine(upstream, policy))
        except ExaminationError as error:
            code = max(code, UNREACHABLE)
            answers.append(_unreachable(name, upstream, str(error)))
            if not as_json:
                complain(f"{_where(upstream)} could not be asked: {error}.")
            continue
        found = [*connection(upstream, examination), *examination.findings]
        code = max(code, EXIT_CODES[findings.worst(found)])
        answers.append(_as_json(name, upstream, examination, found))
        if not as_json:
            offline.echo(("\n" if number else "") + screen(upstream, examination, found))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(answers), indent=2))
    return code


def _where(upstream: Upstream) -> str:
    return f"{upstream.dbname} on {upstream.host} port {upstream.port}"


def connection(upstream: Upstream, examination: Examination) -> list[Finding]:
    """Return what there is to say of the connection itself."""
    login = f"{upstream.user} logs in within {examination.seconds * 1000:.0f} ms"
    found = [Finding("reachable", Severity.OK, _where(upstream), f"{login}.")]
    local = upstream.host in ("localhost", "::1") or upstream.host.startswith(("127.", "/"))
    verified = upstream.sslmode == "verify-full"
    if not examination.tls_version:
        severity = Severity.OK if local else Severity.CRITICAL
        why = "Rows travel in the clear, and who answers may not be the server. Set DB_SSLMODE=verify-full."
        found.append(Finding("tls", severity, "no TLS", "The server is this machine's." if local else why))
    elif verified:
        why = f"The server's certificate is {upstream.host}'s, and was verified."
        found.append(Finding("tls", Severity.OK, examination.tls_version, why))
    else:
        severity = Severity.INFO if local else Severity.WARNING
        why = f"sslmode is {upstream.sslmode}: the server's name is not verified. Set DB_SSLMODE=verify-full."
        found.append(Finding("tls", severity, examination.tls_version, why))
    if examination.unproved:
        why = f"The functions of the database could not be judged ({examination.unproved}): each counts as a write."
        found.append(Finding("catalogue", Severity.WARNING, upstream.dbname, why))
    return found


def screen(upstream: Upstream, examination: Examination, found: list[Finding]) -> str:
    """Return what a person reads."""
    probe = examination.probe
    server = f"PostgreSQL {probe.version_text}, a {'standby' if probe.standby else 'primary'}"
    rows = [f"The role {probe.role} in the database {_where(upstream)}", server, ""]
    for each in [*found, *_fine(examination)]:
        if each.severity is Severity.OK:
            text = f"{each.subject}: {each.why}" if each.subject else each.why
            rows.append(f"ok        {each.kind:<24}{text}")
    for each in found:
        if each.severity is not Severity.OK:
            rows += ["", f"{each.severity.word:<10}{each.kind:<24}{each.subject}"]
            rows += textwrap.wrap(each.why, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)
            rows += [f"{_INDENT}  {statement}" for statement in each.sql]
    return "\n".join([*rows, "", _summary(found)])


def _fine(examination: Examination) -> list[Finding]:
    """Return what was looked at and found to be as it should be."""
    kinds = {each.kind for each in examination.findings}
    if examination.unproved:
        kinds.add("hidden-call")
    return [
        Finding(kind, Severity.OK, "", says)
        for kind, says in KINDS.items()
        # What a superuser may do was not looked at.
        if kind not in kinds and (kind in OF_SERVER or not examination.probe.attributes.superuser)
    ]


def _summary(found: list[Finding]) -> str:
    counted = findings.counts(found)
    parts = [
        f"{counted[severity]} {severity.word}"
        for severity in sorted(Severity, reverse=True)
        if counted[severity] and severity is not Severity.OK
    ]
    if findings.worst(found) <= Severity.INFO:
        return f"This role reads, and does nothing else. {', '.join(parts)}".rstrip() + ("." if parts else "")
    return (
        f"{', '.join(parts)}. The SQL is for the owner of the database; `sidecart role --apply --revoke-public` runs"
        " most of it.\nEach kind is explained in docs/doctor.md."
    )


def _as_json(name: str, upstream: Upstream, examination: Examination, found: list[Finding]) -> dict[str, Any]:
    probe = examination.probe
    return {
        "database": name,
        "host": upstream.host,
        "port": upstream.port,
        "dbname": upstream.dbname,
        "reachable": True,
        "role": upstream.user,
        "server_version": probe.version_text,
        "standby": probe.standby,
        "tls": examination.tls_version,
        "worst": findings.worst(found).word,
        "findings": [
            {
                "kind": each.kind,
                "severity": each.severity.word,
                "subject": each.subject,
                "why": each.why,
                "sql": list(each.sql),
            }
            for each in found
        ],
    }


def _unreachable(name: str, upstream: Upstream, why: str) -> dict[str, Any]:
    return {
        "database": name,
        "host": upstream.host,
        "port": upstream.port,
        "dbname": upstream.dbname,
        "reachable": False,
        "role": upstream.user,
        "why": why,
    }

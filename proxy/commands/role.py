"""`sidecart role`: make the read-only role, or say what that would do, without psql."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from proxy.config.load import load
from proxy.config.schema import Upstream
from proxy.errors import ConfigError, SideCartError
from proxy.operating import catalogue, examining, offline, readonly_role
from proxy.operating.usage import Unusable, config_option
from proxy.role.findings import Severity
from proxy.sql.policy import Policy

FAILED = 1
"""Exit code when the role could not be made, or can still write."""


@click.command(
    epilog="Name and password of the role are DB_READONLY_USERNAME (default: sidecart_reader) and DB_READONLY_PASSWORD;"
    " without a password the role's stays as it is. Without --admin-dsn the administrator is DB_ADMIN_USERNAME with"
    " DB_ADMIN_PASSWORD, on DB_HOST, DB_PORT, DB_NAME, with DB_SSLMODE and DB_SSLROOTCERT. Exit code: 0 when the role"
    " is made and cannot write, 1 when it can, or could not be made, 2 for wrong options."
)
@click.option("--apply", "do_it", is_flag=True, help="Make or change the role. Without it, nothing is changed.")
@click.option(
    "--admin-dsn",
    metavar="DSN",
    help="Connect as the owner of the database, such as 'host=db.example.com dbname=app user=owner'; its password is"
    " best in PGPASSWORD or DB_ADMIN_PASSWORD.",
)
@click.option(
    "--revoke-public",
    is_flag=True,
    help="Take what is no reading from PUBLIC, too, and give it to the roles that log in.",
)
@config_option("config.yaml: what its filter.allow_functions names counts as a read.")
def command(do_it: bool, admin_dsn: str | None, revoke_public: bool, config_file: Path | None) -> None:
    """Make the read-only role that SideCart logs in with.

    Without options, print the SQL script for psql. With an administrator's login, print the statements that it would
    run; with --apply, run them.
    """
    if not do_it and admin_dsn is None and not os.environ.get("DB_ADMIN_USERNAME"):
        if revoke_public:
            raise click.UsageError("--revoke-public needs --apply, or --admin-dsn to say what it would do.")
        click.echo(readonly_role.text(), nl=False)
        return
    admin = administrator(admin_dsn, os.environ)
    role = os.environ.get("DB_READONLY_USERNAME") or readonly_role.DEFAULT_NAME
    password = os.environ.get("DB_READONLY_PASSWORD", "")
    # Ahead of what it is for: a configuration that is wrong is to be mended before the role is made.
    policy = offline.policy(config_file, (), None, os.environ)
    try:
        lines = asyncio.run(readonly_role.apply(admin, role, password, revoke_public=revoke_public, dry_run=not do_it))
        if not do_it:
            lines[0] = lines[0].replace("-- Done", "-- To be done", 1)
        offline.echo("\n".join(lines))
        if do_it:
            sys.exit(_what_is_left(admin, role, policy))
    except ConfigError as error:
        raise Unusable(str(error)) from error
    except SideCartError as error:
        click.echo(f"sidecart: {error}", err=True)
        sys.exit(FAILED)


def administrator(dsn: str | None, environ: Mapping[str, str]) -> Upstream:
    """Return how to log in as the administrator. Raises Unusable."""
    if dsn is not None:
        password = environ.get("PGPASSWORD") or environ.get("DB_ADMIN_PASSWORD", "")
        # Whoever holds an administrator's password asks for the server's identity, unless told otherwise.
        return catalogue.parse(dsn, {**environ, "PGPASSWORD": password}, weakest="verify-full")
    missing = [name for name in ("DB_ADMIN_USERNAME", "DB_HOST", "DB_NAME") if not environ.get(name)]
    if missing:
        raise Unusable(
            f"The administrator's login is not known: {', '.join(missing)} missing in the environment; or give it with"
            " --admin-dsn 'host=db.example.com dbname=app user=owner'."
        )
    given = {name: environ.get(name, "") for name in ("DB_HOST", "DB_PORT", "DB_NAME", "DB_SSLMODE", "DB_SSLROOTCERT")}
    login = {
        "DB_READONLY_USERNAME": environ["DB_ADMIN_USERNAME"],
        "DB_READONLY_PASSWORD": environ.get("DB_ADMIN_PASSWORD", ""),
        "DB_CONNECT_TIMEOUT": environ.get("DB_CONNECT_TIMEOUT", ""),
    }
    try:
        return load(None, {**given, **login}).upstream
    except ConfigError as error:
        raise Unusable(str(error)) from error


def _what_is_left(admin: Upstream, role: str, policy: Policy) -> int:
    """Examine the role through the administrator's login, say what is left above info, and return the exit code."""
    examination = asyncio.run(examining.examine(admin, policy, role))
    left = [found for found in examination.findings if found.severity > Severity.INFO]
    if not left:
        click.echo("-- Nothing is left: this role reads, and does nothing else.")
        return 0
    click.echo("-- What the role may still do; `sidecart doctor` has the reasons and the SQL that mends it:")
    for found in left:
        offline.echo(f"-- {found.severity.word}: {found.subject} ({found.kind})")
    return FAILED if left[0].severity is Severity.CRITICAL else 0

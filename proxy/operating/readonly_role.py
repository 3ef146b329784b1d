"""Run the role script of proxy/data without psql: the same SQL, its parameters set ahead of it.

The script is for psql above a line that says so, and plain SQL below it. The password goes out as a SCRAM-SHA-256
verifier alone, and in a Query of its own: the text of a Query that fails is what a server logs.
"""

from __future__ import annotations

import contextlib
import re
from importlib import resources
from typing import Final

from scramp import ScramException
from scramp.utils import saslprep

from proxy.auth.scram import make_verifier
from proxy.config import values
from proxy.config.schema import Upstream
from proxy.errors import QueryFailedError, SideCartError, UpstreamError
from proxy.operating import catalogue
from proxy.role.probe import literal

DEFAULT_NAME: Final = "sidecart_reader"
_PLAIN_SQL: Final = "-- From here on it is plain SQL"


class RoleError(SideCartError):
    """The role could not be made or changed: the text says why."""


def text() -> str:
    """Return the script as psql takes it."""
    return resources.files("proxy").joinpath("data", "readonly_role.sql").read_text("utf-8")


def queries(role: str, password: str, *, revoke_public: bool, dry_run: bool = False) -> tuple[bytes, bytes]:
    """Return the two Queries that do what the script does: its parameters, then its SQL. Raises RoleError.

    An empty password leaves the role's as it is. `dry_run` rolls everything back at the end.
    """
    if "\0" in role + password:
        raise RoleError("The name and the password of the role have no NUL byte.")
    settings = {
        "role": role,
        "password": verifier(password) if password else "",
        "revoke_public": "on" if revoke_public else "off",
    }
    parameters = ", ".join(
        f"pg_catalog.set_config('sidecart.{name}', {literal(value)}, false)" for name, value in settings.items()
    )
    _, found, sql = text().partition(_PLAIN_SQL)
    if not found:
        raise AssertionError("the role script has lost the line below which it is plain SQL")
    _, _, sql = sql.partition("\n")
    if dry_run:
        sql = re.sub(r"^COMMIT;$", "ROLLBACK;", sql, flags=re.MULTILINE)
    return f"SELECT {parameters}".encode(), sql.encode()


def verifier(password: str) -> str:
    """Return what PostgreSQL keeps of a password (pg_authid.rolpassword). Raises RoleError.

    A verifier stays as it is, as with ALTER ROLE.
    """
    with contextlib.suppress(ValueError):
        return values.verifier(password)
    try:
        saslprep(password)  # what it prohibits cannot be typed everywhere, though PostgreSQL would take its bytes
    except (ScramException, ValueError):
        # `from None`: a UnicodeError carries the text that it failed on.
        raise RoleError(
            "The password has a character that SASLprep (RFC 4013) prohibits, such as a control character; choose one"
            " of printable characters."
        ) from None
    return make_verifier(password).text


async def apply(
    admin: Upstream, role: str, password: str, *, revoke_public: bool = False, dry_run: bool = False
) -> list[str]:
    """Run the script as an administrator, and return the lines that it prints. Raises RoleError, ConfigError."""
    parameters, script = queries(role, password, revoke_public=revoke_public, dry_run=dry_run)
    async with catalogue.visiting(admin) as connector:
        try:
            visit = await connector.visit(admin.dbname, parameters, script)
        except QueryFailedError as error:
            raise RoleError(f"{error.words.rstrip('.')} (SQLSTATE {error.sqlstate}).") from error
        except UpstreamError as error:
            why = error.for_operator.rstrip(".")
            raise RoleError(f"{admin.dbname} on {admin.host} port {admin.port}: {why}.") from error
    return [(value or b"").decode("utf-8", "replace") for (value,) in visit.results[-1]]

"""Who the users are, and their verifiers: the configuration's, those of the users file, or the read-only role itself.

Pure: the caller reads the file and hands over its text.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.auth.scram import Mocks, Verifier, make_verifier
from proxy.errors import ConfigError

MAX_PROBLEMS: Final = 20
"""Wrong lines of a users file that are named."""
_LINE: Final = re.compile(r'\s*"((?:[^"]|"")*)"\s+"((?:[^"]|"")*)"\s*')


def read_users_file(text: str, name: str) -> dict[str, Verifier]:
    """Read PgBouncer's userlist.txt: `"name" "verifier"`, a line each, quotes doubled; `;` and `#` begin comments.

    Raises ConfigError with a sentence for each wrong line, up to MAX_PROBLEMS, by its number: what stands in it may be
    a password.
    """
    users: dict[str, Verifier] = {}
    lines: dict[str, int] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if len(problems) == MAX_PROBLEMS:
            problems.append("and perhaps more")
            break
        where = f"{name}, line {number}"
        if not line.strip() or line.lstrip()[0] in ";#":
            continue
        found = _LINE.fullmatch(line)
        user, verifier = (part.replace('""', '"') for part in found.groups()) if found else ("", "")
        if not user:
            problems.append(f'{where}: must be "name" "verifier", both in double quotes')
            continue
        if user in users:
            problems.append(f"{where}: the user stands in line {lines[user]} already")
            continue
        try:
            users[user] = Verifier.of(verifier)
        except ValueError as error:
            problems.append(f"{where}: the second part must be {error}")
            continue
        lines[user] = number
    if problems:
        raise ConfigError("\n".join(problems))
    return users


def users_file_line(user: str, verifier: Verifier) -> str:
    """Return the line of a users file for this user."""
    quoted = user.replace('"', '""')
    return f'"{quoted}" "{verifier.text}"'


@dataclass(frozen=True, slots=True)
class OwnLogin:
    """Say how the read-only role of a database logs in, and whether the server has refused that."""

    role: str
    password: str = field(repr=False)
    refused: bool = False


NOBODY: Final = OwnLogin("", "")


class Users:
    """Find the verifier of a user.

    `configured` beat those of the file. Where neither is configured, the read-only role of the database is the one
    user, with its own password, as `own` tells them; but not where the server has refused it: what has expired or been
    changed there opens no door here (CVE-2025-2291 was that in PgBouncer).
    """

    __slots__ = ("_configured", "_has_file", "_hashed", "_listed", "_mocks", "_own")

    def __init__(
        self,
        configured: Iterable[tuple[str, str]] = (),
        *,
        has_file: bool = False,
        own: Callable[[str], OwnLogin] = lambda database: NOBODY,
        secret: bytes | None = None,
    ) -> None:
        self._configured = {name: Verifier.of(verifier) for name, verifier in configured}
        self._has_file = has_file
        self._own = own
        self._hashed: dict[str, tuple[str, Verifier]] = {}
        self._mocks = Mocks(secrets.token_bytes(32) if secret is None else secret)
        self._listed: dict[str, Verifier] = {}
        self.listed({})

    @property
    def only_role(self) -> bool:
        """Whether the read-only role is the one user that there is."""
        return not self._configured and not self._has_file

    def listed(self, users: Mapping[str, Verifier]) -> None:
        """Take the users of the file, in the place of those that it had before."""
        self._listed = {**users, **self._configured}
        shapes = Counter((each.iterations, len(each.salt)) for each in self._listed.values())
        if shapes:
            self._mocks.model = shapes.most_common(1)[0][0]

    def find(self, user: str, database: str) -> tuple[Verifier, bool, str]:
        """Return a verifier; whether it is a true one; and if it is not, why, for the log.

        It takes as long for a user that does not exist: both verifiers are made in any case.
        """
        mock = self._mocks.verifier(user)
        known = self._listed.get(user)
        why = "no such user"
        if self.only_role and user == (own := self._own(database)).role:
            if own.refused:
                why = "the server refuses the read-only role's own password"
            else:
                known = self._own_verifier(own)
                why = "the read-only role has no password here"
        return (mock, False, why) if known is None else (known, True, "")

    def _own_verifier(self, own: OwnLogin) -> Verifier | None:
        if not own.password:
            return None
        password, verifier = self._hashed.get(own.role, ("", None))
        if verifier is None or password != own.password:
            verifier = make_verifier(own.password)
            self._hashed[own.role] = (own.password, verifier)  # one for each role in the configuration
        return verifier

"""A database whose owner is no superuser, with an application and a read-only role: for `doctor` and `role`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from proxy.config.schema import Upstream
from proxy.databases.helpers.prover import Prover
from proxy.demo.embedded import EmbeddedServer
from proxy.operating import examining, readonly_role
from proxy.operating.catalogue import _Silent
from proxy.operating.examining import Examination
from proxy.role.findings import Finding, Severity
from proxy.sql.policy import Policy
from proxy.stats import Stats

T = TypeVar("T")

# Roles made by others, on 16 and newer, hang together by their grants.
_DROP = """
DROP DATABASE IF EXISTS clinic WITH (FORCE);
SELECT format('DROP OWNED BY %1$s; DROP ROLE %1$s', string_agg(quote_ident(rolname), ', '))
FROM pg_roles WHERE rolname LIKE 'clinic%' HAVING count(*) > 0 \\gexec
"""

DATABASE, OWNER, APPLICATION, READER = "clinic", "clinic_owner", "clinic_app", "clinic_reader"

CONTENT = """
CREATE TABLE patients (id int PRIMARY KEY, name text, note text);
CREATE TABLE visits (id serial PRIMARY KEY, patient int REFERENCES patients, day date) PARTITION BY RANGE (id);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (1) TO (1000);
CREATE VIEW names AS SELECT name FROM patients;
CREATE MATERIALIZED VIEW days AS SELECT day, count(*) FROM visits GROUP BY day;
CREATE SCHEMA archive;
CREATE TABLE archive."Old Visits" (id int, "the note" text);
CREATE SEQUENCE tickets;
CREATE FUNCTION named(int) RETURNS text LANGUAGE sql AS $$ SELECT name FROM public.patients WHERE id = $1 $$;
"""


class Clinic:
    """Hold the server, how to log in, and a helper process that proves."""

    def __init__(self, server: EmbeddedServer, runner: asyncio.Runner, more: str) -> None:
        self.server = server
        self.password = secrets.token_urlsafe(18)
        self.owner_password = secrets.token_urlsafe(18)
        self._runner = runner
        self._more = more
        self._prover = Prover(Stats(), _Silent())

    @property
    def major(self) -> int:
        return int(self.server.version.split(".")[0])

    def create(self) -> None:
        """Make roles and database, anew where there are any; the read-only role is not made yet."""
        # One psql for all of it: starting one takes longer than what it does.
        self.server.sql(
            f"{_DROP} CREATE ROLE {OWNER} LOGIN CREATEROLE CREATEDB PASSWORD '{self.owner_password}';"
            f"CREATE ROLE {APPLICATION} LOGIN PASSWORD '{self.owner_password}';"
            f"CREATE DATABASE {DATABASE} OWNER {OWNER} TEMPLATE template0;"
            f"\n\\connect {DATABASE}\n"
            f"ALTER SCHEMA public OWNER TO {OWNER}; SET SESSION AUTHORIZATION {OWNER}; {CONTENT} {self._more}"
        )

    def drop(self) -> None:
        self._runner.run(self._prover.close())
        self.server.sql(_DROP)

    def sql(self, text: str) -> str:
        """Run SQL as a superuser."""
        return self.server.sql(text, DATABASE)

    def as_owner(self, text: str) -> str:
        return self.server.sql(text, DATABASE, user=OWNER, password=self.owner_password)

    def as_application(self, text: str) -> str:
        return self.server.sql(text, DATABASE, user=APPLICATION, password=self.owner_password)

    @property
    def owner(self) -> Upstream:
        return self._login(OWNER, self.owner_password)

    @property
    def application(self) -> Upstream:
        return self._login(APPLICATION, self.owner_password)

    @property
    def reader(self) -> Upstream:
        return self._login(READER, self.password)

    def _login(self, user: str, password: str) -> Upstream:
        return Upstream(
            host=self.server.host,
            port=self.server.port,
            dbname=DATABASE,
            user=user,
            password=password,
            sslrootcert=str(self.server.ca_file),
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def apply(self, *, revoke_public: bool = False, dry_run: bool = False, password: str | None = None) -> list[str]:
        """Run the role script as the owner, as `sidecart role` does."""
        secret = self.password if password is None else password
        return self._runner.run(
            readonly_role.apply(self.owner, READER, secret, revoke_public=revoke_public, dry_run=dry_run)
        )

    def examine(self) -> Examination:
        return self._runner.run(examining.examine(self.reader, Policy(), prove=self._prover.prove))

    def findings(self) -> list[Finding]:
        """Return what is worse than info."""
        return [found for found in self.examine().findings if found.severity > Severity.INFO]


def places(found: Iterable[Finding]) -> set[tuple[str, str]]:
    return {(each.kind, each.subject) for each in found}


@contextmanager
def clinic(server: EmbeddedServer, more: str = "") -> Iterator[Clinic]:
    """Give a clinic, with `more` in it that its owner has made."""
    with asyncio.Runner() as runner:
        made = Clinic(server, runner, more)
        made.create()
        try:
            yield made
        finally:
            made.drop()

"""The labelled corpus, and the objects that it speaks of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from proxy.demo.embedded import EmbeddedServer

DATA = Path(__file__).parent / "data"
CASES: list[dict[str, Any]] = [json.loads(line) for line in (DATA / "corpus.jsonl").read_text("utf-8").splitlines()]
SQL = [case for case in CASES if "sql" in case]
EXTENSIONS = ("tablefunc", "pg_trgm", "unaccent", "fuzzystrmatch", "uuid-ossp", "pgcrypto")
"""Those whose functions the corpus calls."""


PROVED = {
    "B-ext-0624": 'the body of "pg_catalog.count" reads',
    "B-ext-0625": 'the body of "Count" reads',
    "B-ext-0626": "the body of the function with the long name reads",
}
"""Blocked cases that are reads by a live catalogue: they are about names, and the fixture's functions are honest."""
BY_BIND = {"B-txn-rw-0155": "the values of each Bind are judged: see test_set_config.py"}
"""Blocked cases that are not refused at their Parse."""
SPOILED = {"A-cap-0136": "the policy on rls calls chk, which writes"}
"""Allowed cases that are none by a live catalogue."""


def create(server: EmbeddedServer, database: str, *extensions: str) -> None:
    """Make a database with the objects of fixture.sql, and with those of the extensions that the server has."""
    server.sql(f"CREATE DATABASE {database}")
    fill(server, database, *extensions)


def fill(server: EmbeddedServer, database: str, *extensions: str) -> None:
    """Make those objects in a database that there is."""
    # Other databases of this server may have been made in the same way: the role belongs to all of them.
    role = "do $$ begin create role sc_reader login; exception when duplicate_object then null; end $$;"
    server.sql((DATA / "fixture.sql").read_text("utf-8").replace("create role sc_reader login;", role), database)
    for extension in extensions:
        if server.sql(f"SELECT 1 FROM pg_available_extensions WHERE name = '{extension}'", database).strip():
            server.sql(f'CREATE EXTENSION "{extension}"', database)

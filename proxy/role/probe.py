"""Read what a role may do beside reading: one Query text, in one round trip, and the rows that come back.

The text is proxy/data/role_probe.sql, the same for PostgreSQL 13 to 18 and for whoever asks, the role itself or its
owner. What the rows mean is said by `findings.py`. Names in them are quoted already, as SQL takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

from proxy.proofs.rows import ResultSet
from proxy.sql.catalog import CAST, FUNCTION, OPERATOR, RELATION, TYPE, Key, Taint

_PROBE = resources.files("proxy").joinpath("data", "role_probe.sql").read_text("utf-8")
_NO_PARAMETERS = "(SELECT NULL::text AS parname, NULL::aclitem[] AS paracl WHERE false) AS none"


class Attributes(NamedTuple):
    """What pg_roles says of a role."""

    superuser: bool
    createrole: bool
    createdb: bool
    replication: bool
    bypassrls: bool


class Membership(NamedTuple):
    """A role whose rights are within reach: SET ROLE, where they are not inherited."""

    name: str
    """Not quoted."""
    role: str
    through: str
    """The roles, separated by commas, of which the probed one is a member itself; `role` where that is direct."""
    attributes: Attributes


class Grant(NamedTuple):
    """Privileges beyond reading on one object, and who has them."""

    kind: str
    """database, schema, table, sequence, large object, foreign server, foreign-data wrapper, tablespace,
    parameter, built-in function."""
    what: str
    """As GRANT takes it: `TABLE public.orders`."""
    privileges: str
    """As GRANT takes them: `INSERT, UPDATE (price)`."""
    public: bool
    """Everybody has them."""
    role: str
    """The role that has them; empty for the probed one itself, and for PUBLIC."""
    owner: str


class Owned(NamedTuple):
    """An object that belongs to the role."""

    kind: str
    """As pg_identify_object says: table, function, schema …"""
    what: str
    role: str
    """The role that owns it, of which the probed one is a member; empty for the probed one itself."""


class Executable(NamedTuple):
    """A function outside the built-ins that the role may execute."""

    oid: int
    what: str
    """As GRANT takes it: `FUNCTION public.f(integer)`."""
    definer: bool
    owner: str
    extension: str
    public: bool
    own: bool
    """It was granted to the role itself."""
    roles: str
    """Roles that have it, of which the probed one is a member."""


class Way(NamedTuple):
    """An object that runs functions which no statement names."""

    key: Key
    what: str
    """As DROP takes it: `VIEW public.v`, `CAST (text AS public.t)`."""
    more: str
    """Of a relation `public` where everybody may read it; of a domain the words that drop its CHECKs."""
    wrapper: str
    """Of a foreign table: its foreign-data wrapper, not quoted."""
    server: str


class Mapping_(NamedTuple):  # noqa: N801 - CREATE USER MAPPING
    """A login on a foreign server that the role can use."""

    server: str
    public: bool


class Extension(NamedTuple):
    name: str
    """Not quoted."""
    quoted: str
    version: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Hold one reading."""

    version: int
    """server_version_num."""
    version_text: str
    database: str
    owner: str
    standby: bool
    max_prepared_transactions: int
    lo_compat_privileges: bool
    search_path: str
    """What the role's sessions in this database begin with; empty where that is not known."""
    role: str
    attributes: Attributes
    inherits: bool
    secrets: tuple[tuple[str, str], ...]
    """Columns of system catalogues with passwords in them, and who reads them: the role, or one whose member it is."""
    memberships: tuple[Membership, ...] = ()
    applications: tuple[str, ...] = ()
    """Roles that log in to this database, and may need what PUBLIC has."""
    grants: tuple[Grant, ...] = ()
    owned: tuple[Owned, ...] = ()
    executables: tuple[Executable, ...] = ()
    ways: tuple[Way, ...] = ()
    mappings: tuple[Mapping_, ...] = ()
    extensions: tuple[Extension, ...] = ()


SECRETS = ("pg_authid (rolpassword)", "pg_user_mapping (umoptions)", "pg_subscription (subconninfo)")

# Extensions that act outside the database, or run code that no filter reads: why each matters. `findings.py` tells of
# them, and this query asks whether the role may execute their functions.
EXTENSIONS = {
    "adminpack": "it writes the server's files",
    "aws_lambda": "it invokes AWS Lambda functions",
    "aws_ml": "it sends data to AWS's services",
    "aws_s3": "it exports to and imports from Amazon S3",
    "dblink": "it logs in to other servers, and runs any SQL there",
    "file_fdw": "it reads the server's files, and runs programs",
    "http": "it sends requests to any web server",
    "lo": "it deletes large objects",
    "pageinspect": "it reads raw pages, past privileges and policies",
    "pg_background": "it runs SQL in other sessions",
    "pg_cron": "it runs SQL later, in sessions of its own",
    "pg_net": "it sends requests to any web server",
    "pg_surgery": "it changes rows on disk",
    "plperlu": "functions in it do what the server's user may",
    "plpython3u": "functions in it do what the server's user may",
    "plsh": "functions in it run programs on the server",
    "pltclu": "functions in it do what the server's user may",
    "postgres_fdw": "it logs in to other servers",
}


def query(version: int, taints: Mapping[Key, Taint], role: str | None = None) -> bytes:
    """Return the text of one Query message; `decode` takes its result sets.

    `version` is the server's version number, such as 150004. `taints` are those of the database's catalogue: what is no
    read. `role` is a name; None stands for the role that asks.
    """
    named = {kind: [] for kind in (FUNCTION, RELATION, OPERATOR, CAST, TYPE)}  # type: dict[str, list[int]]
    for kind, oid in taints:
        named.get(kind, []).append(oid)
    parts = {
        "$role": "current_user" if role is None else literal(role),
        "$parameters": "pg_parameter_acl" if version >= 150000 else _NO_PARAMETERS,
        "$functions": _oids(named[FUNCTION]),
        "$relations": _oids(named[RELATION]),
        "$operators": _oids(named[OPERATOR]),
        "$casts": _oids(named[CAST]),
        "$types": _oids(named[TYPE]),
        "$extensions": f"ARRAY[{', '.join(map(literal, EXTENSIONS))}]::name[]",
    }
    # Code first, names last: a role may be called $types.
    text = _PROBE
    for place in sorted(parts, key=lambda place: place == "$role"):
        text = text.replace(place, parts[place])
    return text.encode()


def literal(text: str) -> str:
    """Return a string constant; the session has standard_conforming_strings on."""
    return "'" + text.replace("'", "''") + "'"


def _oids(oids: Iterable[int]) -> str:
    return "'{" + ",".join(map(str, sorted(oids))) + "}'::oid[]"


def decode(result_sets: Sequence[ResultSet]) -> Probe:
    """Return the rows from the result sets of `query`, in its order. Raises ValueError if they are others.

    Without a role of that name there are no rows at all: that is a ValueError, too.
    """
    head, memberships, applications, grants, owned, executables, ways, mappings, extensions = (
        [[_text(value) for value in row] for row in rows] for rows in result_sets
    )
    (row,) = head
    _, path, version, version_text, database, owner, standby, prepared, compatible, role, *flags = row
    attributes, inherits, *secrets = _attributes(flags[:5]), flags[5] == "t", *flags[6:]
    return Probe(
        version=int(version),
        version_text=version_text,
        database=database,
        owner=owner,
        standby=standby == "t",
        max_prepared_transactions=int(prepared),
        lo_compat_privileges=compatible == "t",
        search_path=path,
        role=role,
        attributes=attributes,
        inherits=inherits,
        secrets=tuple((name, readers) for name, readers in zip(SECRETS, secrets, strict=True) if readers),
        memberships=tuple(
            Membership(name, role_name, through, _attributes(flags)) for name, role_name, through, *flags in memberships
        ),
        applications=tuple(name for (name,) in applications),
        grants=tuple(
            Grant(kind, what, privileges, public == "t", of, belongs)
            for kind, what, privileges, public, of, belongs in grants
        ),
        owned=tuple(Owned(*columns) for columns in owned),
        executables=tuple(
            Executable(int(oid), what, definer == "t", belongs, extension, public == "t", own == "t", roles)
            for oid, what, definer, belongs, extension, public, own, roles in executables
        ),
        ways=tuple(
            Way((kind, int(oid)), what, more, wrapper, server) for kind, oid, what, more, wrapper, server in ways
        ),
        mappings=tuple(Mapping_(server, public == "t") for server, public in mappings),
        extensions=tuple(Extension(*columns) for columns in extensions),
    )


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")


def _attributes(flags: Sequence[str]) -> Attributes:
    return Attributes(*(flag == "t" for flag in flags))

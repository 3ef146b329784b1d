"""Say what a role may do beside reading, why each of it matters, and the SQL that takes it away.

Pure: rows of `role_probe.py` and the taints of the catalogue come in, findings go out. docs/doctor.md has a section for
each kind.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from proxy.role.probe import EXTENSIONS, Attributes, Executable, Grant, Probe, Way
from proxy.sql import tables
from proxy.sql.catalog import CAST, FIRST_NORMAL_OID, FUNCTION, OPERATOR, RELATION, TYPE, Key, Taint
from proxy.sql.settings import shadows
from proxy.sql.text import GRAMMAR

OLDEST: Final = 13
"""The oldest major version of PostgreSQL that this was tried with."""


class Severity(enum.IntEnum):
    """How bad it is. The words, in small letters, are in the log, in the metric and in JSON."""

    OK = 0
    """It was looked at, and is as it should be."""
    INFO = 1
    """Good to know; no harm without another layer failing, or none that could be taken away."""
    WARNING = 2
    """The role can disturb or spy without writing data: take it away if you can."""
    CRITICAL = 3
    """The role can write, or become somebody who can: nothing but the filter and the read-only session is between."""

    @property
    def word(self) -> str:
        return self.name.lower()


class Finding(NamedTuple):
    """One thing that was found."""

    kind: str
    """One of KINDS."""
    severity: Severity
    subject: str
    """The object as SQL writes it: `TABLE public.orders`, `FUNCTION public.f(integer)`."""
    why: str
    """One or two sentences."""
    sql: tuple[str, ...] = ()
    """Statements, each with its semicolon, that mend it. Empty where no SQL does."""


KINDS: Final = {
    "server-version": "the server's version is one that the filter's grammar reads",
    "primary": "the server is a standby, which nobody can write to",
    "prepared-transactions": "no transaction can outlive its session",
    "large-object-privileges": "large objects have privileges",
    "search-path": "pg_catalog comes first in the search_path of the role's sessions",
    "superuser": "the role is no superuser",
    "role-attribute": "the role has no attribute beyond LOGIN",
    "membership": "the role is a member of no other role",
    "owned-object": "the role owns nothing",
    "writable-table": "the role can write to no table or view",
    "writable-sequence": "the role can move no sequence",
    "writable-large-object": "the role can write to no large object",
    "create": "the role can create nothing in the database, its schemas and tablespaces",
    "temporary": "the role can make no temporary tables",
    "security-definer": "no function runs with its owner's rights for the role",
    "hidden-call": "nothing that can be read runs a function that does more than read",
    "foreign-server": "the role can use no foreign server, and no login there",
    "foreign-table": "no table that the role can read is on another server",
    "extension": "no extension acts outside the database",
    "server-parameter": "the role may change no parameter of the server",
    "granted-function": "the role may execute no built-in function that is kept from others",
    "readable-secret": "the role can read no passwords",
}
"""Every kind of finding, with what is so where there is none."""

OF_SERVER: Final = ("server-version", "primary", "prepared-transactions", "large-object-privileges")
"""Kinds that do not depend on the role."""

_ATTRIBUTES: Final = {
    "createrole": (Severity.CRITICAL, "It may make roles, change their passwords and grant their rights to itself."),
    "createdb": (Severity.CRITICAL, "It may create databases, and owns them then."),
    "replication": (Severity.CRITICAL, "It may copy the whole cluster, and keep its WAL with a replication slot."),
    "bypassrls": (Severity.WARNING, "It reads all rows, whatever the policies say."),
}

_TAKES_ALL: Final = (Severity.CRITICAL, "It is all but a superuser.")
_ROLES: Final = {
    "pg_write_all_data": (Severity.CRITICAL, "It writes to every table."),
    "pg_execute_server_program": (Severity.CRITICAL, "It runs programs on the server."),
    "pg_write_server_files": (Severity.CRITICAL, "It writes the server's files."),
    "pg_read_server_files": (Severity.CRITICAL, "It reads the server's files, keys and passwords included."),
    "pg_signal_backend": (Severity.CRITICAL, "It ends the sessions of the applications."),
    "pg_maintain": (Severity.CRITICAL, "It locks every table: VACUUM FULL, CLUSTER, REINDEX, LOCK TABLE."),
    "pg_create_subscription": (Severity.CRITICAL, "It makes subscriptions, which write."),
    "pg_checkpoint": (Severity.WARNING, "It forces checkpoints."),
    "pg_use_reserved_connections": (Severity.WARNING, "It takes the connections that are reserved for others."),
    "pg_signal_autovacuum_worker": (Severity.WARNING, "It ends autovacuum."),
    "pg_read_all_data": (
        Severity.WARNING,
        "It reads every schema that there is and will be, the password hashes of pg_authid and the passwords of foreign"
        " servers included.",
    ),
    "pg_monitor": (Severity.INFO, "It reads statistics and settings of all sessions, with the text of their queries."),
    "pg_read_all_settings": (Severity.INFO, "It reads settings that others cannot see."),
    "pg_read_all_stats": (Severity.INFO, "It reads the text of other roles' queries."),
    "pg_stat_scan_tables": (Severity.INFO, "It runs monitoring functions that lock tables for long."),
    "rds_superuser": _TAKES_ALL,
    "cloudsqlsuperuser": _TAKES_ALL,
    "alloydbsuperuser": _TAKES_ALL,
    "azure_pg_admin": _TAKES_ALL,
    "rds_replication": (Severity.CRITICAL, "It may copy the whole cluster, and keep its WAL with a replication slot."),
    "rds_password": (Severity.CRITICAL, "It changes the passwords of other roles."),
}
_LOGIN_ROLES: Final = ("rds_iam",)
"""Memberships that say how a role logs in."""

_ACTS_AT_ONCE: Final = ("adminpack", "aws_lambda", "aws_s3", "pg_background", "pg_cron", "pg_surgery")
"""Extensions whose functions write, wherever that is."""


def find(probe: Probe, taints: Mapping[Key, Taint] | None) -> tuple[Finding, ...]:
    """Return what was found, the worst first. `taints` is what is no read; None: nothing could be proved."""
    found = [
        *_server(probe),
        *_search_path(probe),
        *_attributes(probe),
        *_memberships(probe),
        *_owned(probe),
        *_grants(probe),
        *_definers(probe, taints),
        *_hidden(probe, taints or {}),
        *_mappings(probe),
        *_extensions(probe, taints),
        *_secrets(probe),
    ]
    order = list(KINDS)
    return tuple(sorted(found, key=lambda each: (-each.severity, order.index(each.kind), each.subject)))


def counts(found: Iterable[Finding]) -> dict[Severity, int]:
    """Return how many findings there are of each severity."""
    counted = Counter(each.severity for each in found)
    return {severity: counted[severity] for severity in Severity}


def worst(found: Iterable[Finding]) -> Severity:
    """Return the highest severity; OK without findings."""
    return max((each.severity for each in found), default=Severity.OK)


# -- the server --------------------------------------------------------------------------------------------------------


def _server(probe: Probe) -> Iterator[Finding]:
    major = probe.version // 10000
    if not OLDEST <= major <= GRAMMAR:
        newer = major > GRAMMAR
        yield Finding(
            "server-version",
            Severity.WARNING,
            f"PostgreSQL {probe.version_text}",
            f"The filter reads with the grammar of PostgreSQL {GRAMMAR}: what is new since then is refused."
            if newer
            else f"PostgreSQL {OLDEST} is the oldest version that SideCart is tested with.",
        )
    if not probe.standby:
        yield Finding(
            "primary",
            Severity.INFO,
            f"PostgreSQL {probe.version_text}",
            "This server can be written to. Point DB_HOST at a read replica if there is one: what a replica cannot"
            " write, nobody can make it write. On a primary every role may create large objects, notify, and take"
            " advisory locks, and only the filter is between.",
        )
    if probe.max_prepared_transactions:
        yield Finding(
            "prepared-transactions",
            Severity.WARNING,
            f"max_prepared_transactions = {probe.max_prepared_transactions}",
            "PREPARE TRANSACTION leaves a transaction behind that outlives its session, holds its locks and keeps"
            " VACUUM from cleaning up. The change takes a restart.",
            ("ALTER SYSTEM SET max_prepared_transactions = 0;",),
        )
    if probe.lo_compat_privileges:
        yield Finding(
            "large-object-privileges",
            Severity.CRITICAL,
            "lo_compat_privileges = on",
            "Every role may write to and delete every large object.",
            (
                f"ALTER ROLE {probe.role} RESET lo_compat_privileges;",
                f"ALTER DATABASE {probe.database} RESET lo_compat_privileges;",
                "ALTER SYSTEM SET lo_compat_privileges = off;",
                "SELECT pg_reload_conf();",
            ),
        )


def _search_path(probe: Probe) -> Iterator[Finding]:
    if shadows(probe.search_path):
        yield Finding(
            "search-path",
            Severity.WARNING,
            f"search_path = {probe.search_path}",
            "Schemas come before pg_catalog: a function, operator or type there takes the place of the built-in one of"
            " its name. SideCart judges by that, and refuses names that can mean what is no read.",
            (
                f"ALTER ROLE {probe.role} IN DATABASE {probe.database} RESET search_path;",
                f"ALTER ROLE {probe.role} RESET search_path;",
                f"ALTER DATABASE {probe.database} RESET search_path;",
            ),
        )


# -- the role ----------------------------------------------------------------------------------------------------------


def _attributes(probe: Probe) -> Iterator[Finding]:
    role = probe.role
    if probe.attributes.superuser:
        why = "It may do everything: no privilege is checked, and what else was found is not even needed."
        yield Finding("superuser", Severity.CRITICAL, f"ROLE {role}", why, (f"ALTER ROLE {role} NOSUPERUSER;",))
    for name, (severity, why) in _ATTRIBUTES.items():
        if getattr(probe.attributes, name):
            sql = f"ALTER ROLE {role} NO{name.upper()};"
            yield Finding("role-attribute", severity, name.upper(), why, (sql,))


def _memberships(probe: Probe) -> Iterator[Finding]:
    for member in probe.memberships:
        if member.name in _LOGIN_ROLES:
            continue
        severity, why = _ROLES.get(
            member.name, (Severity.WARNING, f"SET ROLE {member.role} takes on whatever that role may.")
        )
        strong = [name.upper() for name, has in zip(Attributes._fields, member.attributes, strict=True) if has]
        if strong:
            severity = Severity.CRITICAL
            why = f"SET ROLE {member.role} makes it {' '.join(strong)}."
        if member.through != member.role:
            why += f" It is a member by way of {member.through}."
        yield Finding("membership", severity, f"ROLE {member.role}", why, _leave(probe, member.through))


def _leave(probe: Probe, roles: str) -> tuple[str, ...]:
    return (f"REVOKE {roles} FROM {probe.role};",)


def _leave_for(probe: Probe, role: str) -> tuple[str, ...]:
    """Return the SQL that takes from the role what another one has: the memberships on the way to that."""
    return _leave(probe, next((each.through for each in probe.memberships if each.role == role), role))


def _owned(probe: Probe) -> Iterator[Finding]:
    heir = "CURRENT_USER" if probe.owner == probe.role else probe.owner
    for owned in probe.owned:
        may = "who may write to, change and drop it, and grants to itself what was revoked."
        if owned.role:
            why = f"It belongs to {owned.role}; SET ROLE {owned.role} makes the role its owner, {may}"
            sql = _leave_for(probe, owned.role)
        else:
            why = f"The role is its owner, {may}"
            sql = (f"REASSIGN OWNED BY {probe.role} TO {heir};",)
        subject = f"{owned.kind.upper()} {owned.what}"
        if owned.what.startswith("objects in "):
            subject = owned.what.replace("objects in", "objects in database", 1)
            sql = tuple(f"{statement} -- in that database" for statement in sql)
        yield Finding("owned-object", Severity.CRITICAL, subject, why, sql)


# -- privileges --------------------------------------------------------------------------------------------------------

_WRITES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER", "MAINTAIN"})
_GRANTS: Final = {
    "table": ("writable-table", Severity.CRITICAL, "It may change the rows, or what happens to them."),
    "sequence": ("writable-sequence", Severity.CRITICAL, "nextval and setval take numbers away from the applications."),
    "large object": ("writable-large-object", Severity.CRITICAL, "It may write to the large object."),
    "schema": (
        "create",
        Severity.CRITICAL,
        "It may create tables, and functions that others call by mistake because they bear a built-in function's name.",
    ),
    "database": ("create", Severity.CRITICAL, "It may create schemas, and everything in them."),
    "tablespace": ("create", Severity.WARNING, "It may fill this disk."),
    "foreign server": ("foreign-server", Severity.WARNING, "It may make itself a login there, and reach that server."),
    "foreign-data wrapper": ("foreign-server", Severity.WARNING, "It may define servers of its own, anywhere."),
    "parameter": ("server-parameter", Severity.WARNING, "It may set what only a superuser sets."),
    "built-in function": ("granted-function", Severity.CRITICAL, "It is kept from ordinary roles for a reason."),
}


def _grants(probe: Probe) -> Iterator[Finding]:
    of_object: defaultdict[tuple[str, str], list[Grant]] = defaultdict(list)
    for grant in probe.grants:
        kind = grant.kind
        if kind == "built-in function" and _verdict(grant.what) == "allow":
            continue
        if kind == "database":  # two things of different weight
            for privilege in grant.privileges.split(", "):
                of_object[privilege, grant.what].append(grant._replace(privileges=privilege))
        else:
            of_object[kind, grant.what].append(grant)
    for (_, what), grants in of_object.items():
        yield _granted(probe, what, grants)


def _granted(probe: Probe, what: str, grants: list[Grant]) -> Finding:
    kind, severity, why = _GRANTS[grants[0].kind]
    privileges = {word.split(" (")[0] for grant in grants for word in grant.privileges.split(", ")}
    if privileges == {"TEMPORARY"}:
        kind, severity = "temporary", Severity.WARNING
        why = (
            "EXPLAIN ANALYZE CREATE TEMPORARY TABLE … AS is not stopped by a read-only transaction: it fills the disk"
            " and the system catalogues."
        )
    elif kind == "writable-table" and not privileges & _WRITES:
        severity = Severity.WARNING
        why = "A foreign key that refers to the table would keep its rows from being deleted."
    elif "ALTER SYSTEM" in privileges:
        severity = Severity.CRITICAL
    elif kind == "granted-function" and _verdict(what) == "conditional":
        severity = Severity.WARNING
        why = "It shows files of the server."
    sql: list[str] = []
    holders = []
    for grant in grants:
        if grant.public:
            holders.append(f"PUBLIC has {grant.privileges}")
            sql += _take_from_public(probe, grant.privileges, what, grant.owner)
        elif grant.role:
            holders.append(f"{grant.role}, whose member it is, has {grant.privileges}")
            sql += _leave_for(probe, grant.role)
        else:
            holders.append(f"the role has {grant.privileges}")
            sql.append(_revoke(grant.privileges, what, probe.role))
    text = "; ".join(holders)
    return Finding(kind, severity, what, f"{text[0].upper()}{text[1:]}. {why}", tuple(dict.fromkeys(sql)))


def _take_from_public(probe: Probe, privileges: str, what: str, owner: str) -> list[str]:
    """Return the SQL that takes from PUBLIC, and gives back to those who log in; the owner needs no grant."""
    needy = ", ".join(name for name in probe.applications if name != owner)
    back = [f"GRANT {privileges} ON {what} TO {needy};"] if needy else []
    return [*back, _revoke(privileges, what, "PUBLIC")]


def _revoke(privileges: str, what: str, *roles: str) -> str:
    return f"REVOKE {privileges} ON {what} FROM {', '.join(roles)};"


def _verdict(what: str) -> str:
    """Return what the filter's table says of a built-in function such as `FUNCTION pg_read_file(text)`."""
    known = tables.FUNCTIONS.get(what.removeprefix("FUNCTION ").partition("(")[0])
    return "block" if known is None else known.verdict


# -- functions ---------------------------------------------------------------------------------------------------------


def _revoke_execute(probe: Probe, functions: Iterable[Executable]) -> tuple[str, ...]:
    """Return the SQL that takes EXECUTE on functions away, from whoever gives it to the role."""
    alike: defaultdict[tuple[str, Executable], list[str]] = defaultdict(list)
    for function in functions:
        keyword, _, name = function.what.partition(" ")
        # GRANT knows no aggregates.
        keyword = "FUNCTION" if keyword == "AGGREGATE" else keyword
        alike[keyword, function._replace(oid=0, what="")].append(name)
    sql: list[str] = []
    for (keyword, function), names in alike.items():
        what = f"{keyword} {', '.join(names)}"
        if function.public:
            sql += _take_from_public(probe, "EXECUTE", what, function.owner)
        if function.owner == probe.role:
            sql.append(f"REASSIGN OWNED BY {probe.role} TO CURRENT_USER;")
        elif function.own:
            sql.append(_revoke("EXECUTE", what, probe.role))
        for role in filter(None, function.roles.split(", ")):
            sql += _leave_for(probe, role)
    return tuple(dict.fromkeys(sql))


def _definers(probe: Probe, taints: Mapping[Key, Taint] | None) -> Iterator[Finding]:
    for function in probe.executables:
        if not function.definer:
            continue
        taint = None if taints is None else taints.get((FUNCTION, function.oid))
        why = f"It runs with the rights of {function.owner}, whoever calls it, and "
        severity = Severity.CRITICAL
        if taints is None:
            why += "what it does could not be looked at."
        elif taint is not None:
            why += f"nothing proves that it only reads: {taint.why}."
        else:
            severity = Severity.INFO
            why += "reads only."
        yield Finding("security-definer", severity, function.what, why, _revoke_execute(probe, [function]))


_UNNAMED: Final = (RELATION, OPERATOR, CAST, TYPE)
_FOREIGN: Final = "it reads the foreign server"
_DEFAULT: Final = "its argument's default"
MAX_WAYS: Final = 5
"""Ways to a function that a finding names."""


def _hidden(probe: Probe, taints: Mapping[Key, Taint]) -> Iterator[Finding]:
    """Find what runs without being named: of each root the ways that lead to it, and that the role can take."""
    ways = {way.key: way for way in probe.ways}
    functions = {(FUNCTION, function.oid): function for function in probe.executables}
    to_root: defaultdict[Key, list[Key]] = defaultdict(list)
    for key, taint in taints.items():
        root = taint.root
        if root is None:
            continue
        is_way = key in ways if key[0] in _UNNAMED else key in functions and _runs_unnamed(taint)
        # EXECUTE is checked whichever way a function is called. Built-in ones are everybody's.
        if is_way and (root[0] != FUNCTION or root in functions or root[1] < FIRST_NORMAL_OID):
            to_root[root].append(key)
    for root, keys in to_root.items():
        names = sorted(taints[key].what for key in keys if key != root)
        yield _hidden_root(probe, root, taints[root], keys, names, ways, functions)


def _hidden_root(
    probe: Probe,
    root: Key,
    taint: Taint,
    keys: list[Key],
    names: list[str],
    ways: Mapping[Key, Way],
    functions: Mapping[Key, Executable],
) -> Finding:
    """Say of a root what it does, and through what of these names it runs."""
    more = f" and {len(names) - MAX_WAYS} more" if len(names) > MAX_WAYS else ""
    through = f"{', '.join(names[:MAX_WAYS])}{more}"
    kind, _, name = taint.what.partition(" ")
    known = functions.get(root) or ways.get(root)
    what = f"{kind.upper()} {name}" if known is None else known.what
    if taint.why.startswith(_FOREIGN):
        why = f"Reading it sends a query to another server, {taint.why.removeprefix(_FOREIGN).strip()}."
        why += f" So does reading {through}." if names else ""
        return Finding("foreign-table", Severity.INFO, what, why, _shut(probe, keys, ways, functions))
    why = f"It does more than read: {taint.why}."
    if names:
        why += f" It runs without being named through {through}."
    if root in functions:
        sql = _revoke_execute(probe, [functions[root]])
    else:
        sql = _shut(probe, [root] if root in ways else keys, ways, functions)
    return Finding("hidden-call", Severity.WARNING, what, why, sql)


def _runs_unnamed(taint: Taint) -> bool:
    """Tell whether a function runs others that its own name does not show: an aggregate, a default of an argument."""
    return taint.what.startswith("aggregate ") or taint.why.startswith(_DEFAULT)


def _shut(
    probe: Probe, keys: Iterable[Key], ways: Mapping[Key, Way], functions: Mapping[Key, Executable]
) -> tuple[str, ...]:
    """Return the SQL that closes ways."""
    sql: list[str] = []
    for key in sorted(keys):
        if key in functions:
            sql += _revoke_execute(probe, [functions[key]])
            continue
        way = ways.get(key)
        if way is None:
            continue
        if key[0] == RELATION:
            name = way.what.split(" ", way.what.startswith(("FOREIGN ", "MATERIALIZED ")) + 1)[-1]
            sql.append(_revoke("SELECT", f"TABLE {name}", probe.role, *(["PUBLIC"] if way.more else [])))
        elif key[0] == TYPE:
            sql.append(f"ALTER {way.what} {way.more};" if way.more else f"ALTER {way.what} DROP DEFAULT;")
        else:
            sql.append(f"DROP {way.what};")
    return tuple(dict.fromkeys(sql))


# -- the world outside -------------------------------------------------------------------------------------------------


def _mappings(probe: Probe) -> Iterator[Finding]:
    for mapping in probe.mappings:
        user = "PUBLIC" if mapping.public else probe.role
        yield Finding(
            "foreign-server",
            Severity.WARNING,
            f"USER MAPPING FOR {user} SERVER {mapping.server}",
            "It logs in to that server, as somebody who may be able to write there.",
            (f"DROP USER MAPPING FOR {user} SERVER {mapping.server};",),
        )


def _extensions(probe: Probe, taints: Mapping[Key, Taint] | None) -> Iterator[Finding]:
    of_extension: defaultdict[str, list[Executable]] = defaultdict(list)
    for function in probe.executables:
        if not function.definer and (taints is None or (FUNCTION, function.oid) in taints):
            of_extension[function.extension].append(function)
    for extension in probe.extensions:
        does = EXTENSIONS.get(extension.name)
        if does is None:
            continue
        why = f"{does[0].upper()}{does[1:]}."
        callable_ = of_extension.get(extension.name, [])
        severity = Severity.INFO
        if callable_ and not extension.name.endswith(("u", "_fdw")):
            severity = Severity.CRITICAL if extension.name in _ACTS_AT_ONCE else Severity.WARNING
            count = len(callable_)
            why += f" The role may execute {count} of its functions." if count > 1 else " The role may execute it."
            sql = _revoke_execute(probe, callable_)
        else:
            why += " The role may not execute what does that."
            sql = ()
        yield Finding("extension", severity, f"EXTENSION {extension.quoted}", why, sql)


def _secrets(probe: Probe) -> Iterator[Finding]:
    if probe.attributes.superuser:
        return
    for secret, readers in probe.secrets:
        table, _, column = secret.partition(" ")
        what = f"TABLE pg_catalog.{table}"
        sql: list[str] = []
        for reader in readers.split(", "):
            if reader == probe.role:
                sql += (_revoke(words, what, reader, "PUBLIC") for words in ("SELECT", f"SELECT {column}"))
            else:
                sql += _leave_for(probe, reader)
        why = "Whoever reads passwords, or their hashes, can become somebody else."
        yield Finding("readable-secret", Severity.CRITICAL, f"{what} {column}", why, tuple(dict.fromkeys(sql)))

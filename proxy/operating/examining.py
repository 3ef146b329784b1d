"""Read and prove the catalogue of a database, probe a role in it, and say what it may do: for `doctor` and `role`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from proxy.config.schema import Upstream
from proxy.databases.connector import Connector
from proxy.databases.helpers.messages import encode_results
from proxy.databases.helpers.prover import ProofError
from proxy.errors import SideCartError, UpstreamError
from proxy.operating import catalogue
from proxy.proofs import rows as catalog_rows
from proxy.role import findings
from proxy.role import probe as role_probe
from proxy.role.findings import Finding
from proxy.role.probe import Probe
from proxy.sql import tables
from proxy.sql.catalog import Catalog, Key, Taint
from proxy.sql.policy import Policy


class ExaminationError(SideCartError):
    """The database could not be asked: the text says why."""


class Examination(NamedTuple):
    """What was found out about a role in a database."""

    probe: Probe
    findings: tuple[Finding, ...]
    tls_version: str
    seconds: float
    """How long a connection with its TLS, its login and one Query took."""
    unproved: str
    """Why nothing could be proved of the functions; empty where they were judged."""


async def examine(
    upstream: Upstream,
    policy: Policy,
    role: str | None = None,
    prove: Callable[[bytes, Policy], Awaitable[Catalog]] = catalogue.prove_rows,
) -> Examination:
    """Examine a role; None: the one that `upstream` logs in with. Raises ExaminationError, ConfigError."""
    async with catalogue.visiting(upstream) as connector:
        try:
            return await _examine(connector, upstream.dbname, policy, role, prove)
        except UpstreamError as error:
            raise ExaminationError(error.for_operator.rstrip(".")) from error


async def _examine(
    connector: Connector,
    database: str,
    policy: Policy,
    role: str | None,
    prove: Callable[[bytes, Policy], Awaitable[Catalog]],
) -> Examination:
    began = time.monotonic()
    greeting = await connector.visit(database, b"SELECT pg_catalog.current_setting('server_version_num')")
    seconds = time.monotonic() - began
    (((version,),),) = greeting.results
    taints: Mapping[Key, Taint] | None = None
    unproved = ""
    rows = await connector.fetch_once(database, catalog_rows.load_query(tables.FUNCTIONS, whole=True))
    try:
        catalog = await prove(encode_results(rows), policy)
    except ProofError as error:
        unproved = str(error)
    else:
        # What the filter looks up is a mapping; its type says only that it can be asked.
        taints = dict(catalog.taints)  # type: ignore[call-overload]
    query = role_probe.query(int(version or b"0"), taints or {}, role)
    try:
        probe = role_probe.decode(await connector.fetch_once(database, query))
    except ValueError as error:
        raise ExaminationError(f"there is no role {role}" if role else "it gave an unexpected answer") from error
    return Examination(probe, findings.find(probe, taints), greeting.tls_version, seconds, unproved)

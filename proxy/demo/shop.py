"""Fill an embedded server with the sample shop and the read-only role, the way a user sets up a database does."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from importlib import resources

from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedError, EmbeddedServer
from proxy.operating import readonly_role
from proxy.operating.readonly_role import RoleError

OWNER = "shop_owner"
APPLICATION = "shop_app"
"""The role of the web shop itself: what PUBLIC loses it keeps. It has no password, so that nobody can log in as it."""
READER = "sidecart_reader"
DATABASE = "shop"


@dataclass(frozen=True, slots=True)
class Shop:
    """Hold what is needed to log in to the sample database, as its owner or as the read-only role."""

    dbname: str
    owner: str
    owner_password: str = field(repr=False)
    reader: str
    reader_password: str = field(repr=False)


def create(server: EmbeddedServer) -> Shop:
    """Create role, database, data and read-only role, and return how to log in.

    The owner is no superuser but one like the master user of Amazon RDS; it runs the same readonly_role.sql that users
    get. Raises EmbeddedError.
    """
    shop = Shop(DATABASE, OWNER, secrets.token_urlsafe(18), READER, secrets.token_urlsafe(18))
    server.sql(
        f"CREATE ROLE {shop.owner} LOGIN CREATEROLE CREATEDB PASSWORD '{shop.owner_password}';"
        f"CREATE ROLE {APPLICATION} LOGIN;"
        f"CREATE DATABASE {shop.dbname} OWNER {shop.owner} TEMPLATE template0;"
    )
    # Up to PostgreSQL 14 the schema belongs to the superuser, and its owner alone can take CREATE from PUBLIC.
    server.sql(f"ALTER SCHEMA public OWNER TO {shop.owner};", shop.dbname)
    server.sql(_data("shop.sql"), shop.dbname, user=shop.owner, password=shop.owner_password)
    try:
        asyncio.run(readonly_role.apply(administrator(server, shop), shop.reader, shop.reader_password))
    except RoleError as error:
        raise EmbeddedError(f"The read-only role of the sample database could not be made: {error}") from error
    return shop


def administrator(server: EmbeddedServer, shop: Shop) -> Upstream:
    """Return how the owner of the sample database logs in."""
    return Upstream(
        host=server.host,
        port=server.port,
        dbname=shop.dbname,
        user=shop.owner,
        password=shop.owner_password,
        sslrootcert=str(server.ca_file),
    )


def _data(name: str) -> str:
    return resources.files("proxy").joinpath("data", name).read_text(encoding="utf-8")

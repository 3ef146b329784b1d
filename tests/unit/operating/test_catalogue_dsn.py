"""Connection strings that `check --catalog` and `rules --catalog` take mean what they mean to libpq."""

from __future__ import annotations

import getpass

import pytest
from psycopg.conninfo import conninfo_to_dict

from proxy.operating.catalogue import CatalogueError, parse

WORDS = ("host", "port", "dbname", "user", "password", "sslmode", "sslrootcert")

GOOD = [
    "host=db.example.com dbname=app user=reader",
    "host = 'db.example.com'  port=6000 dbname = app password='it\\'s \\\\ here'",
    "user=a password=x\\ y host=h",
    "password=it's host=h",
    "password='' host=h dbname=d",
    "  host=h\n\tdbname=d  ",
    "host=/var/run/postgresql sslmode=disable connect_timeout=3 application_name=ci",
    "postgresql://",
    "postgres://db.example.com",
    "postgresql://reader@db.example.com:6000/app",
    "postgresql://reader:p%40ss%2Fw%C3%B6rd@db.example.com/app?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem",
    "postgresql://reader:a:b?c@h/app",
    "postgresql://reader:@h/",
    "postgresql://[::1]:6000/app",
    "postgresql://%2Fvar%2Frun%2Fpostgresql/app",
    "postgresql:///app?host=db.example.com&port=6000&user=u",
    "postgresql://h/a%20b?sslmode=require",
    "postgresql://u@h:/d",
]


@pytest.mark.parametrize("dsn", GOOD)
def test_connection_string_means_what_libpq_says(dsn: str) -> None:
    given = {word: str(value) for word, value in conninfo_to_dict(dsn).items() if value}
    upstream = parse(dsn, {})
    user = given.get("user", getpass.getuser())
    defaults = {"host": "localhost", "port": "5432", "user": user, "dbname": user, "password": "", "sslmode": "prefer"}
    assert {word: str(getattr(upstream, word)) for word in WORDS} == {
        word: given.get(word, defaults.get(word, "")) for word in WORDS
    }


def test_ssl_true_is_taken_for_jdbc_s_sake() -> None:
    assert parse("postgresql://h/d?ssl=true", {}).sslmode == "require"


def test_variables_stand_in_for_what_is_not_given() -> None:
    environ = {
        "PGHOST": "h",
        "PGPORT": "6000",
        "PGDATABASE": "d",
        "PGUSER": "u",
        "PGPASSWORD": "p",
        "PGSSLMODE": "require",
        "PGSSLROOTCERT": "ca.pem",
        "PGCONNECT_TIMEOUT": "7",
    }
    upstream = parse("port=7000", environ)
    assert (upstream.host, upstream.port, upstream.dbname, upstream.user) == ("h", 7000, "d", "u")
    assert (upstream.password, upstream.sslmode, upstream.sslrootcert) == ("p", "require", "ca.pem")
    assert upstream.connect_timeout == 7.0


@pytest.mark.parametrize(
    ("dsn", "says"),
    [
        ("app", "neither a URI"),
        ("host=h dbname", "neither a URI"),
        ("password='open", "neither a URI"),
        ("http://h/d", "neither a URI"),
        ("postgresql://a,b/d", "several hosts"),
        ("postgresql://a:1,b:2/d", "no URI"),
        ("postgresql://[::1/d", "no URI"),
        ("postgresql://h:65536/d", "port is"),
        ("host=h port=five", "port is"),
        ("host=h port=²", "port is"),
        ("host=h connect_timeout=soon", "connect_timeout is"),
        ("host=h sslmode=on", "sslmode is"),
        ("host=h,i", "several hosts"),
        ("host=h service=prod", '"service"'),
        ("host=h sslpassword=k", '"sslpassword"'),
        ("host=h channel_binding=maybe", "channel_binding is"),
        ("host=h require_auth=gss", "require_auth is"),
        ("host=h sslnegotiation=tls", "sslnegotiation is"),
        ("postgresql://h/d?hostaddr=127.0.0.1", '"hostaddr"'),
    ],
)
def test_what_does_not_work_is_named(dsn: str, says: str) -> None:
    with pytest.raises(CatalogueError, match=says):
        parse(dsn, {})


def test_password_is_never_repeated() -> None:
    for dsn in ("postgresql://u:secret@a,b/d", "password='secret", "host=h x=secret", "host=h password=secret port=x"):
        with pytest.raises(CatalogueError) as caught:
            parse(dsn, {})
        assert "secret" not in caught.value.message

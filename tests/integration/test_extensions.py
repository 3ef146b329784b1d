"""Extensions in C that nobody has looked at: ordinary statements over ordinary tables do not mind them.

Each test takes the extensions that the server has: packages of a distribution, as postgresql-15-hll.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.commands.embedded import EmbeddedError, EmbeddedServer
from proxy.filter import Policy
from proxy.verdict import Action
from tests.integration.test_reach import learn

UNKNOWN = (
    *("asn1oid", "debversion", "hll", "ip4r", "jsquery", "numeral", "orafce", "pg_rational", "pgpcre", "pgmp"),
    *("pointcloud", "prefix", "q3c", "rum", "semver", "tdigest", "unit"),
)
KNOWN = (
    *("btree_gin", "btree_gist", "citext", "cube", "dblink", "earthdistance", "fuzzystrmatch", "hstore", "intarray"),
    *("isn", "lo", "ltree", "pageinspect", "pg_stat_statements", "pg_trgm", "pgcrypto", "pgrowlocks", "pgstattuple"),
    *("postgis", "postgis_raster", "postgis_topology", "postgres_fdw", "seg", "tablefunc", "unaccent", "uuid-ossp"),
    *("vector", "xml2"),
)
TABLES = """
CREATE TABLE customers (id bigserial PRIMARY KEY, name text NOT NULL, email varchar(200), status varchar(20),
    country char(2), created_at timestamptz DEFAULT now(), tags text[], meta jsonb, ip inet, active bool);
CREATE TABLE orders (id serial PRIMARY KEY, customer_id bigint REFERENCES customers, total numeric(12, 2), quantity int,
    placed timestamp, shipped_on date, note text, status text);
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON customers (lower(email));
CREATE VIEW big_orders AS SELECT id, customer_id, total FROM orders WHERE total > 100 AND status <> 'void';
CREATE FUNCTION vat(x numeric) RETURNS numeric LANGUAGE sql AS 'SELECT round(x * 0.19, 2)';
"""
STATEMENTS = (
    "SELECT * FROM customers WHERE id = 5",
    "SELECT * FROM customers WHERE id = '5' OR status = 'active' AND country IN ('DE', 'FR')",
    "SELECT count(*) FROM orders WHERE total > 100",
    "SELECT id, total * quantity AS amount FROM orders ORDER BY amount DESC LIMIT 10",
    "SELECT c.name, sum(o.total) FROM customers c JOIN orders o ON o.customer_id = c.id GROUP BY c.name"
    " HAVING sum(o.total) > 1000",
    "SELECT * FROM customers WHERE created_at >= '2024-01-01' AND created_at < now() - interval '7 days'",
    "SELECT date_trunc('month', placed) AS m, count(*), avg(total) FROM orders GROUP BY 1 ORDER BY 1",
    "SELECT lower(email), upper(name), length(name), substr(name, 1, 3) FROM customers WHERE email LIKE '%@x.com'",
    "SELECT name || ' <' || email || '>' FROM customers",
    "SELECT * FROM orders WHERE id BETWEEN 10 AND 20 AND quantity <> 0",
    "SELECT CASE status WHEN 'paid' THEN 1 ELSE 0 END, coalesce(note, ''), nullif(status, '') FROM orders",
    "SELECT * FROM orders o WHERE EXISTS (SELECT 1 FROM customers c WHERE c.id = o.customer_id AND c.active)",
    "WITH m AS (SELECT customer_id, sum(total) AS s FROM orders GROUP BY customer_id) SELECT * FROM m WHERE s > 500",
    "SELECT rank() OVER (PARTITION BY customer_id ORDER BY total DESC), row_number() OVER () FROM orders",
    "SELECT extract(year FROM placed) AS y, round(avg(total), 2) FROM orders WHERE extract(year FROM placed) = 2024"
    " GROUP BY 1",
    "SELECT meta->>'plan', meta @> '{}', tags && ARRAY['x'], 'x' = ANY(tags), ip << '10.0.0.0/8' FROM customers",
    "SELECT placed::date, shipped_on - placed::date FROM orders WHERE shipped_on > placed::date + 3",
    "SELECT * FROM customers c LEFT JOIN orders o USING (id) WHERE o.id IS NULL",
    "SELECT DISTINCT ON (customer_id) * FROM orders ORDER BY customer_id, placed DESC",
    "SELECT * FROM customers WHERE id = $1 AND status = $2 AND created_at > $3",
    "SELECT o.id FROM big_orders o WHERE total = 5 UNION SELECT c.id FROM customers c WHERE c.name ~* '^a'",
    "SELECT vat(total), quantity::numeric / 3, -total, abs(total), quantity & 1 FROM orders",
)
EVERY = f"""
SET client_min_messages = error;
DO $$ DECLARE extension text; BEGIN
    FOR extension IN SELECT name FROM pg_available_extensions WHERE name = ANY('{{{",".join(UNKNOWN + KNOWN)}}}') LOOP
        BEGIN
            EXECUTE format('CREATE EXTENSION IF NOT EXISTS %I CASCADE', extension);
        EXCEPTION WHEN OTHERS THEN NULL; -- some want libraries, or settings at start
        END;
    END LOOP;
END $$"""
COUNTED = "CREATE TABLE counted (id int, seen hll); INSERT INTO counted VALUES (1, hll_empty())"


@pytest.fixture(scope="module")
def available(postgres: EmbeddedServer) -> set[str]:
    return set(postgres.sql("SELECT name FROM pg_available_extensions").split())


@pytest.fixture
def database(postgres: EmbeddedServer) -> Iterator[str]:
    postgres.sql("CREATE DATABASE extensions")
    try:
        postgres.sql(TABLES, "extensions")
        yield "extensions"
    finally:
        postgres.sql("DROP DATABASE extensions")


def make(server: EmbeddedServer, database: str, name: str) -> bool:
    """Make an extension; not every package can be: some want libraries, or settings at start."""
    try:
        server.sql(f'SET client_min_messages = error; CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE', database)
    except EmbeddedError:
        return False
    return True


def refused(server: EmbeddedServer, database: str) -> dict[str, str]:
    judge = learn(server, database)
    verdicts = {text: judge.judge(text.encode(), extended=1) for text in STATEMENTS}
    return {text: verdict.detail for text, verdict in verdicts.items() if verdict.action is not Action.ALLOW}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_extension_spoils_no_ordinary_statement(
    postgres: EmbeddedServer, database: str, available: set[str], name: str
) -> None:
    if name not in available or not make(postgres, database, name):
        pytest.skip(f"the extension {name} is not installed on this server")
    assert refused(postgres, database) == {}


def test_all_extensions_together_spoil_no_ordinary_statement(postgres: EmbeddedServer, database: str) -> None:
    postgres.sql(EVERY, database)
    assert refused(postgres, database) == {}


def test_trusted_extension(postgres: EmbeddedServer, database: str, available: set[str]) -> None:
    if "hll" not in available or not make(postgres, database, "hll"):
        pytest.skip("the extension hll is not installed on this server")
    postgres.sql(COUNTED, database)
    judge = learn(postgres, database)
    assert judge.judge(b"SELECT id FROM counted WHERE id = 1").action is Action.ALLOW
    texts = (
        b"SELECT * FROM counted",
        b"SELECT id, hll_cardinality(seen) FROM counted",
        b"SELECT id, # seen FROM counted WHERE seen = hll_empty()",
        b"SELECT hll_union_agg(seen) || hll_empty() FROM counted",
    )
    for text in texts:
        assert judge.judge(text).hint.endswith('or all of the extension: filter.allow_extensions: ["hll"].')
    trusting = learn(postgres, database, Policy(allow_extensions=("hll",)))
    assert [text for text in texts if trusting.judge(text).action is not Action.ALLOW] == []

"""The configuration: precedence, forms of values, and errors that say where and what would be right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from proxy.config.load import load
from proxy.config.schema import (
    ENVIRONMENT_NAMES,
    SECTIONS,
    Config,
    Database,
    FilterConfig,
    Listen,
    Metrics,
    PoolLimits,
    Upstream,
    filter_policy,
    start_up_notes,
)
from proxy.errors import ConfigError

ROOT = Path(__file__).parents[3]
MINIMAL = {"DB_HOST": "db.example", "DB_READONLY_USERNAME": "reader"}
SECRET = "hunter2-and-more"


def wrong(text: str | None, environ: dict[str, str] | None = None, *, source: str = "config.yaml") -> list[str]:
    """Return the lines of the error that this configuration causes, which never hold the secret."""
    with pytest.raises(ConfigError) as caught:
        load(text, MINIMAL if environ is None else environ, source=source)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    return str(caught.value).splitlines()


def test_environment_alone_is_enough() -> None:
    environ = {
        "DB_HOST": "db.example",
        "DB_PORT": "5433",
        "DB_NAME": "app",
        "DB_READONLY_USERNAME": "reader",
        "DB_READONLY_PASSWORD": SECRET,
        "DB_SSLMODE": "verify-ca",
        "DB_SSLROOTCERT": "ca.pem",
        "DB_CONNECT_TIMEOUT": "3",
    }
    assert set(environ) == set(ENVIRONMENT_NAMES)
    assert load(None, environ).upstream == Upstream(
        host="db.example",
        port=5433,
        dbname="app",
        user="reader",
        password=SECRET,
        sslmode="verify-ca",
        sslrootcert="ca.pem",
        connect_timeout=3.0,
    )


def test_documented_file_holds_every_key_with_its_default() -> None:
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    assert load(text, MINIMAL) == Config(upstream=Upstream(host="db.example", user="reader"))
    documented = {section: set(keys or ()) for section, keys in yaml.safe_load(text).items()}
    assert documented.pop("databases") == set()
    assert documented == {name: {item.name for item in dataclasses.fields(kind)} for name, kind in SECTIONS.items()}


def test_environment_beats_file_and_long_name_beats_short_name() -> None:
    text = "upstream: {host: from-file, user: u, port: 1}\npool: {default_pool_size: 3}"
    environ = {"DB_HOST": "short", "SIDECART_UPSTREAM_HOST": "long", "SIDECART_POOL_DEFAULT_POOL_SIZE": "7"}
    config = load(text, environ)
    assert (config.upstream.host, config.upstream.port, config.pool.default_pool_size) == ("long", 1, 7)


KEYS = [(section, item.name) for section, kind in SECTIONS.items() for item in dataclasses.fields(kind)]
FREE_TEXT = {
    *("user", "password", "password_file", "password_command", "aws_secret", "aws_region", "dbname"),
    *("sslrootcert", "sslcert", "sslkey", "application_name", "tls_cert_file", "tls_key_file", "tls_ca_file"),
    "tls_crl_file",
    *("unix_socket_dir", "unix_socket_owner", "unix_socket_group", "users_file", "file"),
}
STRUCTURES = {"rules", "users"}
_LISTS = ("_functions", "_extensions")


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_can_come_from_the_environment(section: str, key: str) -> None:
    variable = f"SIDECART_{section}_{key}".upper()
    if key in STRUCTURES:
        assert wrong(None, MINIMAL | {variable: "t"})[0].startswith(f"{variable}: must be ")
    elif key.endswith(_LISTS) or key in FREE_TEXT:
        pairs = (
            "LISTEN_TLS_CERT_FILE",
            "LISTEN_TLS_KEY_FILE",
            "LISTEN_TLS_CA_FILE",
            "UPSTREAM_SSLCERT",
            "UPSTREAM_SSLKEY",
        )
        environ = {f"SIDECART_{name}": "t" for name in pairs}
        value = getattr(getattr(load(None, MINIMAL | environ | {variable: "t"}), section), key)
        assert value == (("t",) if key.endswith(_LISTS) else "t")
    else:
        assert wrong(None, MINIMAL | {variable: "\t"})[0].startswith(f"{variable}: must be ")


def test_extensions_are_named_one_by_one() -> None:
    config = load("filter: {allow_extensions: [hll, uuid-ossp]}", MINIMAL)
    assert filter_policy(config).allow_extensions == ("hll", "uuid-ossp")


def test_empty_variable_counts_as_not_set() -> None:
    config = load("upstream: {host: h, user: u, port: 5}", {"DB_PORT": "", "DB_HOST": "", "SIDECART_LOG_LEVEL": ""})
    assert (config.upstream.host, config.upstream.port, config.log.level) == ("h", 5, "info")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30.0), ("0.5", 0.5), ("30s", 30.0), ("500ms", 0.5), ("5min", 300.0), ("5 min", 300.0), ("1h", 3600.0)],
)
def test_duration(text: str, seconds: float) -> None:
    assert load(f"pool: {{query_wait_timeout: {text}}}", MINIMAL).pool.query_wait_timeout == seconds
    assert load(None, MINIMAL | {"SIDECART_POOL_QUERY_WAIT_TIMEOUT": text}).pool.query_wait_timeout == seconds


@pytest.mark.parametrize("text", ["-1", "1m", "nan", "inf", "1e3", "999d", "soon", "1:30", "0x10", "1_000s"])
def test_wrong_duration_is_refused(text: str) -> None:
    [line] = wrong(f"pool:\n  query_wait_timeout: {text}")
    assert line.startswith("config.yaml, line 2: pool.query_wait_timeout: must be seconds, or a duration such as")


def test_duration_of_zero_is_refused_where_it_means_nothing() -> None:
    [line] = wrong("upstream:\n  connect_timeout: 0")
    assert "upstream.connect_timeout: must be" in line and "more than 0" in line


def test_retry_is_on_by_default_and_its_age_may_be_zero() -> None:
    assert load(None, MINIMAL).pool.retry is True
    pool = load("pool: {retry: off, retry_max_age: 0, max_prepared_statements: 1}", MINIMAL).pool
    assert (pool.retry, pool.retry_max_age, pool.max_prepared_statements) == (False, 0.0, 1)


@pytest.mark.parametrize("count", ["0", "10001"])
def test_number_of_prepared_statements_is_bounded(count: str) -> None:
    [line] = wrong(f"pool:\n  max_prepared_statements: {count}")
    assert "pool.max_prepared_statements: must be a whole number from 1 to 10000" in line


@pytest.mark.parametrize(
    ("text", "size"), [("2048", 2048), ("1MB", 1 << 20), ("64kB", 1 << 16), ("1 GB", 1 << 30), ("4096B", 4096)]
)
def test_size(text: str, size: int) -> None:
    assert load(f"client: {{max_query_length: {text}}}", MINIMAL).client.max_query_length == size


@pytest.mark.parametrize("text", ["1TB", "-1", "1.5MB", "2GB", "1", "big"])
def test_wrong_size_is_refused(text: str) -> None:
    [line] = wrong(f"client: {{max_query_length: {text}}}")
    assert "client.max_query_length: must be a number of bytes, or a size such as" in line


def test_words_of_yaml_that_look_like_other_types_stay_words() -> None:
    text = "listen: {tls: off}\nupstream: {host: h, user: on, password: 0123, dbname: 1_0}"
    config = load(text, {})
    assert config.listen.tls == "off"
    assert (config.upstream.user, config.upstream.password, config.upstream.dbname) == ("on", "0123", "1_0")


def test_functions_are_a_list_in_the_file_and_separated_by_commas_in_the_environment() -> None:
    assert load("filter: {allow_functions: [public.slugify, f]}", MINIMAL).filter.allow_functions == (
        "public.slugify",
        "f",
    )
    environ = MINIMAL | {"SIDECART_FILTER_DENY_FUNCTIONS": "a, b"}
    assert load("filter: {allow_functions: []}", environ).filter.deny_functions == ("a", "b")


def test_patterns_are_names_of_functions() -> None:
    config = load("filter: {allow_functions: [postgis.st_*, '*']}", MINIMAL)
    assert config.filter.allow_functions == ("postgis.st_*", "*")


def test_mode_of_the_filter() -> None:
    assert load(None, MINIMAL).filter.mode == "enforce"
    assert load("filter: {mode: observe}", MINIMAL).filter.mode == "observe"
    assert wrong("filter: {mode: off}") == [
        "config.yaml, line 1: filter.mode: must be one of enforce, observe; it is 'off'"
    ]


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("500ms", 0.5), ("5min", 300.0)])
def test_refresh_of_the_catalogue(text: str, seconds: float) -> None:
    assert load(None, MINIMAL).filter.catalog_refresh == 60.0
    assert load(f"filter: {{catalog_refresh: {text}}}", MINIMAL).filter.catalog_refresh == seconds


def test_relative_path_in_a_file_is_relative_to_that_file() -> None:
    text = "upstream: {sslrootcert: ca.pem}\nlisten: {tls_cert_file: /c.pem, tls_key_file: keys/k.pem}"
    config = load(text, MINIMAL, source="/etc/sidecart/config.yaml")
    assert config.upstream.sslrootcert == "/etc/sidecart/ca.pem"
    assert (config.listen.tls_cert_file, config.listen.tls_key_file) == ("/c.pem", "/etc/sidecart/keys/k.pem")
    environ = MINIMAL | {"DB_SSLROOTCERT": "ca.pem"}
    assert load("", environ, source="/etc/sidecart/config.yaml").upstream.sslrootcert == "ca.pem"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "pool:\n  default_poolsize: 3",
            "config.yaml, line 2: pool.default_poolsize: there is no such key; did you mean",
        ),
        ("pool:\n  default_poolsize: 3", "pool.default_pool_size?"),
        ("client:\n  backlog: 3", "did you mean listen.backlog?"),
        ("log:\n  zzz: 3", "section log has level, file"),
        ("upstreem:\n  host: h", "config.yaml, line 1: upstreem: there is no such section; did you mean upstream?"),
        ("password: x", "the key password belongs into section upstream"),
        ("zzz: 1", "the sections are listen, auth, upstream, pool"),
        ("log: info", "config.yaml, line 1: log: log must hold keys and values: level, file"),
        ("- 1", "config.yaml, line 1: the file must hold sections"),
        ("log:\n  level: [a]", "config.yaml, line 2: log.level: must be a single value"),
        ("log:\n  level: {a: b}", "config.yaml, line 2: log.level: must be a single value"),
        ("log:\n  level: !x info", "config.yaml, line 2: log.level: must be a single value"),
        ("filter:\n  allow_functions: {a: b}", "line 2: filter.allow_functions: must be a list of function names"),
        ("filter:\n  allow_functions: ['f(int)']", "must be names of functions without their arguments"),
        ("filter:\n  allow_extensions: {a: b}", "line 2: filter.allow_extensions: must be a list of extension names"),
        ("filter:\n  allow_extensions: ['*']", "must be names of extensions, such as unit"),
        ("filter:\n  allow_functions: [f]\n  deny_functions: [f]", "line 2: filter.allow_functions: f stands in"),
        ("log:\n  level: loud", "log.level: must be one of debug, info, warning, error; it is 'loud'"),
        ("listen:\n  port: 65536", "listen.port: must be a whole number from 0 to 65535; it is '65536'"),
        ("upstream:\n  port: 0", "upstream.port: must be a whole number from 1 to 65535; it is '0'"),
        ("metrics:\n  enabled: maybe", "metrics.enabled: must be true or false; it is 'maybe'"),
        ("pool:\n  default_pool_size: 0", "pool.default_pool_size: must be a whole number from 1"),
        ("pool:\n  min_pool_size: 11", "line 2: pool.min_pool_size: min_pool_size (11) must not be larger than"),
        ("pool:\n  default_pool_size: 2\n  min_pool_size: 3", "line 3: pool.min_pool_size: min_pool_size (3) must not"),
        ("listen:\n  tls_cert_file: c", "line 2: listen.tls_cert_file: tls_cert_file and tls_key_file must be set"),
        ("a: b: c", "config.yaml, line 1: this is not valid YAML: mapping values are not allowed here"),
        ("log: {level: info}\x00", "this is not valid YAML"),
        ("log:\n  <<: {level: info}", "line 2: log.<<: there is no such key"),
    ],
)
def test_mistake_is_named_with_its_line_and_what_is_right(text: str, expected: str) -> None:
    [line] = wrong(text)
    assert expected in line


def test_duplicate_key_is_a_mistake() -> None:
    assert wrong("log:\n  level: info\n  level: debug") == [
        "config.yaml, line 3: log.level: this key stands twice, first in line 2; remove one of them"
    ]
    assert wrong("log: {}\nlog:") == [
        "config.yaml, line 2: log: this key stands twice, first in line 1; remove one of them"
    ]


def test_all_problems_are_listed_one_a_line() -> None:
    lines = wrong("pool:\n  max_logins: 0\nlog:\n  level: x\nlisten:\n  prt: 1", {"DB_PORT": "x"})
    assert [
        line.split(" ")[0] if "required" in line else line.partition(": ")[2].partition(":")[0] for line in lines
    ] == [
        "listen.prt",
        "upstream.host",
        "must be a whole number from 1 to 65535; it is 'x'",
        "upstream.user",
        "pool.max_logins",
        "log.level",
    ]


def test_variable_of_a_section_with_an_unknown_key_is_a_mistake() -> None:
    [line] = wrong(None, MINIMAL | {"SIDECART_LISTEN_PROT": "1"})
    assert line == "SIDECART_LISTEN_PROT: there is no such setting; did you mean SIDECART_LISTEN_PORT?"


def test_variables_that_kubernetes_sets_for_services_are_left_alone() -> None:
    environ = MINIMAL | {
        "SIDECART_SERVICE_HOST": "10.0.0.1",
        "SIDECART_PORT": "tcp://10.0.0.1:6432",
        "SIDECART_METRICS_PORT": "tcp://10.0.0.1:9632",
        "SIDECART_METRICS_SERVICE_HOST": "10.0.0.1",
        "SIDECART_METRICS_SERVICE_PORT_HTTP": "9632",
        "SIDECART_METRICS_PORT_9632_TCP": "tcp://10.0.0.1:9632",
        "SIDECART_METRICS_PORT_9632_TCP_ADDR": "10.0.0.1",
    }
    assert load(None, environ).metrics == Metrics()


@pytest.mark.parametrize(
    "text",
    [
        f"upstream:\n  password: *{SECRET}",
        f"upstream:\n  password: @{SECRET}",
        f"upstream:\n  password: [{SECRET}]",
        f"upstream:\n  password: {{{SECRET}: x}}",
        f"upstream:\n  password: !{SECRET} x",
        f"upstream:\n  pasword: {SECRET}",
        f"upstream:\n  password: {SECRET}\n  password: {SECRET}",
        f"upstream:\n  host: postgres://reader:{SECRET}@db/app",
        f"upstream:\n  password: '{SECRET}\n",
        f'upstream:\n  password: "{SECRET}\\q"',
        f'upstream:\n  password: "{SECRET}\\0"',
        f"upstream:\n  password: {SECRET}: x",
        f"upstream: {SECRET}",
        f"password: {SECRET}",
    ],
)
def test_password_is_in_no_error(text: str) -> None:
    assert wrong(text, {})


def test_password_is_in_no_repr() -> None:
    config = load(None, MINIMAL | {"DB_READONLY_PASSWORD": SECRET})
    assert config.upstream.password == SECRET
    assert SECRET not in repr(config) and SECRET not in str(config.upstream)


@pytest.mark.parametrize("host", ["db:5432", "[::1]", "postgres://db", "a b", "u@db"])
def test_host_that_is_more_than_a_host_is_refused(host: str) -> None:
    assert "a host name or an IP address alone" in wrong(None, MINIMAL | {"DB_HOST": host})[0]


@pytest.mark.parametrize("host", ["db.example", "10.0.0.1", "::1", "fe80::1%eth0", "localhost"])
def test_host(host: str) -> None:
    assert load(None, MINIMAL | {"DB_HOST": host}).upstream.host == host


def test_start_up_notes() -> None:
    quiet = Upstream(host="db.example", user="u", password="p")
    assert start_up_notes(Config(upstream=quiet)) == ()
    assert start_up_notes(Config(upstream=dataclasses.replace(quiet, host="127.0.0.1", sslmode="disable"))) == ()
    loose = dataclasses.replace(quiet, sslmode="require", password="")
    assert [note.split(" ")[0] for note in start_up_notes(Config(upstream=loose))] == [
        "upstream.sslmode",
        "upstream.password",
    ]
    certified = dataclasses.replace(quiet, password="", sslcert="c.pem", sslkey="c.key")
    assert start_up_notes(Config(upstream=certified)) == ()
    elsewhere = {
        "a": Database(upstream=dataclasses.replace(quiet, host="other", sslmode="prefer"), pool=PoolLimits()),
        "b": Database(upstream=quiet, pool=PoolLimits()),
    }
    [note] = start_up_notes(Config(upstream=quiet, databases=elsewhere))
    assert note.startswith("databases.a.sslmode is prefer: ")
    open_wide = Listen(host="0.0.0.0", tls="off")
    [clear] = start_up_notes(Config(upstream=quiet, listen=open_wide))
    assert clear.startswith("listen.tls is off and listen.host is 0.0.0.0: ")
    assert start_up_notes(Config(upstream=quiet, listen=dataclasses.replace(open_wide, host="127.0.0.1"))) == ()
    [loud] = start_up_notes(Config(upstream=quiet, filter=FilterConfig(mode="observe")))
    assert loud.startswith("filter.mode is observe: ")
    assert "LET THROUGH" in loud


def test_sql_script_has_one_text() -> None:
    assert (ROOT / "sql/readonly_role.sql").read_bytes() == (ROOT / "proxy/data/readonly_role.sql").read_bytes()


# --- rules, users, databases ------------------------------------------------------------------------------------------

VERIFIER = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
    "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)


def test_rules_name_networks_databases_users_and_a_method() -> None:
    text = """
auth:
  rules:
    - {from: local, method: trust}
    - {from: 10.1.0.0/16, database: [app, reports], user: alice, method: scram-sha-256}
    - {from: all, user: all, method: reject}
"""
    local, office, rest = load(text, MINIMAL).auth.rules
    assert (local.networks, local.method, local.is_local) == ((), "trust", True)
    assert [str(network) for network in office.networks] == ["10.1.0.0/16"]
    assert (office.databases, office.users, office.is_local) == (("app", "reports"), ("alice",), False)
    assert (len(rest.networks), rest.users, rest.method) == (2, (), "reject")
    environ = MINIMAL | {"SIDECART_AUTH_RULES": "[{from: loopback, method: trust}]"}
    assert load(text, environ).auth.rules[0].is_local


@pytest.mark.parametrize("place", ["all", "0.0.0.0/0", "10.0.0.1", "126.0.0.0/7", "::/0", "::2"])
def test_trust_of_a_network_does_not_start(place: str) -> None:
    [line] = wrong(f"auth:\n  rules:\n    - {{from: '{place}', method: trust}}")
    assert line.startswith("config.yaml, line 3: auth.rules[1]: trust is accepted from local and loopback only")


@pytest.mark.parametrize("place", ["local", "loopback", "127.0.0.1", "127.3.0.0/16", "::1"])
def test_trust_of_this_machine_starts(place: str) -> None:
    assert load(f"auth: {{rules: [{{from: '{place}', method: trust}}]}}", MINIMAL).auth.rules[0].is_local


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("{method: reject}", "auth.rules[1]: from is missing"),
        ("{from: all}", "auth.rules[1]: method is missing"),
        ("{from: 10.0.0.1/8, method: reject}", "from must be local (the Unix socket), loopback, all"),
        ("{from: [all], method: reject}", "from must be local"),
        ("{from: all, method: md5}", "method must be one of trust, scram-sha-256, cert, reject"),
        ("{from: all, method: cert}", "the method cert needs listen.tls_ca_file"),
        ("{from: all, method: reject, usr: me}", "auth.rules[1].usr: there is no such key; did you mean user?"),
        ("{from: all, method: reject, user: []}", "auth.rules[1]: user must be all, a name, or a list of names"),
        ("trust", "auth.rules[1] must hold keys and values: from, database, user, method"),
    ],
)
def test_mistake_in_a_rule_is_named(rule: str, expected: str) -> None:
    lines = wrong(f"auth:\n  rules:\n    - {rule}")
    assert expected in lines[0] and "line" in lines[0]
    assert not any("line" in line for line in wrong(None, MINIMAL | {"SIDECART_AUTH_RULES": f"[{rule}]"}))


def test_users_have_verifiers() -> None:
    assert load(f"auth: {{users: {{alice: {VERIFIER}}}}}", MINIMAL).auth.users == (("alice", VERIFIER),)
    environ = MINIMAL | {"SIDECART_AUTH_USERS": f"{{alice: {VERIFIER}}}"}
    config = load(None, environ)
    assert config.auth.users == (("alice", VERIFIER),)
    assert VERIFIER not in repr(config)


@pytest.mark.parametrize("value", [SECRET, f"md5{'0' * 32}", VERIFIER[:-4], f"{VERIFIER}x", "", f"[{SECRET}]"])
def test_password_in_the_place_of_a_verifier_is_refused_and_not_shown(value: str) -> None:
    [line] = wrong(f"auth:\n  users:\n    alice: {value}")
    assert line.startswith("config.yaml, line 3: auth.users: the value of 'alice' must be a SCRAM-SHA-256 verifier")


def test_database_elsewhere_is_like_the_upstream_but_for_what_it_says() -> None:
    text = """
upstream: {host: main, user: reader, password: secret, sslmode: verify-ca}
pool: {default_pool_size: 8, query_wait_timeout: 3s}
databases:
  reports: {host: replica, dbname: app, default_pool_size: 1, max_client_conn: 5}
  billing: {user: other, password_file: billing.pw}
"""
    config = load(text, {}, source="/etc/sidecart.yaml")
    reports, billing = config.database("reports"), config.database("billing")
    assert reports is not None and billing is not None
    assert (reports.upstream.host, reports.upstream.dbname, reports.upstream.password) == ("replica", "app", "secret")
    assert (reports.upstream.sslmode, reports.pool.query_wait_timeout) == ("verify-ca", 3.0)
    assert (reports.pool.default_pool_size, reports.pool.min_pool_size, reports.max_client_conn) == (1, 1, 5)
    assert (billing.upstream.host, billing.upstream.dbname, billing.upstream.user) == ("main", "billing", "other")
    assert (billing.upstream.password, billing.upstream.password_file) == ("", "/etc/billing.pw")
    assert load(None, MINIMAL | {"SIDECART_DATABASES": "{a: {port: 1}}"}).databases["a"].upstream.port == 1


def test_database_of_another_name_is_the_upstreams_unless_that_has_one() -> None:
    config = load("upstream: {host: h, user: u}\ndatabases: {a: {port: 1}}", {})
    found = config.database("b")
    assert found is not None and found.upstream.dbname == "b" and found.pool is config.pool
    config = load("upstream: {host: h, user: u, dbname: only}\ndatabases: {a: {port: 1}}", {})
    assert config.database("b") is None
    assert config.database("only") is not None and config.database("a") is not None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{prt: 1}", "databases.a.prt: there is no such key; did you mean port?"),
        ("{port: 0}", "databases.a.port: must be a whole number from 1"),
        ("{port: [1]}", "databases.a.port: must be a single value"),
        ("x", "databases.a must hold keys and values: host"),
        ("{min_pool_size: 11}", "databases.a: min_pool_size (11) must not be larger than"),
        (f"{{password: {SECRET}, aws_iam: on}}", "databases.a: password and aws_iam are set"),
        ("{sslcert: c}", "databases.a: sslcert and sslkey must be set together"),
    ],
)
def test_mistake_in_a_database_is_named(entry: str, expected: str) -> None:
    [line] = wrong(f"databases:\n  a: {entry}")
    assert expected in line and line.startswith("config.yaml, line 2: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("upstream: {password: x, password_file: y}", "password and password_file are set; the password can come from"),
        ("upstream: {aws_iam: on, sslmode: require}", "sslmode must be verify-full (or verify-ca), not require"),
        ("upstream: {channel_binding: require, sslmode: disable}", "channel_binding require needs TLS"),
        ("upstream: {sslnegotiation: direct, sslmode: prefer}", "sslnegotiation direct leaves no way back"),
        ("upstream: {require_auth: scram}", "must be one or several of scram-sha-256, md5, password, none"),
        ("upstream: {application_name: '{who}'}", "{user} and {application} are the only words in braces"),
        ("listen: {tls: verify}", "verify needs listen.tls_ca_file"),
        ("listen: {tls_crl_file: x}", "listen.tls_crl_file: it needs listen.tls_ca_file"),
        ("listen: {unix_socket_mode: 0888}", "must be permissions in octal"),
        ("client: {statement_rate: -1}", "must be a number per second"),
    ],
)
def test_keys_of_both_doors_are_checked(text: str, expected: str) -> None:
    [line] = wrong(text)
    assert expected in line

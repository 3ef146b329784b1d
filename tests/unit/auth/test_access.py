"""Rules, users and the users file: who has to prove what, and what is said of a wrong line."""

from __future__ import annotations

import ipaddress

import pytest

from proxy.auth.access import LOCAL_PEER, Access, Origin, origin_of
from proxy.auth.scram import Verifier, make_verifier
from proxy.auth.users import OwnLogin, Users, read_users_file, users_file_line
from proxy.config.schema import AuthRule
from proxy.config.values import networks
from proxy.errors import ConfigError, LoginRefusedError

ONE = make_verifier("one", 4096, b"salt-of-16-bytes")
TWO = make_verifier("two", 4096, b"16-bytes-of-salt")
UNIX = Origin(None)


def from_(address: str, tls: str = "") -> Origin:
    return Origin(origin_of(address), tls)


def rule(place: str, method: str, databases: str = "", users: str = "") -> AuthRule:
    return AuthRule(
        networks=networks(place), databases=tuple(databases.split()), users=tuple(users.split()), method=method
    )


# --- where a client comes from ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "means"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_address_of_a_peer(told: str, means: str) -> None:
    assert origin_of(told) == ipaddress.ip_address(means)


def test_unix_socket_has_no_address() -> None:
    assert origin_of("") is None
    assert UNIX.peer == LOCAL_PEER == "[local]"


# --- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "method"),
    [
        (UNIX, "trust"),
        (from_("127.0.0.1"), "trust"),
        (from_("127.8.9.1"), "trust"),
        (from_("::1"), "trust"),
        (from_("::ffff:127.0.0.1"), "trust"),
        (from_("10.0.0.1"), "scram-sha-256"),
        (from_("::ffff:10.0.0.1"), "scram-sha-256"),
        (from_("2001:db8::1", "TLSv1.3"), "scram-sha-256"),
    ],
)
def test_without_rules_this_machine_is_trusted_and_others_need_a_password(origin: Origin, method: str) -> None:
    assert Access().method(origin, "shop", "alice") == method


def test_first_rule_that_fits_decides() -> None:
    access = Access(
        (
            rule("10.0.0.0/8", "reject", users="mallory"),
            rule("10.0.0.0/8", "cert", databases="audit payroll"),
            rule("10.0.0.0/8", "scram-sha-256"),
            rule("local", "trust", users="root"),
            rule("all", "cert", databases="public"),
        )
    )
    assert access.method(from_("10.1.1.1"), "payroll", "alice") == "cert"
    assert access.method(from_("10.1.1.1"), "shop", "alice") == "scram-sha-256"
    assert access.method(UNIX, "shop", "root") == "trust"
    assert access.method(from_("192.0.2.7"), "public", "alice") == "cert"
    with pytest.raises(LoginRefusedError, match=r"pg_hba\.conf rejects connection") as caught:
        access.method(from_("10.1.1.1"), "payroll", "mallory")
    assert (caught.value.sqlstate, caught.value.why) == ("28000", "auth.rules[1] rejects it")


def test_all_networks_are_not_the_unix_socket() -> None:
    with pytest.raises(LoginRefusedError):
        Access((rule("all", "scram-sha-256"),)).method(UNIX, "shop", "alice")


def test_rule_of_one_version_of_ip_says_nothing_of_the_other() -> None:
    access = Access((rule("::/0", "scram-sha-256"),))
    assert access.method(from_("2001:db8::1"), "shop", "alice") == "scram-sha-256"
    with pytest.raises(LoginRefusedError):
        access.method(from_("10.0.0.1"), "shop", "alice")


@pytest.mark.parametrize(("tls", "says"), [("", "no encryption"), ("TLSv1.3", "SSL encryption")])
def test_no_rule_is_told_in_the_words_of_pg_hba(tls: str, says: str) -> None:
    with pytest.raises(LoginRefusedError) as caught:
        Access((rule("10.0.0.0/8", "cert"),)).method(from_("192.0.2.1", tls), "shop", "alice")
    error = caught.value
    assert str(error) == f'no pg_hba.conf entry for host "192.0.2.1", user "alice", database "shop", {says}'
    assert error.sqlstate == "28000"
    assert "auth.rules" in error.detail and "auth.rules" not in str(error)


@pytest.mark.parametrize("mode", ["require", "verify"])
def test_tls_is_required_of_the_network_and_not_of_the_unix_socket(mode: str) -> None:
    access = Access(tls=mode)
    assert access.method(UNIX, "shop", "alice") == "trust"
    assert access.method(from_("127.0.0.1", "TLSv1.3"), "shop", "alice") == "trust"
    with pytest.raises(LoginRefusedError, match="no encryption") as caught:
        access.method(from_("127.0.0.1"), "shop", "alice")
    assert mode in caught.value.detail


# --- users ------------------------------------------------------------------------------------------------------------


def test_configured_users_beat_those_of_the_file() -> None:
    users = Users([("alice", ONE.text)], has_file=True)
    users.listed({"alice": TWO, "bob": TWO})
    assert users.find("alice", "shop") == (ONE, True, "")
    assert users.find("bob", "shop") == (TWO, True, "")
    users.listed({})
    assert users.find("bob", "shop")[1:] == (False, "no such user")


def test_unknown_user_has_the_same_verifier_each_time_and_looks_like_the_others() -> None:
    many = make_verifier("x", 9000, b"twelve bytes")
    users = Users([("alice", many.text)])
    mock, known, _ = users.find("nobody", "shop")
    assert not known
    assert users.find("nobody", "shop")[0] == mock
    assert (mock.iterations, len(mock.salt)) == (9000, 12)


def test_without_users_the_role_comes_in_with_its_own_password() -> None:
    passwords = iter(["first", "first", "second", ""])
    users = Users(own=lambda database: OwnLogin("reader", next(passwords)))
    first, known, _ = users.find("reader", "shop")
    assert known and make_verifier("first", first.iterations, first.salt) == first
    assert users.find("reader", "shop")[0] is first  # hashed once
    assert users.find("reader", "shop")[0] != first
    assert users.find("reader", "shop")[1:] == (False, "the read-only role has no password here")


def test_role_of_another_database_is_nobody_here() -> None:
    users = Users(own=lambda database: OwnLogin(f"reader of {database}", f"secret of {database}"))
    verifier, known, _ = users.find("reader of shop", "shop")
    assert known and make_verifier("secret of shop", verifier.iterations, verifier.salt) == verifier
    assert users.find("reader of shop", "payroll")[1:] == (False, "no such user")
    assert users.find("alice", "shop")[1:] == (False, "no such user")
    assert users.find("", "shop")[1:] == (False, "no such user")


@pytest.mark.parametrize("has_file", [True, False])
def test_role_is_no_user_where_users_are_configured(has_file: bool) -> None:
    configured = [] if has_file else [("alice", ONE.text)]
    users = Users(configured, has_file=has_file, own=lambda database: OwnLogin("reader", "x"))
    assert not users.only_role
    assert not users.find("reader", "shop")[1]


def test_cve_2025_2291_expired_password_of_the_role_opens_no_door() -> None:
    refused = False
    users = Users(own=lambda database: OwnLogin("reader", "secret", refused))
    assert users.find("reader", "shop")[1]
    refused = True
    assert users.find("reader", "shop")[1:] == (False, "the server refuses the read-only role's own password")
    refused = False
    assert users.find("reader", "shop")[1]


def test_own_password_is_not_shown() -> None:
    assert "secret" not in repr(OwnLogin("reader", "secret"))


# --- the users file ---------------------------------------------------------------------------------------------------


def test_users_file() -> None:
    text = f'; comment\n\n"alice" "{ONE.text}"\n# comment\n  "b""ob"\t"{TWO.text}"  \n'
    assert read_users_file(text, "users.txt") == {"alice": ONE, 'b"ob': TWO}
    assert read_users_file("", "users.txt") == {}


def test_line_that_is_written_can_be_read() -> None:
    line = users_file_line('a "quoted" name', ONE)
    assert read_users_file(line, "users.txt") == {'a "quoted" name': ONE}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('"bob" "hunter2"', "the second part must be a SCRAM-SHA-256 verifier"),
        ('"bob" "md5hunter2"', "the second part must be a SCRAM-SHA-256 verifier"),
        ('"bob" hunter2', "must be"),
        ("bob hunter2", "must be"),
        ('"bob"', "must be"),
        ('"" "hunter2"', "must be"),
        ('"bob" "hunter2" "more"', "must be"),
        (f'"alice" "{TWO.text}"', "the user stands in line 1 already"),
        (f'"bob" "{TWO.text[:-8]}"', "the second part must be"),
    ],
)
def test_wrong_line_is_named_and_not_shown(line: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_users_file(f'"alice" "{ONE.text}"\n;\n{line}\n', "users.txt")
    text = str(caught.value)
    assert text.startswith("users.txt, line 3: ") and says in text
    assert "hunter2" not in text and TWO.text[30:40] not in text


def test_every_wrong_line_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        read_users_file('x\n"a" "b"\ny\n', "users.txt")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        f"users.txt, line {number}" for number in (1, 2, 3)
    ]


def test_verifier_is_parsed_once_per_load() -> None:
    assert isinstance(Users([("alice", ONE.text)]).find("alice", "shop")[0], Verifier)

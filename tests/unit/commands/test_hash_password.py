"""`sidecart hash-password`: what it prints, and what it never shows."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from proxy.auth.scram import Verifier, make_verifier
from proxy.auth.users import read_users_file
from proxy.commands.hash_password import command


def run(given: bytes | str, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), input=given)


def fits(text: str, password: str) -> bool:
    verifier = Verifier.of(text)
    return make_verifier(password, verifier.iterations, verifier.salt) == verifier


@pytest.mark.parametrize(
    ("given", "password"),
    [
        ("wonderland\n", "wonderland"),
        ("wonderland", "wonderland"),
        ("wonderland\r\n", "wonderland"),
        ("  with spaces \nand more\n", "  with spaces "),
        ("größe\n", "größe"),
        (b"\xff\xfe\n", "\udcff\udcfe"),
    ],
)
def test_verifier_of_the_first_line(given: bytes | str, password: str) -> None:
    done = run(given)
    assert done.exit_code == 0
    assert fits(done.stdout.strip(), password)
    assert done.stdout.count("\n") == 1


def test_line_of_a_users_file() -> None:
    done = run("wonderland\n", 'al"ice')
    [(name, verifier)] = read_users_file(done.stdout, "users.txt").items()
    assert name == 'al"ice'
    assert fits(verifier.text, "wonderland")


def test_each_has_a_salt_of_its_own() -> None:
    assert run("wonderland\n").stdout != run("wonderland\n").stdout


def test_iterations() -> None:
    assert run("wonderland\n", "--iterations", "9999").stdout.startswith("SCRAM-SHA-256$9999:")
    assert run("wonderland\n", "--iterations", "1").exit_code == 2


@pytest.mark.parametrize(("given", "says"), [("", "is empty"), ("\n", "is empty"), ("a\0b\n", "NUL")])
def test_what_is_no_password(given: str, says: str) -> None:
    done = run(given)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr


@pytest.mark.parametrize("user", ["", "two\nlines"])
def test_what_is_no_user(user: str) -> None:
    done = run("wonderland\n", user)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "wonderland" not in done.stderr

"""The look for secrets in what SideCart says finds them."""

from __future__ import annotations

import pytest

from proxy.auth.scram import make_verifier
from tests import secrecy


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrecy, "_SECRETS", set())


def test_password_of_the_environment_is_found_and_not_shown() -> None:
    secrecy.keep_environment({"DB_READONLY_PASSWORD": "correct horse", "DB_HOST": "db.example"})
    secrecy.look(b'{"event":"login","host":"db.example"}', "the log")
    with pytest.raises(AssertionError, match=r"^a secret stands in the log") as caught:
        secrecy.look(b'{"event":"login","why":"correct horse"}', "the log")
    assert "horse" not in str(caught.value)


def test_each_key_of_a_verifier_is_found() -> None:
    verifier = make_verifier("correct horse")
    secrecy.keep_environment({"SIDECART_AUTH_USERS": f"{{alice: {verifier.text}}}"})
    for key in verifier.text.split("$", 2)[2].split(":"):
        with pytest.raises(AssertionError):
            secrecy.look(f"so {key} it is".encode(), "an answer")
    secrecy.look(b"alice", "an answer")

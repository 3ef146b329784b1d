"""The secrets that the tests use, and the look for them in everything that SideCart logs, exports and answers."""

from __future__ import annotations

import re

_SECRETS: set[bytes] = set()
_SHORTEST = 8
"""Shorter ones could stand in a text by chance."""
_SECRET_NAMES = re.compile(r"PASSWORD$|AUTH_USERS$|AWS_SECRET_ACCESS_KEY$|SESSIONS_KEY$")
_VERIFIER = re.compile(r"SCRAM-SHA-256\$\d+:[\w+/=]+\$[\w+/=]+:[\w+/=]+")


def keep(text: str) -> None:
    """Note a secret. Of a text with verifiers the keys count, whatever stands around them."""
    found = [part for verifier in _VERIFIER.findall(text) for part in verifier.split("$", 2)[2].split(":")]
    _SECRETS.update(part.encode("utf-8", "surrogateescape") for part in found or [text] if len(part) >= _SHORTEST)


def keep_environment(environment: dict[str, str]) -> None:
    """Note the secrets that a process is given."""
    for name, value in environment.items():
        if _SECRET_NAMES.search(name):
            keep(value)


def look(data: bytes, where: str) -> None:
    """Fail if a secret stands there. The failure does not show it."""
    assert not any(secret in data for secret in _SECRETS), f"a secret stands in {where}"

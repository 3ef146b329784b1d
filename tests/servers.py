"""Find and run PostgreSQL servers of several major versions: those that `make servers` installs, and this machine's."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer

MAJORS = range(13, 19)
TOO_OLD = 12
"""One that SideCart is not made for, to see that it says so."""

EVERY = ("default", *(pytest.param(major, marks=pytest.mark.deep) for major in MAJORS))
"""Parameters of a fixture that `serving` reads: the fast run takes the one server that all tests share."""

_PROJECT = Path(__file__).resolve().parent.parent


def installed() -> dict[int, Path]:
    """Return the folder of the programs of every server found, by major version.

    Looks into the folders named by SIDECART_TEST_SERVERS (a path list of `bin` folders), then into .servers, which
    `make servers` fills, then into /usr/lib/postgresql; the first one of a version is taken.
    """
    named = [Path(part) for part in os.environ.get("SIDECART_TEST_SERVERS", "").split(os.pathsep) if part]
    places = [(_major(folder), folder) for folder in named]
    wanted = (TOO_OLD, *MAJORS)
    places += [(major, _PROJECT / f".servers/node_modules/pg{major}/native/bin") for major in wanted]
    places += [(major, Path(f"/usr/lib/postgresql/{major}/bin")) for major in wanted]
    found: dict[int, Path] = {}
    for major, folder in places:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            found.setdefault(major, folder)
    return dict(sorted(found.items()))


@contextmanager
def running(
    major: int, *, settings: Mapping[str, str] | None = None, auth: str = "scram-sha-256", plaintext: bool = False
) -> Iterator[EmbeddedServer]:
    """Run a server of a major version, with TLS, on a free port of 127.0.0.1; skip the test where there is none."""
    folder = installed().get(major)
    if folder is None:
        pytest.skip(f"no PostgreSQL {major} was found: `make servers` installs 12 to 18")
    with EmbeddedServer(settings=settings, auth=auth, plaintext=plaintext, bin_dir=folder) as server:
        yield server


@contextmanager
def serving(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """Run the server that a fixture with `params=EVERY` asks for: the shared one, or one of a major version."""
    if request.param == "default":
        yield request.getfixturevalue("postgres")
    else:
        with running(request.param) as server:
            yield server


@contextmanager
def with_shop(request: pytest.FixtureRequest) -> Iterator[tuple[EmbeddedServer, sample.Shop]]:
    """Run the server that `serving` runs, with the sample shop on it."""
    with serving(request) as server:
        yield server, request.getfixturevalue("shop") if request.param == "default" else sample.create(server)


def _major(folder: Path) -> int:
    done = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    assert found, f"{folder / 'postgres'} of SIDECART_TEST_SERVERS does not tell its version"
    return int(found[1])

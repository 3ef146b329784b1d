"""The clients' door before anybody knocks: its certificate."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from proxy.clients.listeners import DAY, Doors
from proxy.config.schema import Listen
from proxy.demo.private_ca import server_certificate
from proxy.errors import ConfigError
from proxy.session.ports import House
from proxy.system.turns import Turns
from proxy.tasks import Tasks
from tests.unit.session.town import Quiet


def said(log: Quiet) -> list[tuple[str, str, int]]:
    return [(event, fields["level"], fields["days_left"]) for event, fields in log.events]


def write(folder: Path, days: int, age: int = 0) -> Listen:
    made = server_certificate(days=days, age=datetime.timedelta(days=age))
    for name, content in (("cert.pem", made.certificate), ("key.pem", made.key)):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    return Listen(tls_cert_file=str(folder / "cert.pem"), tls_key_file=str(folder / "key.pem"))


def made(listen: Listen) -> tuple[Doors, Quiet]:
    log = Quiet()
    return Doors(listen, cast(House, SimpleNamespace(audit=log)), set(), Tasks(), 15.0, cast(Turns, None)), log


def test_certificate_that_ends_is_spoken_of_once_a_day(tmp_path: Path) -> None:
    doors, log = made(write(tmp_path, 30))
    now = time.time()
    assert doors.certificate_ends == pytest.approx(now + 30 * DAY, abs=600)
    for days in (0, 10, 17.1, 17.2, 18.2, 29.9, 30.1, 30.2, 31.2):
        doors.look_at_certificate(now + days * DAY)
    assert said(log) == [
        ("TLS certificate ends soon", "warning", 12),
        ("TLS certificate ends soon", "warning", 11),
        ("TLS certificate ends soon", "warning", 0),
        ("TLS certificate has ended", "error", -1),
        ("TLS certificate has ended", "error", -2),
    ]


def test_certificate_that_had_ended_before_the_start_is_named_and_a_new_one_ends_that(tmp_path: Path) -> None:
    doors, log = made(write(tmp_path, 5, age=9))
    doors.look_at_certificate(time.time())
    assert said(log) == [("TLS certificate has ended", "error", -5)]
    write(tmp_path, 100)
    doors.use_certificate(doors.read_certificate())
    doors.look_at_certificate(time.time())
    assert len(log.events) == 1
    before = doors.certificate_ends
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(ConfigError, match="must belong"):
        doors.use_certificate(doors.read_certificate())
    assert doors.certificate_ends == before


def test_no_certificate_has_no_end() -> None:
    doors, log = made(Listen(tls="off"))
    doors.look_at_certificate(time.time())
    assert (doors.certificate_ends, log.events) == (0.0, [])

"""Files that are read again: when they have changed and settled, and never a second time for the same mistake."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import ConfigError
from proxy.events import Audit
from proxy.system.watch import Watched


class Loads:
    """Count what is loaded, note what is logged, and fail on demand."""

    def __init__(self) -> None:
        self.count = 0
        self.used: list[int] = []
        self.later: list[Coroutine[Any, Any, None]] | None = None
        self.wrong = ""
        self.logged: list[tuple[str, str, object]] = []

    @property
    def ports(self) -> tuple[Callable[[], int], Callable[[int], None], Audit, Callable[[Any, str], None]]:
        return self.read, self.use, self, self.start

    def read(self) -> int:
        self.count += 1
        if self.wrong:
            raise ConfigError(self.wrong)
        return self.count

    def use(self, found: int) -> None:
        self.used.append(found)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        if self.later is None:
            asyncio.run(work)
        else:
            self.later.append(work)

    def event(self, event: str, /, *, level: str = "info", **fields: str | float | bool | None) -> None:
        self.logged.append((event, level, fields.get("why")))


@pytest.fixture
def loads() -> Loads:
    return Loads()


def touch(path: Path, content: str, at: int) -> None:
    path.write_text(content)
    os.utime(path, ns=(at, at))


def test_change_is_loaded_once_and_when_it_has_settled(loads: Loads, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    touch(one, "1", 1)
    touch(two, "2", 1)
    watched = Watched("the pair", (str(one), str(two), ""), *loads.ports)
    watched.look()
    assert loads.count == 0
    touch(one, "1", 2)
    watched.look()
    touch(two, "2", 2)
    watched.look()
    assert loads.count == 0
    watched.look()
    watched.look()
    assert loads.count == 1
    assert loads.logged == [("the pair reloaded", "info", None)]


def test_file_that_takes_anothers_place_is_a_change(loads: Loads, tmp_path: Path) -> None:
    path, fresh = tmp_path / "one", tmp_path / "fresh"
    touch(path, "1", 1)
    touch(fresh, "2", 1)
    watched = Watched("it", (str(path),), *loads.ports)
    fresh.rename(path)
    watched.look()
    watched.look()
    assert loads.count == 1


def test_link_that_leads_elsewhere_is_a_change(loads: Loads, tmp_path: Path) -> None:
    # Kubernetes replaces the files of a secret so.
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        touch(tmp_path / name / "tls.crt", "1", 1)
    (tmp_path / "data").symlink_to("old")
    watched = Watched("it", (str(tmp_path / "data/tls.crt"),), *loads.ports)
    (tmp_path / "data2").symlink_to("new")
    (tmp_path / "data2").rename(tmp_path / "data")
    watched.look()
    watched.look()
    assert loads.count == 1


def test_mistake_is_logged_once_and_mended_by_the_next_change(loads: Loads, tmp_path: Path) -> None:
    path = tmp_path / "one"
    touch(path, "1", 1)
    watched = Watched("it", (str(path),), *loads.ports)
    loads.wrong = "line 3 is wrong"
    path.unlink()
    for _ in range(5):
        watched.look()
    assert loads.logged == [("it not reloaded, the old goes on", "error", "line 3 is wrong")]
    loads.wrong = ""
    touch(path, "2", 2)
    for _ in range(5):
        watched.look()
    assert loads.count == 2
    assert loads.used == [2]
    assert loads.logged[-1] == ("it reloaded", "info", None)


def test_operator_may_ask_at_any_time(loads: Loads, tmp_path: Path) -> None:
    path = tmp_path / "one"
    touch(path, "1", 1)
    watched = Watched("it", (str(path),), *loads.ports)
    watched.now()
    assert loads.count == 1
    touch(path, "2", 2)
    watched.now()
    watched.look()
    watched.look()
    assert loads.count == 2


def test_without_files_there_is_nothing_to_load(loads: Loads) -> None:
    watched = Watched("it", ("", ""), *loads.ports)
    watched.look()
    watched.now()
    assert loads.count == 0 and loads.logged == []


def test_change_while_files_are_read_is_read_next(loads: Loads, tmp_path: Path) -> None:
    path = tmp_path / "one"
    touch(path, "1", 1)
    watched = Watched("it", (str(path),), *loads.ports)
    loads.later = []
    watched.now()
    watched.now()
    touch(path, "2", 2)
    watched.look()
    watched.look()
    assert (len(loads.later), loads.count) == (1, 0)
    asyncio.run(loads.later.pop())
    asyncio.run(loads.later.pop())  # what the operator has asked for meanwhile
    assert loads.later == []
    assert loads.used == [1, 2]
    watched.look()
    assert loads.later == []

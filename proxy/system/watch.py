"""Files that are read again when they change, in a thread: a file of 100,000 users takes seconds to read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from proxy.errors import ConfigError
from proxy.events import Audit

_Stamp = tuple[int, ...] | None
"""Of a file: inode, owner, permissions, size, time of its last change; None where it is not there."""
_State = tuple[_Stamp, ...]


T = TypeVar("T")


class Watched(Generic[T]):
    """Have `read` called when one of the files has changed, what it returns used, and what went wrong logged.

    `read` is called in a thread, and raises ConfigError for what cannot be used: then everything stays as it was. It is
    called once a change has settled: files that belong together are replaced one after the other. `start` starts tasks.
    """

    __slots__ = ("_again", "_audit", "_changing", "_loaded", "_paths", "_read", "_start", "_under_way", "_use", "_what")

    def __init__(
        self,
        what: str,
        paths: tuple[str, ...],
        read: Callable[[], T],
        use: Callable[[T], None],
        audit: Audit,
        start: Callable[[Coroutine[Any, Any, None], str], object],
    ) -> None:
        self._what = what
        self._paths = tuple(path for path in paths if path)
        self._read = read
        self._use = use
        self._audit = audit
        self._start = start
        self._under_way = False
        self._again = False
        self._loaded = self._changing = self._state()

    def look(self) -> None:
        """Load what has changed, if it has not changed again since the last look."""
        state = self._state()
        settled, self._changing = state == self._changing, state
        if state != self._loaded and settled and not self._under_way:
            self._begin()

    def now(self) -> None:
        """Load the files whether they have changed or not: an operator asks for it (SIGHUP)."""
        if self._under_way:
            self._again = True
        elif self._paths:
            self._begin()

    def _begin(self) -> None:
        self._under_way = True
        self._loaded = self._state()
        self._start(self._reload(), f"read {self._what}")

    async def _reload(self) -> None:
        try:
            self._use(await asyncio.to_thread(self._read))
        except ConfigError as error:
            # Not tried again before the next change.
            self._audit.event(f"{self._what} not reloaded, the old goes on", level="error", why=str(error))
        else:
            self._audit.event(f"{self._what} reloaded")
        finally:
            self._under_way = False
        if self._again:
            self._again = False
            self._begin()

    def _state(self) -> _State:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_uid, found.st_mode, found.st_size, found.st_mtime_ns

"""Files that are read again when they change."""

from __future__ import annotations

import os
from collections.abc import Callable

from proxy.errors import ConfigError
from proxy.house import Audit

_Stamp = tuple[int, ...] | None
"""Of a file: inode, owner, permissions, size, time of its last change; None where it is not there."""
_State = tuple[_Stamp, ...]


class Watched:
    """Have `load` called again when one of the files has changed, and what went wrong with it logged.

    `load` raises ConfigError and leaves everything as it was if what it finds cannot be used. It is called once a
    change has settled: files that belong together are replaced one after the other.
    """

    __slots__ = ("_audit", "_changing", "_load", "_loaded", "_paths", "_what")

    def __init__(self, what: str, paths: tuple[str, ...], load: Callable[[], None], audit: Audit) -> None:
        self._what = what
        self._paths = tuple(path for path in paths if path)
        self._load = load
        self._audit = audit
        self._loaded = self._changing = self._state()

    def look(self) -> None:
        """Load what has changed, if it has not changed again since the last look."""
        state = self._state()
        settled, self._changing = state == self._changing, state
        if state != self._loaded and settled:
            self._reload(state)

    def now(self) -> None:
        """Load the files whether they have changed or not: an operator asks for it (SIGHUP)."""
        if self._paths:
            self._reload(self._state())

    def _reload(self, state: _State) -> None:
        self._loaded = state
        try:
            self._load()
        except ConfigError as error:
            # Not tried again before the next change.
            self._audit.event(f"{self._what} not reloaded, the old goes on", level="error", why=str(error))
        else:
            self._audit.event(f"{self._what} reloaded")

    def _state(self) -> _State:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_uid, found.st_mode, found.st_size, found.st_mtime_ns

"""Which variables of the environment other programs get: what any program needs to run, and no secrets.

A list of what is passed on, and not of what is kept back: the environment of a service holds secrets of others under
names that nobody here knows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

_ORDINARY: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    }
)
_ORDINARY_BEGINNINGS: Final = ("LC_", "XDG_")


def small(environ: Mapping[str, str], names: Collection[str] = (), beginnings: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the ordinary variables of an environment, and those with these names or beginnings of names."""
    known = _ORDINARY.union(names)
    begin = (*_ORDINARY_BEGINNINGS, *beginnings)
    return {name: value for name, value in environ.items() if name in known or name.startswith(begin)}

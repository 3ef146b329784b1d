"""Note under which search_paths that sessions have set the bodies of functions are to be proved."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from proxy.sql.catalog import Catalog

MAX_WANTED: Final = 8
"""Search_paths that are noted: those that were asked for last."""


class Wanted:
    """Hold the search_paths, each as its schemas, that statements were refused under for want of proofs."""

    __slots__ = ("_paths", "catalogue")

    def __init__(self) -> None:
        self.catalogue: object = None
        """Stands for the present catalogue, whatever is proved under further paths."""
        self._paths: OrderedDict[tuple[int, ...], None] = OrderedDict()

    def note(self, schemas: tuple[int, ...]) -> None:
        """Want proofs under this path, too; the one that was not asked for for longest may have to go."""
        self._paths[schemas] = None
        self._paths.move_to_end(schemas)
        if len(self._paths) > MAX_WANTED:
            self._paths.popitem(last=False)

    @property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """Return them all."""
        return tuple(self._paths)

    def is_met_by(self, catalog: Catalog | None) -> bool:
        """Tell whether a catalogue has the proofs under all of them: another one would say no more."""
        return catalog is not None and all(each in catalog.cleared_under for each in self._paths)

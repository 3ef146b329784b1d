"""Remember verdicts, least recently used out first, bounded by bytes; all databases share one cache."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from proxy.sql.verdict import Verdict

Came = int | tuple[int, ...]
"""How a text came; see `Key`."""
Scope = int | tuple[object, ...]
"""A number that stands for the database, its catalogue's generation and the policy; with the OIDs of the schemas in a
search_path, where it is not the one that sessions begin with."""
Key = tuple[str | bytes, str, Came, Scope]
"""The text (bytes) or its normal form (str), its encoding, how it came (`filter.VOID_PARSE`; with the types of its
parameters behind it, where a Parse gives any), and the scope."""

ENTRY_BYTES = 700  # on the safe side: 170 to 600 bytes apart from texts, measured with tracemalloc


@dataclass(slots=True)
class Counts:
    """Count what one database's filters have found, in plain integers for the metrics."""

    hits: int = 0
    """Of exact texts."""
    shape_hits: int = 0
    """Of normal forms, of Queries that are known but for their digits, and of texts whose comments differ."""
    misses: int = 0


class VerdictCache:
    """Keep verdicts by key. `size`, `evictions` and `by_names` are for the metrics."""

    __slots__ = ("_limit", "_scopes", "by_names", "entries", "evictions", "size")

    def __init__(self, limit: int = 32 << 20) -> None:
        """Make an empty cache of at most so many bytes."""
        self.entries: OrderedDict[Key, Verdict] = OrderedDict()
        """Read here, in the hot path; written by `remember` alone. A reader moves what it finds to the end."""
        self.size = 0
        self.evictions = 0
        self.by_names: Counter[str] = Counter()
        """Verdicts that were found by all that bears the names of a text, by why: see picked.ByNames."""
        self._limit = limit
        self._scopes = 0

    def __repr__(self) -> str:
        return f"<VerdictCache {len(self.entries)} verdicts, {self.size} bytes>"

    def new_scope(self) -> int:
        """Return a number for keys that no other filter and no earlier catalogue has. Old keys age out."""
        self._scopes += 1
        return self._scopes

    def remember(self, key: Key, verdict: Verdict) -> None:
        """Keep a verdict, and drop the ones that were not used for longest where there is no room."""
        size = _size(key, verdict)
        if size * 8 > self._limit or key in self.entries:
            return  # one text may not push out everything else
        self.entries[key] = verdict
        self.size += size
        while self.size > self._limit:
            old_key, old = self.entries.popitem(last=False)
            self.size -= _size(old_key, old)
            self.evictions += 1


def _size(key: Key, verdict: Verdict) -> int:
    more = (
        len(verdict.message) + len(verdict.detail) + len(verdict.hint) + len(verdict.object) + len(verdict.text or b"")
    )
    more += sum(len(text) for _, text in verdict.prepares)
    more += 0 if isinstance(key[3], int) else 600  # the schemas of a path, of which there are 50 at most
    return ENTRY_BYTES + len(key[0]) + more + 120 * len(verdict.effects)

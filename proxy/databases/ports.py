"""What whoever looks after a database finds around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.databases.helpers.messages import Results
from proxy.events import Audit
from proxy.stats import Stats
from proxy.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Around:
    """Hold what of the process all databases share: what is counted and logged, tasks, and the time.

    `jitter` returns a factor around 1, so that the processes of a fleet do not all do the same at once.
    """

    stats: Stats
    audit: Audit
    tasks: Tasks
    now: Callable[[], float]
    jitter: Callable[[], float]


class Reader(Protocol):
    """A connection of its own for Queries of ours, as `Connector.reader` opens it."""

    async def ask(self, query: bytes) -> Results:
        """Return the rows of each result. Raises UpstreamError; it is of no use after that."""

    def close(self) -> None: ...

"""Have what is read of a database's catalogues proved by a helper process: PL/pgSQL's parser may end it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from proxy.databases.helpers.messages import Failed, Proof, Proved, add, catalog_of, encode, read_piece
from proxy.databases.helpers.supervisor import Helper, HelperLostError
from proxy.errors import SideCartError
from proxy.events import Audit
from proxy.sql.catalog import Catalog
from proxy.sql.policy import Policy
from proxy.sql.resolve import built_in
from proxy.stats import Stats

MAX_CULPRITS: Final = 20
"""Objects that may kill the helper before the proof of their database is given up."""


class ProofError(SideCartError):
    """The catalogue could not be proved: the text says why."""


class Prover:
    """Have the rows of a database proved, one database at a time."""

    def __init__(self, stats: Stats, audit: Audit) -> None:
        self._helper = Helper("proofs", stats)
        self._audit = audit
        self._turn = asyncio.Lock()

    async def prove(self, results: bytes, policy: Policy, paths: tuple[tuple[int, ...], ...] = ()) -> Catalog:
        """Return the catalogue that follows from `encode_results(…)`; an object that kills the helper twice is no read.

        The first time it may have been the kernel's doing, or somebody's. `paths` are as in `prove.prove`. Raises
        ProofError.
        """
        skip: frozenset[int] = frozenset()
        suspect: set[int | None] = set()
        async with self._turn:
            while True:
                try:
                    await self._helper.start()
                    pieces: list[bytes] = []
                    answer = await self._helper.ask(encode(Proof(results, policy, skip, paths)), pieces)
                except HelperLostError as error:
                    self._audit.event("helper lost", level="error", helper="proofs", why=str(error), oid=error.step)
                    if error.step not in suspect and not error.late:
                        suspect.add(error.step)
                        continue
                    if error.step is None or error.step in skip or len(skip) >= MAX_CULPRITS:
                        raise ProofError("the helper process that judges functions was lost") from error
                    skip |= {error.step}
                except OSError as error:
                    raise ProofError("the helper process that judges functions could not be started") from error
                else:
                    if isinstance(answer, Proved):
                        return await whole(answer.catalog, pieces)
                    raise ProofError(answer.why if isinstance(answer, Failed) else "the helper gave a wrong answer")

    async def close(self) -> None:
        await self._helper.close()


async def whole(form: Any, pieces: list[bytes]) -> Catalog:
    """Put a catalogue that comes from the helper together again, and let others run in between; it leaves no pieces.

    Raises ProofError for what is no piece.
    """
    builder = None
    if form.world is not None:
        # Reading the data takes 35 ms, once: the loop gets its turn every few of them.
        builder = await asyncio.to_thread(built_in.builder, form.world)
    pieces.reverse()
    while pieces:
        try:
            piece = read_piece(pieces.pop())
        except msgspec.MsgspecError as error:
            raise ProofError("the helper gave a wrong answer") from error
        add(form, builder, piece)
        await asyncio.sleep(0)
    return catalog_of(form, None if builder is None else builder.world())

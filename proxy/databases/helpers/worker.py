"""Be a helper process: judge texts and prove catalogues, one request after the other, until there are no more.

`python -m proxy.databases.helpers.worker` is the helper; it is of no use by hand.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from proxy.databases.helpers.messages import (
    MEMORY,
    PATIENCE,
    TOO_COMPLEX,
    Answer,
    Failed,
    Judged,
    Learn,
    Piece,
    Proof,
    Proved,
    Results,
    Step,
    Text,
    encode,
    joined,
    pieces_of,
    read_request,
    rest_of,
)
from proxy.filter import Filter
from proxy.sql.cache import VerdictCache
from proxy.sql.policy import Policy
from proxy.sql.verdict import Verdict

NICE: Final = 5
"""How far the helper stands back behind the process that serves clients."""


def main() -> None:
    """Answer requests until there are no more. Runs in the helper process."""
    _confine()
    judge = Filter(Policy(), _cache())
    pieces: list[Piece] = []
    while head := sys.stdin.buffer.read(4):
        request = read_request(sys.stdin.buffer.read(int.from_bytes(head, "big")))
        _set_alarm()
        if isinstance(request, Learn):
            judge = Filter(request.policy, _cache())
            if request.catalog is not None:
                judge.learn_catalog(joined(request.catalog, pieces))
            pieces.clear()
            _set_apart()
        elif isinstance(request, Piece):
            pieces.append(request)
        elif isinstance(request, Text):
            verdict = judge_text(judge, request)
            _answer(sys.stdout.buffer, Judged(TOO_COMPLEX if verdict.message == "out of memory" else verdict))
        else:
            _prove(sys.stdout.buffer, request)
        del request  # before the next one is read: it can be large
        signal.alarm(0)


def judge_text(judge: Filter, request: Text) -> Verdict:
    """Judge one text without a search for cycles: a parse tree has none, and was searched the oftener the longer it is.

    That took 0.09 of 0.2 s for 180 kB of `c.name = c.name`, and grew faster than the length.
    """
    gc.disable()
    try:
        by_path = judge if request.keeps_path and request.schemas == judge.schemas else judge.by(request.schemas)
        return by_path.judge(request.sql, request.encoding, extended=request.extended, types=request.types)
    finally:
        gc.enable()


def _set_apart() -> None:
    """Have a new catalogue searched for cycles once, with what is left of the old one, and then no more."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _cache() -> VerdictCache:
    """Make a cache for the normal forms of texts: exact ones are remembered by the serving process."""
    return VerdictCache(4 << 20)


def _confine() -> None:
    """Stand back: bounded memory, the last in line for the CPU and the first for the kernel's out-of-memory killer.

    Signals of a terminal or an init system go to every process of a group. What they mean is for the serving process to
    decide: this one ends with its input.
    """
    import resource  # absent on Windows, where the serving process has to get along without

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold clients' texts
    os.nice(NICE)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    with contextlib.suppress(OSError, ValueError):  # macOS has neither
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        Path("/proc/self/oom_score_adj").write_text("1000")


def _set_alarm() -> None:
    """End this process if the serving one, which would kill it earlier, is no more. SIGALRM's default action does."""
    signal.alarm(int(2 * PATIENCE))


def _answer(out: BinaryIO, answer: Step | Piece | Answer) -> None:
    data = encode(answer)
    out.write(len(data).to_bytes(4, "big") + data)
    out.flush()


def _prove(out: BinaryIO, request: Proof) -> None:
    # Here and not above: a helper that judges texts needs neither of them.
    from proxy.proofs import prove
    from proxy.proofs import rows as catalog_rows

    def progress(oid: int) -> None:
        _set_alarm()
        _answer(out, Step(oid))

    try:
        rows = catalog_rows.decode(msgspec.msgpack.decode(request.results, type=Results))
        catalog = prove.prove(rows, request.policy, paths=request.paths, skip=request.skip, progress=progress)
    except Exception as error:
        # Where, and not what: the words of an exception can hold a piece of a body.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
        _answer(out, Failed(f"the rows of the system catalogues could not be judged ({where})"))
        return
    for piece in pieces_of(catalog):
        _answer(out, piece)
    _answer(out, Proved(rest_of(catalog)))


if __name__ == "__main__":
    main()

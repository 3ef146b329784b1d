"""Write the audit log: JSON, one line an event, from a thread of its own so that the event loop never waits for it.

Nothing in here is the text of a statement, a constant or a password: `Audit.event` has no argument for them, and fields
that go by such a name are blanked.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Final, TextIO, TypeAlias

from proxy.errors import ConfigError
from proxy.monitor.repeats import Repeats, Value
from proxy.system import files

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

MAX_VALUE_BYTES: Final = 1024
"""A longer text is cut, so that no client can fill the log with one long name."""

MAX_QUEUE: Final = 10_000
"""Records that may wait for the writer. Those beyond it are dropped and counted: a log that nobody reads must not take
the memory of the process, nor its time."""

BATCH: Final = 64
"""Lines a write: one system call for many lines in a flood, and still a short turn of the GIL."""

LOOK_SECONDS: Final = 1.0
"""How long the writer waits for an event before it looks whether a second with repeated ones has ended."""

CLOSE_SECONDS: Final = 5.0
"""How long `close` waits for a stream that does not take what is written."""

BLANKED: Final = frozenset({"sql", "statement", "query", "text", "parameters", "password", "secret", "token"})
"""Names of fields whose value is never written: a guard against a slip in a call, not a feature to rely on."""

_DROPPED: Final = "audit records dropped"

_Record: TypeAlias = tuple[float, str, str, Mapping[str, Value]]


class Audit:
    """Take events from any thread and write them as JSON lines.

    `path` names the file that they go to, at its end, made with mode 0600; without one it is `stream`, or standard
    error. `level` is the lowest that is written: debug, info, warning or error. What repeats itself too often is
    counted instead (`repeats`). Raises ConfigError for a file that cannot be opened, or is no safe place
    (`files.append`).
    The writer is a daemon thread, and threads do not survive a fork: make one Audit in each process, after forking.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_dropped",
        "_lock",
        "_max_queue",
        "_path",
        "_queue",
        "_reopen",
        "_repeats",
        "_reported",
        "_stream",
        "_threshold",
        "_writer",
    )

    def __init__(
        self,
        stream: TextIO | None = None,
        level: str = "info",
        *,
        path: str = "",
        max_queue: int = MAX_QUEUE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if level not in LEVELS:
            raise ValueError(f"log level {level!r} is unknown; use one of {', '.join(LEVELS)}")
        # Looked up now and not in the signature: there it would be the standard error of the moment of import.
        self._stream = sys.stderr if stream is None else stream
        self._path = path
        self._reopen = False
        if path:
            try:
                self._stream = _opened(path)
            except files.FileError as error:
                raise ConfigError(f"log.file {path!r} {error}.") from error
        self._threshold = LEVELS[level]
        self._max_queue = max_queue
        self._clock = clock
        self._lock = threading.Lock()  # of what is counted
        self._repeats = Repeats()
        self._queue: SimpleQueue[_Record | None] = SimpleQueue()
        self._dropped = 0
        self._reported = 0
        self._closed = False
        self._writer = threading.Thread(target=self._run, name="audit", daemon=True)
        self._writer.start()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Audit {state} waiting={self._queue.qsize()} dropped={self._dropped}>"

    @property
    def dropped(self) -> int:
        """Count the records that were not written: the queue was full, the stream failed, or it came after close."""
        return self._dropped

    def event(self, event: str, /, *, level: str = "info", **fields: Value) -> None:
        """Record that `event` happened. Never blocks and never raises.

        `fields` are short facts: names, numbers, SQLSTATE, rule, reason. There is no field for the text of a statement
        or of an error that quotes one, and there must not be: who may read the log may not read the data. Texts are cut
        at 1 kB; `ts`, `level`, `event` and `repeated` are ours and cannot be given.
        """
        if LEVELS.get(level, 40) < self._threshold:
            return
        for name, value in fields.items():
            # Cut here already, roughly, since the bound of the queue's memory is count times size.
            if isinstance(value, str) and len(value) > MAX_VALUE_BYTES:
                fields[name] = value[: MAX_VALUE_BYTES + 1]
            elif not isinstance(value, str | int | float | None):
                fields[name] = _clean(value)
        now = self._clock()
        with self._lock:
            self._tell_repeats(now)
            if not self._closed and not self._repeats.write(now, level, event, fields):
                return
            if self._closed or self._full:
                self._dropped += 1
            else:
                self._queue.put((now, level, event, fields))

    def reopen(self) -> None:
        """Go on in a new file where the old one has been moved away (logrotate). Does nothing without a file."""
        if self._path and not self._closed:
            self._reopen = True
            self._queue.put((self._clock(), "info", "log file opened again", {}))

    def close(self) -> None:
        """Write what waits, then end the writer. A second call does nothing; later events are dropped and counted.

        Gives up after a few seconds if the stream takes nothing, so that a full pipe cannot hold the process.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._put_repeats()
        self._queue.put(None)
        self._writer.join(CLOSE_SECONDS)

    @property
    def _full(self) -> bool:
        return self._queue.qsize() >= self._max_queue

    def _tell_repeats(self, now: float) -> None:
        """Have it written what was counted, if its second is over. Where there is no room, the count goes on."""
        if self._repeats.ended(now) and not self._full:
            self._put_repeats()

    def _put_repeats(self) -> None:
        now = self._clock()
        for level, event, fields in self._repeats.tell():
            self._queue.put((now, level, event, fields))

    # --- the writer's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        going = True
        while going:
            batch: list[_Record] = []
            try:
                # Whoever begins a second has put the event that did: then this waits for no longer than that.
                record = self._queue.get(timeout=LOOK_SECONDS if self._repeats else None)
            except Empty:
                with self._lock:
                    self._tell_repeats(self._clock())
                continue
            while record is not None:
                batch.append(record)
                if len(batch) == BATCH:
                    break
                try:
                    record = self._queue.get_nowait()
                except Empty:
                    break
            going = record is not None
            dropped = self._dropped
            if dropped != self._reported:
                lost: Mapping[str, Value] = {"dropped_total": dropped}
                batch.append((self._clock(), "warning", _DROPPED, lost))
            if self._reopen:
                self._reopen = False
                self._change_file()
            if batch and self._write(batch):
                self._reported = dropped
        if self._path:
            with contextlib.suppress(OSError):
                self._stream.close()

    def _change_file(self) -> None:
        try:
            stream = _opened(self._path)
        except files.FileError as error:
            # The old one takes lines yet, and the reason is one of them.
            why: Mapping[str, Value] = {"why": str(error)}
            self._write([(self._clock(), "error", "log file not opened again", why)])
            return
        with contextlib.suppress(OSError):
            self._stream.close()
        self._stream = stream

    def _write(self, batch: list[_Record]) -> bool:
        try:
            self._stream.write("".join([format_line(*record) for record in batch]))
            self._stream.flush()
        except Exception:
            # A broken pipe, a full disk, a closed stream: there is nowhere to say so but the counter, and the writer
            # has to live on, since a stream may recover (a log agent that restarts).
            self._dropped += sum(_stands_for(event, fields) for _, _, event, fields in batch)
            return False
        return True


def _stands_for(event: str, fields: Mapping[str, Value]) -> int:
    """Return how many events a line tells of."""
    if event == _DROPPED:
        return 0
    repeated = fields.get("repeated", 1)
    return repeated if isinstance(repeated, int) else 1


def _opened(path: str) -> TextIO:
    """Open the log to write at its end."""
    return open(files.append(path), "a", encoding="ascii")


def format_line(at: float, level: str, event: str, fields: Mapping[str, Value]) -> str:
    """Return one JSON line, its newline included, for an event at `at` seconds since the epoch.

    All but printable ASCII is escaped, C1 and DEL too: what a client chose as its name cannot move a terminal's cursor
    nor begin a line of its own.
    """
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record: dict[str, Value] = {"ts": moment, "level": level, "event": _clean(event)}
    for name, value in fields.items():
        record.setdefault(name, "[not logged]" if name in BLANKED else _clean(value))
    return json.dumps(record, ensure_ascii=True, separators=(",", ":")).replace("\x7f", "\\u007f") + "\n"


def _clean(value: Value) -> Value:
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        if len(raw) <= MAX_VALUE_BYTES:
            return value
        return raw[:MAX_VALUE_BYTES].decode("utf-8", "ignore") + "…"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN and no infinity
    if value is None or isinstance(value, (int, float)):
        return value
    # Some other object slipped past the type checker: its text could hold anything, its type's name holds nothing.
    return f"<{type(value).__name__}>"

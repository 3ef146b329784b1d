"""The portals of one lease: what was bound to each, as far as an Execute of it leaves something behind."""

from __future__ import annotations

from copy import copy

from proxy.pooling.sent import NEVER, Groups, Sent
from proxy.pooling.statements import OF_ANOTHER
from proxy.sql.literals import NAMEDATALEN
from proxy.sql.verdict import Verdict


def key(name: bytes) -> bytes:
    """Return what the server looks at of a name (commands/prepare.c, utils/mmgr/portalmem.c)."""
    return name[: NAMEDATALEN - 1]


class Portals:
    """Keep the verdicts by which portals were bound, of those that matter: `find` has the others as None.

    Portals of a statement that gives the rows of another one (`OF_ANOTHER`) are followed closer. Those that were bound
    since anything has run or was closed find what they found at their Bind; those that have run hold their rows. Each
    has the verdict of its Bind, a copy which is told from others by identity: that Bind may have failed.
    """

    __slots__ = (
        "_filled",
        "_found",
        "_groups",
        "_sent",
        "_unrun",
        "bound_in",
        "fresh",
        "path_in_use",
        "unnamed_of",
    )

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self.bound_in = NEVER
        """In which group the unnamed one was bound."""
        self.path_in_use = False
        """One that may be open was judged by the search_path that the session began with."""
        self.unnamed_of: tuple[bytes, int] | None = None
        """Whose the unnamed portal is: the Parse of its statement; in which group it was bound."""
        self.fresh: tuple[bytes, int] | None = None
        """The statement of rows of another one, or its portal, that was just made, and in which group: `S` or `P`, and
        its name. What it has found there cannot have gone yet."""
        # Made when they are needed: hardly a lease needs one. `_found` is as far as the server has answered.
        self._found: dict[bytes, Verdict] | None = None
        self._sent: Sent[bytes, Verdict | None] | None = None
        self._unrun: dict[bytes, Verdict] | None = None
        self._filled: dict[bytes, Verdict] | None = None

    @property
    def settled(self) -> bool:
        """Whether everything that was noted of them has been answered."""
        return self._sent is None or self._sent.settled

    @property
    def any(self) -> bool:
        """Whether one is noted, or may be."""
        return bool(self._found) or not self.settled

    @property
    def held_back(self) -> bool:
        """Whether one of them keeps what comes next from going out without a closer look."""
        return bool(self._found or self._unrun)

    def find(self, name: bytes) -> Verdict | None:
        """Return what was noted of the portal that a message finds under this name. Raises MustWait."""
        known = self._found.get(key(name)) if self._found else None
        return known if self._sent is None else self._sent.find(key(name), known)

    def kinds(self) -> set[str]:
        """Return the kinds of statements of those that the server has."""
        return {verdict.kind for verdict in (self._found or {}).values()}

    # --- sent -----------------------------------------------------------------------------------------------------

    def bind_sent(self, name: bytes, verdict: Verdict, *, noted: bool) -> Verdict | None:
        """Note a Bind; return the verdict to note of it, if any: it goes to `keep` once the server has the portal."""
        self.path_in_use |= verdict.under_path
        if not name:
            self.unnamed_of = None
            self.bound_in = self._groups.sent
        found = verdict if noted else None
        if verdict.kind in OF_ANOTHER:
            found = copy(verdict)
            self.fresh = (b"P" + name, self._groups.sent)
            self._unrun = {**(self._unrun or {}), key(name): found}
        elif verdict.kind == "select":
            self.names_may_change()  # it is planned here: a function that is labelled IMMUTABLE runs then
        return found

    def note(self, name: bytes, verdict: Verdict | None) -> None:
        """Note what a Bind that was sent makes of a portal."""
        if self._sent is None:
            self._sent = Sent(self._groups)
        self._sent.put(key(name), verdict)

    def names_may_change(self, running: bytes | None = None) -> None:
        """Note that what runs something, if a function, or closes it may make another statement or cursor of a name.

        `running` is the portal that runs: it has looked its names up.
        """
        self.fresh = None
        if self._unrun:
            self._unrun = {name: bound for name, bound in self._unrun.items() if name == running}

    def runs(self, name: bytes, verdict: Verdict) -> bool:
        """Note that a portal of rows of another one runs; return whether it finds, or holds, those of its Bind."""
        if all(verdict is not (bound or {}).get(key(name)) for bound in (self._unrun, self._filled)):
            return False
        self._filled = {**(self._filled or {}), key(name): verdict}
        return True

    # --- answered -------------------------------------------------------------------------------------------------

    def keep(self, name: bytes, verdict: Verdict | None) -> None:
        """Note that the server has it."""
        if self._found is None:
            self._found = {}
        if verdict is None:
            self._found.pop(key(name), None)
        else:
            self._found[key(name)] = verdict

    def close_all(self) -> None:
        """Note that the transaction has ended."""
        if self.path_in_use or self._found or self._unrun or self._filled:
            self.path_in_use = False
            self._found = self._unrun = self._filled = None

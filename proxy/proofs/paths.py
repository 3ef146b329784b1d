"""Prove under a search_path what is no read under every one: the names in a body mean one object each then.

A body runs under the search_path of the session, or under its function's own (SET search_path), and so does whatever it
calls. `"$user"` and USAGE go by the role: by the owner, in a function that is SECURITY DEFINER and in what that calls.
So what is proved here is an object in a `State`. What is a read under every path needs no proof. What changes the path
for what comes behind it is no read here, nor is what uses such a thing: nobody knows under which path that would run.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.proofs.taints import Finding, fetching
from proxy.sql import settings
from proxy.sql.catalog import FIRST_NORMAL_OID, FUNCTION, ROLES, TYPE, FunctionRow, Key, Rows, Taint
from proxy.sql.resolve import Resolver
from proxy.sql.resolve.coercion import Coercion
from proxy.sql.resolve.search import with_catalog
from proxy.sql.resolve.world import World
from proxy.sql.verdict import Effect, changes_path

MAX_PATHS = 24
"""Search_paths under which bodies are proved, beside the one that sessions begin with."""
MAX_PROOFS = 4_000
"""Bodies that are proved, each under one path."""
MAX_NODES = 100_000
"""Objects that are looked at, each in one state."""
_OF_SCHEMAS = '"'
"""What the setting of a state begins with of which only the schemas are known: no setting of that form is valid."""
Left = set[tuple[Effect, str]]
Cleared = dict[Key, Left]
"""What is a read under a search_path, and what each leaves behind."""
_OPEN = re.compile(r"\bopen\b", re.IGNORECASE)


class State(NamedTuple):
    """What decides on the effective search_path while something runs."""

    setting: str
    user: int
    """As in UserRow."""


Node = tuple[Key, State]


@dataclass(slots=True)
class _Proved:
    """What is found out about an object in a state."""

    uses: set[Node] = field(default_factory=set)
    leaves: Left = field(default_factory=set)
    is_read: bool = True


class Paths:
    """Prove the objects of one reading. `prove` judges a function under one search_path."""

    def __init__(self, rows: Rows, world: World, prove: Callable[[FunctionRow, Resolver], Finding]) -> None:
        self._functions = {row.oid: row for row in rows.functions}
        self._users = {row.oid: row for row in rows.users}
        self._world = world
        self._coercion = Coercion(world)
        self._prove = prove
        self._begin = self._begins = State(rows.begins_with, 0)
        self._fetching: set[Key] = set()
        self._resolvers: dict[tuple[int, ...], Resolver | None] = {}
        self._bodies: dict[tuple[int, tuple[int, ...]], Finding | None] = {}
        if rows.path:
            self._resolvers[rows.path] = Resolver(world, rows.path, coercion=self._coercion)
        self._paths: dict[State, tuple[int, ...] | None] = {self._begin: rows.path or None}

    def cleared(
        self,
        objects: Mapping[Key, Finding],
        taints: Mapping[Key, Taint],
        left: Mapping[Key, Left],
        schemas: tuple[int, ...] | None = None,
    ) -> dict[Key, Left]:
        """Return what of the tainted is a read in a session's state, and what that leaves behind.

        `schemas` are those of the search_path that the session has set. It takes the names of a setting to say which
        ones the owner of a function finds by it: what is SECURITY DEFINER and sets no path is no read then.
        """
        self._begin = self._begins
        if schemas is not None:
            self._begin = State(_OF_SCHEMAS + repr(schemas), 0)
            self._paths[self._begin] = schemas
        self._fetching = fetching(objects)
        proved = self._look_at_all(objects, taints, left)
        users: defaultdict[Node, list[Node]] = defaultdict(list)
        for node, found in proved.items():
            for used in found.uses:
                users[used].append(node)
        _spoil(proved, users)
        _leave(proved, users)
        return {key: proved[key, self._begin].leaves for key in taints if proved[key, self._begin].is_read}

    def _look_at_all(
        self, objects: Mapping[Key, Finding], taints: Mapping[Key, Taint], left: Mapping[Key, Left]
    ) -> dict[Node, _Proved]:
        """Find out what the tainted objects are by themselves, and all that they use."""
        proved: dict[Node, _Proved] = {}
        waiting: list[Node] = [(key, self._begin) for key in taints]
        while waiting:
            node = waiting.pop()
            if node in proved:
                continue
            if len(proved) >= MAX_NODES:
                proved[node] = _Proved(is_read=False)
                continue
            found = proved[node] = self._look(node, objects, taints, left)
            waiting += found.uses
        return proved

    def _fetches(self, found: Finding, states: Set[State]) -> bool:
        """Tell whether something fetches from cursors under another path than the session's.

        Nobody knows who has opened them, and their queries go on under it.
        """
        used = (*found.uses, *found.carries)
        return states != {self._begin} and (found.fetches or not self._fetching.isdisjoint(used))

    def _look(
        self, node: Node, objects: Mapping[Key, Finding], taints: Mapping[Key, Taint], left: Mapping[Key, Left]
    ) -> _Proved:
        """Find out what an object is by itself in a state, and what it uses there that is no read under every path."""
        key, state = node
        found, states = objects[key], {state}
        if key[0] == FUNCTION and key[1] in self._functions:
            row = self._functions[key[1]]
            if row.language == "plpgsql" and _OPEN.search(row.source):
                return _Proved(is_read=False)  # nobody knows under which path its cursor will be fetched
            inner = self._inside(row, state)
            states.add(inner)
            found = self._found(row, inner, found)
        proved = _Proved(
            leaves=found.leaves | objects[key].leaves, is_read=not found.why and not self._fetches(found, states)
        )
        for used in _used(found, objects):
            if used in taints:
                proved.uses.update((used, each) for each in states)
            elif used in objects:
                proved.leaves |= left.get(used, set())
            elif used[1] >= FIRST_NORMAL_OID:
                proved.is_read = False  # it is not in the catalogue that was read
        proved.is_read = proved.is_read and not any(changes_path(*each) for each in proved.leaves)
        return proved

    def _found(self, row: FunctionRow, state: State, found: Finding) -> Finding:
        """Return what is found of a function in the state that its body runs in; `found`: under any path."""
        return found if found.why and not found.named else self._body(row, state) or found

    @staticmethod
    def _own_path(row: FunctionRow) -> Iterator[str]:
        for setting in row.settings:
            name, _, value = setting.partition("=")
            if settings.fold(name) == "search_path":
                yield value

    def _inside(self, row: FunctionRow, state: State) -> State:
        """Return the state in which the body of a function runs that is called in a state."""
        return State(next(self._own_path(row), state.setting), row.definer or state.user)

    def _body(self, row: FunctionRow, state: State) -> Finding | None:
        """Prove a function by its body in a state; None: it has none that a path has a part in, or that is too much."""
        if row.language not in ("sql", "plpgsql") or not row.source or row.oid not in self._world.functions:
            return None
        path = self._path(state)
        resolver = None if path is None else self._resolver(path)
        if path is None or resolver is None:
            return None
        key = (row.oid, path)
        if key not in self._bodies:
            if len(self._bodies) >= MAX_PROOFS:
                return None
            self._bodies[key] = self._prove(row, resolver)
        return self._bodies[key]

    def _resolver(self, path: tuple[int, ...]) -> Resolver | None:
        if path not in self._resolvers:
            if len(self._resolvers) > MAX_PATHS:
                return None
            self._resolvers[path] = Resolver(self._world, path, coercion=self._coercion)
        return self._resolvers[path]

    def _path(self, state: State) -> tuple[int, ...] | None:
        """Return the effective search_path in a state; None: nobody knows. recomputeNamespacePath(), namespace.c."""
        if state not in self._paths:
            names = settings.split_identifiers(state.setting)
            user = self._users.get(state.user)
            if names is None or user is None:
                self._paths[state] = None
            else:
                schemas = (self._world.schemas.get(user.name if name == "$user" else name, 0) for name in names)
                self._paths[state] = with_catalog([oid for oid in schemas if oid in user.usable])
        return self._paths[state]


def _used(found: Finding, objects: Mapping[Key, Finding]) -> Iterator[Key]:
    """Give what something uses; a role that nobody has judged is the whole type."""
    for kind, oid in (*found.uses, *found.carries):
        yield (TYPE, oid) if kind in ROLES and (kind, oid) not in objects else (kind, oid)


def _spoil(proved: Mapping[Node, _Proved], users: Mapping[Node, Sequence[Node]]) -> None:
    """Have nothing be a read that uses what is none."""
    waiting = [node for node, found in proved.items() if not found.is_read]
    while waiting:
        for user in users.get(waiting.pop(), ()):
            if proved[user].is_read:
                proved[user].is_read = False
                waiting.append(user)


def _leave(proved: Mapping[Node, _Proved], users: Mapping[Node, Sequence[Node]]) -> None:
    """Have everything leave behind what the reads that it uses do."""
    waiting = [node for node, found in proved.items() if found.is_read and found.leaves]
    while waiting:
        node = waiting.pop()
        for user in users.get(node, ()):
            if not proved[node].leaves <= proved[user].leaves:
                proved[user].leaves |= proved[node].leaves
                waiting.append(user)


def leaves(
    left: Mapping[Key, Left], taints: Mapping[Key, Taint], cleared: Iterable[Mapping[Key, Left]]
) -> dict[Key, tuple[tuple[Effect, str], ...]]:
    """Return what each read leaves behind, under whichever of the search_paths it is one that were `cleared`."""
    found = {key: some for key, some in left.items() if key not in taints}
    for each in cleared:
        for key, some in each.items():
            if some:
                found[key] = found.get(key, set()) | some
    return {key: tuple(some) for key, some in found.items()}

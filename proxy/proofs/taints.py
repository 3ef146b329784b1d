"""Let taints spread: from what is no read by itself to everything that uses it. What reads leave behind, too.

An object is tainted when its own text is no read, or when anything that it uses is tainted. That is solved from the
spoilers outwards, so a cycle without a spoiler in it is a read. It is the greatest fixed point, and the right one: "has
no effect" is a safety property. An effect happens at some first step of an execution, and that step stands in the text
of one object that the execution reached through calls; a recursion that never reaches such a text never has one.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.sql.catalog import (
    CAST,
    CAST_TO,
    FIRST_NORMAL_OID,
    FUNCTION,
    LOOKED_UP,
    OPERATOR,
    RELATION,
    ROLES,
    TEXT_SEARCH,
    TYPE,
    Key,
    Taint,
)
from proxy.sql.verdict import Effect


class Place(NamedTuple):
    """Where something stands."""

    text: str
    line: int


NOWHERE = Place("", 0)


@dataclass(slots=True)
class Finding:
    """What is found out about one object: what it uses, and why it is no read by itself."""

    what: str
    name: str
    """What filter.allow_functions takes, with the schema: a cast's is that of its function."""
    uses: dict[Key, Place] = field(default_factory=dict)
    why: str = ""
    place: Place = NOWHERE
    rule: str = ""
    allowed: bool = False
    extension: str = ""
    leaves: set[tuple[Effect, str]] = field(default_factory=set)
    """What it leaves behind in the session by itself."""
    fetches: bool = False
    """Whether it runs by itself what a cursor stands for, which another one may have opened."""
    named: bool = False
    """Whether what the names in its text mean has a part in `why`."""
    lacks: bool = False
    """Whether `why` is that something of such a name is not there."""
    carries: set[Key] = field(default_factory=set)
    """What it uses, where nobody asks whether that is a read."""


_RELATIVE = {"it": "which", "its": "whose"}
_VERBS = {FUNCTION: "calls", RELATION: "reads", TYPE: "uses", OPERATOR: "uses", CAST: "has", CAST_TO: "can need"}
_VERBS |= {TEXT_SEARCH: "leads to", LOOKED_UP: "runs"} | dict.fromkeys(ROLES, "uses")


def using(objects: dict[Key, Finding], used: set[Key]) -> set[Key]:
    """Give what uses one of some objects, by itself or by what it uses, and these."""
    users = _users(objects)
    found = set(used)
    waiting = deque(used)
    while waiting:
        new = [user for user in users[waiting.popleft()] if user not in found]
        found.update(new)
        waiting += new
    return found


def _users(objects: Mapping[Key, Finding]) -> defaultdict[Key, list[Key]]:
    users: defaultdict[Key, list[Key]] = defaultdict(list)
    for key, found in objects.items():
        for used in (*found.uses, *found.carries):
            users[used].append(key)
    return users


def fetching(objects: Mapping[Key, Finding]) -> set[Key]:
    """Give the objects that fetch from cursors, by themselves or by what they use."""
    users = _users(objects)
    found = {key for key, each in objects.items() if each.fetches}
    waiting = deque(found)
    while waiting:
        new = [user for user in users[waiting.popleft()] if user not in found]
        found.update(new)
        waiting += new
    return found


def carried(objects: dict[Key, Finding]) -> dict[Key, set[tuple[Effect, str]]]:
    """Give what each object leaves behind, by itself or by what it uses, for those that leave anything."""
    users = _users(objects)
    leaves = {key: set(found.leaves) for key, found in objects.items() if found.leaves}
    waiting = deque(leaves)
    while waiting:
        key = waiting.popleft()
        for user in users[key]:
            if not leaves[key] <= leaves.get(user, set()):
                leaves[user] = leaves.get(user, set()) | leaves[key]
                waiting.append(user)
    return leaves


def spread(objects: dict[Key, Finding], *, by_role: bool = True) -> tuple[dict[Key, Taint], dict[Key, Key]]:
    """Taint what is spoiled and, along the reversed edges, all that uses it; the nearest reason is the one given.

    The second answer says for an object that is tainted by another one by which. `by_role`: types are judged by role
    where they have to be, and what uses a role that is not there uses a read; else it uses all of the type.
    """
    users = _tainting(objects, by_role=by_role)
    spoiled = _spoiled(objects, users)
    taints = {
        key: Taint(found.what, found.why, found.name, found.rule, key, found.extension, found.lacks)
        for key, found in spoiled.items()
    }
    through: dict[Key, Key] = {}
    waiting = deque((key, key) for key in spoiled)
    while waiting:
        key, root = waiting.popleft()
        subject, _, rest = spoiled[root].why.partition(" ")
        leads = "" if key == root else f"which leads to {spoiled[root].what}, "
        chain = f"{taints[key].what}, {leads}{_RELATIVE[subject]} {rest}"
        for user in users[key]:
            if user not in taints:
                found = objects[user]
                why = f"it {_VERBS[key[0]]} {chain}"
                allow = found.name or taints[root].allow
                first = taints[root]
                taints[user] = Taint(found.what, why, allow, "", root, first.extension, first.lacks)
                through[user] = key
                waiting.append((user, root))
    return {key: taint for key, taint in taints.items() if key in objects}, through


def _tainting(objects: Mapping[Key, Finding], *, by_role: bool) -> defaultdict[Key, list[Key]]:
    """Return who is tainted by whom: the edges of use, reversed."""
    users: defaultdict[Key, list[Key]] = defaultdict(list)
    for key, found in objects.items():
        for used in found.uses:
            if used[0] not in ROLES or used in objects:
                users[used].append(key)
            elif not by_role:
                users[TYPE, used[1]].append(key)
    return users


def _spoiled(objects: Mapping[Key, Finding], users: Mapping[Key, list[Key]]) -> dict[Key, Finding]:
    """Return what is no read by itself, and what is used and was not read."""
    spoiled = {key: found for key, found in objects.items() if found.why}
    for key in users.keys() - objects.keys():
        kind, oid = key
        if kind not in (TYPE, CAST_TO) or oid >= FIRST_NORMAL_OID:  # built-in types have nothing of their own
            spoiled[key] = Finding(f"the {kind} with OID {oid}", "", why="it is not in the catalogue that was read")
    return spoiled

"""Say where the resolver's sets miss what PostgreSQL has picked, and why."""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

from proxy.sql.normal_form import normal_form
from tests.oracle import picked as picking
from tests.oracle.picked import Picked
from tests.oracle.server import Analysed, Complaint


class Use(Protocol):
    """What the resolver says of one place."""

    @property
    def kind(self) -> str: ...

    @property
    def location(self) -> int: ...

    @property
    def oids(self) -> frozenset[int] | None:
        """Return what the server can pick; None: anything."""


class Resolution(Protocol):
    """What the resolver says of one statement."""

    @property
    def uses(self) -> Sequence[Use]: ...

    @property
    def output(self) -> Sequence[tuple[str, int | None]]: ...

    @property
    def parameters(self) -> Sequence[int]: ...


class Rejection(NamedTuple):
    """What the resolver says of a statement that it expects the server to reject."""

    sqlstate: str
    message: str


class Failure(NamedTuple):
    """What the resolver says by raising something that it does not document."""

    where: str
    message: str


class Unmodelled(NamedTuple):
    """What the resolver says of a statement that it does not know how to resolve: no miss, and no precision either."""

    message: str


Answer = Resolution | Rejection | Failure | Unmodelled


class Problem(Enum):
    """What can be wrong with an answer, the worst first."""

    CHOICE = "the resolver has something at this place, but not what the server has picked"
    ABSENT = "the resolver has nothing of this kind at this place, and nowhere the object that the server has picked"
    PLACE = "the resolver has the object, but at other places only"
    REJECTED = "the resolver rejects what the server takes"
    OUTPUT = "the columns of the answer have other names or types"
    PARAMETERS = "the parameters have other types"
    CRASH = "the resolver fails"
    UNMODELLED = "the resolver does not know the form"
    WIDE = "a set has several members, or there is none at all: nothing is wrong, but it is not decided either"
    TAKEN = "the resolver takes what the server rejects"


UNSOUND: Final = frozenset((Problem.CHOICE, Problem.ABSENT, Problem.PLACE, Problem.REJECTED))
"""The problems by which a write could pass, or an honest read be refused as an error."""


class Miss(NamedTuple):
    """One thing that is wrong with the resolver's answer to one statement."""

    problem: Problem
    kind: str
    """Of the object; or the SQLSTATE, or where it failed."""
    location: int
    detail: str
    """In words, with names instead of OIDs."""
    sql: str
    elsewhere: tuple[int, ...] = ()
    """Where the resolver has the object."""


_SAME: Final[Mapping[str, tuple[str, ...]]] = {
    # TABLESAMPLE's handler and the function behind RANGE are called as others are, only later.
    picking.FUNCTION: (picking.FUNCTION, "sample"),
    picking.IN_RANGE: (picking.IN_RANGE, picking.FUNCTION),
    # A literal that is cast is by then a constant of that type.
    picking.CONST: (picking.CONST, "input"),
}
"""Under which of the resolver's kinds an object can be found."""

_TYPES: Final = frozenset((picking.VAR, picking.CONST, picking.PARAM))
"""The kinds that are types by themselves. Without a place they stand for columns that no text names."""
_PLACELESS: Final = frozenset((picking.SORT, picking.GROUP))
_UNKNOWN: Final = 705
"""A literal that keeps this type is read by no input function."""
_OF_VALUES: Final = ("22", "23", "P0", "0A", "54", "XX", "57", "53", "42501")
"""SQLSTATEs, or their classes, of errors by a literal's value, by code that ran, by a limit: no rule about names."""
_OF_NAMES: Final = frozenset(("42P01", "42704", "42883", "3F000", "42601", "42846", "42602"))
"""SQLSTATEs of errors by the value of a literal, if they stand at one: of a regclass, a jsonpath and the like."""
_NAMED: Final = re.compile(
    r'"(?:[^"]|"")*"|\d+|(?<=type )[a-z_ 0-9."\[\](),]+?(?= (?:to|and|cannot|does|as|of|in)\b|$)|\(.*\)'
    r"|(?<=function )\S+|(?<=aggregate )\S+|(?<=types ).* (?=cannot)|\S+(?= is not an? )"
)
"""What a message says about one statement alone."""


@dataclass
class Tally:
    """Count what was compared."""

    statements: int = 0
    taken: int = 0
    """By the server."""
    rejected: int = 0
    """By both."""
    of_values: int = 0
    """Rejected by the server for a literal's value and the like: nothing to compare."""
    single: int = 0
    """Sets with one member."""
    several: int = 0
    anything: int = 0
    precise: int = 0
    """Statements of which every set that decides has one member."""
    forms: set[int] = field(default_factory=set)
    """Of the statements that the server takes, the normal forms, by hash."""
    covered: dict[str, Counter[int]] = field(default_factory=dict)
    """How often each object was picked, by kind."""
    unpicked: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """The names of those that were never picked, by kind and by why."""


class Comparison:
    """Compare answers one by one; keeps count, and every miss. `name` gives the name of an object of a kind."""

    def __init__(self, name: Callable[[str, int], str], kinds: Iterable[str] = picking.DECIDING) -> None:
        self.name = name
        self._kinds = frozenset(kinds)
        self._counted = (self._kinds - _TYPES) | {picking.CONVERSION}
        self.tally = Tally()
        self.misses: list[Miss] = []

    def add(self, sql: bytes, server: Analysed, answer: Answer) -> list[Miss]:
        """Compare the resolver's answer with the server's; return what is wrong with it."""
        text = sql.decode("utf-8", "replace")
        self.tally.statements += 1
        if server.complaint is not None:
            found = self._against_complaint(text, server.complaint, answer)
        elif server.tree is None:
            return []
        else:
            self.tally.taken += 1
            self.tally.forms.add(hash(normal_form(sql) or sql))
            found = self._against_tree(text, server, answer)
        self.misses += found
        return found

    def _against_complaint(self, text: str, complaint: Complaint, answer: Answer) -> list[Miss]:
        if isinstance(answer, Failure):
            return [Miss(Problem.CRASH, answer.where, -1, answer.message, text)]
        if complaint.sqlstate.startswith(_OF_VALUES) or (
            complaint.sqlstate in _OF_NAMES and text[complaint.position - 1 : complaint.position] == "'"
        ):
            self.tally.of_values += 1
            return []
        if isinstance(answer, (Rejection, Unmodelled)):
            self.tally.rejected += 1
            return []
        return [Miss(Problem.TAKEN, complaint.sqlstate, complaint.position, complaint.message, text)]

    def _against_tree(self, text: str, server: Analysed, answer: Answer) -> list[Miss]:
        every = picking.picked(server.tree)
        for each in every:
            if each.kind in self._counted:
                self.tally.covered.setdefault(each.kind, Counter())[each.oid] += 1
        objects = [each for each in every if each.kind in self._kinds]
        if isinstance(answer, Failure):
            return [Miss(Problem.CRASH, answer.where, -1, answer.message, text)]
        if isinstance(answer, Unmodelled):
            return [Miss(Problem.UNMODELLED, "", -1, answer.message, text)]
        if isinstance(answer, Rejection):
            return [Miss(Problem.REJECTED, answer.sqlstate, -1, answer.message, text)]
        wide = self._wide(text, answer)
        found = list(self._objects_missed(text, objects, answer))
        output = picking.output(server.tree)
        if not _agree([oid for _, oid in output], [oid for _, oid in answer.output]) or [
            name for name, _ in output
        ] != [name for name, _ in answer.output]:
            found.append(Miss(Problem.OUTPUT, "", -1, self._columns(output, answer.output), text))
        if not _agree(server.parameters, answer.parameters):
            detail = f"{self._types(server.parameters)}, not {self._types(answer.parameters)}"
            found.append(Miss(Problem.PARAMETERS, "", -1, detail, text))
        return [*found, *wide]

    def _objects_missed(self, text: str, objects: Sequence[Picked], answer: Resolution) -> Iterable[Miss]:
        index = Index(answer.uses)
        seen: set[Picked] = set()
        for each in sorted(objects, key=lambda each: each.location):
            if each in seen:
                continue
            seen.add(each)
            if each.kind in _TYPES and (each.location < 0 or each.oid == _UNKNOWN):
                continue
            if index.has(each):
                continue
            if each.kind in _PLACELESS and index.has(each._replace(location=-1)):
                # The server sorts by an equal column of the output, where there is one, wherever it stands.
                continue
            there = index.at(each.kind, each.location)
            if there:
                problem = Problem.CHOICE
            else:
                problem = Problem.PLACE if index.has(each._replace(location=-1)) else Problem.ABSENT
            others = ", ".join(sorted(self.name(each.kind, oid) for oid in there)) or "nothing"
            detail = f"{self.name(each.kind, each.oid)}, not {others}"
            yield Miss(problem, each.kind, each.location, detail, text, index.places(each.kind, each.oid))

    def _wide(self, text: str, answer: Resolution) -> Iterable[Miss]:
        """Count the sets; yield the first one that is wide."""
        found = []
        for use in answer.uses:
            if use.kind not in self._kinds:
                continue
            if use.oids is None:
                self.tally.anything += 1
                found.append(Miss(Problem.WIDE, use.kind, use.location, "anything", text))
            elif len(use.oids) == 1:
                self.tally.single += 1
            else:
                self.tally.several += 1
                members = ", ".join(sorted(self.name(use.kind, oid) for oid in use.oids))
                found.append(Miss(Problem.WIDE, use.kind, use.location, members, text))
        self.tally.precise += not found
        return found[:1]

    def _columns(self, ours: Sequence[tuple[str, int | None]], theirs: Sequence[tuple[str, int | None]]) -> str:
        if len(ours) != len(theirs):
            return f"{len(ours)} columns, not {len(theirs)}"
        for (name, oid), (other, other_oid) in zip(ours, theirs, strict=True):
            if name != other:
                return f"a column named {name}, not {other}"
            if not _agree([oid], [other_oid]):
                return f"a column of type {self._types([oid])}, not {self._types([other_oid])}"
        return ""

    def _types(self, found: Sequence[int | None]) -> str:
        return "(" + ", ".join("?" if oid is None else self.name(picking.CONST, oid) for oid in found) + ")"


class Index:
    """Find the resolver's sets by kind and place."""

    def __init__(self, uses: Iterable[Use]) -> None:
        self._at: dict[tuple[str, int], set[int] | None] = {}
        self._anywhere: dict[str, set[int] | None] = {}
        for use in uses:
            _join(self._at, (use.kind, use.location), use.oids)
            _join(self._anywhere, use.kind, use.oids)

    def has(self, each: Picked) -> bool:
        """Say whether an object is in a set of its kind at its place; at no place, where either side tells none."""
        for kind in _SAME.get(each.kind, (each.kind,)):
            places = [self._at.get((kind, each.location), ()), self._at.get((kind, -1), ())]
            if each.location < 0:
                places = [self._anywhere.get(kind, ())]
            if any(place is None or each.oid in place for place in places):
                return True
        return False

    def at(self, kind: str, location: int) -> set[int]:
        """Return what there is of a kind at a place."""
        if location < 0:
            return set()
        return set().union(*(self._at.get((same, location)) or () for same in _SAME.get(kind, (kind,))))

    def places(self, kind: str, oid: int) -> tuple[int, ...]:
        """Return where an object is."""
        kinds = _SAME.get(kind, (kind,))
        return tuple(sorted({at for (same, at), oids in self._at.items() if same in kinds and oids and oid in oids}))


def guarded(resolve: Callable[[], Resolution], rejected: type[Exception], unmodelled: type[Exception]) -> Answer:
    """Return what the resolver says, its exceptions among it."""
    try:
        return resolve()
    except rejected as error:
        return Rejection(getattr(error, "sqlstate", ""), str(error))
    except unmodelled as error:
        return Unmodelled(str(error))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {type(error).__name__}"
        return Failure(where, str(error)[:200])


class Cause(NamedTuple):
    """Misses that have the same cause, as far as their words tell."""

    problem: Problem
    kind: str
    count: int
    smallest: Miss
    details: list[tuple[str, int]]
    """The most frequent ones, as they are."""


def by_cause(misses: Iterable[Miss]) -> list[Cause]:
    """Group misses, the most frequent cause first. Of each statement the first counts: the others follow from it."""
    groups: dict[tuple[Problem, str, str], list[Miss]] = {}
    first: set[str] = set()
    for miss in misses:
        if miss.sql in first:
            continue
        first.add(miss.sql)
        words = "" if miss.problem in _ONE_CAUSE else _NAMED.sub("…", miss.detail)
        groups.setdefault((miss.problem, miss.kind, words), []).append(miss)
    causes = [
        Cause(problem, kind, len(each), min(each, key=lambda miss: len(miss.sql)), _frequent(each))
        for (problem, kind, _), each in groups.items()
    ]
    return sorted(causes, key=lambda cause: (_LAST.get(cause.problem, 0), -cause.count))


_ONE_CAUSE: Final = frozenset((Problem.CHOICE, Problem.ABSENT, Problem.PLACE, Problem.WIDE))
"""Problems of which the details tell objects only."""
_LAST: Final = {Problem.UNMODELLED: 1, Problem.WIDE: 2, Problem.TAKEN: 3}


def _frequent(misses: Sequence[Miss]) -> list[tuple[str, int]]:
    return Counter(miss.detail for miss in misses).most_common(5)


def _agree(ours: Sequence[int | None], theirs: Sequence[int | None]) -> bool:
    """Say whether types are the same, as far as both sides know them: None and what is no OID are not known."""
    if len(ours) != len(theirs):
        return False
    return all(a is None or b is None or b < 0 or a == b for a, b in zip(ours, theirs, strict=True))


def _join(sets: dict[Any, set[int] | None], key: object, oids: frozenset[int] | None) -> None:
    before = sets.get(key, set())
    sets[key] = None if before is None or oids is None else before | oids
